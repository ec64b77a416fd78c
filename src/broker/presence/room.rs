//! One subject of presence: the members of a topic, or whether an id is online. Pure state; time is an argument.
//!
//! | file | contents |
//! | --- | --- |
//! | `room` | members of this broker, and watchers |
//! | `remote` | members at other brokers, and updates for these |
//! | `frames` | the frames for watchers |
//!
//! Changes are collected and told at most once per interval, so that a watcher gets few frames however many members
//! come and go, and one that leaves and returns in between is not mentioned.

mod frames;
mod remote;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;
use ring::digest::{SHA256, digest};

use super::PeerId;
use crate::broker::handle::Handle;
pub(super) use frames::Frames;
pub(crate) use remote::{Addressed, Needs, Update};
use remote::{Interested, Remote};

/// Minimum time between two frames about one subject.
pub(super) const INTERVAL: Duration = Duration::from_millis(250);
/// Bytes charged for a room, a member, a watcher, and a change that is still to be sent, without their texts.
const ROOM: usize = 640;
const MEMBER: usize = 128;
const WATCHER: usize = 64;
const CHANGE: usize = 96;

/// The information of a member, as JSON text.
pub(super) type Info = Arc<str>;
type Map<K, V> = HashMap<K, V, RandomState>;

/// A member that is connected to this broker.
#[derive(Debug)]
struct Member {
    info: Info,
    /// The key of its connection.
    key: u64,
    hash: u64,
    /// When it counts as having left, if its connection was lost.
    leaves: Option<Instant>,
}

/// A connection that watches.
#[derive(Debug)]
struct Watcher {
    handle: Arc<Handle>,
    /// True once it has got the whole state, and all changes since.
    is_current: bool,
}

#[derive(Debug)]
pub(super) struct Room {
    pub(super) subject: Arc<str>,
    own: Map<Arc<str>, Member>,
    pub(super) remote: Map<PeerId, Remote>,
    watchers: Map<u64, Watcher>,
    /// The former state of members, as watchers know it, that have changed since.
    told: Map<Arc<str>, Option<Info>>,
    /// The number of members that watchers know.
    told_count: usize,
    /// Watchers know the members by name.
    has_names: bool,
    last_told: Option<Instant>,
    /// When it is to be flushed.
    pub(super) due: Option<Instant>,
    /// Members whose connections were lost, by the time at which they have left.
    leaving: VecDeque<(Instant, Arc<str>)>,
    interested: Vec<Interested>,
    /// Members that have changed since other brokers got them.
    unsent: HashSet<Arc<str>, RandomState>,
    /// Other brokers know the members by name.
    peers_have_names: bool,
    /// XOR of the hashes of `own`.
    digest: u64,
    /// Bytes of members, and of changes.
    bytes: usize,
    told_bytes: usize,
}

/// A number that is equal at all brokers.
fn hash(subject: &str, id: &str, info: &str) -> u64 {
    let lengths = [subject.len() as u64, id.len() as u64].map(u64::to_be_bytes);
    let text = [
        &lengths.concat(),
        subject.as_bytes(),
        id.as_bytes(),
        info.as_bytes(),
    ];
    let digest = digest(&SHA256, &text.concat());
    let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(first)
}

fn size(id: &str, info: &str) -> usize {
    MEMBER + id.len() + info.len()
}

impl Room {
    pub(super) fn new(subject: Arc<str>) -> Self {
        Self {
            subject,
            own: Map::default(),
            remote: Map::default(),
            watchers: Map::default(),
            told: Map::default(),
            told_count: 0,
            has_names: true,
            last_told: None,
            due: None,
            leaving: VecDeque::new(),
            interested: Vec::new(),
            unsent: HashSet::default(),
            peers_have_names: true,
            digest: 0,
            bytes: 0,
            told_bytes: 0,
        }
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        ROOM + self.subject.len()
            + self.bytes
            + self.told_bytes
            + self.watchers.len() * WATCHER
            + self.unsent.len() * CHANGE
    }

    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.watchers.is_empty() && self.interested.is_empty()
    }

    /// Number of members of a topic that are connected here.
    pub(super) fn own_count(&self) -> usize {
        match self.subject.starts_with('$') {
            true => 0,
            false => self.own.len(),
        }
    }

    /// The information of an id, if it is a member. Of several brokers, that of the own one.
    fn info(&self, id: &str) -> Option<&Info> {
        let own = self.own.get(id).map(|member| &member.info);
        let remote = || self.remote.values().find_map(|one| one.members.get(id));
        own.or_else(remote)
    }

    /// Remembers what watchers know of an id, before it changes.
    fn will_change(&mut self, id: &Arc<str>) {
        if self.watchers.is_empty() || self.told.contains_key(id) {
            return;
        }
        let known = self.info(id).cloned();
        self.told_bytes += CHANGE + id.len();
        self.told.insert(id.clone(), known);
    }

    /// The time from which changes may be sent.
    pub(super) fn next_flush(&self, now: Instant) -> Instant {
        let next = self.last_told.map(|told| told + INTERVAL);
        next.map_or(now, |next| next.max(now))
    }

    /// Adds a member, or changes it. True if watchers have to get it.
    pub(super) fn join(&mut self, id: &Arc<str>, info: &Info, key: u64) -> bool {
        if let Some(member) = self.own.get_mut(id)
            && member.info == *info
        {
            (member.key, member.leaves) = (key, None);
            return false;
        }
        self.will_change(id);
        let hash = hash(&self.subject, id, info);
        let (info, leaves) = (info.clone(), None);
        self.bytes += size(id, &info);
        self.digest ^= hash;
        let member = Member {
            info,
            key,
            hash,
            leaves,
        };
        if let Some(former) = self.own.insert(id.clone(), member) {
            self.bytes -= size(id, &former.info);
            self.digest ^= former.hash;
        }
        self.unsend(id);
        true
    }

    /// Remembers a change for other brokers.
    fn unsend(&mut self, id: &Arc<str>) {
        if !self.interested.is_empty() {
            self.unsent.insert(id.clone());
        }
    }

    /// Ends the membership of a connection; at a later time if `leaves` is given. True if watchers have to get it now.
    pub(super) fn leave(&mut self, id: &Arc<str>, key: u64, leaves: Option<Instant>) -> bool {
        let Some(member) = self.own.get_mut(id).filter(|member| member.key == key) else {
            return false;
        };
        if let Some(at) = leaves {
            if member.leaves.is_none() {
                member.leaves = leaves;
                self.leaving.push_back((at, id.clone()));
            }
            return false;
        }
        self.remove(id);
        true
    }

    fn remove(&mut self, id: &Arc<str>) {
        self.will_change(id);
        if let Some(former) = self.own.remove(id) {
            self.bytes -= size(id, &former.info);
            self.digest ^= former.hash;
        }
        self.unsend(id);
    }

    /// Removes the members whose time has come.
    fn expire(&mut self, now: Instant) {
        while let Some((at, id)) = self.leaving.front()
            && *at <= now
        {
            let (at, id) = (*at, id.clone());
            self.leaving.pop_front();
            if self.own.get(&id).is_some_and(|one| one.leaves == Some(at)) {
                self.remove(&id);
            }
        }
    }

    /// True if other brokers have to get something.
    pub(super) fn has_unsent(&self) -> bool {
        !self.interested.is_empty()
            && (!self.unsent.is_empty()
                || self.interested.iter().any(|one| one.needs > Needs::Changes))
    }

    /// Adds a watcher, or gives it the whole state again.
    pub(super) fn watch(&mut self, handle: &Arc<Handle>) {
        let (handle, is_current) = (handle.clone(), false);
        let watcher = Watcher { handle, is_current };
        self.watchers.insert(watcher.handle.key, watcher);
    }

    /// Removes a watcher. If it was the last one, members at other brokers are forgotten: returns their digests.
    pub(super) fn unwatch(&mut self, key: u64) -> Option<Vec<(PeerId, u64)>> {
        self.watchers.remove(&key)?;
        if self.is_watched() {
            return None;
        }
        let peers: Vec<_> = self.remote.keys().copied().collect();
        let digests = peers
            .into_iter()
            .map(|peer| (peer, self.forget_remote(peer)));
        let digests = digests.collect();
        self.told.clear();
        self.told_bytes = 0;
        Some(digests)
    }

    pub(super) fn is_watched(&self) -> bool {
        !self.watchers.is_empty()
    }
}

//! One subject of presence: the members of a topic, or whether an id is online. Pure state; time is an argument.
//!
//! Changes are collected and told at most once per interval, so that a watcher gets few frames however many members
//! come and go, and one that leaves and returns in between is not mentioned.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;
use ring::digest::{SHA256, digest};

use super::PeerId;
use crate::{broker::handle::Handle, protocol};

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

/// The members at another broker.
#[derive(Debug, Default)]
pub(super) struct Remote {
    members: Map<Arc<str>, Info>,
    /// Their number, if there are too many to be named.
    count: Option<u32>,
    /// Summary of all of this, equal to that at the other broker.
    pub(super) digest: u64,
}

/// A connection that watches.
#[derive(Debug)]
struct Watcher {
    handle: Arc<Handle>,
    /// True once it has got the whole state, and all changes since.
    is_current: bool,
}

/// Another broker that has watchers.
#[derive(Debug)]
struct Interested {
    peer: PeerId,
    needs: Needs,
}

/// The state that another broker has to get besides changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Needs {
    Changes,
    /// All members, if there are any.
    Members,
    /// All members, even if there are none: it may know others.
    State,
}

/// Members of this broker, for others.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) subject: Arc<str>,
    /// The members are all, not only new ones.
    pub(crate) is_all: bool,
    pub(crate) members: Vec<(Arc<str>, Arc<str>)>,
    pub(crate) left: Vec<Arc<str>>,
    /// The number of members, if there are too many to be named.
    pub(crate) count: Option<u32>,
}

/// An update with its receivers.
pub(crate) type Addressed = (Vec<PeerId>, Update);

/// The frames of a flush.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Frames about topics, in order. One text may be for many.
    pub(super) topics: Vec<(Arc<str>, Vec<Arc<Handle>>)>,
    /// Changes of ids, by the keys of connections.
    pub(super) ids: Map<u64, IdChanges>,
}

/// Ids, as JSON text, for one watcher.
#[derive(Debug)]
pub(super) struct IdChanges {
    pub(super) handle: Arc<Handle>,
    pub(super) online: Vec<String>,
    pub(super) offline: Vec<String>,
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

fn hash_of_count(subject: &str, count: u32) -> u64 {
    hash(subject, "", &count.to_string())
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

    /// Forgets what is known from another broker. Returns its digest.
    pub(super) fn forget_remote(&mut self, peer: PeerId) -> u64 {
        let Some(remote) = self.remote.get(&peer) else {
            return 0;
        };
        let ids: Vec<_> = remote.members.keys().cloned().collect();
        ids.iter().for_each(|id| self.will_change(id));
        let remote = self.remote.remove(&peer).unwrap_or_default();
        for (id, info) in &remote.members {
            self.bytes -= size(id, info);
        }
        remote.digest
    }

    /// Applies what another broker says of its members. Returns the change of its digest, as XOR.
    pub(super) fn apply(&mut self, peer: PeerId, update: &Update) -> u64 {
        let mut change = 0;
        if update.is_all || update.count.is_some() {
            change ^= self.forget_remote(peer);
        }
        if let Some(count) = update.count {
            let digest = hash_of_count(&self.subject, count);
            let remote = self.remote.entry(peer).or_default();
            (remote.count, remote.digest) = (Some(count), digest);
            return change ^ digest;
        }
        for (id, info) in &update.members {
            change ^= self.set_remote(peer, id, Some(info));
        }
        for id in &update.left {
            change ^= self.set_remote(peer, id, None);
        }
        change
    }

    fn set_remote(&mut self, peer: PeerId, id: &Arc<str>, info: Option<&Info>) -> u64 {
        self.will_change(id);
        let remote = self.remote.entry(peer).or_default();
        let former = match info {
            Some(info) => remote.members.insert(id.clone(), info.clone()),
            None => remote.members.remove(id),
        };
        let mut change = 0;
        if let Some(former) = former {
            self.bytes -= size(id, &former);
            change ^= hash(&self.subject, id, &former);
        }
        if let Some(info) = info {
            self.bytes += size(id, info);
            change ^= hash(&self.subject, id, info);
        }
        remote.digest ^= change;
        change
    }

    /// Records that another broker has watchers. True if that is new.
    pub(super) fn want(&mut self, peer: PeerId, needs: Needs) -> bool {
        let known = self.interested.iter_mut().find(|one| one.peer == peer);
        let is_new = known.is_none();
        match known {
            Some(known) => known.needs = known.needs.max(needs),
            None => self.interested.push(Interested { peer, needs }),
        }
        is_new
    }

    /// Records that another broker has no watchers. False if that was known.
    pub(super) fn unwant(&mut self, peer: PeerId) -> bool {
        let before = self.interested.len();
        self.interested.retain(|one| one.peer != peer);
        if self.interested.is_empty() {
            self.unsent.clear();
        }
        self.interested.len() < before
    }

    /// The digest that other brokers should have for the members here. `max`: see [`take_updates`](Self::take_updates).
    pub(super) fn digest(&self) -> u64 {
        match self.peers_have_names {
            true => self.digest,
            false => hash_of_count(&self.subject, self.own.len() as u32),
        }
    }

    /// Takes the changes for other brokers, each with its receivers. `max`: number of members that are named.
    pub(super) fn take_updates(&mut self, max: usize, out: &mut Vec<Addressed>) {
        let had_names = self.peers_have_names;
        self.peers_have_names = self.own.len() <= max;
        let unsent = std::mem::take(&mut self.unsent);
        let has_names = self.peers_have_names;
        let changes_all = had_names != has_names || !has_names && !unsent.is_empty();
        let (mut for_all, mut for_changes) = (Vec::new(), Vec::new());
        for one in &mut self.interested {
            let needs = std::mem::replace(&mut one.needs, Needs::Changes);
            let gets_all = match needs {
                Needs::State => true,
                Needs::Members => !self.own.is_empty(),
                Needs::Changes => changes_all,
            };
            match gets_all {
                true => for_all.push(one.peer),
                false => for_changes.push(one.peer),
            }
        }
        let update = || Update {
            subject: self.subject.clone(),
            is_all: false,
            members: Vec::new(),
            left: Vec::new(),
            count: None,
        };
        if !for_all.is_empty() {
            let update = match has_names {
                true => Update {
                    is_all: true,
                    members: (self.own.iter())
                        .map(|(id, member)| (id.clone(), member.info.clone()))
                        .collect(),
                    ..update()
                },
                false => Update {
                    count: Some(self.own.len() as u32),
                    ..update()
                },
            };
            out.push((for_all, update));
        }
        if !for_changes.is_empty() && !unsent.is_empty() && has_names {
            let mut update = update();
            for id in unsent {
                match self.own.get(&id) {
                    Some(member) => update.members.push((id, member.info.clone())),
                    None => update.left.push(id),
                }
            }
            out.push((for_changes, update));
        }
    }

    /// Number of members, and whether each is known by name. `max`: number of members that are named.
    fn count(&self, max: usize) -> (usize, bool) {
        let has_counts = self.remote.values().any(|one| one.count.is_some());
        if has_counts || self.own.len() > max {
            let remote = self.remote.values();
            let remote =
                remote.map(|one| one.count.map_or(one.members.len(), |count| count as usize));
            return (self.own.len() + remote.sum::<usize>(), false);
        }
        let mut count = 0;
        self.each(|_, _| count += 1);
        // Names return only once there are clearly fewer.
        let max = if self.has_names { max } else { max / 4 * 3 };
        (count, count <= max)
    }

    /// Calls a function with each member, once.
    fn each<'a>(&'a self, mut call: impl FnMut(&'a str, &'a str)) {
        for (id, member) in &self.own {
            call(id, &member.info);
        }
        let remotes: Vec<_> = self.remote.values().collect();
        for (place, remote) in remotes.iter().enumerate() {
            for (id, info) in &remote.members {
                let is_known = self.own.contains_key(id)
                    || remotes[..place]
                        .iter()
                        .any(|one| one.members.contains_key(id));
                if !is_known {
                    call(id, info);
                }
            }
        }
    }

    /// Tells the watchers what has changed. `max`: number of members that are named. Returns when to call it again.
    pub(super) fn flush(&mut self, now: Instant, max: usize, out: &mut Frames) -> Option<Instant> {
        self.expire(now);
        let leaving = |room: &Self| room.leaving.front().map(|(at, _)| *at);
        if !self.is_watched() {
            return leaving(self);
        }
        let next = self.next_flush(now);
        if next > now {
            return Some(next);
        }
        let told = std::mem::take(&mut self.told);
        self.told_bytes = 0;
        self.last_told = Some(now);
        match self.subject.strip_prefix('$').map(str::to_owned) {
            Some(id) => self.tell_id(&id, &told, out),
            None => self.tell_members(max, &told, out),
        }
        let is_stale = self.watchers.values().any(|one| !one.is_current);
        let retry = is_stale.then_some(now + INTERVAL);
        retry.into_iter().chain(leaving(self)).min()
    }

    fn tell_members(&mut self, max: usize, told: &Map<Arc<str>, Option<Info>>, out: &mut Frames) {
        let (count, has_names) = self.count(max);
        let topic = protocol::json_string(&self.subject);
        let had_names = std::mem::replace(&mut self.has_names, has_names);
        let changes = match (had_names, has_names) {
            (true, true) => self.changes(told),
            (false, false) if count != self.told_count => Some(String::new()),
            (false, false) => None,
            // Names begin or end: all get the whole state.
            _ => {
                self.watchers
                    .values_mut()
                    .for_each(|one| one.is_current = false);
                None
            }
        };
        self.told_count = count;
        let (mut fresh, mut current) = (Vec::new(), Vec::new());
        for one in self.watchers.values_mut() {
            if one.is_current && changes.is_none() {
                continue;
            }
            if one.handle.outbox.is_full() {
                one.is_current = false;
                continue;
            }
            match one.is_current {
                true => current.push(one.handle.clone()),
                false => fresh.push(one.handle.clone()),
            }
            one.is_current = true;
        }
        let number = count.to_string();
        if let Some(changes) = changes
            && !current.is_empty()
        {
            let frame = protocol::version_2::presence(&topic, &number, &changes);
            out.topics.push((frame.into(), current));
        }
        if !fresh.is_empty() {
            let mut members = String::new();
            if has_names {
                members.push_str(",\"members\":{");
                let mut separator = "";
                self.each(|id, info| {
                    let id = protocol::json_string(id);
                    members.extend([separator, &id, ":", info]);
                    separator = ",";
                });
                members.push('}');
            }
            let frame = protocol::version_2::presence(&topic, &number, &members);
            out.topics.push((frame.into(), fresh));
        }
    }

    /// The members `joined` and `left` of a frame; none if nothing has changed.
    fn changes(&self, told: &Map<Arc<str>, Option<Info>>) -> Option<String> {
        let (mut joined, mut left) = (Vec::new(), Vec::new());
        for (id, before) in told {
            let now = self.info(id);
            if now == before.as_ref() {
                continue;
            }
            let id = protocol::json_string(id);
            match now {
                Some(info) => joined.push([&id, ":", &**info].concat()),
                None => left.push(id),
            }
        }
        if joined.is_empty() && left.is_empty() {
            return None;
        }
        let (joined, left) = (joined.join(","), left.join(","));
        Some([",\"joined\":{", &joined, "},\"left\":[", &left, "]"].concat())
    }

    fn tell_id(&mut self, id: &str, told: &Map<Arc<str>, Option<Info>>, out: &mut Frames) {
        let is_online = self.info(id).is_some();
        let before = told.get(id).map(Option::is_some);
        let has_changed = before.is_some_and(|before| before != is_online);
        let text = protocol::json_string(id);
        for one in self.watchers.values_mut() {
            if one.is_current && !has_changed {
                continue;
            }
            one.is_current = !one.handle.outbox.is_full();
            if one.is_current {
                let changes = (out.ids.entry(one.handle.key)).or_insert_with(|| IdChanges {
                    handle: one.handle.clone(),
                    online: Vec::new(),
                    offline: Vec::new(),
                });
                match is_online {
                    true => changes.online.push(text.clone()),
                    false => changes.offline.push(text.clone()),
                }
            }
        }
    }
}

//! The members at other brokers, and the updates for brokers that have watchers.

use std::sync::Arc;

use super::{Info, Map, Room, hash, size};
use crate::broker::presence::PeerId;

/// The members at another broker.
#[derive(Debug, Default)]
pub(in crate::broker::presence) struct Remote {
    pub(super) members: Map<Arc<str>, Info>,
    /// Their number, if there are too many to be named.
    pub(super) count: Option<u32>,
    /// Summary of all of this, equal to that at the other broker.
    pub(super) digest: u64,
}

/// Another broker that has watchers.
#[derive(Debug)]
pub(super) struct Interested {
    peer: PeerId,
    pub(super) needs: Needs,
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

fn hash_of_count(subject: &str, count: u32) -> u64 {
    hash(subject, "", &count.to_string())
}

impl Room {
    /// Forgets what is known from another broker. Returns its digest.
    pub(in crate::broker::presence) fn forget_remote(&mut self, peer: PeerId) -> u64 {
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
    pub(in crate::broker::presence) fn apply(&mut self, peer: PeerId, update: &Update) -> u64 {
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
    pub(in crate::broker::presence) fn want(&mut self, peer: PeerId, needs: Needs) -> bool {
        let known = self.interested.iter_mut().find(|one| one.peer == peer);
        let is_new = known.is_none();
        match known {
            Some(known) => known.needs = known.needs.max(needs),
            None => self.interested.push(Interested { peer, needs }),
        }
        is_new
    }

    /// Records that another broker has no watchers. False if that was known.
    pub(in crate::broker::presence) fn unwant(&mut self, peer: PeerId) -> bool {
        let before = self.interested.len();
        self.interested.retain(|one| one.peer != peer);
        if self.interested.is_empty() {
            self.unsent.clear();
        }
        self.interested.len() < before
    }

    /// The digest that other brokers should have for the members here. `max`: see [`take_updates`](Self::take_updates).
    pub(in crate::broker::presence) fn digest(&self) -> u64 {
        match self.peers_have_names {
            true => self.digest,
            false => hash_of_count(&self.subject, self.own.len() as u32),
        }
    }

    /// Takes the changes for other brokers, each with its receivers. `max`: number of members that are named.
    pub(in crate::broker::presence) fn take_updates(
        &mut self,
        max: usize,
        out: &mut Vec<Addressed>,
    ) {
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
}

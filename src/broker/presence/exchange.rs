//! Members for other brokers, which tell them to their watchers, and the members at other brokers.

use std::{collections::HashSet, sync::Arc, time::Instant};

use foldhash::quality::RandomState;

use super::{Addressed, Needs, PeerId, Presence, Room, Rooms, Then, Update};
use crate::broker::registry::Registry;

impl Presence {
    /// Records that another broker watches a subject.
    pub(crate) fn want(&self, peer: PeerId, subject: &Arc<str>, needs: Needs, registry: &Registry) {
        let mut rooms = self.rooms.lock();
        let is_first = rooms.change(subject, Instant::now(), |room| {
            (room.want(peer, needs), Then::Nothing)
        });
        if is_first {
            self.watch_begins(Instant::now(), &mut rooms, subject, registry);
        }
        self.wake(&rooms);
    }

    /// Records that another broker no longer watches a subject.
    pub(crate) fn unwant(&self, peer: PeerId, subject: &Arc<str>) {
        let mut rooms = self.rooms.lock();
        if rooms.by_subject.contains_key(subject) {
            let was_known = rooms.change(subject, Instant::now(), |room| {
                (room.unwant(peer), Then::Nothing)
            });
            if was_known {
                self.watch_ends(subject);
            }
        }
    }

    /// Takes the changes for other brokers.
    pub(crate) fn take_updates(&self) -> Vec<Addressed> {
        let mut rooms = self.rooms.lock();
        self.take(&mut rooms)
    }

    fn take(&self, rooms: &mut Rooms) -> Vec<Addressed> {
        let mut updates = Vec::new();
        for subject in std::mem::take(&mut rooms.unsent) {
            if rooms.by_subject.contains_key(&subject) {
                rooms.change(&subject, Instant::now(), |room| {
                    room.take_updates(self.max_names, &mut updates);
                    ((), Then::Nothing)
                });
            }
        }
        updates
    }

    /// Takes the changes for other brokers, and the digest of what each should know then. `watched`: the subjects that
    /// each watches.
    pub(crate) fn take_with_digests<'a>(
        &self,
        watched: impl Iterator<Item = (PeerId, &'a HashSet<Arc<str>, RandomState>)>,
    ) -> (Vec<Addressed>, Vec<(PeerId, u64)>) {
        let mut rooms = self.rooms.lock();
        let updates = self.take(&mut rooms);
        let digest = |subjects: &HashSet<Arc<str>, RandomState>| {
            let rooms = subjects.iter().filter_map(|one| rooms.by_subject.get(one));
            rooms.fold(0, |sum, room| sum ^ room.digest())
        };
        let digests = watched.map(|(peer, subjects)| (peer, digest(subjects)));
        (updates, digests.collect())
    }

    /// Applies what another broker says of its members.
    pub(crate) fn apply(&self, peer: PeerId, update: &Update) {
        let mut rooms = self.rooms.lock();
        rooms.departed.retain(|(_, departed)| *departed != peer);
        if !(rooms.by_subject.get(&update.subject)).is_some_and(Room::is_watched) {
            return;
        }
        let change = rooms.change(&update.subject, Instant::now(), |room| {
            (room.apply(peer, update), Then::Tell)
        });
        rooms.xor(peer, change);
        self.changed.notify_one();
    }

    /// The digest of all that is known from another broker.
    pub(crate) fn digest_of(&self, peer: PeerId) -> u64 {
        self.rooms.lock().digests.get(&peer).copied().unwrap_or(0)
    }

    /// Forgets the members at a broker that has ended; `at_once`, or after the time in which they can come back.
    pub(crate) fn forget(&self, peer: PeerId, at_once: bool) {
        let mut rooms = self.rooms.lock();
        let now = Instant::now();
        match at_once {
            true => forget(now, &mut rooms, peer),
            false => rooms.departed.push((now + self.timeout, peer)),
        }
        self.changed.notify_one();
    }
}

/// Forgets the members at another broker.
pub(super) fn forget(now: Instant, rooms: &mut Rooms, peer: PeerId) {
    rooms.digests.remove(&peer);
    let known = rooms.by_subject.values();
    let known = known.filter(|room| room.remote.contains_key(&peer));
    let subjects: Vec<_> = known.map(|room| room.subject.clone()).collect();
    for subject in subjects {
        rooms.change(&subject, now, |room| {
            room.forget_remote(peer);
            ((), Then::Tell)
        });
    }
}

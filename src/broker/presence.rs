//! Presence: who subscribes to a topic, and which ids are online.
//!
//! A member of a topic is an id whose subscription has `info`. Members are known to their own broker, and watchers
//! to theirs. Between brokers changes travel only for subjects that somebody watches. A member whose connection was
//! lost stays one for `presence_timeout`, so that a reconnection is not seen.
//!
//! A subject is a topic, or `$` and an id. No topic begins with `$`.
//!
//! | file | contents |
//! | --- | --- |
//! | `presence` | all subjects of a broker, and when each is due |
//! | `participation` | the memberships and watches of a connection |
//! | `exchange` | members for other brokers, and from them |
//! | `room` | one subject: members, watchers, and the state that these know |
//!
//! Time is an argument, except in the methods of `Broker`.
//!
//! Locks: a connection's state (`Handle::subscriber`), then the rooms, then a shard of the registry.

mod exchange;
mod participation;
mod room;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use foldhash::quality::RandomState;
use tokio::sync::Notify;

use super::{Broker, handle::Handle, peers::Peers, registry::Registry};
use crate::{
    memory::{Charge, ChargedBytes, Memory},
    options::ServerOptions,
    protocol::version_2,
    sync::Mutex,
    transport::{framing, outbox::Pushed},
};
pub(crate) use participation::Participation;
pub(crate) use room::{Addressed, Needs, Update};
use room::{Frames, Room};

/// Bytes of frames after which a flush ends.
const MAX_FLUSH: usize = 4 << 20;

/// Another broker, by a number.
pub(crate) type PeerId = u64;

/// The subject of an id.
pub(crate) fn subject_of_id(id: &str) -> String {
    ["$", id].concat()
}

/// All subjects of a broker that have members or watchers.
#[derive(Debug)]
pub(crate) struct Presence {
    rooms: Mutex<Rooms>,
    /// Number of ids that are watched, here or by other brokers. While it is zero, registrations are not looked at.
    watched_ids: AtomicUsize,
    /// Wakes the task that tells watchers.
    pub(crate) changed: Notify,
    peers: Option<Arc<dyn Peers>>,
    /// Maximum number of members that are named.
    max_names: usize,
    /// Time after which a member whose connection was lost has left.
    timeout: Duration,
}

#[derive(Debug)]
struct Rooms {
    by_subject: HashMap<Arc<str>, Room, RandomState>,
    /// When rooms are to be flushed.
    due: BTreeSet<(Instant, Arc<str>)>,
    /// Rooms with changes for other brokers.
    unsent: HashSet<Arc<str>, RandomState>,
    /// For each other broker, XOR of the digests of its members that are known here.
    digests: HashMap<PeerId, u64, RandomState>,
    /// Brokers that have left, and when their members have.
    departed: Vec<(Instant, PeerId)>,
    members: usize,
    charge: Charge,
}

impl Rooms {
    /// Changes a room, which is created if there is none. `then`: what the change needs.
    fn change<T>(
        &mut self,
        subject: &Arc<str>,
        now: Instant,
        change: impl FnOnce(&mut Room) -> (T, Then),
    ) -> T {
        let room = (self.by_subject.entry(subject.clone())).or_insert_with(|| {
            let room = Room::new(subject.clone());
            self.charge.set(self.charge.bytes() + room.memory());
            room
        });
        let (memory, members) = (room.memory(), room.own_count());
        let (result, then) = change(room);
        self.charge
            .set(self.charge.bytes() + room.memory() - memory);
        self.members = self.members + room.own_count() - members;
        if room.has_unsent() {
            self.unsent.insert(subject.clone());
        }
        let at = match then {
            Then::Nothing => None,
            Then::Tell => Some(room.next_flush(now)),
            Then::At(at) => at,
        };
        if let Some(at) = at
            && room.due.is_none_or(|due| at < due)
        {
            if let Some(due) = room.due.replace(at) {
                self.due.remove(&(due, subject.clone()));
            }
            self.due.insert((at, subject.clone()));
        }
        if room.is_empty() {
            self.remove(subject);
        }
        result
    }

    fn remove(&mut self, subject: &Arc<str>) {
        let Some(room) = self.by_subject.remove(subject) else {
            return;
        };
        self.charge.set(self.charge.bytes() - room.memory());
        if let Some(due) = room.due {
            self.due.remove(&(due, subject.clone()));
        }
        self.unsent.remove(subject);
    }

    fn xor(&mut self, peer: PeerId, change: u64) {
        *self.digests.entry(peer).or_default() ^= change;
    }
}

/// When a room is to be flushed after a change.
enum Then {
    Nothing,
    /// As soon as its watchers may get a frame again.
    Tell,
    At(Option<Instant>),
}

impl Presence {
    pub(crate) fn new(
        options: &ServerOptions,
        memory: &Arc<Memory>,
        peers: Option<Arc<dyn Peers>>,
    ) -> Self {
        Self {
            rooms: Mutex::new(Rooms {
                by_subject: HashMap::default(),
                due: BTreeSet::new(),
                unsent: HashSet::default(),
                digests: HashMap::default(),
                departed: Vec::new(),
                members: 0,
                charge: Charge::new(memory, 0),
            }),
            watched_ids: AtomicUsize::new(0),
            changed: Notify::new(),
            peers,
            max_names: options.max_presence_names,
            timeout: options.presence_timeout,
        }
    }

    /// Number of members of all topics, of this broker.
    pub(crate) fn members(&self) -> usize {
        self.rooms.lock().members
    }

    /// Wakes the tasks that tell watchers and other brokers.
    fn wake(&self, rooms: &Rooms) {
        self.changed.notify_one();
        if let (Some(peers), false) = (&self.peers, rooms.unsent.is_empty()) {
            peers.presence_changed();
        }
    }

    /// Makes the id of a connection a member of a topic, or changes its information.
    fn join(&self, now: Instant, subject: &Arc<str>, id: &Arc<str>, info: &Arc<str>, key: u64) {
        let mut rooms = self.rooms.lock();
        let has_changed = rooms.change(subject, now, |room| {
            let has_changed = room.join(id, info, key);
            let then = if has_changed {
                Then::Tell
            } else {
                Then::Nothing
            };
            (has_changed, then)
        });
        if has_changed {
            self.wake(&rooms);
        }
    }

    /// Ends the membership of a connection. `at_once`: it has not lost its connection, but left.
    fn leave(&self, now: Instant, subject: &Arc<str>, id: &Arc<str>, key: u64, at_once: bool) {
        let leaves = (!at_once && !self.timeout.is_zero()).then(|| now + self.timeout);
        let mut rooms = self.rooms.lock();
        if !rooms.by_subject.contains_key(subject) {
            return;
        }
        rooms.change(subject, now, |room| match room.leave(id, key, leaves) {
            true => ((), Then::Tell),
            false => ((), Then::At(leaves)),
        });
        self.wake(&rooms);
    }

    /// Makes a connection a watcher of subjects, or tells it their whole state again.
    fn watch(
        &self,
        now: Instant,
        subjects: &[Arc<str>],
        handle: &Arc<Handle>,
        registry: &Registry,
    ) {
        let mut rooms = self.rooms.lock();
        for subject in subjects {
            let is_first = rooms.change(subject, now, |room| {
                let is_first = !room.is_watched();
                room.watch(handle);
                (is_first, Then::Tell)
            });
            if is_first {
                self.watch_begins(now, &mut rooms, subject, registry);
                if let Some(peers) = &self.peers {
                    peers.watched(subject, true);
                }
            }
        }
        self.wake(&rooms);
    }

    /// From here on changes of a subject are of interest to watchers here, or to another broker.
    fn watch_begins(
        &self,
        now: Instant,
        rooms: &mut Rooms,
        subject: &Arc<str>,
        registry: &Registry,
    ) {
        if let Some(id) = subject.strip_prefix('$') {
            // Counted first: who registers the id later sees that it is watched.
            self.watched_ids.fetch_add(1, Relaxed);
            self.recheck(now, rooms, subject, id, registry, true);
        }
    }

    fn watch_ends(&self, subject: &str) {
        if subject.starts_with('$') {
            self.watched_ids.fetch_sub(1, Relaxed);
        }
    }

    /// Ends watches of a connection.
    fn unwatch<'a>(&self, now: Instant, subjects: impl Iterator<Item = &'a Arc<str>>, key: u64) {
        let mut rooms = self.rooms.lock();
        for subject in subjects {
            if !(rooms.by_subject.get(subject)).is_some_and(Room::is_watched) {
                continue;
            }
            let forgotten = rooms.change(subject, now, |room| (room.unwatch(key), Then::Nothing));
            let Some(forgotten) = forgotten else { continue };
            for (peer, digest) in forgotten {
                rooms.xor(peer, digest);
            }
            self.watch_ends(subject);
            if let Some(peers) = &self.peers {
                peers.watched(subject, false);
            }
        }
    }

    /// Called when an id was registered, or its registration has ended. `at_once`: it was given up.
    pub(crate) fn id_changed(&self, id: &str, registry: &Registry, at_once: bool) {
        if self.watched_ids.load(Relaxed) == 0 {
            return;
        }
        let subject = subject_of_id(id);
        let mut rooms = self.rooms.lock();
        let Some((subject, _)) = rooms.by_subject.get_key_value(&*subject) else {
            return;
        };
        let subject = subject.clone();
        let now = Instant::now();
        self.recheck(now, &mut rooms, &subject, id, registry, at_once);
        self.wake(&rooms);
    }

    /// Compares a watched id with the registry. Whatever the order of calls, the last one finds the truth.
    fn recheck(
        &self,
        now: Instant,
        rooms: &mut Rooms,
        subject: &Arc<str>,
        id: &str,
        registry: &Registry,
        at_once: bool,
    ) {
        let is_online = registry.find(id).is_some();
        let leaves = (!at_once && !self.timeout.is_zero()).then(|| now + self.timeout);
        let id: Arc<str> = id.into();
        rooms.change(subject, now, |room| {
            let has_changed = match is_online {
                true => room.join(&id, &"null".into(), 0),
                false => room.leave(&id, 0, leaves),
            };
            match has_changed {
                true => ((), Then::Tell),
                false => ((), Then::At(leaves.filter(|_| !is_online))),
            }
        });
    }

    /// Collects what is due for watchers. Returns it, with the time of the next call.
    fn flush(&self, now: Instant) -> (Frames, Option<Instant>) {
        let mut frames = Frames::default();
        let mut rooms = self.rooms.lock();
        let departed = rooms.departed.extract_if(.., |(at, _)| *at <= now);
        for (_, peer) in departed.collect::<Vec<_>>() {
            exchange::forget(now, &mut rooms, peer);
        }
        // The rest follows once these are in the outboxes: one that they fill gets no more.
        while let Some((at, _)) = rooms.due.first()
            && *at <= now
            && frames.bytes < MAX_FLUSH
        {
            let Some((_, subject)) = rooms.due.pop_first() else {
                break;
            };
            rooms.change(&subject, now, |room| {
                room.due = None;
                ((), Then::At(room.flush(now, self.max_names, &mut frames)))
            });
        }
        if let (Some(peers), false) = (&self.peers, rooms.unsent.is_empty()) {
            peers.presence_changed();
        }
        let due = rooms.due.first().map(|(at, _)| *at);
        let departing = rooms.departed.iter().map(|(at, _)| *at);
        (frames, due.into_iter().chain(departing).min())
    }
}

impl Broker {
    /// Sends watchers what is due. Returns the time of the next call, if one is known.
    pub(crate) fn tell_watchers(&self, now: Instant) -> Option<Instant> {
        let (frames, next) = self.presence.flush(now);
        for (text, handles) in frames.topics {
            let mut bytes = Vec::new();
            framing::append_text(&[&text], &mut bytes);
            let charge = Charge::new(&self.memory, bytes.len());
            let frame = Bytes::from_owner(ChargedBytes {
                bytes,
                _charge: charge,
            });
            for handle in handles {
                self.send_presence(&handle, |handle| handle.outbox.push_shared(&frame));
            }
        }
        for changes in frames.ids.into_values() {
            let (online, offline) = (changes.online.join(","), changes.offline.join(","));
            let frame = version_2::online(&online, &offline);
            self.send_presence(&changes.handle, |handle| handle.outbox.push(&frame));
        }
        next
    }

    fn send_presence(&self, handle: &Arc<Handle>, push: impl FnOnce(&Handle) -> Pushed) {
        // It may have registered again by version 1.
        if handle.uses_version_2() && push(handle) == Pushed::NeedsFlush {
            handle.flush();
        }
    }
}

#[cfg(test)]
mod tests;

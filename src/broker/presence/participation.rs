//! The memberships and watches of one connection. They end with its registration.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use foldhash::quality::RandomState;

use crate::{
    broker::{Broker, handle::Handle, topics::subscriber::SubscriberState},
    error::ActionError,
};

/// Bytes of an entry of a membership and of a watch, with their parts of a room.
const MEMBERSHIP: usize = 192;
const WATCH: usize = 256;

/// The memberships and watches of a connection.
#[derive(Debug, Default)]
pub(crate) struct Participation {
    /// The topics of which its id is a member.
    topics: HashMap<Arc<str>, Membership, RandomState>,
    /// The subjects that it watches.
    watched: HashSet<Arc<str>, RandomState>,
    /// Bytes of both. They are charged to the rooms.
    bytes: usize,
}

#[derive(Debug)]
struct Membership {
    id: Arc<str>,
    bytes: usize,
}

impl Participation {
    /// Bytes that the broker holds because of it.
    pub(crate) fn memory(&self) -> usize {
        self.bytes
    }

    /// Number of watched subjects.
    pub(crate) fn watched(&self) -> usize {
        self.watched.len()
    }
}

impl Broker {
    /// Makes the id of a connection a member of a topic that it subscribes to, or changes its information.
    pub(crate) fn join(&self, handle: &Arc<Handle>, topic: &str, id: &Arc<str>, info: &str) {
        let mut state = handle.subscriber.lock();
        // Its subscriptions may have ended meanwhile.
        let Some(state) = state.as_mut().filter(|_| handle.owns_its_id()) else {
            return;
        };
        let Some(topic) = state.name_of(topic) else {
            return;
        };
        let part = &mut state.participation;
        let bytes = MEMBERSHIP + id.len() + info.len();
        part.bytes += bytes;
        let membership = Membership {
            id: id.clone(),
            bytes,
        };
        if let Some(former) = part.topics.insert(topic.clone(), membership) {
            part.bytes -= former.bytes;
        }
        (self.presence).join(Instant::now(), &topic, id, &info.into(), handle.key);
    }

    /// Ends the membership of a connection that no longer subscribes to a topic.
    pub(crate) fn part(&self, handle: &Arc<Handle>, topic: &str) {
        let mut state = handle.subscriber.lock();
        let Some(state) = &mut *state else { return };
        let part = &mut state.participation;
        if let Some((topic, Membership { id, bytes })) = part.topics.remove_entry(topic) {
            part.bytes -= bytes;
            (self.presence).leave(Instant::now(), &topic, &id, handle.key, true);
        }
    }

    /// Makes a connection a watcher of subjects.
    ///
    /// Errors: `NotRegistered` if it does not own an id; `TooManySubscriptions`.
    pub(crate) fn watch(
        &self,
        handle: &Arc<Handle>,
        subjects: &[Arc<str>],
    ) -> Result<(), ActionError> {
        let mut state = handle.subscriber.lock();
        if !handle.owns_its_id() {
            return Err(ActionError::NotRegistered);
        }
        let state = state.get_or_insert_with(|| SubscriberState::new(&self.memory));
        let count = state.count();
        let watched = &state.participation.watched;
        let new = subjects.iter().filter(|one| !watched.contains(*one));
        let new: HashSet<_> = new.cloned().collect();
        if !new.is_empty() && count + new.len() > self.options.max_subscriptions {
            return Err(ActionError::TooManySubscriptions(count));
        }
        let part = &mut state.participation;
        for subject in new {
            part.bytes += WATCH + subject.len();
            part.watched.insert(subject);
        }
        (self.presence).watch(Instant::now(), subjects, handle, &self.registry);
        Ok(())
    }

    /// Ends watches of a connection.
    pub(crate) fn unwatch(&self, handle: &Arc<Handle>, subjects: &[Arc<str>]) {
        let mut state = handle.subscriber.lock();
        if let Some(state) = &mut *state {
            let part = &mut state.participation;
            let known = subjects.iter().filter(|one| part.watched.remove(*one));
            let known: Vec<_> = known.collect();
            part.bytes -= known.iter().map(|one| WATCH + one.len()).sum::<usize>();
            (self.presence).unwatch(Instant::now(), known.into_iter(), handle.key);
        }
    }

    /// Ends the watches of a connection that `allows` refuses. Returns their subjects.
    pub(crate) fn retain_watches(
        &self,
        handle: &Arc<Handle>,
        allows: impl Fn(&str) -> bool,
    ) -> Vec<Arc<str>> {
        let state = handle.subscriber.lock();
        let watched = state.iter().flat_map(|state| &state.participation.watched);
        let refused: Vec<_> = watched.filter(|one| !allows(one)).cloned().collect();
        drop(state);
        self.unwatch(handle, &refused);
        refused
    }

    /// Ends the memberships and watches of a connection that has lost or given up its id.
    pub(crate) fn end_participation(&self, handle: &Arc<Handle>) {
        let mut state = handle.subscriber.lock();
        let Some(state) = &mut *state else { return };
        let part = std::mem::take(&mut state.participation);
        let now = Instant::now();
        for (topic, Membership { id, .. }) in part.topics {
            (self.presence).leave(now, &topic, &id, handle.key, handle.has_left());
        }
        (self.presence).unwatch(now, part.watched.iter(), handle.key);
    }
}

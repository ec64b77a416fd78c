//! Pending requests of a shard, and how they end.

use std::{
    hash::BuildHasher,
    sync::Arc,
    time::{Duration, Instant},
};

use hashbrown::{HashTable, hash_table::OccupiedEntry};

use super::{
    Name, Notification, Notifications, Question, RESPONDER, RandomState, Request,
    delivery_error::DeliveryError,
    outcome::{Ended, OUTCOMES},
    queue::Deadlines,
    responders::{NotifiedResponder, Responders},
};
use crate::{broker::handle::Handle, error::ActionError, memory::Charge};

#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) pending: HashTable<Pending>,
    /// Contains ended requests until they are swept.
    pub(super) deadlines: Deadlines,
    /// True if requests have ended since the last sweep.
    pub(super) is_littered: bool,
    /// Requests that have ended so far, by `OUTCOMES`.
    pub(super) outcomes: [u64; OUTCOMES.len()],
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: Arc<Request>,
    pub(super) asker: Arc<Handle>,
    pub(super) deadline: Instant,
    /// Time from the request to its deadline, in milliseconds: a second `Instant` would make it too large to be
    /// moved cheaply.
    pub(super) timeout: u32,
    /// Number of answers still awaited.
    pub(super) answers: u32,
    pub(super) responders: Responders,
    pub(super) charge: Charge,
}

impl Shard {
    /// Pending request with this ack.
    pub(super) fn find(&self, hash: u64, ack: &str) -> Option<&Pending> {
        (self.pending).find(hash, |pending| *pending.request.ack == *ack)
    }

    /// Entry of the pending request with this ack.
    pub(super) fn entry(&mut self, hash: u64, ack: &str) -> Option<OccupiedEntry<'_, Pending>> {
        let found = (self.pending).find_entry(hash, |pending| *pending.request.ack == *ack);
        found.ok()
    }

    /// Entry of exactly this request, if it is pending: another one may have the same ack.
    pub(super) fn entry_of(
        &mut self,
        request: &Arc<Request>,
    ) -> Option<OccupiedEntry<'_, Pending>> {
        let is_it = |pending: &Pending| Arc::ptr_eq(&pending.request, request);
        self.pending.find_entry(request.hash, is_it).ok()
    }

    /// Adds a request. Its ack must not be in the table.
    pub(super) fn insert(&mut self, pending: Pending) {
        let hash = pending.request.hash;
        (self.pending).insert_unique(hash, pending, |other| other.request.hash);
    }

    /// Releases memory after a burst.
    pub(super) fn shrink(&mut self, room: usize) {
        let pending = room.max(self.pending.len() * 4);
        if self.pending.capacity() > pending * 2 {
            (self.pending).shrink_to(pending, |other| other.request.hash);
        }
        self.deadlines.shrink(room);
    }

    pub(super) fn end(
        &mut self,
        request: &Arc<Request>,
        ended: Ended,
        notifications: &mut Notifications,
    ) {
        if let Some(entry) = self.entry_of(request) {
            let pending = entry.remove().0;
            self.finish(pending, ended, notifications);
        }
    }

    /// Ends a request that was removed from the table.
    // Inlined: the caller knows how it has ended.
    #[inline(always)]
    pub(super) fn finish(
        &mut self,
        pending: Pending,
        ended: Ended,
        notifications: &mut Notifications,
    ) -> Arc<Handle> {
        self.is_littered = true;
        // A request from another broker is counted there.
        if !pending.asker.remote {
            self.outcomes[ended.index()] += 1;
        }
        pending.ended(ended.error(), notifications)
    }

    /// Ends a responder's part. `by`: only if the request was delivered to this id.
    pub(super) fn fail_responder(
        &mut self,
        request: &Arc<Request>,
        handle: &Handle,
        by: Option<&str>,
        error: DeliveryError,
        notifications: &mut Notifications,
    ) {
        let Some(mut entry) = self.entry_of(request) else {
            return;
        };
        let pending = entry.get_mut();
        let known = pending.responders.get(handle.key);
        let id = known.and_then(|known| known.id.clone());
        let responder = known.and_then(|known| known.handle.clone());
        let has_ended = match by {
            None => pending.responders.end(handle.key),
            Some(by) => id.as_deref() == Some(by) && pending.responders.remove(handle.key),
        };
        if !has_ended {
            return;
        }
        pending.asker.requests.lock().deliveries -= 1;
        notifications.extend(id.map(|dest| pending.failed(dest, error)));
        // A responder that lost its id is still connected: cancel its work.
        if by.is_some()
            && let Some(responder) = responder
        {
            pending.request.cancel(responder, notifications);
        }
        if pending.responders.is_empty() {
            let pending = entry.remove().0;
            self.finish(pending, Ended::By(error), notifications);
        }
    }
}

impl Pending {
    /// True after the deadline, even if the request has not been expired yet.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.deadline <= now
    }

    /// The time since the request; none if its timeout is longer than 49 days.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        let timeout = Duration::from_millis(self.timeout.into());
        let opened = self.deadline.checked_sub(timeout)?;
        (self.timeout < u32::MAX).then(|| now.duration_since(opened))
    }

    pub(super) fn check(&self, asker: &Arc<Handle>, now: Instant) -> Result<(), ActionError> {
        match Arc::ptr_eq(&self.asker, asker) || self.is_over(now) {
            true => Ok(()),
            false => Err(ActionError::AckTaken),
        }
    }

    /// Adds responders. `is_new`: the request has none yet, and these are already charged. True if
    /// cancellations are deferred until the messages are delivered.
    pub(super) fn add(
        &mut self,
        question: &Question<'_>,
        is_new: bool,
        hasher: &RandomState,
        notifications: &mut Notifications,
    ) -> bool {
        let before = self.responders.len();
        let mut known = 0;
        match (question.receivers, question.names) {
            ([one], [name]) => {
                if !self.responders.has(one.key) {
                    known += self.add_one(one, name, hasher, notifications);
                }
            }
            (receivers, names) => {
                let mut fresh: Vec<_> = (receivers.iter().enumerate())
                    .map(|(at, receiver)| (receiver.key, at))
                    .filter(|(key, _)| !self.responders.has(*key))
                    .collect();
                // A receiver listed twice answers once.
                fresh.sort_unstable();
                fresh.dedup_by_key(|(key, _)| *key);
                for (_, at) in fresh {
                    known += self.add_one(&receivers[at], &names[at], hasher, notifications);
                }
            }
        }
        let defers_cancels = self.responders.has_known();
        if defers_cancels {
            self.request.deferred_cancels.lock().get_or_insert_default();
        }
        self.responders.sort();
        let added = self.responders.len() - before;
        let mut more = known;
        // Under the shard's lock, so that the end of the request subtracts exactly these counts.
        let mut requests = self.asker.requests.lock();
        requests.deliveries += added;
        if is_new {
            requests.outgoing.push(&self.request, 0);
            requests.charged += self.charge.bytes();
        } else {
            more += added * RESPONDER;
        }
        if more > 0 {
            requests.charged += more;
            self.charge.set(self.charge.bytes() + more);
        }
        defers_cancels
    }

    /// Adds a responder, unless it has ended or lost its id. Returns the bytes of its
    /// [`NotifiedResponder`].
    fn add_one(
        &mut self,
        responder: &Arc<Handle>,
        name: &Name<'_>,
        hasher: &RandomState,
        notifications: &mut Notifications,
    ) -> usize {
        let notifies_asker = self.request.notifies_asker;
        let tag = match notifies_asker {
            true => hasher.hash_one(name.id),
            false => 0,
        };
        let mut requests = responder.requests.lock();
        let error = match requests.disconnected {
            // In requests of version 1 a responder may answer after it lost its id.
            None if notifies_asker && requests.replaced >= name.registration => {
                Some(DeliveryError::Replaced)
            }
            disconnected => disconnected,
        };
        if let Some(error) = error {
            if notifies_asker {
                notifications.push(self.failed(name.id.into(), error));
            }
            // The responder still gets its message; the caller sends the cancellation behind it.
            if error == DeliveryError::Replaced && responder.uses_version_2() {
                notifications.push(Notification::Cancelled {
                    responder: responder.clone(),
                    ack: self.request.ack.clone(),
                });
            }
            return 0;
        }
        requests.incoming.push(&self.request, tag);
        drop(requests);
        let uses_version_2 = responder.uses_version_2();
        let known = (notifies_asker || uses_version_2).then(|| NotifiedResponder {
            key: responder.key,
            handle: uses_version_2.then(|| responder.clone()),
            id: notifies_asker.then(|| name.id.into()),
        });
        let memory = known.as_ref().map_or(0, NotifiedResponder::memory);
        self.responders.push(responder.key, known);
        memory
    }

    /// Cancels the responder that was asked as this id, which is usually its owner.
    pub(super) fn cancel_part(
        &mut self,
        owner: Option<&Handle>,
        id: &str,
        notifications: &mut Notifications,
    ) {
        let owner = owner.filter(|owner| self.responders.was_asked_as(owner.key, id));
        let asked = match owner.and_then(|owner| self.responders.get(owner.key)) {
            Some(known) => vec![(known.key, known.handle.clone())],
            None => self.responders.asked_as(id),
        };
        for (key, responder) in asked {
            if self.responders.remove(key) {
                self.asker.requests.lock().deliveries -= 1;
                if let Some(responder) = responder {
                    self.request.cancel(responder, notifications);
                }
            }
        }
    }

    fn failed(&self, dest: Arc<str>, error: DeliveryError) -> Notification {
        Notification::Failed {
            asker: self.asker.clone(),
            ack: self.request.ack.clone(),
            dest,
            error,
        }
    }

    /// Ends the request: uncharges it, cancels the remaining responders, and notifies the asker of their
    /// failure if there is a reason.
    pub(super) fn ended(
        self,
        error: Option<DeliveryError>,
        notifications: &mut Notifications,
    ) -> Arc<Handle> {
        let mut requests = self.asker.requests.lock();
        requests.deliveries -= self.responders.len();
        requests.charged -= self.charge.bytes();
        drop(requests);
        for NotifiedResponder { handle, id, .. } in self.responders.into_known() {
            if let (Some(error), Some(dest)) = (error, id) {
                notifications.push(Notification::Failed {
                    asker: self.asker.clone(),
                    ack: self.request.ack.clone(),
                    dest,
                    error,
                });
            }
            if let Some(responder) = handle {
                self.request.cancel(responder, notifications);
            }
        }
        self.asker
    }
}

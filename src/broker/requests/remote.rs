//! Operations for requests that cross brokers.

use std::{hash::BuildHasher, slice, sync::Arc};

use super::{DeliveryError, Name, Notifications, Question, Request, Requests, outcome::Ended};
use crate::broker::handle::Handle;

impl Requests {
    /// Cancels the responder that was asked as this id, usually its owner, in a request of this asker.
    pub(crate) fn cancel_part(
        &self,
        ack: &str,
        asker: &Arc<Handle>,
        owner: Option<&Handle>,
        id: &str,
        notifications: &mut Notifications,
    ) {
        let hash = self.hasher.hash_one(ack);
        let mut shard = self.shard(hash).lock();
        if let Some(mut entry) = shard.entry(hash, ack)
            && Arc::ptr_eq(&entry.get().asker, asker)
        {
            entry.get_mut().cancel_part(owner, id, notifications);
            if entry.get().responders.is_empty() {
                let pending = entry.remove().0;
                shard.finish(pending, Ended::Cancelled, notifications);
            }
        }
    }

    /// Adds a responder to exactly this request. With true, [`delivered`](Self::delivered) must follow; false if it has a
    /// part already, or had one. None if the request has ended.
    pub(crate) fn extend(
        &self,
        request: &Arc<Request>,
        receiver: &Arc<Handle>,
        name: Name<'_>,
        notifications: &mut Notifications,
    ) -> Option<bool> {
        let mut shard = self.shard(request.hash).lock();
        let mut entry = shard.entry_of(request)?;
        let pending = entry.get_mut();
        if pending.responders.has(receiver.key) {
            return Some(false);
        }
        let asker = pending.asker.clone();
        let question = Question {
            ack: &request.ack,
            asker: &asker,
            receivers: slice::from_ref(receiver),
            names: slice::from_ref(&name),
            answers: pending.answers,
            timeout: None,
        };
        pending.add(&question, false, &self.hasher, notifications);
        drop(shard);
        self.keep_within_limit(&asker, notifications);
        Some(true)
    }

    /// Ends the part of a responder that has held a request open; the request ends for this reason if it was the last.
    /// False if it has ended before.
    pub(crate) fn release(
        &self,
        request: &Arc<Request>,
        holder: &Handle,
        error: DeliveryError,
        notifications: &mut Notifications,
    ) -> bool {
        let mut shard = self.shard(request.hash).lock();
        let Some(mut entry) = shard.entry_of(request) else {
            return false;
        };
        let pending = entry.get_mut();
        if pending.responders.end(holder.key) {
            pending.asker.requests.lock().deliveries -= 1;
        }
        if pending.responders.is_empty() {
            let pending = entry.remove().0;
            shard.finish(pending, Ended::By(error), notifications);
        }
        true
    }

    /// True if some responder of a request of this asker was asked as this id.
    pub(crate) fn is_asked_as(&self, ack: &str, asker: &Arc<Handle>, id: &str) -> bool {
        let hash = self.hasher.hash_one(ack);
        let shard = self.shard(hash).lock();
        (shard.find(hash, ack)).is_some_and(|pending| {
            Arc::ptr_eq(&pending.asker, asker) && !pending.responders.asked_as(id).is_empty()
        })
    }

    /// Transfers a responder's part to the new owner of its id. `former`: key of the responder. With a
    /// request, [`delivered`](Self::delivered) must follow. None if the former responder had no part any
    /// more.
    #[allow(clippy::option_option)]
    pub(crate) fn transfer(
        &self,
        ack: &str,
        former: u64,
        receiver: &Arc<Handle>,
        name: Name<'_>,
        notifications: &mut Notifications,
    ) -> Option<Option<Arc<Request>>> {
        let hash = self.hasher.hash_one(ack);
        let mut shard = self.shard(hash).lock();
        let mut entry = shard.entry(hash, ack)?;
        let pending = entry.get_mut();
        if !pending.responders.remove(former) {
            return None;
        }
        let asker = pending.asker.clone();
        asker.requests.lock().deliveries -= 1;
        let question = Question {
            ack,
            asker: &asker,
            receivers: slice::from_ref(receiver),
            names: slice::from_ref(&name),
            answers: pending.answers,
            timeout: None,
        };
        let defers_cancels = pending.add(&question, false, &self.hasher, notifications);
        let request = defers_cancels.then(|| pending.request.clone());
        if pending.responders.is_empty() {
            let pending = entry.remove().0;
            shard.finish(pending, Ended::By(DeliveryError::Gone), notifications);
        }
        Some(request)
    }

    /// Ends a responder's part after another broker reported its failure.
    pub(crate) fn fail(
        &self,
        ack: &str,
        responder: &Handle,
        error: DeliveryError,
        notifications: &mut Notifications,
    ) {
        let hash = self.hasher.hash_one(ack);
        let mut shard = self.shard(hash).lock();
        if let Some(pending) = shard.find(hash, ack) {
            let request = pending.request.clone();
            shard.fail_responder(&request, responder, None, error, notifications);
        }
    }

    /// True if this responder, asked as this id, may still answer a request of this asker.
    pub(crate) fn may_answer(
        &self,
        ack: &str,
        asker: &Arc<Handle>,
        responder: &Handle,
        id: &str,
    ) -> bool {
        let hash = self.hasher.hash_one(ack);
        let shard = self.shard(hash).lock();
        (shard.find(hash, ack)).is_some_and(|pending| {
            Arc::ptr_eq(&pending.asker, asker) && pending.responders.was_asked_as(responder.key, id)
        })
    }

    /// Ends a responder's part in one request.
    pub(crate) fn fail_responder(
        &self,
        request: &Arc<Request>,
        responder: &Handle,
        error: DeliveryError,
        notifications: &mut Notifications,
    ) {
        let mut shard = self.shard(request.hash).lock();
        shard.fail_responder(request, responder, None, error, notifications);
    }

    /// Ends a responder's part in the requests of other brokers that were delivered to it as this id, and
    /// cancels them there. It is still connected, but no longer owns the id.
    pub(crate) fn fail_remote_askers(
        &self,
        former: &Handle,
        id: &str,
        notifications: &mut Notifications,
    ) {
        let tag = self.hasher.hash_one(id);
        let incoming = former.requests.lock().incoming.tagged(tag);
        for request in incoming {
            let mut shard = self.shard(request.hash).lock();
            let pending = shard.find(request.hash, &request.ack);
            if pending.is_some_and(|pending| pending.asker.remote) {
                shard.fail_responder(
                    &request,
                    former,
                    Some(id),
                    DeliveryError::Gone,
                    notifications,
                );
            }
        }
    }
}

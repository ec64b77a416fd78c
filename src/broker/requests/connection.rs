//! Requests of one connection: those it sent, and those it may answer; how they end with it.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::{DeliveryError, Notifications, Request, Requests, outcome::Ended, queue::RequestQueue};
use crate::broker::handle::Handle;

/// Requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct ConnectionRequests {
    /// Requests it sent, oldest first.
    pub(super) outgoing: RequestQueue,
    /// Requests it may answer. Tag: the hash of the id that was asked, if the asker is notified of
    /// failures.
    pub(super) incoming: RequestQueue,
    /// Receivers that may still answer, summed over its requests.
    pub(super) deliveries: usize,
    /// Bytes charged for the requests it sent.
    pub(super) charged: usize,
    /// Set when the connection has ended: it cannot answer any more.
    pub(super) disconnected: Option<DeliveryError>,
    /// Number of its last registration that another connection took over.
    pub(super) replaced: u64,
    /// Requests it sent that wait in groups; none for most connections.
    queued: Option<Box<QueuedRequests>>,
}

/// Requests that wait in groups for a member, by their acks. The value is set once the request is cancelled; it is alive
/// as long as the request waits.
type QueuedRequests = HashMap<Arc<str>, Weak<AtomicBool>>;

impl ConnectionRequests {
    /// Bytes charged for the requests it sent.
    pub(crate) fn charged(&self) -> usize {
        self.charged
    }

    /// Removes entries of ended requests.
    pub(crate) fn sweep(&mut self) {
        self.outgoing.sweep();
        self.incoming.sweep();
        if let Some(queued) = &mut self.queued {
            queued.retain(|_, request| request.strong_count() > 0);
            if queued.is_empty() {
                self.queued = None;
            }
        }
    }

    /// Adds a request that waits in a group.
    pub(crate) fn add_queued(&mut self, ack: &Arc<str>, is_cancelled: &Arc<AtomicBool>) {
        let queued = self.queued.get_or_insert_default();
        if queued.len() == queued.capacity() {
            queued.retain(|_, request| request.strong_count() > 0);
            // Room for as many, so that this is rare.
            queued.reserve(queued.len() + 1);
        }
        queued.insert(ack.clone(), Arc::downgrade(is_cancelled));
    }

    /// Cancels a request that waits in groups, if it does.
    pub(super) fn cancel_queued(&mut self, ack: &str) {
        let request = self.queued.as_mut().and_then(|queued| queued.remove(ack));
        if let Some(is_cancelled) = request.and_then(|request| request.upgrade()) {
            is_cancelled.store(true, Relaxed);
        }
    }
}

#[cfg(test)]
impl ConnectionRequests {
    /// Deliveries that await an answer.
    pub(crate) fn deliveries(&self) -> usize {
        self.deliveries
    }

    pub(crate) fn len(&self) -> usize {
        self.outgoing.items.len() + self.incoming.items.len()
    }
}

impl Requests {
    /// Ends all requests that a connection sent.
    pub(crate) fn cancel_all(&self, handle: &Handle, notifications: &mut Notifications) {
        let mut requests = handle.requests.lock();
        let outgoing = std::mem::take(&mut requests.outgoing);
        for request in requests
            .queued
            .take()
            .into_iter()
            .flat_map(|queued| *queued)
        {
            if let Some(is_cancelled) = request.1.upgrade() {
                is_cancelled.store(true, Relaxed);
            }
        }
        drop(requests);
        for (request, _) in outgoing.items {
            self.end(&request, Ended::Cancelled, notifications);
        }
    }

    /// Ends all requests that a connection sent, and with `error` its part in those it could answer.
    pub(crate) fn disconnect(
        &self,
        handle: &Handle,
        error: DeliveryError,
        notifications: &mut Notifications,
    ) {
        let incoming = {
            let mut requests = handle.requests.lock();
            requests.disconnected.get_or_insert(error);
            std::mem::take(&mut requests.incoming)
        };
        self.cancel_all(handle, notifications);
        let incoming = incoming.items.into_iter();
        for request in incoming.filter_map(|(request, _)| request.upgrade()) {
            let mut shard = self.shard(request.hash).lock();
            shard.fail_responder(&request, handle, None, error, notifications);
        }
    }

    /// Ends the former owner's part in requests that were delivered to it under this registration of the
    /// id, and cancels them there. Requests of version 1 are not affected.
    pub(crate) fn replaced(
        &self,
        former: &Handle,
        id: &str,
        registration: u64,
        notifications: &mut Notifications,
    ) {
        let tag = self.hasher.hash_one(id);
        let incoming: Vec<_> = {
            let mut requests = former.requests.lock();
            // Requests that are about to be opened for that registration fail from here on.
            requests.replaced = requests.replaced.max(registration);
            requests.incoming.tagged(tag)
        };
        for request in incoming {
            let mut shard = self.shard(request.hash).lock();
            shard.fail_responder(
                &request,
                former,
                Some(id),
                DeliveryError::Replaced,
                notifications,
            );
        }
    }

    /// True if a responder may answer a request. May include requests that have just ended.
    pub(crate) fn has_incoming(&self, responder: &Handle) -> bool {
        let requests = responder.requests.lock();
        let is_pending = |(request, _): &(Weak<Request>, u64)| request.strong_count() > 0;
        requests.incoming.items.iter().any(is_pending)
    }

    /// Requests that a responder may answer, without those that are being delivered.
    pub(crate) fn incoming(&self, responder: &Handle) -> Vec<Arc<Request>> {
        let incoming: Vec<_> = {
            let requests = responder.requests.lock();
            let incoming = requests.incoming.items.iter();
            incoming
                .filter_map(|(request, _)| request.upgrade())
                .collect()
        };
        let is_out = |request: &Arc<Request>| {
            let shard = self.shard(request.hash).lock();
            let pending = shard.find(request.hash, &request.ack);
            pending.is_some_and(|pending| {
                Arc::ptr_eq(&pending.request, request)
                    && pending.responders.contains(responder.key)
                    && request.deferred_cancels.lock().is_none()
            })
        };
        incoming.into_iter().filter(is_out).collect()
    }
}

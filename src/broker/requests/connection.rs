//! Requests of one connection: those it sent, and those it may answer; how they end with it.

use std::{
    hash::BuildHasher,
    sync::{Arc, Weak},
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
}

impl ConnectionRequests {
    /// Bytes charged for the requests it sent.
    pub(crate) fn charged(&self) -> usize {
        self.charged
    }

    /// Removes entries of ended requests.
    pub(crate) fn sweep(&mut self) {
        self.outgoing.sweep();
        self.incoming.sweep();
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
        let outgoing = std::mem::take(&mut handle.requests.lock().outgoing);
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

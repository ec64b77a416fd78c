//! Admission of a message: accept it, apply backpressure to the sender, or drop it.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Waker,
    time::Instant,
};

use super::{
    Broker,
    handle::{Close, Handle},
    requests::DeliveryError,
};
use crate::{
    event::{ServerEvent, Slow},
    options::SlowConsumer,
    protocol,
};

/// Decision about one message and receiver.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Accept,
    /// The receiver's outbox is full: the sender waits.
    Backpressure,
    /// The receiver has just closed.
    Closed,
    /// The message is dropped: the receiver is being closed, or its policy is to drop.
    Drop,
}

impl Broker {
    /// Decides about a message for this receiver. On `Backpressure` the waker of the sender with this key
    /// is woken when there is room.
    #[inline]
    pub(crate) fn admit(
        &self,
        id: &str,
        receiver: &Arc<Handle>,
        key: u64,
        waker: &Waker,
        delays: impl FnOnce() -> bool,
    ) -> Admission {
        if !receiver.outbox.is_full() {
            receiver.drops_end();
            return Admission::Accept;
        }
        // Frames queued in this turn may have filled the outbox.
        receiver.flush();

        // The slow-consumer policy of a remote receiver is applied at its own broker.
        let policy = match (receiver.remote, self.options.slow_consumer) {
            (true, _) => SlowConsumer::Pushback,
            // The server's own participant is never closed for being slow.
            (false, SlowConsumer::Close) if receiver.participant => SlowConsumer::Drop,
            (false, policy) => policy,
        };
        match policy {
            SlowConsumer::Pushback if receiver.outbox.sheds() => {
                self.drop_message(Some(id), receiver);
                Admission::Drop
            }
            SlowConsumer::Pushback if !self.registry.is_penalized(id, Instant::now()) => {
                if !receiver.outbox.add_waiter(key, waker, delays()) {
                    return Admission::Accept;
                }
                // The receiver's task starts the timer.
                receiver.waker.wake();
                Admission::Backpressure
            }
            _ if !receiver.outbox.is_full() => Admission::Accept,
            SlowConsumer::Drop => {
                self.drop_message(Some(id), receiver);
                Admission::Drop
            }
            // Also for a penalized id: its senders do not wait.
            SlowConsumer::Close | SlowConsumer::Pushback => {
                receiver.request_close(Close::Slow);
                Admission::Drop
            }
        }
    }

    pub(crate) fn unknown(&self, id: &str) {
        self.metrics.unknown_ids.fetch_add(1, Relaxed);
        // Ids longer than the limit cannot be registered; the prefix is enough for the event.
        let shown = protocol::shorten(id, self.options.max_id_length);
        self.listener.event(ServerEvent::UnknownId(shown));
    }

    /// Counts messages to a topic without a subscriber.
    pub(crate) fn no_subscriber(&self, count: u32) {
        self.metrics
            .without_subscriber
            .fetch_add(count.into(), Relaxed);
    }

    /// Counts a message for an id that has no owner, or whose broker is unreachable.
    pub(crate) fn not_found(&self, id: &str, error: DeliveryError) {
        match (error, &self.peers) {
            (DeliveryError::ClusterDown, Some(peers)) => peers.count_unreachable(),
            _ => self.unknown(id),
        }
    }

    /// Counts a message that its receiver has no room for.
    pub(crate) fn drop_message(&self, id: Option<&str>, receiver: &Handle) {
        self.metrics.dropped.fetch_add(1, Relaxed);
        // Emitted once, until the outbox has room again.
        if receiver.drop_begins() {
            let why = Slow::Dropping;
            self.listener.event(ServerEvent::Slow { id, why });
        }
    }
}

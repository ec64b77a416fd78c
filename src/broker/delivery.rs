//! Admission of a message: does its receiver take it now, does its sender wait, or is it dropped?

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

/// Whether a receiver takes a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Accept,
    /// Its queue is full: the sender waits.
    Backpressure,
    /// It has just ended.
    Closed,
    /// It does not get this message: it is being closed, or loses what it cannot take.
    Drop,
}

impl Broker {
    /// Whether the receiver takes a message now. `Backpressure`: the waker, that of the sender with this key,
    /// is woken when it does.
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
        // What this turn has promised to write may be what fills it.
        receiver.flush();

        // Who is elsewhere is judged there: only the way to it is full.
        let policy = match (receiver.remote, self.options.slow_consumer) {
            (true, _) => SlowConsumer::Pushback,
            // The server's own participant keeps its id, whatever is sent to it.
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
                // Its task starts the clock.
                receiver.waker.wake();
                Admission::Backpressure
            }
            _ if !receiver.outbox.is_full() => Admission::Accept,
            SlowConsumer::Drop => {
                self.drop_message(Some(id), receiver);
                Admission::Drop
            }
            // Or its id gets no time: who waited would find that nobody owns it.
            SlowConsumer::Close | SlowConsumer::Pushback => {
                receiver.request_close(Close::Slow);
                Admission::Drop
            }
        }
    }

    pub(crate) fn unknown(&self, id: &str) {
        self.metrics.unknown_ids.fetch_add(1, Relaxed);
        // Longer ones exist nowhere; their beginning tells enough.
        let shown = protocol::shorten(id, self.options.max_id_length);
        self.listener.event(ServerEvent::UnknownId(shown));
    }

    /// Counts a message for an id that nobody owns, or whose broker cannot be reached.
    pub(crate) fn not_found(&self, id: &str, fault: DeliveryError) {
        match (fault, &self.peers) {
            (DeliveryError::ClusterDown, Some(peers)) => peers.count_unreachable(),
            _ => self.unknown(id),
        }
    }

    /// Counts a message that its receiver has no room for.
    pub(crate) fn drop_message(&self, id: Option<&str>, receiver: &Handle) {
        self.metrics.dropped.fetch_add(1, Relaxed);
        // Told once, until there is room again.
        if receiver.drop_begins() {
            let why = Slow::Dropping;
            self.listener.event(ServerEvent::Slow { id, why });
        }
    }
}

//! A message that waits for room in the outbox of its receiver, and whether other receivers are delayed
//! meanwhile.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Context,
    time::{Duration, Instant},
};

use tokio::time::{Sleep, sleep};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{Connection, Turn};
use crate::broker::{Broker, delivery::Admission, handle::Handle};

/// Interval at which a waiting connection checks whether it delays others: their outboxes may run dry long
/// after the wait began.
const CHECK: Duration = Duration::from_millis(250);
/// Additional interval per byte of the waiting message, which is decoded for each check.
const CHECK_PER_BYTE: Duration = Duration::from_nanos(32);
/// Bytes in a row to one receiver from which a connection counts as sending to that receiver only.
const ALONE: usize = 1 << 20;
/// Number of receivers that are remembered.
const RECENT: usize = 8;

/// A message that waits, and the connection whose outbox is full.
pub(super) struct Waiting {
    pub(super) text: Utf8Bytes,
    pub(super) receiver: Arc<Handle>,
    check: Pin<Box<Sleep>>,
    broker: Arc<Broker>,
    since: Instant,
}

impl Waiting {
    pub(super) fn new(
        broker: &Arc<Broker>,
        text: Utf8Bytes,
        receiver: Arc<Handle>,
        cx: &mut Context<'_>,
    ) -> Box<Self> {
        broker.metrics.senders_held.fetch_add(1, Relaxed);
        let mut check = Box::pin(sleep(Self::interval(&text)));
        // Starts the timer.
        let _ = check.as_mut().poll(cx);
        Box::new(Self {
            text,
            receiver,
            check,
            broker: broker.clone(),
            since: Instant::now(),
        })
    }

    fn interval(text: &str) -> Duration {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        CHECK + CHECK_PER_BYTE * length
    }

    /// True if it is time to check again whether others are delayed.
    fn is_check_due(&mut self, cx: &mut Context<'_>) -> bool {
        if self.check.as_mut().poll(cx).is_pending() {
            return false;
        }
        let now = tokio::time::Instant::now();
        self.check.as_mut().reset(now + Self::interval(&self.text));
        let _ = self.check.as_mut().poll(cx);
        true
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let metrics = &self.broker.metrics;
        metrics.senders_held.fetch_sub(1, Relaxed);
        metrics.sender_hold.record(self.since.elapsed());
    }
}

/// The receivers to which a connection sent last.
#[derive(Debug, Default)]
pub(super) struct RecentReceivers {
    /// Keys of their handles, the latest at `last`.
    keys: [u64; RECENT],
    last: u8,
    /// Bytes of the single messages that the latest received in a row.
    run: usize,
}

impl RecentReceivers {
    pub(super) fn note(&mut self, key: u64) {
        if key != self.keys[usize::from(self.last) % RECENT] {
            self.last = self.last.wrapping_add(1);
            self.keys[usize::from(self.last) % RECENT] = key;
            self.run = 0;
        }
    }

    /// Notes the receivers of a message to many.
    pub(super) fn note_all(&mut self, receivers: &[Arc<Handle>]) {
        let from = receivers.len().saturating_sub(RECENT);
        receivers[from..]
            .iter()
            .for_each(|receiver| self.note(receiver.key));
    }

    /// Counts a message to the latest.
    #[inline]
    pub(super) fn count(&mut self, bytes: usize) {
        self.run = self.run.saturating_add(bytes);
    }
}

impl Connection {
    /// Tries again to send the message that waits, if there is room now.
    pub(super) fn retry(&mut self, cx: &mut Context<'_>, turn: &mut Turn) {
        let Some(mut waiting) = self.waiting.take() else {
            return;
        };
        let key = self.handle.key;
        let is_due = waiting.is_check_due(cx);
        let is_full = waiting.receiver.outbox.add_waiter(key, cx.waker(), false);
        // Sending is what finds the other receivers of the message.
        if !is_full || is_due && self.lookups.is_none() {
            match self.route(&waiting.text, cx, turn) {
                Some(full) if Arc::ptr_eq(&full, &waiting.receiver) => {}
                Some(full) => {
                    // It waits in one outbox only.
                    waiting.receiver.outbox.remove_waiter(key);
                    waiting.receiver = full;
                }
                None => return,
            }
        }
        self.waiting = Some(waiting);
    }

    /// Whether the receiver takes a message. On `Backpressure` this connection is woken when there is room.
    /// `delays`: whether other receivers wait meanwhile.
    pub(super) fn admit(
        &self,
        id: &str,
        receiver: &Arc<Handle>,
        cx: &Context<'_>,
        delays: impl FnOnce() -> bool,
    ) -> Admission {
        let (key, waker) = (self.handle.key, cx.waker());
        self.broker.admit(id, receiver, key, waker, delays)
    }

    /// True if this connection also sends to another receiver whose outbox is nearly empty.
    #[cold]
    pub(super) fn serves_others(&self, receiver: &Handle) -> bool {
        let RecentReceivers { keys, run, .. } = &self.recent;
        let is_starved = |key: &u64| {
            let other = self.broker.handle_of(*key);
            other.is_some_and(|other| other.outbox.is_starved())
        };
        let mut others = keys.iter().filter(|key| **key != receiver.key);
        *run < ALONE && others.any(is_starved)
    }

    /// True while memory is short: this connection must wait, and is woken when there is enough.
    pub(super) fn awaits_memory(&self) -> bool {
        self.broker.memory.is_short()
    }

    /// True if this connection's own outbox is full: it is woken when there is room.
    pub(super) fn is_full(&self, cx: &Context<'_>) -> bool {
        let Handle { key, outbox, .. } = &*self.handle;
        if !outbox.is_full() {
            return false;
        }
        self.handle.flush();
        outbox.add_waiter(*key, cx.waker(), false)
    }
}

//! Timeouts of requests: the general one, the expiry of requests, and the sweep of ended ones.

use std::time::{Duration, Instant};

use super::{DeliveryError, Notifications, Requests, outcome::Ended};
use crate::sync::atomic::Ordering::Relaxed;

/// Minimum capacity of a table, in requests, when it is shrunk.
const ROOM: usize = 256;

impl Requests {
    pub(crate) fn set_timeout(&self, timeout: Duration) {
        let millis = timeout.as_millis().try_into().unwrap_or(u64::MAX);
        self.timeout.store(millis, Relaxed);
    }

    /// Returns once a request is pending.
    pub(crate) async fn await_pending(&self) {
        self.idle.store(true, Relaxed);
        // A request that is opened from here on notifies.
        if self.count() == 0 {
            self.opened.notified().await;
        }
        self.idle.store(false, Relaxed);
    }

    /// Wakes [`await_pending`](Self::await_pending).
    #[cold]
    pub(super) fn wake_expiry(&self) {
        self.idle.store(false, Relaxed);
        self.opened.notify_one();
    }

    /// Removes entries of ended requests from the deadlines. True if there were any: the queues of
    /// connections hold entries, too ([`ConnectionRequests::sweep`]).
    pub(crate) fn sweep(&self) -> bool {
        let mut were_any = false;
        for shard in &self.shards {
            let mut shard = shard.lock();
            if std::mem::take(&mut shard.is_littered) {
                shard.deadlines.sweep();
                were_any = true;
            }
        }
        were_any
    }

    /// Ends requests on timeout. `notify` is called with the notifications when no lock is held.
    pub(crate) fn expire(&self, now: Instant, mut notify: impl FnMut(&mut Notifications)) {
        let mut notifications = Notifications::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            while let Some(request) = shard.deadlines.pop(now) {
                shard.end(
                    &request,
                    Ended::Failed(DeliveryError::Timeout),
                    &mut notifications,
                );
            }
            // Releases memory after a burst.
            shard.shrink(ROOM);
            drop(shard);
            if !notifications.is_empty() {
                notify(&mut notifications);
            }
        }
    }
}

#[cfg(test)]
impl Requests {
    /// Number of requests in the deadlines, including ended ones.
    pub(crate) fn deadlines(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().deadlines.len())
            .sum()
    }
}

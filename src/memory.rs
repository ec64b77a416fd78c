//! The memory limit of a server: accounts for its buffers and tables, and sheds load when they exceed the
//! limit.
//!
//! Each owner charges the memory it holds and discharges the memory it frees, in steps coarse enough to be
//! cheap. Beyond the limit memory is `short`: connections that need more of it have to wait, and if that does
//! not help, [`govern`] closes the connection that holds the most. A connection that drains its queue is
//! spared as long as that helps: its senders wait.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

/// Divisor of the memory that is shared equally while memory is short: a quarter is divided among all
/// connections, so that some connection always holds more than its share.
const SHARED_PART: usize = 4;
/// Maximum bytes of a share: a connection that uses no more is not slowed down.
pub(crate) const MOST_SHARE: usize = 64 << 10;
/// Minimum bytes of a share: one chunk of a socket, without which nothing could be read.
const LEAST_SHARE: usize = 16 << 10;
/// Bytes of an idle connection: its task, socket and table entries.
pub(crate) const CONNECTION: usize = 4 << 10;
/// Bytes of a socket during the handshake, before anything is read: its task.
pub(crate) const HANDSHAKE: usize = 3 << 10;
/// Bytes that TLS adds to an idle connection: keys, and the read buffer of rustls. Growth of that buffer is
/// charged separately, in `tls/inbound.rs`.
pub(crate) const TLS: usize = 8 << 10;
/// Bytes of a pending request without its ack: its table entries, including spare capacity.
pub(crate) const REQUEST: usize = 384;
/// Time for owners to free memory by themselves, before a connection is closed.
const GRACE: Duration = Duration::from_millis(500);
/// Time between two such rounds of closing.
const NEXT: Duration = Duration::from_millis(50);
/// Time for which connections that are about to free memory are spared.
const LONGEST: Duration = Duration::from_secs(5);

/// The memory account of one server.
#[derive(Debug)]
pub(crate) struct Memory {
    used: AtomicUsize,
    limit: usize,
    /// True once the limit is reached, until an eighth of it is free again.
    short: AtomicBool,
    /// Bytes of a connection's share.
    share: AtomicUsize,
    changed: Notify,
}

impl Memory {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            limit,
            short: AtomicBool::new(false),
            share: AtomicUsize::new(MOST_SHARE),
            changed: Notify::new(),
        }
    }

    /// Bytes charged now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// True while memory is short.
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Relaxed)
    }

    /// While memory is short, the bytes that may be queued for one connection, and read of one message.
    /// Connections that use no more are not slowed down.
    pub(crate) fn share(&self) -> Option<usize> {
        self.is_short().then(|| self.share.load(Relaxed))
    }

    /// Recalculates the share.
    fn divide(&self, connections: usize) {
        let share = self.limit / SHARED_PART / connections.max(1);
        let share = share.clamp(LEAST_SHARE, MOST_SHARE);
        self.share.store(share, Relaxed);
    }

    pub(crate) fn charge(&self, bytes: usize) {
        let used = self.used.fetch_add(bytes, SeqCst) + bytes;
        if used >= self.limit && !self.short.swap(true, SeqCst) {
            self.changed.notify_one();
        }
    }

    pub(crate) fn discharge(&self, bytes: usize) {
        let used = self.used.fetch_sub(bytes, SeqCst) - bytes;
        if self.is_short() && self.is_enough(used) {
            self.changed.notify_one();
        }
    }

    fn is_enough(&self, used: usize) -> bool {
        used <= self.enough()
    }

    /// Bytes charged at which memory is no longer short.
    fn enough(&self) -> usize {
        self.limit - self.limit / 8
    }

    /// Bytes that must be freed until memory is no longer short.
    pub(crate) fn excess(&self) -> usize {
        self.used().saturating_sub(self.enough())
    }
}

/// A charge of one owner, whose size may change. Discharged when dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct Charge {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Charge {
    pub(crate) fn new(memory: &Arc<Memory>, bytes: usize) -> Self {
        memory.charge(bytes);
        Self {
            memory: memory.clone(),
            bytes,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the size of the charge.
    pub(crate) fn set(&mut self, bytes: usize) {
        match bytes.checked_sub(self.bytes) {
            Some(0) => return,
            Some(more) => self.memory.charge(more),
            None => self.memory.discharge(self.bytes - bytes),
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Bytes with shared owners, charged once.
pub(crate) struct ChargedBytes {
    pub(crate) bytes: Vec<u8>,
    pub(crate) _charge: Charge,
}

impl AsRef<[u8]> for ChargedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The owners of memory, which [`govern`] controls.
pub(crate) trait Holders: Send {
    /// The number of connections.
    fn count(&self) -> usize;
    /// Called when memory becomes short: progress in freeing it is measured from now on.
    fn observe(&mut self);
    /// Closes the connections that hold the most, each at least `share` bytes, until enough would be freed;
    /// false if there are none. `spares`: spare those that are about to free memory, and the others while
    /// that helps.
    fn close_largest(&mut self, share: usize, spares: bool) -> bool;
    /// Called when memory is no longer short: wakes those that wait.
    fn wake_all(&self);
}

/// Enforces the memory limit of a server; never returns.
pub(crate) async fn govern(memory: &Memory, mut holders: impl Holders) {
    loop {
        memory.changed.notified().await;
        if !memory.is_short() {
            continue;
        }
        let (since, mut pause) = (Instant::now(), GRACE);
        holders.observe();
        while memory.is_short() {
            memory.divide(holders.count());
            // Returns early when enough memory is free.
            let waited = timeout(pause, memory.changed.notified()).await;
            if memory.is_enough(memory.used()) {
                memory.short.store(false, SeqCst);
                // The limit may have been reached again in between, without a notification.
                memory.charge(0);
                holders.wake_all();
            } else if waited.is_err() {
                let spares = since.elapsed() < LONGEST;
                if holders.close_largest(memory.share.load(Relaxed), spares) {
                    pause = NEXT;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_short_from_the_limit_on_and_dropped_charges_are_discharged() {
        let memory = Arc::new(Memory::new(1000));
        let mut one = Charge::new(&memory, 400);
        let two = Charge::new(&memory, 599);
        assert_eq!((memory.used(), memory.is_short()), (999, false));
        one.set(401);
        assert!(memory.is_short());
        one.set(0);
        drop(two);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_share_is_an_equal_part_within_its_bounds() {
        let memory = Memory::new(64 << 20);
        assert_eq!(memory.share(), None);
        memory.charge(64 << 20);
        for (connections, share) in [
            (0, MOST_SHARE),
            (256, MOST_SHARE),
            (512, 32 << 10),
            (1_000_000, LEAST_SHARE),
        ] {
            memory.divide(connections);
            assert_eq!(memory.share(), Some(share), "{connections}");
        }
    }

    struct Count<'a>(
        &'a AtomicUsize,
        &'a AtomicUsize,
        std::sync::Mutex<Vec<Charge>>,
    );

    impl Holders for Count<'_> {
        fn count(&self) -> usize {
            self.2.lock().unwrap().len()
        }

        fn observe(&mut self) {}

        fn close_largest(&mut self, share: usize, spares: bool) -> bool {
            assert_eq!((share, spares), (LEAST_SHARE, true));
            self.0.fetch_add(1, SeqCst);
            self.2.lock().unwrap().pop().is_some()
        }

        fn wake_all(&self) {
            self.1.fetch_add(1, SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_closed_one_by_one_until_memory_is_no_longer_short() {
        let memory = Arc::new(Memory::new(1000));
        let (ended, woken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let charges = (0..5).map(|_| Charge::new(&memory, 300)).collect();
        let holders = Count(&ended, &woken, std::sync::Mutex::new(charges));
        let wait = timeout(Duration::from_secs(10), govern(&memory, holders));
        assert!(wait.await.is_err());
        assert_eq!(memory.used(), 0, "dropped with the holders");
        assert_eq!((ended.into_inner(), woken.into_inner()), (3, 1));
        assert!(!memory.is_short());
    }
}

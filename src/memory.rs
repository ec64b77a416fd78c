//! What a server's buffers and tables hold, and what happens when that is too much.
//!
//! Each owner charges what it holds and discharges what it gives back, in steps coarse enough to
//! cost nothing. Beyond the limit memory is `short`: those who would need more of it wait, and
//! [`govern`] ends the connection that holds most if waiting does not help. One that reads what waits for
//! it is not to blame: its senders wait, and it is spared for as long as that helps.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

/// What is a connection's share while memory is short: a quarter of all memory, divided among
/// them, so that somebody has more than that whenever there is too little.
const SHARED_PART: usize = 4;
/// Nobody needs more to be served as at any other time.
pub(crate) const MOST_SHARE: usize = 64 << 10;
/// One chunk of a socket: with less nothing could be read.
const LEAST_SHARE: usize = 16 << 10;
/// A connection, before anything is sent or read on it: its task, socket and table entries.
pub(crate) const CONNECTION: usize = 4 << 10;
/// A socket that shakes hands, before anything is read: its task.
pub(crate) const HANDSHAKE: usize = 3 << 10;
/// What TLS adds to it at rest: keys, and rustls' buffer for what it reads. What a peer makes of that
/// buffer is charged beside it, in `tls/inbound.rs`.
pub(crate) const TLS: usize = 8 << 10;
/// A request that awaits an answer, but for its ack: its entries in tables that have room for more.
pub(crate) const REQUEST: usize = 384;
/// How long those who hold memory may give it back by themselves before one of them is ended.
const GRACE: Duration = Duration::from_millis(500);
/// From the end of one to the next.
const NEXT: Duration = Duration::from_millis(50);
/// How long those are spared who are about to free it.
const LONGEST: Duration = Duration::from_secs(5);

/// The memory of one server.
#[derive(Debug)]
pub(crate) struct Memory {
    used: AtomicUsize,
    limit: usize,
    /// True from the limit on, until an eighth of it is free again.
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

    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// True while there is too little of it.
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Relaxed)
    }

    /// While memory is short, what may still wait for one connection, and be read of one message:
    /// those who need no more than this notice nothing.
    pub(crate) fn share(&self) -> Option<usize> {
        self.is_short().then(|| self.share.load(Relaxed))
    }

    /// Divides it anew.
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

    /// Bytes held of which there is enough again.
    fn enough(&self) -> usize {
        self.limit - self.limit / 8
    }

    /// Bytes that must become free until there is enough.
    pub(crate) fn excess(&self) -> usize {
        self.used().saturating_sub(self.enough())
    }
}

/// Bytes charged by one owner, which may change; discharged when it is dropped.
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

    /// Holds this many bytes from now on.
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

/// Bytes that several hold, charged once.
pub(crate) struct ChargedBytes {
    pub(crate) bytes: Vec<u8>,
    pub(crate) _charge: Charge,
}

impl AsRef<[u8]> for ChargedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Whoever holds memory.
pub(crate) trait Holders: Send {
    /// How many they are.
    fn count(&self) -> usize;
    /// Memory has become short: whether they free any is seen from now on.
    fn observe(&mut self);
    /// Ends those that hold most, and at least `share`, until there would be enough; false if there are
    /// none. `spares`: not those who are about to free it, nor others while that helps.
    fn end_largest(&mut self, share: usize, spares: bool) -> bool;
    /// There is enough again: those who wait go on.
    fn go_on(&self);
}

/// Keeps a server within its memory, for ever.
pub(crate) async fn govern(memory: &Memory, mut holders: impl Holders) {
    loop {
        memory.changed.notified().await;
        if !memory.is_short() {
            continue;
        }
        let (since, mut patience) = (Instant::now(), GRACE);
        holders.observe();
        while memory.is_short() {
            memory.divide(holders.count());
            // Ends early when there is enough again.
            let waited = timeout(patience, memory.changed.notified()).await;
            if memory.is_enough(memory.used()) {
                memory.short.store(false, SeqCst);
                // It may have become too much in between, and nobody would have told.
                memory.charge(0);
                holders.go_on();
            } else if waited.is_err() {
                let spares = since.elapsed() < LONGEST;
                if holders.end_largest(memory.share.load(Relaxed), spares) {
                    patience = NEXT;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_is_discharged_and_short_from_the_limit_on() {
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
    fn a_share_is_what_all_may_have_at_once_and_neither_much_nor_nothing() {
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

        fn end_largest(&mut self, share: usize, spares: bool) -> bool {
            assert_eq!((share, spares), (LEAST_SHARE, true));
            self.0.fetch_add(1, SeqCst);
            self.2.lock().unwrap().pop().is_some()
        }

        fn go_on(&self) {
            self.1.fetch_add(1, SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_after_the_other_is_ended_until_there_is_enough() {
        let memory = Arc::new(Memory::new(1000));
        let (ended, went_on) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let charges = (0..5).map(|_| Charge::new(&memory, 300)).collect();
        let holders = Count(&ended, &went_on, std::sync::Mutex::new(charges));
        let wait = timeout(Duration::from_secs(10), govern(&memory, holders));
        assert!(wait.await.is_err());
        assert_eq!(memory.used(), 0, "dropped with the holders");
        assert_eq!((ended.into_inner(), went_on.into_inner()), (3, 1));
        assert!(!memory.is_short());
    }
}

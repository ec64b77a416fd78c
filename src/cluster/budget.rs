//! A bound of the bytes that are on their way to other brokers: connections wait while it is reached.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::Waker,
};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

/// Bytes queued at which publishers and askers wait, and to which they wait.
const MAX_QUEUED: usize = 4 << 20;
const ENOUGH: usize = MAX_QUEUED / 2;

/// Bytes that are queued, and the connections that wait for room.
#[derive(Default)]
pub(super) struct Budget {
    pub(super) bytes: AtomicUsize,
    /// By the keys of the connections.
    waiters: Mutex<HashMap<u64, Waker, RandomState>>,
}

impl Budget {
    /// True if there is room. Otherwise the waker of the connection with this key is called when there is.
    pub(super) fn admit(&self, key: u64, waker: &Waker) -> bool {
        let has_room = || self.bytes.load(Relaxed) < MAX_QUEUED;
        if has_room() {
            return true;
        }
        self.waiters.lock().insert(key, waker.clone());
        // There may be room since: then the waker would never be called.
        has_room()
    }

    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn subtract(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Relaxed);
        if before >= ENOUGH && before - bytes < ENOUGH {
            for (_, waker) in self.waiters.lock().drain() {
                waker.wake();
            }
        }
    }
}

//! A log in memory.

use std::{
    future,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;

use super::{
    Behind, Bounds, Kept, Key, Log, LogStats, OnStored, Page, Place, Query, Reading, Record,
    Stored, Usage,
    index::{Costs, Index},
    keys::{KeyRow, Keys, now},
};
use crate::{
    memory::{Charge, Memory},
    sync::{Mutex, atomic::AtomicU64},
    topic,
};

/// Bytes charged for a message besides its frame: its entries in the log and in its topic, with unused ones, and the
/// allocation of the frame.
const MESSAGE: usize = 176;
/// Bytes charged for a topic besides its name, which is also that of an entry that remembers only what was trimmed.
const TOPIC: usize = 256;

/// A log in memory.
#[derive(Debug)]
pub(crate) struct MemoryLog {
    /// The pattern of the topics that it is for.
    pattern: Arc<str>,
    epoch: String,
    memory: Arc<Memory>,
    /// A copy of `Index::last`, readable without the lock.
    last: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// With the frames.
    index: Index<Bytes>,
    keys: Keys,
    charge: Charge,
}

impl MemoryLog {
    /// `pattern`: that of the topics that it is for.
    pub(crate) fn new(pattern: &str, bounds: Bounds, memory: &Arc<Memory>) -> Self {
        let costs = Costs {
            message: MESSAGE,
            topic: Some(TOPIC),
        };
        Self {
            pattern: pattern.into(),
            epoch: format!("{:x}", rand::random::<u64>()),
            memory: memory.clone(),
            last: AtomicU64::new(0),
            state: Mutex::new(State {
                index: Index::new(bounds, costs, None),
                keys: Keys::default(),
                charge: Charge::new(memory, 0),
            }),
        }
    }

    /// True if the log has no topics but those of the pattern.
    fn is_all(&self, pattern: &str) -> bool {
        topic::covers(pattern, &self.pattern)
    }

    fn read_page(&self, query: &Query) -> Page {
        let state = self.state.lock();
        let (found, mut page) = state.index.plan(query, self.is_all(&query.pattern));
        let kept = |(offset, frame)| Kept { offset, frame };
        page.messages = found.into_iter().map(kept).collect();
        page
    }
}

impl State {
    fn update_charge(&mut self) {
        self.charge.set(self.index.bytes + self.keys.memory());
    }
}

impl Log for MemoryLog {
    fn epoch(&self) -> &str {
        &self.epoch
    }

    fn next(&self, topic: &str) -> Place {
        self.state.lock().index.next(topic)
    }

    fn append(&self, record: Record<'_>) {
        let Record {
            topic,
            place: Place { offset, .. },
            frame,
            time,
            key,
        } = record;
        let state = &mut *self.state.lock();
        let before = state.index.bytes;
        state
            .index
            .append(topic, offset, time, (frame.len(), frame));
        // While memory is short, the log does not grow.
        if state.index.trims() && self.memory.is_short() {
            while state.index.bytes > before && state.index.trim_oldest() {}
        }
        if let Some(key) = key {
            state.keys.add(KeyRow { offset, time, key });
            state.keys.forget(time);
        }
        self.last.store(offset, Relaxed);
        state.update_charge();
    }

    fn has_room(&self, topic: &str, size: usize) -> bool {
        let state = self.state.lock();
        let has_room = state.index.has_room(topic, size);
        // While memory is short, the log does not grow.
        has_room && (state.index.trims() || !self.memory.is_short())
    }

    fn remove(&self, topic: &str, offset: u64) -> bool {
        let state = &mut *self.state.lock();
        let is_removed = state.index.remove(topic, offset);
        state.update_charge();
        is_removed
    }

    fn usage(&self, topic: &str) -> Usage {
        self.state.lock().index.usage(topic)
    }

    fn duplicate_of(&self, key: &Key) -> Option<u64> {
        self.state.lock().keys.find(key)
    }

    fn on_stored(&self, _offset: u64, done: OnStored) {
        done(Ok(Stored::Memory));
    }

    fn last(&self) -> u64 {
        self.last.load(Relaxed)
    }

    fn read(&self, query: &Query) -> Reading {
        Box::pin(future::ready(Ok(self.read_page(query))))
    }

    fn behind(&self, pattern: &str, offset: u64) -> Behind {
        let is_all = self.is_all(pattern);
        self.state.lock().index.behind(pattern, is_all, offset)
    }

    fn newest(&self, pattern: &str, count: usize) -> u64 {
        self.state.lock().index.newest(pattern, count)
    }

    fn expire(&self, at: u64) {
        let state = &mut *self.state.lock();
        state.index.expire(at);
        state.keys.forget(now());
        state.update_charge();
    }

    fn release(&self, bytes: usize) -> usize {
        let state = &mut *self.state.lock();
        if !state.index.trims() {
            return 0;
        }
        let before = state.index.bytes;
        while before - state.index.bytes < bytes && state.index.trim_oldest() {}
        state.update_charge();
        before - state.index.bytes
    }

    fn releasable(&self) -> usize {
        let state = self.state.lock();
        match state.index.trims() {
            true => state.index.bytes,
            false => 0,
        }
    }

    fn stats(&self) -> LogStats {
        let state = self.state.lock();
        LogStats {
            messages: state.index.messages() as u64,
            topics: state.index.topics() as u64,
            bytes: state.index.bytes as u64,
            trimmed: state.index.trimmed,
        }
    }
}

#[cfg(test)]
mod tests;

//! A log of a store on the disk.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Shared,
    file::Changes,
    rows::{Head, MessageRow},
};
use crate::{
    memory::Charge,
    store::{
        Behind, Kept, Key, Log, LogStats, OnStored, Page, Place, Query, Range, Reading, Record,
        StoreError, Stored, Usage, batch,
        index::Index,
        keys::{KeyRow, Keys, now},
    },
    topic,
};

/// Number of offsets that are reserved. The file says which ones before any of them is given, so that a later process does
/// not give them again. They are reserved anew when half of them are used.
const RESERVED: u64 = if cfg!(test) { 1 << 20 } else { 1 << 32 };
/// Bytes of memory that are charged for a message: its entries in the index, with unused ones.
const MESSAGE_MEMORY: usize = 40;
/// Bytes of memory that are charged for a topic besides its name.
const TOPIC_MEMORY: usize = 256;
/// Number of removals in one transaction: appended messages wait for it.
const REMOVALS: usize = 16_384;
/// Number of ranges of messages that were not stored which the log remembers.
const SKIPPED: usize = 64;

/// A log of a store on the disk.
#[derive(Debug)]
pub(crate) struct DiskLog {
    log: Arc<LogState>,
    shared: Arc<Shared>,
}

/// A log as the writer has it.
#[derive(Debug)]
pub(super) struct LogState {
    pattern: Arc<str>,
    number: u32,
    epoch: Arc<str>,
    /// A copy of the newest offset, readable without the lock.
    last: AtomicU64,
    state: Mutex<State>,
}

struct State {
    index: Index<()>,
    keys: Keys,
    /// The keys up to this offset are forgotten, and the file still has them.
    keys_forgotten_to: Option<u64>,
    /// Messages that the disk has not confirmed, oldest first.
    pending: VecDeque<MessageRow>,
    /// All messages up to this offset are on the disk.
    stored_to: u64,
    /// Callers that wait for their message, by offset.
    waiting: VecDeque<(u64, OnStored)>,
    /// Ranges of offsets whose messages were not stored because the queue was full.
    skipped: VecDeque<(u64, u64)>,
    /// The first and the last offset of the ranges that are not in `skipped` any more.
    forgotten_skipped: Option<(u64, u64)>,
    /// The last offset that is reserved.
    reserved: u64,
    /// `forgotten_to` as the file has it.
    written_forgotten_to: u64,
    /// Bytes of the frames in `pending`.
    pending_bytes: usize,
    charge: Charge,
}

impl fmt::Debug for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("State");
        debug
            .field("stored_to", &self.stored_to)
            .finish_non_exhaustive()
    }
}

impl DiskLog {
    pub(super) fn new(log: Arc<LogState>, shared: Arc<Shared>) -> Self {
        Self { log, shared }
    }
}

#[cfg(test)]
impl DiskLog {
    /// True if changes are collected for the file.
    pub(super) fn is_journaled(&self) -> bool {
        self.log.state.lock().index.journal.is_some()
    }
}

impl LogState {
    /// `index`, `keys`: of all messages that the file has. Offsets continue behind those that may have been given before.
    pub(super) fn new(
        head: &Head,
        (mut index, mut keys): (Index<()>, Keys),
        charge: Charge,
    ) -> Self {
        let start = head.reserved.max(index.last);
        index.jumped_to = match head.is_closed {
            true => head.jumped_to,
            // Some of the reserved offsets were not used.
            false => start,
        };
        index.last = start;
        let mut state = State {
            written_forgotten_to: index.forgotten_to,
            index,
            keys_forgotten_to: keys.forget(now()),
            keys,
            pending: VecDeque::new(),
            stored_to: start,
            waiting: VecDeque::new(),
            skipped: VecDeque::new(),
            forgotten_skipped: None,
            reserved: start,
            pending_bytes: 0,
            charge,
        };
        state.update_charge();
        Self {
            pattern: head.pattern.clone(),
            number: head.number,
            epoch: head.epoch.clone(),
            last: AtomicU64::new(start),
            state: Mutex::new(state),
        }
    }

    fn head(&self, state: &State, is_closed: bool) -> Head {
        Head {
            pattern: self.pattern.clone(),
            number: self.number,
            reserved: state.reserved,
            is_closed,
            forgotten_to: state.index.forgotten_to,
            jumped_to: state.index.jumped_to,
            epoch: self.epoch.clone(),
        }
    }

    /// True if the log has no topics but those of the pattern.
    fn is_all(&self, pattern: &str) -> bool {
        topic::covers(pattern, &self.pattern)
    }

    /// Bytes of all messages.
    pub(super) fn bytes(&self) -> usize {
        self.state.lock().index.bytes
    }

    /// Number of messages that the disk has not confirmed.
    pub(super) fn pending(&self) -> u64 {
        self.state.lock().pending.len() as u64
    }

    /// The changes that are to be written, and whether there are more. `is_last`: the store is being closed.
    pub(super) fn changes(&self, is_last: bool) -> (Changes, bool) {
        let state = &mut *self.state.lock();
        let index = &mut state.index;
        let Some(journal) = &mut index.journal else {
            // The store has failed.
            return (Changes::default(), false);
        };
        let removals = match is_last {
            true => journal.removals.len(),
            false => journal.removals.len().min(REMOVALS),
        };
        let removed = match removals == journal.removals.len() {
            true => std::mem::take(&mut journal.removals),
            false => journal.removals.drain(..removals).collect(),
        };
        let has_more = !journal.removals.is_empty();
        let topics = std::mem::take(&mut journal.topics);
        let is_low = state.reserved < index.last + RESERVED / 2;
        if is_last {
            state.reserved = index.last;
        } else if is_low {
            state.reserved = index.last + RESERVED;
        }
        let is_changed = is_last || is_low || index.forgotten_to != state.written_forgotten_to;
        state.written_forgotten_to = index.forgotten_to;
        let changes = Changes {
            number: self.number,
            head: is_changed.then(|| self.head(state, is_last)),
            topics,
            appended: state.pending.iter().cloned().collect(),
            removed,
            keys_forgotten_to: state.keys_forgotten_to.take(),
        };
        (changes, has_more)
    }

    /// The disk has confirmed these changes. Adds the callbacks that wait for them. Returns the bytes that were pending.
    pub(super) fn on_written(&self, changes: &Changes, ready: &mut Vec<OnStored>) -> usize {
        let state = &mut *self.state.lock();
        let Some(last) = changes.appended.last() else {
            return 0;
        };
        if state.pending.is_empty() {
            // The store has failed meanwhile.
            return 0;
        }
        state.pending.drain(..changes.appended.len());
        state.stored_to = state.stored_to.max(last.offset);
        let freed = changes.appended.iter().map(queued_bytes).sum();
        state.pending_bytes -= freed;
        state.update_charge();
        // With no message pending, those that were skipped behind the last one count as done.
        let to = match state.pending.front() {
            Some(next) => next.offset - 1,
            None => u64::MAX,
        };
        let count = state.waiting.partition_point(|(offset, _)| *offset <= to);
        ready.extend(state.waiting.drain(..count).map(|(_, done)| done));
        freed
    }

    /// The store has failed: nothing pending will be stored. Returns the number of these messages.
    pub(super) fn on_failure(&self, error: &StoreError) -> u64 {
        let (waiting, lost) = {
            let state = &mut *self.state.lock();
            let lost = state.pending.len() as u64;
            if let Some(first) = state.pending.front() {
                state.index.remove_from(first.offset);
                state.keys.remove_from(first.offset);
            }
            state.pending = VecDeque::new();
            state.pending_bytes = 0;
            state.index.journal = None;
            state.update_charge();
            (std::mem::take(&mut state.waiting), lost)
        };
        let callbacks = waiting.into_iter().map(|(_, done)| done).collect();
        batch::run(callbacks, &Err(error.clone()));
        lost
    }

    /// The page of a query, with those frames that are in memory, and the offsets of all.
    fn plan(&self, query: &Query) -> (Vec<(u64, Option<Bytes>)>, Page) {
        let state = self.state.lock();
        let (offsets, page) = state.index.plan(query, self.is_all(&query.pattern));
        let frame = |(offset, ()): (u64, ())| {
            let place = state.pending.partition_point(|row| row.offset < offset);
            let row = state.pending.get(place).filter(|row| row.offset == offset);
            (offset, row.map(|row| row.frame.clone()))
        };
        (offsets.into_iter().map(frame).collect(), page)
    }
}

impl State {
    fn update_charge(&mut self) {
        let index = self.index.memory(MESSAGE_MEMORY, TOPIC_MEMORY);
        self.charge
            .set(index + self.keys.memory() + self.pending_bytes);
    }

    fn add_key(&mut self, row: KeyRow) {
        self.keys.add(row);
        self.forget_keys(row.time);
    }

    fn forget_keys(&mut self, now: u64) {
        if let Some(offset) = self.keys.forget(now) {
            self.keys_forgotten_to = Some(offset);
        }
    }

    /// True if the message was not stored because the queue was full. Also if that is not known any more and the log does
    /// not have the message.
    fn is_skipped(&self, offset: u64) -> bool {
        let is_in = |(first, last): &(u64, u64)| (*first..=*last).contains(&offset);
        if self.forgotten_skipped.as_ref().is_some_and(is_in) {
            return !self.index.contains(offset);
        }
        self.skipped.iter().any(is_in)
    }

    /// Counts a message that is not stored.
    fn skip(&mut self, topic: &str, offset: u64) {
        self.index.skip(topic, offset);
        match self.skipped.back_mut() {
            Some((_, last)) if *last + 1 == offset => *last = offset,
            _ => {
                if self.skipped.len() == SKIPPED
                    && let Some((first, last)) = self.skipped.pop_front()
                {
                    let first = self.forgotten_skipped.map_or(first, |(first, _)| first);
                    self.forgotten_skipped = Some((first, last));
                }
                self.skipped.push_back((offset, offset));
            }
        }
    }
}

/// Bytes that count for a message in the queue of the writer.
fn queued_bytes(row: &MessageRow) -> usize {
    row.frame.len() + MESSAGE_MEMORY + std::mem::size_of::<MessageRow>()
}

impl Log for DiskLog {
    fn epoch(&self) -> &str {
        &self.log.epoch
    }

    fn next(&self, topic: &str) -> Place {
        self.log.state.lock().index.next(topic)
    }

    fn append(&self, record: Record<'_>) {
        let Record {
            topic,
            place: Place { offset, prev },
            frame,
            time,
            key,
        } = record;
        let state = &mut *self.log.state.lock();
        let size = frame.len();
        let row = |topic, time| MessageRow {
            offset,
            time,
            prev,
            topic,
            frame,
            key,
        };
        if self.shared.has_failed() || !self.shared.has_room(size) {
            state.skip(topic, offset);
            self.shared.not_stored.fetch_add(1, Relaxed);
        } else {
            let before = state.index.bytes;
            let (number, time) = state.index.append(topic, offset, time, (size, ()));
            while state.index.trims()
                && self.shared.exceeds(before, state.index.bytes)
                && state.index.trim_oldest()
            {}
            self.shared.set_bytes(before, state.index.bytes);
            let row = row(number, time);
            if let Some(key) = key {
                state.add_key(KeyRow { offset, time, key });
            }
            let bytes = queued_bytes(&row);
            state.pending.push_back(row);
            state.pending_bytes += bytes;
            state.update_charge();
            self.shared.add_queued(bytes);
        }
        self.log.last.store(offset, Relaxed);
    }

    fn has_room(&self, topic: &str, size: usize) -> bool {
        let index = &self.log.state.lock().index;
        let (now, growth) = (index.bytes, index.growth(topic, size));
        index.trims()
            || index.has_room(topic, size) && !self.shared.exceeds(now, now.saturating_add(growth))
    }

    fn remove(&self, topic: &str, offset: u64) -> bool {
        let state = &mut *self.log.state.lock();
        let before = state.index.bytes;
        let is_removed = state.index.remove(topic, offset);
        if is_removed {
            self.shared.set_bytes(before, state.index.bytes);
            state.update_charge();
            self.shared.wake_later();
        }
        is_removed
    }

    fn usage(&self, topic: &str) -> Usage {
        self.log.state.lock().index.usage(topic)
    }

    fn duplicate_of(&self, key: &Key) -> Option<u64> {
        self.log.state.lock().keys.find(key)
    }

    fn on_stored(&self, offset: u64, done: OnStored) {
        let answer = {
            let state = &mut *self.log.state.lock();
            if state.is_skipped(offset) {
                Err(self.shared.why_skipped())
            } else if offset <= state.stored_to {
                Ok(self.shared.safety())
            } else if let Some(error) = self.shared.failure() {
                Err(error)
            } else if state.pending.is_empty() {
                Err(self.shared.why_skipped())
            } else if !self.shared.waits() {
                Ok(Stored::Memory)
            } else {
                let place = state.waiting.partition_point(|(other, _)| *other <= offset);
                state.waiting.insert(place, (offset, done));
                return;
            }
        };
        done(answer);
    }

    fn last(&self) -> u64 {
        self.log.last.load(Relaxed)
    }

    fn read(&self, query: &Query) -> Reading {
        let (log, shared, query) = (self.log.clone(), self.shared.clone(), query.clone());
        Box::pin(async move {
            let (planned, mut page) = log.plan(&query);
            let missing = planned.iter().filter(|(_, frame)| frame.is_none());
            let offsets: Vec<u64> = missing.map(|(offset, _)| *offset).collect();
            let mut frames = match offsets.is_empty() {
                true => Vec::new(),
                false => shared.read(log.number, offsets).await?,
            }
            .into_iter();
            let mut is_complete = true;
            for (offset, frame) in planned {
                match frame.or_else(|| frames.next().flatten()) {
                    Some(frame) => page.messages.push(Kept { offset, frame }),
                    None => is_complete = false,
                }
            }
            if let (false, Range::After(after)) = (is_complete, query.range) {
                // Some were trimmed meanwhile.
                let state = log.state.lock();
                let is_all = log.is_all(&query.pattern);
                let trimmed_to = state
                    .index
                    .trimmed_of_pattern(&query.pattern, is_all, after);
                page.trimmed_to = page.trimmed_to.max(trimmed_to);
            }
            Ok(page)
        })
    }

    fn behind(&self, pattern: &str, offset: u64) -> Behind {
        let is_all = self.log.is_all(pattern);
        self.log.state.lock().index.behind(pattern, is_all, offset)
    }

    fn newest(&self, pattern: &str, count: usize) -> u64 {
        self.log.state.lock().index.newest(pattern, count)
    }

    fn expire(&self, at: u64) {
        let state = &mut *self.log.state.lock();
        state.forget_keys(now());
        let before = state.index.bytes;
        state.index.expire(at);
        if state.index.bytes < before {
            self.shared.set_bytes(before, state.index.bytes);
            state.update_charge();
            self.shared.wake();
        }
    }

    fn releasable(&self) -> usize {
        0
    }

    fn release(&self, _bytes: usize) -> usize {
        // The index is needed, and the cache of the file is small.
        0
    }

    fn stats(&self) -> LogStats {
        let state = self.log.state.lock();
        LogStats {
            messages: state.index.messages() as u64,
            topics: state.index.topics() as u64,
            bytes: state.index.bytes as u64,
            trimmed: state.index.trimmed,
        }
    }
}

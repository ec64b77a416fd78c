//! A log in memory.

use std::{
    collections::VecDeque,
    future,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use foldhash::quality::RandomState;
use hashbrown::HashMap;

use super::{
    Behind, Bounds, Kept, Log, LogStats, OnStored, Page, Place, Query, Range, Reading, Record,
    Stored,
};
use crate::{
    memory::{Charge, Memory},
    sync::{Mutex, atomic::AtomicU64},
    topic,
};

/// Bytes charged for a message besides its frame: its entries in the log and in its topic, with as many unused ones, and
/// the allocation of the frame.
const MESSAGE: usize = 176;
/// Bytes charged for a topic besides its name, which is also that of an entry that remembers only what was trimmed.
const TOPIC: usize = 192;
/// Number of topics without messages of which the log remembers what was trimmed.
const EMPTY_TOPICS: usize = if cfg!(test) { 8 } else { 16_384 };
/// Number of messages that a query, or a count, examines at most.
const EXAMINED: usize = 4096;
/// Number of messages that are examined for the newest ones of a pattern with wildcards.
const NEWEST_EXAMINED: usize = 65_536;
/// Removed messages in the table that are not worth a compaction.
const FEW_REMOVED: usize = 64;

/// A log in memory.
#[derive(Debug)]
pub(crate) struct MemoryLog {
    /// The pattern of the topics that it is for.
    pattern: Arc<str>,
    epoch: String,
    bounds: Bounds,
    memory: Arc<Memory>,
    /// A copy of `State::last`, readable without the lock.
    last: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// All messages by offset, and places of removed ones.
    entries: VecDeque<Entry>,
    /// Number of removed ones in `entries`.
    removed: usize,
    topics: HashMap<Arc<str>, Topic, RandomState>,
    /// Topics that have lost their last message, with its offset, in this order. Some may have messages again.
    empty: VecDeque<(Arc<str>, u64)>,
    /// Number of topics without messages.
    empty_count: usize,
    /// The newest offset.
    last: u64,
    /// The newest offset that was trimmed, of all topics.
    trimmed_to: u64,
    /// The newest offset that was trimmed of a topic that is not in `topics` any more.
    forgotten_to: u64,
    trimmed: u64,
    /// The time of the newest message: the clock may be set back.
    now: u64,
    charge: Charge,
}

#[derive(Debug)]
struct Entry {
    offset: u64,
    time: u64,
    /// None if it was removed.
    topic: Option<Arc<str>>,
    frame: Bytes,
}

#[derive(Debug, Default)]
struct Topic {
    /// The offsets of its messages, oldest first.
    offsets: VecDeque<u64>,
    /// The offset of its newest message, trimmed or not.
    last: u64,
    /// The newest offset that was trimmed of it. Zero: none.
    trimmed_to: u64,
}

impl MemoryLog {
    /// `pattern`: that of the topics that it is for.
    pub(crate) fn new(pattern: &str, bounds: Bounds, memory: &Arc<Memory>) -> Self {
        Self {
            pattern: pattern.into(),
            epoch: format!("{:x}", rand::random::<u64>()),
            bounds,
            memory: memory.clone(),
            last: AtomicU64::new(0),
            state: Mutex::new(State {
                entries: VecDeque::new(),
                removed: 0,
                topics: HashMap::default(),
                empty: VecDeque::new(),
                empty_count: 0,
                last: 0,
                trimmed_to: 0,
                forgotten_to: 0,
                trimmed: 0,
                now: 0,
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
        let mut budget = Budget {
            messages: query.messages,
            bytes: query.bytes,
            page: Page::default(),
        };
        let pattern = &query.pattern;
        match (query.range, topic::has_wildcards(pattern)) {
            (Range::After(after), false) => state.read_topic(pattern, after, &mut budget),
            (Range::After(after), true) => {
                let is_all = self.is_all(pattern);
                state.read_pattern(pattern, is_all, after, &mut budget);
            }
            (Range::Before(before), _) => state.read_before(pattern, before, &mut budget),
        }
        budget.page
    }
}

/// The page of a query, and what it may still hold.
struct Budget {
    messages: usize,
    bytes: usize,
    page: Page,
}

impl Budget {
    /// Adds a message. False if there is no room for it.
    fn add(&mut self, entry: &Entry) -> bool {
        let is_first = self.page.messages.is_empty();
        let size = entry.frame.len();
        if self.messages == 0 || (size > self.bytes && !is_first) {
            return false;
        }
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(size);
        self.page.messages.push(Kept {
            offset: entry.offset,
            frame: entry.frame.clone(),
        });
        true
    }
}

impl State {
    /// The place in `entries` of the first message with at least this offset.
    fn place_of(&self, offset: u64) -> usize {
        self.entries.partition_point(|entry| entry.offset < offset)
    }

    fn entry(&self, offset: u64) -> Option<&Entry> {
        let entry = self.entries.get(self.place_of(offset))?;
        (entry.offset == offset).then_some(entry)
    }

    /// The newest offset that was trimmed of this topic, at most.
    fn trimmed_of(&self, topic: &str) -> u64 {
        match self.topics.get(topic) {
            Some(topic) => topic.trimmed_to,
            None => self.forgotten_to,
        }
    }

    /// The newest offset that was trimmed of the topics of a pattern, at most.
    fn trimmed_of_pattern(&self, pattern: &str, after: u64) -> u64 {
        if self.trimmed_to <= after {
            return self.trimmed_to;
        }
        let topics = self.topics.iter();
        let trimmed = topics
            .filter(|(name, topic)| topic.trimmed_to > after && topic::covers(pattern, name))
            .map(|(_, topic)| topic.trimmed_to);
        trimmed.max().unwrap_or(0).max(self.forgotten_to)
    }

    fn read_topic(&self, name: &str, after: u64, budget: &mut Budget) {
        budget.page.trimmed_to = self.trimmed_of(name);
        budget.page.next = self.last.max(after);
        let Some(topic) = self.topics.get(name) else {
            return;
        };
        let from = topic.offsets.partition_point(|offset| *offset <= after);
        let mut read_to = after;
        for offset in topic.offsets.range(from..) {
            let is_read = self.entry(*offset).is_none_or(|entry| budget.add(entry));
            if !is_read {
                (budget.page.next, budget.page.more) = (read_to, true);
                return;
            }
            read_to = *offset;
        }
    }

    fn read_pattern(&self, pattern: &str, is_all: bool, after: u64, budget: &mut Budget) {
        budget.page.trimmed_to = match is_all {
            true => self.trimmed_to,
            false => self.trimmed_of_pattern(pattern, after),
        };
        let mut read_to = after;
        let from = self.place_of(after.saturating_add(1));
        for (examined, entry) in self.entries.range(from..).enumerate() {
            let matches = |topic: &Arc<str>| is_all || topic::covers(pattern, topic);
            let is_meant = entry.topic.as_ref().is_some_and(matches);
            if examined == EXAMINED || is_meant && !budget.add(entry) {
                (budget.page.next, budget.page.more) = (read_to, true);
                return;
            }
            read_to = entry.offset;
        }
        budget.page.next = self.last.max(after);
    }

    fn read_before(&self, pattern: &str, before: u64, budget: &mut Budget) {
        let mut read_to = before;
        if topic::has_wildcards(pattern) {
            let end = self.place_of(before);
            for (examined, entry) in self.entries.range(..end).rev().enumerate() {
                let matches = |topic: &Arc<str>| topic::covers(pattern, topic);
                let is_meant = entry.topic.as_ref().is_some_and(matches);
                if examined == EXAMINED || is_meant && !budget.add(entry) {
                    budget.page.more = true;
                    break;
                }
                read_to = entry.offset;
            }
        } else if let Some(topic) = self.topics.get(pattern) {
            let end = topic.offsets.partition_point(|offset| *offset < before);
            for offset in topic.offsets.range(..end).rev() {
                let is_read = self.entry(*offset).is_none_or(|entry| budget.add(entry));
                if !is_read {
                    budget.page.more = true;
                    break;
                }
                read_to = *offset;
            }
        }
        budget.page.next = read_to;
        budget.page.messages.reverse();
    }

    /// Trims the message at this place of `entries`, which is the oldest of its topic.
    fn trim(&mut self, place: usize) -> usize {
        let entry = &mut self.entries[place];
        let Some(name) = entry.topic.take() else {
            return 0;
        };
        let offset = entry.offset;
        let frame = std::mem::take(&mut entry.frame);
        let freed = frame.len() + MESSAGE;
        self.removed += 1;
        self.trimmed += 1;
        self.trimmed_to = self.trimmed_to.max(offset);
        if let Some(topic) = self.topics.get_mut(&*name) {
            let oldest = topic.offsets.pop_front();
            debug_assert_eq!(oldest, Some(offset));
            topic.trimmed_to = offset;
            if topic.offsets.is_empty() {
                topic.offsets = VecDeque::new();
                self.empty_count += 1;
                self.empty.push_back((name, offset));
            } else if topic.offsets.capacity() > 64
                && topic.offsets.len() < topic.offsets.capacity() / 4
            {
                topic.offsets.shrink_to(topic.offsets.len() * 2);
            }
        }
        self.charge.set(self.charge.bytes() - freed);
        freed + self.forget_topics()
    }

    /// Forgets the topics that have been without messages for the longest time, if there are too many.
    fn forget_topics(&mut self) -> usize {
        let mut freed = 0;
        while self.empty_count > EMPTY_TOPICS || self.empty.len() > 2 * EMPTY_TOPICS {
            let Some((name, offset)) = self.empty.pop_front() else {
                break;
            };
            let is_it = |topic: &Topic| topic.offsets.is_empty() && topic.trimmed_to == offset;
            if !self.topics.get(&*name).is_some_and(is_it) {
                continue;
            }
            if let Some(topic) = self.topics.remove(&*name) {
                self.forgotten_to = self.forgotten_to.max(topic.trimmed_to);
                self.empty_count -= 1;
                freed += TOPIC + name.len();
            }
        }
        self.charge.set(self.charge.bytes() - freed);
        freed
    }

    /// Trims the oldest message. Returns the bytes freed; none if there are no messages.
    fn trim_oldest(&mut self) -> Option<usize> {
        self.drop_removed();
        match self.entries.is_empty() {
            true => None,
            false => Some(self.trim(0)),
        }
    }

    /// Drops removed entries at the front, and all if there are many.
    fn drop_removed(&mut self) {
        while (self.entries.front()).is_some_and(|entry| entry.topic.is_none()) {
            self.entries.pop_front();
            self.removed -= 1;
        }
        let live = self.entries.len() - self.removed;
        if self.removed > live + FEW_REMOVED {
            self.entries.retain(|entry| entry.topic.is_some());
            self.removed = 0;
        }
        if self.entries.capacity() > 1024 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    fn messages(&self) -> usize {
        self.entries.len() - self.removed
    }
}

impl Log for MemoryLog {
    fn epoch(&self) -> &str {
        &self.epoch
    }

    fn next(&self, topic: &str) -> Place {
        let state = self.state.lock();
        Place {
            offset: state.last + 1,
            prev: state.topics.get(topic).map_or(0, |topic| topic.last),
        }
    }

    fn append(&self, record: Record<'_>) {
        let Record {
            topic: name,
            place,
            frame,
            time,
        } = record;
        let state = &mut *self.state.lock();
        let offset = place.offset;
        state.now = state.now.max(time);
        let mut grown = frame.len() + MESSAGE;
        let known = state.topics.get_key_value(name);
        let name: Arc<str> = known.map_or_else(|| name.into(), |(known, _)| known.clone());
        let topic = state.topics.entry(name.clone()).or_insert_with(|| {
            grown += TOPIC + name.len();
            state.empty_count += 1;
            Topic::default()
        });
        if topic.offsets.is_empty() {
            state.empty_count -= 1;
        }
        topic.offsets.push_back(offset);
        topic.last = offset;
        let excess = (topic.offsets.len() > self.bounds.messages).then(|| topic.offsets[0]);
        state.entries.push_back(Entry {
            offset,
            time: state.now,
            topic: Some(name),
            frame,
        });
        state.last = offset;
        self.last.store(offset, Relaxed);
        state.charge.set(state.charge.bytes() + grown);
        if let Some(oldest) = excess {
            let place = state.place_of(oldest);
            state.trim(place);
        }
        while state.charge.bytes() > self.bounds.bytes && state.trim_oldest().is_some() {}
        // While memory is short, the log does not grow.
        let mut freed = 0;
        while self.memory.is_short() && freed < grown {
            match state.trim_oldest() {
                Some(bytes) => freed += bytes,
                None => break,
            }
        }
        state.drop_removed();
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
        let state = self.state.lock();
        let is_all = self.is_all(pattern);
        let (trimmed_to, messages) = if !topic::has_wildcards(pattern) {
            let topic = state.topics.get(pattern);
            let offsets = topic.map_or(0, |topic| {
                let before = topic.offsets.partition_point(|one| *one <= offset);
                topic.offsets.len() - before
            });
            (state.trimmed_of(pattern), Some(offsets as u64))
        } else {
            let trimmed_to = match is_all {
                true => state.trimmed_to,
                false => state.trimmed_of_pattern(pattern, offset),
            };
            let from = state.place_of(offset.saturating_add(1));
            let messages = match from {
                0 if is_all => Some(state.messages() as u64),
                _ if state.entries.len() - from > EXAMINED => None,
                _ => {
                    let matches = |topic: &Arc<str>| is_all || topic::covers(pattern, topic);
                    let is_meant = |entry: &&Entry| entry.topic.as_ref().is_some_and(matches);
                    Some(state.entries.range(from..).filter(is_meant).count() as u64)
                }
            };
            (trimmed_to, messages)
        };
        // Of all topics together the offsets count the messages.
        let lost = |messages| (state.last.saturating_sub(offset)).saturating_sub(messages);
        Behind {
            trimmed_to,
            lost: match trimmed_to <= offset {
                true => Some(0),
                false => messages.filter(|_| is_all).map(lost),
            },
            messages,
        }
    }

    fn newest(&self, pattern: &str, count: usize) -> u64 {
        let state = self.state.lock();
        if count == 0 {
            return state.last;
        }
        if !topic::has_wildcards(pattern) {
            let Some(topic) = state.topics.get(pattern) else {
                return state.last;
            };
            let from = topic.offsets.len().saturating_sub(count);
            return topic.offsets.get(from).map_or(state.last, |one| one - 1);
        }
        let (mut from, mut found) = (state.last, 0);
        for entry in state.entries.iter().rev().take(NEWEST_EXAMINED) {
            if (entry.topic.as_ref()).is_some_and(|topic| topic::covers(pattern, topic)) {
                (from, found) = (entry.offset - 1, found + 1);
                if found == count {
                    break;
                }
            }
        }
        from
    }

    fn expire(&self, now: u64) {
        let Some(age) = self.bounds.age else { return };
        let state = &mut *self.state.lock();
        state.now = state.now.max(now);
        let oldest = state.now.saturating_sub(age);
        loop {
            state.drop_removed();
            match state.entries.front() {
                Some(entry) if entry.time < oldest => state.trim(0),
                _ => return,
            };
        }
    }

    fn release(&self, bytes: usize) -> usize {
        let state = &mut *self.state.lock();
        let mut freed = 0;
        while freed < bytes {
            match state.trim_oldest() {
                Some(more) => freed += more,
                None => break,
            }
        }
        state.drop_removed();
        freed
    }

    fn stats(&self) -> LogStats {
        let state = self.state.lock();
        LogStats {
            messages: state.messages() as u64,
            topics: (state.topics.len() - state.empty_count) as u64,
            bytes: state.charge.bytes() as u64,
            trimmed: state.trimmed,
        }
    }
}

#[cfg(test)]
mod tests;

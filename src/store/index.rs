//! The index of a log, in memory: its topics, the offsets of their messages, and what was trimmed. A log on the disk needs
//! 24 bytes of it for a message.

use std::{collections::VecDeque, sync::Arc};

use foldhash::quality::RandomState;
use hashbrown::HashMap;

use super::{Behind, Bounds, Overflow, Page, Place, Query, Range, Usage};
use crate::topic;

/// Number of topics without messages of which the log remembers what was trimmed.
pub(super) const EMPTY_TOPICS: usize = if cfg!(test) { 8 } else { 16_384 };
/// Number of messages that a query, or a count, examines at most.
pub(super) const EXAMINED: usize = 4096;
/// Number of messages that are examined for the newest ones of a pattern with wildcards.
const NEWEST_EXAMINED: usize = 65_536;
/// Removed messages in the table that are not worth a compaction.
pub(super) const FEW_REMOVED: usize = 64;
/// The part of the maximum age by which messages may be trimmed late.
const AGE_PARTS: u64 = 4096;
/// The topic of an entry that was removed.
const REMOVED: u32 = u32::MAX;

/// Bytes that count for [`Bounds::bytes`] besides the frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Costs {
    /// Of a message.
    pub(super) message: usize,
    /// Of a topic besides its name; none if topics do not count.
    pub(super) topic: Option<usize>,
}

/// The row of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicRow {
    pub(super) number: u32,
    pub(super) last: u64,
    pub(super) trimmed_to: u64,
    pub(super) name: Arc<str>,
}

/// A change of the row of a topic.
#[derive(Debug)]
pub(super) enum TopicChange {
    Put(TopicRow),
    Remove(u32),
}

/// The changes of an index that are to be written to a file.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Offsets of removed messages that the file still has, perhaps.
    pub(super) removals: Vec<u64>,
    pub(super) topics: Vec<TopicChange>,
}

/// The index of a log. `P`: what it holds for each message besides its place.
#[derive(Debug)]
pub(super) struct Index<P> {
    bounds: Bounds,
    costs: Costs,
    /// All messages by offset, and places of removed ones.
    entries: VecDeque<Entry<P>>,
    /// Number of removed ones in `entries`.
    removed: usize,
    numbers: HashMap<Arc<str>, u32, RandomState>,
    topics: HashMap<u32, Topic, RandomState>,
    next_number: u32,
    /// Topics that have lost their last message, with its offset, in this order. Some may have messages again.
    empty: VecDeque<(u32, u64)>,
    /// Number of topics without messages.
    empty_count: usize,
    /// Bytes of the names of all topics.
    name_bytes: usize,
    /// The newest offset.
    pub(super) last: u64,
    /// The newest offset that was trimmed, of all topics.
    trimmed_to: u64,
    /// The newest offset that was trimmed of a topic that is not in `topics` any more.
    pub(super) forgotten_to: u64,
    /// Offsets up to this one do not count the messages.
    pub(super) jumped_to: u64,
    pub(super) trimmed: u64,
    /// Bytes of all messages, as they count for the bound.
    pub(super) bytes: usize,
    /// The time of the newest message: the clock may be set back.
    now: u64,
    /// The times of messages: an offset, and the time of the messages from it on, rounded down.
    times: VecDeque<(u64, u64)>,
    /// None for a log in memory.
    pub(super) journal: Option<Journal>,
}

#[derive(Debug)]
struct Entry<P> {
    offset: u64,
    topic: u32,
    size: u32,
    payload: P,
}

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    /// The offsets of its messages, oldest first.
    offsets: VecDeque<u64>,
    /// The offset of its newest message, trimmed or not.
    last: u64,
    /// The newest offset that was trimmed of it. Zero: none.
    trimmed_to: u64,
    /// Bytes of the frames of its messages.
    bytes: usize,
}

impl<P: Clone + Default> Index<P> {
    pub(super) fn new(bounds: Bounds, costs: Costs, journal: Option<Journal>) -> Self {
        Self {
            bounds,
            costs,
            entries: VecDeque::new(),
            removed: 0,
            numbers: HashMap::default(),
            topics: HashMap::default(),
            next_number: 0,
            empty: VecDeque::new(),
            empty_count: 0,
            name_bytes: 0,
            last: 0,
            trimmed_to: 0,
            forgotten_to: 0,
            jumped_to: 0,
            trimmed: 0,
            bytes: 0,
            now: 0,
            times: VecDeque::new(),
            journal,
        }
    }

    /// Bytes of memory of an index that needs this many for a message, and for a topic besides its name.
    pub(super) fn memory(&self, message: usize, topic: usize) -> usize {
        self.entries.len() * message + self.topics.len() * topic + self.name_bytes
    }

    /// True if messages are trimmed for others, and not refused.
    pub(super) fn trims(&self) -> bool {
        self.bounds.overflow == Overflow::Trim
    }

    /// Number of messages, and of places of removed ones.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Number of messages.
    pub(super) fn messages(&self) -> usize {
        self.entries.len() - self.removed
    }

    /// Number of topics with messages.
    pub(super) fn topics(&self) -> usize {
        self.topics.len() - self.empty_count
    }

    /// Adds a topic that the file has.
    pub(super) fn load_topic(&mut self, row: TopicRow) {
        let TopicRow {
            number,
            last,
            trimmed_to,
            name,
        } = row;
        self.next_number = self.next_number.max(number.saturating_add(1));
        self.trimmed_to = self.trimmed_to.max(trimmed_to);
        self.last = self.last.max(last);
        self.add_topic(number, name, last, trimmed_to);
    }

    /// Adds a message that the file has. Messages come in the order of their offsets, after all topics.
    pub(super) fn load_message(
        &mut self,
        offset: u64,
        time: u64,
        prev: u64,
        topic: u32,
        (size, payload): (usize, P),
    ) {
        self.next_number = self.next_number.max(topic.saturating_add(1));
        let trims = self.trims();
        let Some(found) = self.topics.get_mut(&topic) else {
            // Its topic was forgotten, after the message was trimmed.
            self.add_removal(offset);
            return;
        };
        let before = found.offsets.back().copied().unwrap_or(0);
        if trims && prev != before {
            found.trimmed_to = found.trimmed_to.max(prev);
            self.trimmed_to = self.trimmed_to.max(prev);
        }
        self.now = self.now.max(time);
        self.push(offset, topic, size, payload);
    }

    /// Trims what exceeds the bounds, after all was loaded.
    pub(super) fn loaded(&mut self) {
        let mut without: Vec<_> = (self.topics.iter())
            .filter(|(_, topic)| topic.offsets.is_empty())
            .map(|(number, topic)| (*number, topic.last))
            .collect();
        without.sort_unstable_by_key(|(_, last)| *last);
        self.trimmed_to = self.trimmed_to.max(self.forgotten_to);
        if !self.trims() {
            self.empty = without.into();
            self.forget_topics();
            return;
        }
        for (number, last) in &without {
            if let Some(topic) = self.topics.get_mut(number) {
                topic.trimmed_to = topic.trimmed_to.max(*last);
                self.trimmed_to = self.trimmed_to.max(*last);
            }
        }
        self.empty = without.into();
        let excess = |topic: &Topic| topic.offsets.len().saturating_sub(self.bounds.messages);
        let trimmed: Vec<u64> = (self.topics.values())
            .flat_map(|topic| topic.offsets.iter().take(excess(topic)).copied())
            .collect();
        for offset in trimmed {
            self.trim(self.place_of(offset));
        }
        self.trim_to_bounds();
        self.drop_removed();
    }

    fn add_topic(&mut self, number: u32, name: Arc<str>, last: u64, trimmed_to: u64) {
        self.name_bytes += name.len();
        self.bytes += self.bytes_of_topic(&name);
        self.numbers.insert(name.clone(), number);
        self.empty_count += 1;
        let offsets = VecDeque::new();
        self.topics.insert(
            number,
            Topic {
                name,
                offsets,
                last,
                trimmed_to,
                bytes: 0,
            },
        );
    }

    /// Bytes that count for a topic without its messages.
    fn bytes_of_topic(&self, name: &str) -> usize {
        self.costs.topic.map_or(0, |topic| topic + name.len())
    }

    /// Bytes that count for a message.
    fn bytes_of_message(&self, size: usize) -> usize {
        size + self.costs.message
    }

    fn add_removal(&mut self, offset: u64) {
        if let Some(journal) = &mut self.journal {
            journal.removals.push(offset);
        }
    }

    fn add_topic_change(&mut self, change: impl FnOnce() -> TopicChange) {
        if let Some(journal) = &mut self.journal {
            journal.topics.push(change());
        }
    }

    fn push(&mut self, offset: u64, number: u32, size: usize, payload: P) {
        if let Some(topic) = self.topics.get_mut(&number) {
            self.empty_count -= usize::from(topic.offsets.is_empty());
            topic.offsets.push_back(offset);
            topic.last = topic.last.max(offset);
            topic.bytes += size;
        }
        if self.entries.len() == self.entries.capacity() {
            // Not twice as many, as a deque grows by itself: this one is large.
            self.entries.reserve_exact(self.entries.len() / 8 + 256);
        }
        self.entries.push_back(Entry {
            offset,
            topic: number,
            size: u32::try_from(size).unwrap_or(u32::MAX),
            payload,
        });
        self.last = self.last.max(offset);
        self.bytes += self.bytes_of_message(size);
        if let Some(age) = self.bounds.age {
            let part = (age / AGE_PARTS).max(1);
            let is_new = |(_, time): &(u64, u64)| self.now >= time.saturating_add(part);
            if self.times.back().is_none_or(is_new) {
                self.times.push_back((offset, self.now));
            }
        }
    }

    pub(super) fn next(&self, topic: &str) -> Place {
        let newest = |topic: &Topic| match self.trims() {
            true => topic.last,
            // The file does not say which ones were removed.
            false => topic.offsets.back().copied().unwrap_or(0),
        };
        Place {
            offset: self.last + 1,
            prev: self.topic(topic).map_or(0, newest),
        }
    }

    /// True if a message of this size may be appended.
    pub(super) fn has_room(&self, name: &str, size: usize) -> bool {
        if self.trims() {
            return true;
        }
        let topic = self.topic(name);
        let (messages, bytes) = topic.map_or((0, 0), |topic| (topic.offsets.len(), topic.bytes));
        messages < self.bounds.messages
            && bytes.saturating_add(size) <= self.bounds.topic_bytes
            && self.bytes.saturating_add(self.growth(name, size)) <= self.bounds.bytes
    }

    /// Bytes that a message of this size would add.
    pub(super) fn growth(&self, name: &str, size: usize) -> usize {
        let new_topic = match self.numbers.contains_key(name) {
            true => 0,
            false => self.bytes_of_topic(name),
        };
        self.bytes_of_message(size).saturating_add(new_topic)
    }

    pub(super) fn usage(&self, name: &str) -> Usage {
        let topic = self.topic(name);
        topic.map_or_else(Usage::default, |topic| Usage {
            messages: topic.offsets.len() as u64,
            bytes: topic.bytes as u64,
        })
    }

    /// True if the log has this message.
    pub(super) fn contains(&self, offset: u64) -> bool {
        let entry = self.entries.get(self.place_of(offset));
        entry.is_some_and(|entry| entry.offset == offset && entry.topic != REMOVED)
    }

    /// The number of a topic, which may be new.
    fn number_of(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        while self.next_number == REMOVED || self.topics.contains_key(&self.next_number) {
            self.next_number = self.next_number.wrapping_add(1);
        }
        let number = self.next_number;
        self.next_number += 1;
        let name: Arc<str> = name.into();
        self.add_topic(number, name.clone(), 0, 0);
        let (last, trimmed_to) = (0, 0);
        self.add_topic_change(|| {
            TopicChange::Put(TopicRow {
                number,
                last,
                trimmed_to,
                name,
            })
        });
        number
    }

    /// Appends a message, and trims what exceeds the bounds. Returns the number of its topic, and its time.
    pub(super) fn append(
        &mut self,
        name: &str,
        offset: u64,
        time: u64,
        (size, payload): (usize, P),
    ) -> (u32, u64) {
        let number = self.number_of(name);
        self.now = self.now.max(time);
        self.push(offset, number, size, payload);
        if !self.trims() {
            return (number, self.now);
        }
        let topic = &self.topics[&number];
        let excess = (topic.offsets.len() > self.bounds.messages).then(|| topic.offsets[0]);
        if let Some(oldest) = excess {
            self.trim(self.place_of(oldest));
        }
        self.trim_to_bounds();
        self.drop_removed();
        (number, self.now)
    }

    /// Counts a message that is not stored: it has an offset, and cannot be read.
    pub(super) fn skip(&mut self, name: &str, offset: u64) {
        let number = self.number_of(name);
        self.last = self.last.max(offset);
        self.trimmed_to = self.trimmed_to.max(offset);
        if let Some(topic) = self.topics.get_mut(&number) {
            topic.last = offset;
            topic.trimmed_to = offset;
            if topic.offsets.is_empty() {
                self.empty.push_back((number, offset));
            }
        }
        self.forget_topics();
    }

    /// Removes the newest messages from this offset on: they could not be stored.
    pub(super) fn remove_from(&mut self, offset: u64) {
        while self
            .entries
            .back()
            .is_some_and(|entry| entry.offset >= offset)
        {
            let Some(entry) = self.entries.pop_back() else {
                break;
            };
            if entry.topic == REMOVED {
                self.removed -= 1;
                continue;
            }
            let size = entry.size as usize;
            self.bytes -= self.bytes_of_message(size);
            self.trimmed_to = self.trimmed_to.max(entry.offset);
            if let Some(topic) = self.topics.get_mut(&entry.topic) {
                topic.offsets.pop_back();
                topic.bytes -= size;
                topic.trimmed_to = topic.trimmed_to.max(entry.offset);
                if topic.offsets.is_empty() {
                    self.empty_count += 1;
                    self.empty.push_back((entry.topic, topic.last));
                }
            }
        }
    }

    /// The place in `entries` of the first message with at least this offset.
    fn place_of(&self, offset: u64) -> usize {
        self.entries.partition_point(|entry| entry.offset < offset)
    }

    fn trim_to_bounds(&mut self) {
        while self.bytes > self.bounds.bytes && self.trim_oldest() {}
    }

    /// Trims the oldest message. False if there is none.
    pub(super) fn trim_oldest(&mut self) -> bool {
        self.drop_removed();
        if self.entries.is_empty() {
            return false;
        }
        self.trim(0);
        true
    }

    /// Trims the message at this place of `entries`, which is the oldest of its topic.
    fn trim(&mut self, place: usize) {
        let Some((number, offset)) = self.take(place) else {
            return;
        };
        self.trimmed += 1;
        self.trimmed_to = self.trimmed_to.max(offset);
        let trims = self.trims();
        let mut row = None;
        if let Some(topic) = self.topics.get_mut(&number) {
            let oldest = topic.offsets.pop_front();
            debug_assert_eq!(oldest, Some(offset));
            topic.trimmed_to = topic.trimmed_to.max(offset);
            // Where messages are removed one by one, gaps do not say what was trimmed.
            row = (topic.offsets.is_empty() || !trims).then(|| TopicRow {
                number,
                last: topic.last,
                trimmed_to: topic.trimmed_to,
                name: topic.name.clone(),
            });
        }
        if let Some(row) = row {
            self.add_topic_change(|| TopicChange::Put(row));
        }
        self.shrink_topic(number);
    }

    /// Removes a message that was acknowledged. False if there is none.
    pub(super) fn remove(&mut self, name: &str, offset: u64) -> bool {
        let Some(number) = self.numbers.get(name).copied() else {
            return false;
        };
        let Some(topic) = self.topics.get_mut(&number) else {
            return false;
        };
        let Ok(place) = topic.offsets.binary_search(&offset) else {
            return false;
        };
        topic.offsets.remove(place);
        self.take(self.place_of(offset));
        self.shrink_topic(number);
        self.drop_removed();
        true
    }

    /// Removes the message at this place of `entries`. Its offset remains in its topic. Returns the number of the topic, and
    /// the offset.
    fn take(&mut self, place: usize) -> Option<(u32, u64)> {
        let entry = &mut self.entries[place];
        let number = std::mem::replace(&mut entry.topic, REMOVED);
        if number == REMOVED {
            return None;
        }
        entry.payload = P::default();
        let (offset, size) = (entry.offset, entry.size as usize);
        self.bytes -= self.bytes_of_message(size);
        self.removed += 1;
        self.add_removal(offset);
        if let Some(topic) = self.topics.get_mut(&number) {
            topic.bytes -= size;
        }
        Some((number, offset))
    }

    /// Frees what a topic needs no more, after a message was removed.
    fn shrink_topic(&mut self, number: u32) {
        if let Some(topic) = self.topics.get_mut(&number) {
            let (count, capacity) = (topic.offsets.len(), topic.offsets.capacity());
            if count == 0 {
                topic.offsets = VecDeque::new();
                self.empty_count += 1;
                self.empty.push_back((number, topic.last));
            } else if capacity > 64 && count < capacity / 4 {
                topic.offsets.shrink_to(count * 2);
            }
        }
        self.forget_topics();
    }

    /// Forgets the topics that have been without messages for the longest time, if there are too many.
    fn forget_topics(&mut self) {
        while self.empty_count > EMPTY_TOPICS || self.empty.len() > 2 * EMPTY_TOPICS {
            let Some((number, offset)) = self.empty.pop_front() else {
                break;
            };
            let is_it = |topic: &Topic| topic.offsets.is_empty() && topic.last == offset;
            if !self.topics.get(&number).is_some_and(is_it) {
                continue;
            }
            if let Some(topic) = self.topics.remove(&number) {
                self.forgotten_to = self.forgotten_to.max(topic.trimmed_to);
                self.empty_count -= 1;
                self.name_bytes -= topic.name.len();
                self.bytes -= self.bytes_of_topic(&topic.name);
                self.numbers.remove(&*topic.name);
                self.add_topic_change(|| TopicChange::Remove(number));
            }
        }
    }

    /// Drops removed entries at the front, and all if there are many.
    fn drop_removed(&mut self) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.topic == REMOVED)
        {
            self.entries.pop_front();
            self.removed -= 1;
        }
        let live = self.entries.len() - self.removed;
        if self.removed > live / 4 + FEW_REMOVED {
            self.entries.retain(|entry| entry.topic != REMOVED);
            self.removed = 0;
        }
        if self.entries.capacity() > 1024 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        // The times of what is gone, up to that of the first message.
        let first = self.entries.front().map_or(u64::MAX, |entry| entry.offset);
        while self
            .times
            .get(1)
            .is_some_and(|(offset, _)| *offset <= first)
        {
            self.times.pop_front();
        }
    }

    /// Trims messages that are too old. `now`: milliseconds since 1970.
    pub(super) fn expire(&mut self, now: u64) {
        let Some(age) = self.bounds.age else { return };
        self.now = self.now.max(now);
        let oldest = self.now.saturating_sub(age);
        let part = (age / AGE_PARTS).max(1);
        loop {
            self.drop_removed();
            let is_old = |(_, time): &(u64, u64)| time.saturating_add(part - 1) < oldest;
            if self.entries.is_empty() || !self.times.front().is_some_and(is_old) {
                return;
            }
            self.trim(0);
        }
    }

    /// The newest offset that was trimmed of this topic, at most.
    fn trimmed_of(&self, topic: &str) -> u64 {
        (self.topic(topic)).map_or(self.forgotten_to, |topic| topic.trimmed_to)
    }

    /// The newest offset that was trimmed of the topics of a pattern, at most.
    pub(super) fn trimmed_of_pattern(&self, pattern: &str, is_all: bool, after: u64) -> u64 {
        if !topic::has_wildcards(pattern) {
            return self.trimmed_of(pattern);
        }
        if is_all || self.trimmed_to <= after {
            return self.trimmed_to;
        }
        let topics = self.topics.values();
        let trimmed = topics
            .filter(|topic| topic.trimmed_to > after && topic::covers(pattern, &topic.name))
            .map(|topic| topic.trimmed_to);
        trimmed.max().unwrap_or(0).max(self.forgotten_to)
    }

    /// True if the message is of a topic of the pattern.
    fn matches(&self, entry: &Entry<P>, pattern: &str, is_all: bool) -> bool {
        let covers = |topic: &Topic| topic::covers(pattern, &topic.name);
        entry.topic != REMOVED && (is_all || self.topics.get(&entry.topic).is_some_and(covers))
    }

    fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(self.numbers.get(name)?)
    }

    /// Adds a message of a topic to a plan. False if there is no room for it.
    fn plan_message(&self, offset: u64, plan: &mut Plan<P>) -> bool {
        let entry = self.entries.get(self.place_of(offset));
        entry.is_none_or(|entry| entry.offset != offset || plan.add(entry))
    }

    /// The messages of a query, oldest first, and a page without them.
    pub(super) fn plan(&self, query: &Query, is_all: bool) -> (Vec<(u64, P)>, Page) {
        let mut plan = Plan {
            messages: query.messages,
            bytes: query.bytes,
            found: Vec::new(),
        };
        let mut page = Page::default();
        let pattern = &*query.pattern;
        let has_wildcards = topic::has_wildcards(pattern);
        match query.range {
            Range::After(after) => {
                page.trimmed_to = self.trimmed_of_pattern(pattern, is_all, after);
                let read_to = match has_wildcards {
                    true => self.plan_pattern(pattern, is_all, after, &mut plan),
                    false => self.plan_topic(pattern, after, &mut plan),
                };
                page.more = read_to.is_some();
                page.next = read_to.unwrap_or(self.last.max(after));
            }
            Range::Before(before) => {
                (page.next, page.more) = match has_wildcards {
                    true => self.plan_pattern_before(pattern, is_all, before, &mut plan),
                    false => self.plan_topic_before(pattern, before, &mut plan),
                };
                plan.found.reverse();
            }
        }
        (plan.found, page)
    }

    /// The offset up to which all was planned, if there is more.
    fn plan_topic(&self, name: &str, after: u64, plan: &mut Plan<P>) -> Option<u64> {
        let topic = self.topic(name)?;
        let from = topic.offsets.partition_point(|offset| *offset <= after);
        let mut read_to = after;
        for offset in topic.offsets.range(from..) {
            if !self.plan_message(*offset, plan) {
                return Some(read_to);
            }
            read_to = *offset;
        }
        None
    }

    fn plan_pattern(
        &self,
        pattern: &str,
        is_all: bool,
        after: u64,
        plan: &mut Plan<P>,
    ) -> Option<u64> {
        let from = self.place_of(after.saturating_add(1));
        let mut read_to = after;
        for (examined, entry) in self.entries.range(from..).enumerate() {
            let is_meant = self.matches(entry, pattern, is_all);
            if examined == EXAMINED || is_meant && !plan.add(entry) {
                return Some(read_to);
            }
            read_to = entry.offset;
        }
        None
    }

    fn plan_topic_before(&self, name: &str, before: u64, plan: &mut Plan<P>) -> (u64, bool) {
        let mut read_to = before;
        let Some(topic) = self.topic(name) else {
            return (read_to, false);
        };
        let end = topic.offsets.partition_point(|offset| *offset < before);
        for offset in topic.offsets.range(..end).rev() {
            if !self.plan_message(*offset, plan) {
                return (read_to, true);
            }
            read_to = *offset;
        }
        (read_to, false)
    }

    fn plan_pattern_before(
        &self,
        pattern: &str,
        is_all: bool,
        before: u64,
        plan: &mut Plan<P>,
    ) -> (u64, bool) {
        let mut read_to = before;
        let end = self.place_of(before);
        for (examined, entry) in self.entries.range(..end).rev().enumerate() {
            let is_meant = self.matches(entry, pattern, is_all);
            if examined == EXAMINED || is_meant && !plan.add(entry) {
                return (read_to, true);
            }
            read_to = entry.offset;
        }
        (read_to, false)
    }

    pub(super) fn behind(&self, pattern: &str, is_all: bool, offset: u64) -> Behind {
        let trimmed_to = self.trimmed_of_pattern(pattern, is_all, offset);
        let messages = if !topic::has_wildcards(pattern) {
            let count = self.topic(pattern).map_or(0, |topic| {
                let before = topic.offsets.partition_point(|one| *one <= offset);
                topic.offsets.len() - before
            });
            Some(count as u64)
        } else {
            let from = self.place_of(offset.saturating_add(1));
            match from {
                0 if is_all => Some(self.messages() as u64),
                _ if self.entries.len() - from > EXAMINED => None,
                _ => {
                    let entries = self.entries.range(from..);
                    let is_meant = |entry: &&Entry<P>| self.matches(entry, pattern, is_all);
                    Some(entries.filter(is_meant).count() as u64)
                }
            }
        };
        // Of all topics together the offsets count the messages, if none was left out.
        let counts = is_all && self.trims() && offset >= self.jumped_to;
        let lost = |messages| (self.last.saturating_sub(offset)).saturating_sub(messages);
        Behind {
            trimmed_to,
            lost: match trimmed_to <= offset {
                true => Some(0),
                false => messages.filter(|_| counts).map(lost),
            },
            messages,
        }
    }

    pub(super) fn newest(&self, pattern: &str, count: usize) -> u64 {
        if count == 0 {
            return self.last;
        }
        if !topic::has_wildcards(pattern) {
            let Some(topic) = self.topic(pattern) else {
                return self.last;
            };
            let from = topic.offsets.len().saturating_sub(count);
            return topic.offsets.get(from).map_or(self.last, |one| one - 1);
        }
        let (mut from, mut found) = (self.last, 0);
        for entry in self.entries.iter().rev().take(NEWEST_EXAMINED) {
            if self.matches(entry, pattern, false) {
                (from, found) = (entry.offset - 1, found + 1);
                if found == count {
                    break;
                }
            }
        }
        from
    }
}

/// The messages of a query, and how many more it may have.
struct Plan<P> {
    messages: usize,
    bytes: usize,
    found: Vec<(u64, P)>,
}

impl<P: Clone> Plan<P> {
    /// Adds a message. False if there is no room for it.
    fn add(&mut self, entry: &Entry<P>) -> bool {
        let size = entry.size as usize;
        if self.messages == 0 || (size > self.bytes && !self.found.is_empty()) {
            return false;
        }
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(size);
        self.found.push((entry.offset, entry.payload.clone()));
        true
    }
}

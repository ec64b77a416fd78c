//! The index of a log on the disk: where each message is, and what was trimmed. It is in memory, 24 bytes for a message.

use std::{collections::VecDeque, sync::Arc};

use foldhash::quality::RandomState;
use hashbrown::HashMap;

use super::file::{TopicChange, TopicRow};
use crate::{
    store::{Behind, Bounds, Page, Place, Query, Range},
    topic,
};

/// Bytes that count for a message besides its frame: its row.
pub(super) const MESSAGE: usize = 64;
/// Bytes of memory that are charged for a message: its entries, with as many unused ones.
pub(super) const MESSAGE_MEMORY: usize = 40;
/// Bytes of memory that are charged for a topic besides its name.
pub(super) const TOPIC_MEMORY: usize = 256;
/// Number of topics without messages of which the log remembers what was trimmed.
const EMPTY_TOPICS: usize = if cfg!(test) { 8 } else { 16_384 };
/// Number of messages that a query, or a count, examines at most.
const EXAMINED: usize = 4096;
/// Number of messages that are examined for the newest ones of a pattern with wildcards.
const NEWEST_EXAMINED: usize = 65_536;
/// Removed messages in the table that are not worth a compaction.
const FEW_REMOVED: usize = 64;
/// The part of the maximum age by which messages may be trimmed late.
const AGE_PARTS: u64 = 4096;
/// The topic of an entry that was removed.
const REMOVED: u32 = u32::MAX;

/// The index of a log, and the changes that are not written yet.
#[derive(Debug)]
pub(super) struct Index {
    bounds: Bounds,
    /// All messages by offset, and places of removed ones.
    entries: VecDeque<Entry>,
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
    /// Offsets of trimmed messages that the file still has, perhaps.
    pub(super) removals: Vec<u64>,
    /// Changes of topics that are not written yet.
    pub(super) topic_changes: Vec<TopicChange>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: u64,
    topic: u32,
    size: u32,
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
}

impl Index {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
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
            removals: Vec::new(),
            topic_changes: Vec::new(),
        }
    }

    /// Bytes of memory that the index needs.
    pub(super) fn memory(&self) -> usize {
        self.entries.len() * MESSAGE_MEMORY + self.topics.len() * TOPIC_MEMORY + self.name_bytes
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
        size: usize,
    ) {
        self.next_number = self.next_number.max(topic.saturating_add(1));
        let Some(found) = self.topics.get_mut(&topic) else {
            // Its topic was forgotten, after the message was trimmed.
            self.removals.push(offset);
            return;
        };
        let before = found.offsets.back().copied().unwrap_or(0);
        if prev != before {
            found.trimmed_to = found.trimmed_to.max(prev);
            self.trimmed_to = self.trimmed_to.max(prev);
        }
        self.now = self.now.max(time);
        self.push(offset, topic, size);
    }

    /// Trims what exceeds the bounds, after all was loaded.
    pub(super) fn loaded(&mut self) {
        let mut without: Vec<_> = (self.topics.iter())
            .filter(|(_, topic)| topic.offsets.is_empty())
            .map(|(number, topic)| (*number, topic.last))
            .collect();
        without.sort_unstable_by_key(|(_, last)| *last);
        for (number, last) in &without {
            if let Some(topic) = self.topics.get_mut(number) {
                topic.trimmed_to = topic.trimmed_to.max(*last);
                self.trimmed_to = self.trimmed_to.max(*last);
            }
        }
        self.trimmed_to = self.trimmed_to.max(self.forgotten_to);
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
            },
        );
    }

    fn push(&mut self, offset: u64, number: u32, size: usize) {
        if let Some(topic) = self.topics.get_mut(&number) {
            self.empty_count -= usize::from(topic.offsets.is_empty());
            topic.offsets.push_back(offset);
            topic.last = topic.last.max(offset);
        }
        if self.entries.len() == self.entries.capacity() {
            // Not twice as many, as a deque grows by itself: this one is large.
            self.entries.reserve_exact(self.entries.len() / 8 + 256);
        }
        self.entries.push_back(Entry {
            offset,
            topic: number,
            size: u32::try_from(size).unwrap_or(u32::MAX),
        });
        self.last = self.last.max(offset);
        self.bytes += size + MESSAGE;
        if let Some(age) = self.bounds.age {
            let part = (age / AGE_PARTS).max(1);
            let is_new = |(_, time): &(u64, u64)| self.now >= time.saturating_add(part);
            if self.times.back().is_none_or(is_new) {
                self.times.push_back((offset, self.now));
            }
        }
    }

    pub(super) fn next(&self, topic: &str) -> Place {
        let known = self
            .numbers
            .get(topic)
            .and_then(|number| self.topics.get(number));
        Place {
            offset: self.last + 1,
            prev: known.map_or(0, |topic| topic.last),
        }
    }

    /// The number of a topic, which may be new.
    fn number_of(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.next_number;
        self.next_number += 1;
        let name: Arc<str> = name.into();
        self.add_topic(number, name.clone(), 0, 0);
        self.topic_changes.push(TopicChange::Put(TopicRow {
            number,
            last: 0,
            trimmed_to: 0,
            name,
        }));
        number
    }

    /// Appends a message, and trims what exceeds the bounds. Returns the number of its topic, and its time.
    pub(super) fn append(&mut self, name: &str, offset: u64, time: u64, size: usize) -> (u32, u64) {
        let number = self.number_of(name);
        self.now = self.now.max(time);
        self.push(offset, number, size);
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
        while let Some(entry) = self.entries.back().copied() {
            if entry.offset < offset {
                break;
            }
            self.entries.pop_back();
            if entry.topic == REMOVED {
                self.removed -= 1;
                continue;
            }
            self.bytes -= entry.size as usize + MESSAGE;
            self.trimmed_to = self.trimmed_to.max(entry.offset);
            if let Some(topic) = self.topics.get_mut(&entry.topic) {
                topic.offsets.pop_back();
                topic.trimmed_to = topic.trimmed_to.max(entry.offset);
                if topic.offsets.is_empty() {
                    self.empty_count += 1;
                    self.empty.push_back((entry.topic, topic.trimmed_to));
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
        let entry = &mut self.entries[place];
        let number = std::mem::replace(&mut entry.topic, REMOVED);
        if number == REMOVED {
            return;
        }
        let offset = entry.offset;
        self.bytes -= entry.size as usize + MESSAGE;
        self.removed += 1;
        self.trimmed += 1;
        self.trimmed_to = self.trimmed_to.max(offset);
        self.removals.push(offset);
        if let Some(topic) = self.topics.get_mut(&number) {
            let oldest = topic.offsets.pop_front();
            debug_assert_eq!(oldest, Some(offset));
            topic.trimmed_to = topic.trimmed_to.max(offset);
            if topic.offsets.is_empty() {
                topic.offsets = VecDeque::new();
                self.empty_count += 1;
                self.empty.push_back((number, topic.trimmed_to));
                self.topic_changes.push(TopicChange::Put(TopicRow {
                    number,
                    last: topic.last,
                    trimmed_to: topic.trimmed_to,
                    name: topic.name.clone(),
                }));
            } else if topic.offsets.capacity() > 64
                && topic.offsets.len() < topic.offsets.capacity() / 4
            {
                topic.offsets.shrink_to(topic.offsets.len() * 2);
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
            let is_it = |topic: &Topic| topic.offsets.is_empty() && topic.trimmed_to == offset;
            if !self.topics.get(&number).is_some_and(is_it) {
                continue;
            }
            if let Some(topic) = self.topics.remove(&number) {
                self.forgotten_to = self.forgotten_to.max(topic.trimmed_to);
                self.empty_count -= 1;
                self.name_bytes -= topic.name.len();
                self.numbers.remove(&*topic.name);
                self.topic_changes.push(TopicChange::Remove(number));
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
        let known = self
            .numbers
            .get(topic)
            .and_then(|number| self.topics.get(number));
        known.map_or(self.forgotten_to, |topic| topic.trimmed_to)
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
    fn matches(&self, entry: &Entry, pattern: &str, is_all: bool) -> bool {
        let covers = |topic: &Topic| topic::covers(pattern, &topic.name);
        entry.topic != REMOVED && (is_all || self.topics.get(&entry.topic).is_some_and(covers))
    }

    fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(self.numbers.get(name)?)
    }

    fn size_of(&self, offset: u64) -> Option<usize> {
        let entry = self.entries.get(self.place_of(offset))?;
        (entry.offset == offset).then_some(entry.size as usize)
    }

    /// The offsets of the messages of a query, and a page without messages.
    pub(super) fn plan(&self, query: &Query, is_all: bool) -> (Vec<u64>, Page) {
        let mut plan = Plan {
            messages: query.messages,
            bytes: query.bytes,
            offsets: Vec::new(),
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
                plan.offsets.reverse();
            }
        }
        (plan.offsets, page)
    }

    /// The offset up to which all was planned, if there is more.
    fn plan_topic(&self, name: &str, after: u64, plan: &mut Plan) -> Option<u64> {
        let topic = self.topic(name)?;
        let from = topic.offsets.partition_point(|offset| *offset <= after);
        let mut read_to = after;
        for offset in topic.offsets.range(from..) {
            if !plan.add(*offset, self.size_of(*offset)) {
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
        plan: &mut Plan,
    ) -> Option<u64> {
        let from = self.place_of(after.saturating_add(1));
        let mut read_to = after;
        for (examined, entry) in self.entries.range(from..).enumerate() {
            let is_meant = self.matches(entry, pattern, is_all);
            let size = Some(entry.size as usize);
            if examined == EXAMINED || is_meant && !plan.add(entry.offset, size) {
                return Some(read_to);
            }
            read_to = entry.offset;
        }
        None
    }

    fn plan_topic_before(&self, name: &str, before: u64, plan: &mut Plan) -> (u64, bool) {
        let mut read_to = before;
        let Some(topic) = self.topic(name) else {
            return (read_to, false);
        };
        let end = topic.offsets.partition_point(|offset| *offset < before);
        for offset in topic.offsets.range(..end).rev() {
            if !plan.add(*offset, self.size_of(*offset)) {
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
        plan: &mut Plan,
    ) -> (u64, bool) {
        let mut read_to = before;
        let end = self.place_of(before);
        for (examined, entry) in self.entries.range(..end).rev().enumerate() {
            let is_meant = self.matches(entry, pattern, is_all);
            let size = Some(entry.size as usize);
            if examined == EXAMINED || is_meant && !plan.add(entry.offset, size) {
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
                    let is_meant = |entry: &&Entry| self.matches(entry, pattern, is_all);
                    Some(entries.filter(is_meant).count() as u64)
                }
            }
        };
        // Of all topics together the offsets count the messages, if none was left out.
        let counts = is_all && offset >= self.jumped_to;
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
struct Plan {
    messages: usize,
    bytes: usize,
    offsets: Vec<u64>,
}

impl Plan {
    /// Adds a message. False if there is no room for it.
    fn add(&mut self, offset: u64, size: Option<usize>) -> bool {
        let Some(size) = size else { return true };
        if self.messages == 0 || (size > self.bytes && !self.offsets.is_empty()) {
            return false;
        }
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(size);
        self.offsets.push(offset);
        true
    }
}

//! The log in memory, compared with a naive one.

mod mailboxes;

use std::collections::BTreeMap;

use super::*;
use crate::store::{
    Overflow, Range,
    index::{EMPTY_TOPICS, EXAMINED, FEW_REMOVED},
};

const BOUNDS: Bounds = Bounds {
    messages: 1_000,
    age: None,
    bytes: usize::MAX,
    topic_bytes: usize::MAX,
    overflow: Overflow::Trim,
};

/// A log that knows all messages it ever had.
#[derive(Default)]
struct Naive {
    /// Topic, time and whether it is still kept, by offset.
    messages: BTreeMap<u64, (String, u64, bool)>,
    /// Number of those that are kept.
    kept: usize,
    /// The offset before the oldest one that is kept.
    trimmed_before: u64,
}

impl Naive {
    fn of<'a>(&'a self, pattern: &'a str) -> impl DoubleEndedIterator<Item = (u64, bool)> + 'a {
        let all = self.messages.iter();
        let matching = all.filter(|(_, (topic, ..))| topic::covers(pattern, topic));
        matching.map(|(offset, (.., is_kept))| (*offset, *is_kept))
    }

    fn kept(&self, pattern: &str) -> Vec<u64> {
        let kept = self.of(pattern).filter(|(_, is_kept)| *is_kept);
        kept.map(|(offset, _)| offset).collect()
    }

    fn add(&mut self, offset: u64, topic: &str, time: u64) {
        self.messages.insert(offset, (topic.to_owned(), time, true));
        self.kept += 1;
    }

    /// The messages of this topic that are kept, newest first.
    fn newest<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = u64> + 'a {
        let kept = self.messages.range(self.trimmed_before + 1..).rev();
        let mine = kept.filter(move |(_, (name, _, is_kept))| *is_kept && name == topic);
        mine.map(|(offset, _)| *offset)
    }

    fn trim(&mut self, offset: u64) {
        if let Some((.., is_kept)) = self.messages.get_mut(&offset) {
            self.kept -= usize::from(std::mem::take(is_kept));
        }
    }

    /// Trims the oldest messages until this many are left, or as long as they are older.
    fn trim_oldest(&mut self, count: usize, older_than: u64) {
        loop {
            let offset = self.trimmed_before + 1;
            let Some((_, time, is_kept)) = self.messages.get(&offset) else {
                return;
            };
            if *is_kept && self.kept <= count && *time >= older_than {
                return;
            }
            self.trim(offset);
            self.trimmed_before = offset;
        }
    }
}

/// The page of a query that is ready at once.
fn read(log: &MemoryLog, pattern: &str, range: Range, messages: usize) -> Page {
    log.read_page(&Query {
        pattern: pattern.into(),
        range,
        messages,
        bytes: 1 << 20,
    })
}

fn offsets(page: &Page) -> Vec<u64> {
    page.messages.iter().map(|message| message.offset).collect()
}

/// All offsets from here on, by pages.
fn read_all(log: &MemoryLog, pattern: &str, after: u64, size: usize) -> (Vec<u64>, u64) {
    let (mut all, mut at) = (Vec::new(), after);
    loop {
        let page = read(log, pattern, Range::After(at), size);
        assert!(page.next >= at);
        all.extend(offsets(&page));
        at = page.next;
        if !page.more {
            return (all, at);
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

const ROUNDS: usize = 500;
const STEPS: u64 = 2_000;
const PATTERNS: [&str; 7] = ["a.1", "a.2", "a.9", "b.1", "a.*", "*.1", ">"];

/// Compares everything that can be read of a pattern.
fn compare(log: &MemoryLog, naive: &Naive, pattern: &str, after: u64, size: usize) {
    let kept = naive.kept(pattern);
    let expected: Vec<_> = kept
        .iter()
        .copied()
        .filter(|offset| *offset > after)
        .collect();
    let (found, at) = read_all(log, pattern, after, size);
    assert_eq!(found, expected, "{pattern} after {after}");
    assert_eq!(at, log.last().max(after));
    let behind = log.behind(pattern, after);
    assert_eq!(behind.messages, Some(expected.len() as u64));
    let lost = naive
        .of(pattern)
        .filter(|(offset, is_kept)| *offset > after && !is_kept);
    let lost = lost.count() as u64;
    // It may know less than the truth, never more.
    assert!(
        behind.trimmed_to > after || lost == 0,
        "{pattern} after {after}"
    );
    if let Some(told) = behind.lost {
        assert_eq!(told, lost, "{pattern} after {after}");
    }
    let count = size;
    let newest = log.newest(pattern, count);
    let from = kept.len().saturating_sub(count);
    let expected = &kept[from..];
    assert_eq!(read_all(log, pattern, newest, 3).0, expected);
    // Backwards.
    let mut backwards = Vec::new();
    let mut at = after;
    loop {
        let page = read(log, pattern, Range::Before(at), size);
        let mut part = offsets(&page);
        part.extend(backwards);
        backwards = part;
        if !page.more {
            break;
        }
        at = page.next;
    }
    let before: Vec<_> = kept
        .iter()
        .copied()
        .filter(|offset| *offset < after)
        .collect();
    assert_eq!(backwards, before, "{pattern} before {after}");
}

#[test]
fn a_log_has_the_messages_of_a_naive_one() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..ROUNDS {
        let bounds = Bounds {
            messages: [1, 3, 10, 100][round % 4],
            age: [None, Some(50)][round / 4 % 2],
            bytes: [usize::MAX, 8 << 10][round / 8 % 2],
            ..BOUNDS
        };
        let memory = Arc::new(Memory::new(usize::MAX));
        let log = MemoryLog::new(">", bounds, &memory);
        let mut naive = Naive::default();
        for step in 0..STEPS {
            let name = format!(
                "{}.{}",
                ["a", "b"][random.below(2) as usize],
                random.below(3)
            );
            match random.below(250) {
                0..5 => {
                    log.expire(step);
                    if let Some(age) = bounds.age {
                        naive.trim_oldest(usize::MAX, step.saturating_sub(age));
                    }
                }
                5 => {
                    log.release(500);
                    naive.trim_oldest(log.stats().messages as usize, 0);
                }
                6 => {
                    let pattern = PATTERNS[random.below(7) as usize];
                    let after = random.below(log.last() + 2);
                    compare(&log, &naive, pattern, after, 1 + random.below(9) as usize);
                }
                _ => {
                    let place = log.next(&name);
                    assert_eq!(place.offset, log.last() + 1);
                    let frame = Bytes::from(vec![0; random.below(100) as usize]);
                    log.append(Record {
                        topic: &name,
                        place,
                        frame,
                        time: step,
                        key: None,
                    });
                    let before = naive.newest(&name).next();
                    assert!(
                        before.is_none_or(|before| before == place.prev),
                        "{place:?}"
                    );
                    naive.add(place.offset, &name, step);
                    let excess = naive.newest(&name).nth(bounds.messages);
                    excess.into_iter().for_each(|offset| naive.trim(offset));
                    // By bytes: as many as in the log, the oldest ones.
                    naive.trim_oldest(log.stats().messages as usize, 0);
                }
            }
            let stats = log.stats();
            assert_eq!(stats.messages, naive.kept as u64);
            assert!(stats.bytes <= bounds.bytes as u64);
            assert_eq!(memory.used() as u64, stats.bytes);
        }
        for pattern in PATTERNS {
            for after in (0..log.last() + 2).step_by(401) {
                compare(&log, &naive, pattern, after, 5);
            }
        }
        let stats = log.stats();
        assert_eq!(stats.messages + stats.trimmed, log.last());
        drop(log);
        assert_eq!(memory.used(), 0);
    }
}

#[test]
fn topics_that_are_forgotten_count_as_trimmed_and_take_no_memory() {
    let bounds = Bounds {
        messages: 10,
        ..BOUNDS
    };
    let memory = Arc::new(Memory::new(usize::MAX));
    let log = MemoryLog::new(">", bounds, &memory);
    let append = |topic: &str| {
        let place = log.next(topic);
        let frame = Bytes::from_static(b"x");
        log.append(Record {
            topic,
            place,
            frame,
            time: 0,
            key: None,
        });
    };
    append("quiet");
    for n in 0..100 {
        append(&format!("topic.{n}"));
    }
    // A topic without messages is remembered: nothing was lost behind its last one.
    log.release(usize::MAX);
    assert_eq!(log.stats().messages, 0);
    assert!(memory.used() <= EMPTY_TOPICS * (TOPIC + 10));
    assert!(log.behind("topic.99", 101).trimmed_to <= 101);
    assert!(log.behind("topic.99", 100).trimmed_to > 100);
    // Of forgotten ones it is not known.
    assert!(log.behind("quiet", 1).trimmed_to > 1);
    assert_eq!(log.next("quiet").prev, 0);
    append("quiet");
    assert_eq!(read(&log, "quiet", Range::After(101), 9).messages.len(), 1);
}

#[test]
fn one_topic_with_many_messages_leaves_no_holes_behind_it() {
    let bounds = Bounds {
        messages: 1,
        ..BOUNDS
    };
    let memory = Arc::new(Memory::new(usize::MAX));
    let log = MemoryLog::new(">", bounds, &memory);
    for n in 0..100_000 {
        let topic = if n == 0 { "cold" } else { "hot" };
        let place = log.next(topic);
        let frame = Bytes::from_static(b"x");
        log.append(Record {
            topic,
            place,
            frame,
            time: 0,
            key: None,
        });
        assert!(log.state.lock().index.entries() <= 2 * FEW_REMOVED);
    }
    assert_eq!(read_all(&log, ">", 0, 9).0, [1, 100_000]);
}

#[test]
fn a_page_is_bounded_by_messages_bytes_and_what_is_examined() {
    let bounds = Bounds {
        messages: 100_000,
        ..BOUNDS
    };
    let log = MemoryLog::new(">", bounds, &Arc::new(Memory::new(usize::MAX)));
    for n in 0..3 * EXAMINED {
        let topic = if n == 2 * EXAMINED {
            "rare.1"
        } else {
            "often.1"
        };
        let place = log.next(topic);
        let frame = Bytes::from_static(&[0; 100]);
        log.append(Record {
            topic,
            place,
            frame,
            time: 0,
            key: None,
        });
    }
    let page = read(&log, "often.*", Range::After(0), 64);
    assert_eq!((page.messages.len(), page.next, page.more), (64, 64, true));
    let query = |bytes| Query {
        pattern: "often.*".into(),
        range: Range::After(0),
        messages: 64,
        bytes,
    };
    assert_eq!(log.read_page(&query(1_050)).messages.len(), 10);
    assert_eq!(log.read_page(&query(1)).messages.len(), 1);
    let page = read(&log, "rare.*", Range::After(0), 64);
    assert_eq!(
        (page.messages.len(), page.next, page.more),
        (0, EXAMINED as u64, true)
    );
    assert_eq!(read_all(&log, "rare.*", 0, 64).0, [2 * EXAMINED as u64 + 1]);
    assert_eq!(log.behind("rare.*", 0).messages, None);
}

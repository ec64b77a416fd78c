//! The log in memory as a log of mailboxes, compared with a naive one.

use super::*;
use crate::store::keys::WINDOW;

/// A message that is not removed.
#[derive(Clone, Copy)]
struct Mail {
    offset: u64,
    time: u64,
    size: usize,
}

/// The messages of each mailbox that has had some.
#[derive(Default)]
struct Naive(BTreeMap<String, Vec<Mail>>);

impl Naive {
    fn of(&self, name: &str) -> &[Mail] {
        self.0.get(name).map_or(&[], |mailbox| mailbox)
    }

    fn bytes(&self) -> usize {
        let bytes = |(name, mailbox): (&String, &Vec<Mail>)| {
            let sizes = mailbox.iter().map(|mail| mail.size + MESSAGE);
            TOPIC + name.len() + sizes.sum::<usize>()
        };
        self.0.iter().map(bytes).sum()
    }

    fn has_room(&self, name: &str, size: usize, bounds: &Bounds) -> bool {
        let mailbox = self.of(name);
        let new = match self.0.contains_key(name) {
            true => 0,
            false => TOPIC + name.len(),
        };
        mailbox.len() < bounds.messages
            && mailbox.iter().map(|mail| mail.size).sum::<usize>() + size <= bounds.topic_bytes
            && self.bytes() + new + size + MESSAGE <= bounds.bytes
    }
}

fn append(log: &MemoryLog, topic: &str, size: usize, time: u64, key: Option<Key>) -> Place {
    let place = log.next(topic);
    log.append(Record {
        topic,
        place,
        frame: vec![0; size].into(),
        time,
        key,
    });
    place
}

/// Compares everything that can be read of a mailbox.
fn compare(log: &MemoryLog, naive: &Naive, name: &str, after: u64) {
    let mailbox = naive.of(name);
    let usage = log.usage(name);
    assert_eq!(usage.messages, mailbox.len() as u64);
    let bytes: usize = mailbox.iter().map(|mail| mail.size).sum();
    assert_eq!(usage.bytes, bytes as u64);
    let offsets = mailbox.iter().map(|mail| mail.offset);
    let offsets: Vec<u64> = offsets.filter(|offset| *offset > after).collect();
    assert_eq!(read_all(log, name, after, 7).0, offsets);
    let behind = log.behind(name, after);
    assert_eq!(behind.messages, Some(offsets.len() as u64));
    let messages: usize = naive.0.values().map(Vec::len).sum();
    let stats = log.stats();
    assert_eq!(stats.messages, messages as u64);
    assert_eq!(stats.bytes, naive.bytes() as u64);
}

#[test]
fn mailboxes_have_the_messages_of_naive_ones() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for round in 0..200 {
        let bounds = Bounds {
            messages: [2, 10, 100][round % 3],
            age: [None, Some(200)][round / 3 % 2],
            bytes: [usize::MAX, 8 << 10][round / 6 % 2],
            topic_bytes: [usize::MAX, 300][round / 12 % 2],
            overflow: Overflow::Refuse,
        };
        let memory = Arc::new(Memory::new(usize::MAX));
        let log = MemoryLog::new(">", bounds, &memory);
        let mut naive = Naive::default();
        let mut trimmed = 0;
        for step in 0..1_000 {
            let name = format!("box-{}", random.below(6));
            match random.below(10) {
                0 => {
                    log.expire(step);
                    let oldest = bounds.age.map_or(0, |age| step.saturating_sub(age));
                    for mailbox in naive.0.values_mut() {
                        let before = mailbox.len();
                        mailbox.retain(|mail| mail.time >= oldest);
                        trimmed += before - mailbox.len();
                    }
                }
                1..4 => match naive.0.get_mut(&name).filter(|all| !all.is_empty()) {
                    None => assert!(!log.remove(&name, 1 + random.below(step + 1))),
                    Some(mailbox) => {
                        let place = random.below(mailbox.len() as u64) as usize;
                        let offset = mailbox.remove(place).offset;
                        assert!(!log.remove("other", offset));
                        assert!(log.remove(&name, offset));
                        assert!(!log.remove(&name, offset));
                    }
                },
                _ => {
                    let size = random.below(100) as usize;
                    let has_room = naive.has_room(&name, size, &bounds);
                    assert_eq!(log.has_room(&name, size), has_room);
                    if has_room {
                        let prev = naive.of(&name).last().map_or(0, |mail| mail.offset);
                        let (offset, time) = (log.last() + 1, step);
                        let place = append(&log, &name, size, time, None);
                        assert_eq!(place, Place { offset, prev });
                        let mailbox = naive.0.entry(name.clone()).or_default();
                        mailbox.push(Mail { offset, time, size });
                    }
                }
            }
            compare(&log, &naive, &name, random.below(log.last() + 2));
            // Promised messages are not given up for memory.
            assert_eq!((log.release(usize::MAX), log.releasable()), (0, 0));
        }
        assert_eq!(log.stats().trimmed, trimmed as u64);
        if bounds.age.is_none() {
            assert_eq!(log.behind(">", 0).trimmed_to, 0);
        }
        assert_eq!(memory.used() as u64, log.stats().bytes);
        drop(log);
        assert_eq!(memory.used(), 0);
    }
}

#[test]
fn a_message_is_recognized_by_its_key_within_the_window() {
    let memory = Arc::new(Memory::new(usize::MAX));
    let log = MemoryLog::new(">", BOUNDS, &memory);
    let key = |number: u8| Key([number; 16]);
    let now = crate::store::keys::now();
    append(&log, "a", 1, now - 2 * WINDOW, Some(key(1)));
    append(&log, "a", 1, now, Some(key(2)));
    append(&log, "a", 1, now, None);
    assert_eq!(log.duplicate_of(&key(1)), None);
    assert_eq!(log.duplicate_of(&key(2)), Some(2));
    assert_eq!(log.duplicate_of(&key(3)), None);
    assert!(log.remove("a", 2));
    assert_eq!(log.duplicate_of(&key(2)), Some(2));
    assert!(memory.used() as u64 > log.stats().bytes);
}

#[test]
fn a_log_that_refuses_has_no_room_while_memory_is_short() {
    let memory = Arc::new(Memory::new(10_000));
    let bounds = Bounds {
        overflow: Overflow::Refuse,
        ..BOUNDS
    };
    let log = MemoryLog::new(">", bounds, &memory);
    append(&log, "a", 100, 0, None);
    assert!(log.has_room("a", 100));
    memory.charge(10_000);
    assert!(!log.has_room("a", 100));
    let trims = MemoryLog::new(">", BOUNDS, &memory);
    assert!(trims.has_room("a", usize::MAX));
}

//! Random operations on a log on the disk and on one in memory, whose results are compared.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::store::{keys, memory::MemoryLog};
use mailboxes::{MAILBOXES, key};

const TOPICS: [&str; 12] = [
    "a.1", "a.2", "a.3", "a.4", "b.1", "b.2", "b.3", "c", "d", "e.1.x", "e.2.y", "f",
];
const PATTERNS: [&str; 9] = [">", "a.*", "b.>", "*.1", "a.1", "c", "none", "f", "e.*.x"];

async fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let folder = Folder::new();
    let bounds = Bounds {
        messages: random.random_range(1..30),
        age: random
            .random_bool(0.7)
            .then(|| random.random_range(20..2000)),
        ..BOUNDS
    };
    let model = MemoryLog::new(">", bounds, &memory());
    let (mut store, mut log) = open_with(&folder.0, bounds, SETTINGS).unwrap();
    let mut now = 1_000_000;
    for step in 0..300 {
        let context = format!("seed {seed}, step {step}");
        let forgets = |topic: &&str| (log.next(topic).prev == 0) != (model.next(topic).prev == 0);
        if TOPICS.iter().any(forgets) {
            // Which topics are forgotten first is up to the log.
            return;
        }
        match random.random_range(0..100) {
            0..60 => {
                let topic = TOPICS[random.random_range(0..TOPICS.len())];
                now += random.random_range(0..40);
                for _ in 0..random.random_range(1..6) {
                    assert_eq!(log.next(topic), model.next(topic), "{context}");
                    let text = format!("{topic} {step} {}", random.random::<u32>());
                    append_at(&log, topic, &text, now);
                    append_at(&model, topic, &text, now);
                }
            }
            60..66 => {
                now += random.random_range(0..500);
                log.expire(now);
                model.expire(now);
            }
            66..72 => {
                if log.last() > 0 {
                    assert_eq!(stored(&log, log.last()), Ok(Stored::Disk), "{context}");
                }
            }
            72..76 => {
                store.close();
                drop((store, log));
                (store, log) = open_with(&folder.0, bounds, SETTINGS).unwrap();
            }
            _ => {
                let pattern = PATTERNS[random.random_range(0..PATTERNS.len())];
                let offset = random.random_range(0..=log.last() + 2);
                let query = Query {
                    pattern: pattern.into(),
                    range: match random.random_bool(0.5) {
                        true => Range::After(offset),
                        false => Range::Before(offset),
                    },
                    messages: random.random_range(1..20),
                    bytes: random.random_range(10..400),
                };
                let mut found = log.read(&query).await.unwrap();
                let expected = model.read(&query).await.unwrap();
                if found.more {
                    // Whether it passes messages that were removed is up to the log.
                    let ends = [found.next, expected.next];
                    let (from, to) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
                    let page = model.read(&all_after(pattern, from)).await.unwrap();
                    let between = page.messages.iter().filter(|kept| kept.offset < to);
                    let count = between.filter(|kept| kept.offset > from).count();
                    assert_eq!(count, 0, "{context} {query:?}");
                    found.next = expected.next;
                }
                assert_eq!(found, expected, "{context} {query:?}");
                let behind = log.behind(pattern, offset);
                assert_eq!(
                    behind,
                    model.behind(pattern, offset),
                    "{context} {pattern} {offset}"
                );
                let count = random.random_range(0..10);
                let newest = log.newest(pattern, count);
                assert_eq!(
                    newest,
                    model.newest(pattern, count),
                    "{context} {pattern} {count}"
                );
            }
        }
        assert_eq!(log.last(), model.last(), "{context}");
        let (found, expected) = (log.stats(), model.stats());
        assert_eq!(found.messages, expected.messages, "{context}");
        assert_eq!(found.topics, expected.topics, "{context}");
    }
}

/// Random operations on mailboxes.
async fn run_mailboxes(seed: u64) {
    const NAMES: [&str; 5] = ["one", "two", "a-b_c", "x*", "long-name"];
    let mut random = StdRng::seed_from_u64(seed);
    let folder = Folder::new();
    let bounds = Bounds {
        messages: random.random_range(1..30),
        age: (random.random_bool(0.5)).then(|| random.random_range(20..2000)),
        topic_bytes: random.random_range(20..1000),
        ..MAILBOXES
    };
    let model = MemoryLog::new(">", bounds, &memory());
    let (mut store, mut log) = open_with(&folder.0, bounds, SETTINGS).unwrap();
    let mut now = keys::now();
    let mut number = 0;
    for step in 0..400 {
        let context = format!("seed {seed}, step {step}");
        let name = NAMES[random.random_range(0..NAMES.len())];
        match random.random_range(0..100) {
            0..50 => {
                now += random.random_range(0..40);
                let text = format!("{step}{}", "x".repeat(random.random_range(0..50)));
                let has_room = model.has_room(name, text.len());
                assert_eq!(log.has_room(name, text.len()), has_room, "{context}");
                if has_room {
                    number += 1;
                    assert_eq!(log.next(name), model.next(name), "{context}");
                    let with = (now, random.random_bool(0.5).then(|| key(number)));
                    append_with(&log, name, &text, with);
                    append_with(&model, name, &text, with);
                }
            }
            50..80 => {
                let offsets = read(&model, name, Range::After(0)).await.messages;
                if !offsets.is_empty() {
                    let offset = offsets[random.random_range(0..offsets.len())].offset;
                    assert!(log.remove(name, offset) && model.remove(name, offset));
                    assert!(!log.remove(name, offset), "{context}");
                }
            }
            80..84 => {
                now += random.random_range(0..500);
                log.expire(now);
                model.expire(now);
            }
            84..88 => {
                assert_eq!(stored(&log, log.last()), Ok(Stored::Disk), "{context}");
            }
            88..92 => {
                store.close();
                drop((store, log));
                (store, log) = open_with(&folder.0, bounds, SETTINGS).unwrap();
            }
            _ => {
                let key = key(random.random_range(0..=number));
                assert_eq!(log.duplicate_of(&key), model.duplicate_of(&key));
                for name in NAMES {
                    let after = random.random_range(0..=log.last() + 2);
                    let range = match random.random_bool(0.5) {
                        true => Range::After(after),
                        false => Range::Before(after),
                    };
                    let found = read(&log, name, range).await;
                    assert_eq!(
                        found,
                        read(&model, name, range).await,
                        "{context} {range:?}"
                    );
                    let behind = log.behind(name, after);
                    assert_eq!(behind, model.behind(name, after), "{context} {after}");
                }
            }
        }
        assert_eq!(log.last(), model.last(), "{context}");
        assert_eq!(log.usage(name), model.usage(name), "{context}");
        assert_eq!(log.stats().messages, model.stats().messages, "{context}");
    }
}

#[tokio::test]
async fn mailboxes_on_the_disk_answer_as_those_in_memory() {
    for seed in 0..30 {
        run_mailboxes(seed).await;
    }
}

/// Takes `WSMB_SEEDS=1000` seeds.
#[tokio::test]
#[ignore = "long"]
async fn mailboxes_on_the_disk_answer_as_those_in_memory_for_many_seeds() {
    let seeds = std::env::var("WSMB_SEEDS").map_or(1000, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        run_mailboxes(1_000_000 + seed).await;
    }
}

fn all_after(pattern: &str, offset: u64) -> Query {
    Query {
        pattern: pattern.into(),
        range: Range::After(offset),
        messages: usize::MAX,
        bytes: usize::MAX,
    }
}

#[tokio::test]
async fn a_log_on_the_disk_answers_as_one_in_memory() {
    for seed in 0..30 {
        run(seed).await;
    }
}

/// Takes `WSMB_SEEDS=1000` seeds.
#[tokio::test]
#[ignore = "long"]
async fn a_log_on_the_disk_answers_as_one_in_memory_for_many_seeds() {
    let seeds = std::env::var("WSMB_SEEDS").map_or(1000, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        run(1_000_000 + seed).await;
    }
}

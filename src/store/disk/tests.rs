//! Tests of the store: against the log in memory, with crashes, and with failures of the disk.

mod crash;
mod faults;
mod mailboxes;
mod model;
mod tools;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
};

use super::*;
use crate::store::{Key, Log, Overflow, Page, Query, Range, Record};

/// A folder that is removed at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "wsmb-store-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Relaxed)
        );
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const SETTINGS: Settings = Settings {
    delay: Duration::ZERO,
    waits: true,
    max_bytes: usize::MAX,
};
const BOUNDS: Bounds = Bounds {
    messages: 1_000,
    age: None,
    bytes: usize::MAX,
    topic_bytes: usize::MAX,
    overflow: Overflow::Trim,
};

fn memory() -> Arc<Memory> {
    Arc::new(Memory::new(usize::MAX))
}

fn open_with(
    folder: &Path,
    bounds: Bounds,
    settings: Settings,
) -> Result<(DiskStore, DiskLog), StoreError> {
    let rules = [(">", bounds)];
    let (store, mut logs) = DiskStore::open(folder, &rules, settings, &memory(), Box::new(|_| ()))?;
    Ok((store, logs.remove(0)))
}

fn open(folder: &Path) -> (DiskStore, DiskLog) {
    open_with(folder, BOUNDS, SETTINGS).unwrap()
}

fn append_at(log: &dyn Log, topic: &str, text: &str, time: u64) -> u64 {
    append_with(log, topic, text, (time, None))
}

fn append_with(log: &dyn Log, topic: &str, text: &str, (time, key): (u64, Option<Key>)) -> u64 {
    let place = log.next(topic);
    let frame = Bytes::copy_from_slice(text.as_bytes());
    log.append(Record {
        topic,
        place,
        frame,
        time,
        key,
    });
    place.offset
}

fn append(log: &dyn Log, topic: &str, text: &str) -> u64 {
    append_at(log, topic, text, 0)
}

/// Waits until all up to an offset is stored.
fn stored(log: &dyn Log, offset: u64) -> Result<Stored, StoreError> {
    let (sender, receiver) = mpsc::channel();
    log.on_stored(offset, Box::new(move |stored| sender.send(stored).unwrap()));
    receiver.recv().unwrap()
}

async fn read(log: &dyn Log, pattern: &str, range: Range) -> Page {
    let query = Query {
        pattern: pattern.into(),
        range,
        messages: 100_000,
        bytes: usize::MAX,
    };
    log.read(&query).await.unwrap()
}

async fn texts(log: &dyn Log, pattern: &str) -> Vec<String> {
    let page = read(log, pattern, Range::After(0)).await;
    let text = |kept: &crate::store::Kept| String::from_utf8(kept.frame.to_vec()).unwrap();
    page.messages.iter().map(text).collect()
}

#[tokio::test]
async fn messages_are_there_again_after_the_store_is_opened_again() {
    let folder = Folder::new();
    let (store, log) = open(&folder.0);
    append(&log, "a.1", "one");
    append(&log, "a.2", "two");
    let last = append(&log, "a.1", "three");
    assert_eq!(texts(&log, "a.1").await, ["one", "three"]);
    assert_eq!(stored(&log, last), Ok(Stored::Disk));
    assert_eq!(texts(&log, "a.1").await, ["one", "three"]);
    let epoch = log.epoch().to_owned();
    append(&log, "a.1", "four");
    store.close();
    let (_store, log) = open(&folder.0);
    assert_eq!(log.epoch(), epoch);
    assert_eq!(log.last(), 4);
    let page = read(&log, "a.1", Range::After(1)).await;
    assert_eq!(page.trimmed_to, 0);
    assert_eq!(texts(&log, "a.1").await, ["one", "three", "four"]);
    assert_eq!(texts(&log, "a.*").await, ["one", "two", "three", "four"]);
    assert_eq!(append(&log, "a.1", "five"), 5);
    let behind = log.behind(">", 0);
    assert_eq!((behind.lost, behind.messages), (Some(0), Some(5)));
}

#[tokio::test]
async fn each_rule_has_a_log_of_its_own() {
    let folder = Folder::new();
    let open = |patterns: &[&str]| {
        let rules: Vec<_> = patterns.iter().map(|pattern| (*pattern, BOUNDS)).collect();
        DiskStore::open(&folder.0, &rules, SETTINGS, &memory(), Box::new(|_| ())).unwrap()
    };
    let (store, logs) = open(&["a.>", "b.>"]);
    assert_eq!(append(&logs[0], "a.1", "one"), 1);
    assert_eq!(append(&logs[1], "b.1", "two"), 1);
    let epoch = logs[1].epoch().to_owned();
    store.close();
    // A rule that is gone for a while keeps its messages.
    let (store, logs) = open(&["c.>", "a.>"]);
    assert_eq!(texts(&logs[0], ">").await, [""; 0]);
    assert_eq!(texts(&logs[1], ">").await, ["one"]);
    assert_eq!(append(&logs[0], "c.1", "three"), 1);
    store.close();
    let (_store, logs) = open(&["b.>", "c.>"]);
    assert_eq!(logs[0].epoch(), epoch);
    assert_eq!(texts(&logs[0], ">").await, ["two"]);
    assert_eq!(texts(&logs[1], ">").await, ["three"]);
}

#[tokio::test]
async fn bytes_of_a_log_and_of_the_store_are_bounded() {
    let folder = Folder::new();
    let size = 100 + MESSAGE;
    let text = "x".repeat(100);
    let bounds = Bounds {
        bytes: 5 * size,
        ..BOUNDS
    };
    let settings = Settings {
        max_bytes: 7 * size,
        ..SETTINGS
    };
    let open = || {
        let rules = [("a.>", bounds), ("b.>", bounds)];
        DiskStore::open(&folder.0, &rules, settings, &memory(), Box::new(|_| ())).unwrap()
    };
    let (store, logs) = open();
    for _ in 0..6 {
        append(&logs[0], "a.1", &text);
    }
    let counts = |logs: &[DiskLog]| [0, 1].map(|log: usize| logs[log].stats().messages);
    assert_eq!(counts(&logs), [5, 0]);
    for _ in 0..4 {
        append(&logs[1], "b.1", &text);
    }
    // The log that grows gives way, down to nothing.
    assert_eq!(counts(&logs), [5, 2]);
    assert_eq!(logs[1].stats().trimmed, 2);
    store.close();
    let (_store, logs) = open();
    assert_eq!(counts(&logs), [5, 2]);
    append(&logs[0], "a.1", &text);
    assert_eq!(counts(&logs), [5, 2]);
}

#[tokio::test]
async fn a_store_that_does_not_wait_says_memory_and_writes_later() {
    let folder = Folder::new();
    let settings = Settings {
        delay: Duration::from_secs(3600),
        waits: false,
        ..SETTINGS
    };
    let (store, log) = open_with(&folder.0, BOUNDS, settings).unwrap();
    let offset = append(&log, "a", "one");
    assert_eq!(stored(&log, offset), Ok(Stored::Memory));
    store.close();
    assert_eq!(texts(&open(&folder.0).1, "a").await, ["one"]);
}

#[tokio::test]
async fn a_delay_collects_messages_and_closing_ends_it() {
    let folder = Folder::new();
    let settings = Settings {
        delay: Duration::from_secs(3600),
        ..SETTINGS
    };
    let (store, log) = open_with(&folder.0, BOUNDS, settings).unwrap();
    let (sender, receiver) = mpsc::channel();
    for text in ["one", "two"] {
        let offset = append(&log, "a", text);
        let sender = sender.clone();
        let done = move |stored| sender.send((offset, stored)).unwrap();
        log.on_stored(offset, Box::new(done));
    }
    assert!(receiver.try_recv().is_err());
    store.close();
    let results: Vec<_> = receiver.try_iter().collect();
    assert_eq!(results, [(1, Ok(Stored::Disk)), (2, Ok(Stored::Disk))]);
    let late = append(&log, "a", "late");
    assert!(stored(&log, late).is_err());
}

#[test]
fn those_who_wait_are_called_in_the_order_of_offsets() {
    let folder = Folder::new();
    let (store, log) = open(&folder.0);
    let (sender, receiver) = mpsc::channel();
    for number in 1..=10_000_u64 {
        let offset = append(&log, "a", "text");
        assert_eq!(offset, number);
        let sender = sender.clone();
        let done = move |stored: Result<_, _>| sender.send((offset, stored.is_ok())).unwrap();
        log.on_stored(offset, Box::new(done));
    }
    store.close();
    // Those that were stored already are called at once, perhaps before the writer calls the ones before.
    let mut results: Vec<_> = receiver.try_iter().collect();
    results.sort_unstable();
    assert!(
        results
            .into_iter()
            .eq((1..=10_000).map(|offset| (offset, true)))
    );
}

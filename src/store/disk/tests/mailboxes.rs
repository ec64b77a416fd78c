//! Logs of mailboxes on the disk: bounds that refuse, acknowledged messages, and idempotency keys.

use super::*;
use crate::store::keys::{WINDOW, now};

pub(super) const MAILBOXES: Bounds = Bounds {
    overflow: Overflow::Refuse,
    ..BOUNDS
};

pub(super) fn key(number: u64) -> Key {
    Key(u128::from(number).to_be_bytes())
}

fn open(folder: &Path) -> (DiskStore, DiskLog) {
    open_with(folder, MAILBOXES, SETTINGS).unwrap()
}

fn put(log: &dyn Log, name: &str, text: &str, number: u64) -> u64 {
    append_with(log, name, text, (now(), Some(key(number))))
}

#[tokio::test]
async fn an_acknowledged_message_is_gone_after_the_store_is_opened_again() {
    let folder = Folder::new();
    let (store, log) = open(&folder.0);
    for number in 1..=6 {
        append(&log, "box", &number.to_string());
    }
    assert_eq!(stored(&log, 6), Ok(Stored::Disk));
    for offset in [3, 1, 6] {
        assert!(log.remove("box", offset));
        assert!(!log.remove("box", offset));
    }
    // One that is not on the disk yet.
    let seven = append(&log, "box", "7");
    assert!(log.remove("box", seven));
    assert_eq!(stored(&log, seven), Ok(Stored::Disk));
    assert_eq!(log.next("box").prev, 5);
    let usage = log.usage("box");
    store.close();
    let (_store, log) = open(&folder.0);
    assert_eq!(texts(&log, "box").await, ["2", "4", "5"]);
    assert_eq!((log.usage("box"), log.next("box").prev), (usage, 5));
    let behind = log.behind("box", 0);
    assert_eq!((behind.trimmed_to, behind.lost), (0, Some(0)));
    assert_eq!(log.stats().trimmed, 0);
    assert_eq!(log.last(), 7);
}

#[tokio::test]
async fn removals_are_written_though_no_message_follows() {
    let disk = faults::Disk::default();
    let (store, log, _) = faults::open_with(&disk, MAILBOXES);
    append(&log, "box", "one");
    assert_eq!(stored(&log, 1), Ok(Stored::Disk));
    let syncs = disk.syncs();
    assert!(log.remove("box", 1));
    while disk.syncs() == syncs {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop((store, log));
}

#[test]
fn bounds_refuse_and_trim_nothing() {
    let folder = Folder::new();
    let size = 100 + MESSAGE;
    let text = "x".repeat(100);
    let bounds = Bounds {
        messages: 3,
        bytes: 5 * size,
        topic_bytes: 250,
        ..MAILBOXES
    };
    let settings = Settings {
        max_bytes: 7 * size,
        ..SETTINGS
    };
    let rules = [("a", bounds), ("b", bounds)];
    let open =
        || DiskStore::open(&folder.0, &rules, settings, &memory(), Box::new(|_| ())).unwrap();
    let (store, logs) = open();
    for _ in 0..2 {
        assert!(logs[0].has_room("one", 100));
        append(&logs[0], "one", &text);
    }
    // Bytes of the mailbox, messages of the mailbox, bytes of the log.
    assert!(!logs[0].has_room("one", 100));
    assert!(logs[0].has_room("one", 50));
    append(&logs[0], "one", "");
    assert!(!logs[0].has_room("one", 0));
    assert!(logs[0].remove("one", 3));
    append(&logs[0], "two", &text);
    append(&logs[0], "two", &text);
    append(&logs[0], "three", &text);
    assert!(!logs[0].has_room("four", 0));
    // Bytes of the store.
    append(&logs[1], "one", &text);
    append(&logs[1], "one", &text);
    assert!(!logs[1].has_room("two", 100));
    assert!(logs[0].remove("two", 4));
    assert!(logs[1].has_room("two", 100));
    store.close();
    // Smaller bounds remove nothing either.
    let small = Bounds {
        messages: 1,
        bytes: 10,
        topic_bytes: 10,
        ..MAILBOXES
    };
    let rules = [("a", small), ("b", small)];
    let opened = DiskStore::open(&folder.0, &rules, settings, &memory(), Box::new(|_| ()));
    let (_store, logs) = opened.unwrap();
    let counts = [0, 1].map(|log: usize| logs[log].stats().messages);
    assert_eq!(counts, [4, 2]);
    assert!(!logs[0].has_room("new", 0));
}

#[test]
fn a_key_is_recognized_after_its_message_was_removed_and_the_store_opened_again() {
    let folder = Folder::new();
    let (store, log) = open(&folder.0);
    let old = (now() - 2 * WINDOW, Some(key(9)));
    append_with(&log, "box", "old", old);
    let one = put(&log, "box", "one", 1);
    let two = put(&log, "box", "two", 2);
    assert_eq!(log.duplicate_of(&key(1)), Some(one));
    assert_eq!(log.duplicate_of(&key(3)), None);
    assert!(log.remove("box", one));
    store.close();
    let (store, log) = open(&folder.0);
    assert_eq!(log.duplicate_of(&key(1)), Some(one));
    assert_eq!(log.duplicate_of(&key(2)), Some(two));
    assert_eq!(log.duplicate_of(&key(9)), None);
    assert_eq!(stored(&log, one), Ok(Stored::Disk));
    // Beyond their number the oldest are forgotten, here and in the file.
    let count = crate::store::keys::MAX_KEYS as u64;
    for number in 0..count - 1 {
        put(&log, "box", "text", 100 + number);
    }
    let counts = |log: &DiskLog| [key(1), key(2)].map(|key| log.duplicate_of(&key));
    assert_eq!(counts(&log), [None, Some(two)]);
    store.close();
    let rows = |folder: &Path| {
        let (file, mut rows) = (File::open(folder).unwrap(), Vec::new());
        file.keys(0, |row| rows.push(row.offset)).unwrap();
        rows
    };
    assert_eq!(rows(&folder.0).len(), count as usize);
    assert_eq!(rows(&folder.0)[0], two);
    let (_store, log) = open(&folder.0);
    assert_eq!(counts(&log), [None, Some(two)]);
}

#[test]
fn a_message_that_is_not_stored_leaves_no_key_behind() {
    let disk = faults::Disk::default();
    let (store, log, _) = faults::open_with(&disk, MAILBOXES);
    let one = put(&log, "box", "one", 1);
    assert_eq!(stored(&log, one), Ok(Stored::Disk));
    disk.fail_next_sync();
    let two = put(&log, "box", "two", 2);
    assert!(stored(&log, two).is_err());
    assert_eq!(log.duplicate_of(&key(1)), Some(one));
    assert_eq!(log.duplicate_of(&key(2)), None);
    put(&log, "box", "three", 3);
    assert_eq!(log.duplicate_of(&key(3)), None);
    // Nothing is collected any more for a file that is not written.
    assert!(log.remove("box", one));
    assert!(!log.is_journaled());
    drop(store);
}

#[test]
fn a_message_for_which_the_queue_has_no_room_leaves_no_key_and_is_never_said_to_be_stored() {
    let disk = faults::Disk::default();
    let (store, log, _) = faults::open_with(&disk, MAILBOXES);
    let gate = disk.hold();
    let large = "x".repeat(1 << 20);
    for _ in 1..MAX_QUEUED >> 20 {
        append(&log, "box", &large);
    }
    // Many ranges of messages that were not stored.
    let mut skipped = Vec::new();
    for number in 0..200 {
        skipped.push(put(&log, "box", &large, number));
        assert_eq!(log.duplicate_of(&key(number)), None);
        append(&log, "box", "small");
    }
    drop(gate);
    store.close();
    for offset in skipped {
        assert!(stored(&log, offset).is_err(), "{offset}");
        assert_eq!(stored(&log, offset + 1), Ok(Stored::Disk), "{offset}");
    }
}

//! Checking, compacting and reading a file that no server uses.

use super::*;
use crate::store::disk::tools::{LogReport, Reader, check, compact};

fn fill(folder: &Path, count: u64) {
    let rules = [("a.>", BOUNDS), ("b", BOUNDS)];
    let opened = DiskStore::open(folder, &rules, SETTINGS, &memory(), Box::new(|_| ()));
    let (_store, logs) = opened.unwrap();
    for number in 0..count {
        let topic = format!("a.{}", number % 3);
        let key = Key([7; 16]);
        append_with(&logs[0], &topic, &format!("text {number}"), (5, Some(key)));
    }
    append(&logs[1], "b", "of b");
}

fn totals(logs: &[LogReport]) -> Vec<(&str, u64, u64, u64)> {
    let total = |log: &LogReport| (log.messages, log.topics, log.damaged);
    let all = logs.iter();
    all.map(|log| {
        let (messages, topics, damaged) = total(log);
        (&*log.name, messages, topics, damaged)
    })
    .collect()
}

#[test]
fn a_check_counts_what_a_file_has_and_finds_each_damaged_row() {
    let folder = Folder::new();
    assert!(check(&folder.0).is_err());
    assert!(!folder.0.exists());
    fill(&folder.0, 10);
    let report = check(&folder.0).unwrap();
    assert!(report.has_intact_pages && report.bytes > 0);
    assert_eq!(totals(&report.logs), [("a.>", 10, 3, 0), ("b", 1, 1, 0)]);
    assert!(report.logs.iter().all(|log| !log.epoch.is_empty()));
    assert_eq!((report.logs[0].bytes, report.logs[0].keys), (60, 10));
    file::damage(&File::open(&folder.0).unwrap(), 0, 4);
    let report = check(&folder.0).unwrap();
    assert_eq!(totals(&report.logs), [("a.>", 10, 3, 1), ("b", 1, 1, 0)]);
}

#[tokio::test]
async fn a_damaged_message_is_not_delivered_and_ends_the_store() {
    let folder = Folder::new();
    fill(&folder.0, 10);
    file::damage(&File::open(&folder.0).unwrap(), 0, 4);
    let (sender, receiver) = mpsc::channel();
    let on_failure = move |error: &StoreError| sender.send(error.0.to_string()).unwrap();
    let rules = [("a.>", BOUNDS)];
    let opened = DiskStore::open(&folder.0, &rules, SETTINGS, &memory(), Box::new(on_failure));
    let (_store, logs) = opened.unwrap();
    let log = &logs[0];
    assert_eq!(texts(log, "a.1").await, ["text 1", "text 4", "text 7"]);
    let query = Query {
        pattern: "a.0".into(),
        range: Range::After(0),
        messages: 9,
        bytes: 1 << 20,
    };
    for _ in 0..2 {
        let error = log.read(&query).await.unwrap_err();
        assert!(
            error.0.contains("message 4 of log 0 is damaged"),
            "{error:?}"
        );
    }
    assert_eq!(receiver.try_iter().count(), 1);
    let offset = append(log, "a.1", "new");
    assert!(stored(log, offset).is_err());
}

#[test]
fn a_file_that_is_compacted_is_smaller_and_has_the_same_messages() {
    let folder = Folder::new();
    let (store, log) = open(&folder.0);
    let text = "x".repeat(10_000);
    for _ in 0..1_000 {
        append(&log, "a", &text);
    }
    let last = log.last();
    assert_eq!(stored(&log, last), Ok(Stored::Disk));
    assert!(compact(&folder.0).unwrap_err().0.contains("in use"));
    assert!(check(&folder.0).unwrap_err().0.contains("in use"));
    assert!(Reader::open(&folder.0).unwrap_err().0.contains("in use"));
    store.close();
    let small = Bounds {
        messages: 100,
        ..BOUNDS
    };
    open_with(&folder.0, small, SETTINGS).unwrap().0.close();
    let (before, after) = compact(&folder.0).unwrap();
    assert!(before > 10_000_000 && after < 4_000_000, "{before} {after}");
    let report = check(&folder.0).unwrap();
    assert_eq!(totals(&report.logs), [(">", 100, 1, 0)]);
    assert_eq!(open(&folder.0).1.last(), last);
}

#[test]
fn all_messages_are_read_log_by_log_in_pages() {
    let folder = Folder::new();
    fill(&folder.0, 10);
    let rules = [("big", BOUNDS)];
    let opened = DiskStore::open(&folder.0, &rules, SETTINGS, &memory(), Box::new(|_| ()));
    let (store, logs) = opened.unwrap();
    let text = "x".repeat(400_000);
    for _ in 0..7 {
        append(&logs[0], "big", &text);
    }
    store.close();
    drop((store, logs));
    let mut reader = Reader::open(&folder.0).unwrap();
    let (mut pages, mut found) = (0, Vec::new());
    while let Some(page) = reader.next().unwrap() {
        pages += 1;
        assert!(!page.epoch.is_empty());
        for message in page.messages {
            assert!(message.is_intact && message.time <= 5 && message.frame.len() >= 4);
            found.push((
                page.log.to_string(),
                message.offset,
                message.topic.to_string(),
            ));
        }
    }
    assert_eq!(pages, 1 + 1 + 3);
    assert_eq!(found.len(), 18);
    assert_eq!(found[1], ("a.>".to_owned(), 2, "a.1".to_owned()));
    assert_eq!(found[17], ("big".to_owned(), 7, "big".to_owned()));
}

//! Processes that append and are killed.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::Mutex,
};

use super::*;
use crate::store::keys;
use mailboxes::{MAILBOXES, key};

/// Nothing is trimmed.
const UNBOUNDED: Bounds = Bounds {
    messages: usize::MAX,
    ..BOUNDS
};
const FOLDER: &str = "WSMB_STORE_FOLDER";
const NAME: &str = "store::disk::tests::crash::a_process_that_appends";

/// Appends until it is killed. Prints each offset when it is given, and when the message is stored.
#[test]
#[ignore = "run by others"]
fn a_process_that_appends() {
    let Ok(folder) = env::var(FOLDER) else { return };
    let (_store, log) = open_with(Path::new(&folder), UNBOUNDED, SETTINGS).unwrap();
    let output = Arc::new(Mutex::new(std::io::stdout()));
    let print = |kind: char, offset: u64| {
        let output = output.clone();
        move || writeln!(output.lock().unwrap(), "\n{kind} {offset}").unwrap()
    };
    for number in 0_u64.. {
        let topic = format!("t.{}", number % 7);
        let offset = log.next(&topic).offset;
        append(&log, &topic, &format!("text {offset}"));
        print('a', offset)();
        let done = print('s', offset);
        log.on_stored(
            offset,
            Box::new(move |stored| {
                assert_eq!(stored, Ok(Stored::Disk));
                done();
            }),
        );
        if number % 50 == 49 {
            let _ = super::stored(&log, offset);
        }
    }
}

/// Appends messages with keys and acknowledges some until it is killed. Prints each offset when its message is stored, and
/// when its removal is.
#[test]
#[ignore = "run by others"]
fn a_process_that_acknowledges() {
    let Ok(folder) = env::var(FOLDER) else { return };
    let bounds = Bounds {
        messages: usize::MAX,
        ..MAILBOXES
    };
    let (_store, log) = open_with(Path::new(&folder), bounds, SETTINGS).unwrap();
    let mut output = std::io::stdout();
    let mut removed = Vec::new();
    for number in 0_u64.. {
        let name = format!("box-{}", number % 7);
        let offset = log.next(&name).offset;
        append_with(&log, &name, "text", (keys::now(), Some(key(offset))));
        if rand::random() {
            assert!(log.remove(&name, offset));
            removed.push(offset);
        } else {
            // An older one, perhaps removed already.
            let older = offset.saturating_sub(rand::random::<u64>() % 70);
            (log.remove(&name, older)).then(|| removed.push(older));
        }
        if number % 5 == 4 {
            // What was removed before it was appended is on the disk with it.
            let before = removed.len();
            let last = append(&log, &name, "last");
            assert_eq!(super::stored(&log, last), Ok(Stored::Disk));
            for offset in removed.drain(..before) {
                write!(output, "\nr {offset} ").unwrap();
            }
            write!(output, "\ns {last} ").unwrap();
            output.flush().unwrap();
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_killed_process_brings_no_acknowledged_message_back_and_forgets_no_key() {
    let folder = Folder::new();
    let mut removed = BTreeSet::new();
    for cycle in 0..20 {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([
            "store::disk::tests::crash::a_process_that_acknowledges",
            "--exact",
            "--ignored",
            "--nocapture",
        ]);
        let mut child = (command.env(FOLDER, &folder.0))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut count, limit, mut last) = (0, 1 + rand::random::<u64>() % 60, 0);
        while let Some(Ok(line)) = lines.next() {
            // A line that was cut off has no second space.
            let mut words = line.split(' ');
            let (Some(kind), Some(offset), Some(_)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let Ok(offset) = offset.parse::<u64>() else {
                continue;
            };
            match kind {
                "r" => {
                    removed.insert(offset);
                }
                "s" => (count, last) = (count + 1, offset),
                _ => {}
            }
            if count == limit {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(count >= limit, "cycle {cycle}: the process ended by itself");
        let (store, log) = open_with(&folder.0, MAILBOXES, SETTINGS).unwrap();
        for number in 0..7 {
            let name = format!("box-{number}");
            for kept in read(&log, &name, Range::After(0)).await.messages {
                assert!(!removed.contains(&kept.offset), "cycle {cycle}: {kept:?}");
            }
        }
        // The newest five before the last one that was stored have keys.
        for offset in last - 5..last {
            assert_eq!(log.duplicate_of(&key(offset)), Some(offset));
            assert_eq!(stored(&log, offset), Ok(Stored::Disk));
        }
        store.close();
    }
    assert!(removed.len() > 100);
}

async fn kill_often(cycles: usize) {
    let folder = Folder::new();
    let (mut given, mut total) = (0, 0);
    let mut checked = 0;
    // The messages that must be there.
    let mut expected = BTreeSet::new();
    for cycle in 0..cycles {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([NAME, "--exact", "--ignored", "--nocapture"]);
        let mut child = (command.env(FOLDER, &folder.0))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut count = 0;
        let limit = 1 + rand::random::<u64>() % 400;
        let mut first_of_cycle = true;
        while let Some(Ok(line)) = lines.next() {
            let Some((kind, offset)) = line.split_once(' ') else {
                continue;
            };
            let Ok(offset) = offset.parse::<u64>() else {
                continue;
            };
            match kind {
                "a" => {
                    assert!(offset > given, "cycle {cycle}: {offset} after {given}");
                    assert!(first_of_cycle || offset == given + 1);
                    (given, first_of_cycle) = (offset, false);
                }
                "s" => {
                    expected.insert(offset);
                    count += 1;
                }
                _ => {}
            }
            if count == limit {
                // What it prints until it is dead is read, too.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(count >= limit, "cycle {cycle}: the process ended by itself");
        total += count;
        if cycle % 10 != 9 && cycle + 1 != cycles {
            continue;
        }
        let (store, log) = open_with(&folder.0, UNBOUNDED, SETTINGS).unwrap();
        // At the end all messages are read, before that those since the last time.
        let mut after = if cycle + 1 == cycles { 0 } else { checked };
        checked = given;
        let mut missing = expected
            .range(after + 1..)
            .copied()
            .collect::<BTreeSet<_>>();
        loop {
            let page = read(&log, ">", Range::After(after)).await;
            for kept in &page.messages {
                let text = String::from_utf8(kept.frame.to_vec()).unwrap();
                assert_eq!(text, format!("text {}", kept.offset));
                missing.remove(&kept.offset);
            }
            after = page.next;
            if !page.more {
                break;
            }
        }
        assert_eq!(missing, BTreeSet::new(), "cycle {cycle}");
        assert_eq!(log.behind(">", 0).trimmed_to, 0);
        assert!(log.last() >= given);
        given = log.last();
        store.close();
    }
    println!("{cycles} processes were killed after {total} stored messages");
}

#[cfg(unix)]
#[tokio::test]
async fn a_killed_process_loses_no_stored_message_and_no_offset_is_given_twice() {
    kill_often(50).await;
}

/// `WSMB_CYCLES=1000` cycles.
#[cfg(unix)]
#[tokio::test]
#[ignore = "long"]
async fn many_killed_processes_lose_no_stored_message() {
    kill_often(env::var("WSMB_CYCLES").map_or(1000, |cycles| cycles.parse().unwrap())).await;
}

//! Checks, compacts and reads the file of a store that no server uses.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;

use super::{file::File, rows::Head};
use crate::store::StoreError;

/// Bytes of the frames after which a page ends.
const PAGE: usize = 1 << 20;

/// The result of a check.
#[derive(Debug)]
pub(crate) struct Report {
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// False if a page of the file was damaged.
    pub(crate) has_intact_pages: bool,
    pub(crate) logs: Vec<LogReport>,
}

/// The result of a check of one log.
#[derive(Debug, Default)]
pub(crate) struct LogReport {
    pub(crate) name: String,
    pub(crate) epoch: String,
    pub(crate) messages: u64,
    pub(crate) topics: u64,
    /// Bytes of the frames.
    pub(crate) bytes: u64,
    pub(crate) keys: u64,
    /// Messages whose rows are damaged.
    pub(crate) damaged: u64,
}

/// A message in a file.
#[derive(Debug)]
pub(crate) struct StoredMessage {
    pub(crate) offset: u64,
    /// Milliseconds since 1970.
    pub(crate) time: u64,
    pub(crate) topic: Arc<str>,
    pub(crate) frame: Bytes,
    /// False if the row is damaged.
    pub(crate) is_intact: bool,
}

/// Checks each page and each row of the file in a folder.
pub(crate) fn check(folder: &Path) -> Result<Report, StoreError> {
    let file = File::open_existing(folder)?;
    let mut logs = Vec::new();
    let has_intact_pages = file.check_pages()?;
    for head in file.heads()? {
        logs.push(check_log(&file, &head)?);
    }
    let bytes = file.size()?;
    file.close();
    Ok(Report {
        bytes,
        has_intact_pages,
        logs,
    })
}

fn check_log(file: &File, head: &Head) -> Result<LogReport, StoreError> {
    let mut report = LogReport {
        name: head.pattern.to_string(),
        epoch: head.epoch.to_string(),
        ..LogReport::default()
    };
    let mut topics = HashSet::new();
    file.messages(head.number, 0, |row| {
        report.messages += 1;
        report.bytes += row.frame.len() as u64;
        topics.insert(row.topic);
        let is_right = row.is_intact(head.number)
            && row.prev < row.offset
            && row.offset <= head.reserved.max(1);
        report.damaged += u64::from(!is_right);
        true
    })?;
    report.topics = topics.len() as u64;
    file.keys(head.number, |_| report.keys += 1)?;
    Ok(report)
}

/// Compacts the file in a folder. Returns its bytes before and after.
pub(crate) fn compact(folder: &Path) -> Result<(u64, u64), StoreError> {
    let file = File::open_existing(folder)?;
    let before = file.size()?;
    file.compact()?;
    file.close();
    Ok((before, file.size()?))
}

/// Messages of one log.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) log: Arc<str>,
    pub(crate) epoch: Arc<str>,
    pub(crate) messages: Vec<StoredMessage>,
}

/// Reads all messages of a file, log by log, in the order of their offsets.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    /// The logs that are not read yet, and the one that is being read at the end.
    heads: Vec<Head>,
    topics: HashMap<u32, Arc<str>>,
    /// The last offset that was read.
    read_to: u64,
}

impl Reader {
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        let file = File::open_existing(folder)?;
        let mut heads = file.heads()?;
        heads.reverse();
        let mut reader = Self {
            file,
            heads,
            topics: HashMap::new(),
            read_to: 0,
        };
        reader.begin_log()?;
        Ok(reader)
    }

    fn begin_log(&mut self) -> Result<(), StoreError> {
        (self.read_to, self.topics) = (0, HashMap::new());
        if let Some(head) = self.heads.last() {
            let topics = &mut self.topics;
            let add = |row: crate::store::index::TopicRow| {
                topics.insert(row.number, row.name);
            };
            self.file.topics(head.number, add)?;
        }
        Ok(())
    }

    /// The next messages; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Page>, StoreError> {
        while let Some(head) = self.heads.last().cloned() {
            let (mut messages, mut bytes, mut read_to) = (Vec::new(), 0, self.read_to);
            let topics = &self.topics;
            self.file.messages(head.number, self.read_to, |row| {
                // Without its topic it was removed, and is still in the file.
                if let Some(topic) = topics.get(&row.topic) {
                    messages.push(StoredMessage {
                        offset: row.offset,
                        time: row.time,
                        topic: topic.clone(),
                        frame: Bytes::copy_from_slice(row.frame),
                        is_intact: row.is_intact(head.number),
                    });
                }
                read_to = row.offset;
                bytes += row.frame.len() + 64;
                bytes < PAGE
            })?;
            if read_to > self.read_to {
                self.read_to = read_to;
                return Ok(Some(Page {
                    log: head.pattern,
                    epoch: head.epoch,
                    messages,
                }));
            }
            self.heads.pop();
            self.begin_log()?;
        }
        Ok(None)
    }
}

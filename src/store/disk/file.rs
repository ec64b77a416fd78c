//! The file of a store: its tables, and the transactions that write and read them.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | `format` | the version of these tables |
//! | `logs` | the pattern of a rule | the number of its log, and [`Head`] |
//! | `topics` | number of the log, number of the topic | newest offset, newest trimmed offset, name |
//! | `messages` | number of the log, offset | time, offset before it of its topic, number of the topic, checksum, frame |
//! | `keys` | number of the log, offset | time, hash of the idempotency key of the message |

use std::{
    fs,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use parking_lot::RwLock;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction, backends::FileBackend,
};

use super::rows::{self, Head, MessageRef, MessageRow, key};
use crate::store::{
    StoreError,
    index::{TopicChange, TopicRow},
    keys::KeyRow,
};

/// The version of the tables.
const FORMAT: u64 = 1;
/// The key of that version.
const FORMAT_KEY: &[u8] = b"format";
/// Bytes of pages that the library caches.
const CACHE: usize = 8 << 20;
/// The name of the file in the folder of the store.
pub(super) const NAME: &str = "messages.redb";

/// All tables have this type: the library is compiled once for each type.
type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

const META: Table = Table::new("meta");
const LOGS: Table = Table::new("logs");
const TOPICS: Table = Table::new("topics");
const MESSAGES: Table = Table::new("messages");
const KEYS: Table = Table::new("keys");

/// The file of a store. It is locked for other processes while it is open.
#[derive(Debug)]
pub(super) struct File {
    /// None once it is closed.
    database: RwLock<Option<Database>>,
    path: PathBuf,
}

/// The changes of a log that are written in one transaction.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) number: u32,
    pub(super) head: Option<Head>,
    pub(super) topics: Vec<TopicChange>,
    pub(super) appended: Vec<MessageRow>,
    pub(super) removed: Vec<u64>,
    /// The keys of messages up to this offset are forgotten.
    pub(super) keys_forgotten_to: Option<u64>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.head.is_none()
            && self.topics.is_empty()
            && self.appended.is_empty()
            && self.removed.is_empty()
            && self.keys_forgotten_to.is_none()
    }
}

impl File {
    /// Opens the file in this folder, and creates both if they do not exist.
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        let at = |error: std::io::Error| failure(folder, &error);
        fs::create_dir_all(folder).map_err(at)?;
        let file = Self::open_in(folder, true)?;
        // The entry of a new file in its folder must not be lost either.
        #[cfg(unix)]
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(at)?;
        Ok(file)
    }

    /// Opens the file in this folder.
    #[cfg(any(test, feature = "node"))]
    pub(super) fn open_existing(folder: &Path) -> Result<Self, StoreError> {
        Self::open_in(folder, false)
    }

    fn open_in(folder: &Path, creates: bool) -> Result<Self, StoreError> {
        let path = folder.join(NAME);
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(creates);
        let file = options.open(&path);
        let backend = file
            .map_err(|error| failure(&path, &error))
            .and_then(|file| {
                FileBackend::new(file).map_err(|error| match error {
                    DatabaseError::DatabaseAlreadyOpen => in_use(&path),
                    error => failure(&path, &error),
                })
            })?;
        // A damaged file may make the library panic.
        let open = || Self::open_backend(backend, &path);
        panic::catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(damaged(&path)))
    }

    /// Opens the file that a backend reads and writes. `path` is for texts of errors.
    pub(super) fn open_backend(
        backend: impl StorageBackend,
        path: &Path,
    ) -> Result<Self, StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let database = builder
            .create_with_backend(backend)
            .map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => in_use(path),
                error => failure(path, &error),
            })?;
        let file = Self {
            database: RwLock::new(Some(database)),
            path: path.to_owned(),
        };
        file.check_format()?;
        Ok(file)
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let format = self.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            let known = meta.get(FORMAT_KEY)?;
            let known = known.map(|row| row.value().try_into().map_or(0, u64::from_le_bytes));
            match known {
                None => {
                    meta.insert(FORMAT_KEY, FORMAT.to_le_bytes().as_slice())?;
                }
                Some(FORMAT) => {}
                Some(format) => return Ok(format),
            }
            transaction.open_table(LOGS)?;
            transaction.open_table(TOPICS)?;
            transaction.open_table(MESSAGES)?;
            transaction.open_table(KEYS)?;
            Ok(FORMAT)
        })?;
        match format {
            FORMAT => Ok(()),
            _ => {
                let other = if format > FORMAT {
                    "a newer"
                } else {
                    "an older"
                };
                let reason = format!(
                    "has the format {format}, expected {FORMAT}: it was written by {other} version"
                );
                Err(failure(&self.path, &reason))
            }
        }
    }

    /// Closes and unlocks the file, after all that is being read.
    pub(super) fn close(&self) {
        let database = self.database.write().take();
        // All changes are on the disk already.
        let _ = database.map(Database::close);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.database.read().is_none()
    }

    /// Runs a transaction, and returns after the disk has confirmed it.
    fn write<T>(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.database.read();
        let run = || {
            let database = database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
            let transaction = database.begin_write()?;
            let result = change(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|error: redb::Error| failure(&self.path, &error))
    }

    /// Writes changes, and returns after the disk has confirmed them.
    pub(super) fn commit(&self, all: &[Changes]) -> Result<(), StoreError> {
        if all.iter().all(Changes::is_empty) {
            return Ok(());
        }
        self.write(|transaction| {
            // Each table that is opened costs time.
            write_rows(transaction, all)?;
            write_topics(transaction, all)?;
            write_heads(transaction, all)
        })
    }

    /// Runs a function that reads.
    fn read<T>(
        &self,
        read: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.database.read();
        let run = || {
            let database = database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
            read(&database.begin_read()?)
        };
        run().map_err(|error: redb::Error| failure(&self.path, &error))
    }

    /// The heads of all logs.
    pub(super) fn heads(&self) -> Result<Vec<Head>, StoreError> {
        self.read(|transaction| {
            let mut heads = Vec::new();
            for row in transaction.open_table(LOGS)?.iter()? {
                let (pattern, value) = row?;
                heads.push(Head::decode(pattern.value(), value.value()).ok_or_else(corrupted)?);
            }
            Ok(heads)
        })
    }

    /// Calls a function for each topic of a log.
    pub(super) fn topics(
        &self,
        log: u32,
        mut each: impl FnMut(TopicRow),
    ) -> Result<(), StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(TOPICS)?;
            for row in table.range(key(log, 0).as_slice()..=key(log, u64::MAX).as_slice())? {
                let (key, value) = row?;
                each(rows::decode_topic(key.value(), value.value()).ok_or_else(corrupted)?);
            }
            Ok(())
        })
    }

    /// Calls a function for each message of a log behind an offset, in the order of the offsets, until it returns false.
    pub(super) fn messages(
        &self,
        log: u32,
        after: u64,
        mut each: impl FnMut(&MessageRef<'_>) -> bool,
    ) -> Result<(), StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(MESSAGES)?;
            let first = key(log, after.saturating_add(1));
            for row in table.range(first.as_slice()..=key(log, u64::MAX).as_slice())? {
                let (key, value) = row?;
                let row = MessageRef::decode(key.value(), value.value());
                if !each(&row.ok_or_else(corrupted)?) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Calls a function for each key of a log in the order of the offsets.
    pub(super) fn keys(&self, log: u32, mut each: impl FnMut(KeyRow)) -> Result<(), StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(KEYS)?;
            for row in table.range(key(log, 0).as_slice()..=key(log, u64::MAX).as_slice())? {
                let (key, value) = row?;
                each(rows::decode_key(key.value(), value.value()).ok_or_else(corrupted)?);
            }
            Ok(())
        })
    }

    /// The frames of messages of a log; none for those that do not exist any more. Fails if one is damaged.
    pub(super) fn frames(
        &self,
        log: u32,
        offsets: &[u64],
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        let mut first_damaged = None;
        let frames = self.read(|transaction| {
            let table = transaction.open_table(MESSAGES)?;
            let mut frame = |offset: &u64| {
                let key = key(log, *offset);
                let Some(row) = table.get(key.as_slice())? else {
                    return Ok(None);
                };
                let row = MessageRef::decode(&key, row.value());
                let row = row.filter(|row| row.is_intact(log));
                if row.is_none() {
                    first_damaged.get_or_insert(*offset);
                }
                Ok(row.map(|row| Bytes::copy_from_slice(row.frame)))
            };
            offsets.iter().map(&mut frame).collect()
        })?;
        match first_damaged {
            None => Ok(frames),
            Some(offset) => {
                let reason = format!("message {offset} of log {log} is damaged");
                Err(failure(&self.path, &reason))
            }
        }
    }

    /// Verifies the pages of the file. False if something was wrong, which is repaired if possible.
    #[cfg(any(test, feature = "node"))]
    pub(super) fn check_pages(&self) -> Result<bool, StoreError> {
        self.with_database(|database| {
            let checked = database.check_integrity();
            checked.map_err(|error| failure(&self.path, &error))
        })
    }

    /// Moves all pages to the begin of the file, and shortens it.
    #[cfg(any(test, feature = "node"))]
    pub(super) fn compact(&self) -> Result<(), StoreError> {
        self.with_database(|database| {
            let compacted = database.compact();
            let failed = |error: redb::CompactionError| failure(&self.path, &error);
            compacted.map(|_| ()).map_err(failed)
        })
    }

    /// Runs a function that needs the file for itself.
    #[cfg(any(test, feature = "node"))]
    fn with_database<T>(
        &self,
        run: impl FnOnce(&mut Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut database = self.database.write();
        let Some(database) = database.as_mut() else {
            return Err(failure(&self.path, &redb::Error::DatabaseClosed));
        };
        let run = || run(database);
        panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(damaged(&self.path)))
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> Result<u64, StoreError> {
        let found = fs::metadata(&self.path);
        let found = found.map_err(|error| failure(&self.path, &error))?;
        Ok(found.len())
    }
}

fn in_use(path: &Path) -> StoreError {
    failure(
        path,
        &"is in use by another process, or by another server of this one",
    )
}

fn damaged(path: &Path) -> StoreError {
    failure(path, &"is damaged")
}

fn write_heads(transaction: &WriteTransaction, all: &[Changes]) -> Result<(), redb::Error> {
    let heads = all.iter().filter_map(|changes| changes.head.as_ref());
    let mut heads = heads.peekable();
    if heads.peek().is_none() {
        return Ok(());
    }
    let mut logs = transaction.open_table(LOGS)?;
    for head in heads {
        logs.insert(head.pattern.as_bytes(), head.encode().as_slice())?;
    }
    Ok(())
}

fn write_topics(transaction: &WriteTransaction, all: &[Changes]) -> Result<(), redb::Error> {
    if all.iter().all(|changes| changes.topics.is_empty()) {
        return Ok(());
    }
    let mut topics = transaction.open_table(TOPICS)?;
    for changes in all {
        for change in &changes.topics {
            match change {
                TopicChange::Put(row) => {
                    let key = key(changes.number, row.number.into());
                    topics.insert(key.as_slice(), rows::encode_topic(row).as_slice())?;
                }
                TopicChange::Remove(topic) => {
                    topics.remove(key(changes.number, (*topic).into()).as_slice())?;
                }
            }
        }
    }
    Ok(())
}

/// Writes messages and their keys, and removes others.
fn write_rows(transaction: &WriteTransaction, all: &[Changes]) -> Result<(), redb::Error> {
    let mut messages = transaction.open_table(MESSAGES)?;
    let mut value = Vec::new();
    for changes in all {
        let number = changes.number;
        for row in &changes.appended {
            row.encode(number, &mut value);
            messages.insert(key(number, row.offset).as_slice(), value.as_slice())?;
        }
        for offset in &changes.removed {
            messages.remove(key(number, *offset).as_slice())?;
        }
    }
    let has_key = |row: &MessageRow| row.key.is_some();
    let has_keys = |changes: &Changes| {
        changes.keys_forgotten_to.is_some() || changes.appended.iter().any(has_key)
    };
    if !all.iter().any(has_keys) {
        return Ok(());
    }
    let mut keys = transaction.open_table(KEYS)?;
    for changes in all {
        let number = changes.number;
        for row in &changes.appended {
            if let Some(hash) = &row.key {
                let value = rows::encode_key(row.time, hash);
                keys.insert(key(number, row.offset).as_slice(), value.as_slice())?;
            }
        }
        if let Some(offset) = changes.keys_forgotten_to {
            let mut forgotten = Vec::new();
            for row in keys.range(key(number, 0).as_slice()..=key(number, offset).as_slice())? {
                forgotten.push(row?.0.value().to_vec());
            }
            for key in forgotten {
                keys.remove(key.as_slice())?;
            }
        }
    }
    Ok(())
}

fn corrupted() -> redb::Error {
    redb::Error::Corrupted("a row is too short".to_owned())
}

/// The error of a path.
fn failure(path: &Path, reason: &dyn std::fmt::Display) -> StoreError {
    StoreError(format!("{}: {reason}", path.display()).into())
}

/// Changes the format of the file in a folder.
#[cfg(test)]
pub(super) fn set_format(folder: &Path, format: u64) {
    let file = File::open(folder).unwrap();
    let set = |transaction: &redb::WriteTransaction| {
        let mut meta = transaction.open_table(META)?;
        meta.insert(FORMAT_KEY, format.to_le_bytes().as_slice())?;
        Ok(())
    };
    file.write(set).unwrap();
}

/// Changes a bit of the frame of a message.
#[cfg(test)]
pub(super) fn damage(file: &File, log: u32, offset: u64) {
    let change = |transaction: &redb::WriteTransaction| {
        let mut table = transaction.open_table(MESSAGES)?;
        let key = key(log, offset);
        let mut value = table.get(key.as_slice())?.unwrap().value().to_vec();
        *value.last_mut().unwrap() ^= 1;
        table.insert(key.as_slice(), value.as_slice())?;
        Ok(())
    };
    file.write(change).unwrap();
}

//! The file of a store: its tables, and the transactions that write and read them.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | `format` | the version of these tables |
//! | `logs` | the pattern of a rule | the number of its log, and [`Head`] |
//! | `topics` | number of the log, number of the topic | newest offset, newest trimmed offset, name |
//! | `messages` | number of the log, offset | time, offset before it of its topic, number of the topic, frame |
//! | `keys` | number of the log, offset | time, hash of the idempotency key of the message |

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::RwLock;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    backends::FileBackend,
};

use crate::store::{
    Key, StoreError,
    index::{TopicChange, TopicRow},
    keys::KeyRow,
};

/// The version of the tables.
const FORMAT: u64 = 1;
/// Bytes of pages that the library caches.
const CACHE: usize = 8 << 20;
/// The name of the file in the folder of the store.
pub(super) const NAME: &str = "messages.redb";

/// The value of a message.
type Message = (u64, u64, u32, &'static [u8]);

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const LOGS: TableDefinition<'_, &str, (u32, u64, bool, u64, u64, &str)> =
    TableDefinition::new("logs");
const TOPICS: TableDefinition<'_, (u32, u32), (u64, u64, &str)> = TableDefinition::new("topics");
const MESSAGES: TableDefinition<'_, (u32, u64), Message> = TableDefinition::new("messages");
const KEYS: TableDefinition<'_, (u32, u64), (u64, u128)> = TableDefinition::new("keys");

/// The file of a store. It is locked for other processes while it is open.
#[derive(Debug)]
pub(super) struct File {
    /// None once it is closed.
    database: RwLock<Option<Database>>,
    path: PathBuf,
}

/// The row of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) pattern: Arc<str>,
    pub(super) number: u32,
    /// Greater offsets have not been given yet. Written before they are.
    pub(super) reserved: u64,
    /// True if the log was closed: all reserved offsets were given.
    pub(super) is_closed: bool,
    /// The newest offset that was trimmed of a topic that the log does not know any more.
    pub(super) forgotten_to: u64,
    /// Offsets up to this one do not count the messages: some were reserved and not used.
    pub(super) jumped_to: u64,
    pub(super) epoch: Arc<str>,
}

/// The row of a message.
#[derive(Debug, Clone)]
pub(super) struct MessageRow {
    pub(super) offset: u64,
    pub(super) time: u64,
    pub(super) prev: u64,
    pub(super) topic: u32,
    pub(super) frame: Bytes,
    pub(super) key: Option<Key>,
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
        let path = folder.join(NAME);
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options
            .open(&path)
            .map_err(|error| failure(&path, &error))?;
        // The entry of a new file in its folder must not be lost either.
        #[cfg(unix)]
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(at)?;
        let backend = FileBackend::new(file).map_err(|error| failure(&path, &error))?;
        Self::open_backend(backend, &path)
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
                DatabaseError::DatabaseAlreadyOpen => failure(
                    path,
                    &"is in use by another process, or by another server of this one",
                ),
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
            let known = meta.get("format")?.map(|format| format.value());
            if known.is_none() {
                meta.insert("format", FORMAT)?;
            }
            transaction.open_table(LOGS)?;
            transaction.open_table(TOPICS)?;
            transaction.open_table(MESSAGES)?;
            transaction.open_table(KEYS)?;
            Ok(known.unwrap_or(FORMAT))
        })?;
        match format {
            FORMAT => Ok(()),
            _ => {
                let reason = format!(
                    "has the format {format}, expected {FORMAT}: it was written by a newer version"
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
            let mut logs = transaction.open_table(LOGS)?;
            let mut topics = transaction.open_table(TOPICS)?;
            let mut messages = transaction.open_table(MESSAGES)?;
            let mut keys = transaction.open_table(KEYS)?;
            for changes in all {
                let number = changes.number;
                if let Some(head) = &changes.head {
                    let row = (
                        head.number,
                        head.reserved,
                        head.is_closed,
                        head.forgotten_to,
                        head.jumped_to,
                        &*head.epoch,
                    );
                    logs.insert(&*head.pattern, row)?;
                }
                for change in &changes.topics {
                    match change {
                        TopicChange::Put(row) => {
                            let value = (row.last, row.trimmed_to, &*row.name);
                            topics.insert((number, row.number), value)?;
                        }
                        TopicChange::Remove(topic) => {
                            topics.remove((number, *topic))?;
                        }
                    }
                }
                for row in &changes.appended {
                    let value = (row.time, row.prev, row.topic, &*row.frame);
                    messages.insert((number, row.offset), value)?;
                    if let Some(key) = &row.key {
                        let value = (row.time, u128::from_le_bytes(key.0));
                        keys.insert((number, row.offset), value)?;
                    }
                }
                for offset in &changes.removed {
                    messages.remove((number, *offset))?;
                }
                if let Some(offset) = changes.keys_forgotten_to {
                    keys.retain_in((number, 0)..=(number, offset), |_, _| false)?;
                }
            }
            Ok(())
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
                let (number, reserved, is_closed, forgotten_to, jumped_to, epoch) = value.value();
                heads.push(Head {
                    pattern: pattern.value().into(),
                    number,
                    reserved,
                    is_closed,
                    forgotten_to,
                    jumped_to,
                    epoch: epoch.into(),
                });
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
            for row in table.range((log, 0)..=(log, u32::MAX))? {
                let (key, value) = row?;
                let (last, trimmed_to, name) = value.value();
                let number = key.value().1;
                let name = name.into();
                each(TopicRow {
                    number,
                    last,
                    trimmed_to,
                    name,
                });
            }
            Ok(())
        })
    }

    /// Calls a function for each message of a log in the order of their offsets: with offset, time, offset before it, topic,
    /// and frame.
    pub(super) fn messages(
        &self,
        log: u32,
        mut each: impl FnMut(u64, u64, u64, u32, &[u8]),
    ) -> Result<(), StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(MESSAGES)?;
            for row in table.range((log, 0)..=(log, u64::MAX))? {
                let (key, value) = row?;
                let (time, prev, topic, frame) = value.value();
                each(key.value().1, time, prev, topic, frame);
            }
            Ok(())
        })
    }

    /// Calls a function for each key of a log in the order of the offsets.
    pub(super) fn keys(&self, log: u32, mut each: impl FnMut(KeyRow)) -> Result<(), StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(KEYS)?;
            for row in table.range((log, 0)..=(log, u64::MAX))? {
                let (key, value) = row?;
                let (offset, (time, hash)) = (key.value().1, value.value());
                let key = Key(hash.to_le_bytes());
                each(KeyRow { offset, time, key });
            }
            Ok(())
        })
    }

    /// The frames of messages of a log; none for those that do not exist any more.
    pub(super) fn frames(
        &self,
        log: u32,
        offsets: &[u64],
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(MESSAGES)?;
            let frame = |offset: &u64| {
                let row = table.get((log, *offset))?;
                Ok(row.map(|row| Bytes::copy_from_slice(row.value().3)))
            };
            offsets.iter().map(frame).collect()
        })
    }
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
        transaction.open_table(META)?.insert("format", format)?;
        Ok(())
    };
    file.write(set).unwrap();
}

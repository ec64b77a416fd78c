//! Logs of kept messages: what a log promises, whatever it stores its messages in.
//!
//! A log holds the messages of all topics of one rule. It knows offsets, topics, times and bytes, and no connections: a
//! message is a frame, encoded by the caller, and is returned as it is.
//!
//! | file | contents |
//! | --- | --- |
//! | `store` | the trait [`Log`] |
//! | `batch` | what callers do once after many messages were stored |
//! | `index` | the index of a log: topics, offsets, bounds |
//! | `keys` | the idempotency keys of a log |
//! | `memory` | a log in memory |
//! | `disk` | logs on the disk |

pub(crate) mod batch;
pub(crate) mod disk;
mod index;
mod keys;
pub(crate) mod memory;

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

/// The bounds of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Maximum number of messages of a topic.
    pub(crate) messages: usize,
    /// Maximum age of a message, in milliseconds; none for no limit.
    pub(crate) age: Option<u64>,
    /// Maximum bytes of all messages, with what the log holds for each of them.
    pub(crate) bytes: usize,
    /// Maximum bytes of the frames of a topic. Only for [`Overflow::Refuse`].
    pub(crate) topic_bytes: usize,
    pub(crate) overflow: Overflow,
}

/// The treatment of a message that exceeds the bounds of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// The oldest messages are trimmed for it.
    Trim,
    /// The caller asks [`Log::has_room`] first, and does not append it. Only the age trims messages; others are removed by
    /// [`Log::remove`].
    Refuse,
}

/// The place of a message in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The first message of a log has the offset 1, and each one the offset of the one before plus 1, whatever its topic.
    pub(crate) offset: u64,
    /// The offset of the message before it of the same topic. Zero if there was none, or if the log knows none any more. With
    /// [`Overflow::Refuse`] it is that of the newest one that was not removed.
    pub(crate) prev: u64,
}

/// A message to be appended.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) topic: &'a str,
    /// The place that [`Log::next`] has returned for it.
    pub(crate) place: Place,
    /// The encoded frame.
    pub(crate) frame: Bytes,
    /// Milliseconds since 1970.
    pub(crate) time: u64,
    /// By which a repetition of the message is recognized.
    pub(crate) key: Option<Key>,
}

/// The hash of an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(crate) [u8; 16]);

/// The messages of one topic.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) messages: u64,
    /// Bytes of their frames, as they count for [`Bounds::topic_bytes`].
    pub(crate) bytes: u64,
}

/// A message that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) offset: u64,
    pub(crate) frame: Bytes,
}

/// How safe a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is lost when the process ends.
    Memory,
    /// It is on the disk, and the disk has confirmed that.
    Disk,
}

impl Stored {
    /// The text of the member `stored` of a receipt.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// A log that cannot read or write. Its text is for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreError(pub(crate) Arc<str>);

/// A query: at most `messages`, and at most `bytes` but at least one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// A topic, or a pattern with wildcards.
    pub(crate) pattern: Arc<str>,
    pub(crate) range: Range,
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// The messages that a query asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    /// Those with a greater offset, oldest first.
    After(u64),
    /// The newest ones with a smaller offset. They are returned oldest first.
    Before(u64),
}

/// The result of a query. It may have fewer messages than were asked for, and none, although there are more: a query
/// reads a limited part of the log.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// In the order of their offsets.
    pub(crate) messages: Vec<Kept>,
    /// The offset to go on from: all messages between the one of the query and this one have been read.
    pub(crate) next: u64,
    /// True if messages may exist beyond `next`.
    pub(crate) more: bool,
    /// The newest offset of the pattern that was trimmed. If it is behind the one of the query, messages are missing. Only for
    /// [`Range::After`].
    pub(crate) trimmed_to: u64,
}

/// The messages of a pattern behind an offset that a log still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behind {
    /// The newest offset of the pattern that was trimmed. None of them was trimmed if it is not behind the offset.
    pub(crate) trimmed_to: u64,
    /// The number of those that were trimmed, if it is known; zero if none was.
    pub(crate) lost: Option<u64>,
    /// The number of those that can be read, if it is known without reading too many.
    pub(crate) messages: Option<u64>,
}

/// Numbers of a log.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogStats {
    pub(crate) messages: u64,
    pub(crate) topics: u64,
    /// Bytes held, as they count for [`Bounds::bytes`].
    pub(crate) bytes: u64,
    /// Messages removed so far because of a bound, or because memory was short.
    pub(crate) trimmed: u64,
}

impl LogStats {
    /// The numbers of two logs together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            messages: self.messages + other.messages,
            topics: self.topics + other.topics,
            bytes: self.bytes + other.bytes,
            trimmed: self.trimmed + other.trimmed,
        }
    }
}

/// A page that is being read. In memory it is ready at once; on a disk it takes time.
pub(crate) type Reading = Pin<Box<dyn Future<Output = Result<Page, StoreError>> + Send>>;

/// Called once with how safe a message is. What costs a system call should be left to [`batch::at_end`].
pub(crate) type OnStored = Box<dyn FnOnce(Result<Stored, StoreError>) + Send>;

/// A log of messages.
///
/// The caller has a lock of the log: `next`, the encoding of the frame, `append`, and the delivery to subscribers happen
/// under it, one message after the other. None of these waits for a disk. All other methods may be called at any time,
/// from any thread.
///
/// A log that survives its process must never give an offset twice: after a restart it begins behind all that it may have
/// given before, stored or not, or has another epoch.
pub(crate) trait Log: fmt::Debug + Send + Sync {
    /// A random text, made when the log was created. Offsets of another epoch mean nothing here. Letters and digits only.
    fn epoch(&self) -> &str;

    /// The place of the next message, if it is of this topic.
    fn next(&self, topic: &str) -> Place;

    /// Appends a message at the place that `next` has returned. It can be read at once. Trims what exceeds the bounds, unless
    /// the log refuses messages.
    fn append(&self, record: Record<'_>);

    /// True if a frame of this size may be appended to a topic. Always true if the log trims.
    fn has_room(&self, topic: &str, size: usize) -> bool;

    /// Removes a message that was acknowledged. False if the topic does not have it. On a disk it is removed with the next
    /// messages that are written. A removed message does not count as trimmed.
    fn remove(&self, topic: &str, offset: u64) -> bool;

    /// The messages of a topic.
    fn usage(&self, topic: &str) -> Usage;

    /// The offset of the message that was appended with this key within the last two minutes, removed or not. A key is
    /// forgotten earlier if 65,536 newer ones have come. [`Log::on_stored`] says whether that message is stored.
    fn duplicate_of(&self, key: &Key) -> Option<u64>;

    /// Calls `done` as soon as all messages up to this offset are as safe as the log makes them, in the order of the
    /// offsets; perhaps before it returns.
    fn on_stored(&self, offset: u64, done: OnStored);

    /// The offset of the newest message. Zero in an empty log that has had none.
    fn last(&self) -> u64;

    /// Reads a page.
    fn read(&self, query: &Query) -> Reading;

    /// Counts the messages of a pattern behind an offset. Called under the lock of the caller, too: it must not wait
    /// for a disk.
    fn behind(&self, pattern: &str, offset: u64) -> Behind;

    /// The offset behind which the newest `count` messages of a pattern are; there may be fewer. Under the lock of the
    /// caller, too. Of a pattern with wildcards the newest messages of the log are examined, up to a limit.
    fn newest(&self, pattern: &str, count: usize) -> u64;

    /// Removes messages that are too old. `now`: milliseconds since 1970.
    fn expire(&self, now: u64);

    /// Frees about this many bytes of memory, the oldest messages first. Returns the bytes freed: a log on a disk frees
    /// its caches.
    fn release(&self, bytes: usize) -> usize;

    /// Maximum bytes of memory that `release` can free.
    fn releasable(&self) -> usize {
        self.stats().bytes as usize
    }

    fn stats(&self) -> LogStats;
}

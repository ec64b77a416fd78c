//! Logs on the disk: a file with the messages of all rules, and a thread that writes it.
//!
//! Messages are appended to a queue. The thread writes all that is queued in one transaction, waits for the disk, and then
//! calls those who wait. A write that fails is never repeated: the store fails, and nothing is stored any more.
//!
//! | file | contents |
//! | --- | --- |
//! | `disk` | the store: its logs, its queue, and its failure |
//! | `log` | a log, which implements the trait |
//! | `writer` | the thread that writes |
//! | `callbacks` | the calls of those who wait for their message |
//! | `file` | the tables of the file |
//! | `rows` | the rows of the tables as bytes |
//! | `checksum` | the checksum of a row |
//! | `tools` | checks, compacts and reads a file that no server uses |
//!
//! Locks: the state of a log, then the queue.

mod callbacks;
mod checksum;
mod file;
mod log;
mod rows;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(any(test, feature = "node"))]
pub(crate) mod tools;
mod writer;

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{
    Bounds, StoreError, Stored,
    index::{Costs, Index, Journal},
    keys::Keys,
};
use crate::{
    memory::{Charge, Memory},
    metrics::{Histogram, Times},
};
use callbacks::Callbacks;
use file::{Changes, File};
pub(crate) use log::DiskLog;
use log::LogState;
use rows::Head;

/// Maximum bytes of messages that wait for the disk. One message may always wait, whatever its size.
const MAX_QUEUED: usize = 16 << 20;
/// Bytes that count for a message besides its frame: its row.
const MESSAGE: usize = 64;
/// Time for which removals wait for a message to be written with.
const REMOVAL_DELAY: Duration = Duration::from_millis(100);
/// Number of reads at the same time. Each occupies a thread.
const READS: usize = 4;

/// Called once if the store fails.
pub(crate) type OnFailure = Box<dyn FnOnce(&StoreError) + Send>;

/// How a store writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Time for which appended messages are collected before they are written.
    pub(crate) delay: Duration,
    /// True if callers of `on_stored` wait for the disk.
    pub(crate) waits: bool,
    /// Maximum bytes of the messages of all logs. Beyond it each message that is appended trims the oldest ones of its log.
    pub(crate) max_bytes: usize,
}

/// A store on the disk. Closed when dropped.
#[derive(Debug)]
pub(crate) struct DiskStore {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Numbers of a store.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct StoreStats {
    /// Messages that wait for the disk.
    pub(crate) pending: u64,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// True if the store has failed.
    pub(crate) has_failed: bool,
    /// Messages that were not stored, because the store had failed or its queue was full.
    pub(crate) not_stored: u64,
    /// Durations of the writes, each with its sync.
    pub(crate) writes: Times,
}

/// State shared by logs, readers and the writer.
struct Shared {
    file: File,
    logs: Box<[Arc<LogState>]>,
    settings: Settings,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Bytes of messages that wait for the disk.
    queued: AtomicUsize,
    /// Bytes of the messages of all logs.
    bytes: AtomicUsize,
    reads: Semaphore,
    failure: OnceLock<StoreError>,
    /// Messages that were not stored.
    not_stored: AtomicU64,
    writes: Histogram,
    on_failure: Mutex<Option<OnFailure>>,
    /// Senders that wait until fewer messages are queued, by the keys of their connections.
    senders: Mutex<HashMap<u64, Waker>>,
}

/// Reasons for the writer to wake up.
#[derive(Debug, Default)]
struct Queue {
    has_changes: bool,
    /// Number of messages in the queue.
    messages: usize,
    /// Number of messages at which the writer is woken once more.
    wanted: usize,
    /// When removals are written, if no message is written before.
    removals_at: Option<Instant>,
    /// True if the queue is half full: the writer does not wait for more.
    is_large: bool,
    is_closing: bool,
}

impl DiskStore {
    /// Opens the store in this folder, and a log for each pattern. The folder is created if it does not exist.
    pub(crate) fn open(
        folder: &Path,
        rules: &[(&str, Bounds)],
        settings: Settings,
        memory: &Arc<Memory>,
        on_failure: OnFailure,
    ) -> Result<(Self, Vec<DiskLog>), StoreError> {
        let file = File::open(folder)?;
        Self::start(file, rules, settings, memory, on_failure)
    }

    fn start(
        file: File,
        rules: &[(&str, Bounds)],
        settings: Settings,
        memory: &Arc<Memory>,
        on_failure: OnFailure,
    ) -> Result<(Self, Vec<DiskLog>), StoreError> {
        let heads = file.heads()?;
        let mut next_number = heads.iter().map(|head| head.number + 1).max().unwrap_or(0);
        let mut logs = Vec::with_capacity(rules.len());
        for (pattern, bounds) in rules {
            let known = heads
                .iter()
                .find(|head| &*head.pattern == *pattern)
                .cloned();
            let head = known.unwrap_or_else(|| {
                next_number += 1;
                new_head(pattern, next_number - 1)
            });
            let loaded = load(&file, &head, *bounds)?;
            let charge = Charge::new(memory, 0);
            logs.push(Arc::new(LogState::new(&head, loaded, charge)));
        }
        // Reserves offsets before any is given.
        let first: Vec<Changes> = logs.iter().map(|log| log.changes(false).0).collect();
        file.commit(&first)?;
        let bytes = logs.iter().map(|log| log.bytes()).sum();
        let shared = Arc::new(Shared {
            file,
            logs: logs.clone().into(),
            settings,
            queue: Mutex::new(Queue {
                has_changes: true,
                ..Queue::default()
            }),
            changed: Condvar::new(),
            queued: AtomicUsize::new(0),
            bytes: AtomicUsize::new(bytes),
            reads: Semaphore::new(READS),
            failure: OnceLock::new(),
            not_stored: AtomicU64::new(0),
            writes: Histogram::default(),
            on_failure: Mutex::new(Some(on_failure)),
            senders: Mutex::default(),
        });
        let writer = shared.clone();
        let thread = thread::Builder::new().name("wsmb-store".to_owned());
        let thread = thread
            .spawn(move || writer::run(&writer, Callbacks::new()))
            .map_err(|error| StoreError(format!("no thread for the store: {error}").into()))?;
        let disk_log = |log| DiskLog::new(log, shared.clone());
        let logs = logs.into_iter().map(disk_log).collect();
        let thread = Mutex::new(Some(thread));
        Ok((Self { shared, thread }, logs))
    }

    pub(crate) fn stats(&self) -> StoreStats {
        let Shared {
            file, logs, writes, ..
        } = &*self.shared;
        let failure = self.shared.failure.get();
        StoreStats {
            pending: logs.iter().map(|log| log.pending()).sum(),
            bytes: file.size().unwrap_or(0),
            has_failed: failure.is_some() && !file.is_closed(),
            not_stored: self.shared.not_stored.load(Relaxed),
            writes: writes.snapshot(),
        }
    }

    /// True while so many messages wait for the disk that their senders should wait.
    pub(crate) fn is_busy(&self) -> bool {
        let shared = &self.shared;
        shared.queued.load(Relaxed) > MAX_QUEUED / 2 && !shared.has_failed()
    }

    /// True if the store is not busy. Otherwise the waker of the connection with this key is called once it is not.
    pub(crate) fn await_room(&self, key: u64, waker: &Waker) -> bool {
        self.shared.senders.lock().insert(key, waker.clone());
        let has_room = !self.is_busy();
        if has_room {
            self.shared.senders.lock().remove(&key);
        }
        has_room
    }

    /// Writes all that is queued, ends the thread, and closes the file. Waits for the disk. No message may be appended any
    /// more: a later process would give its offset again.
    pub(crate) fn close(&self) {
        let mut thread = self.thread.lock();
        let Some(thread) = thread.take() else {
            return;
        };
        self.shared.queue.lock().is_closing = true;
        self.shared.changed.notify_one();
        // It fails only if somebody who waited has panicked.
        let _ = thread.join();
        let closed = StoreError("the store is closed".into());
        if self.shared.failure.set(closed.clone()).is_ok() {
            self.shared.end(&closed);
        }
        self.shared.file.close();
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.close();
    }
}

fn new_head(pattern: &str, number: u32) -> Head {
    Head {
        pattern: pattern.into(),
        number,
        reserved: 0,
        is_closed: true,
        forgotten_to: 0,
        jumped_to: 0,
        epoch: format!("{:x}", rand::random::<u64>()).into(),
    }
}

/// The index of a log, and its keys, from the file.
fn load(file: &File, head: &Head, bounds: Bounds) -> Result<(Index<()>, Keys), StoreError> {
    let costs = Costs {
        message: MESSAGE,
        topic: None,
    };
    let mut index = Index::new(bounds, costs, Some(Journal::default()));
    index.forgotten_to = head.forgotten_to;
    file.topics(head.number, |row| index.load_topic(row))?;
    file.messages(head.number, 0, |row| {
        let size = (row.frame.len(), ());
        index.load_message(row.offset, row.time, row.prev, row.topic, size);
        true
    })?;
    index.loaded();
    let mut keys = Keys::default();
    file.keys(head.number, |row| keys.add(row))?;
    Ok((index, keys))
}

impl Shared {
    fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    fn failure(&self) -> Option<StoreError> {
        self.failure.get().cloned()
    }

    /// Why a message was not stored.
    fn why_skipped(&self) -> StoreError {
        self.failure().unwrap_or_else(|| {
            StoreError(format!("{MAX_QUEUED} bytes of messages wait for the disk").into())
        })
    }

    /// True if callers wait for the disk.
    fn waits(&self) -> bool {
        self.settings.waits
    }

    /// How safe a message is that the disk has confirmed, as receipts say it.
    fn safety(&self) -> Stored {
        match self.settings.waits {
            true => Stored::Disk,
            false => Stored::Memory,
        }
    }

    /// True if a message of this size may be queued.
    fn has_room(&self, size: usize) -> bool {
        let queued = self.queued.load(Relaxed);
        queued == 0 || queued.saturating_add(size) <= MAX_QUEUED
    }

    /// Counts bytes that were queued, and wakes the writer.
    fn add_queued(&self, bytes: usize) {
        let queued = self.queued.fetch_add(bytes, Relaxed) + bytes;
        let mut queue = self.queue.lock();
        queue.messages += 1;
        queue.is_large = queued > MAX_QUEUED / 2;
        if !queue.has_changes || queue.is_large || queue.messages == queue.wanted {
            queue.has_changes = true;
            self.changed.notify_one();
        }
    }

    fn remove_queued(&self, bytes: usize) {
        let before = self.queued.fetch_sub(bytes, Relaxed);
        if before - bytes <= MAX_QUEUED / 2 {
            self.wake_senders();
        }
    }

    fn wake_senders(&self) {
        let senders = std::mem::take(&mut *self.senders.lock());
        senders.into_values().for_each(Waker::wake);
    }

    /// True if the messages of all logs are too many with those of a log whose bytes have changed.
    fn exceeds(&self, before: usize, now: usize) -> bool {
        let all = self.bytes.load(Relaxed).saturating_sub(before);
        all.saturating_add(now) > self.settings.max_bytes
    }

    /// The bytes of a log have changed.
    fn set_bytes(&self, before: usize, now: usize) {
        self.bytes.fetch_add(now.wrapping_sub(before), Relaxed);
    }

    /// True if messages are in the queue.
    fn has_messages(&self) -> bool {
        self.queue.lock().messages > 0
    }

    /// Wakes the writer.
    fn wake(&self) {
        self.queue.lock().has_changes = true;
        self.changed.notify_one();
    }

    /// Wakes the writer after a time, if no message wakes it before.
    fn wake_later(&self) {
        let mut queue = self.queue.lock();
        if queue.removals_at.is_none() {
            queue.removals_at = Some(Instant::now() + REMOVAL_DELAY);
            self.changed.notify_one();
        }
    }

    /// Reads the frames of messages, in another thread.
    async fn read(
        self: &Arc<Self>,
        log: u32,
        offsets: Vec<u64>,
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        let _permit = self.reads.acquire().await;
        let shared = self.clone();
        let reading = spawn_blocking(move || shared.file.frames(log, &offsets));
        let panicked = |_| Err(StoreError("the store panicked".into()));
        let frames = reading.await.unwrap_or_else(panicked);
        if let Err(error) = &frames {
            // Where one row is damaged, others may be: nothing is stored any more.
            self.fail(error.clone());
        }
        frames
    }

    /// Ends the store after a failure.
    fn fail(&self, error: StoreError) {
        if self.failure.set(error.clone()).is_ok() {
            if let Some(on_failure) = self.on_failure.lock().take() {
                on_failure(&error);
            }
            self.end(&error);
        }
    }

    fn end(&self, error: &StoreError) {
        self.wake_senders();
        let lost: u64 = self.logs.iter().map(|log| log.on_failure(error)).sum();
        self.not_stored.fetch_add(lost, Relaxed);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Shared");
        debug.field("file", &self.file).finish_non_exhaustive()
    }
}

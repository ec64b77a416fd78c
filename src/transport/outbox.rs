//! The outbox: the bounded write queue of one socket, with backpressure.
//!
//! Senders append whole frames under a short lock. The sender that finds no other writer takes all queued
//! bytes and writes them itself, outside the lock. When the socket accepts no more, the outbox is `blocked`,
//! and only the connection's own task continues ([`Outbox::poll_writable`]). The bound is enforced by the
//! senders: they check [`Outbox::is_full`] before a push, and wait with [`Outbox::add_waiter`].
//!
//! A TLS socket encrypts all it accepts at once, and may keep ciphertext that the system refuses: this
//! buffered ciphertext still counts as queued here.

mod delay;
mod kept;
mod queue;
mod time;

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    memory::Memory,
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    transport::{
        framing::{self, Mask},
        socket::WriteHalf,
    },
};
use delay::DelayBudget;
use queue::{ByteQueue, Waiter};
pub(crate) use queue::{PLACE, spare_buffer};
use time::Millis;

/// Bytes from which a frame for several receivers is shared among them instead of copied to each.
pub(crate) const SHARE_FROM: usize = 4 << 10;

/// The kind of appended frames: a closing connection accepts only control frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameKind {
    /// This many messages.
    Messages(u32),
    Control,
}

/// The result of a push.
#[must_use = "after `NeedsFlush` the caller must flush the outbox"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The first push since the last flush: the caller must flush.
    NeedsFlush,
    /// Appended; an earlier caller will flush.
    More,
    /// Not appended: the connection is closed or closing.
    Closed,
}

/// The result of a flush.
#[must_use = "unless it is `Done` the connection's task must be woken"]
#[derive(Debug)]
pub(crate) enum Flushed {
    /// The queue is empty, or is being written elsewhere.
    Done,
    /// The socket is full: the connection's task must wait until it is writable.
    Blocked,
    /// The queue is empty, and the connection's task waits for that.
    Emptied,
    /// The socket has failed.
    Failed,
}

/// The write queue of one socket.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// Bytes queued: a copy of the value under the lock, readable without it.
    waiting: AtomicUsize,
    /// High-water mark: bytes from which senders should wait.
    mark: std::sync::atomic::AtomicUsize,
    mask: Mask,
    /// Messages appended so far, modulo 2^32: as small as the padding behind `mask`.
    messages: AtomicU32,
    /// The server's memory limit; none for a client, which has limits of its own.
    memory: Option<Arc<Memory>>,
    queue: Mutex<ByteQueue>,
}

/// A snapshot of the outbox, for the connection's task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutboxState {
    pub(crate) blocked: bool,
    pub(crate) empty: bool,
    pub(crate) closed: bool,
    /// A session has lost its socket.
    pub(crate) suspended: bool,
    /// A writer has taken frames.
    pub(crate) writing: bool,
    /// Backpressure is in effect: a sender is waiting, or answers exceed the high-water mark.
    pub(crate) backpressure: bool,
    /// A sender is waiting whose other receivers are delayed by that.
    pub(crate) delays: bool,
    pub(crate) drained: u64,
    /// Bytes of memory held for this queue alone.
    pub(crate) memory: usize,
}

/// How far the peer is behind, for operators.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Congestion {
    /// Bytes queued.
    pub(crate) waiting: usize,
    /// The time for which the socket has accepted nothing; none if it accepts bytes.
    pub(crate) blocked: Option<Duration>,
    /// Number of senders that wait for room.
    pub(crate) waiters: usize,
    /// The time for which the first of them has waited.
    pub(crate) blocking: Option<Duration>,
}

impl Outbox {
    /// Creates an empty queue. `mark`: the high-water mark in bytes.
    pub(crate) fn new(mark: usize, mask: Mask, memory: Option<Arc<Memory>>) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            mark: mark.into(),
            mask,
            messages: AtomicU32::new(0),
            memory,
            queue: Mutex::default(),
        }
    }

    /// Bytes queued.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// True if a sender should wait. While it is false, a message of any size may be pushed.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting() >= self.mark()
    }

    /// True if a sender that holds this many more bytes for it should wait.
    pub(crate) fn is_full_with(&self, bytes: usize) -> bool {
        self.waiting() + bytes >= self.mark()
    }

    /// True if it is drained to half of the high-water mark or less.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.waiting() <= self.mark() / 2
    }

    /// True if it is drained to an eighth of the high-water mark or less.
    pub(crate) fn is_starved(&self) -> bool {
        self.waiting() <= self.mark() / 8
    }

    /// The current high-water mark: lower while memory is short.
    fn mark(&self) -> usize {
        match self.memory.as_ref().and_then(|memory| memory.share()) {
            Some(share) => self.full_mark().min(share),
            None => self.full_mark(),
        }
    }

    /// The high-water mark while memory is available.
    fn full_mark(&self) -> usize {
        self.mark.load(Relaxed)
    }

    /// Changes the high-water mark.
    fn set_mark(&self, mark: usize) {
        self.mark.store(mark, Relaxed);
    }

    /// Appends a text frame, given in pieces.
    pub(crate) fn push(&self, pieces: &[&str]) -> Pushed {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let size = framing::frame_size(length, self.mask);
        self.append(FrameKind::Messages(1), size, size, |queue| {
            framing::encode_text(pieces, length, self.mask, queue.room(size));
        })
    }

    /// Appends the encoded frames of `count` messages; empties `frames` even if they are not accepted.
    pub(crate) fn push_frames(&self, frames: &mut Vec<u8>, count: u32) -> Pushed {
        let size = frames.len();
        let pushed = self.append(FrameKind::Messages(count), size, size, |queue| {
            queue.push_frames(frames)
        });
        frames.clear();
        pushed
    }

    /// Appends an encoded frame that goes to several receivers. `shares`: without a copy.
    pub(crate) fn push_encoded(&self, frame: &Bytes, shares: bool) -> Pushed {
        // The queue can exceed the mark here only if one receiver is listed many times. Copies would be
        // unbounded then.
        if !shares && self.waiting() < self.full_mark() {
            return self.append(FrameKind::Messages(1), frame.len(), frame.len(), |queue| {
                queue.room(frame.len()).extend_from_slice(frame);
            });
        }
        self.push_shared(frame)
    }

    /// Appends the encoded frames of `count` messages that go to several receivers. `shared`: the same bytes, to be
    /// appended without a copy.
    pub(crate) fn push_batch(&self, frames: &[u8], shared: Option<&Bytes>, count: u32) -> Pushed {
        let size = frames.len();
        match shared {
            Some(shared) => self.append(FrameKind::Messages(count), size, 0, |queue| {
                queue.push_shared(shared.clone());
            }),
            None => self.append(FrameKind::Messages(count), size, size, |queue| {
                queue.room(size).extend_from_slice(frames);
            }),
        }
    }

    /// Appends an encoded frame without a copy, whatever its size.
    pub(crate) fn push_shared(&self, frame: &Bytes) -> Pushed {
        self.append(FrameKind::Messages(1), frame.len(), 0, |queue| {
            queue.push_shared(frame.clone());
        })
    }

    /// Appends bytes of control frames, unless the connection is closed. The caller flushes in any case: control
    /// frames are not batched.
    pub(crate) fn push_control(&self, bytes: &[u8]) {
        let _ = self.append(FrameKind::Control, bytes.len(), bytes.len(), |queue| {
            queue.room(bytes.len()).extend_from_slice(bytes);
        });
    }

    /// Appends `size` bytes, `own` of which are memory of this queue alone.
    fn append(
        &self,
        kind: FrameKind,
        size: usize,
        own: usize,
        write: impl FnOnce(&mut ByteQueue),
    ) -> Pushed {
        let mut queue = self.queue.lock();
        let messages = match kind {
            FrameKind::Control => 0,
            FrameKind::Messages(_) if queue.closing => return Pushed::Closed,
            FrameKind::Messages(count) => count,
        };
        if queue.closed {
            return Pushed::Closed;
        }
        // Only the holder of the lock writes it.
        let messages = self.messages.load(Relaxed).wrapping_add(messages);
        self.messages.store(messages, Relaxed);
        write(&mut queue);
        queue.bytes += size;
        queue.own += own;
        queue.update_charge(self.memory.as_ref());
        self.waiting.store(queue.waiting(), Relaxed);
        match std::mem::replace(&mut queue.flush_due, true) {
            true => Pushed::More,
            false => Pushed::NeedsFlush,
        }
    }

    /// Writes the queued bytes, as far as the socket accepts them.
    pub(crate) fn flush(&self, socket: &WriteHalf) -> Flushed {
        let mut queue = self.queue.lock();
        queue.flush_due = false;
        loop {
            if queue.writing || queue.blocked {
                return match queue.suspended {
                    true => Flushed::Blocked,
                    false => Flushed::Done,
                };
            }
            if queue.is_empty() && queue.buffered_ciphertext == 0 {
                return match std::mem::take(&mut queue.awaited) {
                    true => Flushed::Emptied,
                    false => Flushed::Done,
                };
            }
            queue.writing = true;
            let mut taken = queue.take();
            drop(queue);
            let (written, result) = taken.write(socket);
            let buffered_ciphertext = socket.buffered_ciphertext();
            queue = self.queue.lock();
            queue.writing = false;
            queue.put_back(taken, written, buffered_ciphertext);
            self.update_waiting(&mut queue);
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    queue.blocked = true;
                    queue.blocked_since = Millis::now();
                    return Flushed::Blocked;
                }
                Err(_) if queue.kept.is_some() => {
                    (queue.blocked, queue.suspended) = (true, true);
                    return Flushed::Failed;
                }
                Err(_) => {
                    queue.closed = true;
                    return Flushed::Failed;
                }
            }
        }
    }

    /// Begins a session: keeps the frames that are written from now on, at most `limit` bytes of them. False while a
    /// writer holds earlier frames.
    pub(crate) fn begin_session(&self, limit: usize) -> bool {
        let mut queue = self.queue.lock();
        if !queue.writing {
            queue.kept = Some(queue.new_kept(limit));
        }
        !queue.writing
    }

    /// Ends the session: forgets the written frames.
    pub(crate) fn end_session(&self) {
        let mut queue = self.queue.lock();
        queue.end_session();
        self.update_waiting(&mut queue);
    }

    /// Drops the written frames that the peer has received: `count` in all.
    pub(crate) fn confirm(&self, count: u64) {
        let mut queue = self.queue.lock();
        queue.confirm(count);
        queue.update_charge(self.memory.as_ref());
    }

    /// The socket of a session is lost: writes nothing until [`Self::resume`]. `mark`: the high-water mark until then.
    pub(crate) fn suspend(&self, mark: usize) {
        let mut queue = self.queue.lock();
        self.set_mark(mark);
        (queue.blocked, queue.suspended) = (true, true);
        queue.buffered_ciphertext = 0;
        self.update_waiting(&mut queue);
    }

    /// True if the peer of a session can continue after `count` frames.
    pub(crate) fn has_since(&self, count: u64) -> bool {
        let queue = self.queue.lock();
        queue.kept.as_ref().is_some_and(|kept| kept.has(count))
    }

    /// Continues a session on another socket: the next flush writes the frame `first`, and then those behind the
    /// `count`th. False if some are missing. `mark`: the high-water mark from now on.
    pub(crate) fn resume(&self, count: u64, first: &[&str], mark: usize) -> bool {
        let mut frame = Vec::new();
        framing::append_text(first, &mut frame);
        let mut queue = self.queue.lock();
        self.set_mark(mark);
        let is_resumed = queue.rewind(count, frame);
        self.update_waiting(&mut queue);
        is_resumed
    }

    /// For the connection's task: continues writing to a full socket once it is writable again. Ready when
    /// the socket has failed.
    pub(crate) fn poll_writable(&self, socket: &WriteHalf, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let state = self.state();
            if state.closed || state.suspended {
                return Poll::Ready(());
            }
            if !state.blocked {
                return Poll::Pending;
            }
            match socket.poll_writable(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {
                    self.queue.lock().blocked = false;
                    // The task itself calls this: it checks the state again.
                    let _ = self.flush(socket);
                }
            }
        }
    }

    /// Clears `blocked`, since the socket may be writable again; true if it was set.
    pub(crate) fn unblock(&self) -> bool {
        std::mem::take(&mut self.queue.lock().blocked)
    }

    /// For the connection's task: true if the queue is empty. Otherwise the flush that empties it returns
    /// [`Flushed::Emptied`], so that its caller wakes the task.
    pub(crate) fn await_empty(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.awaited = queue.waiting() > 0;
        !queue.awaited
    }

    /// Adds a waiter for room; false if there is room, or never will be. `waker` is woken once the queue is
    /// drained to half of the high-water mark. `delays`: other receivers are delayed meanwhile.
    pub(crate) fn add_waiter(&self, key: u64, waker: &Waker, delays: bool) -> bool {
        let mut queue = self.queue.lock();
        if queue.has_room(self.mark()) {
            // The mark may have risen: then the earlier waiters were not woken yet.
            queue.release(self.mark());
            return false;
        }
        match queue.waiters.iter_mut().find(|waiter| waiter.key == key) {
            Some(waiter) => waiter.waker.clone_from(waker),
            None => queue.waiters.push(Waiter {
                key,
                waker: waker.clone(),
                since: Instant::now(),
            }),
        }
        if delays {
            let drained = queue.drained;
            let delay = queue.delay.get_or_insert_default();
            delay.start(Instant::now(), drained);
        }
        true
    }

    /// The time for which this receiver may still delay others, of at most `capacity` in one go.
    pub(crate) fn delay_left(&self, capacity: Duration) -> Duration {
        let queue = self.queue.lock();
        let left = |delay: &DelayBudget| delay.left(Instant::now(), queue.drained, capacity);
        queue.delay.as_deref().map_or(capacity, left)
    }

    /// Switches to dropping: until the queue is drained to half of the mark, senders do not wait, and drop
    /// messages that have no room.
    pub(crate) fn shed(&self) {
        let mut queue = self.queue.lock();
        queue.sheds = true;
        queue.release(self.mark());
    }

    /// True while messages that have no room are dropped.
    pub(crate) fn sheds(&self) -> bool {
        self.queue.lock().sheds
    }

    /// Removes the waiter with this key.
    pub(crate) fn remove_waiter(&self, key: u64) {
        self.queue.lock().waiters.retain(|waiter| waiter.key != key);
    }

    /// Number of senders that wait for room.
    pub(crate) fn waiters(&self) -> usize {
        self.queue.lock().waiters.len()
    }

    /// The keys of the senders that wait for room, each with the time for which it has waited.
    pub(crate) fn waiting_senders(&self) -> Vec<(u64, Duration)> {
        let queue = self.queue.lock();
        let waiters = queue.waiters.iter();
        waiters
            .map(|waiter| (waiter.key, waiter.since.elapsed()))
            .collect()
    }

    /// How far the peer is behind.
    pub(crate) fn congestion(&self) -> Congestion {
        let queue = self.queue.lock();
        let first = queue.waiters.iter().map(|waiter| waiter.since).min();
        Congestion {
            waiting: queue.waiting(),
            blocked: queue.blocked.then(|| queue.blocked_since.elapsed()),
            waiters: queue.waiters.len(),
            blocking: first.map(|since| since.elapsed()),
        }
    }

    /// Messages appended so far, modulo 2^32.
    pub(crate) fn messages(&self) -> u32 {
        self.messages.load(Relaxed)
    }

    /// Records that an answer was pushed beyond the mark, which starts the slow-consumer timeout.
    pub(crate) fn mark_overdue(&self) {
        self.queue.lock().overdue = true;
    }

    /// Returns a snapshot.
    pub(crate) fn state(&self) -> OutboxState {
        let queue = self.queue.lock();
        OutboxState {
            blocked: queue.blocked,
            empty: queue.waiting() == 0,
            closed: queue.closed,
            suspended: queue.suspended,
            writing: queue.writing,
            backpressure: queue.overdue || !queue.waiters.is_empty(),
            delays: queue.delay.as_ref().is_some_and(|delay| delay.is_running()),
            drained: queue.drained,
            memory: queue.own + queue.buffered_ciphertext,
        }
    }

    /// Bytes written to the socket so far.
    pub(crate) fn written(&self) -> u64 {
        self.queue.lock().drained
    }

    /// Drops the queued frames, except a chunk that is partly written: it ends at a frame boundary.
    pub(crate) fn discard(&self) {
        let mut queue = self.queue.lock();
        queue.discard();
        self.update_waiting(&mut queue);
    }

    /// Starts closing: accepts only control frames from now on, and wakes all waiters.
    pub(crate) fn start_closing(&self) {
        let mut queue = self.queue.lock();
        queue.closing = true;
        queue.release(self.mark());
    }

    /// Closes the queue: drops all frames, accepts none, and wakes all waiters.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.close();
        self.update_waiting(&mut queue);
    }

    /// Updates counters and waiters after the number of queued bytes has changed.
    fn update_waiting(&self, queue: &mut ByteQueue) {
        self.waiting.store(queue.waiting(), Relaxed);
        queue.update_charge(self.memory.as_ref());
        queue.release(self.mark());
    }
}

//! The bounded queue of bytes toward one socket, and how it empties.
//!
//! Senders append whole frames under a short lock; whoever finds the socket free takes all that
//! waits and writes it at once, outside the lock. When the socket takes no more, the queue is
//! `blocked` and only the connection's own task goes on ([`Outbox::poll_writable`]). The bound
//! is the sender's to respect: [`Outbox::is_full`] before a push, [`Outbox::hold`] to wait.
//!
//! A TLS socket takes what it encrypts at once, and may be left with ciphertext that the system
//! refuses: this residue still counts as waiting here.

mod delay;
mod queue;

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
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    transport::{
        framing::{self, Mask},
        socket::WriteHalf,
    },
};
use delay::DelayBudget;
use queue::ByteQueue;
pub(crate) use queue::{PLACE, spare_buffer};

/// From this size a frame for many receivers is shared among them, not copied to each.
pub(crate) const SHARE_FROM: usize = 4 << 10;

/// What is appended: a closing connection takes control frames only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameKind {
    Message,
    Control,
}

/// What a push came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The first since the last flush: the one who pushed owes a flush.
    NeedsFlush,
    /// Somebody else owes it.
    More,
    /// Not at all: the connection has ended.
    Closed,
}

/// What a flush came to.
#[derive(Debug)]
pub(crate) enum Flushed {
    /// Nothing waits, or somebody else is at it.
    Done,
    /// The socket is full: the connection's task must wait until it is writable.
    Blocked,
    /// Nothing waits any more, and the connection's task waits for that.
    Emptied,
    /// The socket is dead.
    Failed,
}

/// The queue toward one socket.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// Bytes that wait: a copy of what the lock guards, for a look without it.
    waiting: AtomicUsize,
    /// Bytes from which senders are asked to wait.
    mark: usize,
    mask: Mask,
    /// The server's; a client has bounds of its own.
    memory: Option<Arc<Memory>>,
    queue: Mutex<ByteQueue>,
}

/// How things stand, for the connection's task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutboxState {
    pub(crate) blocked: bool,
    pub(crate) empty: bool,
    pub(crate) closed: bool,
    /// Somebody suffers: a sender is held, or answers pile up.
    pub(crate) pressed: bool,
    /// A sender is held that others wait for as well.
    pub(crate) delays: bool,
    pub(crate) drained: u64,
    /// Bytes of memory that it holds for itself.
    pub(crate) held: usize,
}

impl Outbox {
    /// An empty queue. `mark`: bytes from which it counts as full.
    pub(crate) fn new(mark: usize, mask: Mask, memory: Option<Arc<Memory>>) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            mark,
            mask,
            memory,
            queue: Mutex::default(),
        }
    }

    /// Bytes that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// True when a sender should wait. A message of any size may be pushed while it is false.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting() >= self.mark()
    }

    /// True when a sender should wait who has so many bytes for it already.
    pub(crate) fn is_full_with(&self, bytes: usize) -> bool {
        self.waiting() + bytes >= self.mark()
    }

    /// True when half of what makes it full, or less, is left.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.waiting() <= self.mark() / 2
    }

    /// True when hardly anything is left of what makes it full: its reader waits for more.
    pub(crate) fn is_starved(&self) -> bool {
        self.waiting() <= self.mark() / 8
    }

    /// The bytes from which it counts as full, now.
    fn mark(&self) -> usize {
        match self.memory.as_ref().and_then(|memory| memory.share()) {
            Some(share) => self.mark.min(share),
            None => self.mark,
        }
    }

    /// Appends a text frame, given in pieces.
    pub(crate) fn push(&self, pieces: &[&str]) -> Pushed {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let size = framing::frame_size(length, self.mask);
        self.append(FrameKind::Message, size, size, |queue| {
            framing::encode_text(pieces, length, self.mask, queue.room(size));
        })
    }

    /// Appends frames encoded before; takes them away, whether it accepts them or not.
    pub(crate) fn push_frames(&self, frames: &mut Vec<u8>) -> Pushed {
        let size = frames.len();
        let pushed = self.append(FrameKind::Message, size, size, |queue| {
            queue.push_frames(frames)
        });
        frames.clear();
        pushed
    }

    /// Appends a frame encoded before, for one of many receivers; `shares`: it is not copied.
    pub(crate) fn push_encoded(&self, frame: &Bytes, shares: bool) -> Pushed {
        // Beyond the mark only one who is listed many times: copies would have no bound.
        if !shares && self.waiting() < self.mark {
            return self.append(FrameKind::Message, frame.len(), frame.len(), |queue| {
                queue.room(frame.len()).extend_from_slice(frame);
            });
        }
        self.push_shared(frame)
    }

    /// The same without a copy, however small it is.
    pub(crate) fn push_shared(&self, frame: &Bytes) -> Pushed {
        self.append(FrameKind::Message, frame.len(), 0, |queue| {
            queue.push_shared(frame.clone());
        })
    }

    /// Appends bytes of control frames.
    pub(crate) fn push_control(&self, bytes: &[u8]) -> Pushed {
        self.append(FrameKind::Control, bytes.len(), bytes.len(), |queue| {
            queue.room(bytes.len()).extend_from_slice(bytes);
        })
    }

    /// `own`: how many of the `size` bytes are for this queue alone.
    fn append(
        &self,
        kind: FrameKind,
        size: usize,
        own: usize,
        write: impl FnOnce(&mut ByteQueue),
    ) -> Pushed {
        let mut queue = self.queue.lock();
        if queue.closed || queue.closing && kind == FrameKind::Message {
            return Pushed::Closed;
        }
        write(&mut queue);
        queue.bytes += size;
        queue.own += own;
        queue.settle(self.memory.as_ref());
        self.waiting.store(queue.waiting(), Relaxed);
        match std::mem::replace(&mut queue.owed, true) {
            true => Pushed::More,
            false => Pushed::NeedsFlush,
        }
    }

    /// Writes what waits, as far as the socket takes it.
    pub(crate) fn flush(&self, socket: &WriteHalf) -> Flushed {
        let mut queue = self.queue.lock();
        queue.owed = false;
        loop {
            if queue.writing || queue.blocked {
                return Flushed::Done;
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
            self.left(&mut queue);
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    queue.blocked = true;
                    return Flushed::Blocked;
                }
                Err(_) => {
                    queue.closed = true;
                    return Flushed::Failed;
                }
            }
        }
    }

    /// For the connection's task: goes on where a full socket refused, once it takes something
    /// again. Ready when the socket is dead.
    pub(crate) fn poll_writable(&self, socket: &WriteHalf, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let state = self.state();
            if state.closed {
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
                    self.flush(socket);
                }
            }
        }
    }

    /// The socket may take something again; true if that was waited for.
    pub(crate) fn unblock(&self) -> bool {
        std::mem::take(&mut self.queue.lock().blocked)
    }

    /// For the connection's task: true if nothing waits. If not, whoever writes the last of it is
    /// told by [`Flushed::Emptied`] to wake the task.
    pub(crate) fn await_empty(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.awaited = queue.waiting() > 0;
        !queue.awaited
    }

    /// Waits for room: false if there is some, or never will be. `waker` is woken once half the mark
    /// is reached. `delays`: others wait for this sender meanwhile.
    pub(crate) fn add_waiter(&self, key: u64, waker: &Waker, delays: bool) -> bool {
        let mut queue = self.queue.lock();
        if queue.has_room(self.mark()) {
            // The mark may have moved: then nobody has been let go yet.
            queue.release(self.mark());
            return false;
        }
        match queue.held.iter_mut().find(|(held, _)| *held == key) {
            Some((_, held)) => held.clone_from(waker),
            None => queue.held.push((key, waker.clone())),
        }
        if delays {
            let drained = queue.drained;
            let delay = queue.delay.get_or_insert_default();
            delay.start(Instant::now(), drained);
        }
        true
    }

    /// How much longer it may delay others, of so much at once.
    pub(crate) fn delay_left(&self, capacity: Duration) -> Duration {
        let queue = self.queue.lock();
        let left = |delay: &DelayBudget| delay.left(Instant::now(), queue.drained, capacity);
        queue.delay.as_deref().map_or(capacity, left)
    }

    /// Nobody waits for it from now on until it has caught up by half: what it has no room for is to
    /// be dropped.
    pub(crate) fn shed(&self) {
        let mut queue = self.queue.lock();
        queue.sheds = true;
        queue.release(self.mark());
    }

    /// True while what it has no room for is to be dropped.
    pub(crate) fn sheds(&self) -> bool {
        self.queue.lock().sheds
    }

    /// The sender with this key waits no longer.
    pub(crate) fn remove_waiter(&self, key: u64) {
        self.queue.lock().held.retain(|(held, _)| *held != key);
    }

    /// An answer was pushed beyond the mark: the clock of a slow consumer runs.
    pub(crate) fn mark_overdue(&self) {
        self.queue.lock().pressed = true;
    }

    /// How things stand.
    pub(crate) fn state(&self) -> OutboxState {
        let queue = self.queue.lock();
        OutboxState {
            blocked: queue.blocked,
            empty: queue.waiting() == 0,
            closed: queue.closed,
            pressed: queue.pressed || !queue.held.is_empty(),
            delays: queue.delay.as_ref().is_some_and(|delay| delay.is_running()),
            drained: queue.drained,
            held: queue.own + queue.buffered_ciphertext,
        }
    }

    /// Throws away what waits, but for a chunk that the peer has in part: it ends with a frame.
    pub(crate) fn discard(&self) {
        let mut queue = self.queue.lock();
        queue.discard();
        self.left(&mut queue);
    }

    /// The connection is closing: accepts only control frames, and lets go of those held.
    pub(crate) fn start_closing(&self) {
        let mut queue = self.queue.lock();
        queue.closing = true;
        queue.release(self.mark());
    }

    /// Accepts nothing more, forgets all and lets go of those held.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.close();
        self.left(&mut queue);
    }

    /// Some bytes are gone.
    fn left(&self, queue: &mut ByteQueue) {
        self.waiting.store(queue.waiting(), Relaxed);
        queue.settle(self.memory.as_ref());
        queue.release(self.mark());
    }
}

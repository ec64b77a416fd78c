//! The bounded queue of bytes toward one socket, and how it empties.
//!
//! Senders append whole frames under a short lock; whoever finds the socket free takes all that
//! waits and writes it at once, outside the lock. When the socket takes no more, the queue is
//! `blocked` and only the connection's own task goes on ([`Outbox::poll_writable`]). The bound
//! is the sender's to respect: [`Outbox::is_full`] before a push, [`Outbox::hold`] to wait.
//!
//! A TLS socket takes what it encrypts at once, and may be left with ciphertext that the system
//! refuses: this residue still counts as waiting here.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use crate::{
    framing::{self, Mask},
    memory::{Charge, Memory},
    socket::WriteHalf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Frames are collected into chunks of this size: larger ones gain nothing in a write.
const CHUNK: usize = 64 << 10;
/// From this size a frame for many receivers is shared among them, not copied to each.
pub(crate) const SHARE_FROM: usize = 4 << 10;
/// Chunks in one vectored write.
const SLICES: usize = 32;

/// Whole frames, ready for the wire.
#[derive(Debug)]
enum Chunk {
    Own(Vec<u8>),
    /// Charged by itself, once for all receivers.
    Shared(Bytes),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// Bytes that this queue alone holds.
    fn own(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Shared(_) => 0,
        }
    }
}

/// What is appended: a closing connection takes control frames only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    Control,
}

/// What a push came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The first since the last flush: the one who pushed owes a flush.
    First,
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

/// Memory is charged in steps of this size, so that it costs little.
const CHARGE: usize = 16 << 10;
/// What an outbox may hold without a charge: its connection's own covers it.
const FREE: usize = 2 << 10;

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
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Full chunks, oldest first.
    chunks: VecDeque<Chunk>,
    /// The chunk being collected, younger than all of `chunks`.
    tail: Vec<u8>,
    /// Bytes of the oldest chunk that the socket has taken.
    offset: usize,
    /// Bytes waiting in all, those in a writer's hands included.
    bytes: usize,
    /// Those that nobody else holds, too.
    own: usize,
    /// What is charged for them.
    charge: Option<Charge>,
    /// Bytes that the socket has taken but not passed on.
    residue: usize,
    /// Bytes the socket has taken so far.
    drained: u64,
    /// Somebody owes a flush.
    owed: bool,
    /// Somebody is writing what was taken from here.
    writing: bool,
    /// The socket took no more; the connection's task waits for it.
    blocked: bool,
    /// What waits is thrown away, but for a frame that the peer has in part.
    discard: bool,
    /// The connection's task waits until nothing waits here.
    awaited: bool,
    /// Answers have gone beyond the mark.
    pressed: bool,
    /// The connection is closing: only control frames are accepted.
    closing: bool,
    /// Nothing is accepted any more.
    closed: bool,
    /// Senders that are held, by their key.
    held: Vec<(u64, Waker)>,
}

/// How things stand, for the connection's task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    pub(crate) blocked: bool,
    pub(crate) empty: bool,
    pub(crate) closed: bool,
    /// Somebody suffers: a sender is held, or answers pile up.
    pub(crate) pressed: bool,
    pub(crate) drained: u64,
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

    /// True when half of what makes it full, or less, is left.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.waiting() <= self.mark() / 2
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
        self.append(Kind::Message, size, size, |queue| {
            framing::encode_text(pieces, length, self.mask, queue.room(size));
        })
    }

    /// Appends a frame encoded before, for one of many receivers.
    pub(crate) fn push_encoded(&self, frame: &Bytes) -> Pushed {
        // Beyond the mark only one who is listed many times: copies would have no bound.
        if frame.len() < SHARE_FROM && self.waiting() < self.mark {
            return self.append(Kind::Message, frame.len(), frame.len(), |queue| {
                queue.room(frame.len()).extend_from_slice(frame);
            });
        }
        self.append(Kind::Message, frame.len(), 0, |queue| {
            queue.finish_tail();
            queue.chunks.push_back(Chunk::Shared(frame.clone()));
        })
    }

    /// Appends bytes of control frames.
    pub(crate) fn push_control(&self, bytes: &[u8]) -> Pushed {
        self.append(Kind::Control, bytes.len(), bytes.len(), |queue| {
            queue.room(bytes.len()).extend_from_slice(bytes);
        })
    }

    /// `own`: how many of the `size` bytes are for this queue alone.
    fn append(
        &self,
        kind: Kind,
        size: usize,
        own: usize,
        write: impl FnOnce(&mut Queue),
    ) -> Pushed {
        let mut queue = self.queue.lock();
        if queue.closed || queue.closing && kind == Kind::Message {
            return Pushed::Closed;
        }
        write(&mut queue);
        queue.bytes += size;
        queue.own += own;
        queue.settle(self.memory.as_ref());
        self.waiting.store(queue.waiting(), Relaxed);
        match std::mem::replace(&mut queue.owed, true) {
            true => Pushed::More,
            false => Pushed::First,
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
            if queue.is_empty() && queue.residue == 0 {
                return match std::mem::take(&mut queue.awaited) {
                    true => Flushed::Emptied,
                    false => Flushed::Done,
                };
            }
            queue.writing = true;
            let mut taken = queue.take();
            drop(queue);
            let (written, result) = taken.write(socket);
            let residue = socket.residue();
            queue = self.queue.lock();
            queue.writing = false;
            queue.put_back(taken, written, residue);
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

    /// For the connection's task: true if nothing waits. If not, whoever writes the last of it is
    /// told by [`Flushed::Emptied`] to wake the task.
    pub(crate) fn await_empty(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.awaited = queue.waiting() > 0;
        !queue.awaited
    }

    /// Waits for room: false if there is some, or the connection has ended. `waker` is woken
    /// once half the mark is reached.
    pub(crate) fn hold(&self, key: u64, waker: &Waker) -> bool {
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
        true
    }

    /// The sender with this key waits no longer.
    pub(crate) fn unhold(&self, key: u64) {
        self.queue.lock().held.retain(|(held, _)| *held != key);
    }

    /// An answer was pushed beyond the mark: the clock of a slow consumer runs.
    pub(crate) fn press(&self) {
        self.queue.lock().pressed = true;
    }

    /// How things stand.
    pub(crate) fn state(&self) -> State {
        let queue = self.queue.lock();
        State {
            blocked: queue.blocked,
            empty: queue.waiting() == 0,
            closed: queue.closed,
            pressed: queue.pressed || !queue.held.is_empty(),
            drained: queue.drained,
        }
    }

    /// Throws away what waits, but for a chunk that the peer has in part: it ends with a frame.
    pub(crate) fn discard(&self) {
        let mut queue = self.queue.lock();
        let in_hands = queue.writing;
        let waiting = queue.take();
        let size: usize = waiting.chunks.iter().map(|chunk| chunk.bytes().len()).sum();
        if in_hands {
            // The writer drops its own rest when it comes back.
            queue.bytes -= size + waiting.tail.len();
            queue.own -= waiting.own();
            queue.discard = true;
        } else {
            queue.discard = true;
            let residue = queue.residue;
            queue.put_back(waiting, 0, residue);
            queue.discard = false;
        }
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
        queue.closed = true;
        queue.chunks = VecDeque::new();
        queue.tail = Vec::new();
        queue.bytes = 0;
        queue.own = 0;
        queue.residue = 0;
        self.left(&mut queue);
    }

    /// Some bytes are gone.
    fn left(&self, queue: &mut Queue) {
        self.waiting.store(queue.waiting(), Relaxed);
        queue.settle(self.memory.as_ref());
        queue.release(self.mark());
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.tail.is_empty()
    }

    fn waiting(&self) -> usize {
        self.bytes + self.residue
    }

    /// The tail, with room for `size` bytes.
    fn room(&mut self, size: usize) -> &mut Vec<u8> {
        if self.tail.len() + size > CHUNK {
            self.finish_tail();
        }
        if self.tail.capacity() == 0 {
            self.tail = spare_buffer();
        }
        self.tail.reserve(size);
        &mut self.tail
    }

    /// Charges what it holds now.
    fn settle(&mut self, memory: Option<&Arc<Memory>>) {
        let Some(memory) = memory else { return };
        let held = self.own + self.residue;
        if held <= FREE {
            self.charge = None;
            return;
        }
        let steps = held.next_multiple_of(CHARGE);
        match &mut self.charge {
            Some(charge) => charge.set(steps),
            None => self.charge = Some(Charge::new(memory, steps)),
        }
    }

    fn finish_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.chunks.push_back(Chunk::Own(tail));
        }
    }

    fn take(&mut self) -> Taken {
        Taken {
            chunks: std::mem::take(&mut self.chunks),
            tail: std::mem::take(&mut self.tail),
            offset: std::mem::take(&mut self.offset),
            freed: 0,
        }
    }

    /// Takes back what a writer has left.
    fn put_back(&mut self, mut left: Taken, written: usize, residue: usize) {
        self.drained += written as u64;
        if self.closed {
            return;
        }
        self.bytes -= written;
        self.own -= left.freed;
        self.residue = residue;
        if left.chunks.is_empty() && left.tail.is_empty() {
            give_buffer(left.tail);
            self.discard = false;
            return;
        }
        if !left.tail.is_empty() {
            left.chunks.push_back(Chunk::Own(left.tail));
        }
        if std::mem::take(&mut self.discard) {
            for chunk in left.chunks.drain(usize::from(left.offset > 0)..) {
                self.bytes -= chunk.bytes().len();
                self.own -= chunk.own();
            }
        }
        self.offset = left.offset;
        // What was pushed meanwhile is younger.
        left.chunks.append(&mut self.chunks);
        self.chunks = left.chunks;
    }

    /// True when nobody needs to be held: there is room again, or never will be.
    fn has_room(&self, mark: usize) -> bool {
        self.closing || self.closed || self.waiting() <= mark / 2
    }

    /// Lets go of held senders once there is room for them.
    fn release(&mut self, mark: usize) {
        if self.has_room(mark) {
            self.pressed = false;
            for (_, waker) in self.held.drain(..) {
                waker.wake();
            }
        }
    }
}

/// What a writer has in its hands.
struct Taken {
    chunks: VecDeque<Chunk>,
    tail: Vec<u8>,
    offset: usize,
    /// Own bytes that are gone: a chunk's, once all of it is.
    freed: usize,
}

impl Taken {
    /// Bytes that nobody else holds.
    fn own(&self) -> usize {
        self.tail.len() + self.chunks.iter().map(Chunk::own).sum::<usize>()
    }

    /// Writes until all is gone or the socket refuses; the bytes it took, and how it ended. A
    /// socket that is left with a residue refuses, too.
    fn write(&mut self, socket: &WriteHalf) -> (usize, io::Result<()>) {
        let mut total = 0;
        loop {
            let result = match self.chunks.is_empty() {
                true if self.tail.is_empty() => return (total, socket.try_flush()),
                true => socket.try_write(&self.tail[self.offset..]),
                false => self.write_vectored(socket),
            };
            match result {
                Ok(0) => return (total, Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    total += written;
                    self.advance(written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (total, Err(error)),
            }
        }
    }

    fn write_vectored(&self, socket: &WriteHalf) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let tail = (!self.tail.is_empty()).then_some(self.tail.as_slice());
        for bytes in self
            .chunks
            .iter()
            .map(Chunk::bytes)
            .chain(tail)
            .take(SLICES)
        {
            let start = if count == 0 { self.offset } else { 0 };
            slices[count] = IoSlice::new(&bytes[start..]);
            count += 1;
        }
        socket.try_write_vectored(&slices[..count])
    }

    /// Drops what the socket took.
    fn advance(&mut self, written: usize) {
        self.offset += written;
        while let Some(chunk) = self.chunks.front() {
            let length = chunk.bytes().len();
            if self.offset < length {
                return;
            }
            self.offset -= length;
            if let Some(Chunk::Own(buffer)) = self.chunks.pop_front() {
                self.freed += buffer.len();
                give_buffer(buffer);
            }
        }
        if self.offset == self.tail.len() {
            self.freed += self.tail.len();
            self.offset = 0;
            self.tail.clear();
        }
    }
}

/// Buffers kept for reuse by each thread.
const SPARE_BUFFERS: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer: one that served before, if there is one.
fn spare_buffer() -> Vec<u8> {
    SPARE
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(4 << 10))
}

/// Keeps a buffer for reuse, unless it has grown beyond a chunk or there are enough.
fn give_buffer(mut buffer: Vec<u8>) {
    if (1..=CHUNK).contains(&buffer.capacity()) {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_BUFFERS {
                buffer.clear();
                spare.push(buffer);
            }
        });
    }
}

//! The byte queue of an outbox: whole frames in order, taken out by the writer and partly put back. It has no
//! lock, and wakes only waiting senders.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    sync::Arc,
    task::Waker,
    time::Instant,
};

use bytes::Bytes;

use super::{delay::DelayBudget, kept::Kept, time::Millis};
use crate::{
    memory::{Charge, Memory},
    transport::socket::WriteHalf,
};

/// Bytes of a chunk into which frames are collected: larger ones do not make a write faster.
pub(super) const CHUNK: usize = 64 << 10;
/// Chunks in one vectored write.
const SLICES: usize = 32;

/// Minimum bytes of the first buffer of an outbox: the largest size that an allocator usually has at hand.
const FIRST: usize = 1000;
/// Unused bytes of a buffer that are not worth a reallocation.
const SMALL: usize = 512;

/// Bytes of one step in which memory is charged, so that charging is cheap.
const CHARGE: usize = 16 << 10;
/// Bytes that an outbox may hold without a charge: the charge of its connection covers them.
const FREE: usize = 2 << 10;

/// Whole frames, ready to be written.
#[derive(Debug)]
pub(super) enum Chunk {
    Own(Vec<u8>),
    /// A frame shared among receivers, which is charged once for all of them.
    Shared(Bytes),
}

impl Chunk {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// Bytes of memory held for this queue alone: the entry, and an own buffer.
    pub(super) fn own(&self) -> usize {
        PLACE
            + match self {
                Self::Own(bytes) => bytes.capacity(),
                Self::Shared(_) => 0,
            }
    }
}

/// Bytes of a chunk's entry in the queue, which may have as many unused entries.
pub(crate) const PLACE: usize = 2 * size_of::<Chunk>();

/// Shrinks a buffer that is less than half full.
fn trim(buffer: &mut Vec<u8>) {
    if buffer.capacity() > 2 * buffer.len() + SMALL {
        buffer.shrink_to(buffer.len());
    }
}

/// A sender that waits for room.
#[derive(Debug)]
pub(super) struct Waiter {
    /// The key of its connection.
    pub(super) key: u64,
    pub(super) waker: Waker,
    pub(super) since: Instant,
}

/// The queued frames, the state of writing, and the waiting senders.
#[derive(Debug, Default)]
pub(super) struct ByteQueue {
    /// Full chunks, oldest first.
    chunks: VecDeque<Chunk>,
    /// The chunk being filled, newer than all of `chunks`.
    tail: Vec<u8>,
    /// Bytes of the oldest chunk that are already written.
    offset: usize,
    /// Bytes queued, including those that a writer has taken.
    pub(super) bytes: usize,
    /// Bytes of memory held for this queue alone: chunks with their buffers and entries, and the content of
    /// the tail.
    pub(super) own: usize,
    /// The memory charge for `own` and `buffered_ciphertext`.
    charge: Option<Charge>,
    /// Bytes that the socket has accepted, but still holds as ciphertext.
    pub(super) buffered_ciphertext: usize,
    /// Bytes that the socket has accepted in total.
    pub(super) drained: u64,
    /// A flush is due, and some caller will do it.
    pub(super) flush_due: bool,
    /// A writer has taken chunks and is writing them.
    pub(super) writing: bool,
    /// The socket accepted no more; the connection's task waits until it is writable.
    pub(super) blocked: bool,
    /// When it has become blocked last.
    pub(super) blocked_since: Millis,
    /// A writer drops the chunks that it puts back, except one that is partly written.
    discards: bool,
    /// The connection's task waits until the queue is empty.
    pub(super) awaited: bool,
    /// An answer was pushed beyond the high-water mark.
    pub(super) overdue: bool,
    /// The connection is closing: only control frames are accepted.
    pub(super) closing: bool,
    /// The connection is closed: nothing is accepted.
    pub(super) closed: bool,
    /// Messages without room are dropped, instead of making their senders wait.
    pub(super) sheds: bool,
    /// Waiting senders.
    pub(super) waiters: Vec<Waiter>,
    /// The delay caused to other receivers, if any.
    pub(super) delay: Option<Box<DelayBudget>>,
    /// Written frames of a session; none without one.
    pub(super) kept: Option<Box<Kept>>,
    /// There is no socket, or it has failed, and a session waits for another.
    pub(super) suspended: bool,
}

impl ByteQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.tail.is_empty()
    }

    pub(super) fn waiting(&self) -> usize {
        self.bytes + self.buffered_ciphertext
    }

    /// The tail, with room for `size` bytes.
    pub(super) fn room(&mut self, size: usize) -> &mut Vec<u8> {
        if self.tail.len() + size > CHUNK {
            self.finish_tail();
        }
        // A buffer that cannot be written at once should not be larger than its content.
        if self.tail.capacity() == 0 && !self.blocked {
            self.tail = spare_buffer_for(size);
        }
        let length = self.tail.len() + size;
        if length > self.tail.capacity() {
            // Grows in steps up to a chunk. A larger buffer would not be reused.
            let step = match self.blocked {
                true => length.next_power_of_two(),
                false => length.next_power_of_two().max(4 * self.tail.capacity()),
            };
            let capacity = step.min(CHUNK).max(length);
            self.tail.reserve_exact(capacity - self.tail.len());
        }
        &mut self.tail
    }

    /// Appends whole frames. If the queue is empty the buffer itself is taken, and left empty.
    pub(super) fn push_frames(&mut self, frames: &mut Vec<u8>) {
        if self.is_empty() && !self.blocked {
            std::mem::swap(&mut self.tail, frames);
        } else {
            self.room(frames.len()).extend_from_slice(frames);
        }
    }

    /// Adjusts the charge to the memory held now.
    pub(super) fn update_charge(&mut self, memory: Option<&Arc<Memory>>) {
        let Some(memory) = memory else { return };
        let held = self.own + self.buffered_ciphertext;
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

    /// Appends a frame that other queues hold as well.
    pub(super) fn push_shared(&mut self, frame: Bytes) {
        self.finish_tail();
        self.chunks.push_back(Chunk::Shared(frame));
        self.own += PLACE;
    }

    fn finish_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            let chunk = self.chunk_of(tail);
            self.chunks.push_back(chunk);
        }
    }

    /// Turns the former tail, counted by its length until now, into a chunk.
    fn chunk_of(&mut self, mut tail: Vec<u8>) -> Chunk {
        let length = tail.len();
        trim(&mut tail);
        let chunk = Chunk::Own(tail);
        self.own += chunk.own() - length;
        chunk
    }

    pub(super) fn take(&mut self) -> Writing {
        Writing {
            chunks: std::mem::take(&mut self.chunks),
            tail: std::mem::take(&mut self.tail),
            offset: std::mem::take(&mut self.offset),
            freed: 0,
            keeps: self.kept.is_some(),
            written: None,
        }
    }

    /// Frames to keep of a session that begins now, at most `limit` bytes.
    pub(super) fn new_kept(&self, limit: usize) -> Box<Kept> {
        let queued = self.chunks.iter().map(Chunk::bytes);
        Kept::new(limit, queued.chain(Some(&*self.tail)))
    }

    /// Puts the frames behind the `count`th of the session into the queue again, behind the frame `first`. False if
    /// frames are missing, or if a writer still holds some.
    pub(super) fn rewind(&mut self, count: u64, first: Vec<u8>) -> bool {
        let Some(kept) = self.kept.as_mut().filter(|_| !self.writing) else {
            return false;
        };
        let queued = self.chunks.iter().map(Chunk::bytes);
        let queued = queued.chain(Some(&*self.tail));
        let Some(chunks) = kept.rewind(count, queued, first) else {
            return false;
        };
        self.bytes = chunks.iter().map(|chunk| chunk.bytes().len()).sum();
        self.own = chunks.iter().map(Chunk::own).sum();
        kept.restart(count, self.bytes);
        self.chunks = chunks;
        self.tail = Vec::new();
        self.offset = 0;
        (self.blocked, self.suspended) = (false, false);
        true
    }

    /// Puts back the chunks that a writer has not written.
    pub(super) fn put_back(
        &mut self,
        mut left: Writing,
        written: usize,
        buffered_ciphertext: usize,
    ) {
        self.drained += written as u64;
        if self.closed {
            return;
        }
        self.bytes -= written;
        self.own -= left.freed;
        self.buffered_ciphertext = buffered_ciphertext;
        if left.keeps {
            let written = left.written.take().unwrap_or_default();
            self.keep_written(*written);
        }
        if left.chunks.is_empty() && left.tail.is_empty() {
            give_buffer(left.tail);
            self.discards = false;
            return;
        }
        if !left.tail.is_empty() {
            let chunk = self.chunk_of(left.tail);
            left.chunks.push_back(chunk);
        }
        if std::mem::take(&mut self.discards) {
            for chunk in left.chunks.drain(usize::from(left.offset > 0)..) {
                self.bytes -= chunk.bytes().len();
                self.own -= chunk.own();
            }
        }
        self.offset = left.offset;
        // Chunks pushed in the meantime are newer.
        left.chunks.append(&mut self.chunks);
        self.chunks = left.chunks;
        if self.chunks.capacity() > 2 * self.chunks.len() + SLICES {
            self.chunks.shrink_to(self.chunks.len());
        }
        trim(&mut self.tail);
    }

    /// Keeps written chunks of a session.
    #[cold]
    fn keep_written(&mut self, written: Vec<Chunk>) {
        if self.suspended {
            // The ciphertext is lost with its socket.
            self.buffered_ciphertext = 0;
        }
        if let Some(kept) = &mut self.kept {
            self.own -= kept.own();
            written.into_iter().for_each(|chunk| kept.add(chunk));
            self.own += kept.own();
        }
    }

    /// Drops the written frames that the peer has received: `count` in all.
    pub(super) fn confirm(&mut self, count: u64) {
        if let Some(kept) = &mut self.kept {
            self.own -= kept.own();
            kept.confirm(count);
            self.own += kept.own();
        }
    }

    /// Forgets the written frames.
    pub(super) fn end_session(&mut self) {
        if let Some(kept) = self.kept.take() {
            self.own -= kept.own();
        }
    }

    /// Drops the queued frames, except a chunk that is partly written: it ends at a frame boundary.
    pub(super) fn discard(&mut self) {
        let in_hands = self.writing;
        let waiting = self.take();
        self.discards = true;
        if in_hands {
            // The writer drops its own rest when it puts it back.
            let size: usize = waiting.chunks.iter().map(|chunk| chunk.bytes().len()).sum();
            self.bytes -= size + waiting.tail.len();
            self.own -= waiting.own();
        } else {
            self.put_back(waiting, 0, self.buffered_ciphertext);
            self.discards = false;
        }
    }

    /// Closes the queue: drops all frames, accepts none.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.chunks = VecDeque::new();
        self.tail = Vec::new();
        self.bytes = 0;
        self.own = 0;
        self.buffered_ciphertext = 0;
        self.kept = None;
    }

    /// True if no sender needs to wait: there is room again, or never will be.
    pub(super) fn has_room(&self, mark: usize) -> bool {
        self.closing || self.closed || self.sheds || self.waiting() <= mark / 2
    }

    /// Wakes the waiting senders if there is room.
    pub(super) fn release(&mut self, mark: usize) {
        if self.has_room(mark) {
            self.overdue = false;
            self.sheds &= self.waiting() > mark / 2;
            if let Some(delay) = &mut self.delay {
                delay.stop(Instant::now(), self.drained);
            }
            for waiter in self.waiters.drain(..) {
                waiter.waker.wake();
            }
        }
    }
}

/// The chunks that a writer has taken.
pub(super) struct Writing {
    chunks: VecDeque<Chunk>,
    tail: Vec<u8>,
    offset: usize,
    /// Bytes of own memory freed by complete writes.
    freed: usize,
    /// True if chunks are kept when they are written.
    keeps: bool,
    /// Those chunks. Boxed, because most writers have none.
    #[allow(clippy::box_collection)]
    written: Option<Box<Vec<Chunk>>>,
}

impl Writing {
    /// Bytes of memory that no other queue holds.
    fn own(&self) -> usize {
        self.tail.len() + self.chunks.iter().map(Chunk::own).sum::<usize>()
    }

    /// Writes until all is written or the socket refuses. Returns the bytes written, and the result. A socket
    /// that keeps buffered ciphertext counts as refusing.
    pub(super) fn write(&mut self, socket: &WriteHalf) -> (usize, io::Result<()>) {
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

    /// Removes the written bytes.
    fn advance(&mut self, written: usize) {
        self.offset += written;
        while let Some(chunk) = self.chunks.front() {
            let length = chunk.bytes().len();
            if self.offset < length {
                return;
            }
            self.offset -= length;
            if let Some(chunk) = self.chunks.pop_front() {
                self.freed += chunk.own();
                match chunk {
                    chunk if self.keeps => self.written.get_or_insert_default().push(chunk),
                    Chunk::Own(buffer) => give_buffer(buffer),
                    Chunk::Shared(_) => {}
                }
            }
        }
        if self.offset == self.tail.len() {
            self.freed += self.tail.len();
            self.offset = 0;
            match self.keeps && !self.tail.is_empty() {
                true => self.keep_tail(),
                false => self.tail.clear(),
            }
        }
    }

    /// Keeps the tail, which was written.
    #[cold]
    fn keep_tail(&mut self) {
        let mut tail = std::mem::take(&mut self.tail);
        trim(&mut tail);
        let written = self.written.get_or_insert_default();
        written.push(Chunk::Own(tail));
    }
}

/// Maximum number of buffers that each thread keeps for reuse.
const SPARE_BUFFERS: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Takes an empty buffer: a reused one, if there is any.
pub(crate) fn spare_buffer() -> Vec<u8> {
    spare_buffer_for(4 << 10)
}

/// Takes an empty buffer; a new one has room for `size` bytes. A broadcast frame goes into one buffer per
/// receiver.
fn spare_buffer_for(size: usize) -> Vec<u8> {
    SPARE
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(size.clamp(FIRST, CHUNK)))
}

/// Keeps a buffer for reuse, unless it is larger than a chunk or there are enough.
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

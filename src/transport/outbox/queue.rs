//! What waits for one socket: whole frames in order, taken out by whoever writes, and put back in
//! part. No locks, no wake-ups but those of senders that are held.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    sync::Arc,
    task::Waker,
    time::Instant,
};

use bytes::Bytes;

use super::delay::DelayBudget;
use crate::{
    memory::{Charge, Memory},
    transport::socket::WriteHalf,
};

/// Frames are collected into chunks of this size: larger ones gain nothing in a write.
const CHUNK: usize = 64 << 10;
/// Chunks in one vectored write.
const SLICES: usize = 32;

/// The first buffer of an outbox has this size at least: the largest that an allocator usually has at hand.
const FIRST: usize = 1000;
/// A buffer of this size is worth no allocation to make it smaller.
const SMALL: usize = 512;

/// Memory is charged in steps of this size, so that it costs little.
const CHARGE: usize = 16 << 10;
/// What an outbox may hold without a charge: its connection's own covers it.
const FREE: usize = 2 << 10;

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

    /// Bytes of memory that this queue alone holds for it: its place, and its buffer.
    fn own(&self) -> usize {
        PLACE
            + match self {
                Self::Own(bytes) => bytes.capacity(),
                Self::Shared(_) => 0,
            }
    }
}

/// The place of a chunk in its queue, which may have as many free places.
pub(crate) const PLACE: usize = 2 * size_of::<Chunk>();

/// Gives back what a buffer has beyond twice what is in it.
fn trim(buffer: &mut Vec<u8>) {
    if buffer.capacity() > 2 * buffer.len() + SMALL {
        buffer.shrink_to(buffer.len());
    }
}

/// What waits, how it stands, and who waits for it to go.
#[derive(Debug, Default)]
pub(super) struct ByteQueue {
    /// Full chunks, oldest first.
    chunks: VecDeque<Chunk>,
    /// The chunk being collected, younger than all of `chunks`.
    tail: Vec<u8>,
    /// Bytes of the oldest chunk that the socket has taken.
    offset: usize,
    /// Bytes waiting in all, those in a writer's hands included.
    pub(super) bytes: usize,
    /// Bytes of memory held for this queue alone: chunks with their buffers and places, and what is
    /// in the tail.
    pub(super) own: usize,
    /// What is charged for them.
    charge: Option<Charge>,
    /// Bytes that the socket has taken but not passed on.
    pub(super) buffered_ciphertext: usize,
    /// Bytes the socket has taken so far.
    pub(super) drained: u64,
    /// Somebody owes a flush.
    pub(super) owed: bool,
    /// Somebody is writing what was taken from here.
    pub(super) writing: bool,
    /// The socket took no more; the connection's task waits for it.
    pub(super) blocked: bool,
    /// What waits is thrown away, but for a frame that the peer has in part.
    discards: bool,
    /// The connection's task waits until nothing waits here.
    pub(super) awaited: bool,
    /// Answers have gone beyond the mark.
    pub(super) pressed: bool,
    /// The connection is closing: only control frames are accepted.
    pub(super) closing: bool,
    /// Nothing is accepted any more.
    pub(super) closed: bool,
    /// Nobody waits for room here: what there is none for is dropped.
    pub(super) sheds: bool,
    /// Senders that are held, by their key.
    pub(super) held: Vec<(u64, Waker)>,
    /// How long it has delayed others, if it ever has.
    pub(super) delay: Option<Box<DelayBudget>>,
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
        // A buffer that is not written at once is to be no larger than what is in it.
        if self.tail.capacity() == 0 && !self.blocked {
            self.tail = spare_buffer_for(size);
        }
        let length = self.tail.len() + size;
        if length > self.tail.capacity() {
            // In steps up to a chunk and not beyond it, or the buffer would not be kept.
            let step = match self.blocked {
                true => length.next_power_of_two(),
                false => length.next_power_of_two().max(4 * self.tail.capacity()),
            };
            let capacity = step.min(CHUNK).max(length);
            self.tail.reserve_exact(capacity - self.tail.len());
        }
        &mut self.tail
    }

    /// Appends whole frames. Where nothing waits the buffer itself is taken, and left empty.
    pub(super) fn push_frames(&mut self, frames: &mut Vec<u8>) {
        if self.is_empty() && !self.blocked {
            std::mem::swap(&mut self.tail, frames);
        } else {
            self.room(frames.len()).extend_from_slice(frames);
        }
    }

    /// Charges what it holds now.
    pub(super) fn settle(&mut self, memory: Option<&Arc<Memory>>) {
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

    /// Appends a frame that others hold, too.
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

    /// A chunk of what was the tail, of which the bytes alone are counted.
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
        }
    }

    /// Takes back what a writer has left.
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
        // What was pushed meanwhile is younger.
        left.chunks.append(&mut self.chunks);
        self.chunks = left.chunks;
        if self.chunks.capacity() > 2 * self.chunks.len() + SLICES {
            self.chunks.shrink_to(self.chunks.len());
        }
        trim(&mut self.tail);
    }

    /// Throws away what waits, but for a chunk that the peer has in part: it ends with a frame.
    pub(super) fn discard(&mut self) {
        let in_hands = self.writing;
        let waiting = self.take();
        self.discards = true;
        if in_hands {
            // The writer drops its own rest when it comes back.
            let size: usize = waiting.chunks.iter().map(|chunk| chunk.bytes().len()).sum();
            self.bytes -= size + waiting.tail.len();
            self.own -= waiting.own();
        } else {
            self.put_back(waiting, 0, self.buffered_ciphertext);
            self.discards = false;
        }
    }

    /// Accepts nothing more, and forgets all.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.chunks = VecDeque::new();
        self.tail = Vec::new();
        self.bytes = 0;
        self.own = 0;
        self.buffered_ciphertext = 0;
    }

    /// True when nobody needs to be held: there is room again, or never will be.
    pub(super) fn has_room(&self, mark: usize) -> bool {
        self.closing || self.closed || self.sheds || self.waiting() <= mark / 2
    }

    /// Lets go of held senders once there is room for them.
    pub(super) fn release(&mut self, mark: usize) {
        if self.has_room(mark) {
            self.pressed = false;
            self.sheds &= self.waiting() > mark / 2;
            if let Some(delay) = &mut self.delay {
                delay.stop(Instant::now(), self.drained);
            }
            for (_, waker) in self.held.drain(..) {
                waker.wake();
            }
        }
    }
}

/// What a writer has in its hands.
pub(super) struct Writing {
    chunks: VecDeque<Chunk>,
    tail: Vec<u8>,
    offset: usize,
    /// Own memory that is gone: a chunk's, once all of it is.
    freed: usize,
}

impl Writing {
    /// Bytes that nobody else holds.
    fn own(&self) -> usize {
        self.tail.len() + self.chunks.iter().map(Chunk::own).sum::<usize>()
    }

    /// Writes until all is gone or the socket refuses; the bytes it took, and how it ended. A
    /// socket that is left with a residue refuses, too.
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

    /// Drops what the socket took.
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
                if let Chunk::Own(buffer) = chunk {
                    give_buffer(buffer);
                }
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
pub(crate) fn spare_buffer() -> Vec<u8> {
    spare_buffer_for(4 << 10)
}

/// The same; a new one has room for so many bytes. A frame for many goes into as many buffers.
fn spare_buffer_for(size: usize) -> Vec<u8> {
    SPARE
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(size.clamp(FIRST, CHUNK)))
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

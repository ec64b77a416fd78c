//! What one turn has to write, count and wake at its end.
//!
//! Messages to one receiver often come one behind the other: they are encoded here, side by side,
//! and go into its outbox together when a message for somebody else follows, or the turn ends.

use std::{cell::Cell, sync::Arc};

use crate::{
    broker::{
        handle::Handle,
        requests::{Notifications, Request},
    },
    protocol::Pieces,
    transport::{
        framing::{self, Mask},
        outbox::{Pushed, spare_buffer},
    },
};

/// Messages read in one turn, and bytes of them, before others get theirs. Few where each step of a
/// turn is tried in many orders.
pub(super) const MESSAGES: u32 = if cfg!(feature = "shuttle") { 4 } else { 512 };
pub(super) const BYTES: usize = 256 << 10;
/// Messages put into outboxes in one turn: one that is read may be for many.
const DELIVERIES: u32 = 16 << 10;
/// Entries for which a list keeps its memory from turn to turn.
const KEPT: usize = 1024;
/// Frames from this size on go to their receiver's outbox at once: copied once is enough.
const LARGE: usize = 8 << 10;
/// A batch ends at this size.
const BATCH: usize = 64 << 10;

/// One turn's bookkeeping.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) touched: Vec<Arc<Handle>>,
    pub(super) batch: ReceiverBatch,
    /// What is to be told to others, once no lock is held.
    pub(super) outcomes: Notifications,
    /// Messages read, pings and pongs among them, and their bytes: what the budget counts.
    pub(super) read: u32,
    pub(super) bytes: usize,
    pub(super) messages_in: u32,
    pub(super) messages_out: u32,
}

/// Frames for one receiver that are not yet in its outbox.
#[derive(Default)]
pub(super) struct ReceiverBatch {
    pub(super) id: String,
    pub(super) receiver: Option<Arc<Handle>>,
    /// The receiver's registration of this id: as long as it has that, it is the one to send to.
    pub(super) registration: u64,
    pub(super) frames: Vec<u8>,
    pub(super) count: u32,
    /// The requests among them whose end is not told before they are delivered.
    pub(super) requests: Vec<Arc<Request>>,
}

thread_local! {
    /// Its lists are empty between turns, and kept for their memory.
    static SPARE: Cell<Option<Box<Turn>>> = const { Cell::new(None) };
}

impl Turn {
    pub(super) fn begin() -> Box<Self> {
        SPARE.take().unwrap_or_default()
    }

    /// Ends it. All must have been written and counted.
    pub(super) fn end(mut self: Box<Self>) {
        self.batch.receiver = None;
        self.touched.shrink_to(KEPT);
        self.outcomes.shrink_to(KEPT);
        self.batch.requests.shrink_to(KEPT);
        (self.read, self.bytes) = (0, 0);
        (self.messages_in, self.messages_out) = (0, 0);
        SPARE.set(Some(self));
    }

    /// True while more may be read.
    pub(super) fn goes_on(&self) -> bool {
        self.read < MESSAGES && self.bytes < BYTES && self.messages_out < DELIVERIES
    }

    /// Notes a message read; `length`: its bytes.
    pub(super) fn took(&mut self, length: usize) {
        self.read += 1;
        self.messages_in += 1;
        self.bytes += length;
    }

    /// Writes what has been put into outboxes.
    pub(super) fn flush(&mut self) {
        for handle in self.touched.drain(..) {
            handle.flush();
        }
    }

    /// Notes what a push came to; false if the receiver has ended.
    pub(super) fn pushed(&mut self, handle: &Arc<Handle>, pushed: Pushed) -> bool {
        if pushed == Pushed::NeedsFlush {
            self.touched.push(handle.clone());
        }
        pushed != Pushed::Closed
    }

    /// The same for a message or an answer, which counts.
    pub(super) fn delivered(&mut self, handle: &Arc<Handle>, pushed: Pushed) -> bool {
        self.messages_out += u32::from(pushed != Pushed::Closed);
        self.pushed(handle, pushed)
    }
}

impl ReceiverBatch {
    /// True if it is for the owner of this id.
    pub(super) fn is_for(&self, id: &str) -> bool {
        self.id == id
            && (self.receiver.as_ref())
                .is_some_and(|receiver| receiver.registration() == self.registration)
    }

    /// Makes it one for another id. It must be empty.
    pub(super) fn set(&mut self, id: &str, receiver: Arc<Handle>, registration: u64) {
        self.id.clear();
        self.id.push_str(id);
        self.receiver = Some(receiver);
        self.registration = registration;
    }

    /// Adds a frame; false if it is too large for that.
    pub(super) fn add(&mut self, pieces: &Pieces<'_>) -> bool {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        if length >= LARGE {
            return false;
        }
        if self.frames.capacity() == 0 {
            self.frames = spare_buffer();
        }
        framing::encode_text(pieces, length, Mask::None, &mut self.frames);
        self.count += 1;
        true
    }

    pub(super) fn is_full(&self) -> bool {
        self.frames.len() + framing::frame_size(LARGE, Mask::None) > BATCH
    }
}

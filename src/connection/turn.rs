//! One turn of a connection: its budget, its batch, its notifications and errors, and the outboxes to flush at its
//! end.
//!
//! Consecutive messages to one receiver are encoded into a batch. The batch goes into the outbox when a
//! message for another receiver follows, or when the turn ends.

use std::{cell::Cell, sync::Arc, time::Instant};

use super::Connection;
use crate::{
    broker::{
        handle::Handle,
        kept::Rule,
        mailboxes,
        requests::{Notifications, Request},
        topics::{Found, groups::GroupId},
    },
    error::ActionError,
    event::ServerEvent,
    protocol::{self, Pieces, version_2},
    transport::{
        framing::{self, Mask},
        outbox::{Pushed, spare_buffer},
    },
};

/// Maximum messages, and bytes of them, read in one turn, for fairness. Few under shuttle, which tries many
/// schedules of each step.
pub(super) const MESSAGES: u32 = if cfg!(feature = "shuttle") { 4 } else { 512 };
pub(super) const BYTES: usize = 256 << 10;
/// Maximum messages put into outboxes in one turn: a message may have many receivers.
const DELIVERIES: u32 = 16 << 10;
/// Capacity that a list keeps between turns, in entries.
const KEPT: usize = 1024;
/// Frames from this size on bypass the batch, to be copied only once.
const LARGE: usize = 8 << 10;
/// One of this many turns is measured.
const MEASURED: u8 = 8;
/// Maximum bytes of a batch.
const BATCH: usize = 64 << 10;

/// State of one turn.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) touched: Vec<Arc<Handle>>,
    pub(super) batch: ReceiverBatch,
    /// Consecutive messages to one topic.
    pub(super) publication: TopicBatch,
    /// Notifications to be sent when no lock is held.
    pub(super) notifications: Notifications,
    /// Messages and control frames read, and the bytes of the messages: both count against the budget.
    pub(super) read: u32,
    pub(super) bytes: usize,
    pub(super) messages_in: u32,
    pub(super) messages_out: u32,
    /// True if it has sent messages to a store that has many to write.
    pub(super) awaits_store: bool,
    /// When it has begun, if it is measured.
    pub(super) begin: Option<Instant>,
    /// Number of turns of this thread.
    number: u8,
}

/// Frames for one receiver that are not yet in its outbox.
#[derive(Default)]
pub(super) struct ReceiverBatch {
    pub(super) id: String,
    pub(super) receiver: Option<Arc<Handle>>,
    /// Number of the receiver's registration: while it has not changed, the receiver owns the id.
    pub(super) registration: u64,
    pub(super) frames: Vec<u8>,
    pub(super) count: u32,
    /// Requests in the batch with deferred cancellations.
    pub(super) requests: Vec<Arc<Request>>,
}

/// Frames for the subscribers of one topic that are not yet in their outboxes.
#[derive(Default)]
pub(super) struct TopicBatch {
    pub(super) topic: String,
    /// The version of the subscriptions at which the receivers were found.
    pub(super) version: u64,
    pub(super) found: Found,
    /// The end of each frame, with the topic.
    pub(super) end: String,
    /// True if one of the subscribers makes publishers wait.
    pub(super) waits: bool,
    pub(super) frames: Vec<u8>,
    pub(super) count: u32,
    /// Place of the last frame.
    pub(super) last: usize,
    /// The groups in `found` that did not take the messages.
    pub(super) unserved: Vec<GroupId>,
    /// The rule of the topic, if its messages are kept. `frames` has the messages without header and end then, because
    /// they get their offsets when they are delivered.
    pub(super) rule: Option<Arc<Rule>>,
    /// The ends of these messages in `frames`.
    pub(super) ends: Vec<usize>,
    /// The rules of the mailboxes that get the messages of the topic, too.
    pub(super) bound: Vec<Arc<mailboxes::Rule>>,
}

thread_local! {
    /// A turn with empty lists, reused for their memory.
    static SPARE: Cell<Option<Box<Turn>>> = const { Cell::new(None) };
}

impl Turn {
    pub(super) fn begin() -> Box<Self> {
        let mut turn = SPARE.take().unwrap_or_default();
        turn.number = turn.number.wrapping_add(1);
        turn.begin = (turn.number.is_multiple_of(MEASURED)).then(Instant::now);
        turn
    }

    /// Ends the turn. Everything must have been flushed and counted.
    pub(super) fn end(mut self: Box<Self>) {
        self.batch.receiver = None;
        if !self.publication.topic.is_empty() {
            self.publication.forget();
        }
        self.touched.shrink_to(KEPT);
        self.notifications.shrink_to(KEPT);
        self.batch.requests.shrink_to(KEPT);
        (self.read, self.bytes) = (0, 0);
        (self.messages_in, self.messages_out) = (0, 0);
        self.awaits_store = false;
        SPARE.set(Some(self));
    }

    /// True while the budget is not used up.
    pub(super) fn has_budget(&self) -> bool {
        self.read < MESSAGES && self.bytes < BYTES && self.messages_out < DELIVERIES
    }

    /// Counts a message that was read; `length`: its bytes.
    pub(super) fn count_message(&mut self, length: usize) {
        self.read += 1;
        self.messages_in += 1;
        self.bytes += length;
    }

    /// Flushes the touched outboxes.
    pub(super) fn flush(&mut self) {
        for handle in self.touched.drain(..) {
            handle.flush();
        }
    }

    /// Records a push. False if the receiver has closed.
    pub(super) fn pushed(&mut self, handle: &Arc<Handle>, pushed: Pushed) -> bool {
        if pushed == Pushed::NeedsFlush {
            self.touched.push(handle.clone());
        }
        pushed != Pushed::Closed
    }

    /// Records and counts the push of a message or an answer. False if the receiver has closed.
    pub(super) fn delivered(&mut self, handle: &Arc<Handle>, pushed: Pushed) -> bool {
        self.messages_out += u32::from(pushed != Pushed::Closed);
        self.pushed(handle, pushed)
    }
}

impl TopicBatch {
    /// Forgets the topic. The batch must be empty.
    #[cold]
    fn forget(&mut self) {
        self.topic.clear();
        self.found.clear();
        self.found.subscribers.shrink_to(KEPT);
        self.rule = None;
        self.bound.clear();
        self.ends.shrink_to(KEPT);
    }

    /// Adds a frame.
    pub(super) fn add(&mut self, pieces: &Pieces<'_>) {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        self.last = self.frames.len();
        framing::encode_text(pieces, length, Mask::None, &mut self.frames);
        self.count += 1;
    }

    /// The groups of which a member here gets the messages of the batch.
    pub(super) fn take_served(&mut self) -> Vec<GroupId> {
        let unserved = std::mem::take(&mut self.unserved);
        let all = self.found.groups.iter().map(|group| group.id);
        all.filter(|id| !unserved.contains(id)).collect()
    }

    /// True if it is time to deliver the batch.
    pub(super) fn is_full(&self) -> bool {
        self.frames.len() + framing::frame_size(LARGE, Mask::None) > BATCH
            || self.count as usize * self.found.subscribers.len() >= DELIVERIES as usize
    }
}

impl ReceiverBatch {
    /// True if the batch is for the owner of this id.
    pub(super) fn is_for(&self, id: &str) -> bool {
        self.id == id
            && (self.receiver.as_ref())
                .is_some_and(|receiver| receiver.registration() == self.registration)
    }

    /// Assigns the batch, which must be empty, to another id.
    pub(super) fn set(&mut self, id: &str, receiver: Arc<Handle>, registration: u64) {
        self.id.clear();
        self.id.push_str(id);
        self.receiver = Some(receiver);
        self.registration = registration;
    }

    /// Adds a frame; false if it is too large for a batch.
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

impl Connection {
    /// Delivers what has not been delivered yet.
    #[inline]
    pub(super) fn deliver(&self, turn: &mut Turn) {
        // Often there is nothing, such as before each answer.
        if turn.batch.count > 0 || turn.publication.count > 0 {
            self.deliver_batches(turn);
        }
    }

    #[inline(never)]
    fn deliver_batches(&self, turn: &mut Turn) {
        if turn.publication.count > 0 {
            self.deliver_publication(turn);
        }
        if let Some(receiver) = turn.batch.receiver.take() {
            self.deliver_to(&receiver, turn);
            turn.batch.receiver = Some(receiver);
        }
    }

    /// Delivers the batch to this receiver. False if it has closed.
    pub(super) fn deliver_to(&self, receiver: &Arc<Handle>, turn: &mut Turn) -> bool {
        let batch = &mut turn.batch;
        let count = std::mem::take(&mut batch.count);
        if count == 0 {
            return true;
        }
        if receiver.remote {
            receiver.set_writer(self.handle.key);
        }
        let pushed = receiver.outbox.push_frames(&mut batch.frames, count);
        // Usually empty: the check is cheaper than an empty drain.
        if !batch.requests.is_empty() {
            let requests = &self.broker.registry.requests;
            for request in batch.requests.drain(..) {
                requests.delivered(&request, &mut turn.notifications);
            }
        }
        match pushed {
            Pushed::Closed => {
                (0..count).for_each(|_| self.broker.unknown(&batch.id));
                false
            }
            pushed => {
                turn.messages_out += count;
                turn.pushed(receiver, pushed)
            }
        }
    }

    /// Sends the notifications collected in this turn.
    pub(super) fn notify(&self, turn: &mut Turn) {
        // Messages first: a notification must not overtake its message.
        self.deliver(turn);
        self.broker
            .notify(&mut turn.notifications, &mut turn.touched);
    }

    /// Reports an action that was refused: counts it, sends `error`, and emits an event.
    pub(super) fn refused(&mut self, error: ActionError, text: Option<&str>, turn: &mut Turn) {
        // The refusal may close this connection.
        self.deliver(turn);
        self.broker.metrics.error(&error);
        self.push_refused(&error, text.unwrap_or_default(), turn);
        self.broker.listener.event(ServerEvent::Refused {
            error,
            text,
            id: self.id.as_deref(),
            info: self.handle.info(),
        });
        self.count_refusal();
    }

    /// Sends `error` to a peer that speaks version 2, or asks for it with this action. Dropped while its
    /// outbox is full (rule 29).
    fn push_refused(&self, error: &ActionError, text: &str, turn: &mut Turn) {
        let Self { handle, broker, .. } = self;
        if handle.outbox.is_full() || !(handle.uses_version_2() || protocol::asks_for_2(text)) {
            return;
        }
        let [reference, ack] = protocol::echo(text, broker.options.max_id_length);
        let words = protocol::json_string(&error.to_string());
        let repeated = version_2::repeated(reference, ack);
        let frame = version_2::error(error.code(), &words, &repeated);
        turn.pushed(handle, handle.outbox.push(&frame));
    }
}

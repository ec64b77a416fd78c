//! What a `send` and an `answer` do.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Context,
    time::Instant,
};

use bytes::Bytes;

use super::{Connection, Turn};
use crate::{
    error::ActionError,
    event::{ServerEvent, Slow},
    framing::{self, Mask},
    handle::{Close, Handle},
    memory::{self, Charge},
    options::SlowConsumer,
    outbox::Pushed,
    protocol::{self, Dest},
};

/// Answers may fill an outbox to this multiple of its mark.
const ANSWERS: usize = 8;

/// Whether a receiver takes a message now.
enum Room {
    Free,
    /// Its sender waits.
    Held,
    /// The message is not for it any more: it is being closed, or drops what it cannot take.
    None,
}

impl Connection {
    /// Sends a message to its receivers. Returns the receiver that is full, if this connection is
    /// to wait for it: then nothing was sent.
    pub(super) fn send(
        &mut self,
        message: &str,
        dest: &str,
        ack: Option<&str>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Arc<Handle>>, ActionError> {
        match protocol::decode_dest(dest, self.shared.options.max_dest)? {
            Dest::One(id) => self.send_to_one(message, &id, ack, cx, turn),
            Dest::Many(ids) => self.send_to_many(message, &ids, ack, cx, turn),
        }
    }

    fn send_to_one(
        &mut self,
        message: &str,
        id: &str,
        ack: Option<&str>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Arc<Handle>>, ActionError> {
        self.check_access(id)?;
        if !turn.batch.is_for(id) {
            self.deliver(turn);
            let Some((receiver, registration)) = self.shared.router.find_registration(id) else {
                self.unknown(id);
                return Ok(None);
            };
            turn.batch.set(id, receiver, registration);
        }
        // Lent for this message: a clone for each would cost more than all that is done with it.
        let Some(receiver) = turn.batch.receiver.take() else {
            return Ok(None);
        };
        let room = self.send_to(&receiver, message, id, ack, cx, turn);
        let full = matches!(room, Ok(Room::Held)).then(|| receiver.clone());
        turn.batch.receiver = Some(receiver);
        room.map(|_| full)
    }

    /// Sends a message to the receiver of the batch.
    fn send_to(
        &mut self,
        receiver: &Arc<Handle>,
        message: &str,
        id: &str,
        ack: Option<&str>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Room, ActionError> {
        if turn.batch.is_full() || receiver.outbox.is_full_with(turn.batch.frames.len()) {
            self.deliver_to(receiver, turn);
        }
        let room = self.room(id, receiver, cx);
        if !matches!(room, Room::Free) {
            return Ok(room);
        }
        self.await_answer(ack, std::slice::from_ref(receiver))?;
        let frame = protocol::message(message, ack, self.from());
        if !turn.batch.add(&frame) {
            self.deliver_to(receiver, turn);
            if !turn.delivered(receiver, receiver.outbox.push(&frame)) {
                self.unknown(id);
            }
        }
        Ok(room)
    }

    /// Puts what was collected for one receiver into its outbox.
    pub(super) fn deliver(&self, turn: &mut Turn) {
        if let Some(receiver) = turn.batch.receiver.take() {
            self.deliver_to(&receiver, turn);
            turn.batch.receiver = Some(receiver);
        }
    }

    fn deliver_to(&self, receiver: &Arc<Handle>, turn: &mut Turn) {
        let batch = &mut turn.batch;
        let count = std::mem::take(&mut batch.count);
        if count == 0 {
            return;
        }
        match receiver.outbox.push_frames(&mut batch.frames) {
            Pushed::Closed => (0..count).for_each(|_| self.unknown(&batch.id)),
            pushed => {
                turn.messages_out += count;
                turn.pushed(receiver, pushed);
            }
        }
    }

    fn send_to_many(
        &mut self,
        message: &str,
        ids: &[Cow<'_, str>],
        ack: Option<&str>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Arc<Handle>>, ActionError> {
        ids.iter().try_for_each(|id| self.check_access(id))?;
        self.deliver(turn);
        let (mut names, mut receivers) =
            (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
        let mut unknown = Vec::new();
        for id in ids {
            match self.shared.router.find(id) {
                Some(receiver) => {
                    names.push(&**id);
                    receivers.push(receiver);
                }
                None => unknown.push(id),
            }
        }
        let pieces = protocol::message(message, ack, self.from());
        let length = pieces.iter().map(|piece| piece.len()).sum();
        let size = framing::frame_size(length, Mask::None);
        let (known, limit) = (receivers.len(), self.shared.options.max_fanout_bytes);
        if size.saturating_mul(known) > limit {
            return Err(ActionError::FanoutTooLarge(known, size, limit));
        }
        let mut takes = Vec::with_capacity(known);
        for (id, receiver) in names.iter().zip(&receivers) {
            match self.room(id, receiver, cx) {
                Room::Free => takes.push(true),
                Room::Held => return Ok(Some(receiver.clone())),
                Room::None => takes.push(false),
            }
        }
        if takes.contains(&false) {
            let mut each = takes.iter();
            names.retain(|_| each.next() == Some(&true));
            let mut each = takes.iter();
            receivers.retain(|_| each.next() == Some(&true));
        }
        self.await_answer(ack, &receivers)?;
        // Encoded once, whatever the number of receivers.
        let pieces = protocol::message(message, ack, self.from());
        let mut bytes = Vec::with_capacity(size);
        framing::encode_text(&pieces, length, Mask::None, &mut bytes);
        let frame = Bytes::from_owner(memory::Shared {
            bytes,
            _charge: Charge::new(&self.shared.memory, size),
        });
        for id in unknown {
            self.unknown(id);
        }
        for (id, receiver) in names.into_iter().zip(&receivers) {
            if !turn.delivered(receiver, receiver.outbox.push_encoded(&frame)) {
                self.unknown(id);
            }
        }
        Ok(None)
    }

    fn check_access(&self, id: &str) -> Result<(), ActionError> {
        match self.access.may_send(id) {
            true => Ok(()),
            false => Err(ActionError::Forbidden),
        }
    }

    /// Whether the receiver takes a message now. `Held`: this connection is woken when it does.
    fn room(&self, id: &str, receiver: &Arc<Handle>, cx: &Context<'_>) -> Room {
        if !receiver.outbox.is_full() {
            receiver.drops_end();
            return Room::Free;
        }
        // What this turn has promised to write may be what fills it.
        receiver.flush();
        match self.shared.options.slow_consumer {
            SlowConsumer::Pushback => {
                if !receiver.outbox.hold(self.handle.key, cx.waker()) {
                    return Room::Free;
                }
                match self.shared.router.is_strict(id, Instant::now()) {
                    true => receiver.request_close(Close::Slow),
                    // Its task starts the clock.
                    false => receiver.waker.wake(),
                }
                Room::Held
            }
            _ if !receiver.outbox.is_full() => Room::Free,
            SlowConsumer::Close => {
                receiver.request_close(Close::Slow);
                Room::None
            }
            SlowConsumer::Drop => {
                self.drop_message(Some(id), receiver);
                Room::None
            }
        }
    }

    /// True if there is no room for what this connection is to be told: it is woken when there is.
    pub(super) fn is_full(&self, cx: &Context<'_>) -> bool {
        let Handle { key, outbox, .. } = &*self.handle;
        if !outbox.is_full() {
            return false;
        }
        self.handle.flush();
        outbox.hold(*key, cx.waker())
    }

    /// Counts a message that its receiver has no room for.
    fn drop_message(&self, id: Option<&str>, receiver: &Handle) {
        self.shared.metrics.dropped.fetch_add(1, Relaxed);
        // Told once, until there is room again.
        if receiver.drop_begins() {
            let why = Slow::Dropping;
            self.shared.listener.event(ServerEvent::Slow { id, why });
        }
    }

    /// Keeps a request open, if there is an ack and anybody to answer it.
    fn await_answer(
        &self,
        ack: Option<&str>,
        receivers: &[Arc<Handle>],
    ) -> Result<(), ActionError> {
        match ack {
            Some(ack) if protocol::is_truthy(ack) && !receivers.is_empty() => {
                let requests = &self.shared.router.requests;
                let key = protocol::ack_key(ack);
                let (length, limit) = (key.len(), self.shared.options.max_id_length);
                if length > limit {
                    return Err(ActionError::AckTooLong(length, limit));
                }
                // Rule 7.9: who has no id is not answered, but may not take an ack either.
                let now = Instant::now();
                match self.id {
                    Some(_) => requests.open(&key, &self.handle, receivers, now),
                    None => requests.check(&key, &self.handle, now),
                }
            }
            _ => Ok(()),
        }
    }

    pub(super) fn answer(&mut self, ack: &str, message: Option<&str>, turn: &mut Turn) {
        let key = protocol::ack_key(ack);
        let Some(asker) = self
            .shared
            .router
            .requests
            .answer(&key, &self.handle, Instant::now())
        else {
            return;
        };
        if asker.outbox.is_full() && !self.has_room_for_answer(&asker) {
            return;
        }
        let frame = protocol::answer(ack, self.from(), message);
        turn.delivered(&asker, asker.outbox.push(&frame));
    }

    /// Whether an answer may still be added beyond the mark: it never holds the one who gives it.
    fn has_room_for_answer(&self, asker: &Handle) -> bool {
        match self.shared.options.slow_consumer {
            SlowConsumer::Pushback => {
                asker.outbox.press();
                let most = self.shared.options.max_backpressure.saturating_mul(ANSWERS);
                let fits = asker.outbox.waiting() < most;
                match fits {
                    true => asker.waker.wake(),
                    false => asker.request_close(Close::Slow),
                }
                fits
            }
            SlowConsumer::Close => {
                asker.request_close(Close::Slow);
                false
            }
            SlowConsumer::Drop => {
                self.drop_message(None, asker);
                false
            }
        }
    }

    pub(super) fn unknown(&self, id: &str) {
        self.shared.metrics.unknown_ids.fetch_add(1, Relaxed);
        // Longer ones exist nowhere; their beginning tells enough.
        let shown = protocol::shorten(id, self.shared.options.max_id_length);
        self.shared.listener.event(ServerEvent::UnknownId(shown));
    }

    /// Tells of an action that was not carried out.
    pub(super) fn refused(&mut self, error: ActionError, text: Option<&str>, turn: &mut Turn) {
        // It may be one too many.
        self.deliver(turn);
        self.shared.metrics.errors.fetch_add(1, Relaxed);
        self.shared
            .listener
            .event(ServerEvent::Refused { error, text });
        self.count_refusal();
    }
}

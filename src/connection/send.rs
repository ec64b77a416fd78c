//! Command `send`: its options, and the delivery of a message to one id.

use std::{sync::Arc, task::Context};

use super::{Connection, Turn, remote::Absent};
use crate::{
    broker::{delivery::Admission, handle::Handle, requests::DeliveryError},
    error::ActionError,
    memory::MOST_SHARE,
    protocol::{self, Dest, RawReplyOptions, ReplyOptions},
    transport::framing::{self, Mask},
};

/// Options of a `send`.
pub(super) struct SendOptions<'a> {
    pub(super) ack: Option<&'a str>,
    /// None: options of version 1.
    pub(super) reply: Option<&'a ReplyOptions<'a>>,
}

impl<'a> SendOptions<'a> {
    /// The `ref` of a receipt, if one is wanted.
    pub(super) fn reference(&self) -> Option<&'a str> {
        self.reply?.reference
    }

    pub(super) fn receipt(&self) -> bool {
        self.reference().is_some()
    }

    /// The ack, if the message is a request.
    #[inline]
    pub(super) fn request(&self) -> Option<&'a str> {
        self.ack.filter(|ack| protocol::is_truthy(ack))
    }
}

impl Connection {
    /// Sends a message to its receivers. If it returns a handle, nothing was sent: this connection must
    /// wait for room in that outbox, for lookups or for memory.
    pub(super) fn send(
        &mut self,
        message: &str,
        dest: &str,
        ack: Option<&str>,
        raw: Option<&RawReplyOptions<'_>>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Arc<Handle>>, ActionError> {
        let reply;
        let mut options = SendOptions { ack, reply: None };
        if let Some(raw) = raw
            && self.handle.uses_version_2()
        {
            reply = raw.check(self.broker.options.max_id_length)?;
            options.reply = Some(&reply);
            // The receipt goes into this connection's own outbox, which must have room.
            if options.receipt() && self.is_full(cx) {
                return Ok(Some(self.handle.clone()));
            }
        }
        let limits = &self.broker.options;
        match protocol::decode_dest(dest, limits.max_dest, limits.max_id_length)? {
            Dest::One(id) => self.send_to_one(message, &id, &options, cx, turn),
            Dest::Many(ids) => self.send_to_many(message, &ids, &options, cx, turn),
            Dest::Object(dest) => self.send_to_object(message, dest, &options, cx, turn),
        }
    }

    fn send_to_one(
        &mut self,
        message: &str,
        id: &str,
        options: &SendOptions<'_>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Arc<Handle>>, ActionError> {
        self.check_access(id)?;
        if !turn.batch.is_for(id) {
            self.deliver(turn);
            let found = self.broker.registry.find_registration(id);
            let found = found.map_or_else(|| self.find_remote(id, cx), Ok);
            let (receiver, registration) = match found {
                Ok(found) => {
                    self.note_sender(&found.0);
                    found
                }
                Err(Absent::Queue(receiver)) => return Ok(Some(receiver)),
                Err(Absent::Lookups) => return Ok(self.broker.lookup_gate()),
                Err(Absent::Failed(error)) => {
                    if self.wants_results(options) {
                        self.report_one(id, options, Some(error), turn)?;
                    }
                    self.broker.not_found(id, error);
                    self.count_failed(options, error);
                    return Ok(None);
                }
            };
            self.recent.note(receiver.key);
            turn.batch.set(id, receiver, registration);
        }
        // Taken out of the batch while in use: cloning the handle for each message is too expensive.
        let Some(receiver) = turn.batch.receiver.take() else {
            return Ok(None);
        };
        if receiver.remote && (options.receipt() || options.request().is_some()) {
            turn.batch.receiver = Some(receiver.clone());
            return self.send_remote(&receiver, message, id, options, cx, turn);
        }
        let room = self.send_to(&receiver, message, id, options, cx, turn);
        let full = matches!(room, Ok(Admission::Backpressure)).then(|| receiver.clone());
        turn.batch.receiver = Some(receiver);
        let result = match room? {
            Admission::Backpressure => return Ok(full),
            // Successful deliveries matter for receipts only.
            Admission::Accept if !options.receipt() => return Ok(None),
            Admission::Accept => None,
            Admission::Closed => Some(DeliveryError::Gone),
            Admission::Drop => {
                self.count_failed(options, DeliveryError::Slow);
                Some(DeliveryError::Slow)
            }
        };
        if self.wants_results(options) {
            self.report_one(id, options, result, turn)?;
        }
        Ok(None)
    }

    /// Sends a message to the receiver of the batch.
    fn send_to(
        &mut self,
        receiver: &Arc<Handle>,
        message: &str,
        id: &str,
        options: &SendOptions<'_>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Admission, ActionError> {
        if turn.batch.is_full() || receiver.outbox.is_full_with(turn.batch.frames.len()) {
            self.deliver_to(receiver, turn);
        }
        if message.len() > MOST_SHARE && self.awaits_memory() {
            return Ok(Admission::Backpressure);
        }
        let room = self.admit(id, receiver, cx, || self.serves_others(receiver));
        match room {
            Admission::Accept => self.recent.count(message.len()),
            Admission::Backpressure | Admission::Closed | Admission::Drop => return Ok(room),
        }
        let frame = protocol::message(message, options.ack, self.from());
        if receiver.remote {
            self.check_size(&frame, options, id)?;
        }
        let request = self.await_one(receiver, id, options, turn)?;
        if turn.batch.add(&frame) {
            turn.batch.requests.extend(request);
            // A receipt must not report a message that is still in the batch.
            let is_there = !options.receipt() || self.deliver_to(receiver, turn);
            return Ok(if is_there { room } else { Admission::Closed });
        }
        self.deliver_to(receiver, turn);
        if receiver.remote {
            receiver.set_writer(self.handle.key);
        }
        let is_there = turn.delivered(receiver, receiver.outbox.push(&frame));
        if let Some(request) = request {
            let requests = &self.broker.registry.requests;
            requests.delivered(&request, &mut turn.notifications);
        }
        if !is_there {
            self.broker.unknown(id);
            return Ok(Admission::Closed);
        }
        Ok(room)
    }

    /// Encoded frame of a message.
    pub(super) fn frame(&self, message: &str, options: &SendOptions<'_>) -> Vec<u8> {
        let pieces = protocol::message(message, options.ack, self.from());
        let length = pieces.iter().map(|piece| piece.len()).sum();
        let mut frame = Vec::with_capacity(framing::frame_size(length, Mask::None));
        framing::append_text(&pieces, &mut frame);
        frame
    }

    /// True if failed deliveries are reported to this connection.
    pub(super) fn wants_results(&self, options: &SendOptions<'_>) -> bool {
        self.handle.uses_version_2() && (options.receipt() || options.request().is_some())
    }

    /// Counts a request that no receiver got.
    pub(super) fn count_failed(&self, options: &SendOptions<'_>, error: DeliveryError) {
        if options.request().is_some() {
            self.broker.registry.requests.count_failed(error);
        }
    }

    /// Records this sender for a receiver whose id has just come from a draining broker: earlier messages
    /// to the id must not arrive later.
    pub(super) fn note_sender(&self, receiver: &Handle) {
        if receiver.has_arrived()
            && let (Some(peers), Some(from)) = (&self.broker.peers, self.from())
        {
            peers.note_sender(receiver, from);
        }
    }

    pub(super) fn check_access(&self, id: &str) -> Result<(), ActionError> {
        match self.access.may_send(id) {
            true => Ok(()),
            false => Err(ActionError::Forbidden),
        }
    }
}

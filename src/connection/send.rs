//! Command `send`: delivers a message to one id or many.

use std::{borrow::Cow, sync::Arc, task::Context};

use bytes::Bytes;

use super::{
    Connection, Turn,
    lookup::Absent,
    request::{DeliveryResults, SendOptions},
};
use crate::{
    broker::{
        delivery::Admission,
        handle::Handle,
        requests::{DeliveryError, Name},
    },
    error::ActionError,
    memory::{self, Charge, MOST_SHARE},
    protocol::{self, Dest, RawReplyOptions},
    transport::{
        framing::{self, Mask},
        outbox::{PLACE, Pushed, SHARE_FROM},
    },
};

/// Minimum size of a frame that is shared by very many receivers, not copied for each.
const LEAST_SHARED: usize = 256;
/// Approximate bytes of a `failed` frame besides its ack.
const FAILED: usize = 64;
/// Bytes of `failed` frames that a request may cause even if `max_backpressure` is smaller.
const LEAST_TOLD: usize = 1 << 20;
/// Bytes copied into outboxes after which these are flushed.
const COPIES: usize = 1 << 20;
/// A connection serves others if it switched receivers this often since its last wait.
const SWITCHES: u32 = 8;

/// The two receivers to which a connection sent last.
#[derive(Debug, Default)]
pub(super) struct RecentReceivers {
    /// Keys of their handles.
    last: u64,
    other: u64,
    switches: u32,
}

impl RecentReceivers {
    fn note(&mut self, key: u64) {
        if key != self.last {
            (self.other, self.last) = (self.last, key);
            self.switches = self.switches.saturating_add(1);
        }
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
            && self.handle.speaks_2()
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
                    if self.is_told(options) {
                        self.report_one(id, options, Some(error), turn)?;
                    }
                    self.broker.not_found(id, error);
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
            Admission::Drop => Some(DeliveryError::Slow),
        };
        if self.is_told(options) {
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
            Admission::Accept => {}
            Admission::Backpressure => {
                self.recent.switches = 0;
                return Ok(room);
            }
            Admission::Closed | Admission::Drop => return Ok(room),
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
            receiver.written_by(self.handle.key);
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

    /// Delivers the batch to its receiver's outbox.
    pub(super) fn deliver(&self, turn: &mut Turn) {
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
            receiver.written_by(self.handle.key);
        }
        let pushed = receiver.outbox.push_frames(&mut batch.frames);
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

    fn send_to_many(
        &mut self,
        message: &str,
        ids: &[Cow<'_, str>],
        options: &SendOptions<'_>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Arc<Handle>>, ActionError> {
        if self.lookups.is_some() && !self.look_up(ids, cx) {
            return Ok(self.broker.lookup_gate());
        }
        let result = self.send_to_all(message, ids, options, cx, turn);
        if !matches!(result, Ok(Some(_))) {
            self.lookups = None;
        }
        result
    }

    fn send_to_all(
        &mut self,
        message: &str,
        ids: &[Cow<'_, str>],
        options: &SendOptions<'_>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Arc<Handle>>, ActionError> {
        ids.iter().try_for_each(|id| self.check_access(id))?;
        self.deliver(turn);
        let (mut names, mut receivers) =
            (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
        let mut unknown = Vec::new();
        for (place, id) in ids.iter().enumerate() {
            if let Some((receiver, registration)) = self.broker.registry.find_registration(id) {
                self.note_sender(&receiver);
                names.push(Name { id, registration });
                receivers.push(receiver);
                continue;
            }
            let was_absent = self.was_absent(place);
            match was_absent.map_or_else(|| self.find_remote(id, cx), |error| Err(error.into())) {
                Ok((receiver, registration)) => {
                    names.push(Name { id, registration });
                    receivers.push(receiver);
                }
                Err(Absent::Failed(error)) => unknown.push((place, error)),
                Err(Absent::Queue(receiver)) => return Ok(Some(receiver)),
                Err(Absent::Lookups) => {
                    // Start over: handles found earlier may have ended.
                    self.lookups = None;
                    self.look_up(ids, cx);
                    return Ok(self.broker.lookup_gate());
                }
            }
        }
        let mut results = self.is_told(options).then(DeliveryResults::default);
        let pieces = protocol::message(message, options.ack, self.from());
        let length = pieces.iter().map(|piece| piece.len()).sum();
        let size = framing::frame_size(length, Mask::None);
        let (known, limit) = (receivers.len(), self.broker.options.max_fanout_bytes);
        if size.saturating_mul(known) > limit {
            return Err(ActionError::FanoutTooLarge(known, size, limit));
        }
        let mark = self.broker.options.max_backpressure;
        // `failed` frames of a request queue up in this connection's own outbox.
        let told = match (&results, options.request()) {
            (Some(_), Some(ack)) => {
                let length = protocol::key_length(&self.key(ack)?);
                (FAILED + length).saturating_mul(ids.len())
            }
            _ => 0,
        };
        let limit = limit.min(mark.max(LEAST_TOLD));
        if told > limit {
            return Err(ActionError::FanoutTooLarge(
                ids.len(),
                told / ids.len(),
                limit,
            ));
        }
        if told > 0 && self.is_full(cx) {
            return Ok(Some(self.handle.clone()));
        }
        let is_clustered = self.broker.peers.is_some();
        if is_clustered {
            for (Name { id, .. }, receiver) in names.iter().zip(&receivers) {
                if receiver.remote {
                    self.check_size(&pieces, options, id)?;
                }
            }
        }
        // Before the copies are made, so that the sender waits, not the receivers.
        if size.saturating_mul(known) + told > MOST_SHARE && self.awaits_memory() {
            return Ok(Some(self.handle.clone()));
        }
        let mut takes = Vec::with_capacity(known);
        for (Name { id, .. }, receiver) in names.iter().zip(&receivers) {
            let delays = || receivers.iter().any(|other| other.outbox.is_starved());
            let takes_it = match self.admit(id, receiver, cx, delays) {
                Admission::Backpressure => return Ok(Some(receiver.clone())),
                room => matches!(room, Admission::Accept),
            };
            if !takes_it && let Some(results) = &mut results {
                results.note(id, Some(DeliveryError::Slow));
            }
            takes.push(takes_it);
        }
        if takes.contains(&false) {
            let mut each = takes.iter();
            names.retain(|_| each.next() == Some(&true));
            let mut each = takes.iter();
            receivers.retain(|_| each.next() == Some(&true));
        }
        let request = match options.request() {
            Some(ack) if !receivers.is_empty() => {
                self.await_answer(ack, options.reply, &receivers, &names, turn)?
            }
            _ => None,
        };
        let receipt = self.await_receipt(options, &receivers, &names);
        // Encoded once for all receivers.
        let frame = Bytes::from_owner(memory::ChargedBytes {
            bytes: self.frame(message, options),
            _charge: Charge::new(&self.broker.memory, size),
        });
        for (place, error) in unknown {
            let id = &ids[place];
            self.broker.not_found(id, error);
            if let Some(results) = &mut results {
                results.note(id, Some(error));
            }
        }
        let wants_receipt = options.receipt();
        let is_asked = wants_receipt || options.request().is_some();
        let shares = size >= SHARE_FROM || size >= LEAST_SHARED && size * known > COPIES;
        let mut copied = 0;
        for (Name { id, .. }, receiver) in names.into_iter().zip(&receivers) {
            let is_there = match is_clustered && receiver.remote {
                false => turn.delivered(receiver, receiver.outbox.push_encoded(&frame, shares)),
                true if is_asked => self.push_remote(receiver, &frame, options, receipt, turn),
                true => self.push_encoded_remote(receiver, &frame, turn),
            };
            copied += if shares { PLACE } else { size };
            if copied > COPIES {
                // Flush: frames written to sockets need no more memory.
                turn.flush();
                copied = 0;
            }
            // Successful deliveries matter for receipts only, and for remote receivers they are not known
            // yet.
            if is_there && (!wants_receipt || receiver.remote) {
                continue;
            }
            if !is_there {
                self.broker.unknown(id);
            }
            if let Some(results) = &mut results {
                results.note(id, (!is_there).then_some(DeliveryError::Gone));
            }
        }
        if let Some(request) = request {
            let requests = &self.broker.registry.requests;
            requests.delivered(&request, &mut turn.notifications);
        }
        if let Some(results) = results {
            self.report(ids, options, results, receipt, turn)?;
        }
        Ok(None)
    }

    /// Records this sender for a receiver whose id has just come from a draining broker: earlier messages
    /// to the id must not arrive later.
    fn note_sender(&self, receiver: &Handle) {
        if receiver.has_arrived()
            && let (Some(peers), Some(from)) = (&self.broker.peers, self.from())
        {
            peers.note_sender(receiver, from);
        }
    }

    fn check_access(&self, id: &str) -> Result<(), ActionError> {
        match self.access.may_send(id) {
            true => Ok(()),
            false => Err(ActionError::Forbidden),
        }
    }

    /// Whether the receiver takes a message. On `Backpressure` this connection is woken when there is room.
    /// `delays`: whether other receivers wait meanwhile.
    pub(super) fn admit(
        &self,
        id: &str,
        receiver: &Arc<Handle>,
        cx: &Context<'_>,
        delays: impl FnOnce() -> bool,
    ) -> Admission {
        let (key, waker) = (self.handle.key, cx.waker());
        self.broker.admit(id, receiver, key, waker, delays)
    }

    /// True if this connection also sends to another receiver whose outbox is nearly empty.
    #[cold]
    fn serves_others(&self, receiver: &Handle) -> bool {
        let RecentReceivers {
            other, switches, ..
        } = self.recent;
        let other = (switches >= SWITCHES).then(|| self.broker.handle_of(other));
        other
            .flatten()
            .is_some_and(|other| other.key != receiver.key && other.outbox.is_starved())
    }

    /// True while memory is short: this connection must wait, and is woken when there is enough.
    fn awaits_memory(&self) -> bool {
        self.broker.memory.is_short()
    }

    /// True if this connection's own outbox is full: it is woken when there is room.
    pub(super) fn is_full(&self, cx: &Context<'_>) -> bool {
        let Handle { key, outbox, .. } = &*self.handle;
        if !outbox.is_full() {
            return false;
        }
        self.handle.flush();
        outbox.add_waiter(*key, cx.waker(), false)
    }
}

//! What goes to other brokers, and comes from them, in place of another connection.

use std::{
    slice,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Context,
    time::Instant,
};

use bytes::Bytes;

use super::{Connection, Turn, asking::Wants, routing::Room};
use crate::{
    error::ActionError,
    handle::Handle,
    protocol::{self, Pieces, version_2},
    requests::{Fault, Name, Outcomes, Part},
    server::Shared,
    transport::{
        framing::{self, Mask},
        outbox::{Pushed, SHARE_FROM},
    },
};

/// Bytes of what is said around a message between brokers, at most, beside an ack.
const AROUND: usize = 64;

impl Connection {
    /// Sends a message, of which something is wanted, to one receiver at another broker.
    pub(super) fn send_far(
        &mut self,
        receiver: &Arc<Handle>,
        message: &str,
        id: &str,
        wants: &Wants<'_>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Arc<Handle>>, ActionError> {
        self.deliver_to(receiver, turn);
        if let Room::Held = self.room(id, receiver, cx, || false) {
            return Ok(Some(receiver.clone()));
        }
        let pieces = protocol::message(message, wants.ack, self.from());
        self.check_size(&pieces, wants, id)?;
        let request = self.await_one(receiver, id, wants, turn)?;
        let registration = turn.batch.registration;
        let name = [Name { id, registration }];
        let receipt = self.await_receipt(wants, slice::from_ref(receiver), &name);
        let frame = self.frame(message, wants);
        let is_there = self.push_far(receiver, &frame, wants, receipt, turn);
        if !is_there {
            self.shared.unknown(id);
        }
        if let Some(request) = request {
            let requests = &self.shared.router.requests;
            requests.delivered(&request, &mut turn.outcomes);
        }
        if let (Some(number), Some(cluster)) = (receipt, &self.shared.cluster) {
            let lost = (!is_there).then(|| (id.into(), Some(Fault::Gone)));
            cluster.receipts.local(number, lost.into_iter(), &[]);
        }
        Ok(None)
    }

    /// Pushes a message to another broker: before it that an answer is awaited, and behind it the
    /// question what became of it.
    pub(super) fn push_far(
        &self,
        receiver: &Arc<Handle>,
        frame: &[u8],
        wants: &Wants<'_>,
        receipt: Option<u64>,
        turn: &mut Turn,
    ) -> bool {
        let mut frames = Vec::with_capacity(frame.len() + 128);
        if let Some(ack) = wants.request() {
            framing::append_text(&protocol::asks(ack), &mut frames);
        }
        frames.extend_from_slice(frame);
        if let Some(number) = receipt {
            framing::append_text(&protocol::settle(&number.to_string()), &mut frames);
            receiver.asks();
        }
        receiver.written_by(self.handle.key);
        turn.delivered(receiver, receiver.outbox.push_frames(&mut frames))
    }

    /// Pushes a message to many, encoded before, to one of them at another broker.
    pub(super) fn push_encoded_far(
        &self,
        receiver: &Arc<Handle>,
        frame: &Bytes,
        turn: &mut Turn,
    ) -> bool {
        receiver.written_by(self.handle.key);
        // While it is alone there a copy would have a buffer of its own, for each of many receivers.
        let pushed = match receiver.outbox.waiting() {
            0 => receiver.outbox.push_shared(frame),
            _ => receiver
                .outbox
                .push_encoded(frame, frame.len() >= SHARE_FROM),
        };
        turn.delivered(receiver, pushed)
    }

    /// Errors: the frame, with what is said around it, is larger than what goes between brokers.
    pub(super) fn check_size(
        &self,
        frame: &Pieces<'_>,
        wants: &Wants<'_>,
        id: &str,
    ) -> Result<(), ActionError> {
        let Some(cluster) = &self.shared.cluster else {
            return Ok(());
        };
        let length: usize = frame.iter().map(|piece| piece.len()).sum();
        let asks = wants.request().map_or(0, |ack| AROUND + ack.len());
        let settle = if wants.receipt() { AROUND } else { 0 };
        let size = framing::frame_size(length, Mask::None) + asks + settle;
        let limit = cluster.max_frame(id);
        match size > limit {
            true => Err(ActionError::ClusterPayload(size, limit)),
            false => Ok(()),
        }
    }

    /// Answers, or refuses, what somebody at another broker has asked.
    pub(super) fn answer_far(
        &mut self,
        asker: &Arc<Handle>,
        dest: &str,
        ack: &str,
        outcome: Result<Option<&str>, &str>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let dest = protocol::json_string(dest);
        let frame = protocol::answer_of(&dest, ack, self.answers_from(), outcome);
        let length: usize = frame.iter().map(|piece| piece.len()).sum();
        let size = framing::frame_size(length, Mask::None);
        let limit = (self.shared.cluster.as_ref()).map_or(0, |cluster| cluster.max_frame(""));
        if size > limit {
            let frame = version_2::failed(ack, &dest, Fault::TooLarge.code());
            turn.pushed(asker, asker.outbox.push(&frame));
            return Err(ActionError::ClusterPayload(size, limit));
        }
        if self.shared.has_room_for_answer(asker) {
            asker.written_by(self.handle.key);
            turn.delivered(asker, asker.outbox.push(&frame));
        }
        if asker.outbox.is_full() {
            // What this turn has promised to write may be what fills it.
            asker.flush();
            self.answered = asker.outbox.is_full().then(|| asker.clone());
        }
        Ok(())
    }

    /// True if answers of this connection wait for another broker, and it is not to give more: it is woken
    /// once they have gone out.
    pub(super) fn has_answered_much(&mut self, cx: &Context<'_>) -> bool {
        let Some(asker) = &self.answered else {
            return false;
        };
        let is_held = asker.outbox.hold(self.handle.key, cx.waker(), false);
        if !is_held {
            self.answered = None;
        }
        is_held
    }
}

/// What somebody at another broker has answered, as JSON.
pub(crate) struct Answered<'a> {
    pub(crate) ack: &'a str,
    pub(crate) from: Option<&'a str>,
    /// The message, or why there is none.
    pub(crate) outcome: Result<Option<&'a str>, &'a str>,
}

impl Shared {
    /// Passes an answer from another broker on to the one who asked, who owes a flush then.
    pub(crate) fn pass_answer(
        &self,
        responder: &Handle,
        answered: Answered<'_>,
        outcomes: &mut Outcomes,
    ) -> Option<Arc<Handle>> {
        let Answered { ack, from, outcome } = answered;
        let (key, now) = (protocol::ack_key(ack), Instant::now());
        let requests = &self.router.requests;
        let (asker, pushed) = match outcome {
            Ok(message) => {
                let asker = requests.answer(&key, responder, now, outcomes)?.asker;
                if !self.has_room_for_answer(&asker) {
                    return None;
                }
                let pushed = asker.outbox.push(&protocol::answer(ack, from, message));
                (asker, pushed)
            }
            Err(error) => {
                let Part { asker, ended, .. } = requests.refuse(&key, responder, now, outcomes)?;
                let pushed = self.push_refusal(&asker, ended, ack, from, error)?;
                (asker, pushed)
            }
        };
        if pushed != Pushed::Closed {
            self.metrics.messages_out.fetch_add(1, Relaxed);
        }
        (pushed == Pushed::First).then_some(asker)
    }

    /// What a connection waits for that looks up as many ids as it may: it has room at any time, and the
    /// message is tried again whenever the connection is woken.
    pub(super) fn lookup_gate(&self) -> Option<Arc<Handle>> {
        (self.cluster.as_ref()).and_then(|cluster| cluster.lookup_gate(self))
    }

    /// Notes that a message is for an id that nobody has, or that is perhaps at another broker.
    pub(crate) fn not_found(&self, id: &str, fault: Fault) {
        match (fault, &self.cluster) {
            (Fault::ClusterDown, Some(cluster)) => {
                cluster.counters.unreachable.fetch_add(1, Relaxed);
            }
            _ => self.unknown(id),
        }
    }
}

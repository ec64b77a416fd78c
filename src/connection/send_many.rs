//! Command `send` to many ids: all receivers are found and admitted before the message goes to any of them.

use std::{borrow::Cow, sync::Arc, task::Context};

use bytes::Bytes;

use super::{Connection, Turn, remote::Absent, request::DeliveryResults, send::SendOptions};
use crate::{
    broker::{
        delivery::Admission,
        handle::Handle,
        requests::{DeliveryError, Name},
    },
    error::ActionError,
    memory::{self, Charge, MOST_SHARE},
    protocol::{self, Pieces},
    transport::{
        framing::{self, Mask},
        outbox::{PLACE, SHARE_FROM},
    },
};

/// Minimum size of a frame that is shared by very many receivers, not copied for each.
const LEAST_SHARED: usize = 256;
/// Approximate bytes of a `failed` frame besides its ack.
const FAILED: usize = 64;
/// Bytes of `failed` frames that a request may cause even if `max_backpressure` is smaller.
const LEAST_FAILED: usize = 1 << 20;
/// Bytes copied into outboxes after which these are flushed.
const COPIES: usize = 1 << 20;

/// The receivers of a message to many ids.
struct Receivers<'a> {
    /// Id and registration of each handle, in the order of `handles`.
    names: Vec<Name<'a>>,
    handles: Vec<Arc<Handle>>,
    /// Ids without an owner, by their index in `dest`.
    absent: Vec<(usize, DeliveryError)>,
}

/// Reason why a message is not sent now: room in this outbox, lookups or memory must be waited for.
type Wait = Option<Arc<Handle>>;

impl Connection {
    /// Sends a message to many ids. If it returns a handle, nothing was sent, as in
    /// [`send`](Self::send).
    pub(super) fn send_to_many(
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
        let mut receivers = match self.find_receivers(ids, cx) {
            Ok(receivers) => receivers,
            Err(wait) => return Ok(wait),
        };
        let mut results = self.wants_results(options).then(DeliveryResults::default);
        let pieces = protocol::message(message, options.ack, self.from());
        let length = pieces.iter().map(|piece| piece.len()).sum();
        let size = framing::frame_size(length, Mask::None);
        let known = receivers.handles.len();
        let failed = self.check_fanout(size, known, ids.len(), options)?;
        if failed > 0 && self.is_full(cx) {
            return Ok(Some(self.handle.clone()));
        }
        let is_clustered = self.broker.peers.is_some();
        if is_clustered {
            self.check_remote_size(&pieces, options, &receivers)?;
        }
        // Before the copies are made, so that the sender waits, not the receivers.
        if size.saturating_mul(known) + failed > MOST_SHARE && self.awaits_memory() {
            return Ok(Some(self.handle.clone()));
        }
        self.recent.note_all(&receivers.handles);
        if let Some(full) = self.admit_all(&mut receivers, &mut results, cx) {
            return Ok(Some(full));
        }
        let Receivers {
            names,
            handles,
            absent,
        } = receivers;
        let request = match options.request() {
            Some(ack) if !handles.is_empty() => {
                self.await_answer(ack, options.reply, &handles, &names, turn)?
            }
            Some(_) => {
                let reason = absent
                    .first()
                    .map_or(DeliveryError::Slow, |(_, error)| *error);
                self.count_failed(options, reason);
                None
            }
            None => None,
        };
        let receipt = self.await_receipt(options, &handles, &names);
        // Encoded once for all receivers.
        let frame = Bytes::from_owner(memory::ChargedBytes {
            bytes: self.frame(message, options),
            _charge: Charge::new(&self.broker.memory, size),
        });
        for (place, error) in absent {
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
        for (Name { id, .. }, receiver) in names.into_iter().zip(&handles) {
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

    /// Finds the receivers of a message. Errors: the message must wait.
    fn find_receivers<'a>(
        &mut self,
        ids: &'a [Cow<'_, str>],
        cx: &Context<'_>,
    ) -> Result<Receivers<'a>, Wait> {
        let mut names = Vec::with_capacity(ids.len());
        let mut handles = Vec::with_capacity(ids.len());
        let mut absent = Vec::new();
        for (place, id) in ids.iter().enumerate() {
            if let Some((receiver, registration)) = self.broker.registry.find_registration(id) {
                self.note_sender(&receiver);
                names.push(Name { id, registration });
                handles.push(receiver);
                continue;
            }
            let was_absent = self.was_absent(place);
            match was_absent.map_or_else(|| self.find_remote(id, cx), |error| Err(error.into())) {
                Ok((receiver, registration)) => {
                    names.push(Name { id, registration });
                    handles.push(receiver);
                }
                Err(Absent::Failed(error)) => absent.push((place, error)),
                Err(Absent::Queue(receiver)) => return Err(Some(receiver)),
                Err(Absent::Lookups) => {
                    // Start over: handles found earlier may have ended.
                    self.lookups = None;
                    self.look_up(ids, cx);
                    return Err(self.broker.lookup_gate());
                }
            }
        }
        Ok(Receivers {
            names,
            handles,
            absent,
        })
    }

    /// Checks the bytes that a message takes in the outboxes of its receivers, and its `failed` frames in this
    /// connection's own. Returns the maximum bytes of the latter. `known`: number of receivers found; `count`:
    /// number of ids.
    ///
    /// Errors: `FanoutTooLarge`.
    fn check_fanout(
        &self,
        size: usize,
        known: usize,
        count: usize,
        options: &SendOptions<'_>,
    ) -> Result<usize, ActionError> {
        let limit = self.broker.options.max_fanout_bytes;
        if size.saturating_mul(known) > limit {
            return Err(ActionError::FanoutTooLarge(known, size, limit));
        }
        let failed = match options.request() {
            Some(ack) if self.wants_results(options) => {
                let length = protocol::key_length(&self.key(ack)?);
                (FAILED + length).saturating_mul(count)
            }
            _ => 0,
        };
        let limit = limit.min(self.broker.options.max_backpressure.max(LEAST_FAILED));
        match failed > limit {
            true => Err(ActionError::FanoutTooLarge(count, failed / count, limit)),
            false => Ok(failed),
        }
    }

    /// Errors: `ClusterPayload` if the message is too large for one of the remote receivers.
    fn check_remote_size(
        &self,
        pieces: &Pieces<'_>,
        options: &SendOptions<'_>,
        receivers: &Receivers<'_>,
    ) -> Result<(), ActionError> {
        let mut each = receivers.names.iter().zip(&receivers.handles);
        each.try_for_each(|(Name { id, .. }, receiver)| match receiver.remote {
            true => self.check_size(pieces, options, id),
            false => Ok(()),
        })
    }

    /// Removes the receivers that do not accept the message, and records them in `results`. Returns the first
    /// receiver whose outbox is full, if the message must wait for it.
    fn admit_all<'a>(
        &self,
        receivers: &mut Receivers<'a>,
        results: &mut Option<DeliveryResults<'a>>,
        cx: &Context<'_>,
    ) -> Wait {
        let Receivers { names, handles, .. } = receivers;
        let mut takes = Vec::with_capacity(handles.len());
        for (Name { id, .. }, receiver) in names.iter().zip(&*handles) {
            let delays = || {
                let mut others = handles.iter();
                others.any(|other| other.outbox.is_starved()) || self.serves_others(receiver)
            };
            let takes_it = match self.admit(id, receiver, cx, delays) {
                Admission::Backpressure => return Some(receiver.clone()),
                admission => matches!(admission, Admission::Accept),
            };
            if !takes_it && let Some(results) = results {
                results.note(id, Some(DeliveryError::Slow));
            }
            takes.push(takes_it);
        }
        if takes.contains(&false) {
            let mut each = takes.iter();
            names.retain(|_| each.next() == Some(&true));
            let mut each = takes.iter();
            handles.retain(|_| each.next() == Some(&true));
        }
        None
    }
}

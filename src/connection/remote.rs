//! Command `send` for receivers at other brokers: finds their handles, and sends to them.

use std::{
    slice,
    sync::Arc,
    task::{Context, Waker},
};

use bytes::Bytes;

use super::{Connection, Turn, send::SendOptions};
use crate::{
    broker::{
        Broker,
        delivery::Admission,
        handle::Handle,
        peers::Unreachable,
        requests::{DeliveryError, Name},
    },
    error::ActionError,
    protocol::{self, Pieces},
    transport::{
        framing::{self, Mask},
        outbox::SHARE_FROM,
    },
};

/// Maximum bytes of the frames around a message between brokers, besides the ack.
const AROUND: usize = 64;

/// Reason why a message is not sent to an id that is not registered here.
pub(super) enum Absent {
    Failed(DeliveryError),
    /// The limit of concurrent lookups of this connection is reached: it is woken when it may continue.
    Lookups,
    /// Frames of this connection wait for the broker of this receiver: it is woken once they have gone out.
    Queue(Arc<Handle>),
}

impl From<DeliveryError> for Absent {
    fn from(error: DeliveryError) -> Self {
        Self::Failed(error)
    }
}

impl Connection {
    /// Handle and registration of an id that is not registered here.
    #[inline(never)]
    pub(super) fn find_remote(
        &self,
        id: &str,
        cx: &Context<'_>,
    ) -> Result<(Arc<Handle>, u64), Absent> {
        let (key, waker) = (self.handle.key, cx.waker());
        let remote = self.broker.find_remote(id, key, waker)?;
        match remote.holds(key, waker) {
            true => Err(Absent::Queue(remote)),
            false => {
                let registration = remote.registration();
                Ok((remote, registration))
            }
        }
    }

    /// Sends a request, or a message with a receipt, to one receiver at another broker.
    pub(super) fn send_remote(
        &mut self,
        receiver: &Arc<Handle>,
        message: &str,
        id: &str,
        options: &SendOptions<'_>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Arc<Handle>>, ActionError> {
        self.deliver_to(receiver, turn);
        if let Admission::Backpressure = self.admit(id, receiver, cx, || false) {
            return Ok(Some(receiver.clone()));
        }
        let pieces = protocol::message(message, options.ack, self.from());
        self.check_size(&pieces, options, id)?;
        let request = self.await_one(receiver, id, options, turn)?;
        let registration = turn.batch.registration;
        let name = [Name { id, registration }];
        let receipt = self.await_receipt(options, slice::from_ref(receiver), &name);
        let frame = self.frame(message, options);
        let is_there = self.push_remote(receiver, &frame, options, receipt, turn);
        if !is_there {
            self.broker.unknown(id);
        }
        if let Some(request) = request {
            let requests = &self.broker.registry.requests;
            requests.delivered(&request, &mut turn.notifications);
        }
        if let (Some(number), Some(peers)) = (receipt, &self.broker.peers) {
            let lost = (!is_there).then(|| (id.into(), Some(DeliveryError::Gone)));
            peers.receipts().add_local(number, lost.into_iter(), &[]);
        }
        Ok(None)
    }

    /// Pushes a message to another broker: before it the announcement of a request, behind it the request
    /// for a report.
    pub(super) fn push_remote(
        &self,
        receiver: &Arc<Handle>,
        frame: &[u8],
        options: &SendOptions<'_>,
        receipt: Option<u64>,
        turn: &mut Turn,
    ) -> bool {
        let mut frames = Vec::with_capacity(frame.len() + 128);
        if let Some(ack) = options.request() {
            framing::append_text(&protocol::expect_reply(ack), &mut frames);
        }
        frames.extend_from_slice(frame);
        if let Some(number) = receipt {
            framing::append_text(&protocol::confirm(&number.to_string()), &mut frames);
            receiver.expect_report();
        }
        receiver.set_writer(self.handle.key);
        turn.delivered(receiver, receiver.outbox.push_frames(&mut frames, 1))
    }

    /// Pushes an encoded message to one of many receivers, at another broker.
    pub(super) fn push_encoded_remote(
        &self,
        receiver: &Arc<Handle>,
        frame: &Bytes,
        turn: &mut Turn,
    ) -> bool {
        receiver.set_writer(self.handle.key);
        // A copy in an empty outbox would allocate a buffer for each receiver.
        let pushed = match receiver.outbox.waiting() {
            0 => receiver.outbox.push_shared(frame),
            _ => receiver
                .outbox
                .push_encoded(frame, frame.len() >= SHARE_FROM),
        };
        turn.delivered(receiver, pushed)
    }

    /// Errors: `ClusterPayload` if the frames are larger than a message between brokers may be.
    pub(super) fn check_size(
        &self,
        frame: &Pieces<'_>,
        options: &SendOptions<'_>,
        id: &str,
    ) -> Result<(), ActionError> {
        let Some(peers) = &self.broker.peers else {
            return Ok(());
        };
        let length: usize = frame.iter().map(|piece| piece.len()).sum();
        let asks = options.request().map_or(0, |ack| AROUND + ack.len());
        let settle = if options.receipt() { AROUND } else { 0 };
        let size = framing::frame_size(length, Mask::None) + asks + settle;
        let limit = peers.max_frame(id);
        match size > limit {
            true => Err(ActionError::ClusterPayload(size, limit)),
            false => Ok(()),
        }
    }
}

impl Broker {
    /// Handle of an id that is not registered here. `key` and `waker`: of the sender.
    pub(super) fn find_remote(
        &self,
        id: &str,
        key: u64,
        waker: &Waker,
    ) -> Result<Arc<Handle>, Absent> {
        let unknown = Absent::Failed(DeliveryError::UnknownId);
        let Some(peers) = &self.peers else {
            return Err(unknown);
        };
        if id.len() > self.options.max_id_length {
            return Err(unknown);
        }
        (peers.find_remote(self, id, (key, waker))).map_err(|error| match error {
            Unreachable::Down => Absent::Failed(DeliveryError::ClusterDown),
            Unreachable::Held => Absent::Lookups,
        })
    }

    /// Handle on which a connection waits that has reached its limit of lookups. Its outbox always has
    /// room: the message is tried again whenever the connection is woken.
    pub(super) fn lookup_gate(&self) -> Option<Arc<Handle>> {
        self.peers
            .as_ref()
            .and_then(|peers| peers.lookup_gate(self))
    }
}

//! Requests, reports and receipts of a `send`; the command `cancel`.

use std::{borrow::Cow, collections::HashMap, slice, sync::Arc, time::Instant};

use foldhash::quality::RandomState;

use super::{Connection, Turn, send::SendOptions};
use crate::{
    broker::{
        handle::Handle,
        requests::{DeliveryError, Name, Notification, Opened, Question, Request},
    },
    error::ActionError,
    protocol::{self, ReplyOptions, version_2},
};

/// Result of the delivery to one id; none: it was delivered.
pub(super) type DeliveryResult = Option<DeliveryError>;

/// Result of the delivery for each id. The first result of an id counts.
#[derive(Default)]
pub(super) struct DeliveryResults<'a>(HashMap<&'a str, DeliveryResult, RandomState>);

impl<'a> DeliveryResults<'a> {
    fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn note(&mut self, id: &'a str, result: DeliveryResult) {
        self.0.entry(id).or_insert(result);
    }
}

/// Cancels a request at its receivers, behind its message: its answers are not awaited.
fn cancel_at_once(key: &str, receivers: &[Arc<Handle>], turn: &mut Turn) {
    let mut responders: Vec<_> = receivers
        .iter()
        .filter(|one| one.uses_version_2())
        .collect();
    if responders.is_empty() {
        return;
    }
    responders.sort_unstable_by_key(|one| one.key);
    responders.dedup_by_key(|one| one.key);
    let ack: Arc<str> = key.into();
    let cancelled = responders
        .into_iter()
        .map(|responder| Notification::Cancelled {
            responder: responder.clone(),
            ack: ack.clone(),
        });
    turn.notifications.extend(cancelled);
}

impl Connection {
    /// Key of a request with this ack (rule 7.12).
    #[inline]
    pub(super) fn key<'a>(&self, ack: &'a str) -> Result<Cow<'a, str>, ActionError> {
        let limit = self.broker.options.max_id_length;
        let too_long = |length| ActionError::AckTooLong(length, limit);
        let length = protocol::text_length(ack);
        if length > limit {
            return Err(too_long(length));
        }
        let key = protocol::ack_key(ack);
        match protocol::key_length(&key) {
            length if length > limit => Err(too_long(length)),
            _ => Ok(key),
        }
    }

    /// Opens a request. With a request,
    /// [`Requests::delivered`](crate::broker::requests::Requests::delivered) must follow.
    pub(super) fn await_answer(
        &self,
        ack: &str,
        reply: Option<&ReplyOptions<'_>>,
        receivers: &[Arc<Handle>],
        names: &[Name<'_>],
        turn: &mut Turn,
    ) -> Result<Option<Arc<Request>>, ActionError> {
        let key = self.key(ack)?;
        let (requests, now) = (&self.broker.registry.requests, Instant::now());
        // Rule 7.9: a sender without an id gets no answers, but must not use the ack of another request
        // either.
        if self.id.is_none() {
            requests.check(&key, &self.handle, now)?;
            cancel_at_once(&key, receivers, turn);
            return Ok(None);
        }
        let question = Question {
            ack: &key,
            asker: &self.handle,
            receivers,
            names,
            answers: reply.map_or(1, |reply| reply.answers),
            timeout: reply.and_then(|reply| reply.timeout),
        };
        loop {
            match requests.open(&question, now, &mut turn.notifications)? {
                Opened::Pending(request) => return Ok(request),
                Opened::Expired => {
                    // Flush the batch first: it may contain the message of the expired request.
                    if let [receiver] = receivers {
                        self.deliver_to(receiver, turn);
                    }
                    self.broker
                        .notify(&mut turn.notifications, &mut turn.touched);
                }
            }
        }
    }

    /// Opens a request to the receiver of the batch, if the message is one.
    #[inline]
    pub(super) fn await_one(
        &self,
        receiver: &Arc<Handle>,
        id: &str,
        options: &SendOptions<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Arc<Request>>, ActionError> {
        let Some(ack) = options.request() else {
            return Ok(None);
        };
        let registration = turn.batch.registration;
        let name = [Name { id, registration }];
        self.await_answer(ack, options.reply, slice::from_ref(receiver), &name, turn)
    }

    /// Reports the result of a message to one id.
    pub(super) fn report_one(
        &self,
        id: &str,
        options: &SendOptions<'_>,
        result: DeliveryResult,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let mut results = DeliveryResults::default();
        results.note(id, result);
        self.report(&[id.into()], options, results, None, turn)
    }

    /// Opens a receipt if one is wanted and some of the receivers are at other brokers. To be completed by
    /// [`report`](Self::report).
    pub(super) fn await_receipt(
        &self,
        options: &SendOptions<'_>,
        receivers: &[Arc<Handle>],
        names: &[Name<'_>],
    ) -> Option<u64> {
        let peers = self.broker.peers.as_ref()?;
        let reference = options.reference()?;
        let remote = names.iter().zip(receivers).filter(|(_, one)| one.remote);
        let awaited = remote.map(|(name, one)| (name.id.into(), one.key));
        let (asker, memory) = (&self.handle, &self.broker.memory);
        peers.receipts().open(asker, reference, awaited, memory)
    }

    /// Reports the results of a message: sends a receipt if one is wanted, and `failed` for each failed
    /// receiver of a request. `receipt`: number of a receipt that awaits other brokers.
    pub(super) fn report(
        &self,
        ids: &[Cow<'_, str>],
        options: &SendOptions<'_>,
        mut results: DeliveryResults<'_>,
        receipt: Option<u64>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        if results.are_none() && !options.receipt() {
            return Ok(());
        }
        // Rule 7.9: a sender without an id gets no `failed`.
        let ack = options.request().filter(|_| self.id.is_some());
        let key: Option<Arc<str>> = ack.map(|ack| self.key(ack)).transpose()?.map(Into::into);
        if let (Some(number), Some(peers)) = (receipt, &self.broker.peers) {
            let known = results.0.iter().map(|(id, result)| ((*id).into(), *result));
            peers.receipts().add_local(number, known, ids);
        }
        let (mut delivered, mut failed) = (String::new(), String::new());
        for id in ids {
            let Some(result) = results.0.remove(&**id) else {
                continue;
            };
            if options.receipt() {
                let list = match result {
                    None => &mut delivered,
                    Some(_) => &mut failed,
                };
                if !list.is_empty() {
                    list.push(',');
                }
                list.push_str(&protocol::json_string(id));
            }
            let Some(error) = result else { continue };
            if options.receipt() {
                failed.extend([":\"", error.receipt_code(), "\""]);
            }
            // `Gone`: the receiver's part ended, with a notification, when it disconnected.
            if let (Some(ack), true) = (&key, error != DeliveryError::Gone) {
                turn.notifications.push(Notification::Failed {
                    asker: self.handle.clone(),
                    ack: ack.clone(),
                    dest: (&**id).into(),
                    error,
                });
            }
        }
        if let Some(reference) = options.reference().filter(|_| receipt.is_none()) {
            let frame = version_2::receipt(reference, &delivered, &failed);
            turn.pushed(&self.handle, self.handle.outbox.push(&frame));
        }
        Ok(())
    }

    /// Command `cancel`: ends a pending request of this connection.
    pub(super) fn cancel(&mut self, ack: Option<&str>, turn: &mut Turn) -> Result<(), ActionError> {
        if !self.handle.uses_version_2() {
            return Err(ActionError::UnknownAction("cancel".to_owned()));
        }
        let ack = ack.filter(|ack| protocol::is_truthy(ack));
        let Ok(key) = self.key(ack.ok_or(ActionError::NoCancelAck)?) else {
            return Ok(());
        };
        let requests = &self.broker.registry.requests;
        requests.cancel(&key, &self.handle, &mut turn.notifications);
        Ok(())
    }
}

//! Frames from other brokers for an id: delivers messages to its owner, opens and cancels requests.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use super::{Cluster, direct::on_frames_for_broker, handover::TrackedPacket, notify};
use crate::{
    broker::{
        Broker,
        handle::Handle,
        requests::{DeliveryError, Name, Notifications, Opened, Question},
        topics::{
            Topics,
            groups::{Dispatched, Job, JobRequest},
        },
    },
    protocol::{self, Frames, PeerFrame, version_2},
    transport::{framing, outbox::Pushed},
};

/// How the messages of a packet are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposition {
    /// Deliver to the owner of the id, if it has one.
    Deliver,
    /// Reject: the owner is slow.
    RejectSlow,
    /// Reject without answering probes: this broker has lost the id.
    NotOwner,
}

/// A packet for an id while it is handled.
pub(super) struct InboundPacket<'a> {
    broker: &'a Broker,
    cluster: &'a Arc<Cluster>,
    id: &'a str,
    /// The handle of the requesters at the sending node. None if that is this node: replies are collected and
    /// handled at the end.
    asker: Option<&'a Arc<Handle>>,
    /// The number of the sender's link.
    pub(super) link: u64,
    /// Tracking of the order; none if no message can be older than one delivered before.
    pub(super) tracked: Option<TrackedPacket<'a>>,
    own_replies: Vec<u8>,
    owner: Option<(Arc<Handle>, u64)>,
    /// True if this broker can answer probes for the id.
    is_claimed: bool,
    /// The error for all messages of the packet, if they are not delivered.
    packet_error: Option<DeliveryError>,
    /// The error of the last message, if only that one failed.
    message_error: Option<DeliveryError>,
    /// Probes of requests that are unknown here: their acks and numbers.
    unknown_probes: Vec<(String, u64)>,
    has_request: bool,
    /// Messages to push to the outbox in one batch.
    batch: Vec<u8>,
    count: u64,
    notifications: Notifications,
}

impl<'a> InboundPacket<'a> {
    pub(super) fn new(
        cluster: &'a Arc<Cluster>,
        broker: &'a Broker,
        id: &'a str,
        asker: Option<&'a Arc<Handle>>,
        disposition: Disposition,
    ) -> Self {
        let owner = match disposition {
            Disposition::NotOwner => None,
            _ => broker.registry.find_registration(id),
        };
        // An owner closed as slow may have left its id already.
        let packet_error = match (disposition, &owner) {
            (Disposition::RejectSlow, _) => Some(DeliveryError::Slow),
            (_, None) => Some(DeliveryError::UnknownId),
            (_, Some(_)) => None,
        };
        Self {
            broker,
            cluster,
            id,
            asker,
            link: 0,
            tracked: None,
            owner,
            is_claimed: disposition != Disposition::NotOwner,
            own_replies: Vec::new(),
            packet_error,
            message_error: None,
            unknown_probes: Vec::new(),
            has_request: false,
            batch: Vec::new(),
            count: 0,
            notifications: Vec::new(),
        }
    }

    pub(super) fn on_frames(&mut self, frames: &[u8]) {
        // The ack of the next message, if it is a request.
        let mut expected_ack = None;
        let mut expected_group = None;
        for (text, frame) in Frames(frames) {
            if protocol::is_message(text) {
                self.message_error = None;
                let (ack, group) = (expected_ack.take(), expected_group.take());
                let may_be_late = self.tracked.is_some() || self.asker.is_none();
                if may_be_late && self.is_late(text, frame, ack) {
                    continue;
                }
                match (ack, self.asker) {
                    (Some(ack), Some(asker)) => match group {
                        None => self.request(ack, asker, frame),
                        Some(group) => self.group_request(ack, asker, group, frame),
                    },
                    (Some(ack), None) => {
                        let error = self.packet_error.unwrap_or(DeliveryError::Gone);
                        self.failed(ack, error.code());
                    }
                    (None, _) => self.collect(frame, frames.len()),
                }
                continue;
            }
            match protocol::decode_peer_frame(text) {
                Some(PeerFrame::ExpectReply { ack, group }) => {
                    (expected_ack, expected_group) = (Some(ack), group);
                }
                Some(PeerFrame::Cancel { ack }) => {
                    self.deliver();
                    if let Some(asker) = self.asker {
                        let requests = &self.broker.registry.requests;
                        let key = protocol::ack_key(ack);
                        let owner = self.owner.as_ref().map(|(owner, _)| &**owner);
                        requests.cancel_part(&key, asker, owner, self.id, &mut self.notifications);
                        for group in owner.map(Topics::groups_of).unwrap_or_default() {
                            group.cancel(&key, asker);
                        }
                        self.notify();
                    }
                }
                Some(PeerFrame::Probe { ack, number })
                    if self.is_claimed && !self.may_answer(ack) =>
                {
                    self.unknown_probes.push((ack.to_owned(), number));
                }
                Some(PeerFrame::Confirm { number }) => {
                    self.deliver();
                    let (number, dest) = (number.to_string(), protocol::json_string(self.id));
                    let code = self
                        .message_error
                        .or(self.packet_error)
                        .map(DeliveryError::receipt_code);
                    self.reply(&protocol::confirmed(&number, &dest, code));
                }
                _ => {}
            }
        }
    }

    /// Adds a message to the batch. `room`: upper bound of the batch in bytes.
    fn collect(&mut self, frame: &[u8], room: usize) {
        if self.batch.is_empty() {
            self.batch.reserve_exact(room);
        }
        self.batch.extend_from_slice(frame);
        self.count += 1;
    }

    /// Checks the order of a message during a handover. True if the message is done: rejected because it is
    /// older than one of its sender that was delivered, or delivered here.
    #[cold]
    fn is_late(&mut self, text: &[u8], frame: &[u8], ack: Option<&str>) -> bool {
        let sender = std::str::from_utf8(text).ok().and_then(protocol::sender_of);
        let tracked = self.tracked.as_mut();
        let mut is_late = tracked.is_some_and(|tracked| tracked.is_late(sender));
        if self.asker.is_none() && self.packet_error.is_none() {
            if !is_late && self.deliver_own(sender, frame, ack) {
                return true;
            }
            is_late = true;
        }
        if is_late {
            self.message_error = Some(DeliveryError::Gone);
            match ack {
                Some(ack) => self.failed(ack, DeliveryError::Gone.code()),
                None => self.broker.unknown(self.id),
            }
        }
        is_late
    }

    /// Delivers a message that a client of this broker sent before the id came here; the owner then owes the
    /// answer, in place of the link. False if a newer message was sent, or the answer is no longer awaited.
    fn deliver_own(&mut self, sender: Option<&str>, frame: &[u8], ack: Option<&str>) -> bool {
        self.deliver();
        let (Some((owner, registration)), Some(sender)) = (&self.owner, sender) else {
            return false;
        };
        let (requests, handover) = (&self.broker.registry.requests, &self.cluster.handover);
        let mut frame = frame.to_vec();
        let is_delivered = handover.deliver_unless_overtaken(owner, sender, || {
            let request = match ack {
                None => None,
                Some(ack) => {
                    let (key, registration) = (protocol::ack_key(ack), *registration);
                    let name = Name {
                        id: self.id,
                        registration,
                    };
                    let notifications = &mut self.notifications;
                    match requests.transfer(&key, self.link, owner, name, notifications) {
                        Some(request) => request,
                        None => return false,
                    }
                }
            };
            let is_there = owner.outbox.push_frames(&mut frame, 1) != Pushed::Closed;
            if let Some(request) = request {
                requests.delivered(&request, &mut self.notifications);
            }
            is_there
        });
        if is_delivered {
            self.broker.metrics.turns.messages_out.fetch_add(1, Relaxed);
        }
        self.notify();
        is_delivered
    }

    /// Delivers a request.
    fn request(&mut self, ack: &str, asker: &Arc<Handle>, frame: &[u8]) {
        self.deliver();
        let key = protocol::ack_key(ack);
        let Some((owner, registration)) =
            self.owner.clone().filter(|_| self.packet_error.is_none())
        else {
            let error = self.packet_error.unwrap_or(DeliveryError::UnknownId);
            return self.failed(ack, error.code());
        };
        let requests = &self.broker.registry.requests;
        let name = [Name {
            id: self.id,
            registration,
        }];
        let question = Question {
            ack: &key,
            asker,
            receivers: std::slice::from_ref(&owner),
            names: &name,
            // Every receiver here may answer: the requester's broker counts answers, and cancels when it has
            // enough.
            answers: u32::MAX,
            timeout: None,
        };
        let request = loop {
            match requests.open(&question, Instant::now(), &mut self.notifications) {
                Ok(Opened::Pending(request)) => break request,
                Ok(Opened::Expired) => self.notify(),
                Err(error) => {
                    self.message_error = Some(DeliveryError::of_code(error.code()));
                    return self.failed(ack, error.code());
                }
            }
        };
        self.has_request = true;
        if asker.outbox.state().closed {
            // The requesters' node was removed meanwhile, and will not cancel.
            requests.cancel(&key, asker, &mut self.notifications);
        }
        self.batch.extend_from_slice(frame);
        self.count += 1;
        self.deliver();
        if let Some(request) = request {
            requests.delivered(&request, &mut self.notifications);
        }
        self.notify();
    }

    /// Gives a request to a member of a group. The owner of the id was one when it was offered.
    fn group_request(
        &mut self,
        ack: &str,
        asker: &Arc<Handle>,
        (pattern, name): (Cow<'_, str>, Cow<'_, str>),
        frame: &[u8],
    ) {
        self.deliver();
        let Some((owner, _)) = self.owner.clone().filter(|_| self.packet_error.is_none()) else {
            let error = self.packet_error.unwrap_or(DeliveryError::UnknownId);
            return self.failed(ack, error.code());
        };
        let own = Topics::group_of(&owner, &pattern, &name);
        let Some(group) = own.or_else(|| self.broker.topics.group(&pattern, &name)) else {
            return self.failed(ack, DeliveryError::Gone.code());
        };
        let job = Job {
            frame: self.broker.charged_bytes(frame.to_vec()),
            request: Some(JobRequest {
                asker: asker.clone(),
                ack: (&*protocol::ack_key(ack)).into(),
                dest: protocol::json_string(self.id).into(),
                asked_as: Some(self.id.into()),
                // As for other requests: the requester's broker counts answers, and knows the timeout.
                answers: u32::MAX,
                deadline: None,
                is_cancelled: Arc::default(),
            }),
            hops: 0,
        };
        group.on_offer_taken();
        self.has_request = true;
        self.cluster.counters.received.fetch_add(1, Relaxed);
        let mut touched = Vec::new();
        match self.broker.dispatch(&group, job, &mut touched) {
            Dispatched::Sent | Dispatched::Queued => {}
            Dispatched::Full => self.failed(ack, DeliveryError::Busy.code()),
            Dispatched::Empty => self.failed(ack, DeliveryError::Gone.code()),
        }
        touched.iter().for_each(|handle| handle.flush());
        if asker.outbox.state().closed {
            // The requesters' node was removed meanwhile, and will not cancel.
            group.cancel(&protocol::ack_key(ack), asker);
        }
    }

    /// True if the owner of the id may still answer this request.
    fn may_answer(&self, ack: &str) -> bool {
        let (Some(asker), Some((owner, _))) = (self.asker, &self.owner) else {
            return false;
        };
        let (key, requests) = (protocol::ack_key(ack), &self.broker.registry.requests);
        let groups = || Topics::groups_of(owner);
        // Another member may have the request, or none yet.
        requests.may_answer(&key, asker, owner, self.id)
            || groups().iter().any(|group| group.has_waiting(&key, asker))
            || !groups().is_empty() && requests.is_asked_as(&key, asker, self.id)
    }

    /// The owner, if the packet had a request for it.
    pub(super) fn requested_owner(&self) -> Option<&Arc<Handle>> {
        let (owner, _) = self.owner.as_ref()?;
        self.has_request.then_some(owner)
    }

    fn failed(&mut self, ack: &str, code: &str) {
        let dest = protocol::json_string(self.id);
        self.reply(&version_2::failed(ack, &dest, code));
    }

    /// Sends a frame to the broker that the packet came from.
    fn reply(&mut self, frame: &[&str]) {
        match self.asker {
            Some(asker) => {
                // `finish` flushes it.
                let _ = asker.outbox.push(frame);
            }
            None => framing::append_text(frame, &mut self.own_replies),
        }
    }

    /// Pushes the batch to the outbox of the owner.
    fn deliver(&mut self) {
        let count = std::mem::take(&mut self.count);
        if count == 0 {
            return;
        }
        self.cluster.counters.received.fetch_add(count, Relaxed);
        if let (Some((owner, _)), None) = (&self.owner, self.packet_error) {
            match owner.outbox.push_frames(&mut self.batch, count as u32) {
                Pushed::Closed => self.packet_error = Some(DeliveryError::Gone),
                _ => {
                    self.broker
                        .metrics
                        .turns
                        .messages_out
                        .fetch_add(count, Relaxed);
                    return;
                }
            }
        }
        self.batch.clear();
        // Messages dropped for slow receivers are counted elsewhere.
        if self.packet_error != Some(DeliveryError::Slow) {
            (0..count).for_each(|_| self.broker.unknown(self.id));
        }
    }

    fn notify(&mut self) {
        if !self.notifications.is_empty() {
            notify(self.broker, &mut self.notifications);
        }
    }

    pub(super) fn finish(mut self) {
        self.deliver();
        self.notify();
        if let Some((owner, _)) = &self.owner {
            owner.flush();
        }
        self.answer_probes();
        match self.asker {
            Some(asker) if asker.outbox.waiting() > 0 => asker.flush(),
            Some(_) => {}
            None => on_frames_for_broker(self.cluster, self.broker, &self.own_replies),
        }
    }

    /// Answers probes of unknown requests after a delay.
    fn answer_probes(&mut self) {
        let unknown = std::mem::take(&mut self.unknown_probes);
        if unknown.is_empty() {
            return;
        }
        let (asker, id) = (self.asker.cloned(), self.id.to_owned());
        let cluster = self.cluster.clone();
        self.cluster.runtime.spawn(async move {
            cluster.answer_probes(&id, asker.as_ref(), &unknown).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::alone, *};
    use crate::{options::ServerOptions, server::Server};
    use tokio::runtime::Handle as Runtime;

    #[tokio::test(start_paused = true)]
    async fn messages_rejected_as_slow_fail_as_slow_even_if_the_owner_has_left() {
        let runtime = Runtime::current();
        let cluster = alone(&runtime);
        let options = ServerOptions::default();
        let server = Server::unreachable_beside(cluster.clone(), options, &runtime);
        for (disposition, error) in [
            (Disposition::RejectSlow, DeliveryError::Slow),
            (Disposition::Deliver, DeliveryError::UnknownId),
            (Disposition::NotOwner, DeliveryError::UnknownId),
        ] {
            let packet = InboundPacket::new(&cluster, server.broker(), "a", None, disposition);
            assert_eq!(packet.packet_error, Some(error), "{disposition:?}");
        }
    }
}

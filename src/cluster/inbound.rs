//! What is in packets from other brokers: frames for an id of ours, and frames for this broker itself.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{Cluster, handover::Followed, notify, packet::Frames};
use crate::{
    broker::{
        Broker,
        answers::Answer,
        handle::Handle,
        requests::{DeliveryError, Name, Notifications, Opened, Question},
    },
    protocol::{self, PeerFrame, version_2},
    transport::{framing, outbox::Pushed},
};

/// That something is not owed is told this much later: an answer that was just taken comes before it.
const BEHIND: Duration = Duration::from_millis(100);

/// Who takes what is in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taking {
    /// The owner of the id, if there is one.
    All,
    /// The owner takes nothing: it does not read.
    Nothing,
    /// The id is not ours, or others listen for it: what becomes of it is none of our business.
    Nobody,
}

/// One packet for an id.
pub(super) struct InboundPacket<'a> {
    broker: &'a Broker,
    cluster: &'a Arc<Cluster>,
    id: &'a str,
    /// Stands for all who ask from where it comes; none if that is here: what is said to it is kept, and
    /// heard at the end.
    asker: Option<&'a Arc<Handle>>,
    /// The number of the link by which it comes.
    pub(super) link: u64,
    /// None if no message in it can come behind a newer one.
    pub(super) followed: Option<Followed<'a>>,
    said: Vec<u8>,
    owner: Option<(Arc<Handle>, u64)>,
    /// Whether we know what the owner of the id owes.
    knows: bool,
    /// Why nothing is delivered, if it is not.
    fault: Option<DeliveryError>,
    /// Why the last message was not, if that was for another reason.
    refused: Option<DeliveryError>,
    /// Acks to which answers are awaited here in vain, and their numbers.
    lost: Vec<(String, u64)>,
    is_asked: bool,
    /// Frames that nobody need look at, to be pushed together.
    plain: Vec<u8>,
    count: u64,
    outcomes: Notifications,
}

impl<'a> InboundPacket<'a> {
    pub(super) fn new(
        cluster: &'a Arc<Cluster>,
        broker: &'a Broker,
        id: &'a str,
        asker: Option<&'a Arc<Handle>>,
        taking: Taking,
    ) -> Self {
        let owner = match taking {
            Taking::Nobody => None,
            _ => broker.registry.find_registration(id),
        };
        let fault = match &owner {
            None => Some(DeliveryError::UnknownId),
            Some(_) if taking == Taking::Nothing => Some(DeliveryError::Slow),
            Some(_) => None,
        };
        Self {
            broker,
            cluster,
            id,
            asker,
            link: 0,
            followed: None,
            owner,
            knows: taking != Taking::Nobody,
            said: Vec::new(),
            fault,
            refused: None,
            lost: Vec::new(),
            is_asked: false,
            plain: Vec::new(),
            count: 0,
            outcomes: Vec::new(),
        }
    }

    pub(super) fn frames(&mut self, frames: &[u8]) {
        // To which of them an answer is awaited.
        let mut asked = None;
        for (text, frame) in Frames(frames) {
            if protocol::is_message(text) {
                self.refused = None;
                let ack = asked.take();
                let may_be_late = self.followed.is_some() || self.asker.is_none();
                if may_be_late && self.is_late(text, frame, ack) {
                    continue;
                }
                match (ack, self.asker) {
                    (Some(ack), Some(asker)) => self.request(ack, asker, frame),
                    (Some(ack), None) => {
                        let fault = self.fault.unwrap_or(DeliveryError::Gone);
                        self.failed(ack, fault.code());
                    }
                    (None, _) => self.collect(frame, frames.len()),
                }
                continue;
            }
            match decode(text) {
                Some(PeerFrame::Asks { ack }) => asked = Some(ack),
                Some(PeerFrame::Cancel { ack }) => {
                    self.deliver();
                    if let Some(asker) = self.asker {
                        let requests = &self.broker.registry.requests;
                        let key = protocol::ack_key(ack);
                        let owner = self.owner.as_ref().map(|(owner, _)| &**owner);
                        requests.cancel_part(&key, asker, owner, self.id, &mut self.outcomes);
                        self.notify();
                    }
                }
                Some(PeerFrame::Awaits { ack, number }) if self.knows && !self.is_owed(ack) => {
                    self.lost.push((ack.to_owned(), number));
                }
                Some(PeerFrame::Settle { number }) => {
                    self.deliver();
                    let (number, dest) = (number.to_string(), protocol::json_string(self.id));
                    let code = self.refused.or(self.fault).map(DeliveryError::receipt_code);
                    self.say(&protocol::settled(&number, &dest, code));
                }
                _ => {}
            }
        }
    }

    /// A message like most: pushed together with those beside it. `room`: bytes of them all, at most.
    fn collect(&mut self, frame: &[u8], room: usize) {
        if self.plain.is_empty() {
            self.plain.reserve_exact(room);
        }
        self.plain.extend_from_slice(frame);
        self.count += 1;
    }

    /// A message during a handover: true if it must not be delivered, as it comes behind a newer one of its sender,
    /// or has been.
    #[cold]
    fn is_late(&mut self, text: &[u8], frame: &[u8], ack: Option<&str>) -> bool {
        let sender = std::str::from_utf8(text).ok().and_then(protocol::sender_of);
        let followed = self.followed.as_mut();
        let mut is_late = followed.is_some_and(|followed| followed.is_late(sender));
        if self.asker.is_none() && self.fault.is_none() {
            if !is_late && self.deliver_own(sender, frame, ack) {
                return true;
            }
            is_late = true;
        }
        if is_late {
            self.refused = Some(DeliveryError::Gone);
            match ack {
                Some(ack) => self.failed(ack, DeliveryError::Gone.code()),
                None => self.broker.unknown(self.id),
            }
        }
        is_late
    }

    /// Delivers a message of a client of this broker, sent before the id came here; its owner then owes the answer,
    /// in place of the link. False if it has been overtaken, or nothing awaits the answer.
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
                    let outcomes = &mut self.outcomes;
                    match requests.transfer(&key, self.link, owner, name, outcomes) {
                        Some(request) => request,
                        None => return false,
                    }
                }
            };
            let is_there = owner.outbox.push_frames(&mut frame) != Pushed::Closed;
            if let Some(request) = request {
                requests.delivered(&request, &mut self.outcomes);
            }
            is_there
        });
        if is_delivered {
            self.broker.metrics.messages_out.fetch_add(1, Relaxed);
        }
        self.notify();
        is_delivered
    }

    /// A message that awaits an answer.
    fn request(&mut self, ack: &str, asker: &Arc<Handle>, frame: &[u8]) {
        self.deliver();
        let key = protocol::ack_key(ack);
        let Some((owner, registration)) = self.owner.clone().filter(|_| self.fault.is_none())
        else {
            let fault = self.fault.unwrap_or(DeliveryError::UnknownId);
            return self.failed(ack, fault.code());
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
            // All who were asked here may answer: whoever asked says when there are enough.
            answers: u32::MAX,
            timeout: None,
        };
        let request = loop {
            match requests.open(&question, Instant::now(), &mut self.outcomes) {
                Ok(Opened::Asked(request)) => break request,
                Ok(Opened::Over) => self.notify(),
                Err(error) => {
                    self.refused = Some(DeliveryError::of_code(error.code()));
                    return self.failed(ack, error.code());
                }
            }
        };
        self.is_asked = true;
        if asker.outbox.state().closed {
            // Its broker was given up meanwhile: nobody would ever withdraw this.
            requests.cancel(&key, asker, &mut self.outcomes);
        }
        self.plain.extend_from_slice(frame);
        self.count += 1;
        self.deliver();
        if let Some(request) = request {
            requests.delivered(&request, &mut self.outcomes);
        }
        self.notify();
    }

    /// True if whoever has the id may still answer this.
    fn is_owed(&self, ack: &str) -> bool {
        let (Some(asker), Some((owner, _))) = (self.asker, &self.owner) else {
            return false;
        };
        let key = protocol::ack_key(ack);
        (self.broker.registry.requests).is_owed(&key, asker, owner, self.id)
    }

    /// Who was asked something, if anybody was.
    pub(super) fn asked(&self) -> Option<&Arc<Handle>> {
        let (owner, _) = self.owner.as_ref()?;
        self.is_asked.then_some(owner)
    }

    fn failed(&mut self, ack: &str, code: &str) {
        let dest = protocol::json_string(self.id);
        self.say(&version_2::failed(ack, &dest, code));
    }

    /// Says something to the broker from which it came.
    fn say(&mut self, frame: &[&str]) {
        match self.asker {
            Some(asker) => drop(asker.outbox.push(frame)),
            None => framing::append_text(frame, &mut self.said),
        }
    }

    /// Delivers what was collected.
    fn deliver(&mut self) {
        let count = std::mem::take(&mut self.count);
        if count == 0 {
            return;
        }
        self.cluster.counters.received.fetch_add(count, Relaxed);
        if let (Some((owner, _)), None) = (&self.owner, self.fault) {
            match owner.outbox.push_frames(&mut self.plain) {
                Pushed::Closed => self.fault = Some(DeliveryError::Gone),
                _ => {
                    self.broker.metrics.messages_out.fetch_add(count, Relaxed);
                    return;
                }
            }
        }
        self.plain.clear();
        // Who is slow is told of elsewhere.
        if self.fault != Some(DeliveryError::Slow) {
            (0..count).for_each(|_| self.broker.unknown(self.id));
        }
    }

    fn notify(&mut self) {
        if !self.outcomes.is_empty() {
            notify(self.broker, &mut self.outcomes);
        }
    }

    pub(super) fn end(mut self) {
        self.deliver();
        self.notify();
        if let Some((owner, _)) = &self.owner {
            owner.flush();
        }
        self.report_lost();
        match self.asker {
            Some(asker) if asker.outbox.waiting() > 0 => asker.flush(),
            Some(_) => {}
            None => on_frames_for_broker(self.cluster, self.broker, &self.said),
        }
    }
}

impl InboundPacket<'_> {
    /// Tells what is awaited in vain, a little later.
    fn report_lost(&mut self) {
        let lost = std::mem::take(&mut self.lost);
        if lost.is_empty() {
            return;
        }
        let (asker, id) = (self.asker.cloned(), self.id.to_owned());
        let cluster = self.cluster.clone();
        self.cluster.runtime.spawn(async move {
            sleep(BEHIND).await;
            cluster.report_lost(&id, asker.as_ref(), &lost);
        });
    }
}

impl Cluster {
    /// Tells who asked that whoever has this id owes nothing to these. Only who has it knows.
    fn report_lost(&self, id: &str, asker: Option<&Arc<Handle>>, lost: &[(String, u64)]) {
        let (Some(broker), Some(_)) = (self.broker(), self.claims.owner(id)) else {
            return;
        };
        let mut outcomes = Vec::new();
        for (ack, number) in lost {
            match asker {
                Some(asker) => {
                    asker.outbox.push(&protocol::lost(&number.to_string()));
                    // Who had the id before may be at it still.
                    let (key, requests) = (protocol::ack_key(ack), &broker.registry.requests);
                    requests.cancel_part(&key, asker, None, id, &mut outcomes);
                }
                None => self.lost(&broker, *number, &mut outcomes),
            }
        }
        notify(&broker, &mut outcomes);
        if let Some(asker) = asker {
            asker.flush();
        }
    }
}

fn decode(text: &[u8]) -> Option<PeerFrame<'_>> {
    protocol::decode_between(std::str::from_utf8(text).ok()?)
}

/// Takes what another broker tells this one: answers, and what became of messages.
pub(super) fn on_frames_for_broker(cluster: &Cluster, broker: &Broker, frames: &[u8]) {
    let mut outcomes = Vec::new();
    let mut touched = Vec::new();
    let requests = &broker.registry.requests;
    for (text, _) in Frames(frames) {
        match decode(text) {
            Some(PeerFrame::Answer {
                dest,
                ack,
                from,
                message,
                error,
            }) => {
                let Some(responder) = cluster.remotes.find(&dest) else {
                    continue;
                };
                let answered = Answer {
                    ack,
                    from,
                    outcome: error.map_or(Ok(message), Err),
                };
                let passed = broker.pass_answer(&responder, &answered, &mut outcomes);
                touched.extend(passed);
            }
            Some(PeerFrame::Failed { dest, ack, code }) => {
                if let Some(responder) = cluster.remotes.find(&dest) {
                    let key = protocol::ack_key(ack);
                    let fault = DeliveryError::of_code(&code);
                    requests.fail(&key, &responder, fault, &mut outcomes);
                }
            }
            Some(PeerFrame::Lost { number }) => cluster.lost(broker, number, &mut outcomes),
            Some(PeerFrame::Settled { number, dest, code }) => {
                let fault = code.map(|code| DeliveryError::of_code(&code));
                cluster.receipts.settle(number, &dest, fault);
            }
            _ => {}
        }
    }
    broker.notify(&mut outcomes, &mut touched);
    touched.iter().for_each(|handle| handle.flush());
}

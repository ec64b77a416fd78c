//! What comes from other brokers: frames for an id of ours, and frames for this broker itself.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::poll_fn,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Cluster,
    bus::{Delivery, Inlet, Place, Publication},
    link::{TELL_BYTES, TELL_PACKETS},
    packet::{self, Frames, Packet, Taken},
    tell,
};
use crate::{
    connection::{Answered, Room},
    framing,
    handle::Handle,
    outbox::Pushed,
    protocol::{self, Between, version_2},
    requests::{Fault, Name, Opened, Outcomes, Question},
    server::Shared,
};

/// What is known of a way by which nothing came for so long is forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// How much came by each way, and was not told yet.
#[derive(Default)]
pub(super) struct Tally {
    ways: HashMap<Place, (Taken, Instant)>,
    looked: Option<Instant>,
}

impl Tally {
    /// Something has come by a way. Who sends by one that is new learns at once who takes it.
    pub(super) async fn meet(&mut self, cluster: &Cluster, from: Place) {
        if let Entry::Vacant(entry) = self.ways.entry(from) {
            let nothing = nothing(cluster);
            entry.insert((nothing, Instant::now()));
            tell_taken(cluster, from, nothing).await;
        }
    }

    /// Notes that a packet was taken, and tells that where it is time.
    pub(super) async fn took(&mut self, cluster: &Cluster, from: Place, bytes: usize) {
        let now = Instant::now();
        let nothing = nothing(cluster);
        let (taken, last) = self.ways.entry(from).or_insert((nothing, now));
        taken.bytes += bytes as u32;
        taken.packets += 1;
        *last = now;
        if taken.bytes >= TELL_BYTES || taken.packets >= TELL_PACKETS {
            let told = Taken {
                epoch: nothing.epoch,
                ..std::mem::replace(taken, nothing)
            };
            tell_taken(cluster, from, told).await;
        }
        if now - *self.looked.get_or_insert(now) > FORGET {
            self.looked = Some(now);
            let is_old = |_: &Place, (_, last): &mut (Taken, Instant)| now - *last > FORGET;
            let old: Vec<_> = self.ways.extract_if(is_old).collect();
            for (from, (taken, _)) in old {
                tell_taken(cluster, from, taken).await;
            }
        }
    }

    /// Tells what was not told yet: who listens next does not know of it.
    async fn end(self, cluster: &Cluster) {
        for (from, (taken, _)) in self.ways {
            tell_taken(cluster, from, taken).await;
        }
    }
}

fn nothing(cluster: &Cluster) -> Taken {
    Taken {
        node: cluster.node.0,
        epoch: cluster.epoch(),
        bytes: 0,
        packets: 0,
    }
}

async fn tell_taken(cluster: &Cluster, from: Place, taken: Taken) {
    let publication = Publication {
        subject: cluster.subjects.place(from),
        reply: None,
        payload: taken.encode().into(),
    };
    cluster.bus.publish(publication).await;
}

/// Takes what is for an id, until it is told to stop, or the cluster ends.
pub(super) async fn receive(
    cluster: &Arc<Cluster>,
    id: &Arc<str>,
    mut inlet: Box<dyn Inlet>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut tally = Tally::default();
    let Some(key) = cluster.shared().map(|shared| shared.next_key()) else {
        return;
    };
    // The id is not ours any more; and NATS knows.
    let (mut is_stopped, mut drains) = (false, false);
    loop {
        if is_stopped && !drains {
            drains = true;
            inlet.drain().await;
        }
        let delivery = tokio::select! {
            biased;
            _ = &mut stopped, if !is_stopped => None,
            delivery = inlet.next() => match delivery {
                Some(delivery) => Some(delivery),
                None => return tally.end(cluster).await,
            },
        };
        let Some(delivery) = delivery else {
            is_stopped = true;
            continue;
        };
        if let (Some(from), true) = (delivery.from, packet::has_frames(&delivery.payload)) {
            tally.meet(cluster, from).await;
        }
        // Who does not read holds up nobody once the id is another's: NATS must hear of that.
        let mut takes = true;
        if !is_stopped {
            tokio::select! {
                room = room(cluster, id, key) => takes = !matches!(room, Room::None),
                _ = &mut stopped => is_stopped = true,
            }
        }
        if is_stopped && !drains {
            drains = true;
            inlet.drain().await;
        }
        take(cluster, id, delivery, takes, &mut tally).await;
    }
}

/// `takes`: the owner of the id takes something, if there is one.
async fn take(
    cluster: &Cluster,
    id: &Arc<str>,
    delivery: Delivery,
    takes: bool,
    tally: &mut Tally,
) {
    let Some(from) = delivery.from else { return };
    match Packet::decode(&delivery.payload) {
        Some(Packet::Frames {
            id: for_id,
            epoch,
            frames,
        }) if *for_id == **id && cluster.meet(from.node, epoch) => {
            if let Some(shared) = cluster.shared() {
                let asker = cluster.asker(&shared, from.node);
                let mut inbound = Inbound::new(cluster, &shared, id, asker.as_ref(), takes);
                inbound.frames(frames);
                inbound.end();
            }
            tally.took(cluster, from, frames.len()).await;
        }
        Some(Packet::Question {
            id: for_id,
            principal,
        }) if *for_id == **id => {
            let has_it = cluster.claims.principal(id);
            let may = has_it.is_none_or(|owner| owner.as_deref() == principal);
            let publication = Publication {
                subject: cluster.subjects.place(from),
                reply: None,
                payload: if may { "yes" } else { "no" }.into(),
            };
            cluster.bus.publish(publication).await;
        }
        // Of another version; or for an id whose hash is the same.
        _ => {}
    }
}

/// Waits until the owner of an id takes something, as who sends to it here would.
async fn room(cluster: &Cluster, id: &str, key: u64) -> Room {
    poll_fn(|cx| {
        let Some(shared) = cluster.shared() else {
            return Poll::Ready(Room::Gone);
        };
        let Some(owner) = shared.router.find(id) else {
            return Poll::Ready(Room::Gone);
        };
        match shared.room(id, &owner, key, cx.waker()) {
            Room::Held => Poll::Pending,
            room => Poll::Ready(room),
        }
    })
    .await
}

/// One packet for an id.
struct Inbound<'a> {
    shared: &'a Shared,
    cluster: &'a Cluster,
    id: &'a str,
    /// Stands for all who ask from where it comes; none if that is here: what is said to it is kept, and
    /// heard at the end.
    asker: Option<&'a Arc<Handle>>,
    said: Vec<u8>,
    owner: Option<(Arc<Handle>, u64)>,
    /// Why nothing is delivered, if it is not.
    fault: Option<Fault>,
    /// Frames that nobody need look at, to be pushed together.
    plain: Vec<u8>,
    count: u64,
    outcomes: Outcomes,
}

impl<'a> Inbound<'a> {
    fn new(
        cluster: &'a Cluster,
        shared: &'a Shared,
        id: &'a str,
        asker: Option<&'a Arc<Handle>>,
        takes: bool,
    ) -> Self {
        let owner = shared.router.find_registration(id);
        let fault = match &owner {
            None => Some(Fault::UnknownId),
            Some(_) if !takes => Some(Fault::Slow),
            Some(_) => None,
        };
        Self {
            shared,
            cluster,
            id,
            asker,
            owner,
            said: Vec::new(),
            fault,
            plain: Vec::new(),
            count: 0,
            outcomes: Vec::new(),
        }
    }

    fn frames(&mut self, frames: &[u8]) {
        // To which of them an answer is awaited.
        let mut asked = None;
        for (text, frame) in Frames(frames) {
            if protocol::is_message(text) {
                match asked.take() {
                    Some(ack) => self.request(ack, frame),
                    None => self.collect(frame, frames.len()),
                }
                continue;
            }
            match decode(text) {
                Some(Between::Asks { ack }) => asked = Some(ack),
                Some(Between::Cancel { ack }) => {
                    self.deliver();
                    if let Some(asker) = self.asker {
                        let requests = &self.shared.router.requests;
                        let key = protocol::ack_key(ack);
                        requests.cancel_part(&key, asker, self.id, &mut self.outcomes);
                        self.tell();
                    }
                }
                Some(Between::Awaits { ack }) => {
                    self.deliver();
                    let key = protocol::ack_key(ack);
                    let requests = &self.shared.router.requests;
                    let is_owed = |asker| requests.is_owed(&key, asker, self.id);
                    if !self.asker.is_some_and(is_owed) {
                        self.failed(ack, Fault::Gone.code());
                    }
                }
                Some(Between::Settle { number }) => {
                    self.deliver();
                    let (number, dest) = (number.to_string(), protocol::json_string(self.id));
                    let code = self.fault.map(Fault::receipt_code);
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

    /// A message that awaits an answer.
    fn request(&mut self, ack: &str, frame: &[u8]) {
        self.deliver();
        let key = protocol::ack_key(ack);
        let Some(asker) = self.asker else {
            // The id has just come here, and cannot answer for the handle by which it was asked.
            return self.failed(ack, Fault::Gone.code());
        };
        let Some((owner, registration)) = self.owner.clone().filter(|_| self.fault.is_none())
        else {
            let fault = self.fault.unwrap_or(Fault::UnknownId);
            return self.failed(ack, fault.code());
        };
        let requests = &self.shared.router.requests;
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
                Ok(Opened::Over) => self.tell(),
                Err(error) => return self.failed(ack, error.code()),
            }
        };
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
        self.tell();
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
                Pushed::Closed => self.fault = Some(Fault::Gone),
                _ => {
                    self.shared.metrics.messages_out.fetch_add(count, Relaxed);
                    return;
                }
            }
        }
        self.plain.clear();
        // Who is slow is told of elsewhere.
        if self.fault != Some(Fault::Slow) {
            (0..count).for_each(|_| self.shared.unknown(self.id));
        }
    }

    fn tell(&mut self) {
        if !self.outcomes.is_empty() {
            tell(self.shared, &mut self.outcomes);
        }
    }

    fn end(mut self) {
        self.deliver();
        self.tell();
        if let Some((owner, _)) = &self.owner {
            owner.flush();
        }
        match self.asker {
            Some(asker) if asker.outbox.waiting() > 0 => asker.flush(),
            Some(_) => {}
            None => told(self.cluster, self.shared, &self.said),
        }
    }
}

fn decode(text: &[u8]) -> Option<Between<'_>> {
    protocol::decode_between(std::str::from_utf8(text).ok()?)
}

/// Takes what another broker tells this one: answers, and what became of messages.
pub(super) fn told(cluster: &Cluster, shared: &Shared, frames: &[u8]) {
    let mut outcomes = Vec::new();
    let mut touched = Vec::new();
    let requests = &shared.router.requests;
    for (text, _) in Frames(frames) {
        match decode(text) {
            Some(Between::Answer {
                dest,
                ack,
                from,
                message,
                error,
            }) => {
                let Some(responder) = cluster.remotes.find(&dest) else {
                    continue;
                };
                let answered = Answered {
                    ack,
                    from,
                    outcome: error.map_or(Ok(message), Err),
                };
                let passed = shared.pass_answer(&responder, answered, &mut outcomes);
                touched.extend(passed);
            }
            Some(Between::Failed { dest, ack, code }) => {
                if let Some(responder) = cluster.remotes.find(&dest) {
                    let key = protocol::ack_key(ack);
                    let fault = Fault::of_code(&code);
                    requests.fail(&key, &responder, fault, &mut outcomes);
                }
            }
            Some(Between::Settled { number, dest, code }) => {
                let fault = code.map(|code| Fault::of_code(&code));
                cluster.receipts.settle(number, &dest, fault);
            }
            _ => {}
        }
    }
    shared.tell(&mut outcomes, &mut touched);
    touched.iter().for_each(|handle| handle.flush());
}

//! Takes what other brokers send to an id, as long as that is ours.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::oneshot, time::sleep};

use super::{
    Cluster,
    bus::{Delivery, Inlet, Publication},
    credit::Counted,
    handover::Newest,
    inbound::{InboundPacket, Taking},
    notify,
    packet::{self, Packet},
};
use crate::{
    broker::{delivery::Admission, handle::Handle},
    memory::{Charge, Memory},
};

/// Once nobody listens for an id any more, all who asked it have given it up after this.
const ABANDONED: Duration = Duration::from_secs(6);
/// Bytes of memory that the client of NATS takes for an id: a block of a channel, and a second one once so
/// many packets have come that the first was full.
const BLOCK: usize = 6 << 10;
const PLACES: u32 = 32;
/// Packets that wait for one id here; more wait in the client of NATS.
const MOST: usize = 16 << 10;
/// Bytes of memory that a packet takes here beside its own.
const PLACE: usize = 256;
/// How often it is looked whether an id that is claimed has an owner.
const BETWEEN: Duration = Duration::from_millis(2);

/// Takes what is for an id, until it is told to stop, or the cluster ends.
///
/// Packets wait here while the owner of the id has no room for them: their sender is told that they have
/// arrived, and others need not wait behind them.
pub(super) async fn receive(
    cluster: &Arc<Cluster>,
    id: &Arc<str>,
    mut inlet: Box<dyn Inlet>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut newest = Newest::default();
    let mut asked = Weak::new();
    let Some(broker) = cluster.broker() else {
        return;
    };
    let key = broker.next_key();
    let mut backlog = Backlog::new(cluster, &broker.memory);
    drop(broker);
    // The id is not ours any more; and NATS was told.
    let (mut is_stopped, mut ends) = (false, false);
    loop {
        if is_stopped && !ends {
            if cluster.handover.has_moved(id) {
                cluster.hand_over(id, &mut backlog, &mut inlet).await;
                break;
            }
            ends = true;
            inlet.end().await;
        }
        if backlog.is_empty() {
            let delivery = tokio::select! {
                biased;
                _ = &mut stopped, if !is_stopped => None,
                delivery = inlet.next() => match delivery {
                    Some(delivery) => Some(delivery),
                    None => break,
                },
            };
            let Some(delivery) = delivery else {
                is_stopped = true;
                continue;
            };
            if !backlog.receive(id, delivery) {
                continue;
            }
        }
        // Who listens now may have taken what came later: once stopped, nobody gets this any more.
        let mut taking = Taking::Nobody;
        if !is_stopped {
            let room = tokio::select! {
                biased;
                // Who does not read holds up nobody once the id is another's: NATS must hear of that.
                _ = &mut stopped => None,
                room = room(cluster, id, key, &mut backlog, &mut inlet) => Some(room),
            };
            taking = match room {
                None => {
                    is_stopped = true;
                    continue;
                }
                Some(Admission::Drop) => Taking::Nothing,
                Some(_) => Taking::All,
            };
        }
        if let Some(delivery) = backlog.next() {
            take(cluster, id, delivery, taking, &mut newest, &mut asked);
        }
    }
    drop((inlet, backlog));
    if asked.strong_count() > 0 {
        sleep(ABANDONED).await;
        abandon(cluster, id, &asked);
    }
}

/// Whoever had an id and is still there answers in vain what it was asked by that from elsewhere.
fn abandon(cluster: &Cluster, id: &str, former: &Weak<Handle>) {
    let is_ours_again = cluster.claims.owner(id).is_some();
    if let (Some(broker), Some(former), false) = (cluster.broker(), former.upgrade(), is_ours_again)
    {
        let mut outcomes = Vec::new();
        broker
            .registry
            .requests
            .fail_remote_askers(&former, id, &mut outcomes);
        notify(&broker, &mut outcomes);
    }
}

/// `asked`: who was asked something last.
fn take(
    cluster: &Arc<Cluster>,
    id: &Arc<str>,
    delivery: Delivery,
    taking: Taking,
    newest: &mut Newest,
    asked: &mut Weak<Handle>,
) {
    let Some(from) = delivery.from else { return };
    let Some(Packet::Frames {
        id: for_id,
        epoch,
        frames,
    }) = Packet::decode(&delivery.payload)
    else {
        // Of another version.
        return;
    };
    // The hash of another id may be the same.
    if *for_id != **id || !cluster.observe_node(from.node, epoch) {
        return;
    }
    if let Some(broker) = cluster.broker() {
        let asker = cluster.asker(&broker, from.node);
        let mut inbound = InboundPacket::new(cluster, &broker, id, asker.as_ref(), taking);
        inbound.link = from.number;
        inbound.followed = newest.follow(&cluster.handover, &delivery);
        inbound.frames(frames);
        if let Some(owner) = inbound.asked() {
            *asked = Arc::downgrade(owner);
        }
        inbound.end();
    }
}

/// Answers whether somebody with a principal may have an id.
fn answer_question(cluster: &Cluster, id: &str, delivery: &Delivery) {
    let (
        Some(from),
        Some(Packet::Question {
            id: for_id,
            principal,
        }),
    ) = (delivery.from, Packet::decode(&delivery.payload))
    else {
        return;
    };
    // Another one may have the same hash.
    if for_id != id {
        return;
    }
    let owner = cluster.claims.owner(id);
    let may = owner.is_none_or(|owner| owner.is_peer(principal));
    let publication = Publication {
        subject: cluster.subjects.place(from),
        reply: None,
        payload: if may { "yes" } else { "no" }.into(),
    };
    if let Err(publication) = cluster.bus.try_publish(publication) {
        cluster.runtime.spawn(cluster.bus.publish(publication));
    }
}

/// Waits until the owner of an id has room, as who sends to it here would, or until an id that is claimed has
/// an owner. Packets that come meanwhile wait in the backlog.
async fn room(
    cluster: &Cluster,
    id: &str,
    key: u64,
    backlog: &mut Backlog<'_>,
    inlet: &mut Box<dyn Inlet>,
) -> Admission {
    loop {
        let room = owner_room(cluster, id, key, backlog, inlet).await;
        if !matches!(room, Admission::Closed) || cluster.broker().is_none() {
            return room;
        }
        // It is about to be registered, or parked; or it is another broker's, and that is about to be heard
        // here.
        backlog.receive_until(sleep(BETWEEN), id, inlet).await;
    }
}

/// Waits until the present owner of an id has room. `Gone` if there is none.
async fn owner_room(
    cluster: &Cluster,
    id: &str,
    key: u64,
    backlog: &mut Backlog<'_>,
    inlet: &mut Box<dyn Inlet>,
) -> Admission {
    let mut held = Held { by: None, key };
    let mut look = |cx: &mut Context<'_>| {
        let Some(broker) = cluster.broker() else {
            return Poll::Ready(Admission::Closed);
        };
        let Some(owner) = broker.registry.find(id) else {
            return Poll::Ready(Admission::Closed);
        };
        match broker.admit(id, &owner, key, cx.waker(), || false) {
            Admission::Backpressure => {
                held.by = Some(owner);
                Poll::Pending
            }
            room => Poll::Ready(room),
        }
    };
    if let Poll::Ready(room) = poll_fn(|cx| Poll::Ready(look(cx))).await {
        return room;
    }
    backlog.receive_until(poll_fn(look), id, inlet).await
}

/// Somebody is waited for, until this is dropped: nobody counts as slow for whom nobody waits.
struct Held {
    by: Option<Arc<Handle>>,
    key: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(by) = &self.by {
            by.outbox.remove_waiter(self.key);
        }
    }
}

/// Packets for an id that its owner has not taken, oldest first.
pub(super) struct Backlog<'a> {
    cluster: &'a Cluster,
    packets: VecDeque<Waiting>,
    charge: Charge,
    /// How many have come, up to the second block.
    came: u32,
}

struct Waiting {
    delivery: Delivery,
    /// What flow control counts of it.
    counted: Option<Counted>,
    /// Its arrival was counted, and it is charged.
    is_kept: bool,
}

impl Waiting {
    fn memory(&self) -> usize {
        PLACE + self.delivery.payload.len()
    }
}

impl<'a> Backlog<'a> {
    fn new(cluster: &'a Cluster, memory: &Arc<Memory>) -> Self {
        Self {
            cluster,
            packets: VecDeque::new(),
            charge: Charge::new(memory, BLOCK),
            came: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    fn has_room(&self) -> bool {
        self.packets.len() < MOST
    }

    /// Adds a packet; false if it was a question, which waits for nobody: it is answered.
    fn receive(&mut self, id: &str, delivery: Delivery) -> bool {
        let is_question = packet::is_question(&delivery.payload);
        match is_question {
            true => answer_question(self.cluster, id, &delivery),
            false => self.add(id, delivery),
        }
        !is_question
    }

    pub(super) fn add(&mut self, id: &str, delivery: Delivery) {
        if self.came < PLACES {
            self.came += 1;
            if self.came == PLACES {
                self.charge.set(self.charge.bytes() + BLOCK);
            }
        }
        let bytes = packet::frames_in(&delivery.payload, id);
        let counted = delivery.from.zip(bytes).map(|(from, bytes)| Counted {
            from,
            packet: delivery.sent,
            bytes,
            is_eager: packet::is_eager(&delivery.payload),
        });
        if self.packets.capacity() == 0 {
            // Mostly there is no other one.
            self.packets.reserve_exact(1);
        }
        self.packets.push_back(Waiting {
            delivery,
            counted,
            is_kept: false,
        });
    }

    /// Receives packets until this is done. The newest one that is here will wait for long, too.
    async fn receive_until<T>(
        &mut self,
        done: impl Future<Output = T>,
        id: &str,
        inlet: &mut Box<dyn Inlet>,
    ) -> T {
        let mut done = pin!(done);
        self.keep();
        loop {
            tokio::select! {
                biased;
                result = &mut done => return result,
                Some(delivery) = inlet.next(), if self.has_room() => {
                    if self.receive(id, delivery) {
                        self.keep();
                    }
                }
            }
        }
    }

    /// The newest packet will wait for long.
    fn keep(&mut self) {
        let Some(waiting) = self.packets.back_mut().filter(|waiting| !waiting.is_kept) else {
            return;
        };
        waiting.is_kept = true;
        // It is a part of all that was read from NATS with it.
        let payload = &mut waiting.delivery.payload;
        *payload = Bytes::copy_from_slice(payload);
        self.charge.set(self.charge.bytes() + waiting.memory());
        if let Some(counted) = waiting.counted {
            self.cluster.credits.arrived(counted);
        }
    }

    /// The oldest packet, which is taken, or given up.
    fn next(&mut self) -> Option<Delivery> {
        let waiting = self.pop()?;
        if let Some(counted) = waiting.counted {
            match waiting.is_kept {
                true => self.cluster.credits.consumed(counted),
                false => self.cluster.credits.passed(counted),
            }
        }
        Some(waiting.delivery)
    }

    /// The oldest packet, which goes to the broker that has the id now: that one returns all credit for it.
    pub(super) fn hand_over(&mut self) -> Option<Delivery> {
        let waiting = self.pop()?;
        if let (Some(counted), true) = (waiting.counted, waiting.is_kept) {
            self.cluster.credits.withdraw(counted.from);
        }
        Some(waiting.delivery)
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.packets.pop_front()?;
        if waiting.is_kept {
            self.charge.set(self.charge.bytes() - waiting.memory());
        }
        if self.packets.is_empty() && self.packets.capacity() > 1 {
            self.packets = VecDeque::new();
        }
        Some(waiting)
    }
}

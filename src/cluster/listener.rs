//! The subscription of an id of this broker: receives packets of other brokers, and queues them in a backlog
//! while the owner of the id is slow.

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
    bus::{Delivery, ID_QUEUE, Publication, Subscription},
    credit::Counted,
    handover::Newest,
    inbound::{Disposition, InboundPacket},
    message::{self, Message},
    notify,
};
use crate::{
    broker::{delivery::Admission, handle::Handle},
    memory::{Charge, Memory},
};

/// Time after the end of a subscription by which remote requesters have given up their open requests: the next
/// probe has no responder.
const ABANDON_DELAY: Duration = Duration::from_secs(6);
/// Memory in bytes that the NATS client library takes for a subscription: one block of a channel, and a second
/// one once so many packets have filled the first.
const CHANNEL_BLOCK: usize = 6 << 10;
const BLOCK_PACKETS: u32 = 32;
/// Limit of packets in the backlog of one id; further ones are queued in the NATS client library.
const MAX_BACKLOG: usize = 16 << 10;
/// Memory in bytes of a packet in the backlog, besides its payload.
const PACKET_OVERHEAD: usize = 256;
/// Interval at which a claimed id is checked for a registered owner.
const OWNER_POLL: Duration = Duration::from_millis(2);

impl Cluster {
    /// Subscribes to an id until `stopped` resolves. Resolves once the client library has the subscription. The
    /// task runs on if the caller stops waiting.
    pub(super) async fn spawn_listener(
        self: &Arc<Self>,
        id: Arc<str>,
        stopped: oneshot::Receiver<()>,
    ) {
        let (subscribed, is_subscribed) = oneshot::channel();
        let cluster = self.clone();
        self.runtime.spawn(async move {
            let (subject, queue) = (cluster.subjects.id(&id), Some(ID_QUEUE.to_owned()));
            let subscription = cluster.bus.subscribe(subject, queue).await;
            // The caller may have stopped waiting.
            let _ = subscribed.send(());
            if let Ok(subscription) = subscription {
                let mut ended = cluster.ended.subscribe();
                tokio::select! {
                    () = receive(&cluster, &id, subscription, stopped) => {}
                    _ = ended.wait_for(|ended| *ended) => {}
                }
            }
        });
        let _ = is_subscribed.await;
    }
}

/// Receives the packets of an id until `stopped` resolves or the cluster ends.
///
/// Packets go to the backlog while the owner's queue is full. They count as arrived, so that other packets from
/// their senders' brokers need not wait.
async fn receive(
    cluster: &Arc<Cluster>,
    id: &Arc<str>,
    mut subscription: Box<dyn Subscription>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut newest = Newest::default();
    let mut requested = Weak::new();
    let Some(broker) = cluster.broker() else {
        return;
    };
    let key = broker.next_key();
    let mut backlog = Backlog::new(cluster, &broker.memory);
    drop(broker);
    // `is_stopped`: the id was lost, or given up.
    let (mut is_stopped, mut is_unsubscribed) = (false, false);
    loop {
        if is_stopped && !is_unsubscribed {
            if cluster.handover.has_moved(id) {
                cluster.hand_over(id, &mut backlog, &mut subscription).await;
                break;
            }
            is_unsubscribed = true;
            subscription.unsubscribe().await;
        }
        if backlog.is_empty() {
            let delivery = tokio::select! {
                biased;
                _ = &mut stopped, if !is_stopped => None,
                delivery = subscription.next() => match delivery {
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
        // After the id was lost its new owner may have received later packets: rejects the rest, to keep the
        // order.
        let mut disposition = Disposition::NotOwner;
        if !is_stopped {
            let admission = tokio::select! {
                biased;
                // A slow owner must not delay the end of the subscription once another broker has the id.
                _ = &mut stopped => None,
                admission = wait_for_owner(cluster, id, key, &mut backlog, &mut subscription) => {
                    Some(admission)
                }
            };
            disposition = match admission {
                None => {
                    is_stopped = true;
                    continue;
                }
                Some(Admission::Drop) => Disposition::RejectSlow,
                Some(_) => Disposition::Deliver,
            };
        }
        if let Some(delivery) = backlog.next() {
            deliver(
                cluster,
                id,
                delivery,
                disposition,
                &mut newest,
                &mut requested,
            );
        }
    }
    drop((subscription, backlog));
    if requested.strong_count() > 0 {
        sleep(ABANDON_DELAY).await;
        fail_remote_askers(cluster, id, &requested);
    }
}

/// Cancels the remote requests of a former owner that is still connected: it can no longer answer them.
fn fail_remote_askers(cluster: &Cluster, id: &str, former: &Weak<Handle>) {
    let is_ours_again = cluster.claims.owner(id).is_some();
    if let (Some(broker), Some(former), false) = (cluster.broker(), former.upgrade(), is_ours_again)
    {
        let mut notifications = Vec::new();
        broker
            .registry
            .requests
            .fail_remote_askers(&former, id, &mut notifications);
        notify(&broker, &mut notifications);
    }
}

/// Delivers a packet. `requested`: the owner of the last request.
fn deliver(
    cluster: &Arc<Cluster>,
    id: &Arc<str>,
    delivery: Delivery,
    disposition: Disposition,
    newest: &mut Newest,
    requested: &mut Weak<Handle>,
) {
    let Some(from) = delivery.from else { return };
    let Some(Message::Packet {
        epoch,
        id: for_id,
        frames,
        ..
    }) = cluster.decode(&delivery.payload)
    else {
        return;
    };
    // Two ids may have the same hash.
    if for_id != &**id || !cluster.observe_node(from.node, epoch) {
        return;
    }
    if let Some(broker) = cluster.broker() {
        let asker = cluster.asker(&broker, from.node);
        let mut inbound = InboundPacket::new(cluster, &broker, id, asker.as_ref(), disposition);
        inbound.link = from.number;
        inbound.tracked = newest.track(&cluster.handover, &delivery);
        inbound.on_frames(frames.0);
        if let Some(owner) = inbound.requested_owner() {
            *requested = Arc::downgrade(owner);
        }
        inbound.finish();
    }
}

/// Answers the question whether a principal may have an id.
fn answer_question(cluster: &Cluster, id: &str, delivery: &Delivery) {
    let (
        Some(from),
        Some(Message::OwnerQuestion {
            id: for_id,
            principal,
        }),
    ) = (delivery.from, cluster.decode(&delivery.payload))
    else {
        return;
    };
    // Two ids may have the same hash.
    if for_id != id {
        return;
    }
    let owner = cluster.claims.owner(id);
    let answer = Message::OwnerAnswer {
        is_allowed: owner.is_none_or(|owner| owner.is_peer(principal)),
    };
    let publication = Publication {
        subject: cluster.subjects.reply(from),
        reply: None,
        payload: answer.encode().into(),
    };
    if let Err(publication) = cluster.bus.try_publish(publication) {
        cluster.runtime.spawn(cluster.bus.publish(publication));
    }
}

/// Waits until the owner of an id has room, with backpressure and limits like for local senders, or until an id
/// without registered owner gets one. Packets that come meanwhile go to the backlog.
async fn wait_for_owner(
    cluster: &Cluster,
    id: &str,
    key: u64,
    backlog: &mut Backlog<'_>,
    subscription: &mut Box<dyn Subscription>,
) -> Admission {
    loop {
        let admission = wait_for_room(cluster, id, key, backlog, subscription).await;
        if !matches!(admission, Admission::Closed) || cluster.broker().is_none() {
            return admission;
        }
        // The id is about to be registered or is parked; or another broker has claimed it, and `stopped`
        // resolves soon.
        backlog
            .receive_until(sleep(OWNER_POLL), id, subscription)
            .await;
    }
}

/// Waits until the registered owner of an id has room. `Closed` if there is none.
async fn wait_for_room(
    cluster: &Cluster,
    id: &str,
    key: u64,
    backlog: &mut Backlog<'_>,
    subscription: &mut Box<dyn Subscription>,
) -> Admission {
    let mut waiter = Waiter { owner: None, key };
    let mut poll = |cx: &mut Context<'_>| {
        let Some(broker) = cluster.broker() else {
            return Poll::Ready(Admission::Closed);
        };
        let Some(owner) = broker.registry.find(id) else {
            return Poll::Ready(Admission::Closed);
        };
        match broker.admit(id, &owner, key, cx.waker(), || false) {
            Admission::Backpressure => {
                waiter.owner = Some(owner);
                Poll::Pending
            }
            admission => Poll::Ready(admission),
        }
    };
    if let Poll::Ready(admission) = poll_fn(|cx| Poll::Ready(poll(cx))).await {
        return admission;
    }
    backlog.receive_until(poll_fn(poll), id, subscription).await
}

/// A waiter at the outbox of an owner, removed on drop: an owner without waiters does not count as slow.
struct Waiter {
    owner: Option<Arc<Handle>>,
    key: u64,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(owner) = &self.owner {
            owner.outbox.remove_waiter(self.key);
        }
    }
}

/// Queue of packets for an id that its owner has not consumed, oldest first.
pub(super) struct Backlog<'a> {
    cluster: &'a Cluster,
    packets: VecDeque<QueuedPacket>,
    charge: Charge,
    /// Number of packets received, up to the second block.
    received: u32,
}

struct QueuedPacket {
    delivery: Delivery,
    /// The packet as counted by flow control; none if it is not one of frames.
    counted: Option<Counted>,
    /// Its arrival and its memory have been counted.
    is_retained: bool,
}

impl QueuedPacket {
    fn memory(&self) -> usize {
        PACKET_OVERHEAD + self.delivery.payload.len()
    }
}

impl<'a> Backlog<'a> {
    fn new(cluster: &'a Cluster, memory: &Arc<Memory>) -> Self {
        Self {
            cluster,
            packets: VecDeque::new(),
            charge: Charge::new(memory, CHANNEL_BLOCK),
            received: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    fn has_room(&self) -> bool {
        self.packets.len() < MAX_BACKLOG
    }

    /// Adds a packet, or answers it if it is a question; false for a question.
    fn receive(&mut self, id: &str, delivery: Delivery) -> bool {
        let is_question = message::is_owner_question(&delivery.payload);
        match is_question {
            true => answer_question(self.cluster, id, &delivery),
            false => self.add(id, delivery),
        }
        !is_question
    }

    pub(super) fn add(&mut self, id: &str, delivery: Delivery) {
        if self.received < BLOCK_PACKETS {
            self.received += 1;
            if self.received == BLOCK_PACKETS {
                self.charge.set(self.charge.bytes() + CHANNEL_BLOCK);
            }
        }
        let bytes = message::frames_in(&delivery.payload, id);
        let counted = delivery.from.zip(bytes).map(|(from, bytes)| Counted {
            from,
            packet: delivery.sent,
            bytes,
            is_eager: message::is_eager(&delivery.payload),
        });
        if self.packets.capacity() == 0 {
            // Mostly it stays the only one.
            self.packets.reserve_exact(1);
        }
        self.packets.push_back(QueuedPacket {
            delivery,
            counted,
            is_retained: false,
        });
    }

    /// Receives packets until `done` resolves. Those in the backlog may wait for long.
    async fn receive_until<T>(
        &mut self,
        done: impl Future<Output = T>,
        id: &str,
        subscription: &mut Box<dyn Subscription>,
    ) -> T {
        let mut done = pin!(done);
        self.retain_newest();
        loop {
            tokio::select! {
                biased;
                result = &mut done => return result,
                Some(delivery) = subscription.next(), if self.has_room() => {
                    if self.receive(id, delivery) {
                        self.retain_newest();
                    }
                }
            }
        }
    }

    /// Prepares the newest packet for a long wait: copies it, and counts its memory and arrival.
    fn retain_newest(&mut self) {
        let Some(waiting) = self
            .packets
            .back_mut()
            .filter(|waiting| !waiting.is_retained)
        else {
            return;
        };
        waiting.is_retained = true;
        // The payload is a slice of a larger read buffer, which would stay in memory.
        let payload = &mut waiting.delivery.payload;
        *payload = Bytes::copy_from_slice(payload);
        self.charge.set(self.charge.bytes() + waiting.memory());
        if let Some(counted) = waiting.counted {
            self.cluster.credits.arrived(counted);
        }
    }

    /// Removes the oldest packet and counts it as consumed.
    fn next(&mut self) -> Option<Delivery> {
        let waiting = self.pop()?;
        if let Some(counted) = waiting.counted {
            match waiting.is_retained {
                true => self.cluster.credits.consumed(counted),
                false => self.cluster.credits.passed(counted),
            }
        }
        Some(waiting.delivery)
    }

    /// Removes the oldest packet for forwarding: the broker that now has the id returns all credit for it.
    pub(super) fn hand_over(&mut self) -> Option<Delivery> {
        let waiting = self.pop()?;
        if let (Some(counted), true) = (waiting.counted, waiting.is_retained) {
            self.cluster.credits.withdraw(counted.from);
        }
        Some(waiting.delivery)
    }

    fn pop(&mut self) -> Option<QueuedPacket> {
        let waiting = self.packets.pop_front()?;
        if waiting.is_retained {
            self.charge.set(self.charge.bytes() - waiting.memory());
        }
        if self.packets.is_empty() && self.packets.capacity() > 1 {
            self.packets = VecDeque::new();
        }
        Some(waiting)
    }
}

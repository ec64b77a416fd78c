//! Handover of ids by a broker that drains: messages for a client on its way to another broker are kept for it.
//!
//! When a client that was sent away by the drain gives up its id, its broker keeps the claim for a moment (the
//! id is parked): packets for the id stay in the subscription, and their senders see only a delay. When another
//! broker claims the id, these packets, and those still in flight to the former one, are forwarded: published
//! again with the reply subject of their sender, so that the new owner answers the sender directly.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use foldhash::quality::RandomState;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    task::unconstrained,
    time::{Instant, sleep, timeout},
};

use super::{
    Cluster,
    bus::{Delivery, NodeId, Publication, ReplyAddress, Subscription},
    claims::{Claim, Claims},
    listener::Backlog,
    message::Message,
};
use crate::broker::{
    Broker,
    handle::Handle,
    lease::{Lease, LeaseState},
};

/// Limit of the time that an id is parked. A client behind a working load balancer needs milliseconds.
const PARK_TIME: Duration = Duration::from_secs(2);
/// Interval at which a parked id is checked.
const POLL: Duration = Duration::from_millis(2);
/// Time for packets in flight to a former owner to arrive.
const LINGER: Duration = Duration::from_millis(500);
/// Time after the last heartbeat of a draining broker during which forwarded packets may arrive.
const DRAIN_RECENT: Duration = Duration::from_secs(10);
/// Time during which messages may arrive that were sent to an id before it came to this broker.
const ARRIVAL_TIME: Duration = Duration::from_secs(2);
/// Limit of senders to one id that are tracked separately.
const MAX_SENDERS: usize = 256;
/// Deliveries that may be in flight to a former owner when it unsubscribes: NATS ends the subscription after so
/// many more.
const MAX_IN_FLIGHT: u64 = 8;

/// State of the handover of ids.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// Ids claimed by other brokers since this broker drains. They are kept until it ends.
    moved: Mutex<HashSet<Arc<str>>>,
    /// When another broker last announced that it drains.
    drains: Mutex<Option<Instant>>,
    /// Ids that have just arrived here, by the keys of their owners.
    arrivals: Mutex<HashMap<u64, Arrival>>,
    /// Number of parked ids, and of subscriptions that still forward.
    busy: AtomicUsize,
}

/// Guard that counts a handover in progress: the broker waits for it before it ends.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(busy: &'a AtomicUsize) -> Self {
        busy.fetch_add(1, Relaxed);
        Self(busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Handover {
    /// Marks an id of this broker that the claim may take. Called before the claim is applied, since the
    /// listener checks the mark when it stops.
    pub(super) fn mark_moved(&self, claim: &Claim, own: &Claims) {
        if own.owner(&claim.id).is_some() {
            self.moved.lock().insert(claim.id.clone());
        }
    }

    /// Removes the mark of an id that stays here, or is here again.
    pub(super) fn unmark_moved(&self, id: &str) {
        self.moved.lock().remove(id);
    }

    /// Records that another broker drains.
    pub(super) fn observe_drain(&self) {
        *self.drains.lock() = Some(Instant::now());
    }

    /// True if forwarded packets may arrive.
    pub(super) fn is_expected(&self) -> bool {
        (self.drains.lock()).is_some_and(|drains| drains.elapsed() < DRAIN_RECENT)
    }

    pub(super) fn has_moved(&self, id: &str) -> bool {
        self.moved.lock().contains(id)
    }
}

/// An id that has just arrived from a draining broker. Messages sent to it before by clients of this broker are
/// still coming back; one that is older than a newer message of the same sender must be rejected.
#[derive(Debug)]
struct Arrival {
    until: Instant,
    /// The ids, as JSON, of the clients that have sent to it here since.
    senders: HashSet<Box<str>>,
}

impl Handover {
    /// Starts tracking senders to an owner whose id may have been at a draining broker.
    pub(super) fn expect_arrival(&self, owner: &Handle) {
        if !self.is_expected() {
            return;
        }
        let now = Instant::now();
        let arrival = Arrival {
            until: now + ARRIVAL_TIME,
            senders: HashSet::new(),
        };
        owner.set_arrived(true);
        let mut arrivals = self.arrivals.lock();
        arrivals.retain(|_, arrival| arrival.until > now);
        arrivals.insert(owner.key, arrival);
    }

    /// Records that a client of this broker, by its id as JSON, is about to send to an owner that has just
    /// arrived.
    #[cold]
    pub(super) fn note_sender(&self, owner: &Handle, sender: &str) {
        let mut arrivals = self.arrivals.lock();
        match arrivals.get_mut(&owner.key) {
            Some(arrival)
                if arrival.until > Instant::now() && arrival.senders.len() < MAX_SENDERS =>
            {
                arrival.senders.insert(sender.into());
            }
            _ => {
                arrivals.remove(&owner.key);
                owner.set_arrived(false);
            }
        }
    }

    /// Delivers a message that was sent before the owner arrived, unless the sender has sent a newer one since.
    pub(super) fn deliver_unless_overtaken(
        &self,
        owner: &Handle,
        sender: &str,
        deliver: impl FnOnce() -> bool,
    ) -> bool {
        // Held during the delivery, so that no newer message comes first. Lock order: before requests and
        // outboxes.
        let arrivals = self.arrivals.lock();
        match arrivals.get(&owner.key) {
            Some(arrival) if !arrival.senders.contains(sender) => deliver(),
            _ => false,
        }
    }
}

/// The newest packet delivered to an id from each sender: forwarded ones that are older come too late.
#[derive(Debug, Default)]
pub(super) struct Newest {
    hasher: RandomState,
    /// By node, and hash of the sender's id.
    senders: HashMap<(NodeId, u64), (u64, u64)>,
}

impl Newest {
    /// Tracks the messages of a packet; none while forwarded packets are not expected.
    pub(super) fn track(
        &mut self,
        handover: &Handover,
        delivery: &Delivery,
    ) -> Option<TrackedPacket<'_>> {
        let from = delivery.from.filter(|_| delivery.sent > 0)?;
        if !handover.is_expected() {
            self.senders = HashMap::new();
            return None;
        }
        Some(TrackedPacket {
            newest: self,
            from,
            packet: delivery.sent,
        })
    }
}

/// A packet that may have been forwarded.
#[derive(Debug)]
pub(super) struct TrackedPacket<'a> {
    newest: &'a mut Newest,
    from: ReplyAddress,
    packet: u64,
}

impl TrackedPacket<'_> {
    /// True for a message that is older than the newest one of this sender (its id as JSON).
    pub(super) fn is_late(&mut self, sender: Option<&str>) -> bool {
        let Newest { hasher, senders } = &mut *self.newest;
        // Above the limit, all further senders of a node count as one.
        let sender = match senders.len() < MAX_SENDERS {
            true => hasher.hash_one(sender),
            false => 0,
        };
        // Numbers of links grow, and so do those of the packets of each link.
        let position = (self.from.number, self.packet);
        let newest = senders.entry((self.from.node, sender)).or_insert(position);
        let is_late = position < *newest;
        *newest = position.max(*newest);
        is_late
    }
}

impl Cluster {
    /// True while ids are being handed over.
    pub(crate) fn hands_over(&self) -> bool {
        self.handover.busy.load(Relaxed) > 0
    }

    /// Parks the id of a client that is being sent away, from when the returned sender is dropped: keeps the
    /// claim until the id has another owner, or for a short time. None if NATS is unreachable.
    pub(crate) fn park(self: &Arc<Self>, lease: Lease) -> Option<oneshot::Sender<()>> {
        if !self.is_up() {
            return None;
        }
        let parked = Parked::new(self, lease);
        let (gives_up, given_up) = oneshot::channel::<()>();
        self.runtime.spawn(async move {
            let _ = given_up.await;
            let until = Instant::now() + PARK_TIME;
            while parked.is_needed() && Instant::now() < until {
                sleep(POLL).await;
            }
        });
        Some(gives_up)
    }

    /// Forwards the packets of an id that another broker has claimed, in order, until none is in flight to this
    /// broker any more.
    pub(super) async fn hand_over(
        &self,
        id: &str,
        backlog: &mut Backlog<'_>,
        subscription: &mut Box<dyn Subscription>,
    ) {
        let _busy = Busy::new(&self.handover.busy);
        // Deliveries received already do not count as in flight, and forwarded ones must not come back.
        // `unconstrained`: the loop must not end early when tokio's budget is used up.
        while let Some(Some(delivery)) = unconstrained(subscription.next()).now_or_never() {
            backlog.add(id, delivery);
        }
        subscription.unsubscribe_after(MAX_IN_FLIGHT).await;
        let until = Instant::now() + LINGER;
        while Instant::now() < until {
            if let Some(delivery) = backlog.hand_over() {
                self.forward_once(id, delivery, backlog, subscription).await;
                continue;
            }
            match timeout(POLL, subscription.next()).await {
                Ok(Some(delivery)) if delivery.from.is_some() => backlog.add(id, delivery),
                Ok(Some(_)) => {}
                Ok(None) => break,
                // An immediate unsubscribe could lose deliveries in flight. Fillers use up the remaining count
                // instead.
                Err(_) => self.publish_filler(id).await,
            }
        }
        subscription.unsubscribe().await;
        while let Some(delivery) = backlog.hand_over() {
            self.forward(id, delivery).await;
        }
        while let Some(delivery) = subscription.next().await {
            self.forward(id, delivery).await;
        }
    }

    /// Forwards a packet, and again if NATS delivers it to this broker once more: later packets must not
    /// overtake it.
    async fn forward_once(
        &self,
        id: &str,
        delivery: Delivery,
        backlog: &mut Backlog<'_>,
        subscription: &mut Box<dyn Subscription>,
    ) {
        let key = (delivery.from, delivery.sent);
        let mut next = Some(delivery);
        while let Some(delivery) = next.take() {
            self.forward(id, delivery).await;
            self.round_trip().await;
            while let Some(Some(delivery)) = unconstrained(subscription.next()).now_or_never() {
                match (delivery.from, delivery.sent) == key {
                    true => next = Some(delivery),
                    false => backlog.add(id, delivery),
                }
            }
        }
    }

    /// Resolves once NATS has delivered this broker's earlier publications, as far as they go to this broker
    /// itself.
    async fn round_trip(&self) {
        let mut question = self.open_question();
        let publication = Publication {
            subject: self.reply_subject(question.number),
            reply: None,
            payload: Message::Empty {}.encode().into(),
        };
        self.bus.publish(publication).await;
        let _ = timeout(LINGER, question.answers.recv()).await;
    }

    /// Publishes an empty message for an id, which every listener ignores: it uses up the remaining deliveries
    /// of the ending subscription.
    async fn publish_filler(&self, id: &str) {
        let publication = Publication {
            subject: self.subjects.id(id),
            reply: None,
            payload: Message::Empty {}.encode().into(),
        };
        self.bus.publish(publication).await;
    }

    /// Publishes a packet for an id again, for the new owner.
    async fn forward(&self, id: &str, delivery: Delivery) {
        let Some(from) = delivery.from else { return };
        let mut reply = self.subjects.reply(from);
        if delivery.sent > 0 {
            reply.push_str(&format!(".{:x}", delivery.sent));
        }
        let publication = Publication {
            subject: self.subjects.id(id),
            reply: Some(reply),
            payload: delivery.payload,
        };
        self.bus.publish(publication).await;
    }
}

/// A parked id.
struct Parked {
    cluster: Arc<Cluster>,
    lease: Lease,
}

impl Parked {
    fn new(cluster: &Arc<Cluster>, lease: Lease) -> Self {
        cluster.handover.busy.fetch_add(1, Relaxed);
        Self {
            cluster: cluster.clone(),
            lease,
        }
    }

    /// True until the id has another owner.
    fn is_needed(&self) -> bool {
        let has_owner = |broker: Arc<Broker>| broker.registry.find(&self.lease.id).is_some();
        self.cluster.is_up()
            && self.cluster.claims.lease_state(&self.lease) == LeaseState::Held
            && !self.cluster.broker().is_none_or(has_owner)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.cluster.handover.busy.fetch_sub(1, Relaxed);
    }
}

//! Handover of ids by a broker that drains: messages for a client that is on its way to another broker wait for it.
//!
//! When a client that was told to go gives up its id, the broker keeps the claim for a moment (the id is
//! parked): packets for it stay in the subscription, and their senders notice nothing but a delay. When another
//! broker claims the id, these packets, and those still on their way here, are forwarded: they are published
//! once more with the reply subject of their sender, so that the new owner answers the sender itself.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
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
    bus::{Delivery, Inlet, NodeId, Publication, ReplyAddress},
    claims::{Claim, Claims},
    listener::Backlog,
};
use crate::broker::{
    Broker,
    handle::Handle,
    lease::{Lease, LeaseState},
};

/// How long an id is parked at most. A client whose balancer is well needs milliseconds.
const PARKED: Duration = Duration::from_secs(2);
/// How often a parked id is looked at.
const STEP: Duration = Duration::from_millis(2);
/// How long packets on their way to a former owner are awaited.
const LINGER: Duration = Duration::from_millis(500);
/// How long after another broker has said that it drains something may be forwarded.
const RECENT: Duration = Duration::from_secs(10);
/// How long messages may arrive that were sent to an id before it came to this broker.
const ARRIVES: Duration = Duration::from_secs(2);
/// Senders to one id that are told apart.
const SENDERS: usize = 256;
/// Packets on their way to a former owner, as many as may be lost if they are not awaited.
const ON_THEIR_WAY: u64 = 8;

/// Ids that are handed over, or were.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// Ids that another broker has claimed since this one drains. It is about to end.
    moved: Mutex<HashSet<Arc<str>>>,
    /// When another broker last said that it drains.
    drains: Mutex<Option<Instant>>,
    /// Ids that have just come here, by the keys of their owners.
    arrivals: Mutex<HashMap<u64, Arrival>>,
    /// Parked ids, and subscriptions that await what is on its way.
    busy: AtomicUsize,
}

/// Something that is to end before the broker does.
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
    /// A claim is about to be judged. Before that: whoever listens for the id asks when that ends.
    pub(super) fn expect(&self, claim: &Claim, own: &Claims) {
        if own.owner(&claim.id).is_some() {
            self.moved.lock().insert(claim.id.clone());
        }
    }

    /// The id stays here, or is here again.
    pub(super) fn forget(&self, id: &str) {
        self.moved.lock().remove(id);
    }

    /// Another broker drains.
    pub(super) fn observe_drain(&self) {
        *self.drains.lock() = Some(Instant::now());
    }

    /// True if something may be forwarded to here.
    pub(super) fn is_expected(&self) -> bool {
        (self.drains.lock()).is_some_and(|drains| drains.elapsed() < RECENT)
    }

    pub(super) fn has_moved(&self, id: &str) -> bool {
        self.moved.lock().contains(id)
    }
}

/// An id that has just come from a broker that drains. Messages that clients of this broker sent to it before are
/// on their way back; none may come behind a newer one of its sender.
#[derive(Debug)]
struct Arrival {
    until: Instant,
    /// The ids, as JSON, of those who have sent to it here since.
    senders: HashSet<Box<str>>,
}

impl Handover {
    /// A connection is about to own an id that may have been at a broker that drains.
    pub(super) fn expect_arrival(&self, owner: &Handle) {
        if !self.is_expected() {
            return;
        }
        let now = Instant::now();
        let arrival = Arrival {
            until: now + ARRIVES,
            senders: HashSet::new(),
        };
        owner.set_arrived(true);
        let mut arrivals = self.arrivals.lock();
        arrivals.retain(|_, arrival| arrival.until > now);
        arrivals.insert(owner.key, arrival);
    }

    /// A client of this broker, by its id as JSON, is about to send to an owner that has arrived.
    #[cold]
    pub(super) fn note_sender(&self, owner: &Handle, sender: &str) {
        let mut arrivals = self.arrivals.lock();
        match arrivals.get_mut(&owner.key) {
            Some(arrival) if arrival.until > Instant::now() && arrival.senders.len() < SENDERS => {
                arrival.senders.insert(sender.into());
            }
            _ => {
                arrivals.remove(&owner.key);
                owner.set_arrived(false);
            }
        }
    }

    /// Delivers a message that this sender sent before the owner arrived, unless it has sent a newer one since.
    pub(super) fn deliver_unless_overtaken(
        &self,
        owner: &Handle,
        sender: &str,
        deliver: impl FnOnce() -> bool,
    ) -> bool {
        // Held meanwhile, so that no newer one is sent in between. Before the locks of requests and outboxes.
        let arrivals = self.arrivals.lock();
        match arrivals.get(&owner.key) {
            Some(arrival) if !arrival.senders.contains(sender) => deliver(),
            _ => false,
        }
    }
}

/// The newest packet of each sender that was taken for an id: those forwarded behind it come too late.
#[derive(Debug, Default)]
pub(super) struct Newest {
    hasher: RandomState,
    /// By broker, and hash of the sender's id.
    senders: HashMap<(NodeId, u64), (u64, u64)>,
}

impl Newest {
    /// Follows the messages of a packet; none where nothing may be forwarded.
    pub(super) fn follow(
        &mut self,
        handover: &Handover,
        delivery: &Delivery,
    ) -> Option<Followed<'_>> {
        let from = delivery.from.filter(|_| delivery.sent > 0)?;
        if !handover.is_expected() {
            self.senders = HashMap::new();
            return None;
        }
        Some(Followed {
            newest: self,
            from,
            packet: delivery.sent,
        })
    }
}

/// A packet that may have been forwarded.
#[derive(Debug)]
pub(super) struct Followed<'a> {
    newest: &'a mut Newest,
    from: ReplyAddress,
    packet: u64,
}

impl Followed<'_> {
    /// True for a message that comes behind a newer one of its sender, whose id this is, as JSON.
    pub(super) fn is_late(&mut self, sender: Option<&str>) -> bool {
        let Newest { hasher, senders } = &mut *self.newest;
        // Beyond that many, all of a broker are taken for one.
        let sender = match senders.len() < SENDERS {
            true => hasher.hash_one(sender),
            false => 0,
        };
        // Links are numbered one after the other, as are the packets of each.
        let place = (self.from.number, self.packet);
        let newest = senders.entry((self.from.node, sender)).or_insert(place);
        let is_late = place < *newest;
        *newest = place.max(*newest);
        is_late
    }
}

impl Cluster {
    /// True while ids are handed over.
    pub(crate) fn hands_over(&self) -> bool {
        self.handover.busy.load(Relaxed) > 0
    }

    /// A client that was told to go gives up its id: it does when what is returned is dropped. The claim is
    /// kept until another broker, or another connection here, has the id, but not for long.
    pub(crate) fn park(self: &Arc<Self>, lease: Lease) -> Option<oneshot::Sender<()>> {
        if !self.is_up() {
            return None;
        }
        let parked = Parked::new(self, lease);
        let (gives_up, given_up) = oneshot::channel::<()>();
        self.runtime.spawn(async move {
            let _ = given_up.await;
            let until = Instant::now() + PARKED;
            while parked.is_needed() && Instant::now() < until {
                sleep(STEP).await;
            }
        });
        Some(gives_up)
    }

    /// Forwards packets for an id that another broker has now, until none is on its way here any more: those of
    /// the backlog first, in the order in which they came.
    pub(super) async fn hand_over(
        &self,
        id: &str,
        backlog: &mut Backlog<'_>,
        inlet: &mut Box<dyn Inlet>,
    ) {
        let _busy = Busy::new(&self.handover.busy);
        // What has come already is not counted among what is on its way; and nothing is to come back. However
        // much that is, it is all that is there.
        while let Some(Some(delivery)) = unconstrained(inlet.next()).now_or_never() {
            backlog.add(id, delivery);
        }
        inlet.end_behind(ON_THEIR_WAY).await;
        let until = Instant::now() + LINGER;
        while Instant::now() < until {
            if let Some(delivery) = backlog.hand_over() {
                self.forward_once(id, delivery, backlog, inlet).await;
                continue;
            }
            match timeout(STEP, inlet.next()).await {
                Ok(Some(delivery)) if delivery.from.is_some() => backlog.add(id, delivery),
                Ok(Some(_)) => {}
                Ok(None) => break,
                // Were NATS told to end at once, it could have sent something already that would be lost.
                Err(_) => self.publish_filler(id).await,
            }
        }
        inlet.end().await;
        while let Some(delivery) = backlog.hand_over() {
            self.forward(id, delivery).await;
        }
        while let Some(delivery) = inlet.next().await {
            self.forward(id, delivery).await;
        }
    }

    /// Forwards a packet, and again if NATS delivers it here once more: those behind it must not overtake it.
    async fn forward_once(
        &self,
        id: &str,
        delivery: Delivery,
        backlog: &mut Backlog<'_>,
        inlet: &mut Box<dyn Inlet>,
    ) {
        let key = (delivery.from, delivery.sent);
        let mut next = Some(delivery);
        while let Some(delivery) = next.take() {
            self.forward(id, delivery).await;
            self.round_trip().await;
            while let Some(Some(delivery)) = unconstrained(inlet.next()).now_or_never() {
                match (delivery.from, delivery.sent) == key {
                    true => next = Some(delivery),
                    false => backlog.add(id, delivery),
                }
            }
        }
    }

    /// Resolves once NATS has delivered what this broker published before, as far as it goes to this broker.
    async fn round_trip(&self) {
        let mut question = self.question();
        let publication = Publication {
            subject: self.place(question.number),
            reply: None,
            payload: Bytes::new(),
        };
        self.bus.publish(publication).await;
        let _ = timeout(LINGER, question.answers.recv()).await;
    }

    /// Publishes an empty packet for an id, which any of its listeners ignores: the more come, the sooner as many
    /// have come as this broker is still to be sent.
    async fn publish_filler(&self, id: &str) {
        let publication = Publication {
            subject: self.subjects.to(id),
            reply: None,
            payload: Bytes::new(),
        };
        self.bus.publish(publication).await;
    }

    /// Publishes something for an id once more, for whoever has the id now.
    async fn forward(&self, id: &str, delivery: Delivery) {
        let Some(from) = delivery.from else { return };
        let mut reply = self.subjects.place(from);
        if delivery.sent > 0 {
            reply.push_str(&format!(".{:x}", delivery.sent));
        }
        let publication = Publication {
            subject: self.subjects.to(id),
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

    /// True until somebody has the id.
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

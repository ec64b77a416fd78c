//! Handover of ids by a broker that drains: messages for a client that is on its way to another broker wait for it.
//!
//! When a client that was told to go gives up its id, the broker keeps the claim for a moment (the id is
//! parked): packets for it stay in the subscription, and their senders notice nothing but a delay. When another
//! broker claims the id, these packets, and those still on their way here, are forwarded: they are published
//! once more with the reply subject of their sender, so that the new owner answers the sender itself.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    task::unconstrained,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Cluster, Standing, Ticket,
    bus::{Delivery, Inlet, NodeId, Publication},
    claims::{Claim, Claims},
    listener::Backlog,
};
use crate::server::Shared;

/// How long an id is parked at most. A client whose balancer is well needs milliseconds.
const PARKED: Duration = Duration::from_secs(2);
/// How often a parked id is looked at.
const STEP: Duration = Duration::from_millis(2);
/// How long packets on their way to a former owner are awaited.
const LINGER: Duration = Duration::from_millis(500);
/// How long after another broker has said that it drains something may be forwarded.
const RECENT: Duration = Duration::from_secs(10);
/// Packets on their way to a former owner, as many as may be lost if they are not awaited.
const ON_THEIR_WAY: u64 = 8;

/// Ids that are handed over, or were.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// Ids that another broker has claimed since this one drains. It is about to end.
    moved: Mutex<HashSet<Arc<str>>>,
    /// When another broker last said that it drains.
    drains: Mutex<Option<Instant>>,
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

/// The newest packet of each broker that was taken for an id: those forwarded behind it come too late.
#[derive(Debug, Default)]
pub(super) struct Newest(HashMap<NodeId, (u64, u64)>);

impl Newest {
    /// True for a packet that comes behind a newer one of the same broker.
    pub(super) fn is_late(&mut self, handover: &Handover, delivery: &Delivery) -> bool {
        let Some(from) = delivery.from.filter(|_| delivery.sent > 0) else {
            return false;
        };
        if self.0.is_empty() && !handover.is_expected() {
            return false;
        }
        // Links are numbered one after the other, as are the packets of each.
        let place = (from.number, delivery.sent);
        let newest = self.0.entry(from.node).or_insert(place);
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
    pub(crate) fn park(self: &Arc<Self>, ticket: Ticket) -> Option<oneshot::Sender<()>> {
        if !self.is_up() {
            return None;
        }
        let parked = Parked::new(self, ticket);
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
            } else if let Ok(Some(delivery)) = timeout_at(until, inlet.next()).await {
                backlog.add(id, delivery);
            } else {
                break;
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
    ticket: Ticket,
}

impl Parked {
    fn new(cluster: &Arc<Cluster>, ticket: Ticket) -> Self {
        cluster.handover.busy.fetch_add(1, Relaxed);
        Self {
            cluster: cluster.clone(),
            ticket,
        }
    }

    /// True until somebody has the id.
    fn is_needed(&self) -> bool {
        let has_owner = |shared: Arc<Shared>| shared.router.find(&self.ticket.id).is_some();
        self.cluster.is_up()
            && self.cluster.standing(&self.ticket) == Standing::Held
            && !self.cluster.shared().is_none_or(has_owner)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.cluster.handover.busy.fetch_sub(1, Relaxed);
    }
}

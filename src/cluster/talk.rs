//! What is said to all brokers and heard from them, and the task that does so.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, timeout, timeout_at},
};

use super::{
    ANSWER, Cluster,
    bus::{Delivery, Inlet, NodeId, Publication},
    claims::{Claim, Standing, Verdict},
    inbound::{self, Tally},
    packet::{Packet, Taken},
    remotes::link_of,
    said::{Claimed, Have, Said},
    tell,
};
use crate::{
    auth::Denied,
    event::{ClusterEvent, ServerEvent},
    handle::Close,
    metrics::ClusterStats,
    protocol,
    requests::Fault,
    server::Shared,
};

/// How often a broker says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// How often it looks after what may be late.
const LOOK: Duration = Duration::from_millis(250);
/// Ids in one message about many.
const IDS: usize = 500;
/// Bytes of such a message, about.
const BYTES: usize = 64 << 10;

/// What happened to the connection to the bus.
#[derive(Debug)]
pub(crate) enum BusEvent {
    Up,
    Down,
    /// Something that was for us was lost.
    Lagged,
    /// Something else went wrong, or could not be done.
    Failed(String),
}

/// The same failure is told once in this time: it is tried again and again.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// What was found on all brokers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// The ids found, each with the name of the broker where it is. In no order.
    pub ids: Vec<(Arc<str>, String)>,
    /// The names of the brokers that did not answer in time.
    pub silent: Vec<String>,
}

impl Cluster {
    /// Starts the cluster's task. It ends with the server.
    pub(crate) fn start(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        events: mpsc::Receiver<BusEvent>,
        closing: watch::Receiver<bool>,
    ) {
        let _ = self.shared.set(Arc::downgrade(shared));
        self.runtime.spawn(run(self.clone(), events, closing));
    }

    async fn say(&self, said: &Said<'_>) {
        let publication = Publication {
            subject: self.subjects.all(),
            reply: None,
            payload: said.encode().into(),
        };
        self.bus.publish(publication).await;
    }

    async fn say_beat(&self) {
        self.say(&Said::Beat {
            node: self.node.to_string(),
            name: self.name.clone(),
            epoch: self.epoch(),
        })
        .await;
    }

    /// Tells all of these claims.
    pub(super) async fn tell_claims(&self, claims: &[Claim]) {
        let mut rest = claims;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(IDS).take_while(|claim| {
                let before = bytes;
                bytes += claim.id.len() + claim.principal.as_ref().map_or(0, |name| name.len());
                before < BYTES
            });
            let (now, later) = rest.split_at(fits.count());
            self.say(&Said::Claims {
                node: self.node.to_string(),
                claims: now.iter().map(Claimed::new).collect(),
            })
            .await;
            rest = later;
        }
    }

    /// There is a connection; another one than that of this number, perhaps.
    async fn connected(self: &Arc<Self>, shared: &Shared, number: &mut u64) {
        let now = self.bus.connections();
        if std::mem::replace(number, now) != now {
            self.down(shared);
        }
        if !self.is_up() {
            self.up().await;
        }
    }

    /// The connection is there, or is there again: everybody hears of our ids.
    async fn up(self: &Arc<Self>) {
        self.epoch.fetch_add(1, Relaxed);
        *self.since.lock() = Instant::now();
        self.remotes.forgive();
        self.up.store(true, Relaxed);
        for (id, stopped) in self.claims.deaf() {
            self.listen(id, stopped).await;
        }
        self.say_beat().await;
        self.tell_claims(&self.claims.all()).await;
    }

    /// NATS has read all that we said before this, subscriptions too.
    fn heard_ourselves(&self, shared: &Shared, epoch: u32) {
        if epoch == self.epoch() && self.told_up.swap(epoch, Relaxed) != epoch && self.is_up() {
            let event = ServerEvent::Cluster(ClusterEvent::Up);
            shared.listener.event(event);
        }
    }

    fn down(&self, shared: &Shared) {
        if !self.up.swap(false, Relaxed) {
            return;
        }
        self.counters.lost.fetch_add(1, Relaxed);
        self.lose_all(Fault::ClusterDown);
        let event = ServerEvent::Cluster(ClusterEvent::Down);
        shared.listener.event(event);
    }

    /// Something that was for us is lost: whoever waits for it must not wait in vain.
    async fn lagged(&self, shared: &Shared) {
        self.counters.lagged.fetch_add(1, Relaxed);
        let event = ServerEvent::Cluster(ClusterEvent::Lagged);
        shared.listener.event(event);
        self.up.store(false, Relaxed);
        self.lose_all(Fault::ClusterDown);
        self.epoch.fetch_add(1, Relaxed);
        self.up.store(true, Relaxed);
        self.say_beat().await;
        // Others' claims may be among it: they answer to ours.
        self.tell_claims(&self.claims.all()).await;
    }

    /// Something was said to all.
    async fn hear(&self, shared: &Shared, payload: &Bytes) {
        let Ok(said) = serde_json::from_slice::<Said<'_>>(payload) else {
            return;
        };
        match said {
            Said::Beat { node, name, epoch } => match self.other(&node) {
                Some(node) if self.beat(node, name, epoch) => self.say_beat().await,
                Some(_) => {}
                None => self.heard_ourselves(shared, epoch),
            },
            Said::Bye { node } => {
                if let Some(node) = self.other(&node) {
                    self.forget_node(node);
                }
            }
            Said::Claims { node, claims } => {
                let Some(node) = NodeId::parse(&node) else {
                    return;
                };
                let claims = claims.iter().map(|claimed| claimed.claim(node));
                match node == self.node {
                    true => claims.for_each(|claim| {
                        self.unheard.lock().remove(&claim.stamp.time);
                    }),
                    false => self.judge(shared, claims).await,
                }
            }
            Said::Ids { node, number } => {
                let ids = shared.router.ids();
                self.answer_with(&node, number, ids).await;
            }
            Said::Has { node, number, id } => {
                let found = shared.router.find(&id).map(|_| id.into());
                self.answer_with(&node, number, found.into_iter().collect())
                    .await;
            }
        }
    }

    /// The broker of this name, if it is another one.
    fn other(&self, node: &str) -> Option<NodeId> {
        NodeId::parse(node).filter(|node| *node != self.node)
    }

    async fn judge(&self, shared: &Shared, claims: impl Iterator<Item = Claim>) {
        let mut kept = Vec::new();
        for claim in claims {
            self.clock.heard(claim.stamp.time);
            if let Some(handle) = self.remotes.find(&claim.id)
                && let Some(link) = link_of(&handle)
            {
                link.moved();
            }
            match self.claims.judge(&claim) {
                Verdict::None => {}
                Verdict::Lost { conflict } => self.give_up(shared, &claim.id, conflict),
                Verdict::Kept(own) => kept.push(own),
            }
        }
        self.tell_claims(&kept).await;
    }

    /// An id is another broker's now: whoever has it here hears of that.
    pub(crate) fn give_up(&self, shared: &Shared, id: &Arc<str>, conflict: bool) {
        let Some((owner, registration)) = shared.router.find_registration(id) else {
            return;
        };
        let is_newer = (owner.claim.lock().as_ref())
            .is_some_and(|ticket| self.standing(ticket) == Standing::Held);
        if is_newer {
            return;
        }
        let mut is_freed = false;
        shared.router.unregister(id, &owner, || {
            is_freed = true;
            shared.listener.event(ServerEvent::Unregistered(id));
            if owner.speaks_2() {
                let from = protocol::json_string(id);
                owner.outbox.push(&protocol::version_2::replaced(&from));
            }
        });
        if !is_freed {
            return;
        }
        drop(owner.claim.lock().take());
        let mut outcomes = Vec::new();
        let requests = &shared.router.requests;
        requests.replaced(&owner, id, registration, &mut outcomes);
        tell(shared, &mut outcomes);
        owner.flush();
        if conflict {
            owner.request_close(Close::Denied(Denied::Conflict));
        }
    }

    async fn answer_with(&self, node: &str, number: u64, ids: Vec<Arc<str>>) {
        let Some(node) = NodeId::parse(node) else {
            return;
        };
        let subject = self.subjects.place(super::Place { node, number });
        let mut rest = &ids[..];
        for part in 0.. {
            let mut bytes = 0;
            let fits = rest.iter().take(IDS).take_while(|id| {
                let before = bytes;
                bytes += id.len();
                before < BYTES
            });
            let (now, later) = rest.split_at(fits.count());
            let have = Have {
                node: self.node.to_string(),
                name: self.name.clone(),
                ids: now.iter().map(|id| (&**id).into()).collect(),
                part,
                done: later.is_empty(),
            };
            let publication = Publication {
                subject: subject.clone(),
                reply: None,
                payload: have.encode().into(),
            };
            self.bus.publish(publication).await;
            rest = later;
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Something came for this node.
    async fn take(&self, shared: &Shared, delivery: Delivery, tally: &mut Tally) {
        let Delivery {
            number,
            packet,
            from,
            payload,
            unheard,
        } = delivery;
        if let (0, Some(from)) = (number, from) {
            if let Some(Packet::Frames {
                id: "",
                epoch,
                frames,
            }) = Packet::decode(&payload)
                && self.meet(from.node, epoch)
            {
                inbound::told(self, shared, frames);
                tally.took(self, from, frames.len()).await;
            }
            return;
        }
        // A question has no packets. That a node hears nothing will be noticed.
        if unheard && packet > 0 {
            return self.unheard(number, packet);
        }
        if let Some((handle, _)) = self.remotes.by_link(number) {
            if let (Some(taken), Some(link)) = (Taken::decode(&payload), link_of(&handle)) {
                link.taken(taken);
            }
            return;
        }
        let asked = self.questions.lock().get(&number).cloned();
        if let Some(asked) = asked {
            // Whoever asked more than he can hear goes without.
            let _ = asked.try_send(Delivery {
                number,
                packet,
                from,
                payload,
                unheard,
            });
        }
    }

    /// The brokers that are known, by name; ourselves among them.
    pub(crate) fn nodes(&self) -> Vec<String> {
        let mut names: Vec<_> = self.remotes.nodes().into_values().collect();
        names.push(self.name.clone());
        names.sort_unstable();
        names
    }

    pub(crate) fn stats(&self) -> ClusterStats {
        ClusterStats {
            connected: self.is_up(),
            brokers: self.remotes.nodes().len() + 1,
            claims: self.claims.count(),
            remotes: self.remotes.count(),
            received: self.counters.received.load(Relaxed),
            unreachable: self.counters.unreachable.load(Relaxed),
            lagged: self.counters.lagged.load(Relaxed),
            lost: self.counters.lost.load(Relaxed),
        }
    }

    /// Asks all brokers which ids they have, or whether they have this one. Ends when all have said
    /// so, or after that time, with what is known by then.
    pub(crate) async fn find(&self, id: Option<&str>, within: Duration) -> Found {
        let deadline = tokio::time::Instant::now() + within;
        let mut found = Found::default();
        let mut missing = self.remotes.nodes();
        if !self.is_up() {
            let own = self.shared().map(|shared| match id {
                None => shared.router.ids(),
                Some(id) => (shared.router.find(id))
                    .map(|_| id.into())
                    .into_iter()
                    .collect(),
            });
            let own = own.unwrap_or_default().into_iter();
            found.ids = own.map(|id| (id, self.name.clone())).collect();
            found.silent = missing.into_values().collect();
            return found;
        }
        missing.insert(self.node, self.name.clone());
        let (number, mut answers) = self.question();
        let node = self.node.to_string();
        let said = match id {
            None => Said::Ids { node, number },
            Some(id) => Said::Has {
                node,
                number,
                id: id.into(),
            },
        };
        let _ = timeout_at(deadline, self.say(&said)).await;
        let mut seen = HashSet::new();
        // Parts of an answer that have come: of one that is not whole, somebody is silent.
        let mut parts: HashMap<NodeId, usize> = HashMap::new();
        while !missing.is_empty() {
            let Ok(Some(answer)) = timeout_at(deadline, answers.recv()).await else {
                break;
            };
            let Ok(have) = serde_json::from_slice::<Have<'_>>(&answer.payload) else {
                continue;
            };
            for id in have.ids {
                // One that moves meanwhile is named by both.
                let id: Arc<str> = id.into();
                if seen.insert(id.clone()) {
                    found.ids.push((id, have.name.clone()));
                }
            }
            let Some(node) = NodeId::parse(&have.node) else {
                continue;
            };
            let expected = parts.entry(node).or_default();
            let is_whole = *expected == have.part;
            *expected += usize::from(is_whole);
            if have.done && is_whole {
                missing.remove(&node);
            }
        }
        self.questions.lock().remove(&number);
        found.silent = missing.into_values().collect();
        found
    }
}

/// Keeps the cluster until the server closes.
async fn run(
    cluster: Arc<Cluster>,
    mut events: mpsc::Receiver<BusEvent>,
    mut closing: watch::Receiver<bool>,
) {
    let is_closing = async |closing: &mut watch::Receiver<bool>| {
        let _ = closing.wait_for(|closing| *closing).await;
    };
    let inlets = async {
        let node = cluster
            .bus
            .subscribe(cluster.subjects.node(cluster.node), false)
            .await;
        let all = cluster.bus.subscribe(cluster.subjects.all(), false).await;
        (node, all)
    };
    let inlets = tokio::select! {
        inlets = inlets => inlets,
        () = is_closing(&mut closing) => return,
    };
    let (Ok(node), Ok(all)) = inlets else { return };
    // Each has its own task: what is said to all must not wait behind what is for us, and the other
    // way round.
    let taking = tokio::spawn(take_all(cluster.clone(), node));
    let hearing = tokio::spawn(hear_all(cluster.clone(), all));
    let mut missing = cluster.required.map(|within| Instant::now() + within);
    let mut trouble = "no server answered in time".to_owned();
    let mut told: Option<Instant> = None;
    let (mut connection, mut lags) = (0, false);
    let telling = tokio::spawn(tell_all(cluster.clone()));
    let mut beat = interval(BEAT);
    let mut look = interval(LOOK);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            () = is_closing(&mut closing) => break,
            event = events.recv() => match event {
                Some(event) => event,
                None => break,
            },
            _ = beat.tick() => {
                if cluster.is_up() {
                    cluster.say_beat().await;
                }
                continue;
            }
            _ = look.tick() => {
                let now = Instant::now();
                cluster.receipts.expire(now);
                if missing.is_some_and(|deadline| deadline <= now) {
                    missing = None;
                    if let Some(shared) = cluster.shared() {
                        let event = ServerEvent::Cluster(ClusterEvent::Missing(&trouble));
                        shared.listener.event(event);
                        shared.close();
                    }
                }
                if cluster.is_up() {
                    cluster.sweep();
                }
                // Events may be lost where there are too many.
                if let Some(shared) = cluster.shared() {
                    match cluster.bus.is_connected() {
                        true => cluster.connected(&shared, &mut connection).await,
                        false => cluster.down(&shared),
                    }
                    if std::mem::take(&mut lags) && cluster.is_up() {
                        cluster.lagged(&shared).await;
                    }
                }
                continue;
            }
        };
        let Some(shared) = cluster.shared() else {
            break;
        };
        match event {
            BusEvent::Up => {
                missing = None;
                cluster.connected(&shared, &mut connection).await;
            }
            BusEvent::Down => cluster.down(&shared),
            // There may be one for each message that is lost.
            BusEvent::Lagged => lags = true,
            BusEvent::Failed(reason)
                if reason == trouble && told.is_some_and(|told| told.elapsed() < TELL_AGAIN) => {}
            BusEvent::Failed(reason) => {
                told = Some(Instant::now());
                let event = ServerEvent::Cluster(ClusterEvent::Failed(&reason));
                shared.listener.event(event);
                trouble = reason;
            }
        }
    }
    if cluster.is_up() {
        let node = cluster.node.to_string();
        let bye = async {
            cluster.say(&Said::Bye { node }).await;
            cluster.bus.flush().await;
        };
        let _ = timeout(ANSWER, bye).await;
    }
    cluster.up.store(false, Relaxed);
    cluster.lose_all(Fault::ClusterDown);
    taking.abort();
    telling.abort();
    hearing.abort();
    cluster.bus.close();
}

async fn take_all(cluster: Arc<Cluster>, mut inlet: Box<dyn Inlet>) {
    let mut tally = Tally::default();
    while let Some(delivery) = inlet.next().await {
        let Some(shared) = cluster.shared() else {
            return;
        };
        cluster.take(&shared, delivery, &mut tally).await;
    }
}

/// Tells all of the claims that there are to tell: those that come meanwhile go together.
async fn tell_all(cluster: Arc<Cluster>) {
    loop {
        cluster.tells.notified().await;
        let claims = std::mem::take(&mut *cluster.untold.lock());
        cluster.tell_claims(&claims).await;
    }
}

async fn hear_all(cluster: Arc<Cluster>, mut inlet: Box<dyn Inlet>) {
    while let Some(delivery) = inlet.next().await {
        let Some(shared) = cluster.shared() else {
            return;
        };
        cluster.hear(&shared, &delivery.payload).await;
    }
}

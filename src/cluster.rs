//! The cluster: connects brokers over NATS, so that a client reaches an id at any of them.
//!
//! To the rest of a broker a remote id is a [`Handle`] like any other, but its outbox writes to a `link` in
//! place of a socket. A remote node has such a handle too, for all requesters there. So backpressure, requests,
//! receipts and cancels work as they do on one broker. Packets between brokers travel over a `bus`, which NATS
//! implements.
//!
//! - Each registered id has a subject, to which its owner's broker subscribes. If it has no subscription, NATS
//!   reports "no responders": the id is unknown.
//! - Each broker has subjects for answers, delivery reports and credit.
//! - All brokers share one subject for broadcasts: claims, heartbeats, searches.
//!
//! | file | content |
//! | --- | --- |
//! | `bus` | the trait that NATS implements, and the names of subjects |
//! | `nats` | the bus over NATS (feature `nats`) |
//! | `packet` | the format of packets between brokers |
//! | `gossip` | the format of broadcasts and of the answers to them |
//! | `link` | the uplink of an outbox to another broker |
//! | `flow` | sender side of flow control, one link |
//! | `lanes` | sender side of flow control, all links to one broker |
//! | `lookups` | limit of concurrent lookups of unresolved ids |
//! | `claims` | the ids of this broker, and conflicts with claims of others |
//! | `peers` | the trait `Peers`, by which a broker uses the cluster |
//! | `remotes` | the handles of remote ids |
//! | `nodes` | the other brokers: names, epochs, liveness |
//! | `listener` | the subscription of a registered id, and its backlog |
//! | `credit` | receiver side of flow control |
//! | `inbound` | frames from other brokers, for an id or for this broker |
//! | `probes` | probes of remote requests and receipts that may be lost |
//! | `handover` | handover of ids by a broker that drains |
//! | `repair` | anti-entropy: lost claims are detected and sent again |
//! | `broadcast` | sending and receiving of broadcasts, and direct deliveries |
//! | `search` | search for ids at all brokers |
//! | `task` | the cluster's task: connection state and periodic work |
//!
//! Lock order: `Claims::own` before `Claims::refused`; the table of remote ids or of nodes before that of
//! links. No other lock is taken while one of these is held, and none is held across an `.await`.

mod broadcast;
pub(crate) mod bus;
mod claims;
mod credit;
mod flow;
mod gossip;
mod handover;
mod inbound;
mod lanes;
mod link;
mod listener;
mod lookups;
#[cfg(feature = "nats")]
pub(crate) mod nats;
mod nodes;
mod packet;
mod peers;
mod probes;
mod remotes;
mod repair;
mod search;
mod task;

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle as Runtime,
    sync::{Notify, mpsc, oneshot, watch},
    time::{sleep, timeout},
};

use crate::{
    auth::Denied,
    broker::{
        Broker,
        handle::Handle,
        lease::{Lease, LeaseState},
        peers::Task,
        receipts::Receipts,
        requests::Notifications,
    },
    options::NatsOptions,
};
use bus::{Bus, Delivery, NodeId, Publication, ReplyAddress, Subjects};
use claims::{AlreadyClaimed, Claim, Claims, Clock, Owner, Stamp};
use credit::CreditLedger;
use handover::Handover;
use lanes::Lanes;
use link::Link;
use lookups::LookupLimits;
use nodes::Nodes;
use probes::Probes;
use remotes::Remotes;
use repair::{Repairs, Streams};
pub use search::Found;
pub(crate) use task::BusEvent;
use task::SubscriptionRounds;

/// Timeout for answers of other brokers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for other brokers to renew their subscriptions after NATS was unreachable. Until then an id without a
/// subscription may still have an owner.
const RESUBSCRIBE_TIME: Duration = Duration::from_secs(2);
/// Time that registrations at a new broker wait for its first connection to NATS, and the interval at which
/// they check for it.
const FIRST_CONNECTION: Duration = Duration::from_secs(1);
const FIRST_CONNECTION_POLL: Duration = Duration::from_millis(10);
/// Delay before a question without responders is repeated.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// Capacity of the queue of answers to one question.
const ANSWER_QUEUE: usize = 1024;

/// The cluster, as one of its brokers sees it.
pub(crate) struct Cluster {
    bus: Arc<dyn Bus>,
    subjects: Subjects,
    node: NodeId,
    name: String,
    /// The server closes if NATS is unreachable for this long at the start.
    required: Option<Duration>,
    runtime: Runtime,
    broker: OnceLock<Weak<Broker>>,
    up: AtomicBool,
    epoch: AtomicU32,
    /// Time of the last connect, or of the start.
    connected_at: Mutex<Instant>,
    /// The newest epoch in which NATS has all subscriptions, and the newest for which the event `Up` was
    /// emitted.
    subscribed_epoch: AtomicU32,
    subscription_rounds: Mutex<SubscriptionRounds>,
    reported_up_epoch: AtomicU32,
    clock: Clock,
    claims: Claims,
    receipts: Arc<Receipts>,
    remotes: Remotes,
    lanes: Arc<Lanes>,
    lookups: Arc<LookupLimits>,
    /// The handle that a connection waits for while it is at its limit of lookups.
    lookup_gate: OnceLock<Arc<Handle>>,
    credits: CreditLedger,
    nodes: Nodes,
    probes: Probes,
    /// Questions that await answers, by their numbers.
    questions: Mutex<HashMap<u64, mpsc::Sender<Delivery>>>,
    /// Claims to be broadcast next.
    queued_claims: Mutex<Vec<Claim>>,
    claims_queued: Notify,
    /// Number of publications of claims so far.
    published: AtomicU64,
    /// Anti-entropy of claims: publications received from other brokers, and repairs to send to them.
    streams: Streams,
    repairs: Repairs,
    handover: Handover,
    /// Wakes the task that publishes heartbeats.
    heartbeat_due: Notify,
    /// Wakes callers once their claim was received back from NATS; by the time of the claim.
    unconfirmed_claims: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    /// True once the subscriptions of all ids must end.
    ended: watch::Sender<bool>,
    counters: Counters,
}

/// Counters of the cluster for statistics.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Messages received for ids of this broker.
    pub(crate) received: AtomicU64,
    /// Messages for other brokers while NATS was unreachable.
    pub(crate) unreachable: AtomicU64,
    /// Times that NATS or its client library dropped deliveries to this broker.
    pub(crate) lagged: AtomicU64,
    /// Times that the connection to NATS was lost.
    pub(crate) lost: AtomicU64,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    pub(crate) fn new(bus: Arc<dyn Bus>, options: &NatsOptions, runtime: &Runtime) -> Arc<Self> {
        // Zero means that the node is unknown.
        let node = NodeId(rand::random::<u64>().max(1));
        Arc::new(Self {
            bus,
            subjects: Subjects::new(&options.namespace),
            node,
            name: options.name.clone().unwrap_or_else(|| node.to_string()),
            required: options.required.then_some(options.timeout),
            runtime: runtime.clone(),
            broker: OnceLock::new(),
            up: AtomicBool::new(false),
            epoch: AtomicU32::new(0),
            clock: Clock::default(),
            claims: Claims::default(),
            receipts: Arc::default(),
            connected_at: Mutex::new(Instant::now()),
            subscribed_epoch: AtomicU32::new(0),
            subscription_rounds: Mutex::default(),
            reported_up_epoch: AtomicU32::new(0),
            remotes: Remotes::default(),
            lanes: Arc::default(),
            lookups: Arc::default(),
            lookup_gate: OnceLock::new(),
            credits: CreditLedger::default(),
            nodes: Nodes::default(),
            probes: Probes::default(),
            questions: Mutex::default(),
            queued_claims: Mutex::default(),
            claims_queued: Notify::new(),
            published: AtomicU64::new(0),
            streams: Streams::default(),
            repairs: Repairs::default(),
            handover: Handover::default(),
            heartbeat_due: Notify::new(),
            unconfirmed_claims: Mutex::default(),
            ended: watch::channel(false).0,
            counters: Counters::default(),
        })
    }

    /// The broker of this cluster; none once it has ended.
    fn broker(&self) -> Option<Arc<Broker>> {
        self.broker.get()?.upgrade()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Size limit in bytes of a frame for this id.
    pub(crate) fn max_frame(&self, id: &str) -> usize {
        let head = packet::HEAD + id.len();
        self.bus.max_payload().saturating_sub(head)
    }

    /// True shortly after a reconnect: other brokers may not have subscribed to all their ids yet.
    fn is_resubscribing(&self) -> bool {
        self.epoch() > 1 && self.connected_at.lock().elapsed() < RESUBSCRIBE_TIME
    }

    /// The epoch of this broker. It grows with each connection, and when deliveries to this broker were lost.
    fn epoch(&self) -> u32 {
        self.epoch.load(Relaxed)
    }

    fn reply_subject(&self, number: u64) -> String {
        let node = self.node;
        self.subjects.reply(ReplyAddress { node, number })
    }

    /// Claims an id for a principal in the whole cluster; a participant has no principal. Resolves once the
    /// other brokers send to this one. Without a connection the claim holds at this broker, and is broadcast
    /// later.
    ///
    /// Errors: `Conflict` if another principal has the id; `Unavailable` if that cannot be decided now.
    pub(crate) fn claim(
        self: &Arc<Self>,
        id: Arc<str>,
        principal: Option<Arc<str>>,
        participant: bool,
    ) -> Task<Result<Lease, Denied>> {
        let cluster = self.clone();
        Box::pin(async move {
            cluster.wait_first_connection().await;
            let owner = match participant {
                true => Owner::Participant(cluster.node),
                false => Owner::peer(principal),
            };
            match cluster.claims.owner(&id) {
                _ if participant => {}
                Some(now) if now != owner => return Err(Denied::Conflict),
                None if owner.principal().is_some() => {
                    cluster.ask_owner(&id, owner.principal()).await?;
                }
                Some(_) | None => {}
            }
            let stamp = Stamp {
                time: cluster.clock.next(),
                node: cluster.node,
            };
            let claim = Claim {
                id: id.clone(),
                stamp,
                owner,
            };
            cluster.handover.unmark_moved(&id);
            // From here on the claim is released when the lease is dropped.
            let holder = Arc::downgrade(&cluster);
            let lease = Lease {
                id: id.clone(),
                time: stamp.time,
                holder,
            };
            let was_up = cluster.is_up();
            let claimed = cluster.claims.claim(claim.clone(), was_up);
            // Another principal may have claimed the id here since the check above.
            let mut stopped = claimed.map_err(|AlreadyClaimed| Denied::Conflict)?;
            if cluster.is_up() && !was_up {
                // The round over all ids at connect may have run before this claim.
                stopped = cluster.claims.start_listener(&id);
            }
            if was_up || cluster.is_up() {
                let _ = timeout(ANSWER_TIMEOUT, cluster.announce_claim(claim, stopped)).await;
            }
            cluster.unconfirmed_claims.lock().remove(&stamp.time);
            match cluster.claims.lease_state(&lease) {
                LeaseState::Lost { conflict: true } => Err(Denied::Conflict),
                _ => Ok(lease),
            }
        })
    }

    /// Resolves once there is or was a connection to NATS, or after a timeout, so that the first
    /// clients of a new broker do not find NATS unreachable.
    async fn wait_first_connection(&self) {
        if self.is_up() || self.epoch() > 0 {
            return;
        }
        let left = FIRST_CONNECTION.saturating_sub(self.connected_at.lock().elapsed());
        let connected = async {
            while !self.is_up() && self.epoch() == 0 {
                sleep(FIRST_CONNECTION_POLL).await;
            }
        };
        let _ = timeout(left, connected).await;
    }

    /// Asks the broker that owns an id whether this principal may have it.
    async fn ask_owner(&self, id: &str, principal: Option<&str>) -> Result<(), Denied> {
        loop {
            if !self.is_up() {
                return Ok(());
            }
            match timeout(ANSWER_TIMEOUT, self.ask_once(id, principal)).await {
                // The owner may not have subscribed yet.
                Ok(Some(answer)) if answer.no_responders && self.is_resubscribing() => {
                    sleep(RETRY_DELAY).await
                }
                // The id has no owner, or its owner gives it up.
                Ok(Some(answer)) if answer.no_responders || *answer.payload == *b"yes" => {
                    return Ok(());
                }
                Ok(Some(_)) => return Err(Denied::Conflict),
                Ok(None) | Err(_) if self.is_up() => return self.confirm_no_owner(id).await,
                Ok(None) | Err(_) => return Ok(()),
            }
        }
    }

    /// Asks all brokers for an owner of the id, after its subscriber did not answer. A broker keeps an id until
    /// its heartbeats time out; NATS may keep the subscription for minutes.
    ///
    /// Errors: `Unavailable` if a live broker may have the id.
    async fn confirm_no_owner(&self, id: &str) -> Result<(), Denied> {
        let found = self.find(Some(id), ANSWER_TIMEOUT).await;
        match found.ids.is_empty() && found.silent.is_empty() {
            true => Ok(()),
            false => Err(Denied::Unavailable),
        }
    }

    async fn ask_once(&self, id: &str, principal: Option<&str>) -> Option<Delivery> {
        let mut question = self.open_question();
        let publication = Publication {
            subject: self.subjects.id(id),
            reply: Some(self.reply_subject(question.number)),
            payload: packet::question(id, principal).into(),
        };
        self.bus.publish(publication).await;
        question.answers.recv().await
    }

    /// Opens a question: allocates its number, and the queue of its answers.
    fn open_question(&self) -> OpenQuestion<'_> {
        let number = self.broker().map_or(u64::MAX, |broker| broker.next_key());
        let (sender, answers) = mpsc::channel(ANSWER_QUEUE);
        self.questions.lock().insert(number, sender);
        OpenQuestion {
            cluster: self,
            number,
            answers,
        }
    }

    /// Subscribes to an id and broadcasts its claim, even if the caller stops waiting. Resolves once this
    /// broker has received its own broadcast, or the claim was lost before.
    async fn announce_claim(
        self: &Arc<Self>,
        claim: Claim,
        stopped: Option<oneshot::Receiver<()>>,
    ) {
        let (sender, confirmed) = oneshot::channel();
        self.unconfirmed_claims
            .lock()
            .insert(claim.stamp.time, sender);
        let cluster = self.clone();
        self.runtime.spawn(async move {
            if let Some(stopped) = stopped {
                cluster.spawn_listener(claim.id.clone(), stopped).await;
            }
            if cluster.claims.holds(&claim.id, claim.stamp.time) {
                cluster.queue_claims([claim]);
            } else {
                // A lost claim is not broadcast: the caller need not wait.
                cluster.unconfirmed_claims.lock().remove(&claim.stamp.time);
            }
        });
        let _ = confirmed.await;
    }

    /// Subscribes to an id until `stopped` resolves. Resolves once the client library has the subscription. The
    /// task runs on if the caller stops waiting.
    async fn spawn_listener(self: &Arc<Self>, id: Arc<str>, stopped: oneshot::Receiver<()>) {
        let (subscribed, is_subscribed) = oneshot::channel();
        let cluster = self.clone();
        self.runtime.spawn(async move {
            let subscription = cluster.bus.subscribe(cluster.subjects.id(&id), true).await;
            // The caller may have stopped waiting.
            let _ = subscribed.send(());
            if let Ok(subscription) = subscription {
                let mut ended = cluster.ended.subscribe();
                tokio::select! {
                    () = listener::receive(&cluster, &id, subscription, stopped) => {}
                    _ = ended.wait_for(|ended| *ended) => {}
                }
            }
        });
        let _ = is_subscribed.await;
    }
}

/// An open question. Dropping it discards further answers.
struct OpenQuestion<'a> {
    cluster: &'a Cluster,
    number: u64,
    answers: mpsc::Receiver<Delivery>,
}

impl Drop for OpenQuestion<'_> {
    fn drop(&mut self) {
        self.cluster.questions.lock().remove(&self.number);
    }
}

/// Sends the notifications that were collected.
fn notify(broker: &Broker, outcomes: &mut Notifications) {
    let mut touched = Vec::new();
    broker.notify(outcomes, &mut touched);
    touched.iter().for_each(|handle| handle.flush());
}

#[cfg(test)]
pub(crate) mod tests;

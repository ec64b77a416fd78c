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
//! | `message` | all messages between brokers, and their format |
//! | `link` | the uplink of an outbox to another broker |
//! | `flow` | sender side of flow control, one link |
//! | `lanes` | sender side of flow control, all links to one broker |
//! | `lookups` | limit of concurrent lookups of unresolved ids |
//! | `claims` | the ids of this broker, and conflicts with claims of others |
//! | `acquire` | acquires the lease of an id among all brokers |
//! | `questions` | questions to other brokers that await answers |
//! | `peers` | the trait `Peers`, by which a broker uses the cluster |
//! | `remotes` | the handles of remote ids |
//! | `nodes` | the other brokers: names, epochs, liveness |
//! | `listener` | the subscription of a registered id, and its backlog |
//! | `credit` | receiver side of flow control |
//! | `inbound` | frames from other brokers for an id |
//! | `direct` | messages from other brokers for this broker: answers, failures, reports, credit |
//! | `probes` | probes of remote requests and receipts that may be lost |
//! | `handover` | handover of ids by a broker that drains |
//! | `repair` | anti-entropy: lost claims are detected and sent again |
//! | `broadcast` | sending and receiving of broadcasts |
//! | `presence` | members of topics and watched ids at other brokers |
//! | `topics` | messages to topics: subjects of patterns, publications |
//! | `patterns` | the subscriptions of NATS for patterns and groups |
//! | `overlaps` | order between subscriptions whose patterns match the same topic |
//! | `arrivals` | the order of messages to topics from each broker: copies, and late ones |
//! | `budget` | bound of the bytes on their way to other brokers |
//! | `topic_requests` | requests to topics: finds and asks the receivers at other brokers |
//! | `sharing` | moves waiting messages of a group to brokers whose members can take them |
//! | `search` | search for ids at all brokers |
//! | `task` | the cluster's task: connection state and periodic work |
//!
//! Lock order: `Claims::own` before `Claims::refused`; the table of remote ids or of nodes before that of
//! links. No other lock is taken while one of these is held, and none is held across an `.await`.

mod acquire;
mod arrivals;
mod broadcast;
mod budget;
pub(crate) mod bus;
mod claims;
mod credit;
mod direct;
mod flow;
mod handover;
mod inbound;
mod lanes;
mod link;
mod listener;
mod lookups;
pub(crate) mod message;
#[cfg(feature = "nats")]
pub(crate) mod nats;
mod nodes;
mod overlaps;
mod patterns;
mod peers;
mod presence;
mod probes;
mod questions;
mod remotes;
mod repair;
mod search;
mod sharing;
mod task;
mod topic_requests;
mod topics;

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
    sync::{Notify, oneshot, watch},
};

use crate::{
    broker::{Broker, handle::Handle, receipts::Receipts, requests::Notifications},
    options::NatsOptions,
};
use bus::{Bus, NodeId, ReplyAddress, Subjects};
use claims::{Claim, Claims, Clock};
use credit::CreditLedger;
use handover::Handover;
use lanes::Lanes;
use link::Link;
use lookups::LookupLimits;
use nodes::Nodes;
use patterns::Patterns;
use presence::Interests;
use probes::Probes;
use questions::Questions;
use remotes::Remotes;
use repair::{Repairs, Streams};
pub use search::Found;
use sharing::WaitingGroups;
pub(crate) use task::BusEvent;
use task::{ErrorThrottle, SubscriptionRounds};
use topics::Topics;

/// Timeout for answers of other brokers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for other brokers to renew their subscriptions after NATS was unreachable. Until then an id without a
/// subscription may still have an owner.
const RESUBSCRIBE_TIME: Duration = Duration::from_secs(2);
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
    questions: Questions,
    /// Claims to be broadcast next.
    queued_claims: Mutex<Vec<Claim>>,
    claims_queued: Notify,
    /// Number of publications of claims so far.
    published: AtomicU64,
    /// Anti-entropy of claims: publications received from other brokers, and repairs to send to them.
    streams: Streams,
    repairs: Repairs,
    handover: Handover,
    topics: Topics,
    patterns: Patterns,
    waiting_groups: Mutex<WaitingGroups>,
    interests: Interests,
    /// Wakes the task that publishes heartbeats.
    heartbeat_due: Notify,
    /// Wakes callers once their claim was received back from NATS; by the time of the claim.
    unconfirmed_claims: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    /// True once the subscriptions of all ids must end.
    ended: watch::Sender<bool>,
    /// Errors reported as events.
    errors: Mutex<ErrorThrottle>,
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
    /// Messages to topics that other brokers sent before others that arrived earlier: they are dropped.
    pub(crate) late: AtomicU64,
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
            questions: Questions::default(),
            queued_claims: Mutex::default(),
            claims_queued: Notify::new(),
            published: AtomicU64::new(0),
            streams: Streams::default(),
            repairs: Repairs::default(),
            handover: Handover::default(),
            topics: Topics::default(),
            patterns: Patterns::default(),
            waiting_groups: Mutex::default(),
            interests: Interests::default(),
            heartbeat_due: Notify::new(),
            unconfirmed_claims: Mutex::default(),
            ended: watch::channel(false).0,
            errors: Mutex::default(),
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
}

/// Sends the notifications that were collected.
fn notify(broker: &Broker, notifications: &mut Notifications) {
    let mut touched = Vec::new();
    broker.notify(notifications, &mut touched);
    touched.iter().for_each(|handle| handle.flush());
}

#[cfg(test)]
pub(crate) mod tests;

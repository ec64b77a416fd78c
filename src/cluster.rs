//! Many brokers as one: what is for an id that is not here goes to the broker where it is.
//!
//! To the rest of a broker a remote id is a [`Handle`] like any other. Its outbox writes to a `link`
//! in place of a socket, and so does that of a remote node, which stands for all who ask from there:
//! so holding of senders, requests, receipts and cancels are what they are on one broker. What
//! carries packets between brokers is a `bus`: NATS.
//!
//! - A subject per registered id, for which its owner's broker listens. What is published there and
//!   heard by nobody comes back as such: nobody has the id.
//! - A subject per broker, for answers, for what became of messages, and for how much was taken.
//! - A subject for all brokers: claims of ids, signs of life, questions to all.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `bus` | what is needed of NATS, and the names of subjects |
//! | `nats` | NATS (feature `nats`) |
//! | `packet`, `said` | what is in a message between brokers: frames; things said to all |
//! | `link` | the way of an outbox to another broker |
//! | `flow` | what is under way by a link |
//! | `lanes` | what all links to one broker share: how much is on its way, and who takes turns |
//! | `lookups` | how many ids that nobody may have a connection sends to at a time |
//! | `claims` | which ids are ours, and who wins where others claim them, too |
//! | `peers` | what a broker needs of the cluster |
//! | `remotes` | the handles of remote ids, and their end |
//! | `nodes` | the other brokers, the handles of who asks from there, and what is lost with one |
//! | `listener`, `tally` | who takes what comes for an id of ours; credit for what was taken |
//! | `inbound` | what comes: frames for an id, frames for this node |
//! | `probes` | what may have been lost is asked for |
//! | `handover` | messages for ids that leave a broker that drains |
//! | `repair` | claims that were lost on their way are detected and sent again |
//! | `talk` | what is said to all, and heard from them |
//! | `search` | which ids there are, at all brokers |
//! | `task` | what becomes of the connection, and what is done now and then |
//!
//! Locks: what is claimed before what is refused; a table of remote ids, or of nodes, before that of
//! links. No other is taken while one of these is held, and none across an `.await`.

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
use task::Listening;

/// How long a broker waits for an answer of others before it goes on without.
const ANSWER: Duration = Duration::from_secs(2);
/// How long brokers are given to listen again for all their ids, when NATS is back: an id that nobody
/// listens for is not one that nobody has.
const SETTLING: Duration = Duration::from_secs(2);
/// How long registrations at a broker that has just started wait for its first connection to NATS, and how
/// often they look.
const FIRST: Duration = Duration::from_secs(1);
const FIRST_STEP: Duration = Duration::from_millis(10);
/// How soon a question is put again that nobody heard then.
const AGAIN: Duration = Duration::from_millis(250);
/// Answers to one question that may wait to be looked at.
const ANSWERS: usize = 1024;

/// The other brokers, as one of them sees them.
pub(crate) struct Cluster {
    bus: Arc<dyn Bus>,
    subjects: Subjects,
    node: NodeId,
    name: String,
    /// The server closes when it cannot be reached for so long at the start.
    required: Option<Duration>,
    runtime: Runtime,
    broker: OnceLock<Weak<Broker>>,
    up: AtomicBool,
    epoch: AtomicU32,
    /// Since when there is a connection.
    since: Mutex<Instant>,
    /// That in which NATS was told all subscriptions, and that of which the embedder was told so.
    listened: AtomicU32,
    listening: Mutex<Listening>,
    reported_up_epoch: AtomicU32,
    clock: Clock,
    claims: Claims,
    receipts: Arc<Receipts>,
    remotes: Remotes,
    lanes: Arc<Lanes>,
    lookups: Arc<LookupLimits>,
    /// What connections wait for that look up as many ids as they may.
    gate: OnceLock<Arc<Handle>>,
    credits: CreditLedger,
    nodes: Nodes,
    probes: Probes,
    /// Those who wait for an answer that comes with their number.
    questions: Mutex<HashMap<u64, mpsc::Sender<Delivery>>>,
    /// Claims to be told, and those who wait until they have been heard, by their time.
    untold: Mutex<Vec<Claim>>,
    tells: Notify,
    /// How many times claims were published.
    published: AtomicU64,
    /// Publications of claims by others, and what others have missed of ours.
    streams: Streams,
    repairs: Repairs,
    handover: Handover,
    /// That it is time to say that we are there.
    beats: Notify,
    unheard: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    /// True once all that listens is to end.
    ended: watch::Sender<bool>,
    counters: Counters,
}

/// What a cluster has done so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Messages that came for ids here.
    pub(crate) received: AtomicU64,
    /// Messages that were for others while they could not be reached.
    pub(crate) unreachable: AtomicU64,
    /// Times that NATS or the way from it lost something for us.
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
        // Zero stands for nobody.
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
            since: Mutex::new(Instant::now()),
            listened: AtomicU32::new(0),
            listening: Mutex::default(),
            reported_up_epoch: AtomicU32::new(0),
            remotes: Remotes::default(),
            lanes: Arc::default(),
            lookups: Arc::default(),
            gate: OnceLock::new(),
            credits: CreditLedger::default(),
            nodes: Nodes::default(),
            probes: Probes::default(),
            questions: Mutex::default(),
            untold: Mutex::default(),
            tells: Notify::new(),
            published: AtomicU64::new(0),
            streams: Streams::default(),
            repairs: Repairs::default(),
            handover: Handover::default(),
            beats: Notify::new(),
            unheard: Mutex::default(),
            ended: watch::channel(false).0,
            counters: Counters::default(),
        })
    }

    /// The server that it belongs to; none once that has ended.
    fn broker(&self) -> Option<Arc<Broker>> {
        self.broker.get()?.upgrade()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Bytes of the largest frame that another broker can be sent, for this id.
    pub(crate) fn max_frame(&self, id: &str) -> usize {
        let head = packet::HEAD + id.len();
        self.bus.max_payload().saturating_sub(head)
    }

    /// True when NATS has been lost and is back only now: others may not listen yet for ids that are
    /// theirs.
    fn settles(&self) -> bool {
        self.epoch() > 1 && self.since.lock().elapsed() < SETTLING
    }

    /// Counts the times that this broker was heard without a loss in between.
    fn epoch(&self) -> u32 {
        self.epoch.load(Relaxed)
    }

    fn place(&self, number: u64) -> String {
        let node = self.node;
        self.subjects.place(ReplyAddress { node, number })
    }

    /// Makes an id ours, everywhere, for somebody with this principal; a participant is asked for none.
    /// Resolves when others send to us what is for it; without them it is ours here, and they hear of it
    /// later.
    ///
    /// Errors: `Conflict` if it is somebody else's at another broker; `Unavailable` if that cannot be decided
    /// now.
    pub(crate) fn claim(
        self: &Arc<Self>,
        id: Arc<str>,
        principal: Option<Arc<str>>,
        participant: bool,
    ) -> Task<Result<Lease, Denied>> {
        let cluster = self.clone();
        Box::pin(async move {
            cluster.first_connected().await;
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
            cluster.handover.forget(&id);
            // From here on it is given back when nobody holds it.
            let holder = Arc::downgrade(&cluster);
            let lease = Lease {
                id: id.clone(),
                time: stamp.time,
                holder,
            };
            let was_up = cluster.is_up();
            let claimed = cluster.claims.claim(claim.clone(), was_up);
            // Another principal may have come before, since it was looked for.
            let mut stopped = claimed.map_err(|AlreadyClaimed| Denied::Conflict)?;
            if cluster.is_up() && !was_up {
                // Whoever listened for all ids meanwhile may not have seen this one.
                stopped = cluster.claims.listen(&id);
            }
            if was_up || cluster.is_up() {
                let _ = timeout(ANSWER, cluster.make_known(claim, stopped)).await;
            }
            cluster.unheard.lock().remove(&stamp.time);
            match cluster.claims.lease_state(&lease) {
                LeaseState::Lost { conflict: true } => Err(Denied::Conflict),
                _ => Ok(lease),
            }
        })
    }

    /// Resolves when there is, or was, a connection to NATS, or it takes too long: who registers in the first
    /// moments of a broker is not told that others cannot be reached.
    async fn first_connected(&self) {
        if self.is_up() || self.epoch() > 0 {
            return;
        }
        let left = FIRST.saturating_sub(self.since.lock().elapsed());
        let connected = async {
            while !self.is_up() && self.epoch() == 0 {
                sleep(FIRST_STEP).await;
            }
        };
        let _ = timeout(left, connected).await;
    }

    /// Asks the broker where an id is whether this principal may have it.
    async fn ask_owner(&self, id: &str, principal: Option<&str>) -> Result<(), Denied> {
        loop {
            if !self.is_up() {
                return Ok(());
            }
            match timeout(ANSWER, self.ask_once(id, principal)).await {
                // Whoever has it may not listen yet.
                Ok(Some(answer)) if answer.unheard && self.settles() => sleep(AGAIN).await,
                // Nobody has it, or whoever has it lets it go.
                Ok(Some(answer)) if answer.unheard || *answer.payload == *b"yes" => return Ok(()),
                Ok(Some(_)) => return Err(Denied::Conflict),
                Ok(None) | Err(_) if self.is_up() => return self.expect_no_owner(id).await,
                Ok(None) | Err(_) => return Ok(()),
            }
        }
    }

    /// A broker has subscribed to an id and does not answer. It holds the id until nothing was heard of it for
    /// so long that it counts as dead; NATS may keep its subscription for minutes.
    ///
    /// Errors: `Unavailable` if a broker that is not dead may have the id.
    async fn expect_no_owner(&self, id: &str) -> Result<(), Denied> {
        let found = self.find(Some(id), ANSWER).await;
        match found.ids.is_empty() && found.silent.is_empty() {
            true => Ok(()),
            false => Err(Denied::Unavailable),
        }
    }

    async fn ask_once(&self, id: &str, principal: Option<&str>) -> Option<Delivery> {
        let mut question = self.question();
        let publication = Publication {
            subject: self.subjects.to(id),
            reply: Some(self.place(question.number)),
            payload: packet::question(id, principal).into(),
        };
        self.bus.publish(publication).await;
        question.answers.recv().await
    }

    /// A number for a question, and where its answers come.
    fn question(&self) -> Asked<'_> {
        let number = self.broker().map_or(u64::MAX, |broker| broker.next_key());
        let (sender, answers) = mpsc::channel(ANSWERS);
        self.questions.lock().insert(number, sender);
        Asked {
            cluster: self,
            number,
            answers,
        }
    }

    /// Listens for an id of ours and has all told of its claim, whether somebody waits for that or not.
    /// Resolves when the claim has been heard, by ourselves as by others; or is lost before.
    async fn make_known(self: &Arc<Self>, claim: Claim, stopped: Option<oneshot::Receiver<()>>) {
        let (sender, heard) = oneshot::channel();
        self.unheard.lock().insert(claim.stamp.time, sender);
        let cluster = self.clone();
        self.runtime.spawn(async move {
            if let Some(stopped) = stopped {
                cluster.listen(claim.id.clone(), stopped).await;
            }
            if cluster.claims.holds(&claim.id, claim.stamp.time) {
                cluster.queue_claims([claim]);
            } else {
                // Of one that is lost already nobody need hear, and nobody waits for that.
                cluster.unheard.lock().remove(&claim.stamp.time);
            }
        });
        let _ = heard.await;
    }

    /// Listens for what is for an id, until it is told to stop. Resolves when NATS was asked; whoever
    /// does not wait for that changes nothing.
    async fn listen(self: &Arc<Self>, id: Arc<str>, stopped: oneshot::Receiver<()>) {
        let (asked, is_asked) = oneshot::channel();
        let cluster = self.clone();
        self.runtime.spawn(async move {
            let inlet = cluster.bus.subscribe(cluster.subjects.to(&id), true).await;
            // Nobody may wait for it any more.
            let _ = asked.send(());
            if let Ok(inlet) = inlet {
                let mut ended = cluster.ended.subscribe();
                tokio::select! {
                    () = listener::receive(&cluster, &id, inlet, stopped) => {}
                    _ = ended.wait_for(|ended| *ended) => {}
                }
            }
        });
        let _ = is_asked.await;
    }
}

/// A question whose answers come with its number, as long as somebody waits for them.
struct Asked<'a> {
    cluster: &'a Cluster,
    number: u64,
    answers: mpsc::Receiver<Delivery>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.cluster.questions.lock().remove(&self.number);
    }
}

/// Tells what was collected.
fn notify(broker: &Broker, outcomes: &mut Notifications) {
    let mut touched = Vec::new();
    broker.notify(outcomes, &mut touched);
    touched.iter().for_each(|handle| handle.flush());
}

#[cfg(test)]
pub(crate) mod tests;

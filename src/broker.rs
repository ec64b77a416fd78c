//! State and decisions of one broker: owners of ids, admission of messages, pending requests. It has no
//! sockets and no tasks; time is an argument or read once per decision.
//!
//! | file | contents |
//! | --- | --- |
//! | `handle` | a connection as other connections use it: outbox, flags and requests |
//! | `registry` | owner of each id |
//! | `delivery` | admission: accept, backpressure, drop, or close the receiver |
//! | `kept` | topics whose messages are kept: their rules and logs |
//! | `mailboxes` | messages that wait for a receiver until it has acknowledged them |
//! | `topics` | subscriptions: which connections get a message to a topic |
//! | `presence` | members of topics, ids that are online, and who watches them |
//! | `requests` | pending requests and how each ends |
//! | `answers` | handling of answers and refusals |
//! | `notifications` | failures to askers, cancellations to responders |
//! | `sessions` | registrations that outlive their socket |
//! | `receipts` | receipts that wait for reports of other brokers |
//! | `principals` | principals whose connections were closed recently |
//! | `recent` | the connections that were closed last |
//! | `lease` | the right of a connection to an id within the cluster |
//! | `peers` | the trait through which a broker uses other brokers; `cluster` implements it |

pub(crate) mod answers;
pub(crate) mod delivery;
pub(crate) mod handle;
pub(crate) mod kept;
pub(crate) mod lease;
pub(crate) mod mailboxes;
mod notifications;
pub(crate) mod peers;
pub(crate) mod presence;
pub(crate) mod principals;
pub(crate) mod receipts;
pub(crate) mod recent;
pub(crate) mod registry;
pub(crate) mod requests;
pub(crate) mod sessions;
pub(crate) mod topics;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    auth::{Authenticator, Authorizer},
    event::{ServerEvent, ServerListener},
    memory::Memory,
    metrics::{Metrics, Outboxes, Stats},
    options::ServerOptions,
    transport::{outbox::Pushed, socket::WriteHalf},
};
use handle::{Close, Handle};
use kept::KeptTopics;
use mailboxes::Mailboxes;
use peers::Peers;
use presence::Presence;
use principals::EndedPrincipals;
use recent::RecentlyClosed;
use registry::Registry;
use sessions::Sessions;
use topics::Topics;

/// State of one broker, shared by all its connections.
pub(crate) struct Broker {
    pub(crate) options: ServerOptions,
    pub(crate) registry: Registry,
    pub(crate) topics: Topics,
    pub(crate) kept: KeptTopics,
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) presence: Presence,
    pub(crate) sessions: Sessions,
    pub(crate) metrics: Metrics,
    pub(crate) memory: Arc<Memory>,
    pub(crate) authenticator: Authenticator,
    /// The hook for subscriptions that a grant does not cover, if there is one.
    pub(crate) authorizer: Option<Authorizer>,
    pub(crate) listener: Box<dyn ServerListener>,
    /// The other brokers, if this one is in a cluster.
    pub(crate) peers: Option<Arc<dyn Peers>>,
    pub(crate) ended: EndedPrincipals,
    pub(crate) recently_closed: RecentlyClosed,
    connections: Mutex<HashMap<u64, Arc<Handle>>>,
    next_key: AtomicU64,
    /// Start and maximum duration of a drain, if one has begun.
    draining: Mutex<Option<(Instant, Duration)>>,
    /// True once the broker is about to drain or to close: new clients should connect elsewhere.
    leaving: AtomicBool,
    /// True once the broker closes. Each task keeps a receiver: all have ended when the last receiver is
    /// dropped.
    closing: watch::Sender<bool>,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Broker {
    pub(crate) fn new(
        options: ServerOptions,
        authenticator: Authenticator,
        memory: Arc<Memory>,
        listener: Box<dyn ServerListener>,
        peers: Option<Arc<dyn Peers>>,
        (kept, mailboxes): (KeptTopics, Arc<Mailboxes>),
    ) -> Arc<Self> {
        Arc::new(Self {
            registry: Registry::new(&options, memory.clone()),
            topics: Topics::new(peers.clone()),
            kept,
            mailboxes,
            presence: Presence::new(&options, &memory, peers.clone()),
            sessions: Sessions::default(),
            metrics: Metrics::default(),
            memory,
            authenticator,
            authorizer: Authorizer::new(&options.authorization),
            listener,
            peers,
            ended: EndedPrincipals::default(),
            recently_closed: RecentlyClosed::default(),
            connections: Mutex::default(),
            next_key: AtomicU64::new(1),
            draining: Mutex::default(),
            leaving: AtomicBool::new(false),
            closing: watch::channel(false).0,
            options,
        })
    }

    /// Ends all tasks of the broker and asks every connection to close.
    pub(crate) fn close(&self) {
        self.leave();
        self.closing.send_replace(true);
        for handle in self.handles() {
            handle.request_close(Close::GoingAway);
        }
    }

    /// Signal that becomes true when the broker closes. The broker counts as closed when the last receiver
    /// is dropped.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Resolves when the broker is closed and all its tasks have ended.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let closing = self.closing.clone();
        async move { closing.closed().await }
    }

    /// Counts a connection after its handshake. False if `max_connections` is reached or memory is short.
    pub(crate) fn count_connection(&self) -> bool {
        if self.memory.is_short() {
            return false;
        }
        let max = self.options.max_connections;
        self.metrics
            .connections
            .fetch_update(Relaxed, Relaxed, |count| (count < max).then_some(count + 1))
            .is_ok()
    }

    /// Adds a connection to those found by key.
    pub(crate) fn add_connection(&self, handle: &Arc<Handle>) {
        self.connections.lock().insert(handle.key, handle.clone());
        // The broker may have closed before the handle was added.
        if *self.closing.borrow() {
            handle.request_close(Close::GoingAway);
        }
    }

    /// Removes a connection that has ended.
    pub(crate) fn remove_connection(&self, handle: &Handle) {
        let removed = self.connections.lock().remove(&handle.key);
        if removed.is_some_and(|handle| !handle.participant) {
            if !handle.is_suspended() {
                self.metrics.connections.fetch_sub(1, Relaxed);
            }
            let written = handle.outbox.written();
            self.metrics.sent_bytes.fetch_add(written, Relaxed);
        }
    }

    /// Counters since the start, and current values.
    pub(crate) fn stats(&self) -> Stats {
        let Self {
            options, registry, ..
        } = self;
        let (sessions, sessions_suspended) = self.sessions.count();
        let (kept, mail) = (self.kept.stats(), self.mailboxes.stats());
        let store = self.kept.store_stats();
        Stats {
            sessions,
            sessions_suspended,
            registered: registry.count(),
            kept: kept.messages,
            kept_bytes: kept.bytes,
            trimmed: kept.trimmed,
            store_pending: store.pending,
            store_bytes: store.bytes,
            store_failed: store.has_failed,
            not_stored: store.not_stored,
            store_writes: store.writes,
            replays: self.kept.replays.load(Relaxed),
            mail: mail.messages,
            mail_bytes: mail.bytes,
            mail_refused: self.mailboxes.counters.full.load(Relaxed),
            redelivered: self.mailboxes.counters.redelivered.load(Relaxed),
            dead_letters: self.mailboxes.counters.dead.load(Relaxed),
            subscriptions: self.topics.count(),
            topics: self.topics.topics(),
            patterns: self.topics.patterns(),
            members: self.presence.members(),
            pending: registry.requests.count(),
            memory: self.memory.used(),
            max_connections: options.max_connections,
            max_memory: options.max_memory,
            draining: self.draining.lock().is_some(),
            requests: registry.requests.outcomes(),
            request_duration: registry.requests.durations(),
            host: self.listener.host_stats(),
            cluster: self.peers.as_ref().map(|peers| peers.stats()),
            ..self.metrics.snapshot(self.outboxes())
        }
    }

    /// Sums over the outboxes of all clients.
    fn outboxes(&self) -> Outboxes {
        // First: a connection that ends meanwhile is then missing in this sum, and is not counted twice.
        let ended = self.metrics.sent_bytes.load(Relaxed);
        let mut outboxes = Outboxes::default();
        for handle in self.handles().iter().filter(|handle| !handle.participant) {
            outboxes.bytes += handle.outbox.waiting();
            outboxes.full += usize::from(handle.outbox.is_full());
            outboxes.written += handle.outbox.written();
        }
        // A counter never falls.
        let written = ended + outboxes.written;
        let former = self.metrics.most_sent_bytes.fetch_max(written, Relaxed);
        outboxes.written = written.max(former);
        outboxes
    }

    /// Number of connections, including the participant.
    pub(crate) fn connection_count(&self) -> usize {
        self.connections.lock().len()
    }

    pub(crate) fn handles(&self) -> Vec<Arc<Handle>> {
        self.connections.lock().values().cloned().collect()
    }

    pub(crate) fn handle_of(&self, key: u64) -> Option<Arc<Handle>> {
        self.connections.lock().get(&key).cloned()
    }

    /// Handle of a new connection.
    pub(crate) fn new_handle(&self, write: WriteHalf) -> Handle {
        let mark = self.options.max_backpressure;
        Handle::new(self.next_key(), write, mark, self.memory.clone())
    }

    /// Handle of an id at another broker, or of another broker. `mark`: high-water mark of its outbox in
    /// bytes, if lower than `max_backpressure`.
    pub(crate) fn new_remote_handle(&self, key: u64, write: WriteHalf, mark: usize) -> Handle {
        let mark = mark.min(self.options.max_backpressure);
        Handle::new(key, write, mark, self.memory.clone()).of_remote()
    }

    /// Number unique within this broker.
    pub(crate) fn next_key(&self) -> u64 {
        self.next_key.fetch_add(1, Relaxed)
    }

    /// Announces that the broker is about to drain or to close. Nothing else changes.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    /// True once the broker is about to drain or to close.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// Starts to drain: sends `goaway` to all connections of version 2, and to those that register later.
    pub(crate) fn begin_drain(&self, within: Duration) {
        *self.draining.lock() = Some((Instant::now(), within));
        if let Some(peers) = &self.peers {
            peers.announce_drain();
        }
        for handle in self.handles() {
            if handle.warn(within) == Pushed::NeedsFlush {
                handle.flush();
            }
        }
    }

    /// Time left of the drain; none if the broker does not drain.
    pub(crate) fn drains_for(&self) -> Option<Duration> {
        let draining = *self.draining.lock();
        draining.map(|(since, within)| within.saturating_sub(since.elapsed()))
    }

    /// True if no request is pending, all outboxes are empty, and all connections that were sent `goaway`
    /// have closed.
    pub(crate) fn is_drained(&self) -> bool {
        let is_done = |handle: &Arc<Handle>| {
            handle.outbox.waiting() == 0 && (handle.participant || !handle.is_warned())
        };
        let hands_over = |peers: &Arc<dyn Peers>| peers.hands_over();
        self.registry.requests.count() == 0
            && self.handles().iter().all(is_done)
            // Checked last: a connection hands its id over before it ends.
            && !self.peers.as_ref().is_some_and(hands_over)
    }

    /// Ends the registration with this number and emits `Unregistered`. `announce` runs before the id can
    /// be registered again. False if the registration had ended already.
    pub(crate) fn end_registration(&self, id: &str, number: u64, announce: impl FnOnce()) -> bool {
        let former = self.registry.end_registration(id, number, || {
            self.listener.event(ServerEvent::Unregistered(id));
            announce();
        });
        if let Some(former) = &former {
            self.end_subscriptions(former);
            (self.presence).id_changed(id, &self.registry, former.has_left());
        }
        former.is_some()
    }
}

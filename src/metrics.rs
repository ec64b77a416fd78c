//! Metrics of a server: counters, gauges and histograms.
//!
//! | file | contents |
//! | --- | --- |
//! | `metrics` | the live metrics, and a snapshot of them |
//! | `counters` | counters by label, and histograms |
//! | `families` | name, type, meaning and value of each metric |
//! | `exposition` | all metrics as text for Prometheus |
//! | `process` | metrics of the process as such a text |

mod counters;
mod exposition;
mod families;
mod process;

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use crate::error::ActionError;
pub use counters::{BOUNDS, ByLabel, Times};
pub(crate) use counters::{Counters, Histogram};
pub use exposition::Format;
pub use families::{FAMILIES, Family, Kind, Value};
pub(crate) use process::exposition as process;

/// The live metrics. Connections update them once per turn, not per message.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: AtomicUsize,
    /// By `ACCEPTED`.
    accepted: Counters<{ ACCEPTED.len() }>,
    pub(crate) handed_over: AtomicU64,
    pub(crate) bridged: AtomicU64,
    /// By `REFUSED`.
    refused: Counters<{ REFUSED.len() }>,
    /// By `CloseReason`.
    closed: Counters<{ CloseReason::NAMES.len() }>,
    pub(crate) turns: TurnCounters,
    /// Bytes written to connections that have ended.
    pub(crate) sent_bytes: AtomicU64,
    /// Bytes written to all connections, as of the last snapshot.
    pub(crate) most_sent_bytes: AtomicU64,
    pub(crate) unknown_ids: AtomicU64,
    pub(crate) without_subscriber: AtomicU64,
    /// By code.
    errors: Counters<{ ActionError::CODES.len() }>,
    pub(crate) dropped: AtomicU64,
    pub(crate) throttled: AtomicU64,
    pub(crate) sessions_resumed: AtomicU64,
    /// Sessions that ended while they had no socket.
    pub(crate) sessions_ended: AtomicU64,
    pub(crate) senders_held: AtomicUsize,
    pub(crate) sender_hold: Histogram,
    pub(crate) routing: Histogram,
    pub(crate) authenticate: Histogram,
}

/// The counters that each turn of each connection adds to. On cache lines of their own: the threads write them all the
/// time, and would take the fields beside them from each other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct TurnCounters {
    pub(crate) messages_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
    /// Bytes of the messages in `messages_in`.
    pub(crate) received_bytes: AtomicU64,
}

/// Values of the label `via` of accepted WebSockets: the own port, or the HTTP server of the embedder, by the descriptor
/// of its socket or by a bridge.
const ACCEPTED: [&str; 3] = ["port", "attach", "bridge"];

/// Values of the label `status` of refused handshakes: an HTTP status; `tls` if the TLS handshake failed; `dropped` if
/// the socket was closed without an answer.
const REFUSED: [&str; 11] = [
    "400", "401", "403", "404", "405", "408", "426", "431", "503", "tls", "dropped",
];

/// Why a WebSocket was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client has closed it.
    Client,
    /// The connection was lost.
    Lost,
    /// The server closes.
    GoingAway,
    /// The client was a slow consumer.
    Slow,
    /// Memory was short, and this connection held the most.
    Memory,
    /// The client did not register in time.
    NotRegistered,
    /// The client violated the WebSocket protocol, or exceeded a limit of messages.
    Violation,
    /// The client sent too many control frames or invalid actions.
    TooMany,
    /// Its registration was denied or revoked.
    Denied,
    /// The client did not respond to a ping.
    Dead,
    /// The embedder has closed it.
    Requested,
}

impl CloseReason {
    /// The names of all reasons, in their order.
    pub const NAMES: [&'static str; 11] = [
        "client",
        "lost",
        "going_away",
        "slow",
        "memory",
        "not_registered",
        "violation",
        "too_many",
        "denied",
        "dead",
        "requested",
    ];

    /// The name, such as `going_away`.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// A snapshot of a server's metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Open WebSockets.
    pub connections: usize,
    /// Registered ids.
    pub registered: usize,
    /// Requests that await an answer.
    pub pending: usize,
    /// Bytes held by buffers and tables, as counted by `max_memory`.
    pub memory: usize,
    /// WebSockets accepted so far.
    pub accepted: u64,
    /// Sockets taken over so far from an HTTP server, by their descriptor.
    pub handed_over: u64,
    /// Sockets taken over so far from an HTTP server that reads and writes them.
    pub bridged: u64,
    /// Handshakes refused so far.
    pub refused: u64,
    /// Actions received so far.
    pub messages_in: u64,
    /// Messages and answers queued so far for a receiver, or for its broker.
    pub messages_out: u64,
    /// Bytes of the actions received so far, without frame headers.
    pub received_bytes: u64,
    /// Bytes written to clients so far, with frame headers, without TLS.
    pub sent_bytes: u64,
    /// Messages to unknown ids so far.
    pub unknown_ids: u64,
    /// Messages to topics without a subscriber.
    pub without_subscriber: u64,
    /// Subscriptions of all connections.
    pub subscriptions: usize,
    /// Topics that are subscribed to by their names.
    pub topics: usize,
    /// Distinct patterns with wildcards.
    pub patterns: usize,
    /// Members of topics: subscriptions that take part in presence.
    pub members: usize,
    /// Sessions of clients.
    pub sessions: usize,
    /// Sessions that have no socket at present.
    pub sessions_suspended: usize,
    /// Number of times so far that a session continued on another socket.
    pub sessions_resumed: u64,
    /// Sessions that ended so far because their client was not back in time, or because they held too much.
    pub sessions_ended: u64,
    /// Messages that are kept now.
    pub kept: u64,
    /// Bytes of them, with what the broker holds for each.
    pub kept_bytes: u64,
    /// Kept messages trimmed so far, because of a limit of their rule or because memory was short.
    pub trimmed: u64,
    /// Messages that wait for the disk (`store`).
    pub store_pending: u64,
    /// Bytes of the file of the store.
    pub store_bytes: u64,
    /// True if the store has failed: messages are not stored any more.
    pub store_failed: bool,
    /// Messages so far that were not stored: the store had failed, or too many waited for the disk.
    pub not_stored: u64,
    /// How long writes of the store took, each with its sync.
    pub store_writes: Times,
    /// Times so far that a subscription has got messages from a log.
    pub replays: u64,
    /// Messages that wait in mailboxes now.
    pub mail: u64,
    /// Bytes of these.
    pub mail_bytes: u64,
    /// Messages refused so far because a mailbox was full.
    pub mail_refused: u64,
    /// Messages of mailboxes delivered again so far.
    pub redelivered: u64,
    /// Messages removed from mailboxes so far because they were delivered too often.
    pub dead_letters: u64,
    /// Actions refused so far.
    pub errors: u64,
    /// Connections closed so far for violating the WebSocket protocol, or for exceeding `maxPayload`,
    /// `maxFragments`, `maxControlFrames` or `maxProtocolErrors`.
    pub violations: u64,
    /// Slow consumers closed so far.
    pub slow: u64,
    /// Messages to slow consumers dropped so far.
    pub dropped: u64,
    /// Connections closed so far because memory was short.
    pub evicted: u64,
    /// Dead connections detected so far by heartbeats.
    pub dead: u64,
    /// Connections closed so far because they did not register in time.
    pub unregistered: u64,
    /// Connections closed so far because their registration was denied or revoked.
    pub denied: u64,
    /// Number of times that a connection has exceeded its `rateLimit` so far.
    pub throttled: u64,
    /// Maximum number of open WebSockets.
    pub max_connections: usize,
    /// Maximum of `memory`.
    pub max_memory: usize,
    /// True while the broker drains.
    pub draining: bool,
    /// `accepted` by where the socket came from: `port`, `attach` or `bridge`.
    pub accepted_by: ByLabel,
    /// `refused` by HTTP status, `tls` or `dropped`.
    pub refused_by: ByLabel,
    /// WebSockets closed so far, by [`CloseReason`].
    pub closed: ByLabel,
    /// `errors` by the code of the error.
    pub errors_by: ByLabel,
    /// Requests that have ended so far, by outcome: `answered`, `rejected`, `timeout`, `cancelled`, `gone`, `slow`,
    /// `unknown_id`, `cluster_down`.
    pub requests: ByLabel,
    /// Time from a request to its last wanted answer.
    pub request_duration: Times,
    /// Connections that are not read because the queue of a receiver is full.
    pub senders_held: usize,
    /// Times for which connections were not read for that reason.
    pub sender_hold: Times,
    /// Bytes queued for clients.
    pub outbox_bytes: usize,
    /// Connections whose queue is full.
    pub outbox_full: usize,
    /// Times from reading messages of a connection to writing them, in one turn of eight.
    pub routing: Times,
    /// Times in which the embedder decided registrations.
    pub authenticate: Times,
    /// The metrics of the embedder; none if it has none.
    pub host: Option<HostStats>,
    /// The metrics of its cluster membership; none without a cluster.
    pub cluster: Option<ClusterStats>,
}

/// How far the embedder is behind with the events of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostStats {
    /// Bytes of events that it has not handled.
    pub pending_bytes: usize,
    /// The time for which the oldest of them waits.
    pub lag: Duration,
    /// Events so far that were counted instead of handed over.
    pub dropped: u64,
}

/// The metrics of a server's cluster membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterStats {
    /// True while connected to NATS.
    pub connected: bool,
    /// Known brokers, including this one.
    pub brokers: usize,
    /// Ids claimed by this broker: subscriptions.
    pub claims: usize,
    /// Ids at other brokers that were sent to recently.
    pub remotes: usize,
    /// Messages received so far from other brokers for local ids.
    pub received: u64,
    /// Messages to ids of other brokers that failed so far because NATS was unreachable or memory was short.
    pub unreachable: u64,
    /// Number of times so far that NATS sent more than could be accepted, so that messages were lost.
    pub lagged: u64,
    /// Messages to topics dropped so far because later ones of the same broker and topic had arrived before.
    pub late: u64,
    /// Number of lost connections to NATS so far.
    pub lost: u64,
}

/// Values that a broker determines at the time of a snapshot.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outboxes {
    /// Bytes queued.
    pub(crate) bytes: usize,
    /// Number of those that are full.
    pub(crate) full: usize,
    /// Bytes written to all connections since the start.
    pub(crate) written: u64,
}

impl Metrics {
    /// Counts a WebSocket. `via`: of `ACCEPTED`.
    pub(crate) fn accepted(&self, via: &str) {
        let index = ACCEPTED.iter().position(|name| *name == via);
        self.accepted.add(index.unwrap_or_default());
    }

    /// Counts a socket that did not become a WebSocket. `status`: an HTTP status, `tls` or `dropped`.
    pub(crate) fn refused(&self, status: &str) {
        let index = REFUSED.iter().position(|name| *name == status);
        self.refused.add(index.unwrap_or_default());
    }

    /// The label of a refusal by an HTTP status. A status without a label of its own has the first one.
    pub(crate) fn refused_label(status: u16) -> &'static str {
        let status = status.to_string();
        let known = REFUSED.iter().find(|label| **label == status);
        known.unwrap_or(&REFUSED[0])
    }

    /// Counts a connection that has ended.
    pub(crate) fn closed(&self, reason: CloseReason) {
        self.closed.add(reason as usize);
    }

    /// Counts an action that was refused.
    pub(crate) fn error(&self, error: &ActionError) {
        let code = error.code();
        let index = ActionError::CODES.iter().position(|known| *known == code);
        self.errors.add(index.unwrap_or_default());
    }

    /// The metrics that are counted here.
    pub(crate) fn snapshot(&self, outboxes: Outboxes) -> Stats {
        let accepted_by = self.accepted.snapshot(&ACCEPTED);
        let refused_by = self.refused.snapshot(&REFUSED);
        let closed = self.closed.snapshot(&CloseReason::NAMES);
        let errors_by = self.errors.snapshot(&ActionError::CODES);
        let ended = |reason: CloseReason| closed.get(reason.name());
        Stats {
            connections: self.connections.load(Relaxed),
            accepted: accepted_by.sum(),
            handed_over: self.handed_over.load(Relaxed),
            bridged: self.bridged.load(Relaxed),
            refused: refused_by.sum(),
            messages_in: self.turns.messages_in.load(Relaxed),
            messages_out: self.turns.messages_out.load(Relaxed),
            received_bytes: self.turns.received_bytes.load(Relaxed),
            sent_bytes: outboxes.written,
            unknown_ids: self.unknown_ids.load(Relaxed),
            without_subscriber: self.without_subscriber.load(Relaxed),
            sessions_resumed: self.sessions_resumed.load(Relaxed),
            sessions_ended: self.sessions_ended.load(Relaxed),
            errors: errors_by.sum(),
            violations: ended(CloseReason::Violation) + ended(CloseReason::TooMany),
            slow: ended(CloseReason::Slow),
            dropped: self.dropped.load(Relaxed),
            evicted: ended(CloseReason::Memory),
            dead: ended(CloseReason::Dead),
            unregistered: ended(CloseReason::NotRegistered),
            denied: ended(CloseReason::Denied),
            throttled: self.throttled.load(Relaxed),
            accepted_by,
            refused_by,
            closed,
            errors_by,
            senders_held: self.senders_held.load(Relaxed),
            sender_hold: self.sender_hold.snapshot(),
            outbox_bytes: outboxes.bytes,
            outbox_full: outboxes.full,
            routing: self.routing.snapshot(),
            authenticate: self.authenticate.snapshot(),
            ..Stats::default()
        }
    }
}

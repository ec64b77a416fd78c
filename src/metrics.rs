//! Metrics of a server: counters and gauges.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The live counters. Connections update them once per batch, not per message.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: AtomicUsize,
    pub(crate) accepted: AtomicU64,
    pub(crate) handed_over: AtomicU64,
    pub(crate) bridged: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) messages_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
    pub(crate) unknown_ids: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) violations: AtomicU64,
    pub(crate) slow: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) unregistered: AtomicU64,
    pub(crate) denied: AtomicU64,
    pub(crate) throttled: AtomicU64,
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
    /// Messages to unknown ids so far.
    pub unknown_ids: u64,
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
    /// The metrics of its cluster membership; none without a cluster.
    pub cluster: Option<ClusterStats>,
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
    /// Number of lost connections to NATS so far.
    pub lost: u64,
}

impl Metrics {
    pub(crate) fn snapshot(&self, registered: usize, pending: usize, memory: usize) -> Stats {
        Stats {
            connections: self.connections.load(Relaxed),
            registered,
            pending,
            memory,
            accepted: self.accepted.load(Relaxed),
            handed_over: self.handed_over.load(Relaxed),
            bridged: self.bridged.load(Relaxed),
            refused: self.refused.load(Relaxed),
            messages_in: self.messages_in.load(Relaxed),
            messages_out: self.messages_out.load(Relaxed),
            unknown_ids: self.unknown_ids.load(Relaxed),
            errors: self.errors.load(Relaxed),
            violations: self.violations.load(Relaxed),
            slow: self.slow.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            dead: self.dead.load(Relaxed),
            unregistered: self.unregistered.load(Relaxed),
            denied: self.denied.load(Relaxed),
            throttled: self.throttled.load(Relaxed),
            cluster: None,
        }
    }
}

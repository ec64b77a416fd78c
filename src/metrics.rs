//! Counters of a server.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The live counters; connections add to them once a batch, not once a message.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: AtomicUsize,
    pub(crate) accepted: AtomicU64,
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

/// What a server has done so far, and what it holds now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// WebSockets open now.
    pub connections: usize,
    /// Ids registered now.
    pub registered: usize,
    /// Requests that await an answer now.
    pub pending: usize,
    /// Bytes that buffers and tables hold now, as `max_memory` counts them.
    pub memory: usize,
    /// WebSockets accepted so far.
    pub accepted: u64,
    /// Handshakes refused so far.
    pub refused: u64,
    /// Actions read so far.
    pub messages_in: u64,
    /// Messages and answers queued for a receiver, or for its broker, so far.
    pub messages_out: u64,
    /// Messages to an id that nobody had so far.
    pub unknown_ids: u64,
    /// Actions that could not be carried out so far.
    pub errors: u64,
    /// Connections closed for breaking the WebSocket protocol, or for exceeding `maxPayload`,
    /// `maxFragments`, `maxControlFrames` or `maxProtocolErrors`, so far.
    pub violations: u64,
    /// Connections closed because they did not read so far.
    pub slow: u64,
    /// Messages dropped for receivers that did not read so far.
    pub dropped: u64,
    /// Connections closed because memory was short so far.
    pub evicted: u64,
    /// Connections found dead by their silence so far.
    pub dead: u64,
    /// Connections closed because they did not register in time so far.
    pub unregistered: u64,
    /// Connections closed because they may not do what they wanted so far.
    pub denied: u64,
    /// Times that a connection had used up its `rateLimit` so far.
    pub throttled: u64,
    /// Its part in a cluster; none where there is none.
    pub cluster: Option<ClusterStats>,
}

/// The part of a server in its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterStats {
    /// NATS can be reached now.
    pub connected: bool,
    /// Brokers known now, itself included.
    pub brokers: usize,
    /// Ids claimed here now: subscriptions.
    pub claims: usize,
    /// Ids at other brokers that were sent to lately.
    pub remotes: usize,
    /// Messages that came from other brokers for ids here so far.
    pub received: u64,
    /// Messages for ids not here, while NATS could not be reached or memory was short, so far.
    pub unreachable: u64,
    /// Times that NATS sent more than could be taken so far.
    pub lagged: u64,
    /// Times that the connection to NATS was lost so far.
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

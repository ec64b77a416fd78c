//! Converts the metrics of a server for JavaScript.

use std::collections::HashMap;

use napi_derive::napi;

use crate::{ByLabel, ClusterStats, Stats};

/// The counters of a server.
#[napi(object)]
pub struct NativeStats {
    pub connections: f64,
    pub registered: f64,
    pub pending: f64,
    pub memory: f64,
    pub accepted: f64,
    pub handed_over: f64,
    pub bridged: f64,
    pub refused: f64,
    pub messages_in: f64,
    pub messages_out: f64,
    pub unknown_ids: f64,
    pub subscriptions: f64,
    pub members: f64,
    pub kept: f64,
    pub kept_bytes: f64,
    pub trimmed: f64,
    pub store_pending: f64,
    pub store_bytes: f64,
    pub not_stored: f64,
    pub replays: f64,
    pub mail: f64,
    pub mail_bytes: f64,
    pub mail_refused: f64,
    pub redelivered: f64,
    pub dead_letters: f64,
    pub without_subscriber: f64,
    pub sessions: f64,
    pub sessions_suspended: f64,
    pub sessions_resumed: f64,
    pub sessions_ended: f64,
    pub errors: f64,
    pub violations: f64,
    pub slow: f64,
    pub dropped: f64,
    pub evicted: f64,
    pub dead: f64,
    pub unregistered: f64,
    pub denied: f64,
    pub throttled: f64,
    pub received_bytes: f64,
    pub sent_bytes: f64,
    pub closed: HashMap<String, f64>,
    pub requests: HashMap<String, f64>,
    pub senders_held: f64,
    pub outbox_bytes: f64,
    pub cluster: Option<NativeClusterStats>,
}

/// The counters of a server's cluster connection.
#[napi(object)]
pub struct NativeClusterStats {
    pub connected: bool,
    pub brokers: f64,
    pub claims: f64,
    pub remotes: f64,
    pub received: f64,
    pub unreachable: f64,
    pub lagged: f64,
    pub late: f64,
    pub lost: f64,
}

impl From<ClusterStats> for NativeClusterStats {
    fn from(stats: ClusterStats) -> Self {
        Self {
            connected: stats.connected,
            brokers: stats.brokers as f64,
            claims: stats.claims as f64,
            remotes: stats.remotes as f64,
            received: stats.received as f64,
            unreachable: stats.unreachable as f64,
            lagged: stats.lagged as f64,
            late: stats.late as f64,
            lost: stats.lost as f64,
        }
    }
}

impl From<Stats> for NativeStats {
    fn from(stats: Stats) -> Self {
        Self {
            connections: stats.connections as f64,
            registered: stats.registered as f64,
            pending: stats.pending as f64,
            memory: stats.memory as f64,
            accepted: stats.accepted as f64,
            handed_over: stats.handed_over as f64,
            bridged: stats.bridged as f64,
            refused: stats.refused as f64,
            messages_in: stats.messages_in as f64,
            messages_out: stats.messages_out as f64,
            unknown_ids: stats.unknown_ids as f64,
            subscriptions: stats.subscriptions as f64,
            members: stats.members as f64,
            kept: stats.kept as f64,
            kept_bytes: stats.kept_bytes as f64,
            trimmed: stats.trimmed as f64,
            store_pending: stats.store_pending as f64,
            store_bytes: stats.store_bytes as f64,
            not_stored: stats.not_stored as f64,
            replays: stats.replays as f64,
            mail: stats.mail as f64,
            mail_bytes: stats.mail_bytes as f64,
            mail_refused: stats.mail_refused as f64,
            redelivered: stats.redelivered as f64,
            dead_letters: stats.dead_letters as f64,
            without_subscriber: stats.without_subscriber as f64,
            sessions: stats.sessions as f64,
            sessions_suspended: stats.sessions_suspended as f64,
            sessions_resumed: stats.sessions_resumed as f64,
            sessions_ended: stats.sessions_ended as f64,
            errors: stats.errors as f64,
            violations: stats.violations as f64,
            slow: stats.slow as f64,
            dropped: stats.dropped as f64,
            evicted: stats.evicted as f64,
            dead: stats.dead as f64,
            unregistered: stats.unregistered as f64,
            denied: stats.denied as f64,
            throttled: stats.throttled as f64,
            received_bytes: stats.received_bytes as f64,
            sent_bytes: stats.sent_bytes as f64,
            closed: by_label(stats.closed),
            requests: by_label(stats.requests),
            senders_held: stats.senders_held as f64,
            outbox_bytes: stats.outbox_bytes as f64,
            cluster: stats.cluster.map(Into::into),
        }
    }
}

fn by_label(counts: ByLabel) -> HashMap<String, f64> {
    let counts = counts.0.into_iter();
    counts
        .map(|(name, count)| (name.to_owned(), count as f64))
        .collect()
}

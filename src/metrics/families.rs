//! The description of all metrics: name, type, meaning and value of each. The exposition and the documents follow it.

use super::{ByLabel, Stats, Times};

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value that rises and falls.
    Gauge,
    /// A count since the start.
    Counter,
    /// A histogram of times in seconds.
    Histogram,
}

impl Kind {
    /// The name of the type in the exposition.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// The value of a metric.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number.
    Number(f64),
    /// A number for each value of this label.
    Labelled(&'static str, ByLabel),
    /// The number 1, with a label.
    Info(&'static str, &'static str),
    /// Times.
    Times(Times),
    /// None, as for a server without a cluster.
    Absent,
}

/// The description of a metric.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The name, without the prefix `wsmsgbroker_` and the suffix `_total` of a counter.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The meaning, in a sentence without a period.
    pub help: &'static str,
    /// Reads the value.
    pub value: fn(&Stats) -> Value,
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Stats) -> Value) -> Family {
    family(Kind::Gauge, name, help, value)
}

const fn counter(name: &'static str, help: &'static str, value: fn(&Stats) -> Value) -> Family {
    family(Kind::Counter, name, help, value)
}

const fn times(name: &'static str, help: &'static str, value: fn(&Stats) -> Value) -> Family {
    family(Kind::Histogram, name, help, value)
}

const fn family(
    kind: Kind,
    name: &'static str,
    help: &'static str,
    value: fn(&Stats) -> Value,
) -> Family {
    Family {
        name,
        kind,
        help,
        value,
    }
}

fn number(value: usize) -> Value {
    Value::Number(value as f64)
}

fn count(value: u64) -> Value {
    Value::Number(value as f64)
}

/// A value of the cluster membership.
fn cluster(stats: &Stats, value: impl FnOnce(&super::ClusterStats) -> f64) -> Value {
    match &stats.cluster {
        Some(cluster) => Value::Number(value(cluster)),
        None => Value::Absent,
    }
}

fn host(stats: &Stats, value: impl FnOnce(&super::HostStats) -> f64) -> Value {
    match &stats.host {
        Some(host) => Value::Number(value(host)),
        None => Value::Absent,
    }
}

/// All metrics.
#[rustfmt::skip]
pub const FAMILIES: &[Family] = &[
    gauge("build_info", "1, with the version of the broker", |_| Value::Info("version", env!("CARGO_PKG_VERSION"))),
    gauge("draining", "1 while the broker drains, otherwise 0", |s| Value::Number(f64::from(u8::from(s.draining)))),

    gauge("connections", "Open WebSockets", |s| number(s.connections)),
    gauge("connections_limit", "Maximum number of open WebSockets (maxConnections)", |s| number(s.max_connections)),
    counter("connections_accepted", "WebSockets accepted", |s| Value::Labelled("via", s.accepted_by.clone())),
    counter("connections_closed", "WebSockets closed", |s| Value::Labelled("reason", s.closed.clone())),
    counter("handshakes_refused", "Handshakes refused, by HTTP status; tls: the TLS handshake failed; dropped: without an answer", |s| Value::Labelled("status", s.refused_by.clone())),
    counter("denials", "Connections closed because their registration was denied or revoked", |s| count(s.denied)),
    counter("throttled", "Times that a connection exceeded its rateLimit", |s| count(s.throttled)),

    gauge("ids", "Registered ids", |s| number(s.registered)),
    gauge("subscriptions", "Subscriptions of all connections", |s| number(s.subscriptions)),
    gauge("topics", "Topics that are subscribed to by name", |s| number(s.topics)),
    gauge("members", "Subscriptions that take part in presence", |s| number(s.members)),
    gauge("patterns", "Distinct patterns with wildcards that are subscribed to (maxPatterns)", |s| number(s.patterns)),
    gauge("sessions", "Sessions of clients (sessionTimeout)", |s| number(s.sessions)),
    gauge("sessions_suspended", "Sessions whose client has lost its connection", |s| number(s.sessions_suspended)),
    counter("sessions_resumed", "Times that a session continued on another connection", |s| count(s.sessions_resumed)),
    counter("sessions_ended", "Sessions that ended because their client was not back in time, or because too much was queued for it", |s| count(s.sessions_ended)),
    gauge("kept_messages", "Messages that are kept (keep)", |s| count(s.kept)),
    gauge("kept_bytes", "Bytes of the messages that are kept, part of memory_bytes", |s| count(s.kept_bytes)),
    counter("kept_messages_trimmed", "Kept messages removed because of a limit of their rule, or because memory was short", |s| count(s.trimmed)),
    gauge("store_pending_messages", "Messages that wait for the disk (store)", |s| count(s.store_pending)),
    gauge("store_file_bytes", "Bytes of the file of the store, with its free space", |s| count(s.store_bytes)),
    gauge("store_failed", "1 once the store has failed: messages are not stored any more; otherwise 0", |s| Value::Number(f64::from(u8::from(s.store_failed)))),
    counter("messages_not_stored", "Messages that were not stored because the store had failed, or too many waited for the disk", |s| count(s.not_stored)),
    times("store_write_seconds", "Time of a write to the store, with its sync", |s| Value::Times(s.store_writes)),
    gauge("mail_messages", "Messages that wait in mailboxes (mailboxes)", |s| count(s.mail)),
    gauge("mail_bytes", "Bytes of the messages in mailboxes, part of memory_bytes unless they are on the disk", |s| count(s.mail_bytes)),
    counter("mail_refused", "Messages refused because a mailbox was full", |s| count(s.mail_refused)),
    counter("redelivered", "Messages of mailboxes delivered again", |s| count(s.redelivered)),
    counter("dead_letters", "Messages removed from mailboxes because they were delivered too often", |s| count(s.dead_letters)),
    counter("replays", "Times that a subscription got messages from a log: since a position, or because it was slow", |s| count(s.replays)),
    gauge("memory_bytes", "Bytes held by buffers and tables", |s| number(s.memory)),
    gauge("memory_limit_bytes", "Maximum of memory_bytes (maxMemory)", |s| number(s.max_memory)),

    counter("messages_received", "Actions received from clients, also those of the server itself", |s| count(s.messages_in)),
    counter("messages_sent", "Messages and answers queued for their receivers, or for the receivers' brokers", |s| count(s.messages_out)),
    counter("received_bytes", "Bytes of these actions, without frame headers", |s| count(s.received_bytes)),
    counter("sent_bytes", "Bytes written to clients, with frame headers, without TLS", |s| count(s.sent_bytes)),
    counter("messages_undelivered", "Messages that no receiver or broker got", |s| Value::Labelled("reason", s.undelivered_by())),
    counter("actions_refused", "Actions of clients that were invalid, forbidden or too large", |s| Value::Labelled("code", s.errors_by.clone())),

    gauge("requests_pending", "Requests that await an answer", |s| number(s.pending)),
    counter("requests", "Requests that have ended", |s| Value::Labelled("outcome", s.requests.clone())),
    times("request_duration_seconds", "Time from a request to its last wanted answer; one of eight is measured", |s| Value::Times(s.request_duration)),

    gauge("senders_held", "Connections that are not read because a receiver's queue is full, or because memory is short", |s| number(s.senders_held)),
    times("sender_hold_seconds", "Time for which a connection was not read for one of these reasons", |s| Value::Times(s.sender_hold)),
    gauge("outbox_bytes", "Bytes queued for clients", |s| number(s.outbox_bytes)),
    gauge("outbox_blocked_connections", "Connections whose queue is full (maxBackpressure)", |s| number(s.outbox_full)),
    times("routing_seconds", "Time from reading messages of a connection to writing them to their receivers; one of eight is measured", |s| Value::Times(s.routing)),
    times("authenticate_seconds", "Time in which the program decided a registration (authenticate)", |s| Value::Times(s.authenticate)),

    gauge("host_events_pending_bytes", "Bytes of events that JavaScript has not handled", |s| host(s, |host| host.pending_bytes as f64)),
    gauge("host_lag_seconds", "Time for which JavaScript has not handled its oldest event, or has not responded since the last scrape", |s| host(s, |host| host.lag.as_secs_f64())),
    counter("host_events_dropped", "Events counted instead of handed to JavaScript, because it was too far behind", |s| host(s, |host| host.dropped as f64)),

    gauge("cluster_connected", "1 while connected to NATS, otherwise 0", |s| cluster(s, |c| f64::from(u8::from(c.connected)))),
    gauge("cluster_brokers", "Known brokers of the cluster, including this one", |s| cluster(s, |c| c.brokers as f64)),
    gauge("cluster_claims", "Ids claimed by this broker", |s| cluster(s, |c| c.claims as f64)),
    gauge("cluster_remote_ids", "Ids at other brokers that were sent to recently", |s| cluster(s, |c| c.remotes as f64)),
    counter("cluster_received", "Messages received from other brokers", |s| cluster(s, |c| c.received as f64)),
    counter("cluster_unreachable", "Messages to other brokers that failed because NATS was unreachable or memory was short", |s| cluster(s, |c| c.unreachable as f64)),
    counter("cluster_lagged", "Times that NATS sent more than could be accepted, so that messages were lost", |s| cluster(s, |c| c.lagged as f64)),
    counter("cluster_late", "Messages to topics dropped because later ones of the same broker and topic had arrived before", |s| cluster(s, |c| c.late as f64)),
    counter("cluster_disconnects", "Lost connections to NATS", |s| cluster(s, |c| c.lost as f64)),
];

impl Stats {
    /// Messages that were not delivered, by reason.
    pub(crate) fn undelivered_by(&self) -> ByLabel {
        let unreachable = self
            .cluster
            .as_ref()
            .map_or(0, |cluster| cluster.unreachable);
        ByLabel(vec![
            ("unknown_id", self.unknown_ids),
            ("no_subscriber", self.without_subscriber),
            ("dropped", self.dropped),
            ("cluster_down", unreachable),
        ])
    }
}

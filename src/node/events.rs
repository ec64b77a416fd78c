//! The events of a server for `lib/server/serverImpl.js`, in a queue with a bounded size.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use napi_derive::napi;
use parking_lot::Mutex;

use super::{
    authenticate::Questions,
    hub::Source,
    mailbox::{Mailbox, json},
};
use crate::{
    ClusterEvent, ConnectionInfo, Found, HostStats, Server, ServerEvent, ServerListener, Slow,
    transport::socket::bridge::BridgeEvent,
};

/// Bytes of uncollected events above which warnings and errors are counted instead of sent.
const SAMPLE_FROM: usize = 256 << 10;
/// Bytes of uncollected events above which no further authentication question is sent.
const QUESTIONS_TO: usize = 4 << 20;
/// Bytes of uncollected events above which registrations are merged: see [`Shared::registration`].
const NET_FROM: usize = 4 << 20;
/// Bytes of a refused frame up to which JavaScript receives its text, so that the JavaScript engine can
/// phrase the error.
const TEXT: usize = 4 << 10;

/// The kinds of events that a server hands to JavaScript: `[kind, ...arguments]`, the arguments in the order
/// of the comment. Exported to JavaScript as an object of numbers by name: this is the only list. A kind is
/// also the number of its bit in the mask of events that have listeners.
#[napi]
#[derive(Clone, Copy)]
pub enum ServerEventKind {
    /// `address, port, secure`: a WebSocket was accepted.
    Connection,
    /// `id, address, port, secure`
    Registered,
    /// `id`
    Unregistered,
    /// `id`: a message had this unknown receiver.
    UnknownId,
    /// `code, text, frame, id, address, port, secure`: a frame of a client was invalid.
    Refused,
    /// `id, reason`
    Slow,
    /// The last connection has ended.
    Closed,
    /// `number` of events that were counted instead of sent.
    Counted,
    /// `id, code, text, address, port, secure`
    Denied,
    /// `number, id, token, headers, url, certificate, address, secure, context`: may this client register? The
    /// certificate is DER in base64.
    Question,
    /// `state, reason`
    Cluster,
    /// `text`: messages are not stored any more.
    StoreFailed,
    /// `number, ids, silent brokers`: the result of a search of the cluster.
    Found,
    /// `number`: the bridge of this number has bytes to send, or has ended.
    BridgeOutput,
    /// `number`: the socket of this bridge may be read again.
    BridgeResume,
    /// `number`: the socket of this bridge is no longer used.
    BridgeClosed,
    /// `address, port, secure, id, reason, code, seconds, messages, bytes received, bytes sent`: a WebSocket has ended.
    Disconnected,
    /// `address, port, secure, status`: a socket did not become a WebSocket.
    HandshakeRefused,
    /// `id, address, port, secure`: the registration, sent before, has taken the id from another connection.
    TakenOver,
    /// `number, id, principal, topic, token`: may this client subscribe to the topic?
    TopicQuestion,
    /// `id, address, port, secure`: a session continues on another socket.
    Resumed,
}

use ServerEventKind as Kind;

/// State shared by a server and its listener.
pub(super) struct Shared {
    mailbox: Mailbox,
    /// A bit for each kind of event that has a listener in JavaScript.
    pub(super) interest: AtomicU32,
    /// Number of events that were counted instead of sent, since the last `Counted`.
    counted: AtomicU64,
    /// Number of all events that were counted instead of sent.
    dropped: AtomicU64,
    /// Above `NET_FROM`: ids, and whether they were registered before and are registered now.
    net: Mutex<HashMap<Box<str>, Net>>,
    pub(super) questions: Arc<Questions>,
    pub(super) server: Mutex<Option<Server>>,
}

#[derive(Clone, Copy)]
struct Net {
    was: bool,
    is: Option<ConnectionInfo>,
}

impl Shared {
    pub(super) fn new(mailbox: Mailbox) -> Self {
        Self {
            mailbox,
            interest: AtomicU32::new(0),
            counted: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            net: Mutex::default(),
            questions: Arc::default(),
            server: Mutex::default(),
        }
    }

    /// Sends JavaScript the question whether a client may register.
    pub(super) fn ask(&self, question: &[&str]) {
        self.push(Kind::Question, question);
    }

    /// Sends JavaScript the question whether a client may subscribe to a topic.
    pub(super) fn ask_topic(&self, question: &[&str]) {
        self.push(Kind::TopicQuestion, question);
    }

    /// True if JavaScript has so many uncollected events that no further question is sent.
    pub(super) fn is_behind(&self) -> bool {
        self.mailbox.waiting() > QUESTIONS_TO
    }

    fn listens_to(&self, kind: Kind) -> bool {
        self.interest.load(Relaxed) & (1 << kind as u32) != 0
    }

    fn push(&self, kind: Kind, arguments: &[&str]) {
        self.mailbox.push(kind as u8, arguments);
    }

    /// True if this event is sent: it has a listener, and few events are uncollected. Otherwise it is
    /// counted, and the next event that is sent is preceded by a `Counted` event.
    fn samples(&self, kind: Kind) -> bool {
        if !self.listens_to(kind) {
            return false;
        }
        if self.mailbox.waiting() > SAMPLE_FROM {
            self.counted.fetch_add(1, Relaxed);
            self.dropped.fetch_add(1, Relaxed);
            return false;
        }
        let counted = self.counted.swap(0, Relaxed);
        if counted > 0 {
            self.push(Kind::Counted, &[&counted.to_string()]);
        }
        true
    }

    /// Sends a registration or its end. `was`: the id had an owner before; `is`: its owner now.
    ///
    /// Above `NET_FROM` bytes of uncollected events, registrations that begin and end meanwhile cancel
    /// out, so that the queue is bounded by the number of ids. No other registration is lost.
    fn registration(&self, id: &str, was: bool, is: Option<ConnectionInfo>) {
        if !self.listens_to(Kind::Registered) && !self.listens_to(Kind::Unregistered) {
            return;
        }
        // Locked before the mailbox is read: `collected` empties the mailbox first, then this map.
        let mut net = self.net.lock();
        if net.is_empty() && self.mailbox.waiting() <= NET_FROM {
            match is {
                Some(info) if self.listens_to(Kind::Registered) => {
                    self.push(Kind::Registered, &[&json(id), &info_json(info)]);
                }
                None if self.listens_to(Kind::Unregistered) => {
                    self.push(Kind::Unregistered, &[&json(id)]);
                }
                Some(_) | None => {}
            }
            return;
        }
        match net.get_mut(id) {
            Some(known) if is.is_none() && !known.was => drop(net.remove(id)),
            Some(known) => known.is = is,
            None => drop(net.insert(id.into(), Net { was, is })),
        }
    }
}

impl Shared {
    /// Takes the merged registrations, as events.
    fn take_net(&self) -> Vec<(Kind, String)> {
        let net = std::mem::take(&mut *self.net.lock());
        let events = net.into_iter().filter_map(|(id, net)| match net {
            Net { is: Some(info), .. } => {
                let arguments = format!("{},{}", json(&id), info_json(info));
                Some((Kind::Registered, arguments))
            }
            Net { was: true, .. } => Some((Kind::Unregistered, json(&id))),
            Net { .. } => None,
        });
        events.collect()
    }

    fn cluster(&self, event: ClusterEvent<'_>) {
        let (state, reason) = match event {
            ClusterEvent::Up => ("\"connected\"", None),
            ClusterEvent::Down => ("\"disconnected\"", None),
            ClusterEvent::Lagged => ("\"lagged\"", None),
            ClusterEvent::Failed(reason) => ("\"failed\"", Some(reason)),
            ClusterEvent::Missing(reason) => ("\"missing\"", Some(reason)),
        };
        self.push(Kind::Cluster, &[state, &or_null(reason)]);
    }

    /// Sends that the bridge with this number needs its socket.
    pub(super) fn bridge(&self, number: u32, event: BridgeEvent) {
        let kind = match event {
            BridgeEvent::Output => Kind::BridgeOutput,
            BridgeEvent::Resume => Kind::BridgeResume,
            BridgeEvent::Closed => Kind::BridgeClosed,
        };
        self.push(kind, &[&number.to_string()]);
    }

    /// Sends the result of the search with this number.
    pub(super) fn found(&self, number: u32, found: &Found) {
        let ids = (found.ids.iter()).map(|(id, node)| format!("[{},{}]", json(id), json(node)));
        let ids = format!("[{}]", ids.collect::<Vec<_>>().join(","));
        let silent = found.silent.iter().map(|node| json(node));
        let silent = format!("[{}]", silent.collect::<Vec<_>>().join(","));
        self.push(Kind::Found, &[&number.to_string(), &ids, &silent]);
    }

    /// Sends the merged registrations, and then `Closed`, the last event.
    pub(super) fn closed(&self) {
        for (kind, id) in self.take_net() {
            self.push(kind, &[&id]);
        }
        self.push(Kind::Closed, &[]);
    }
}

impl Source for Shared {
    fn collected(&self, bytes: usize) -> Option<String> {
        self.mailbox.collected(bytes);
        // Merged registrations are newer than the queued events: a later batch brings them.
        if self.mailbox.waiting() > 0 {
            return None;
        }
        let net = self.take_net().into_iter();
        let events: Vec<_> = net
            .map(|(kind, id)| format!("[{},{id}]", kind as u32))
            .collect();
        (!events.is_empty()).then(|| format!("[{}]", events.join(",")))
    }

    fn destroy(&self) {
        self.interest.store(0, Relaxed);
        self.server.lock().take();
    }
}

/// Turns the events of the core into events for JavaScript.
pub(super) struct Listener(pub(super) Arc<Shared>);

impl ServerListener for Listener {
    fn host_stats(&self) -> Option<HostStats> {
        let Shared {
            mailbox, dropped, ..
        } = &*self.0;
        Some(HostStats {
            pending_bytes: mailbox.waiting(),
            lag: mailbox.lag(),
            dropped: dropped.load(Relaxed),
        })
    }

    fn event(&self, event: ServerEvent<'_>) {
        let shared = &self.0;
        match event {
            ServerEvent::Registered {
                id,
                replaced,
                taken_over,
                info,
            } => {
                shared.registration(id, replaced, Some(info));
                if taken_over && shared.samples(Kind::TakenOver) {
                    shared.push(Kind::TakenOver, &[&json(id), &info_json(info)]);
                }
            }
            ServerEvent::Resumed { id, info } if shared.samples(Kind::Resumed) => {
                shared.push(Kind::Resumed, &[&json(id), &info_json(info)]);
            }
            ServerEvent::Unregistered(id) => shared.registration(id, true, None),
            ServerEvent::Connection(info) if shared.samples(Kind::Connection) => {
                shared.push(Kind::Connection, &[&info_json(info)]);
            }
            ServerEvent::UnknownId(id) if shared.samples(Kind::UnknownId) => {
                shared.push(Kind::UnknownId, &[&json(id)]);
            }
            ServerEvent::Refused {
                error,
                text,
                id,
                info,
            } if shared.samples(Kind::Refused) => {
                let text = text.filter(|text| text.len() <= TEXT);
                let text = or_null(text);
                let (code, message) = (json(error.code()), json(&error.to_string()));
                let arguments = [&*code, &message, &text, &or_null(id), &info_json(info)];
                shared.push(Kind::Refused, &arguments);
            }
            ServerEvent::Slow { id, why } if shared.samples(Kind::Slow) => {
                let why = match why {
                    Slow::Closed => "\"closed\"",
                    Slow::Memory => "\"memory\"",
                    Slow::Dropping => "\"dropping\"",
                };
                shared.push(Kind::Slow, &[&or_null(id), why]);
            }
            ServerEvent::Denied { id, info, denied } if shared.samples(Kind::Denied) => {
                let (code, reason) = (json(denied.code()), json(denied.reason()));
                let arguments = [&*or_null(id), &code, &reason, &info_json(info)];
                shared.push(Kind::Denied, &arguments);
            }
            ServerEvent::Disconnected {
                id,
                info,
                reason,
                code,
                traffic,
            } if shared.samples(Kind::Disconnected) => {
                let code = code.map_or(Cow::Borrowed("null"), |code| code.to_string().into());
                let numbers = format!(
                    "{},{},{},{}",
                    traffic.open.as_secs_f64(),
                    traffic.messages,
                    traffic.bytes_received,
                    traffic.bytes_sent
                );
                let (id, reason) = (or_null(id), json(reason.name()));
                let arguments = [&*info_json(info), &id, &reason, &code, &numbers];
                shared.push(Kind::Disconnected, &arguments);
            }
            ServerEvent::HandshakeRefused { info, status }
                if shared.samples(Kind::HandshakeRefused) =>
            {
                shared.push(Kind::HandshakeRefused, &[&info_json(info), &json(status)]);
            }
            ServerEvent::Cluster(event) => shared.cluster(event),
            ServerEvent::StoreFailed(error) => {
                shared.push(Kind::StoreFailed, &[&json(&error.to_string())]);
            }
            ServerEvent::Connection(_)
            | ServerEvent::UnknownId(_)
            | ServerEvent::Refused { .. }
            | ServerEvent::Slow { .. }
            | ServerEvent::Disconnected { .. }
            | ServerEvent::HandshakeRefused { .. }
            | ServerEvent::Resumed { .. }
            | ServerEvent::Denied { .. } => {}
        }
    }
}

/// The arguments `address, port, secure` of an event, as JSON texts with commas.
fn info_json(info: ConnectionInfo) -> String {
    let port = info
        .remote_port
        .map_or(Cow::Borrowed("null"), |port| port.to_string().into());
    // An address needs no escapes.
    format!("\"{}\",{port},{}", info.address_text(), info.secure)
}

fn or_null(text: Option<&str>) -> String {
    text.map_or_else(|| "null".to_owned(), json)
}

//! What a server tells `lib/broker.js`, in a mailbox that is bounded whatever happens.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use super::{
    authenticate::Questions,
    hub::Source,
    mailbox::{Mailbox, json},
};
use crate::{ClusterEvent, Found, Server, ServerEvent, ServerListener, Slow};

/// Bytes waiting for JavaScript beyond which warnings and errors are only counted.
const SAMPLE_FROM: usize = 256 << 10;
/// Bytes waiting for JavaScript beyond which it is asked nothing more.
const QUESTIONS_TO: usize = 4 << 20;
/// Bytes waiting for JavaScript beyond which registrations that have ended are not told.
const NET_FROM: usize = 4 << 20;
/// Bytes of a refused text that JavaScript gets, to name the fault in its engine's own words.
const TEXT: usize = 4 << 10;
/// The kinds of events, and their bits in the mask of those that JavaScript listens to:
/// `0` connection, `1` registered (id), `2` unregistered (id), `3` unknown id (id), `4` refused
/// (code, text, frame), `5` slow (id, why), `6` closed, `7` events that were only counted (number),
/// `8` denied (id, code, text), `9` a question (number, id, token, headers, address, secure),
/// `10` cluster (state, reason), `11` what was found on all brokers (number, ids, silent ones).
#[derive(Clone, Copy)]
enum Kind {
    Connection,
    Registered,
    Unregistered,
    UnknownId,
    Refused,
    Slow,
    Closed,
    Counted,
    Denied,
    Question,
    Cluster,
    Found,
}

/// What a server and its listener share.
pub(super) struct Shared {
    mailbox: Mailbox,
    /// A bit for each kind that JavaScript listens to.
    pub(super) interest: AtomicU32,
    /// Events that were not told.
    counted: AtomicU64,
    /// Beyond `NET_FROM`: ids, and whether they were registered before and are now.
    net: Mutex<HashMap<Box<str>, Net>>,
    pub(super) questions: Arc<Questions>,
    pub(super) server: Mutex<Option<Server>>,
}

#[derive(Clone, Copy)]
struct Net {
    was: bool,
    is: bool,
}

impl Shared {
    pub(super) fn new(mailbox: Mailbox) -> Self {
        Self {
            mailbox,
            interest: AtomicU32::new(0),
            counted: AtomicU64::new(0),
            net: Mutex::default(),
            questions: Arc::default(),
            server: Mutex::default(),
        }
    }

    /// Asks JavaScript whether a client may register.
    pub(super) fn ask(&self, question: &[&str]) {
        self.push(Kind::Question, question);
    }

    /// True if JavaScript is so far behind that it is asked nothing more.
    pub(super) fn is_behind(&self) -> bool {
        self.mailbox.waiting() > QUESTIONS_TO
    }

    fn listens_to(&self, kind: Kind) -> bool {
        self.interest.load(Relaxed) & (1 << kind as u32) != 0
    }

    fn push(&self, kind: Kind, parts: &[&str]) {
        let kind = (kind as u32).to_string();
        let mut event = vec![kind.as_str()];
        event.extend(parts);
        self.mailbox.push(&event);
    }

    /// True if this event is to be told: JavaScript listens to it, and is not behind. What can be
    /// spared is only counted then, and the next one that is told tells how many.
    fn samples(&self, kind: Kind) -> bool {
        if !self.listens_to(kind) {
            return false;
        }
        if self.mailbox.waiting() > SAMPLE_FROM {
            self.counted.fetch_add(1, Relaxed);
            return false;
        }
        let counted = self.counted.swap(0, Relaxed);
        if counted > 0 {
            self.push(Kind::Counted, &[&counted.to_string()]);
        }
        true
    }

    /// Registrations are never lost; when JavaScript is far behind, those that began and ended
    /// meanwhile cancel out, so that what waits is bounded by the ids that exist.
    /// `was`: the id had an owner before; `is`: it has one now.
    fn registration(&self, id: &str, was: bool, is: bool) {
        if !self.listens_to(Kind::Registered) && !self.listens_to(Kind::Unregistered) {
            return;
        }
        // Held while the mailbox is asked: who collects empties the mailbox first, then this.
        let mut net = self.net.lock();
        if net.is_empty() && self.mailbox.waiting() <= NET_FROM {
            let kind = if is {
                Kind::Registered
            } else {
                Kind::Unregistered
            };
            if self.listens_to(kind) {
                self.push(kind, &[&json(id)]);
            }
            return;
        }
        match net.get_mut(id) {
            Some(known) if !is && !known.was => drop(net.remove(id)),
            Some(known) => known.is = is,
            None => drop(net.insert(id.into(), Net { was, is })),
        }
    }
}

impl Shared {
    /// What has come of the registrations that were not told.
    fn take_net(&self) -> Vec<(Kind, String)> {
        let net = std::mem::take(&mut *self.net.lock());
        let told = net.into_iter().filter_map(|(id, net)| match net {
            Net { is: true, .. } => Some((Kind::Registered, json(&id))),
            Net { was: true, .. } => Some((Kind::Unregistered, json(&id))),
            Net { .. } => None,
        });
        told.collect()
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

    /// Answers a search of this number.
    pub(super) fn found(&self, number: u32, found: &Found) {
        let ids = (found.ids.iter()).map(|(id, node)| format!("[{},{}]", json(id), json(node)));
        let ids = format!("[{}]", ids.collect::<Vec<_>>().join(","));
        let silent = found.silent.iter().map(|node| json(node));
        let silent = format!("[{}]", silent.collect::<Vec<_>>().join(","));
        self.push(Kind::Found, &[&number.to_string(), &ids, &silent]);
    }

    /// The last event: what waits is told before it.
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
        // Behind all that waits: another batch will bring them.
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

/// The listener of the core.
pub(super) struct Listener(pub(super) Arc<Shared>);

impl ServerListener for Listener {
    fn event(&self, event: ServerEvent<'_>) {
        let shared = &self.0;
        match event {
            ServerEvent::Registered { id, replaced } => shared.registration(id, replaced, true),
            ServerEvent::Unregistered(id) => shared.registration(id, true, false),
            ServerEvent::Connection if shared.samples(Kind::Connection) => {
                shared.push(Kind::Connection, &[]);
            }
            ServerEvent::UnknownId(id) if shared.samples(Kind::UnknownId) => {
                shared.push(Kind::UnknownId, &[&json(id)]);
            }
            ServerEvent::Refused { error, text } if shared.samples(Kind::Refused) => {
                let text = text.filter(|text| text.len() <= TEXT);
                let text = or_null(text);
                let (code, message) = (json(error.code()), json(&error.to_string()));
                shared.push(Kind::Refused, &[&code, &message, &text]);
            }
            ServerEvent::Slow { id, why } if shared.samples(Kind::Slow) => {
                let why = match why {
                    Slow::Closed => "\"closed\"",
                    Slow::Memory => "\"memory\"",
                    Slow::Dropping => "\"dropping\"",
                };
                shared.push(Kind::Slow, &[&or_null(id), why]);
            }
            ServerEvent::Denied { id, denied } if shared.samples(Kind::Denied) => {
                let (code, reason) = (json(denied.code()), json(denied.reason()));
                shared.push(Kind::Denied, &[&or_null(id), &code, &reason]);
            }
            ServerEvent::Cluster(event) => shared.cluster(event),
            ServerEvent::Connection
            | ServerEvent::UnknownId(_)
            | ServerEvent::Refused { .. }
            | ServerEvent::Slow { .. }
            | ServerEvent::Denied { .. } => {}
        }
    }
}

fn or_null(text: Option<&str>) -> String {
    text.map_or_else(|| "null".to_owned(), json)
}

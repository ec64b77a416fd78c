//! A server, as `lib/server.js` drives it.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use napi_derive::napi;
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use super::{
    authenticate::{Asker, NativeVerdict, Questions},
    client::NativeClient,
    convert::{self, NativeClientOptions, NativeServerOptions, NativeTlsServerOptions, Result},
    hub::{Hub, Source, client_runtime, runtime},
    mailbox::{Mailbox, json},
};
use crate::{
    Address, Authentication, ClusterEvent, ClusterStats, Found, Server, ServerEvent,
    ServerListener, ServerOptions, Slow, Stats,
    auth::{JwtKey, JwtOptions},
    server::check_close,
};

/// Bytes waiting for JavaScript beyond which warnings and errors are only counted.
const SAMPLE_FROM: usize = 256 << 10;
/// Bytes waiting for JavaScript beyond which it is asked nothing more.
const QUESTIONS_TO: usize = 4 << 20;
/// Bytes waiting for JavaScript beyond which registrations that have ended are not told.
const NET_FROM: usize = 4 << 20;
/// Bytes of a refused text that JavaScript gets, to name the fault in its engine's own words.
const TEXT: usize = 4 << 10;
/// How long JavaScript may take to say whether a client may register.
const AUTHENTICATE: Duration = Duration::from_secs(5);
/// More threads gained nothing: one routes some million messages a second.
const MAX_DEFAULT_THREADS: usize = 4;
const MAX_THREADS: usize = 256;

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

struct Shared {
    mailbox: Mailbox,
    /// A bit for each kind that JavaScript listens to.
    interest: AtomicU32,
    /// Events that were not told.
    counted: AtomicU64,
    /// Beyond `NET_FROM`: ids, and whether they were registered before and are now.
    net: Mutex<HashMap<Box<str>, Net>>,
    questions: Arc<Questions>,
    server: Mutex<Option<Server>>,
}

#[derive(Clone, Copy)]
struct Net {
    was: bool,
    is: bool,
}

impl Shared {
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
    fn found(&self, number: u32, found: &Found) {
        let ids = (found.ids.iter()).map(|(id, node)| format!("[{},{}]", json(id), json(node)));
        let ids = format!("[{}]", ids.collect::<Vec<_>>().join(","));
        let silent = found.silent.iter().map(|node| json(node));
        let silent = format!("[{}]", silent.collect::<Vec<_>>().join(","));
        self.push(Kind::Found, &[&number.to_string(), &ids, &silent]);
    }

    /// The last event: what waits is told before it.
    fn closed(&self) {
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

struct Listener(Arc<Shared>);

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

/// What a server has done so far, and what it holds now.
#[napi(object)]
pub struct NativeStats {
    pub connections: f64,
    pub registered: f64,
    pub pending: f64,
    pub memory: f64,
    pub accepted: f64,
    pub refused: f64,
    pub messages_in: f64,
    pub messages_out: f64,
    pub unknown_ids: f64,
    pub errors: f64,
    pub violations: f64,
    pub slow: f64,
    pub dropped: f64,
    pub evicted: f64,
    pub dead: f64,
    pub unregistered: f64,
    pub denied: f64,
    pub throttled: f64,
    pub cluster: Option<NativeClusterStats>,
}

/// The same of its part in a cluster.
#[napi(object)]
pub struct NativeClusterStats {
    pub connected: bool,
    pub brokers: f64,
    pub claims: f64,
    pub remotes: f64,
    pub received: f64,
    pub unreachable: f64,
    pub lagged: f64,
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
            refused: stats.refused as f64,
            messages_in: stats.messages_in as f64,
            messages_out: stats.messages_out as f64,
            unknown_ids: stats.unknown_ids as f64,
            errors: stats.errors as f64,
            violations: stats.violations as f64,
            slow: stats.slow as f64,
            dropped: stats.dropped as f64,
            evicted: stats.evicted as f64,
            dead: stats.dead as f64,
            unregistered: stats.unregistered as f64,
            denied: stats.denied as f64,
            throttled: stats.throttled as f64,
            cluster: stats.cluster.map(Into::into),
        }
    }
}

/// A broker with threads of its own.
#[napi]
pub struct NativeServer {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

#[napi]
impl NativeServer {
    /// Binds; throws what the system says. `number`: how the hub calls this server.
    #[napi(constructor)]
    pub fn new(hub: &Hub, number: u32, options: NativeServerOptions) -> Result<Self> {
        let threads = options
            .threads
            .map_or_else(default_threads, |threads| threads as usize);
        if !(1..=MAX_THREADS).contains(&threads) {
            let reason = format!("is {threads}, expected 1 to {MAX_THREADS}");
            return Err(convert::error(crate::Error::InvalidOption {
                name: "threads",
                reason,
            }));
        }
        let limit = options
            .authenticate_timeout
            .map_or(AUTHENTICATE, convert::millis);
        let asks = options.authenticates;
        let mut options = ServerOptions::from(options);
        options.validate().map_err(convert::error)?;
        let runtime = runtime("wsmsgbroker-srv", threads)
            .map_err(|error| convert::failure("ERR_WSMB_THREADS", error))?;
        let shared = Arc::new(Shared {
            mailbox: Mailbox::new(number, hub.inbox().clone()),
            interest: AtomicU32::new(0),
            counted: AtomicU64::new(0),
            net: Mutex::default(),
            questions: Arc::default(),
            server: Mutex::default(),
        });
        if asks {
            let (to, of) = (shared.clone(), shared.clone());
            let asker = Asker::new(
                shared.questions.clone(),
                move |question| to.push(Kind::Question, question),
                move || of.mailbox.waiting() > QUESTIONS_TO,
            );
            options.authentication = Authentication::Hook(Arc::new(asker), limit);
        }
        let server = Server::bind(options, Listener(shared.clone()), runtime.handle())
            .map_err(convert::error)?;
        *shared.server.lock() = Some(server);
        hub.inbox().add(number, shared.clone());
        Ok(Self {
            shared,
            runtime: Some(runtime),
        })
    }

    /// The options when nobody sets them; `authenticates`: where clients are authenticated.
    #[napi]
    pub fn defaults(authenticates: bool) -> NativeServerOptions {
        let mut options = ServerOptions::default();
        if authenticates {
            let no_key = JwtKey::Secret(Vec::new());
            options.authentication = Authentication::Jwt(JwtOptions::new(no_key));
        }
        NativeServerOptions {
            threads: Some(default_threads() as f64),
            authenticates,
            authenticate_timeout: Some(AUTHENTICATE.as_millis() as f64),
            ..options.into()
        }
    }

    /// Host and port, or the path of a Unix socket; none once closed.
    #[napi]
    pub fn address(&self) -> Option<(String, u16)> {
        // Nobody listens any more while a drain goes on.
        self.runtime.as_ref()?;
        let server = self.shared.server.lock();
        Some(match server.as_ref()?.address() {
            Address::Tcp(address) => (address.ip().to_string(), address.port()),
            Address::Unix(path) => (path.display().to_string(), 0),
        })
    }

    /// Sets which kinds of events are told.
    #[napi]
    pub fn listen(&self, interest: u32) {
        self.shared.interest.store(interest, Relaxed);
    }

    /// Changes `ackTimeout`, in milliseconds.
    #[napi]
    pub fn set_ack_timeout(&self, millis: f64) {
        if let Some(server) = &*self.shared.server.lock() {
            server.set_ack_timeout(Duration::from_millis(millis as u64));
        }
    }

    /// Changes the certificate for the connections to come.
    #[napi]
    pub fn set_tls(&self, tls: NativeTlsServerOptions) -> Result<()> {
        match &*self.shared.server.lock() {
            Some(server) => server.set_tls(tls.into()).map_err(convert::error),
            None => Err(convert::error(crate::Error::NotOpen)),
        }
    }

    /// Counters; none once closed.
    #[napi]
    pub fn stats(&self) -> Option<NativeStats> {
        self.shared
            .server
            .lock()
            .as_ref()
            .map(|server| server.stats().into())
    }

    /// The ids registered now.
    #[napi]
    pub fn ids(&self) -> Vec<String> {
        let server = self.shared.server.lock();
        let ids = server.as_ref().map(Server::ids).unwrap_or_default();
        ids.iter().map(|id| id.to_string()).collect()
    }

    /// True if somebody has registered this id.
    #[napi]
    pub fn has(&self, id: String) -> bool {
        let server = self.shared.server.lock();
        server.as_ref().is_some_and(|server| server.has(&id))
    }

    /// The names of all brokers of the cluster; none where there is none.
    #[napi]
    pub fn nodes(&self) -> Option<Vec<String>> {
        let server = self.shared.server.lock();
        server.as_ref()?.nodes()
    }

    /// Looks for all ids, or one, at all brokers: an event of this number has what was found.
    #[napi]
    pub fn find(&self, number: u32, id: Option<String>, within: f64) -> Result<()> {
        let within = convert::millis(within);
        let shared = self.shared.clone();
        let answer = |server: &Server| {
            let found: Pin<Box<dyn Future<Output = Found> + Send>> = match &id {
                None => Box::pin(server.cluster_ids(within)),
                Some(id) => Box::pin(server.cluster_has(id, within)),
            };
            found
        };
        let Some(found) = self.shared.server.lock().as_ref().map(answer) else {
            return Err(convert::error(crate::Error::NotOpen));
        };
        client_runtime()?.spawn(async move { shared.found(number, &found.await) });
        Ok(())
    }

    /// Closes the connection that owns this id; false if nobody has it.
    #[napi]
    pub fn disconnect(&self, id: String, code: f64, reason: String) -> Result<bool> {
        // Saturates: what is too big for the type is too big for a code, too.
        let code = code as u16;
        match &*self.shared.server.lock() {
            Some(server) => server.disconnect(&id, code, &reason),
            None => check_close(code, &reason).map(|()| false),
        }
        .map_err(convert::error)
    }

    /// A client within the process. `number`: how the hub calls it.
    #[napi]
    pub fn join(
        &self,
        hub: &Hub,
        number: u32,
        options: NativeClientOptions,
    ) -> Result<NativeClient> {
        let runtime = client_runtime()?.handle();
        NativeClient::start(hub, number, options, |options, listener| {
            match &*self.shared.server.lock() {
                Some(server) => server.join(options, listener, runtime),
                None => Err(crate::Error::NotOpen),
            }
        })
    }

    /// Answers a question.
    #[napi]
    pub fn answer(&self, question: u32, verdict: NativeVerdict) {
        self.shared.questions.answer(question, verdict);
    }

    /// Stops listening at once; a closed event follows when the last connection has ended. `drain`:
    /// milliseconds for the conversations under way.
    #[napi]
    pub fn close(&mut self, drain: Option<f64>) -> Result<()> {
        let waiting = client_runtime()?;
        let shared = self.shared.clone();
        let mut server = shared.server.lock();
        let Some(open) = &*server else { return Ok(()) };
        let closed = open.closed();
        let drained = drain.map(|within| open.drain(convert::millis(within)));
        if drained.is_none() {
            // Dropped, it closes.
            *server = None;
        }
        drop(server);
        // Whoever called first waits for the end.
        let Some(runtime) = self.runtime.take() else {
            return Ok(());
        };
        // Waited for on another runtime: none can end itself.
        waiting.spawn(async move {
            tokio::pin!(closed);
            let is_closed = match drained {
                None => false,
                Some(drained) => tokio::select! {
                    () = drained => false,
                    // Somebody has not waited for the end of that.
                    () = &mut closed => true,
                },
            };
            drop(shared.server.lock().take());
            if !is_closed {
                closed.await;
            }
            runtime.shutdown_background();
            shared.closed();
        });
        Ok(())
    }
}

impl Drop for NativeServer {
    fn drop(&mut self) {
        drop(self.shared.server.lock().take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn default_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_DEFAULT_THREADS)
}

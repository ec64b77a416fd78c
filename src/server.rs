//! Server: binds a broker to a port or socket, drains and closes it.
//!
//! | file | contents |
//! | --- | --- |
//! | `ingress` | accepts sockets, adds TLS, upgrades to WebSockets |
//! | `acceptor` | the listening socket |
//! | `unix_socket` | its file, if it is a Unix socket |
//! | `handshakes` | pending handshakes and their limit |
//! | `adopt` | takes over sockets from an HTTP server of the embedder |
//! | `attach` | starts the connection of a WebSocket |
//! | `admin` | metrics, health and a dashboard over HTTP |
//! | `participant` | the server's own client |
//! | `directory` | queries ids, disconnects clients |
//! | `subscribers` | subscribes clients to topics on behalf of the embedder |
//! | `mailboxes` | numbers of messages in mailboxes |
//! | `governor` | closes connections when memory is short |
//! | `cluster` | joins a cluster, queries its ids |

mod acceptor;
mod admin;
mod adopt;
mod attach;
mod cluster;
mod directory;
mod governor;
mod handshakes;
mod ingress;
mod mailboxes;
mod participant;
#[cfg(test)]
mod piped;
mod subscribers;
#[cfg(unix)]
mod unix_socket;

use std::{
    fmt,
    future::pending,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle as Runtime,
    sync::{oneshot, watch},
    time::{sleep, sleep_until, timeout},
};

pub use crate::transport::socket::bridge::{Bridge, BridgeEvent, BridgeOutput};
use crate::{
    auth::{Authenticator, Jwt, JwtOptions},
    broker::{Broker, kept::KeptTopics, peers::Peers},
    cluster::Cluster,
    error::{Error, Result},
    event::{ServerEvent, ServerListener},
    memory::Memory,
    metrics::Stats,
    options::{AdminOptions, Listen, ServerOptions, TlsServerOptions, path},
    store::StoreError,
    transport::tls::TlsAcceptor,
};
use acceptor::ListeningSocket;
pub use adopt::{AdoptedSocket, AdoptedUpgrade};
#[cfg(feature = "node")]
pub(crate) use directory::check_close;
use ingress::Ingress;
pub use mailboxes::MailboxUsage;

/// Interval at which requests are checked for timeout; less if `ack_timeout` is shorter.
const EXPIRE_EVERY: Duration = Duration::from_millis(100);
/// Interval at which entries of ended requests are swept from the queues.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Interval at which kept messages are checked for their age.
const EXPIRE_KEPT_EVERY: Duration = Duration::from_secs(1);
/// Interval at which a draining server checks whether it is drained.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// Address of a listening server, as reported by the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// IP address and port.
    Tcp(SocketAddr),
    /// Path of a Unix socket.
    Unix(PathBuf),
    /// None: see [`Listen::Nowhere`](crate::Listen::Nowhere).
    Nowhere,
}

/// A running server. Dropping it closes it.
pub struct Server {
    broker: Arc<Broker>,
    ingress: Arc<Ingress>,
    cluster: Option<Arc<Cluster>>,
    address: Address,
    /// Its admin endpoint, if it has one.
    admin: Option<admin::Endpoint>,
    /// Runtime of its tasks.
    runtime: Runtime,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("broker", &self.broker)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Binds and starts to accept connections. The server is bound when this returns.
    ///
    /// Errors: `InvalidOption`; `Tls`; `Io` with the system's error (`EADDRINUSE`, `EACCES`, ...).
    pub fn bind(
        options: ServerOptions,
        listener: impl ServerListener,
        runtime: &Runtime,
    ) -> Result<Self> {
        Self::bind_in(cluster::join, options, listener, runtime)
    }

    /// Checks options as [`bind`](Self::bind) does, and reads the files of TLS. Nothing is bound.
    ///
    /// Errors: `InvalidOption`; `Tls`.
    pub fn check(options: &ServerOptions) -> Result<()> {
        options.validate()?;
        Authenticator::new(&options.authentication)?;
        if let Some(tls) = &options.tls {
            TlsAcceptor::new(tls)?;
        }
        Ok(())
    }

    /// [`bind`](Self::bind) with the cluster that `join` returns.
    fn bind_in(
        join: impl FnOnce(&ServerOptions, &Runtime) -> Result<cluster::Joined>,
        options: ServerOptions,
        listener: impl ServerListener,
        runtime: &Runtime,
    ) -> Result<Self> {
        options.validate()?;
        let mut options = options;
        if !options.path.starts_with('/') {
            options.path.insert(0, '/');
        }
        options.path = path::encode(&options.path).into_owned();
        let gate = Authenticator::new(&options.authentication)?;
        let memory = Arc::new(Memory::new(options.max_memory));
        // Taken out, so that the options do not keep the private key.
        let tls = options.tls.take();
        let tls = tls.map(|tls| TlsAcceptor::new(&tls)).transpose()?;
        let (failed, failure) = oneshot::channel();
        let on_failure = move |error: &StoreError| {
            // A closed server does not receive it.
            let _ = failed.send(Error::Store(error.0.to_string()));
        };
        let (kept, mailboxes) = KeptTopics::open(&options, &memory, Box::new(on_failure))?;
        let cluster = join(&options, runtime)?;
        let entered = runtime.enter();
        let (acceptor, address) =
            ListeningSocket::bind(&options.listen, options.reuse_port, options.socket_mode)?;
        drop(entered);
        // The broker keeps the options, but an inherited socket no longer than it listens.
        options.listen = Listen::Nowhere;
        let admin = (options.admin.take())
            .map(|admin| admin::Bound::bind(admin, options.socket_mode))
            .transpose()?;
        let (cluster, events) = cluster.unzip();
        let peers = cluster.clone().map(|cluster| cluster as Arc<dyn Peers>);
        let broker = Broker::new(
            options,
            gate,
            memory,
            Box::new(listener),
            peers,
            (kept, mailboxes),
        );
        if let (Some(cluster), Some(events)) = (&cluster, events) {
            cluster.start(&broker, events, broker.closing());
        }
        let ingress = Ingress::new(broker.clone(), acceptor, tls);
        let admin = admin.map(|admin| admin.serve(&ingress, cluster.clone(), runtime));
        let admin = admin.transpose()?;
        runtime.spawn(ingress.clone().accept(broker.closing()));
        runtime.spawn(tell_watchers(broker.clone(), broker.closing()));
        runtime.spawn(expire(broker.clone(), broker.closing()));
        if broker.kept.expires(&broker.options) || broker.mailboxes.expires() {
            runtime.spawn(expire_kept(broker.clone(), broker.closing()));
        }
        if broker.options.store.is_some() {
            runtime.spawn(report_failure(broker.clone(), failure, broker.closing()));
        }
        runtime.spawn(governor::govern(broker.clone(), broker.closing()));
        Ok(Self {
            broker,
            ingress,
            cluster,
            address,
            admin,
            runtime: runtime.clone(),
        })
    }

    /// For tests and benchmarks without sockets.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// The address on which the server listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The address of the admin endpoint; none without one.
    pub fn admin_address(&self) -> Option<&Address> {
        self.admin.as_ref().map(|admin| &admin.address)
    }

    /// Counters since the start, and current values.
    pub fn stats(&self) -> Stats {
        self.broker.stats()
    }

    /// Changes `ack_timeout` for new requests.
    pub fn set_ack_timeout(&self, timeout: Duration) {
        self.broker.registry.requests.set_timeout(timeout);
    }

    /// Changes the certificate and the client verification for new connections. Existing connections are
    /// not affected.
    ///
    /// Errors: `Tls`, also if the server was started without TLS; nothing is changed then.
    pub fn set_tls(&self, options: TlsServerOptions) -> Result<()> {
        let is_set = self.ingress.has_tls() && self.ingress.set_tls(TlsAcceptor::new(&options)?);
        match is_set {
            true => Ok(()),
            false => Err(Error::Tls {
                option: "tls",
                reason: "cannot be set: the server was started without it".to_owned(),
            }),
        }
    }

    /// Changes the keys and conditions of tokens for new registrations. Registered clients keep their grants.
    ///
    /// Errors: `InvalidOption`, also if the server was started without `jwt`; nothing is changed then.
    pub fn set_jwt(&self, options: JwtOptions) -> Result<()> {
        match &self.broker.authenticator {
            Authenticator::Jwt(tokens) => tokens.set(Jwt::new(options)?),
            _ => return Err(cannot_set("jwt")),
        }
        Ok(())
    }

    /// Changes the token of the admin endpoint for new requests.
    ///
    /// Errors: `InvalidOption`, also if the server was started without an admin token; nothing is changed then.
    pub fn set_admin_token(&self, token: &str) -> Result<()> {
        AdminOptions::validate_token(token)?;
        match self.admin.as_ref().and_then(|admin| admin.token.as_ref()) {
            Some(current) => current.set(token),
            None => return Err(cannot_set("admin.token")),
        }
        Ok(())
    }

    /// Stops listening and closes all connections (1001). The port is free when this returns;
    /// [`closed`](Self::closed) resolves when the last connection has ended.
    pub fn close(&self) {
        self.ingress.stop();
        self.broker.close();
    }

    /// Announces that the server is about to drain or to close: its admin endpoint is not ready any more. It still
    /// accepts connections, until load balancers have noticed.
    pub fn leave(&self) {
        self.broker.leave();
    }

    /// Stops listening and drains: sends `goaway` to clients of version 2, and resolves when no request is
    /// pending, all outboxes are empty, and all clients that were sent `goaway` have disconnected, or after
    /// `within`. The port is free when this returns. Must be followed by [`close`](Self::close).
    pub fn drain(&self, within: Duration) -> impl Future<Output = ()> + Send + 'static {
        self.ingress.stop();
        let broker = self.broker.clone();
        broker.begin_drain(within);
        async move {
            let drained = async {
                while !broker.is_drained() {
                    sleep(DRAIN_STEP).await;
                }
            };
            // On timeout, `close` cuts off the rest.
            let _ = timeout(within, drained).await;
        }
    }

    /// Resolves when the server is closed and its last connection has ended, at most `close_timeout` after
    /// [`close`](Self::close).
    pub fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let closed = self.broker.closed();
        let store = self.broker.kept.close();
        async move {
            closed.await;
            store.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

/// The error for an option that can be changed, but not added.
fn cannot_set(name: &'static str) -> Error {
    let reason = "cannot be set: the server was started without it".to_owned();
    Error::InvalidOption { name, reason }
}

/// Tells watchers of presence what has changed, until the server closes.
async fn tell_watchers(broker: Arc<Broker>, mut closing: watch::Receiver<bool>) {
    loop {
        let next = broker.tell_watchers(Instant::now());
        let due = async {
            match next {
                Some(at) => sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = broker.presence.changed.notified() => {}
            () = due => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
    }
}

/// Emits the event of a failure of the store, until the server closes.
async fn report_failure(
    broker: Arc<Broker>,
    failure: oneshot::Receiver<Error>,
    mut closing: watch::Receiver<bool>,
) {
    tokio::select! {
        Ok(error) = failure => broker.listener.event(ServerEvent::StoreFailed(&error)),
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

/// Removes kept messages that are too old, until the server closes.
async fn expire_kept(broker: Arc<Broker>, mut closing: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = sleep(EXPIRE_KEPT_EVERY) => {
                broker.kept.expire();
                broker.mailboxes.expire();
            }
            _ = closing.wait_for(|closing| *closing) => return,
        }
    }
}

/// Expires requests and sweeps entries of ended ones, until the server closes.
async fn expire(broker: Arc<Broker>, mut closing: watch::Receiver<bool>) {
    let every = EXPIRE_EVERY.min(broker.options.ack_timeout);
    let mut swept = Instant::now();
    let mut is_clean = true;
    loop {
        let requests = &broker.registry.requests;
        let next = async {
            // Without a pending request there is nothing to expire: an idle broker does not wake.
            match is_clean {
                true => requests.await_pending().await,
                false => drop(timeout(SWEEP_EVERY, requests.await_pending()).await),
            }
            sleep(every).await;
        };
        tokio::select! {
            () = next => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        let now = Instant::now();
        broker.expire(now);
        is_clean = false;
        if now.duration_since(swept) >= SWEEP_EVERY {
            swept = now;
            is_clean = !broker.sweep();
        }
    }
}

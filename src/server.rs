//! A server: binds a broker to a port, closes and drains it.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `ingress` | the way in: accept, secure, upgrade |
//! | `acceptor` | the listening socket |
//! | `handshakes` | handshakes under way, and the end of the oldest |
//! | `attach` | starts the connection of a WebSocket |
//! | `participant` | the server's own client |
//! | `directory` | which ids there are, and the end of one |
//! | `governor` | which connections end when memory is short |
//! | `cluster` | joining other brokers |

mod acceptor;
mod attach;
mod cluster;
mod directory;
mod governor;
mod handshakes;
mod ingress;
mod participant;
#[cfg(test)]
mod piped;

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle as Runtime,
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    auth::Authenticator,
    broker::{Broker, peers::Peers},
    cluster::Cluster,
    error::{Error, Result},
    event::ServerListener,
    memory::Memory,
    metrics::Stats,
    options::{ServerOptions, TlsServerOptions},
    transport::tls::TlsAcceptor,
};
use acceptor::ListeningSocket;
#[cfg(feature = "node")]
pub(crate) use directory::check_close;
use ingress::Ingress;

/// Requests whose time is up are looked for this often, or as often as their time is long.
const EXPIRE_EVERY: Duration = Duration::from_millis(100);
/// How often ended requests are swept from the queues of those who did not answer them.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often a draining server looks whether all is said.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// Where a server listens, as the system says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A running broker. Dropping it closes it.
pub struct Server {
    broker: Arc<Broker>,
    ingress: Arc<Ingress>,
    cluster: Option<Arc<Cluster>>,
    address: Address,
    /// Where its tasks run.
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
    /// Binds and starts to accept. Bound when it returns: the address is known, or the error is.
    ///
    /// Errors: `InvalidOption`; `Tls`; `Io` with what the system said (`EADDRINUSE`, `EACCES`, ...).
    pub fn bind(
        options: ServerOptions,
        listener: impl ServerListener,
        runtime: &Runtime,
    ) -> Result<Self> {
        Self::bind_in(cluster::join, options, listener, runtime)
    }

    /// [`bind`](Self::bind), in the cluster that `join` joins.
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
        let gate = Authenticator::new(&options.authentication)?;
        let memory = Arc::new(Memory::new(options.max_memory));
        // Taken: a key is kept by nobody who does not need it.
        let tls = options.tls.take();
        let tls = tls.map(|tls| TlsAcceptor::new(&tls)).transpose()?;
        let cluster = join(&options, runtime)?;
        let entered = runtime.enter();
        let (acceptor, address) = ListeningSocket::bind(&options.listen)?;
        drop(entered);
        let (cluster, events) = cluster.unzip();
        let peers = cluster.clone().map(|cluster| cluster as Arc<dyn Peers>);
        let broker = Broker::new(options, gate, memory, Box::new(listener), peers);
        if let (Some(cluster), Some(events)) = (&cluster, events) {
            cluster.start(&broker, events, broker.closing());
        }
        let ingress = Ingress::new(broker.clone(), acceptor, tls);
        runtime.spawn(ingress.clone().accept(broker.closing()));
        runtime.spawn(expire(broker.clone(), broker.closing()));
        runtime.spawn(governor::govern(broker.clone(), broker.closing()));
        Ok(Self {
            broker,
            ingress,
            cluster,
            address,
            runtime: runtime.clone(),
        })
    }

    /// For tests and benchmarks of what lies above a socket.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What it has done so far, and what it holds now.
    pub fn stats(&self) -> Stats {
        let Broker {
            registry,
            metrics,
            memory,
            peers,
            ..
        } = &*self.broker;
        let stats = metrics.snapshot(registry.count(), registry.requests.count(), memory.used());
        Stats {
            cluster: peers.as_ref().map(|peers| peers.stats()),
            ..stats
        }
    }

    /// Changes `ack_timeout` for the requests to come.
    pub fn set_ack_timeout(&self, timeout: Duration) {
        self.broker.registry.requests.set_timeout(timeout);
    }

    /// Changes the certificate, and whom it lets in, for the connections to come. Those that are
    /// there live on.
    ///
    /// Errors: `Tls`, also for a server without TLS; all stays as it was.
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

    /// Stops listening, and asks every connection to close (1001). The port is free when this
    /// returns; [`closed`](Self::closed) tells when the last connection has ended.
    pub fn close(&self) {
        self.ingress.stop();
        self.broker.close();
    }

    /// Stops listening, and lets the conversations under way come to their end: resolves when no
    /// request awaits an answer, nothing waits to be written and no peer is left that was told so,
    /// or after `within`. The port is free when this returns. To be followed by [`close`](Self::close).
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
            // Time's up: what is not at its end by now is cut off.
            let _ = timeout(within, drained).await;
        }
    }

    /// Resolves when the server is closed and its last connection has ended, which takes no
    /// longer than `close_timeout` after [`close`](Self::close).
    pub fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        self.broker.closed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

/// Lets requests expire, and sweeps up what is left of ended ones, until the server closes.
async fn expire(broker: Arc<Broker>, mut closing: watch::Receiver<bool>) {
    let every = EXPIRE_EVERY.min(broker.options.ack_timeout);
    let mut swept = Instant::now();
    loop {
        tokio::select! {
            () = sleep(every) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        let now = Instant::now();
        broker.expire(now);
        if now.duration_since(swept) >= SWEEP_EVERY {
            swept = now;
            broker.sweep();
        }
    }
}

//! The broker: bind, accept, limit, close.

mod acceptor;
mod cluster;
mod directory;
mod governor;
mod handshakes;
mod participant;
#[cfg(test)]
mod piped;

use std::{
    collections::HashMap,
    io,
    net::{Shutdown, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Poll, ready},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle as Runtime,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::{
    auth::Gate,
    cluster::Cluster,
    connection::{Connection, Peer},
    error::{Error, Result},
    event::{ServerEvent, ServerListener},
    handle::{Close, Handle},
    memory::{Charge, HANDSHAKE, Memory},
    metrics::{Metrics, Stats},
    options::{ServerOptions, TlsServerOptions},
    router::Router,
    transport::{
        framing::{Bounds, Reader},
        handshake::{self, Handshake, Refusal},
        outbox::Pushed,
        socket::{ReadHalf, Socket, WriteHalf},
        tls::{self, Acceptor as TlsAcceptor},
    },
};
use acceptor::Acceptor;
use directory::Ended;
pub(crate) use directory::Moment;
#[cfg(feature = "node")]
pub(crate) use directory::check_close;
use handshakes::{Handshake as UnderWay, Handshakes};

/// The part of the processors that may compute for handshakes of TLS at one time.
const COMPUTING_PART: usize = 2;
/// How long accepting rests when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Sockets beyond `max_connections` that may be shaking hands or hearing their refusal; those
/// beyond these are dropped.
const MAX_WAITING: usize = 64;
/// Requests whose time is up are looked for this often, or as often as their time is long.
const EXPIRE_EVERY: Duration = Duration::from_millis(100);
/// How often ended requests are swept from the queues of those who did not answer them.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often a draining server looks whether all is said.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// Bytes read from a peer whose request was refused.
const DISCARD: usize = 1 << 20;

/// Where a server listens, as the system says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A running broker. Dropping it closes it.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: Address,
    /// Where its tasks run.
    runtime: Runtime,
}

/// What all connections of a server share.
pub(crate) struct Shared {
    pub(crate) options: ServerOptions,
    pub(crate) router: Router,
    pub(crate) metrics: Metrics,
    pub(crate) memory: Arc<Memory>,
    pub(crate) gate: Gate,
    pub(crate) listener: Box<dyn ServerListener>,
    /// The other brokers, if there are any.
    pub(crate) cluster: Option<Arc<Cluster>>,
    /// None once the server is closed: the port is free from that moment on.
    acceptor: Mutex<Option<Acceptor>>,
    /// Present if this server speaks TLS: for the connections to come.
    tls: Option<Mutex<TlsAcceptor>>,
    connections: Mutex<HashMap<u64, Arc<Handle>>>,
    /// The principals whose connections were all ended, not long ago.
    pub(crate) ended: Ended,
    next_key: AtomicU64,
    handshakes: Handshakes,
    /// Whoever has one of these computes for a handshake of TLS: that takes a millisecond with some keys,
    /// and nothing else is done by its thread meanwhile.
    turns: Semaphore,
    /// Sockets open now, connected or shaking hands.
    sockets: AtomicUsize,
    /// Since when it drains, and for how long at most.
    draining: Mutex<Option<(Instant, Duration)>>,
    /// True once the server closes; kept by every task of ours, so that the end of all is known.
    closing: watch::Sender<bool>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
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
        let gate = Gate::new(&options.authentication)?;
        let memory = Arc::new(Memory::new(options.max_memory));
        // Taken: a key is kept by nobody who does not need it.
        let tls = options.tls.take();
        let tls = tls.map(|tls| TlsAcceptor::new(&tls)).transpose()?;
        let is_secure = tls.is_some();
        let cluster = join(&options, runtime)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = (processors / COMPUTING_PART).max(1);
        let entered = runtime.enter();
        let (acceptor, address) = Acceptor::bind(&options.listen)?;
        drop(entered);
        let shared = Arc::new(Shared {
            router: Router::new(&options, memory.clone()),
            metrics: Metrics::default(),
            memory,
            gate,
            listener: Box::new(listener),
            cluster: cluster.as_ref().map(|(cluster, _)| cluster.clone()),
            acceptor: Mutex::new(Some(acceptor)),
            tls: tls.map(Mutex::new),
            connections: Mutex::default(),
            ended: Ended::default(),
            next_key: AtomicU64::new(1),
            handshakes: Handshakes::new(options.max_connections, options.max_memory, is_secure),
            turns: Semaphore::new(turns),
            sockets: AtomicUsize::new(0),
            draining: Mutex::default(),
            closing: watch::channel(false).0,
            options,
        });
        if let Some((cluster, events)) = cluster {
            cluster.start(&shared, events, shared.closing.subscribe());
        }
        runtime.spawn(accept(shared.clone(), shared.closing.subscribe()));
        runtime.spawn(expire(shared.clone(), shared.closing.subscribe()));
        runtime.spawn(governor::govern(shared.clone(), shared.closing.subscribe()));
        Ok(Self {
            shared,
            address,
            runtime: runtime.clone(),
        })
    }

    /// For tests and benchmarks of what lies above a socket.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What it has done so far, and what it holds now.
    pub fn stats(&self) -> Stats {
        let router = &self.shared.router;
        let stats = self.shared.metrics.snapshot(
            router.count(),
            router.requests.count(),
            self.shared.memory.used(),
        );
        let cluster = self.shared.cluster.as_ref();
        Stats {
            cluster: cluster.map(|cluster| cluster.stats()),
            ..stats
        }
    }

    /// Changes `ack_timeout` for the requests to come.
    pub fn set_ack_timeout(&self, timeout: Duration) {
        self.shared.router.requests.set_timeout(timeout);
    }

    /// Changes the certificate, and whom it lets in, for the connections to come. Those that are
    /// there live on.
    ///
    /// Errors: `Tls`, also for a server without TLS; all stays as it was.
    pub fn set_tls(&self, options: TlsServerOptions) -> Result<()> {
        let Some(tls) = &self.shared.tls else {
            return Err(Error::Tls {
                option: "tls",
                reason: "cannot be set: the server was started without it".to_owned(),
            });
        };
        let acceptor = TlsAcceptor::new(&options)?;
        *tls.lock() = acceptor;
        Ok(())
    }

    /// Stops listening, and asks every connection to close (1001). The port is free when this
    /// returns; [`closed`](Self::closed) tells when the last connection has ended.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Stops listening, and lets the conversations under way come to their end: resolves when no
    /// request awaits an answer, nothing waits to be written and no peer is left that was told so,
    /// or after `within`. The port is free when this returns. To be followed by [`close`](Self::close).
    pub fn drain(&self, within: Duration) -> impl Future<Output = ()> + Send + 'static {
        drop(self.shared.acceptor.lock().take());
        let shared = self.shared.clone();
        shared.warn_all(within);
        async move {
            let drained = async {
                while !shared.is_drained() {
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
        let closing = self.shared.closing.clone();
        async move { closing.closed().await }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    pub(crate) fn close(&self) {
        drop(self.acceptor.lock().take());
        self.closing.send_replace(true);
        for handle in self.handles() {
            handle.request_close(Close::GoingAway);
        }
    }

    /// Counts a connection whose handshake is done; false if there are `max_connections`, or no
    /// memory for one more.
    fn admit(&self) -> bool {
        if self.memory.is_short() {
            return false;
        }
        let max = self.options.max_connections;
        self.metrics
            .connections
            .fetch_update(Relaxed, Relaxed, |count| (count < max).then_some(count + 1))
            .is_ok()
    }

    pub(crate) fn handles(&self) -> Vec<Arc<Handle>> {
        self.connections.lock().values().cloned().collect()
    }

    pub(crate) fn handle_of(&self, key: u64) -> Option<Arc<Handle>> {
        self.connections.lock().get(&key).cloned()
    }

    /// Tells all who understand it that the server drains, and those who will.
    fn warn_all(&self, within: Duration) {
        *self.draining.lock() = Some((Instant::now(), within));
        if let Some(cluster) = &self.cluster {
            cluster.say_drain();
        }
        for handle in self.handles() {
            if handle.warn(within) == Pushed::First {
                handle.flush();
            }
        }
    }

    /// How long a server that drains will still do so at most; none if it does not.
    pub(crate) fn drains_for(&self) -> Option<Duration> {
        let draining = *self.draining.lock();
        draining.map(|(since, within)| within.saturating_sub(since.elapsed()))
    }

    /// True if nobody awaits an answer, nothing waits to be written, and all peers that were told
    /// have left: those have the time that they were promised.
    fn is_drained(&self) -> bool {
        let is_done = |handle: &Arc<Handle>| {
            handle.outbox.waiting() == 0 && (handle.participant || !handle.is_warned())
        };
        let hands_over = |cluster: &Arc<Cluster>| cluster.hands_over();
        self.router.requests.count() == 0
            && self.handles().iter().all(is_done)
            // Last: a connection that ends has had its id handed over before.
            && !self.cluster.as_ref().is_some_and(hands_over)
    }

    /// What others hold of a new connection.
    fn handle(&self, write: WriteHalf) -> Handle {
        let mark = self.options.max_backpressure;
        Handle::new(self.next_key(), write, mark, self.memory.clone())
    }

    /// What others hold of something at another broker. `mark`: bytes from which its outbox counts as full, if
    /// that is less than for others.
    pub(crate) fn remote_handle(&self, key: u64, write: WriteHalf, mark: usize) -> Handle {
        let mark = mark.min(self.options.max_backpressure);
        Handle::new(key, write, mark, self.memory.clone()).of_remote()
    }

    /// The server counts as closed only when this is dropped.
    pub(crate) fn alive(&self) -> impl Send + 'static {
        self.closing.subscribe()
    }

    /// A number that nothing else of this server has.
    pub(crate) fn next_key(&self) -> u64 {
        self.next_key.fetch_add(1, Relaxed)
    }

    /// Reads it. `early`: what came behind the handshake.
    fn reader(&self, read: ReadHalf, early: Vec<u8>) -> Reader {
        let bounds = Bounds {
            payload: self.options.max_payload,
            fragments: self.options.max_fragments,
        };
        Reader::new(Role::Server, read, early, bounds)
    }

    /// Puts TLS over an accepted socket, if this server speaks it.
    fn secure(&self, read: ReadHalf, write: WriteHalf) -> io::Result<(ReadHalf, WriteHalf)> {
        match &self.tls {
            None => Ok((read, write)),
            Some(tls) => {
                let acceptor = tls.lock().clone();
                acceptor.accept(read, write, &self.memory)
            }
        }
    }

    /// True while connections are open.
    pub(crate) fn has_connections(&self) -> bool {
        !self.connections.lock().is_empty()
    }

    /// A connection has ended.
    pub(crate) fn forget(&self, handle: &Handle) {
        let removed = self.connections.lock().remove(&handle.key);
        if removed.is_some_and(|handle| !handle.participant) {
            self.metrics.connections.fetch_sub(1, Relaxed);
        }
    }
}

/// Accepts until the server closes.
async fn accept(shared: Arc<Shared>, mut closing: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = next_socket(&shared) => accepted,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        match accepted {
            None => return,
            Some(Ok(socket)) => {
                tokio::select! {
                    () = shared.handshakes.room() => {}
                    _ = closing.wait_for(|closing| *closing) => return,
                }
                let under_way = UnderWay::begin(&shared);
                tokio::spawn(serve(shared.clone(), socket, under_way, closing.clone()));
            }
            Some(Err(error)) if is_the_peers(&error) => tokio::task::yield_now().await,
            // No descriptor, no memory: whoever waits is accepted when there is some again.
            Some(Err(_)) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// True for an error of the connection that was to be accepted, not of ours.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted | Kind::ConnectionReset | Kind::Interrupted
    )
}

/// The next connection; none once the server is closed.
async fn next_socket(shared: &Shared) -> Option<io::Result<Socket>> {
    std::future::poll_fn(|cx| {
        Poll::Ready(match &*shared.acceptor.lock() {
            None => None,
            Some(acceptor) => Some(ready!(acceptor.poll_accept(cx))),
        })
    })
    .await
}

/// One accepted socket, up to the end of its handshake; the connection is a task of its own,
/// which does not carry the handshake's state along.
async fn serve(
    shared: Arc<Shared>,
    socket: Socket,
    mut under_way: UnderWay,
    mut closing: watch::Receiver<bool>,
) {
    let peer_address = socket.peer_address();
    let (read, write) = socket.into_halves();
    let options = &shared.options;
    let Some(place) = Place::take(&shared, under_way.follows) else {
        shared.metrics.refused.fetch_add(1, Relaxed);
        return write.shutdown(Shutdown::Both);
    };
    if shared.tls.is_some() && shared.memory.is_short() {
        // A refusal that it could read would cost it, and us, a handshake of TLS first.
        shared.metrics.refused.fetch_add(1, Relaxed);
        return write.shutdown(Shutdown::Both);
    }
    let Ok((mut read, write)) = shared.secure(read, write) else {
        return;
    };
    let secure = shared.tls.is_some();
    let mut charge = Charge::new(&shared.memory, HANDSHAKE);
    let request = async {
        read.handshake(Some(&shared.turns)).await?;
        handshake::read_request(&mut read, options, secure, &mut charge).await
    };
    let outcome = tokio::select! {
        outcome = timeout(options.handshake_timeout, request) => outcome,
        () = under_way.ended() => {
            shared.metrics.refused.fetch_add(1, Relaxed);
            return write.shutdown(Shutdown::Both);
        }
        _ = closing.wait_for(|closing| *closing) => return,
    };
    let refusal = match outcome {
        Ok(Err(error)) if tls::failure(&error).is_some() => None,
        Ok(Err(_)) => return,
        Err(_) => Some(Refusal::Timeout),
        Ok(Ok(Handshake::Refused(refusal))) => Some(refusal),
        Ok(Ok(Handshake::Accepted { .. })) if !shared.admit() => Some(Refusal::Unavailable),
        Ok(Ok(Handshake::Accepted {
            response,
            headers,
            early,
        })) => {
            // Told before the peer knows: what it does next is told later.
            shared.listener.event(ServerEvent::Connection);
            let answer = handshake::write_all(&write, response.as_bytes());
            // Some hundred bytes: only a peer that means harm does not take them.
            let answered = timeout(options.handshake_timeout, answer).await;
            if !matches!(answered, Ok(Ok(()))) {
                shared.metrics.connections.fetch_sub(1, Relaxed);
                return;
            }
            let handle = Arc::new(shared.handle(write));
            let reader = shared.reader(read, early);
            shared.metrics.accepted.fetch_add(1, Relaxed);
            let peer = options.asks_embedder().then(|| Peer {
                headers: headers.into(),
                address: peer_address,
                secure,
            });
            return start(shared, handle, reader, peer, (closing, Some(place)));
        }
    };
    shared.metrics.refused.fetch_add(1, Relaxed);
    let refuse = handshake::refuse(refusal, &mut read, &write, DISCARD);
    tokio::select! {
        // Whether the peer has read its refusal or not, that was all.
        _ = timeout(options.close_timeout, refuse) => {}
        () = under_way.ended() => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

/// A socket's place among those that a server may have open, whatever they are at.
struct Place(Arc<Shared>);

impl Place {
    /// `follows`: in the place of one that is about to be free.
    fn take(shared: &Arc<Shared>, follows: bool) -> Option<Self> {
        let waiting = MAX_WAITING + usize::from(follows);
        let most = shared.options.max_connections.saturating_add(waiting);
        let place = Self(shared.clone());
        (shared.sockets.fetch_add(1, Relaxed) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.sockets.fetch_sub(1, Relaxed);
    }
}

/// Starts the task of a connection.
fn start(
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    reader: Reader,
    peer: Option<Peer>,
    held: (watch::Receiver<bool>, Option<Place>),
) {
    shared.connections.lock().insert(handle.key, handle.clone());
    // The server may have closed before the handle could be found.
    if *held.0.borrow() {
        handle.request_close(Close::GoingAway);
    }
    let connection = Connection::new(shared, handle, reader, peer);
    tokio::spawn(async move {
        connection.await;
        // Held until now: when the last one is dropped, the server has closed.
        drop(held);
    });
}

/// Lets requests expire, and sweeps up what is left of ended ones, until the server closes.
async fn expire(shared: Arc<Shared>, mut closing: watch::Receiver<bool>) {
    let every = EXPIRE_EVERY.min(shared.options.ack_timeout);
    let mut swept = Instant::now();
    loop {
        tokio::select! {
            () = sleep(every) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        let now = Instant::now();
        shared.expire(now);
        if now.duration_since(swept) >= SWEEP_EVERY {
            swept = now;
            shared.sweep();
        }
    }
}

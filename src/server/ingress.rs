//! Ingress: accepts sockets, adds TLS, and upgrades them to WebSockets.

use std::{
    io,
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use super::{
    acceptor::ListeningSocket,
    attach::attach,
    handshakes::{PendingHandshake, PendingHandshakes},
};
use crate::{
    auth::Peer,
    broker::Broker,
    event::{ConnectionInfo, ServerEvent},
    memory::{Charge, HANDSHAKE},
    options::SocketPeer,
    transport::{
        handshake::{self, Refusal, RequestContext, Upgrade},
        proxy_protocol,
        socket::{ReadHalf, Socket, WriteHalf},
        tls::{self, TlsAcceptor},
    },
};

/// TLS handshakes may compute on one of this many parts of the processors at a time.
const COMPUTING_PART: usize = 2;
/// Pause of the accept loop when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Sockets above `max_connections` that may be in their handshake or being refused. Further ones are
/// dropped.
pub(super) const MAX_WAITING: usize = 64;
/// Maximum bytes discarded from a peer whose request was refused.
const DISCARD: usize = 1 << 20;

/// Accept loop of a broker, with its limits.
pub(super) struct Ingress {
    pub(super) broker: Arc<Broker>,
    /// None once the server is closed, when the port is free, and if it listens nowhere.
    acceptor: Mutex<Option<ListeningSocket>>,
    /// True if it listens nowhere.
    adopts: bool,
    /// TLS for new connections; none without TLS.
    tls: Option<Mutex<TlsAcceptor>>,
    pub(super) handshakes: PendingHandshakes,
    /// Permits to compute for a TLS handshake: with some keys that blocks the thread for a millisecond.
    computing: Semaphore,
    /// Number of open sockets, including those in their handshake.
    pub(super) sockets: AtomicUsize,
}

/// A socket before its handshake.
pub(super) struct Arrival {
    pub(super) read: ReadHalf,
    pub(super) write: WriteHalf,
    /// The peer of the socket.
    pub(super) info: ConnectionInfo,
    /// The request of a socket that an HTTP server of the embedder has accepted. None: it is not read yet.
    pub(super) request: Option<AdoptedRequest>,
}

/// A request that an HTTP server of the embedder has read.
pub(super) struct AdoptedRequest {
    /// Its head, and the bytes that have arrived behind it.
    pub(super) bytes: Vec<u8>,
    /// Facts that the embedder has found out about the client, as JSON text.
    pub(super) context: Option<Arc<str>>,
}

impl Arrival {
    fn accepted(socket: Socket, secure: bool) -> Self {
        let address = socket.peer_address();
        let (read, write) = socket.into_halves();
        let info = ConnectionInfo {
            remote_address: address.map(|address| address.ip()),
            remote_port: address.map(|address| address.port()),
            secure,
        };
        Self {
            read,
            write,
            info,
            request: None,
        }
    }
}

/// A socket that was upgraded to a WebSocket.
struct Upgraded {
    read: ReadHalf,
    write: WriteHalf,
    /// Data for the embedder's hook; none without one.
    peer: Option<Peer>,
    info: ConnectionInfo,
    /// Bytes received after the request.
    early: Vec<u8>,
}

impl Ingress {
    pub(super) fn new(
        broker: Arc<Broker>,
        acceptor: Option<ListeningSocket>,
        tls: Option<TlsAcceptor>,
    ) -> Arc<Self> {
        let options = &broker.options;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let computing = (processors / COMPUTING_PART).max(1);
        let (most, memory) = (options.max_connections, options.max_memory);
        Arc::new(Self {
            handshakes: PendingHandshakes::new(most, memory, tls.is_some()),
            broker,
            adopts: acceptor.is_none(),
            acceptor: Mutex::new(acceptor),
            tls: tls.map(Mutex::new),
            computing: Semaphore::new(computing),
            sockets: AtomicUsize::new(0),
        })
    }

    /// Stops listening: the port is free when this returns.
    pub(super) fn stop(&self) {
        drop(self.acceptor.lock().take());
    }

    /// True until it stops listening. One that listens nowhere is open until the broker closes.
    pub(super) fn is_open(&self) -> bool {
        self.acceptor.lock().is_some() || self.adopts
    }

    /// Changes TLS for new connections; false without TLS.
    pub(super) fn set_tls(&self, acceptor: TlsAcceptor) -> bool {
        let Some(tls) = &self.tls else { return false };
        *tls.lock() = acceptor;
        true
    }

    pub(super) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Accepts connections until the broker closes.
    pub(super) async fn accept(self: Arc<Self>, mut closing: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                accepted = self.next_socket() => accepted,
                _ = closing.wait_for(|closing| *closing) => return self.stop(),
            };
            match accepted {
                None => return,
                Some(Ok(socket)) => {
                    tokio::select! {
                        () = self.handshakes.room() => {}
                        _ = closing.wait_for(|closing| *closing) => return self.stop(),
                    }
                    let under_way = PendingHandshake::begin(&self);
                    let arrival = Arrival::accepted(socket, self.tls.is_some());
                    tokio::spawn(self.clone().serve(arrival, under_way, closing.clone()));
                }
                Some(Err(error)) if is_the_peers(&error) => tokio::task::yield_now().await,
                // No descriptor or memory: the connections wait in the backlog.
                Some(Err(_)) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Accepts the next connection; none once the server is closed.
    async fn next_socket(&self) -> Option<io::Result<Socket>> {
        std::future::poll_fn(|cx| {
            Poll::Ready(match &*self.acceptor.lock() {
                None => None,
                Some(acceptor) => Some(ready!(acceptor.poll_accept(cx))),
            })
        })
        .await
    }

    /// Serves a socket up to the end of its handshake. The connection gets its own task, so that the state of
    /// the handshake is freed.
    pub(super) async fn serve(
        self: Arc<Self>,
        mut arrival: Arrival,
        under_way: PendingHandshake,
        mut closing: watch::Receiver<bool>,
    ) {
        let Some(permit) = SocketPermit::take(&self, under_way.follows) else {
            return self.drop_socket(arrival.info, &arrival.write);
        };
        if arrival.request.is_none() {
            let Some((read, write)) = self.secure(arrival.read, arrival.write, arrival.info) else {
                return;
            };
            (arrival.read, arrival.write) = (read, write);
        }
        let upgraded = self.upgrade(arrival, under_way, &mut closing);
        let Some(upgraded) = upgraded.await else {
            return;
        };
        let Upgraded {
            read,
            write,
            peer,
            info,
            early,
        } = upgraded;
        let write = match self.broker.options.session_timeout.is_zero() {
            true => write,
            false => write.into_replaceable(),
        };
        let handle = Arc::new(self.broker.new_handle(write).of(info));
        attach(
            &self.broker,
            handle,
            (read, early),
            peer,
            (closing, Some(permit)),
        );
    }

    /// Counts a socket that does not become a WebSocket. `status`: an HTTP status, `tls` or `dropped`.
    pub(super) fn refuse(&self, info: ConnectionInfo, status: &'static str) {
        self.broker.metrics.refused(status);
        let event = ServerEvent::HandshakeRefused { info, status };
        self.broker.listener.event(event);
    }

    fn drop_socket(&self, info: ConnectionInfo, write: &WriteHalf) {
        self.refuse(info, "dropped");
        write.shutdown(Shutdown::Both);
    }

    /// Adds TLS to an accepted socket, if the server uses it. None if the socket was dropped.
    fn secure(
        &self,
        read: ReadHalf,
        write: WriteHalf,
        info: ConnectionInfo,
    ) -> Option<(ReadHalf, WriteHalf)> {
        let Some(tls) = &self.tls else {
            return Some((read, write));
        };
        if self.broker.memory.is_short() {
            // Sending a refusal would require a TLS handshake first.
            self.drop_socket(info, &write);
            return None;
        }
        let acceptor = tls.lock().clone();
        acceptor.accept(read, write, &self.broker.memory).ok()
    }

    /// Performs the handshakes and counts the connection. None if they failed: the peer was refused, or has
    /// disconnected.
    async fn upgrade(
        &self,
        arrival: Arrival,
        mut under_way: PendingHandshake,
        closing: &mut watch::Receiver<bool>,
    ) -> Option<Upgraded> {
        let Arrival {
            mut read,
            write,
            mut info,
            request: received,
        } = arrival;
        let broker = &*self.broker;
        let options = &broker.options;
        let is_local = read.is_local();
        let mut charge = Charge::new(&broker.memory, HANDSHAKE);
        let request = async {
            if options.proxy_protocol && received.is_none() {
                info = proxy_protocol::read(read.socket(), info).await?;
            }
            read.handshake(Some(&self.computing)).await?;
            let context = RequestContext {
                options,
                peer: match info.remote_address {
                    Some(address) => SocketPeer::Address(address),
                    None if is_local => SocketPeer::Local,
                    None => SocketPeer::Unknown,
                },
                secure: info.secure,
                received: received.as_ref().map(|request| &request.bytes[..]),
            };
            handshake::read_request(&mut read, &context, &mut charge).await
        };
        let outcome = tokio::select! {
            outcome = timeout(options.handshake_timeout, request) => outcome,
            () = under_way.ended() => {
                self.drop_socket(info, &write);
                return None;
            }
            _ = closing.wait_for(|closing| *closing) => return None,
        };
        let refuse = |refusal: Refusal| {
            self.refuse(info, refusal.status());
            Some(refusal.response())
        };
        let answer = match outcome {
            // A TLS alert was sent already.
            Ok(Err(error)) if tls::failure(&error).is_some() => {
                self.refuse(info, "tls");
                None
            }
            Ok(Err(error)) if options.proxy_protocol && is_foreign(&error) => {
                self.refuse(info, "dropped");
                None
            }
            Ok(Err(_)) => return None,
            Err(_) => refuse(Refusal::Timeout),
            Ok(Ok(Upgrade::Refused(refusal))) => refuse(refusal),
            Ok(Ok(Upgrade::Answered(answer))) => Some(answer),
            Ok(Ok(Upgrade::Accepted { .. })) if !broker.count_connection() => {
                refuse(Refusal::Unavailable)
            }
            Ok(Ok(Upgrade::Accepted {
                response,
                request,
                forwarded,
                early,
            })) => {
                let info = forwarded.map_or(info, |forwarded| forwarded.apply(info));
                // Emitted before the peer gets the response: events of its next actions come later.
                broker.listener.event(ServerEvent::Connection(info));
                let answer = handshake::write_all(&write, response.as_bytes());
                // A few hundred bytes: only a malicious peer does not read them.
                let answered = timeout(options.handshake_timeout, answer).await;
                if !matches!(answered, Ok(Ok(()))) {
                    broker.metrics.connections.fetch_sub(1, Relaxed);
                    self.refuse(info, "dropped");
                    return None;
                }
                broker.metrics.accepted(match &received {
                    None => "port",
                    Some(_) if read.is_bridge() => "bridge",
                    Some(_) => "attach",
                });
                let peer = request.map(|(url, headers)| Peer {
                    headers: headers.into(),
                    url: url.into(),
                    certificate: read.peer_certificate().map(Into::into),
                    context: received.and_then(|request| request.context),
                });
                return Some(Upgraded {
                    read,
                    write,
                    peer,
                    info,
                    early,
                });
            }
        };
        let finish = handshake::finish(answer, &mut read, &write, DISCARD);
        tokio::select! {
            // Ends the same way whether the peer reads the answer or not.
            _ = timeout(options.close_timeout, finish) => {}
            () = under_way.ended() => {}
            _ = closing.wait_for(|closing| *closing) => {}
        }
        None
    }
}

/// True if the peer has sent something else than the header of a proxy.
fn is_foreign(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

/// True for an error of the accepted connection, not of the listening socket.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted | Kind::ConnectionReset | Kind::Interrupted
    )
}

/// Permit for one open socket, whatever its state.
pub(super) struct SocketPermit(Arc<Ingress>);

impl SocketPermit {
    /// Takes a permit. `follows`: in place of a socket that is about to be closed, so one more is allowed.
    fn take(ingress: &Arc<Ingress>, follows: bool) -> Option<Self> {
        let waiting = MAX_WAITING + usize::from(follows);
        let most = ingress
            .broker
            .options
            .max_connections
            .saturating_add(waiting);
        let permit = Self(ingress.clone());
        (ingress.sockets.fetch_add(1, Relaxed) < most).then_some(permit)
    }
}

impl Drop for SocketPermit {
    fn drop(&mut self) {
        self.0.sockets.fetch_sub(1, Relaxed);
    }
}

//! The admin endpoint: metrics, health and the dashboard over HTTP, on a thread of its own. It answers while JavaScript is
//! blocked and while the broker is busy.
//!
//! | file | contents |
//! | --- | --- |
//! | `admin` | listens, limits connections, answers requests |
//! | `http` | reads a request, writes a response |
//! | `api` | figures, connections and topics as JSON, for the dashboard; disconnects clients |
//! | `history` | the figures of the last minutes and hours |
//! | `page` | the files of the dashboard |

mod api;
mod history;
mod http;
mod page;

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use ring::digest;
use tokio::{
    runtime::{Builder, Handle as Runtime},
    sync::watch,
    task::AbortHandle,
    time::{sleep, sleep_until, timeout},
};

use super::{Address, acceptor::ListeningSocket, ingress::Ingress};
use crate::{
    broker::Broker,
    cluster::Cluster,
    error::{Error, Result},
    metrics::{self, Format},
    options::AdminOptions,
    transport::socket::{ReadHalf, Socket},
};
use history::History;
use http::{Method, Request, Response};

/// Connections that are served at a time. A further one ends the oldest: peers that are slow on purpose must not keep
/// health checks out.
const MAX_CONNECTIONS: usize = 512;
/// Time limit of the check that the threads of the broker run.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// Metrics are not computed again within this time, whatever the number of requests.
const CACHED: Duration = Duration::from_millis(250);
/// Pause of the accept loop when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The admin endpoint of a server.
pub(super) struct Admin {
    broker: Arc<Broker>,
    cluster: Option<Arc<Cluster>>,
    ingress: Arc<Ingress>,
    /// Runtime of the broker.
    runtime: Runtime,
    /// True if only programs of this machine can connect, and no page in a browser.
    is_unix: bool,
    /// None if requests need no token.
    token: Option<Token>,
    /// The last metrics in each format.
    cached: Mutex<[Option<Cached>; 2]>,
    started: SystemTime,
    history: Mutex<History>,
    /// The last list of connections.
    connections: Mutex<Option<Cached>>,
    /// The last list of topics.
    topics: Mutex<Option<Cached>>,
    /// When the topics may be searched next.
    next_search: Mutex<Instant>,
}

/// A text, and when it was computed.
type Cached = (Instant, Arc<str>);

/// The token of an admin endpoint, as its SHA-256.
#[derive(Clone)]
pub(super) struct Token(Arc<Mutex<digest::Digest>>);

impl Token {
    fn new(token: &str) -> Self {
        Self(Arc::new(Mutex::new(hash(token))))
    }

    /// Changes the token for new requests.
    pub(super) fn set(&self, token: &str) {
        *self.0.lock() = hash(token);
    }

    /// Hashes take the same time to compare, whatever the guess.
    fn is(&self, given: &str) -> bool {
        hash(given).as_ref() == self.0.lock().as_ref()
    }
}

fn hash(token: &str) -> digest::Digest {
    digest::digest(&digest::SHA256, token.as_bytes())
}

/// An admin endpoint that is served.
pub(super) struct Endpoint {
    pub(super) address: Address,
    /// None if requests need no token.
    pub(super) token: Option<Token>,
}

/// An admin endpoint that is bound, and not served yet.
pub(super) struct Bound {
    runtime: tokio::runtime::Runtime,
    socket: ListeningSocket,
    token: Option<String>,
    address: Address,
}

impl Bound {
    /// Binds the address. `mode`: the permissions of a Unix socket.
    ///
    /// Errors: `Io`.
    pub(super) fn bind(options: AdminOptions, mode: Option<u32>) -> Result<Self> {
        let failed = |error| Error::io("listen", "admin", error);
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let entered = runtime.enter();
        let (socket, address) = ListeningSocket::bind(&options.listen, false, mode)?;
        drop(entered);
        let socket = socket.ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        Ok(Self {
            runtime,
            socket,
            token: options.token,
            address,
        })
    }

    /// Serves until the broker closes. `runtime`: that of the broker.
    ///
    /// Errors: `Io` if no thread can be started.
    pub(super) fn serve(
        self,
        ingress: &Arc<Ingress>,
        cluster: Option<Arc<Cluster>>,
        runtime: &Runtime,
    ) -> Result<Endpoint> {
        let broker = ingress.broker.clone();
        let closing = broker.closing();
        let token = self.token.as_deref().map(Token::new);
        broker.recently_closed.enable();
        let admin = Arc::new(Admin {
            started: SystemTime::now(),
            history: Mutex::new(History::new(Instant::now(), broker.stats())),
            connections: Mutex::default(),
            topics: Mutex::default(),
            next_search: Mutex::new(Instant::now()),
            broker,
            cluster,
            ingress: ingress.clone(),
            runtime: runtime.clone(),
            is_unix: matches!(self.address, Address::Unix(_)),
            token: token.clone(),
            cached: Mutex::default(),
        });
        let serve = move || self.runtime.block_on(admin.accept(self.socket, closing));
        std::thread::Builder::new()
            .name("wsmsgbroker-adm".to_owned())
            .spawn(serve)
            .map_err(|error| Error::io("thread", "admin", error))?;
        Ok(Endpoint {
            address: self.address,
            token,
        })
    }
}

impl Admin {
    async fn accept(self: Arc<Self>, socket: ListeningSocket, mut closing: watch::Receiver<bool>) {
        let mut served: VecDeque<AbortHandle> = VecDeque::new();
        tokio::spawn(self.clone().record());
        loop {
            let accepted = tokio::select! {
                accepted = std::future::poll_fn(|cx| socket.poll_accept(cx)) => accepted,
                _ = closing.wait_for(|closing| *closing) => return,
            };
            match accepted {
                Ok(socket) => {
                    served.retain(|task| !task.is_finished());
                    if served.len() >= MAX_CONNECTIONS
                        && let Some(oldest) = served.pop_front()
                    {
                        oldest.abort();
                    }
                    let admin = self.clone();
                    let task = tokio::spawn(async move { admin.serve(socket).await });
                    served.push_back(task.abort_handle());
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Records the history, until the endpoint ends.
    async fn record(self: Arc<Self>) {
        loop {
            let due = self.history.lock().next_due();
            sleep_until(due.into()).await;
            self.sample();
        }
    }

    /// Adds the current figures to the history, unless it has those of this second.
    fn sample(&self) {
        let now = Instant::now();
        let is_due = self.history.lock().is_due(now);
        if is_due {
            let stats = self.broker.stats();
            self.history.lock().add(now, stats);
        }
    }

    async fn serve(&self, socket: Socket) {
        let (mut read, write) = socket.into_halves();
        let (is_head, response) = match http::read(&mut read).await {
            Ok(mut request) => {
                let response = self.answer(&mut request, &mut read).await;
                (request.method == Method::Head, response)
            }
            Err(response) => (false, response),
        };
        if let Some(response) = response {
            http::respond(&mut read, &write, &response, is_head).await;
        }
    }

    /// Answers a request; none if the peer has disconnected.
    async fn answer(&self, request: &mut Request, read: &mut ReadHalf) -> Option<Response> {
        if request.path == api::DISCONNECT {
            return self.disconnect(request, read).await;
        }
        Some(match request.method {
            Method::Post => Response::wrong_method(http::ALLOW_READ),
            Method::Get | Method::Head => self.get(request).await,
        })
    }

    /// Answers GET. Whether the broker is alive and ready is no secret, nor is the page, which has no figures.
    async fn get(&self, request: &Request) -> Response {
        if let Some(file) = page::find(&request.path) {
            return file;
        }
        match &*request.path {
            "/healthz" => self.health().await,
            "/readyz" => self.readiness(),
            _ if !self.is_allowed(request) => match self.token {
                Some(_) => Response::unauthorized(),
                None => Response::text(403, "the Host header must be an IP address or localhost"),
            },
            "/metrics" => self.metrics(request.accepts_openmetrics),
            "/api/stats" => self.stats(request),
            "/api/connections" => self.connections(),
            "/api/topics" => self.topics(request).await,
            "/api/find" => self.find(request).await,
            _ => Response::text(404, "not found: /, /metrics, /healthz and /readyz exist"),
        }
    }

    /// True if the request has the token. Without a token its host must be an address: a page in a browser of this
    /// machine could otherwise read the metrics under a name that it controls (DNS rebinding).
    fn is_allowed(&self, request: &Request) -> bool {
        match &self.token {
            Some(token) => request.token.as_ref().is_some_and(|given| token.is(given)),
            None => self.is_unix || request.host.as_deref().is_none_or(is_address),
        }
    }

    /// 200 if the threads of the broker run.
    async fn health(&self) -> Response {
        let check = self.runtime.spawn(async {});
        match timeout(HEALTH_TIMEOUT, check).await {
            Ok(Ok(())) => Response::text(200, "ok"),
            _ => Response::text(503, "the threads of the broker do not respond"),
        }
    }

    /// 200 if new clients are welcome.
    fn readiness(&self) -> Response {
        match self.unready() {
            None => Response::text(200, "ready"),
            Some(reason) => Response::text(503, reason),
        }
    }

    /// Why new clients are not welcome.
    fn unready(&self) -> Option<&'static str> {
        let Broker { options, peers, .. } = &*self.broker;
        let needs_cluster = options.nats.as_ref().is_some_and(|nats| nats.required);
        let is_connected = || peers.as_ref().is_some_and(|peers| peers.stats().connected);
        if self.broker.drains_for().is_some() {
            Some("draining")
        } else if self.broker.is_leaving() {
            Some("closing")
        } else if !self.ingress.is_open() {
            Some("not listening")
        } else if needs_cluster && !is_connected() {
            Some("not connected to NATS")
        } else {
            None
        }
    }

    fn metrics(&self, openmetrics: bool) -> Response {
        let (format, end) = match openmetrics {
            true => (Format::OpenMetrics, "# EOF\n"),
            false => (Format::Prometheus, ""),
        };
        let mut cached = self.cached.lock();
        let cached = &mut cached[usize::from(openmetrics)];
        let now = Instant::now();
        let text = match cached {
            Some((at, text)) if now.duration_since(*at) < CACHED => text.clone(),
            _ => {
                let own = self.broker.stats().exposition(format);
                let text: Arc<str> = [&own, &*metrics::process(format), end].concat().into();
                *cached = Some((now, text.clone()));
                text
            }
        };
        Response::new(200, format.content_type(), text)
    }
}

/// True for a `Host` header that is an address, with or without a port, or `localhost`.
fn is_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost") || address.unwrap_or(name).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::is_address;

    #[test]
    fn only_an_address_or_localhost_is_a_host_of_this_machine() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9464",
            "[::1]:9464",
            "[::1]",
            "localhost",
            "LOCALHOST:1",
        ] {
            assert!(is_address(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "example.org:9464",
            "127.0.0.1.example.org",
            "localhost.example.org:80",
            "::1:x",
        ] {
            assert!(!is_address(host), "{host}");
        }
    }
}

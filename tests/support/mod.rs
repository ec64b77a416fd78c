//! Help that all Rust test programs share: a server, and peers that connect to it, one in text frames and
//! one in raw bytes.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

pub mod canary;
pub mod client_log;
#[cfg(feature = "nats")]
pub mod nats;
pub mod random;
pub mod raw;
pub mod scripted_server;
pub mod tls;
pub mod violations;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::Handle,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config, tungstenite::Message,
};
use wsmsgbroker::{Address, Error, Listen, Server, ServerEvent, ServerOptions};

/// Longer than anything a test waits for, unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than a test takes, for an option whose time must not be up.
pub const LONG: Duration = Duration::from_secs(3600);

/// The events of a server, as lines.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn add(&self, event: &ServerEvent<'_>) {
        let line = match event {
            ServerEvent::Connection(_) => "connection".into(),
            ServerEvent::Registered { id, .. } => format!("registered {id}"),
            ServerEvent::Unregistered(id) => format!("unregistered {id}"),
            ServerEvent::UnknownId(id) => format!("unknown {id}"),
            ServerEvent::Refused { error, .. } => format!("refused {}", error.code()),
            ServerEvent::Slow { id, why } => format!("slow {id:?} {why:?}"),
            ServerEvent::HandshakeRefused { status, .. } => format!("refused handshake {status}"),
            ServerEvent::Disconnected { reason, .. } => format!("disconnected {}", reason.name()),
            ServerEvent::Denied { id, denied, .. } => {
                format!("denied {id:?} {}", denied.close_code())
            }
            other => format!("{other:?}"),
        };
        self.push(line);
    }

    pub fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    /// Number of lines that are equal to this one.
    pub fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|l| *l == line).count()
    }

    /// Waits until the log has this line.
    pub async fn wait_for(&self, line: &str) {
        until(line, || self.count(line) > 0).await;
    }
}

/// Waits until a condition holds; `what` describes it in the panic if it never does.
pub async fn until(what: &str, is_true: impl FnMut() -> bool) {
    assert!(comes_true(is_true).await, "still not: {what}");
}

/// Waits until a condition holds; false if it does not within [`PATIENCE`].
pub async fn comes_true(mut is_true: impl FnMut() -> bool) -> bool {
    let there = async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, there).await.is_ok()
}

pub fn options() -> ServerOptions {
    ServerOptions {
        listen: Listen::Tcp {
            host: "127.0.0.1".into(),
            port: 0,
        },
        ..ServerOptions::default()
    }
}

/// Bounds for what waits for a slow receiver.
pub fn backpressure(max_backpressure: usize, slow_consumer_timeout: Duration) -> ServerOptions {
    ServerOptions {
        max_backpressure,
        slow_consumer_timeout,
        // For peers that read their close frame late.
        close_timeout: LONG,
        ..options()
    }
}

/// A server on a free port of the loopback.
pub fn start_server(options: ServerOptions) -> (Server, Log) {
    let log = Log::default();
    (start_server_with(options, &log), log)
}

/// Starts a server on a free port of the loopback that reports its events to `log`.
pub fn start_server_with(options: ServerOptions, log: &Log) -> Server {
    let log = log.clone();
    let listener = move |event: ServerEvent<'_>| log.add(&event);
    Server::bind(options, listener, &Handle::current()).unwrap()
}

/// Starts a server without an event listener.
pub fn bind(options: ServerOptions) -> Result<Server, Error> {
    Server::bind(options, |_: ServerEvent<'_>| {}, &Handle::current())
}

pub fn port(server: &Server) -> u16 {
    match server.address() {
        Address::Tcp(address) => address.port(),
        address => panic!("{address:?}"),
    }
}

/// A server to which peers connect: in this process, or in another.
pub trait Listening {
    fn socket_address(&self) -> SocketAddr;
}

impl Listening for Server {
    fn socket_address(&self) -> SocketAddr {
        ([127, 0, 0, 1], port(self)).into()
    }
}

pub async fn tcp(server: &impl Listening) -> TcpStream {
    TcpStream::connect(server.socket_address()).await.unwrap()
}

/// A peer that speaks WebSocket.
pub struct Peer<S = MaybeTlsStream<TcpStream>>(pub WebSocketStream<S>);

impl Peer {
    pub async fn connect(server: &impl Listening) -> Self {
        let url = format!("ws://{}/", server.socket_address());
        // Without Nagle's algorithm, which would wait 40 ms now and then.
        Self(connect_async_with_config(url, None, true).await.unwrap().0)
    }

    /// Connected and registered.
    pub async fn register(server: &impl Listening, id: &str) -> Self {
        Self::connect(server).await.registered(id).await
    }

    /// Connected and registered; speaks version 2.
    pub async fn register_2(server: &impl Listening, id: &str) -> Self {
        let mut peer = Self::connect(server).await;
        let register = format!(r#"{{"action":"register","id":"{id}","protocol":2}}"#);
        peer.send(&register).await;
        let registered = format!(r#"{{"action":"registered","id":"{id}","protocol":2}}"#);
        peer.expect(&registered).await;
        peer
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Registers this connection.
    pub async fn registered(self, id: &str) -> Self {
        let mut peer = self;
        peer.send(&format!(r#"{{"action":"register","id":"{id}"}}"#))
            .await;
        assert_eq!(
            peer.receive().await,
            format!(r#"{{"action":"registered","id":"{id}"}}"#)
        );
        peer
    }

    pub async fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    /// The next message of any kind.
    pub async fn next(&mut self) -> Option<Message> {
        timeout(PATIENCE, self.0.next())
            .await
            .expect("a message in time")
            .and_then(Result::ok)
    }

    /// The next text. Pings before it are answered.
    pub async fn receive(&mut self) -> String {
        loop {
            match self.next().await {
                Some(Message::Text(text)) => return text.to_string(),
                Some(Message::Ping(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Asserts that the next text is this one.
    pub async fn expect(&mut self, text: &str) {
        assert_eq!(self.receive().await, text);
    }

    /// Asserts that nothing sent so far caused a frame that has not been received yet. Afterwards the peer
    /// has another id and speaks version 1.
    pub async fn expect_nothing(&mut self) {
        self.send(r#"{"action":"register","id":"(marker)"}"#).await;
        self.expect(r#"{"action":"registered","id":"(marker)"}"#)
            .await;
    }

    /// The code with which the server closes; texts before it are skipped.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            match self.next().await {
                Some(Message::Close(frame)) => {
                    return frame.map_or(1005, |frame| frame.code.into());
                }
                Some(_) => {}
                None => return 1006,
            }
        }
    }
}

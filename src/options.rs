//! Every default, bound and unit, in one place.

pub(crate) mod headers;
mod nats;
mod tls;

use std::{fmt, path::PathBuf, time::Duration};

use crate::{
    auth::{self, Authentication},
    error::{Error, Result},
};

pub use nats::{NatsAuth, NatsOptions};
pub use tls::{Pem, TlsClientOptions, TlsServerOptions, TlsVersion};

/// 1.7.2 accepted messages of this size; so do we, both ways.
const MAX_PAYLOAD: usize = 100 << 20;
/// A message and what is around it must fit into a string of V8, which holds 24 bytes less than 512 MiB.
const PAYLOAD_CEILING: usize = 511 << 20;
/// Less than what proxies and routers allow a connection to be silent: 30 s is the least usual.
const PING_INTERVAL: Duration = Duration::from_secs(25);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Where clients are authenticated, those who are not get little time and few tries.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
const PROTOCOL_ERRORS: u32 = 100;
const HOUR: Duration = Duration::from_secs(3600);
/// The longest time an option may name: beyond it, clocks would overflow.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP port of an address or host name; port 0 takes a free one.
    Tcp {
        /// Address or name.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// What happens to a connection that does not read as fast as others send to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowConsumer {
    /// Those who send to it are read no further until it has caught up, for `slow_consumer_timeout`.
    #[default]
    Pushback,
    /// It is closed at once, with 1013.
    Close,
    /// What is sent to it meanwhile is dropped, and counted.
    Drop,
}

/// What one connection may send in a second. A second's worth may come at once; beyond it the
/// connection is read no further until its time has come: nothing is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Messages of any kind, pings included.
    pub messages: u64,
    /// Bytes, those of frame headers included.
    pub bytes: u64,
}

/// The options of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Where to listen. Default: TCP, 0.0.0.0, a free port.
    pub listen: Listen,
    /// The path of the WebSocket endpoint, compared exactly; a missing slash is added. Default `/`.
    pub path: String,
    /// Bytes of one message from a client; more closes it with 1009. Default 100 MiB, as `ws`.
    pub max_payload: usize,
    /// Bytes that may wait for one connection before `slow_consumer` applies. Default 16 MiB.
    ///
    /// One message may always wait, whatever its size.
    pub max_backpressure: usize,
    /// What applies then. Default push-back.
    pub slow_consumer: SlowConsumer,
    /// How long senders are held for a connection that reads less than 2 MiB in that time, before
    /// it is closed with 1013. Default 5 s.
    pub slow_consumer_timeout: Duration,
    /// Bytes of all buffers and tables together. Beyond it those who send to a connection for which
    /// more than its share waits (64 KiB, or less where connections are many) are read no further,
    /// new connections are refused with 503, and when that does not help the connection that holds
    /// most is closed with 1013, then the next.
    /// Default: a quarter of what the machine has, or the cgroup allows.
    pub max_memory: usize,
    /// Connections at one time; a further one is refused with 503. Default: 80 % of the file limit.
    pub max_connections: usize,
    /// Bytes of an id, and of an ack, as JSON text without quotes. Default 8 KiB.
    pub max_id_length: usize,
    /// Receivers of one message. Default 65,536.
    pub max_dest: usize,
    /// Bytes of one message times its receivers; more is refused. Default 1 GiB.
    pub max_fanout_bytes: usize,
    /// Fragments of one message; more closes its sender with 1008. Default 16,384, as `ws`.
    pub max_fragments: usize,
    /// Pings and pongs of one connection in a second; more closes it with 1008. Default 100.
    pub max_control_frames: u32,
    /// Actions of one connection that may be refused in a minute; more closes it with 1008. Zero:
    /// no limit. Default: none, as 1.7.2; 100 where clients are authenticated.
    pub max_protocol_errors: Option<u32>,
    /// What one connection may send in a second. Default: no limit.
    pub rate_limit: Option<RateLimit>,
    /// Bytes of the handshake's request head; more is refused with 431. Default 16 KiB.
    pub max_header_size: usize,
    /// From accept to the end of the handshake; longer is refused with 408. Default 10 s.
    pub handshake_timeout: Duration,
    /// Who may register. Default: anybody, as 1.7.2.
    ///
    /// Otherwise a connection may do nothing but register until it has.
    pub authentication: Authentication,
    /// The `Origin`s from which browsers may connect, such as `https://example.org`, or `*` for all;
    /// others are refused with 403. Peers that send no `Origin` are none of this.
    /// Default: any, as 1.7.2; where clients are authenticated, that of the request's `Host`.
    pub allowed_origins: Option<Vec<String>>,
    /// How long a connection may stay without an id; longer closes it with 1008. Zero: for ever.
    /// Default: for ever, as 1.7.2; 10 s where clients are authenticated.
    pub register_timeout: Option<Duration>,
    /// A connection from which nothing has come for this long is sent a ping. Zero: never.
    /// Default 25 s, less than what proxies and routers allow.
    pub ping_interval: Duration,
    /// How long it may then stay silent before it counts as dead. Default 20 s.
    pub ping_timeout: Duration,
    /// How long a closing connection may take before its socket is destroyed. Default 5 s.
    pub close_timeout: Duration,
    /// How long a request may be answered. Default 1 h, as 1.7.2.
    pub ack_timeout: Duration,
    /// Deliveries (requests times receivers) of one connection that may await an answer; beyond
    /// it the oldest expires. Default 65,536.
    pub max_pending_acks: usize,
    /// Speak TLS, and nothing else. Default none.
    pub tls: Option<TlsServerOptions>,
    /// Be one with other brokers, over NATS (feature `nats`). Default none: alone.
    pub nats: Option<NatsOptions>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp {
                host: "0.0.0.0".into(),
                port: 0,
            },
            path: "/".into(),
            max_payload: MAX_PAYLOAD,
            max_backpressure: 16 << 20,
            slow_consumer: SlowConsumer::Pushback,
            slow_consumer_timeout: Duration::from_secs(5),
            max_memory: default_max_memory(),
            max_connections: default_max_connections(),
            max_id_length: 8 << 10,
            max_dest: 65_536,
            max_fanout_bytes: 1 << 30,
            max_fragments: 16_384,
            max_control_frames: 100,
            max_protocol_errors: None,
            rate_limit: None,
            max_header_size: 16 << 10,
            handshake_timeout: Duration::from_secs(10),
            authentication: Authentication::None,
            allowed_origins: None,
            register_timeout: None,
            ping_interval: PING_INTERVAL,
            ping_timeout: PING_TIMEOUT,
            close_timeout: Duration::from_secs(5),
            ack_timeout: HOUR,
            max_pending_acks: 65_536,
            tls: None,
            nats: None,
        }
    }
}

impl ServerOptions {
    /// Checks every bound.
    ///
    /// Errors: `InvalidOption` names the first option out of its range.
    pub fn validate(&self) -> Result<()> {
        range("maxPayload", self.max_payload, 1, PAYLOAD_CEILING)?;
        range("maxBackpressure", self.max_backpressure, 1024, usize::MAX)?;
        range("maxMemory", self.max_memory, 1 << 20, usize::MAX)?;
        range("maxConnections", self.max_connections, 1, usize::MAX)?;
        range("maxIdLength", self.max_id_length, 1, 64 << 10)?;
        range("maxDest", self.max_dest, 1, 1 << 24)?;
        range("maxFanoutBytes", self.max_fanout_bytes, 1, usize::MAX)?;
        range("maxFragments", self.max_fragments, 1, 1 << 24)?;
        range(
            "maxControlFrames",
            self.max_control_frames as usize,
            1,
            1 << 24,
        )?;
        if let Some(RateLimit { messages, bytes }) = self.rate_limit {
            range("rateLimit.messages", messages as usize, 1, usize::MAX)?;
            range("rateLimit.bytes", bytes as usize, 1024, usize::MAX)?;
        }
        range("maxHeaderSize", self.max_header_size, 256, 1 << 20)?;
        range("maxPendingAcks", self.max_pending_acks, 1, 1 << 24)?;
        time("slowConsumerTimeout", self.slow_consumer_timeout)?;
        time("handshakeTimeout", self.handshake_timeout)?;
        time_or_never("registerTimeout", self.register_timeout.unwrap_or_default())?;
        time_or_never("pingInterval", self.ping_interval)?;
        time("pingTimeout", self.ping_timeout)?;
        if let Some(allowed) = &self.allowed_origins {
            auth::origin::validate(allowed)?;
        }
        if let Some(nats) = &self.nats {
            nats.validate()?;
        }
        if let Authentication::Hook(_, limit) = self.authentication {
            time("authenticateTimeout", limit)?;
        }
        time("closeTimeout", self.close_timeout)?;
        time("ackTimeout", self.ack_timeout)
    }

    fn authenticates(&self) -> bool {
        !matches!(self.authentication, Authentication::None)
    }

    /// True if the embedder decides who may register, and wants to see the request's headers.
    pub(crate) fn asks_embedder(&self) -> bool {
        matches!(self.authentication, Authentication::Hook(..))
    }

    /// How long a connection may stay without an id; none if for ever.
    pub(crate) fn effective_register_timeout(&self) -> Option<Duration> {
        let default = self.authenticates().then_some(REGISTER_TIMEOUT);
        self.register_timeout
            .or(default)
            .filter(|limit| !limit.is_zero())
    }

    /// How many actions of a connection may be refused in a minute; zero if any number.
    pub(crate) fn effective_protocol_errors(&self) -> u32 {
        let default = if self.authenticates() {
            PROTOCOL_ERRORS
        } else {
            0
        };
        self.max_protocol_errors.unwrap_or(default)
    }

    /// True if requests from this origin are served. `host`: what the request names.
    pub(crate) fn allows_origin(&self, origin: &str, host: Option<&str>, secure: bool) -> bool {
        match &self.allowed_origins {
            None if !self.authenticates() => true,
            allowed => auth::origin::is_allowed(origin, allowed.as_deref(), host, secure),
        }
    }
}

/// The options of a client.
#[derive(Clone)]
pub struct ClientOptions {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query of the endpoint. Default `/`.
    pub path: String,
    /// The id to register, as JSON text; none sends a `register` without an id.
    pub id: Option<String>,
    /// What the server is shown at registration. Default: nothing.
    pub token: Option<String>,
    /// The version of the protocol to ask for: 1, or 2. A server of version 1 answers with 1.
    /// Default 1.
    pub protocol: u8,
    /// Further headers of the handshake: names and values. Default: none.
    pub headers: Vec<(String, String)>,
    /// Bytes of one message from the server. Default 100 MiB and 64 KiB: the `from` member
    /// lengthens a message that was legal when it was sent.
    pub max_payload: usize,
    /// Bytes of the JSON text of one message, answer or refusal that the embedder is given; a larger
    /// one is dropped, and the connection stays open. Default: no limit below `max_payload`.
    pub max_message: usize,
    /// Bytes waiting above which [`Client::send`](crate::Client::send) asks to slow down. Default 1 MiB.
    pub high_water_mark: usize,
    /// Bytes waiting above which a send fails. Default 1 GiB.
    pub max_queued: usize,
    /// From start to open. Default 30 s.
    pub connect_timeout: Duration,
    /// When nothing has come from the server for this long, it is sent a ping. Zero: never.
    /// Default 25 s.
    pub ping_interval: Duration,
    /// How long it may then stay silent before the connection counts as dead (1006). Default 20 s.
    pub ping_timeout: Duration,
    /// How long a closing connection may make no progress: nothing of what was sent is taken, or
    /// our close frame is not answered. Default 5 s.
    pub close_timeout: Duration,
    /// Speak TLS (`wss:`), and nothing else. Default none.
    pub tls: Option<TlsClientOptions>,
}

/// Leaves out what must not reach a log: the token, the headers, and the keys.
impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("path", &self.path)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 80,
            path: "/".into(),
            id: None,
            token: None,
            protocol: 1,
            headers: Vec::new(),
            max_payload: MAX_PAYLOAD + (64 << 10),
            max_message: usize::MAX,
            high_water_mark: 1 << 20,
            max_queued: 1 << 30,
            connect_timeout: Duration::from_secs(30),
            ping_interval: PING_INTERVAL,
            ping_timeout: PING_TIMEOUT,
            close_timeout: Duration::from_secs(5),
            tls: None,
        }
    }
}

impl ClientOptions {
    /// Checks every bound.
    ///
    /// Errors: `InvalidOption` names the first option out of its range.
    pub fn validate(&self) -> Result<()> {
        range("maxPayload", self.max_payload, 1, PAYLOAD_CEILING)?;
        range("protocol", self.protocol.into(), 1, 2)?;
        for (name, value) in &self.headers {
            headers::parse(name, value)?;
        }
        range("highWaterMark", self.high_water_mark, 1, usize::MAX)?;
        range("maxQueued", self.max_queued, 1, usize::MAX)?;
        time("connectTimeout", self.connect_timeout)?;
        time_or_never("pingInterval", self.ping_interval)?;
        time("pingTimeout", self.ping_timeout)?;
        time("closeTimeout", self.close_timeout)
    }
}

/// Checks the bytes of a message.
#[cfg(feature = "node")]
pub(crate) fn payload(name: &'static str, value: usize) -> Result<()> {
    range(name, value, 1, PAYLOAD_CEILING)
}

fn range(name: &'static str, value: usize, least: usize, most: usize) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let expected = match most {
        usize::MAX => format!("at least {least}"),
        _ => format!("from {least} to {most}"),
    };
    Err(Error::InvalidOption {
        name,
        reason: format!("is {value}, expected {expected}"),
    })
}

fn time(name: &'static str, value: Duration) -> Result<()> {
    if !value.is_zero() && value <= FOREVER {
        return Ok(());
    }
    let reason = format!("is {} ms, expected 1 ms to 100 years", value.as_millis());
    Err(Error::InvalidOption { name, reason })
}

/// The same, where zero turns it off.
fn time_or_never(name: &'static str, value: Duration) -> Result<()> {
    if value.is_zero() {
        return Ok(());
    }
    time(name, value)
}

/// A quarter of the memory that we may use: the embedder, and the system, have the rest.
fn default_max_memory() -> usize {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let machine = system.total_memory();
    let group = system
        .cgroup_limits()
        .map_or(u64::MAX, |it| it.total_memory);
    // A system that tells neither is not one without memory.
    (machine.min(group) / 4).max(64 << 20) as usize
}

/// 80 % of the files this process may open: the rest is the embedder's.
fn default_max_connections() -> usize {
    #[cfg(unix)]
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    // Windows has no such limit; this is the default of its handle tables.
    #[cfg(not(unix))]
    let files = Some(16_384);
    let files = files.map_or(1 << 20, |n| n.min(1 << 20) as usize);
    (files / 5 * 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        ServerOptions::default().validate().unwrap();
        ClientOptions::default().validate().unwrap();
    }

    #[test]
    fn an_option_out_of_range_is_named() {
        let options = ServerOptions {
            max_payload: 0,
            ..ServerOptions::default()
        };
        let error = options.validate().unwrap_err();
        assert_eq!(error.code(), "ERR_WSMB_OPTION");
        assert!(error.to_string().contains("maxPayload"), "{error}");
        let options = ClientOptions {
            close_timeout: Duration::ZERO,
            ..ClientOptions::default()
        };
        assert!(
            options
                .validate()
                .unwrap_err()
                .to_string()
                .contains("closeTimeout")
        );
    }
}

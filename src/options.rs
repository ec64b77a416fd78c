//! The options of servers and clients, with their defaults, ranges and units.

mod admin;
pub(crate) mod headers;
#[cfg(unix)]
mod inherited;
mod keep;
mod mailboxes;
mod nats;
pub(crate) mod path;
mod proxy;
mod store;
mod tls;
mod trust_proxy;

use std::{fmt, ops::RangeInclusive, path::PathBuf, time::Duration};

use crate::{
    auth::{self, Authentication, Authorization},
    error::{Error, Result},
};

pub use admin::AdminOptions;
#[cfg(unix)]
pub use inherited::InheritedSocket;
pub use keep::KeepRule;
pub use mailboxes::MailboxRule;
pub use nats::{NatsAuth, NatsOptions};
pub(crate) use proxy::ProxyAddress;
pub use proxy::ProxyOptions;
pub use store::{StoreOptions, StoreSync};
pub use tls::{Pem, TlsClientOptions, TlsServerOptions, TlsVersion, TrustStore};
pub(crate) use trust_proxy::SocketPeer;
pub use trust_proxy::{Network, TrustProxy};

/// Default of `maxPayload` in bytes: the limit of 1.7.2, in both directions.
const MAX_PAYLOAD: usize = 100 << 20;
/// Upper limit of `maxPayload` in bytes: a frame must fit into a string of V8, which holds 24 bytes less than
/// 512 MiB.
const PAYLOAD_CEILING: usize = 511 << 20;
/// Shorter than the idle timeout of proxies and routers, the shortest of which is usually 30 s.
const PING_INTERVAL: Duration = Duration::from_secs(25);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Default limits for clients that are not authenticated yet, if authentication is required.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
const PROTOCOL_ERRORS: u32 = 100;
/// Maximum of `sessionTimeout`.
const MAX_SESSION: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);
/// The maximum of any duration: beyond it, clocks would overflow.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);
const TIME: RangeInclusive<Duration> = Duration::from_nanos(1)..=FOREVER;
const TIME_OR_NEVER: RangeInclusive<Duration> = Duration::ZERO..=FOREVER;

/// Defines a struct of options: each with its default and, if it is a number, its name in errors and its range.
macro_rules! options {
    ($(#[$about:meta])* pub struct $options:ident {
        $($(#[$about_field:meta])* pub $field:ident: $type:ty = $default:expr $(, $name:literal in $range:expr)?;)*
    }) => {
        $(#[$about])*
        pub struct $options {
            $($(#[$about_field])* pub $field: $type,)*
        }

        impl Default for $options {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $options {
            fn check_ranges(&self) -> Result<()> {
                $($(self.$field.check($name, $range)?;)?)*
                Ok(())
            }
        }
    };
}

/// The address that a server listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP port of an address or host name; port 0 picks a free one.
    Tcp {
        /// The address or host name.
        host: String,
        /// The port.
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// A listening socket that another process has opened, such as systemd.
    #[cfg(unix)]
    Inherited(InheritedSocket),
    /// No address: the server gets its sockets from an HTTP server of the embedder.
    Nowhere,
}

/// The policy for a slow consumer: a connection that reads more slowly than others send to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowConsumer {
    /// Backpressure: connections that send to it are not read until it is drained, for at most
    /// `slow_consumer_timeout`.
    #[default]
    Pushback,
    /// Close it at once, with 1013.
    Close,
    /// Drop messages to it, and count them.
    Drop,
}

/// The limits of what one connection may send per second. A burst of one second's worth is allowed; beyond it
/// the connection is not read until it may send again. No message is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Messages of any kind, including pings.
    pub messages: u64,
    /// Bytes, including frame headers.
    pub bytes: u64,
}

options! {
    /// The options of a server.
    #[derive(Debug, Clone)]
    pub struct ServerOptions {
        /// The address to listen on. Default: TCP, 0.0.0.0, a free port.
        pub listen: Listen = Listen::Tcp { host: "0.0.0.0".into(), port: 0 };
        /// Share the TCP port with other sockets that have this option, of this user's processes. Linux distributes
        /// connections among them. Linux and macOS only. Default false.
        pub reuse_port: bool = false;
        /// The path of the WebSocket endpoint, compared exactly; a missing leading slash is added, and characters
        /// that a URL cannot contain are escaped. Default `/`.
        pub path: String = "/".into();
        /// The trusted proxies in front of the server, whose headers `X-Forwarded-For`, `X-Forwarded-Proto` and
        /// `Forwarded` name the client. Default none: the client is the peer of the socket.
        pub trust_proxy: TrustProxy = TrustProxy::default();
        /// Each connection begins with a header of the PROXY protocol, version 1 or 2, which names the client; others
        /// are closed. Default false.
        pub proxy_protocol: bool = false;
        /// The path at which the server answers 200 to requests without an upgrade. Default: none.
        pub health: Option<String> = None;
        /// The permissions of the file of a Unix socket, such as 0o660. Default: those of the process (`umask`).
        pub socket_mode: Option<u32> = None;
        /// Maximum bytes of a message from a client; a longer one closes its connection with 1009. Default 100
        /// MiB, as in `ws`.
        pub max_payload: usize = MAX_PAYLOAD, "maxPayload" in 1..=PAYLOAD_CEILING;
        /// Bytes that may be queued for one connection before `slow_consumer` applies. Default 16 MiB.
        ///
        /// One message may always be queued, whatever its size.
        pub max_backpressure: usize = 16 << 20, "maxBackpressure" in 1024..=usize::MAX;
        /// The policy for slow consumers. Default: backpressure.
        pub slow_consumer: SlowConsumer = SlowConsumer::Pushback;
        /// How long a connection that reads less than 2 MiB in that time may make its senders wait before it is
        /// closed with 1013. Default 5 s.
        pub slow_consumer_timeout: Duration = Duration::from_secs(5), "slowConsumerTimeout" in TIME;
        /// Bytes of all buffers and tables together. Beyond it:
        ///
        /// - connections that send to a receiver whose queue exceeds its share (64 KiB, or less with many
        ///   connections) are not read,
        /// - new connections are refused with 503,
        /// - if that does not help, the connection that holds the most memory is closed with 1013, then the next.
        ///
        /// Default: a quarter of the machine's memory, or of the limit of the cgroup.
        pub max_memory: usize = default_max_memory(), "maxMemory" in 1 << 20..=usize::MAX;
        /// Maximum number of concurrent connections; a further one is refused with 503. Default: 80 % of the file
        /// limit.
        pub max_connections: usize = default_max_connections(), "maxConnections" in 1..=usize::MAX;
        /// Maximum bytes of an id, and of an ack, as JSON text without quotes. Default 8 KiB.
        pub max_id_length: usize = 8 << 10, "maxIdLength" in 1..=64 << 10;
        /// Maximum number of receivers of a message. Default 65,536.
        pub max_dest: usize = 65_536, "maxDest" in 1..=1 << 24;
        /// Maximum bytes of a message times its receivers; more is refused. Default 1 GiB.
        pub max_fanout_bytes: usize = 1 << 30, "maxFanoutBytes" in 1..=usize::MAX;
        /// Maximum number of subscriptions of a connection; 0: clients cannot subscribe. Default 1,024.
        pub max_subscriptions: usize = 1024, "maxSubscriptions" in 0..=1 << 24;
        /// Maximum number of distinct patterns with wildcards, of all connections. Default 65,536.
        pub max_patterns: usize = 65_536, "maxPatterns" in 0..=1 << 24;
        /// The topics whose messages are kept, for subscribers that come later or return. Not with `nats`.
        /// Default: none.
        pub keep: Vec<KeepRule> = Vec::new();
        /// The ids whose messages wait for them, until they are acknowledged. Not with `nats`. Default: none.
        pub mailboxes: Vec<MailboxRule> = Vec::new();
        /// Where the messages of rules with `disk` are kept. Default: no store.
        pub store: Option<StoreOptions> = None;
        /// Subscriptions may make publishers wait. Default false.
        pub allow_wait: bool = false;
        /// Maximum bytes of what a member of a topic tells of itself, as JSON text; more is refused. Default 1,024.
        pub max_presence_info: usize = 1024, "maxPresenceInfo" in 0..=64 << 10;
        /// Maximum number of members of a topic that its watchers get by name; of more they get the number. Default 1,000.
        pub max_presence_names: usize = 1000, "maxPresenceNames" in 0..=1 << 20;
        /// Time after which a member or an id whose connection was lost counts as gone. Zero: at once. Default 3 s.
        pub presence_timeout: Duration = Duration::from_secs(3), "presenceTimeout" in TIME_OR_NEVER;
        /// Maximum fragments of a message; more closes the connection with 1008. Default 16,384, as in `ws`.
        pub max_fragments: usize = 16_384, "maxFragments" in 1..=1 << 24;
        /// Maximum pings and pongs of a connection per second; more closes it with 1008. Default 100.
        pub max_control_frames: u32 = 100, "maxControlFrames" in 1..=1 << 24;
        /// Maximum refused actions of a connection per minute; more closes it with 1008. Zero: no limit. Default:
        /// no limit, as in 1.7.2; 100 if clients are authenticated.
        pub max_protocol_errors: Option<u32> = None;
        /// Limit of what one connection may send per second. Default: no limit.
        pub rate_limit: Option<RateLimit> = None;
        /// Maximum bytes of the request head of the handshake; more is refused with 431. Default 16 KiB.
        pub max_header_size: usize = 16 << 10, "maxHeaderSize" in 256..=1 << 20;
        /// Time limit of the handshake, from accept; longer is refused with 408. Default 10 s.
        pub handshake_timeout: Duration = Duration::from_secs(10), "handshakeTimeout" in TIME;
        /// The authentication of clients. Default: none, as in 1.7.2.
        ///
        /// With authentication, a connection cannot do anything before it has registered.
        pub authentication: Authentication = Authentication::None;
        /// The permissions of authenticated clients beyond their grants. Default: none.
        pub authorization: Authorization = Authorization::None;
        /// The origins of web pages that may connect, such as `https://example.org`, or `*` for all; others are
        /// refused with 403. Requests without an `Origin` header are always accepted. Default: any, as in 1.7.2;
        /// if clients are authenticated, that of the request's `Host`.
        pub allowed_origins: Option<Vec<String>> = None;
        /// How long a connection may stay unregistered; longer closes it with 1008. Zero: no limit. Default: no
        /// limit, as in 1.7.2; 10 s if clients are authenticated.
        pub register_timeout: Option<Duration> = None;
        /// Maximum time for which the session of a client outlives a lost connection. Zero: there are no sessions.
        /// Default zero.
        pub session_timeout: Duration = Duration::ZERO, "sessionTimeout" in Duration::ZERO..=MAX_SESSION;
        /// Bytes of the frames that a session keeps for its client: those written but not confirmed, and as many that
        /// wait while it has no connection. Default 1 MiB.
        pub max_session_buffer: usize = 1 << 20, "maxSessionBuffer" in 1024..=1 << 30;
        /// A connection that has sent nothing for this long is sent a ping. Zero: never. Default 25 s, shorter
        /// than the idle timeout of proxies and routers.
        pub ping_interval: Duration = PING_INTERVAL, "pingInterval" in TIME_OR_NEVER;
        /// Time limit for a sign of life after a ping, before the connection counts as dead. Default 20 s.
        pub ping_timeout: Duration = PING_TIMEOUT, "pingTimeout" in TIME;
        /// Time limit of a closing connection, before its socket is destroyed. Default 5 s.
        pub close_timeout: Duration = Duration::from_secs(5), "closeTimeout" in TIME;
        /// Time limit of a request for its answer. Default 1 h, as in 1.7.2.
        pub ack_timeout: Duration = HOUR, "ackTimeout" in TIME;
        /// Maximum deliveries (requests times receivers) of a connection that await an answer; beyond it the
        /// oldest expires. Default 65,536.
        pub max_pending_acks: usize = 65_536, "maxPendingAcks" in 1..=1 << 24;
        /// Accept only TLS connections. Default: no TLS.
        pub tls: Option<TlsServerOptions> = None;
        /// Form a cluster with other brokers over NATS (feature `nats`). Default: no cluster.
        pub nats: Option<NatsOptions> = None;
        /// Serve metrics and health over HTTP. Default: no endpoint.
        pub admin: Option<AdminOptions> = None;
    }
}

impl ServerOptions {
    /// Checks all options.
    ///
    /// Errors: `InvalidOption` with the first option that is out of range.
    pub fn validate(&self) -> Result<()> {
        self.check_ranges()?;
        path::validate(&self.path)?;
        self.validate_reuse_port()?;
        if let Some(health) = &self.health {
            path::validate_health(health, &self.path)?;
        }
        if let Some(mode) = self.socket_mode {
            mode.check("socketMode", 0..=0o777)?;
            let admin = self.admin.as_ref().map(|admin| &admin.listen);
            let mut listeners = [Some(&self.listen), admin].into_iter().flatten();
            if !listeners.any(|listen| matches!(listen, Listen::Unix(_))) {
                return Err(Error::InvalidOption {
                    name: "socketMode",
                    reason: "needs a Unix socket".to_owned(),
                });
            }
        }
        if let Some(RateLimit { messages, bytes }) = self.rate_limit {
            messages.check("rateLimit.messages", 1..=u64::MAX)?;
            bytes.check("rateLimit.bytes", 1024..=u64::MAX)?;
        }
        (self.register_timeout.unwrap_or_default()).check("registerTimeout", TIME_OR_NEVER)?;
        if let Some(allowed) = &self.allowed_origins {
            auth::origin::validate(allowed)?;
        }
        if let Some(admin) = &self.admin {
            admin.validate()?;
        }
        if let Some(nats) = &self.nats {
            nats.validate()?;
        }
        keep::validate(&self.keep, self.nats.is_some())?;
        keep::validate_disk(&self.keep, self.store.is_some())?;
        mailboxes::validate(&self.mailboxes, self.nats.is_some(), self.store.is_some())?;
        if let Some(store) = &self.store {
            store.validate()?;
        }
        if let Authentication::Hook(_, limit) = self.authentication {
            limit.check("authenticateTimeout", TIME)?;
        }
        if let Authorization::Hook(_, limit) = self.authorization {
            limit.check("authenticateTimeout", TIME)?;
            if !self.authenticates() {
                return Err(Error::InvalidOption {
                    name: "authorize",
                    reason: "needs \"authenticate\" or \"jwt\"".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn validate_reuse_port(&self) -> Result<()> {
        const IS_SUPPORTED: bool = cfg!(any(target_os = "linux", target_os = "macos"));
        let reason = match &self.listen {
            _ if !self.reuse_port => return Ok(()),
            Listen::Tcp { .. } if IS_SUPPORTED => return Ok(()),
            Listen::Tcp { .. } => "is supported on Linux and macOS only",
            _ => "needs a TCP port",
        };
        Err(Error::InvalidOption {
            name: "reusePort",
            reason: reason.to_owned(),
        })
    }

    fn authenticates(&self) -> bool {
        !matches!(self.authentication, Authentication::None)
    }

    /// True if a hook of the embedder decides about registrations; it needs the headers of the request.
    pub(crate) fn asks_embedder(&self) -> bool {
        matches!(self.authentication, Authentication::Hook(..))
    }

    /// How long a connection may stay unregistered; none if there is no limit.
    pub(crate) fn effective_register_timeout(&self) -> Option<Duration> {
        let default = self.authenticates().then_some(REGISTER_TIMEOUT);
        self.register_timeout
            .or(default)
            .filter(|limit| !limit.is_zero())
    }

    /// Maximum refused actions of a connection per minute; zero if there is no limit.
    pub(crate) fn effective_protocol_errors(&self) -> u32 {
        let default = if self.authenticates() {
            PROTOCOL_ERRORS
        } else {
            0
        };
        self.max_protocol_errors.unwrap_or(default)
    }

    /// True if requests from this origin are accepted. `host`: the `Host` header of the request.
    pub(crate) fn allows_origin(&self, origin: &str, host: Option<&str>, secure: bool) -> bool {
        match &self.allowed_origins {
            None if !self.authenticates() => true,
            allowed => auth::origin::is_allowed(origin, allowed.as_deref(), host, secure),
        }
    }
}

options! {
    /// The options of a client.
    #[derive(Clone)]
    pub struct ClientOptions {
        /// The host name or address of the server.
        pub host: String = "localhost".into();
        /// The port of the server.
        pub port: u16 = 80;
        /// Path and query of the endpoint. Default `/`.
        pub path: String = "/".into();
        /// The id to register, as JSON text; without one, `register` is sent without an id.
        pub id: Option<String> = None;
        /// The token for the registration. Default: none.
        pub token: Option<String> = None;
        /// The protocol version to request: 1 or 2. A server of version 1 confirms version 1. Default 1.
        pub protocol: u8 = 1, "protocol" in 1..=2;
        /// The session to request (version 2): the registration outlives this connection, and another one can continue
        /// it. Default none.
        pub session: Option<SessionOptions> = None;
        /// Additional headers of the handshake, as names and values. Default: none.
        pub headers: Vec<(String, String)> = Vec::new();
        /// Maximum bytes of a message from the server. Default 100 MiB and 64 KiB: the server adds a `from`
        /// member to messages of up to 100 MiB.
        pub max_payload: usize = MAX_PAYLOAD + (64 << 10), "maxPayload" in 1..=PAYLOAD_CEILING;
        /// Maximum bytes of the JSON text of a message, answer or refusal that is passed to the embedder; a
        /// larger one is dropped, and the connection stays open. Default: no limit below `max_payload`.
        pub max_message: usize = usize::MAX;
        /// High-water mark: queued bytes above which [`Client::send`](crate::Client::send) requests backpressure.
        /// Default 1 MiB.
        pub high_water_mark: usize = 1 << 20, "highWaterMark" in 1..=usize::MAX;
        /// Queued bytes above which a send fails. Default 1 GiB.
        pub max_queued: usize = 1 << 30, "maxQueued" in 1..=usize::MAX;
        /// Time limit from start to open. Default 30 s.
        pub connect_timeout: Duration = Duration::from_secs(30), "connectTimeout" in TIME;
        /// If the server has sent nothing for this long, it is sent a ping. Zero: never. Default 25 s.
        pub ping_interval: Duration = PING_INTERVAL, "pingInterval" in TIME_OR_NEVER;
        /// Time limit for a sign of life after a ping, before the connection counts as dead (1006). Default 20 s.
        pub ping_timeout: Duration = PING_TIMEOUT, "pingTimeout" in TIME;
        /// How long a closing connection may make no progress: no queued byte is written, or the close frame is
        /// not answered. Default 5 s.
        pub close_timeout: Duration = Duration::from_secs(5), "closeTimeout" in TIME;
        /// Connect with TLS (`wss:`). Default: no TLS.
        pub tls: Option<TlsClientOptions> = None;
        /// Connect through an HTTP proxy. Default: no proxy.
        pub proxy: Option<ProxyOptions> = None;
    }
}

/// A session that a client requests.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct SessionOptions {
    /// The time for which it is to outlive a lost connection. The server may grant less, or no session.
    pub timeout: Duration,
    /// The token of a session that continues, from the event `Registered` of its former connection, and the number of
    /// actions received in that session.
    pub since: Option<(String, u64)>,
}

/// Omits the token.
impl fmt::Debug for SessionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.since.as_ref().map(|(_, count)| count);
        f.debug_struct("SessionOptions")
            .field("timeout", &self.timeout)
            .field("since", &count)
            .finish()
    }
}

impl SessionOptions {
    /// A new session.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            since: None,
        }
    }
}

/// Omits secrets: the token, the headers and the keys.
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

impl ClientOptions {
    /// Checks all options.
    ///
    /// Errors: `InvalidOption` with the first option that is out of range.
    pub fn validate(&self) -> Result<()> {
        self.check_ranges()?;
        for (name, value) in &self.headers {
            headers::parse(name, value)?;
        }
        if let Some(proxy) = &self.proxy {
            ProxyAddress::parse(&proxy.url)?;
        }
        Ok(())
    }
}

/// Checks the value of an option that limits the bytes of a message.
#[cfg(feature = "node")]
pub(crate) fn payload(name: &'static str, value: usize) -> Result<()> {
    value.check(name, 1..=PAYLOAD_CEILING)
}

/// A number with a range.
trait Number: Sized {
    /// Errors: `InvalidOption` if the value is out of range.
    fn check(self, name: &'static str, range: RangeInclusive<Self>) -> Result<()>;
}

macro_rules! whole_numbers {
    ($($number:ty)*) => {$(
        impl Number for $number {
            fn check(self, name: &'static str, range: RangeInclusive<Self>) -> Result<()> {
                let expected = match *range.end() {
                    _ if range.contains(&self) => return Ok(()),
                    Self::MAX => format!("at least {}", range.start()),
                    most => format!("from {} to {most}", range.start()),
                };
                let reason = format!("is {self}, expected {expected}");
                Err(Error::InvalidOption { name, reason })
            }
        }
    )*};
}

whole_numbers!(u8 u32 u64 usize);

impl Number for Duration {
    fn check(self, name: &'static str, range: RangeInclusive<Self>) -> Result<()> {
        if range.contains(&self) {
            return Ok(());
        }
        let reason = format!("is {} ms, expected 1 ms to 100 years", self.as_millis());
        Err(Error::InvalidOption { name, reason })
    }
}

/// A quarter of the available memory; the rest is left to the embedder and the system.
fn default_max_memory() -> usize {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let machine = system.total_memory();
    let group = system
        .cgroup_limits()
        .map_or(u64::MAX, |it| it.total_memory);
    // At least 64 MiB, even if the system reports neither value.
    (machine.min(group) / 4).max(64 << 20) as usize
}

/// 80 % of the files that this process may open; the rest is left to the embedder.
fn default_max_connections() -> usize {
    #[cfg(unix)]
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    // Windows has no such limit; this is the default size of its handle tables.
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
    fn an_error_names_the_option_out_of_range() {
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

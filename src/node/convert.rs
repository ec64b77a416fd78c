//! Converts options from JavaScript, and errors for it. `lib/options.js` has checked the types of options;
//! the core checks their ranges.

use std::time::Duration;

use napi::bindgen_prelude::{Either, Either3, Uint8Array};
use napi_derive::napi;

use crate::{
    AdminOptions, Authentication, ClientOptions, Error, KeepRule, Listen, MailboxRule, NatsAuth,
    NatsOptions, Pem, ProxyOptions, RateLimit, ServerOptions, SessionOptions, SlowConsumer,
    StoreOptions, StoreSync, TlsClientOptions, TlsServerOptions, TlsVersion, TrustProxy,
    TrustStore,
    auth::{JwtKey, JwtOptions, Subject},
};

/// The result of a method of the addon. The error has its code, which JavaScript reads as `error.code`.
pub(super) type Result<T> = std::result::Result<T, napi::Error<String>>;

pub(super) fn error(error: Error) -> napi::Error<String> {
    napi::Error::new(error.code().to_owned(), error.to_string())
}

pub(super) fn failure(code: &str, error: impl ToString) -> napi::Error<String> {
    napi::Error::new(code.to_owned(), error.to_string())
}

/// The option `rateLimit`: limits per second. A missing member is no limit.
#[napi(object)]
#[derive(Clone, Copy)]
pub struct NativeRateLimit {
    pub messages: Option<f64>,
    pub bytes: Option<f64>,
}

impl From<NativeRateLimit> for RateLimit {
    fn from(js: NativeRateLimit) -> Self {
        let limit = |value: Option<f64>| value.map_or(u64::MAX, |value| value as u64);
        Self {
            messages: limit(js.messages),
            bytes: limit(js.bytes),
        }
    }
}

/// A rule of the option `keep`.
#[napi(object)]
pub struct NativeKeep {
    pub topic: String,
    pub messages: Option<f64>,
    pub age: Option<f64>,
    pub bytes: Option<f64>,
    pub disk: Option<bool>,
}

impl From<NativeKeep> for KeepRule {
    fn from(js: NativeKeep) -> Self {
        let mut rule = Self::new(js.topic);
        set(&mut rule.messages, js.messages);
        set(&mut rule.bytes, js.bytes);
        rule.age = js.age.map(millis);
        rule.disk = js.disk.unwrap_or_default();
        rule
    }
}

/// A rule of the option `mailboxes`.
#[napi(object)]
pub struct NativeMailbox {
    pub mailbox: String,
    pub topic: Option<String>,
    pub messages: Option<f64>,
    pub bytes: Option<f64>,
    pub total_bytes: Option<f64>,
    pub age: Option<f64>,
    pub disk: Option<bool>,
    pub max_deliver: Option<f64>,
    pub dead_letters: Option<String>,
}

impl From<NativeMailbox> for MailboxRule {
    fn from(js: NativeMailbox) -> Self {
        let mut rule = Self::new(js.mailbox);
        rule.topic = js.topic;
        set(&mut rule.messages, js.messages);
        set(&mut rule.bytes, js.bytes);
        set(&mut rule.total_bytes, js.total_bytes);
        rule.age = js.age.map(millis);
        rule.disk = js.disk.unwrap_or_default();
        set(&mut rule.max_deliver, js.max_deliver);
        rule.dead_letters = js.dead_letters;
        rule
    }
}

/// The option `store`.
#[napi(object)]
pub struct NativeStore {
    pub path: Option<String>,
    /// `batch` or `never`; none if there is a delay.
    pub sync: Option<String>,
    /// The interval of writes in milliseconds.
    pub delay: Option<f64>,
    pub max_bytes: Option<f64>,
}

impl From<NativeStore> for StoreOptions {
    fn from(js: NativeStore) -> Self {
        let mut options = Self::new(js.path.unwrap_or_default());
        options.sync = match (js.delay, js.sync.as_deref()) {
            (Some(delay), _) => StoreSync::Every(millis(delay)),
            (None, Some("never")) => StoreSync::Never,
            _ => StoreSync::Batch,
        };
        set(&mut options.max_bytes, js.max_bytes);
        options
    }
}

/// The option `jwt`: conditions under which a token is accepted.
#[napi(object)]
pub struct NativeJwt {
    pub secret: Option<Vec<u8>>,
    /// PEM.
    pub public_key: Option<Vec<u8>>,
    pub algorithms: Option<Vec<String>>,
    pub issuer: Option<Vec<String>>,
    pub audience: Option<Vec<String>>,
    /// True if `sub` is a pattern of ids.
    pub pattern: bool,
    pub leeway: Option<f64>,
    pub require_exp: Option<bool>,
}

impl From<NativeJwt> for JwtOptions {
    fn from(js: NativeJwt) -> Self {
        let key = match js.secret {
            Some(secret) => JwtKey::Secret(secret),
            None => JwtKey::PublicKey(js.public_key.unwrap_or_default()),
        };
        let defaults = Self::new(key);
        Self {
            algorithms: js.algorithms.unwrap_or_default(),
            issuer: js.issuer.unwrap_or_default(),
            audience: js.audience.unwrap_or_default(),
            subject: match js.pattern {
                true => Subject::Pattern,
                false => Subject::Exact,
            },
            leeway: js.leeway.map_or(defaults.leeway, millis),
            require_exp: js.require_exp.unwrap_or(defaults.require_exp),
            ..defaults
        }
    }
}

/// Defines options as JavaScript passes them. `numbers`: those that the core has as numbers of the same name. The other
/// fields are passed as tokens: napi does not see that a type is an `Option` if the macro has parsed it.
macro_rules! native_options {
    ($(#[$about:meta])* pub struct $native:ident of $options:ty {
        numbers { $($number:ident)* }
        $($others:tt)*
    }) => {
        $(#[$about])*
        #[napi(object)]
        #[derive(Default)]
        pub struct $native {
            $(pub $number: Option<f64>,)*
            $($others)*
        }

        impl $native {
            fn set_numbers(&self, options: &mut $options) {
                $(set(&mut options.$number, self.$number);)*
            }

            /// Only the options that are numbers.
            pub(super) fn of_numbers(options: &$options) -> Self {
                Self { $($number: Some(options.$number.to_js()),)* ..Self::default() }
            }
        }
    };
}

native_options! {
    /// The options of a server; numbers are bytes, counts or milliseconds.
    pub struct NativeServerOptions of ServerOptions {
        numbers {
            max_payload max_backpressure slow_consumer_timeout max_memory max_connections max_id_length max_dest
            max_fanout_bytes max_subscriptions max_patterns max_presence_info max_presence_names presence_timeout session_timeout max_session_buffer max_fragments max_control_frames max_header_size handshake_timeout ping_interval
            ping_timeout close_timeout ack_timeout max_pending_acks
        }
        pub host: String,
        pub port: u16,
        pub unix: Option<String>,
        /// The descriptor of an inherited socket, in place of an address.
        pub fd: Option<f64>,
        /// True if the server has no address: JavaScript hands over sockets.
        pub adopts: Option<bool>,
        pub reuse_port: Option<bool>,
        pub allow_wait: Option<bool>,
        pub path: String,
        /// Number of trusted proxies; infinite for any number.
        pub trust_proxy: Option<f64>,
        /// Networks of trusted proxies, in place of their number.
        pub trusted_networks: Option<Vec<String>>,
        pub proxy_protocol: Option<bool>,
        pub health: Option<String>,
        pub socket_mode: Option<u32>,
        pub threads: Option<f64>,
        pub client_max_payload: Option<f64>,
        pub slow_consumer: Option<String>,
        pub max_protocol_errors: Option<f64>,
        pub rate_limit: Option<NativeRateLimit>,
        pub keep: Option<Vec<NativeKeep>>,
        pub mailboxes: Option<Vec<NativeMailbox>>,
        pub store: Option<NativeStore>,
        pub allowed_origins: Option<Vec<String>>,
        pub jwt: Option<NativeJwt>,
        /// True if there is a function `authenticate`.
        pub authenticates: bool,
        pub authenticate_timeout: Option<f64>,
        /// True if there is a function `authorize`.
        pub authorizes: Option<bool>,
        pub register_timeout: Option<f64>,
        pub tls: Option<NativeTlsServerOptions>,
        pub nats: Option<NativeNats>,
        pub admin: Option<NativeAdmin>,
    }
}

/// The option `admin`: the address of the admin endpoint, and its token.
#[napi(object)]
pub struct NativeAdmin {
    pub host: String,
    pub port: u16,
    pub unix: Option<String>,
    /// The descriptor of an inherited socket, in place of an address.
    pub fd: Option<f64>,
    pub token: Option<String>,
}

impl From<NativeAdmin> for AdminOptions {
    fn from(js: NativeAdmin) -> Self {
        let listen = match js.unix {
            Some(path) => Listen::Unix(path.into()),
            None => Listen::Tcp {
                host: js.host,
                port: js.port,
            },
        };
        Self {
            listen,
            token: js.token,
        }
    }
}

impl From<NativeServerOptions> for ServerOptions {
    fn from(js: NativeServerOptions) -> Self {
        let mut options = Self::default();
        js.set_numbers(&mut options);
        options.path = js.path;
        options.listen = match js.unix {
            _ if js.adopts == Some(true) => Listen::Nowhere,
            Some(path) => Listen::Unix(path.into()),
            None => Listen::Tcp {
                host: js.host,
                port: js.port,
            },
        };
        options.reuse_port = js.reuse_port.unwrap_or_default();
        options.allow_wait = js.allow_wait.unwrap_or_default();
        if let Some(hops) = js.trust_proxy {
            options.trust_proxy = TrustProxy::Hops(hops as usize);
        }
        options.proxy_protocol = js.proxy_protocol.unwrap_or_default();
        options.health = js.health;
        options.socket_mode = js.socket_mode;
        options.slow_consumer = match js.slow_consumer.as_deref() {
            Some("close") => SlowConsumer::Close,
            Some("drop") => SlowConsumer::Drop,
            _ => SlowConsumer::Pushback,
        };
        options.allowed_origins = js.allowed_origins;
        if let Some(jwt) = js.jwt {
            options.authentication = Authentication::Jwt(jwt.into());
        }
        options.rate_limit = js.rate_limit.map(RateLimit::from);
        let keep = js.keep.unwrap_or_default();
        options.keep = keep.into_iter().map(Into::into).collect();
        let mailboxes = js.mailboxes.unwrap_or_default();
        options.mailboxes = mailboxes.into_iter().map(Into::into).collect();
        options.store = js.store.map(Into::into);
        options.max_protocol_errors = js.max_protocol_errors.map(|errors| errors as u32);
        options.register_timeout = js.register_timeout.map(millis);
        options.tls = js.tls.map(Into::into);
        options.nats = js.nats.map(Into::into);
        options.admin = js.admin.map(Into::into);
        options
    }
}

/// The option `nats`: how a server reaches the other brokers of its cluster.
#[napi(object)]
pub struct NativeNats {
    pub servers: Vec<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub user: Option<String>,
    pub pass: Option<String>,
    pub token: Option<String>,
    pub nkey: Option<String>,
    /// The text of a file of credentials, or its path.
    pub creds: Option<String>,
    pub tls: Option<NativeTlsClientOptions>,
    pub trust: Option<NativeTrust>,
    pub required: Option<bool>,
    pub timeout: Option<f64>,
}

impl From<NativeNats> for NatsOptions {
    fn from(js: NativeNats) -> Self {
        let mut options = Self::new(js.servers);
        if let Some(namespace) = js.namespace {
            options.namespace = namespace;
        }
        options.name = js.name;
        options.auth = match (js.user, js.token, js.nkey, js.creds) {
            (Some(user), ..) => NatsAuth::User {
                user,
                pass: js.pass.unwrap_or_default(),
            },
            (_, Some(token), ..) => NatsAuth::Token(token),
            (_, _, Some(seed), _) => NatsAuth::Nkey(seed),
            (_, _, _, Some(creds)) => NatsAuth::Creds(creds.into()),
            _ => NatsAuth::None,
        };
        options.tls = js.tls.map(Into::into);
        if let Some(trust) = js.trust {
            options.trust = trust.into();
        }
        options.required = js.required.unwrap_or_default();
        set(&mut options.timeout, js.timeout);
        options
    }
}

native_options! {
    /// The options of a client; numbers are bytes or milliseconds.
    pub struct NativeClientOptions of ClientOptions {
        numbers {
            max_payload high_water_mark max_queued connect_timeout ping_interval ping_timeout close_timeout
        }
        pub id: Option<String>,
        pub host: String,
        pub port: u16,
        pub path: String,
        pub token: Option<String>,
        pub protocol: Option<f64>,
        pub session: Option<NativeSession>,
        /// Names and values.
        pub headers: Option<Vec<Vec<String>>>,
        pub tls: Option<NativeTlsClientOptions>,
        pub proxy: Option<NativeProxy>,
    }
}

impl From<NativeClientOptions> for ClientOptions {
    fn from(js: NativeClientOptions) -> Self {
        let mut numbers = Self::default();
        js.set_numbers(&mut numbers);
        let mut options = Self {
            id: js.id,
            token: js.token,
            headers: js
                .headers
                .unwrap_or_default()
                .into_iter()
                .filter_map(pair)
                .collect(),
            host: js.host,
            port: js.port,
            path: js.path,
            ..numbers
        };
        if let Some(protocol) = js.protocol {
            // The conversion saturates, so that a number out of range stays invalid. So is a fraction.
            options.protocol = match protocol.fract() == 0.0 {
                true => protocol as u8,
                false => 0,
            };
        }
        options.session = js.session.map(Into::into);
        options.tls = js.tls.map(Into::into);
        options.proxy = js.proxy.map(Into::into);
        options
    }
}

/// The session that a client asks for.
#[napi(object)]
pub struct NativeSession {
    /// Milliseconds.
    pub timeout: f64,
    /// The session that continues.
    pub token: Option<String>,
    pub count: Option<f64>,
}

impl From<NativeSession> for SessionOptions {
    fn from(js: NativeSession) -> Self {
        let mut options = Self::new(millis(js.timeout));
        options.since = js.token.zip(js.count.map(|count| count as u64));
        options
    }
}

/// A certificate or key: PEM text, the path of a file, or PEM as bytes.
type NativePem = Either<String, Uint8Array>;
/// One or several of these.
type NativePems = Either3<String, Uint8Array, Vec<NativePem>>;

/// The options of TLS on a server.
#[napi(object)]
pub struct NativeTlsServerOptions {
    pub cert: NativePem,
    pub key: NativePem,
    pub ca: Option<NativePems>,
    pub min_version: Option<String>,
    pub request_cert: Option<bool>,
}

impl From<NativeTlsServerOptions> for TlsServerOptions {
    fn from(js: NativeTlsServerOptions) -> Self {
        Self {
            ca: js.ca.map(pems),
            min_version: version(js.min_version),
            request_cert: js.request_cert.unwrap_or_default(),
            ..Self::new(pem(js.cert), pem(js.key))
        }
    }
}

/// The options of TLS on a client.
#[napi(object)]
pub struct NativeTlsClientOptions {
    pub ca: Option<NativePems>,
    pub trust: Option<NativeTrust>,
    pub servername: Option<String>,
    pub cert: Option<NativePem>,
    pub key: Option<NativePem>,
    pub reject_unauthorized: Option<bool>,
    pub min_version: Option<String>,
}

impl From<NativeTlsClientOptions> for TlsClientOptions {
    fn from(js: NativeTlsClientOptions) -> Self {
        Self {
            ca: js.ca.map(pems),
            trust: js.trust.map(Into::into).unwrap_or_default(),
            servername: js.servername,
            cert: js.cert.map(pem),
            key: js.key.map(pem),
            reject_unauthorized: js.reject_unauthorized.unwrap_or(true),
            min_version: version(js.min_version),
        }
    }
}

/// Authorities that are trusted if `ca` names none.
#[napi(object)]
pub struct NativeTrust {
    /// Paths of files and directories.
    pub files: Vec<String>,
    /// True if those of the operating system are trusted.
    pub system: bool,
}

impl From<NativeTrust> for TrustStore {
    fn from(js: NativeTrust) -> Self {
        Self {
            files: js.files.into_iter().map(Into::into).collect(),
            system: js.system,
        }
    }
}

/// The option `proxy` of a client.
#[napi(object)]
pub struct NativeProxy {
    pub url: String,
    /// TLS to an `https:` proxy.
    pub tls: Option<NativeTlsClientOptions>,
}

impl From<NativeProxy> for ProxyOptions {
    fn from(js: NativeProxy) -> Self {
        Self {
            tls: js.tls.map(Into::into).unwrap_or_default(),
            ..Self::new(js.url)
        }
    }
}

fn pems(value: NativePems) -> Vec<Pem> {
    match value {
        Either3::A(text) => vec![pem(Either::A(text))],
        Either3::B(bytes) => vec![pem(Either::B(bytes))],
        Either3::C(values) => values.into_iter().map(pem).collect(),
    }
}

fn pem(value: NativePem) -> Pem {
    match value {
        Either::A(text) => text.into(),
        // Bytes are PEM text, and never the path of a file.
        Either::B(bytes) => Pem::Text(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

fn version(name: Option<String>) -> TlsVersion {
    match name.as_deref() {
        Some("TLSv1.3") => TlsVersion::Tls13,
        _ => TlsVersion::Tls12,
    }
}

/// An option that is a number in JavaScript.
trait JsNumber {
    /// Saturates, so that a number out of range stays invalid.
    fn from_js(value: f64) -> Self;

    fn to_js(self) -> f64;
}

impl JsNumber for usize {
    fn from_js(value: f64) -> Self {
        value as Self
    }

    fn to_js(self) -> f64 {
        self as f64
    }
}

impl JsNumber for u32 {
    fn from_js(value: f64) -> Self {
        value as Self
    }

    fn to_js(self) -> f64 {
        self.into()
    }
}

impl JsNumber for Duration {
    fn from_js(value: f64) -> Self {
        millis(value)
    }

    fn to_js(self) -> f64 {
        self.as_millis() as f64
    }
}

fn set<T: JsNumber>(option: &mut T, value: Option<f64>) {
    if let Some(value) = value {
        *option = T::from_js(value);
    }
}

/// A time in milliseconds.
pub(super) fn millis(value: f64) -> Duration {
    Duration::from_millis(value as u64)
}

fn pair(header: Vec<String>) -> Option<(String, String)> {
    let [name, value]: [String; 2] = header.try_into().ok()?;
    Some((name, value))
}

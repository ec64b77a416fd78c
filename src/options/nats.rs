//! The options of a cluster: how a server connects to NATS.

use std::{fmt, time::Duration};

use super::{Number, Pem, TIME, TlsClientOptions, TrustStore};
use crate::error::{Error, Result};

/// Maximum bytes of a namespace, and of a broker's name.
const MAX_NAME: usize = 64;

/// The NATS servers that connect the brokers of a cluster, and the identity of this broker.
#[derive(Clone)]
pub struct NatsOptions {
    /// Addresses: `nats://host:4222`, `tls://host`, `host`. If one is unreachable, the next is tried. The
    /// other servers of a NATS cluster are discovered.
    pub servers: Vec<String>,
    /// Brokers with the same namespace form a cluster, separate from those with another. Letters, digits, `-`
    /// and `_`, at most 64. Default `default`.
    pub namespace: String,
    /// The name of this broker, shown by others if it is lost. Default: a random one.
    pub name: Option<String>,
    /// The authentication at NATS. Default: none.
    pub auth: NatsAuth,
    /// Use TLS. `servername` is that of the address. Default: only if the address or the server requires it.
    pub tls: Option<TlsClientOptions>,
    /// Authorities that are trusted without `tls`, if the address or the server requires TLS. Default: those of
    /// the operating system.
    pub trust: TrustStore,
    /// Close the server if NATS cannot be reached within `timeout` at the start. Default false: the server
    /// serves local clients, and keeps trying to connect.
    pub required: bool,
    /// Time limit of the first connection to NATS. Default 5 s.
    pub timeout: Duration,
}

/// The authentication of a broker at NATS.
#[derive(Clone, PartialEq, Eq)]
pub enum NatsAuth {
    /// No authentication.
    None,
    /// A user with a password.
    User {
        /// The name of the user.
        user: String,
        /// The password.
        pass: String,
    },
    /// A token.
    Token(String),
    /// The seed of an NKey: `SU...`.
    Nkey(String),
    /// A file of credentials, or its text: a JWT and the seed of an NKey.
    Creds(Pem),
}

impl fmt::Debug for NatsAuth {
    /// Omits all secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::User { .. } => "User",
            Self::Token(_) => "Token",
            Self::Nkey(_) => "Nkey",
            Self::Creds(_) => "Creds",
        })
    }
}

/// Omits secrets: an address may contain a password.
impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsOptions")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .field("auth", &self.auth)
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

impl NatsOptions {
    /// The default options with these servers.
    pub fn new(servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            namespace: "default".into(),
            name: None,
            auth: NatsAuth::None,
            tls: None,
            trust: TrustStore {
                files: Vec::new(),
                system: true,
            },
            required: false,
            timeout: Duration::from_secs(5),
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        let invalid = |name, reason: &str| {
            Err(Error::InvalidOption {
                name,
                reason: reason.into(),
            })
        };
        if cfg!(not(feature = "nats")) {
            return invalid("nats", "needs a build with the feature \"nats\"");
        }
        if self.servers.is_empty() {
            return invalid("nats.servers", "is empty, expected an address");
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let namespace = &self.namespace;
        if !(1..=MAX_NAME).contains(&namespace.len()) || !namespace.chars().all(is_plain) {
            let expected = "must be 1 to 64 letters, digits, \"-\" or \"_\"";
            return invalid("nats.namespace", expected);
        }
        let length = self.name.as_ref().map_or(1, String::len);
        if !(1..=MAX_NAME).contains(&length) {
            return invalid("nats.name", "must have 1 to 64 bytes");
        }
        self.timeout.check("nats.timeout", TIME)
    }
}

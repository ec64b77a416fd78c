//! How a server finds the other brokers of its cluster.

use std::{fmt, time::Duration};

use super::{Pem, TlsClientOptions, time};
use crate::error::{Error, Result};

/// Bytes of a namespace, and of a name.
const MAX_NAME: usize = 64;

/// The NATS servers by which brokers are one, and how this one makes itself known to them.
#[derive(Clone)]
pub struct NatsOptions {
    /// Addresses: `nats://host:4222`, `tls://host`, `host`. One that cannot be reached is passed over
    /// for the next; a cluster tells of its other servers by itself.
    pub servers: Vec<String>,
    /// Brokers of one namespace are one; those of others are not seen. Letters, digits, `-` and `_`,
    /// at most 64. Default `default`.
    pub namespace: String,
    /// The name by which others know this broker, where it is missed. Default: a random one.
    pub name: Option<String>,
    /// Who we are. Default: nobody.
    pub auth: NatsAuth,
    /// Speak TLS. `servername` is that of the address. Default: where the address or the server says
    /// so.
    pub tls: Option<TlsClientOptions>,
    /// The server closes when NATS cannot be reached within `timeout` at the start. Default false: it
    /// serves those who are here, and tries on.
    pub required: bool,
    /// The time for that. Default 5 s.
    pub timeout: Duration,
}

/// Who a broker is for NATS.
#[derive(Clone, PartialEq, Eq)]
pub enum NatsAuth {
    /// Nobody.
    None,
    /// A user.
    User {
        /// Name.
        user: String,
        /// Password.
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
    /// Secrets are for nobody's log.
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

/// Leaves out what must not reach a log: an address may have a password in it.
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
    /// These servers; all else as by default.
    pub fn new(servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            namespace: "default".into(),
            name: None,
            auth: NatsAuth::None,
            tls: None,
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
        time("nats.timeout", self.timeout)
    }
}

//! The options of the admin endpoint.

use std::{fmt, net::IpAddr};

use super::Listen;
use crate::error::{Error, Result};

/// Minimum length of a token: it must not be guessed.
const MIN_TOKEN: usize = 16;

/// The admin endpoint of a server: metrics, health and a dashboard over HTTP, on an address of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminOptions {
    /// The address to listen on: a loopback address, unless there is a token; or a Unix socket.
    pub listen: Listen,
    /// The token that requests must have (`Authorization: Bearer`); `/healthz`, `/readyz` and the files of
    /// the dashboard need none. Default: none, and the dashboard disconnects no client.
    pub token: Option<String>,
}

impl AdminOptions {
    /// An endpoint at a loopback address, without a token. Port 0 picks a free port.
    pub fn new(port: u16) -> Self {
        let host = "127.0.0.1".to_owned();
        Self {
            listen: Listen::Tcp { host, port },
            token: None,
        }
    }

    /// Errors: `InvalidOption` if the token can be guessed or not be sent.
    pub(crate) fn validate_token(token: &str) -> Result<()> {
        if token.len() < MIN_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let reason = "is invalid, expected at least 16 characters of ASCII without spaces";
            return Err(invalid("admin.token", reason));
        }
        Ok(())
    }

    pub(super) fn validate(&self) -> Result<()> {
        if let Some(token) = &self.token {
            Self::validate_token(token)?;
        }
        let reason = match &self.listen {
            Listen::Nowhere => return Err(invalid("admin.port", "is missing")),
            _ if self.token.is_some() => return Ok(()),
            Listen::Tcp { host, .. } if !is_loopback(host) => {
                "is required: admin.host is not a loopback address"
            }
            #[cfg(unix)]
            Listen::Inherited(socket) if !socket.is_local() => {
                "is required: the inherited socket has no loopback address"
            }
            _ => return Ok(()),
        };
        Err(invalid("admin.token", reason))
    }
}

fn invalid(name: &'static str, reason: &str) -> Error {
    let reason = reason.to_owned();
    Error::InvalidOption { name, reason }
}

/// True if only programs of this machine can connect to the host.
fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Omits the token.
impl fmt::Debug for AdminOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminOptions")
            .field("listen", &self.listen)
            .field("has_token", &self.token.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, token: Option<&str>) -> Result<()> {
        let listen = Listen::Tcp {
            host: host.to_owned(),
            port: 0,
        };
        let token = token.map(str::to_owned);
        AdminOptions { listen, token }.validate()
    }

    #[test]
    fn an_address_that_others_can_reach_needs_a_token() {
        for host in ["127.0.0.1", "127.1.2.3", "::1", "localhost"] {
            assert!(at(host, None).is_ok(), "{host}");
        }
        for host in [
            "0.0.0.0",
            "::",
            "10.0.0.1",
            "example.org",
            "localhost.example.org",
        ] {
            assert!(at(host, None).is_err(), "{host}");
            assert!(at(host, Some("0123456789abcdef")).is_ok(), "{host}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn an_inherited_socket_that_others_can_reach_needs_a_token() {
        for (address, is_valid) in [("127.0.0.1:0", true), ("0.0.0.0:0", false)] {
            let socket = std::net::TcpListener::bind(address).unwrap();
            let socket = crate::options::InheritedSocket::new(socket).unwrap();
            let listen = Listen::Inherited(socket);
            let token = None;
            let validated = AdminOptions { listen, token }.validate();
            assert_eq!(validated.is_ok(), is_valid, "{address}");
        }
    }

    #[test]
    fn a_token_that_can_be_guessed_or_not_be_sent_is_refused() {
        for token in [
            "",
            "short",
            "0123456789 abcdef",
            "0123456789abcdé",
            "0123456789abcdef\n",
        ] {
            assert!(at("127.0.0.1", Some(token)).is_err(), "{token:?}");
        }
    }
}

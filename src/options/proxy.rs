//! The option `proxy`: an HTTP proxy through which a client connects.

use std::fmt;

use data_encoding::BASE64;
use tokio_tungstenite::tungstenite::http::Uri;

use super::TlsClientOptions;
use crate::error::{Error, Result};

/// An HTTP proxy through which a client connects, with the method CONNECT.
#[derive(Clone)]
pub struct ProxyOptions {
    /// `http://user:password@host:port`, or `https:` for TLS to the proxy. Default ports: 80 and 443. User and
    /// password, in URL escapes, are sent with Basic authentication.
    pub url: String,
    /// TLS to an `https:` proxy.
    pub tls: TlsClientOptions,
}

/// Omits the URL, which may contain a password.
impl fmt::Debug for ProxyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyOptions").finish_non_exhaustive()
    }
}

impl ProxyOptions {
    /// The default options with this URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            tls: TlsClientOptions::default(),
        }
    }
}

/// The parts of a proxy's URL.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ProxyAddress {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) is_secure: bool,
    /// Value of the header `Proxy-Authorization`.
    pub(crate) authorization: Option<String>,
}

/// Omits the password.
impl fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl ProxyAddress {
    /// Errors: `InvalidOption`, without the text, which may contain a password.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        Self::parts(url).ok_or(Error::InvalidOption {
            name: "proxy",
            reason: "is no URL of a proxy, expected http://host:port or https://host:port".into(),
        })
    }

    fn parts(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let (is_secure, default_port) = match uri.scheme_str()? {
            "http" => (false, 80),
            "https" => (true, 443),
            _ => return None,
        };
        let authority = uri.authority()?;
        let authorization = match authority.as_str().rsplit_once('@') {
            None => None,
            Some((credentials, _)) => {
                // Without a password the colon is still required (RFC 7617).
                let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
                let plain = [unescape(user)?, b":".to_vec(), unescape(password)?].concat();
                Some(format!("Basic {}", BASE64.encode(&plain)))
            }
        };
        let host = uri.host().filter(|host| !host.is_empty())?;
        let (_, behind) = authority.as_str().rsplit_once(host)?;
        let port = match behind.strip_prefix(':') {
            None => default_port,
            Some(port) => port.parse().ok()?,
        };
        Some(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            is_secure,
            authorization,
        })
    }
}

/// Decodes URL escapes. None if one is incomplete.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                (high << 4 | low) as u8
            }
            byte => byte,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_divided_into_its_parts() {
        for (url, host, port, is_secure, authorization) in [
            ("http://proxy:3128", "proxy", 3128, false, None),
            ("http://proxy", "proxy", 80, false, None),
            ("https://proxy/", "proxy", 443, true, None),
            ("http://[::1]:8080/", "::1", 8080, false, None),
            ("http://u:p@proxy", "proxy", 80, false, Some("u:p")),
            (
                "http://u%40:p%3a%C3%A9@proxy",
                "proxy",
                80,
                false,
                Some("u@:p:é"),
            ),
            ("http://u@proxy", "proxy", 80, false, Some("u:")),
        ] {
            let authorization =
                authorization.map(|plain| format!("Basic {}", BASE64.encode(plain.as_bytes())));
            let expected = ProxyAddress {
                host: host.into(),
                port,
                is_secure,
                authorization,
            };
            assert_eq!(ProxyAddress::parse(url).unwrap(), expected, "{url}");
        }
    }

    #[test]
    fn what_is_no_url_of_a_proxy_is_refused_without_its_text() {
        for url in [
            "",
            "proxy:3128",
            "socks5://proxy:1080",
            "http://",
            "http://u:secret%4@proxy",
            "http://proxy:99999",
        ] {
            let error = ProxyAddress::parse(url).unwrap_err();
            assert_eq!(error.code(), "ERR_WSMB_OPTION", "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}

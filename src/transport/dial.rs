//! Opens the client side of a connection: name lookup, TCP connection, proxy, TLS and WebSocket handshake.
//!
//! | file | contents |
//! | --- | --- |
//! | `proxy` | a tunnel through an HTTP proxy |
//! | `connect` | TCP connections to all addresses of a host, staggered |
//! | `resolve` | the addresses of a host name |
//! | `response` | reads the head of an HTTP response |

mod connect;
mod proxy;
mod resolve;
mod response;

use std::{fmt::Write, future::Future, io, net::Ipv6Addr};

use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::{
    handshake::{client::generate_key, derive_accept_key},
    http::Uri,
    protocol::Role,
};

use crate::{
    error::{Error, Result},
    options::{ClientOptions, headers},
    transport::{
        framing::{Bounds, Reader},
        handshake::write_all,
        socket::{ReadHalf, Socket, WriteHalf},
        tls::{self, TlsConnector},
    },
};
use proxy::{Proxy, Tunnel};
use response::{Failure, Response, SWITCHING_PROTOCOLS, read_response};

/// Opens the connections of one client.
#[derive(Debug)]
pub(crate) struct Dialer {
    /// Present if the client uses TLS.
    tls: Option<TlsConnector>,
    /// Present if the client connects through a proxy.
    proxy: Option<Proxy>,
}

impl Dialer {
    /// Loads the certificates that the options name.
    ///
    /// Errors: `InvalidOption`, `Tls`.
    pub(crate) fn new(options: &ClientOptions) -> Result<Self> {
        Ok(Self {
            tls: options.tls.as_ref().map(TlsConnector::new).transpose()?,
            proxy: options.proxy.as_ref().map(Proxy::new).transpose()?,
        })
    }

    /// Connects to the server and upgrades to WebSocket, within `connect_timeout`.
    ///
    /// Errors: a failure of the system, or an unexpected response of the server.
    pub(crate) async fn dial(&self, options: &ClientOptions) -> Result<(Reader, WriteHalf)> {
        let deadline = Instant::now() + options.connect_timeout;
        let request = Request::new(options, self.tls.is_some())?;
        let (read, write, early) = match &self.proxy {
            None => connect_directly(options, deadline).await?,
            Some(proxy) => proxy.open(&request.address, options, deadline).await?,
        };
        let opened = async {
            let (read, write) = match &self.tls {
                None => (read, write),
                // Bytes from a server before its client has sent any are not TLS.
                Some(_) if !early.is_empty() => return Err(tls::not_tls(&request.address)),
                Some(tls) => {
                    let host = bare(&options.host);
                    tls.connect(host, &request.address, read, write).await?
                }
            };
            upgrade(&request, read, write, early, bounds(options)).await
        };
        within(deadline, options, opened).await
    }
}

/// Opens a TCP connection to the server.
async fn connect_directly(options: &ClientOptions, deadline: Instant) -> Result<Tunnel> {
    let (host, port) = (bare(&options.host), options.port);
    let addresses = within(deadline, options, resolve::resolve(host, port)).await?;
    let socket = connect::connect(host, addresses, deadline).await?;
    let (read, write) = Socket::Tcp(socket).into_halves();
    Ok((read, write, Vec::new()))
}

/// Limits work to the time that `connect_timeout` has left.
async fn within<T>(
    deadline: Instant,
    options: &ClientOptions,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let limit = options.connect_timeout.as_millis() as u64;
    let result = timeout_at(deadline, work).await;
    result.unwrap_or(Err(Error::ConnectTimeout(limit)))
}

/// Limits of the messages that a server may send.
pub(crate) fn bounds(options: &ClientOptions) -> Bounds {
    Bounds {
        payload: options.max_payload,
        // A server may split its messages into any number of fragments.
        fragments: usize::MAX,
    }
}

/// A host without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// A host as it is written in URLs: an IPv6 address in brackets.
fn bracketed(host: &str) -> String {
    // A link-local address may have a zone: `fe80::1%eth0`.
    let address = host.split('%').next().unwrap_or_default();
    match address.parse::<Ipv6Addr>() {
        Ok(_) => format!("[{host}]"),
        Err(_) => host.to_owned(),
    }
}

/// The request that upgrades a connection.
struct Request {
    /// Host and port, for error texts.
    address: String,
    head: String,
    key: String,
}

impl Request {
    /// Errors: `InvalidAddress`, `InvalidOption`.
    fn new(options: &ClientOptions, is_secure: bool) -> Result<Self> {
        let (scheme, default_port) = match is_secure {
            true => ("wss", 443),
            false => ("ws", 80),
        };
        let host = bracketed(&options.host);
        let address = format!("{host}:{}", options.port);
        let url = format!("{scheme}://{address}{}", options.path);
        // A fragment is cut off, as in version 1.
        let uri = url.parse::<Uri>().ok();
        let target = uri
            .as_ref()
            .filter(|uri| !host.is_empty() && uri.authority().is_some_and(|it| *it == *address))
            .and_then(Uri::path_and_query)
            .map(|target| target.as_str())
            .filter(|_| !host.contains('@'))
            .ok_or(Error::InvalidAddress(url.clone()))?;
        let host = match options.port == default_port {
            true => &host,
            false => &address,
        };
        let key = generate_key();
        let mut head = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        );
        for (name, value) in &options.headers {
            headers::parse(name, value)?;
            // Writing to a string cannot fail.
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        Ok(Self { address, head, key })
    }
}

/// Performs the WebSocket handshake. `early`: bytes of the response that were received already.
async fn upgrade(
    request: &Request,
    mut read: ReadHalf,
    write: WriteHalf,
    early: Vec<u8>,
    bounds: Bounds,
) -> Result<(Reader, WriteHalf)> {
    // A server that refuses the connection may have answered before it closed.
    let written = write_all(&write, request.head.as_bytes()).await;
    let response = match (read_response(&mut read, early).await, written) {
        (Err(Failure::HangUp), Err(error)) => Err(Failure::Io(error)),
        (response, _) => response,
    };
    let response = response.map_err(|failure| refused(&request.address, failure))?;
    check(request, &response)?;
    let reader = Reader::new(Role::Client, read, response.early, bounds);
    Ok((reader, write))
}

/// Checks that the server has accepted the upgrade (RFC 6455, 4.1).
fn check(request: &Request, response: &Response) -> Result<()> {
    if response.status != SWITCHING_PROTOCOLS {
        return Err(Error::UnexpectedResponse(response.status));
    }
    let lacks = |reason: &str| {
        let address = request.address.clone();
        let reason = reason.to_owned();
        Err(Error::NotWebSocket { address, reason })
    };
    if !response.has_token("upgrade", "websocket") {
        return lacks("its response with status 101 has no \"Upgrade: websocket\"");
    }
    if !response.has_token("connection", "upgrade") {
        return lacks("its response with status 101 has no \"Connection: Upgrade\"");
    }
    let accept = derive_accept_key(request.key.as_bytes());
    if response.header("sec-websocket-accept") != Some(&accept) {
        return Err(Error::InvalidServerKey);
    }
    match response.header("sec-websocket-protocol") {
        None => Ok(()),
        Some(_) => lacks("it has selected a subprotocol, but the client offered none"),
    }
}

/// The error of a server that has not answered the request with HTTP.
fn refused(address: &str, failure: Failure) -> Error {
    let address = address.to_owned();
    match failure {
        Failure::HangUp => Error::HangUp,
        // With TLS 1.3, a server rejects our certificate after our side of the handshake is complete.
        Failure::Io(error) if tls::failure(&error).is_some() => {
            tls::handshake_error(&address, error)
        }
        Failure::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Error::HangUp
        }
        Failure::Io(source) => Error::Io {
            syscall: "read",
            target: None,
            source,
        },
        Failure::SpeaksTls => Error::TlsHandshake(format!(
            "the server at {address} speaks TLS: use wss:, or the option \"tls\""
        )),
        Failure::NotHttp(reason) => Error::NotWebSocket { address, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str, port: u16, path: &str, is_secure: bool) -> Result<Request> {
        let options = ClientOptions {
            host: host.into(),
            port,
            path: path.into(),
            ..ClientOptions::default()
        };
        Request::new(&options, is_secure)
    }

    #[test]
    fn the_host_header_leaves_out_the_default_port_and_has_brackets_for_ipv6() {
        for (host, port, is_secure, expected) in [
            ("example.org", 80, false, "example.org"),
            ("example.org", 443, true, "example.org"),
            ("example.org", 443, false, "example.org:443"),
            ("example.org", 80, true, "example.org:80"),
            ("::1", 80, false, "[::1]"),
            ("[::1]", 9042, true, "[::1]:9042"),
            ("127.0.0.1", 9042, false, "127.0.0.1:9042"),
        ] {
            let request = request(host, port, "/x?y=1#z", is_secure).unwrap();
            let lines: Vec<_> = request.head.split("\r\n").collect();
            assert_eq!(lines[0], "GET /x?y=1 HTTP/1.1");
            assert_eq!(lines[1], format!("Host: {expected}"));
        }
    }

    #[test]
    fn a_host_or_path_that_no_url_can_contain_is_refused() {
        for (host, path) in [
            ("", "/"),
            ("a b", "/"),
            ("a@b", "/"),
            ("a/b", "/"),
            ("a:1", "/"),
            ("a", "/ "),
            ("a", "/\r\nHost: b"),
        ] {
            let error = request(host, 1, path, false).err().unwrap();
            assert_eq!(error.code(), "ERR_WSMB_ADDRESS", "{host} {path}");
        }
    }
}

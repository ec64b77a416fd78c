//! Opens a tunnel through an HTTP proxy, with the method CONNECT (RFC 9110, 9.3.6).

use tokio::time::Instant;

use super::{
    bracketed,
    connect::connect,
    resolve::resolve,
    response::{Failure, read_response},
    within,
};
use crate::{
    error::{Error, Result},
    options::{ClientOptions, ProxyAddress, ProxyOptions},
    transport::{
        handshake::write_all,
        socket::{ReadHalf, Socket, WriteHalf},
        tls::TlsConnector,
    },
};

const PROXY_AUTHENTICATION_REQUIRED: u16 = 407;

/// A proxy, with the TLS to it.
#[derive(Debug)]
pub(super) struct Proxy {
    address: ProxyAddress,
    /// Present for an `https:` proxy.
    tls: Option<TlsConnector>,
}

/// An open tunnel: both halves of its socket, and bytes received behind the response of the proxy.
pub(super) type Tunnel = (ReadHalf, WriteHalf, Vec<u8>);

impl Proxy {
    /// Errors: `InvalidOption`, `Tls`.
    pub(super) fn new(options: &ProxyOptions) -> Result<Self> {
        let address = ProxyAddress::parse(&options.url)?;
        let tls = match address.is_secure {
            true => Some(TlsConnector::new(&options.tls)?),
            false => None,
        };
        Ok(Self { address, tls })
    }

    /// Opens a tunnel. `target`: host and port of the server.
    ///
    /// Errors: `Proxy`.
    pub(super) async fn open(
        &self,
        target: &str,
        options: &ClientOptions,
        deadline: Instant,
    ) -> Result<Tunnel> {
        let opened = within(deadline, options, self.try_open(target, options, deadline)).await;
        opened.map_err(|error| match error {
            Error::Proxy { .. } => error,
            error => self.failed(format!("cannot be used: {error}")),
        })
    }

    async fn try_open(
        &self,
        target: &str,
        options: &ClientOptions,
        deadline: Instant,
    ) -> Result<Tunnel> {
        let ProxyAddress { host, port, .. } = &self.address;
        let addresses = within(deadline, options, resolve(host, *port)).await?;
        let socket = connect(host, addresses, deadline).await?;
        let (read, write) = Socket::Tcp(socket).into_halves();
        let (mut read, write) = match &self.tls {
            None => (read, write),
            Some(tls) => tls.connect(host, &self.name(), read, write).await?,
        };
        let authorization = match &self.address.authorization {
            None => String::new(),
            Some(value) => format!("Proxy-Authorization: {value}\r\n"),
        };
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
        // A proxy that refuses the connection may have answered before it closed.
        let written = write_all(&write, request.as_bytes()).await;
        let response = match (read_response(&mut read, Vec::new()).await, written) {
            (Err(Failure::HangUp), Err(error)) => Err(Failure::Io(error)),
            (response, _) => response,
        };
        let response = response.map_err(|failure| self.failed(describe(failure)))?;
        match response.status {
            200..300 => Ok((read, write, response.early)),
            status => Err(self.failed(refused(target, status, &response.reason))),
        }
    }

    /// Host and port of the proxy, for error texts.
    fn name(&self) -> String {
        format!("{}:{}", bracketed(&self.address.host), self.address.port)
    }

    fn failed(&self, reason: String) -> Error {
        let address = self.name();
        Error::Proxy { address, reason }
    }
}

fn describe(failure: Failure) -> String {
    match failure {
        Failure::HangUp => "closed the connection without a response".to_owned(),
        Failure::Io(error) => format!("failed: {}", crate::error::code_of(&error)),
        Failure::SpeaksTls => "speaks TLS: use https: in its URL".to_owned(),
        Failure::NotHttp(reason) => format!("is not an HTTP proxy: {reason}"),
    }
}

fn refused(target: &str, status: u16, reason: &str) -> String {
    let advice = match status {
        PROXY_AUTHENTICATION_REQUIRED => {
            ": set its user and password, http://user:password@host:port"
        }
        _ => "",
    };
    let status = format!("{status} {reason}");
    format!(
        "refused to connect to {target} with status {}{advice}",
        status.trim()
    )
}

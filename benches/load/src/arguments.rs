//! The command line: pairs of `--name value` only.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use crate::failure::Result;
use crate::protocol::Protocol;
use crate::tls::Connector;

const NAMES: [&str; 12] = [
    "url",
    "to",
    "protocol",
    "ca",
    "token",
    "pairs",
    "size",
    "seconds",
    "window",
    "connections",
    "receivers",
    "slice",
];

/// The given options, by name without the dashes.
pub(crate) struct Arguments(Vec<(String, String)>);

/// The address of a broker.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) protocol: Protocol,
    /// TLS configuration, if it speaks TLS.
    pub(crate) tls: Option<Connector>,
    /// The token with which clients register, if required.
    pub(crate) token: Option<String>,
}

impl Arguments {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut given = Vec::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").unwrap_or_default();
            if !NAMES.contains(&name) {
                return Err(format!("unknown option {word}").into());
            }
            let value = words.next().ok_or(format!("{word} expects a value"))?;
            given.push((name.to_owned(), value));
        }
        Ok(Arguments(given))
    }

    pub(crate) fn number<T: FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => Ok(text
                .parse()
                .map_err(|_| format!("--{name} expects a number, got {text}"))?),
        }
    }

    /// The broker of all clients, or with `--to` that of senders.
    pub(crate) fn target(&self) -> Result<Target> {
        self.at(self.text("url").ok_or("--url is missing")?)
    }

    /// The brokers of receivers, which are distributed among them.
    pub(crate) fn receivers(&self) -> Result<Vec<Target>> {
        let urls = self.text("to").or(self.text("url")).unwrap_or_default();
        urls.split(',').map(|url| self.at(url)).collect()
    }

    /// Accepts loopback addresses only, so that this program cannot be used against other servers.
    fn at(&self, url: &str) -> Result<Target> {
        let (secure, rest) = match url.split_once("://") {
            Some(("ws", rest)) => (false, rest),
            Some(("wss", rest)) => (true, rest),
            _ => return Err(format!("{url} does not start with ws:// or wss://").into()),
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let address = host
            .to_socket_addrs()?
            .next()
            .ok_or(format!("{url} names no address"))?;
        if !address.ip().is_loopback() {
            return Err(format!("{address} is not a loopback address").into());
        }
        let tls = match (secure, self.text("ca")) {
            (false, None) => None,
            (false, Some(_)) => return Err("--ca is of no use with ws://".into()),
            (true, Some(ca)) => Some(Connector::new(host, ca)?),
            (true, None) => return Err("--ca is missing: nobody else is trusted".into()),
        };
        Ok(Target {
            address,
            host: host.to_owned(),
            path: if path.is_empty() { "/" } else { path }.to_owned(),
            protocol: self.text("protocol").unwrap_or("wsmb").parse()?,
            tls,
            token: self.text("token").map(str::to_owned),
        })
    }

    fn text(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    }
}

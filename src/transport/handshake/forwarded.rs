//! The headers with which proxies name the client: `X-Forwarded-For` with `X-Forwarded-Proto`, and `Forwarded`
//! (RFC 7239).
//!
//! Each proxy appends the address from which it got the request. A client can send such headers itself, so only
//! the entries of trusted proxies count: with `n` of them the `n`-th entry from the right. Their number is set, or
//! results from their addresses.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use crate::{
    event::ConnectionInfo,
    options::{SocketPeer, TrustProxy},
};

/// The client as named by a trusted proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// None if the proxy keeps the address secret, or it is invalid.
    address: Option<IpAddr>,
    port: Option<u16>,
    /// True if the client uses TLS; none if the proxy does not report it.
    secure: Option<bool>,
}

impl Forwarded {
    /// Reads the headers of a request, whose values `values` returns by name. `peer`: the socket. None if no trusted
    /// header names the client.
    ///
    /// `Forwarded` is read only if there is no `X-Forwarded-For`, which most proxies set.
    pub(super) fn read<'a>(
        trusted: &TrustProxy,
        peer: SocketPeer,
        values: impl Fn(&'static str) -> Vec<Cow<'a, str>>,
    ) -> Option<Self> {
        let nodes = values("x-forwarded-for");
        let nodes: Vec<_> = nodes.iter().flat_map(|value| plain(value)).collect();
        if !nodes.is_empty() {
            let addresses = nodes.iter().rev().map(|node| parse_node(node).0);
            let hops = trusted.hops(peer, addresses);
            let (address, port) = parse_node(from_right(&nodes, hops)?);
            let schemes = values("x-forwarded-proto");
            let schemes: Vec<_> = schemes.iter().flat_map(|value| plain(value)).collect();
            let scheme = from_right(&schemes, hops);
            let secure = scheme.and_then(is_secure);
            return Some(Self {
                address,
                port,
                secure,
            });
        }
        let elements = values("forwarded");
        let elements: Vec<_> = elements
            .iter()
            .flat_map(|value| split(value, ','))
            .collect();
        let client = |element| member(element, "for").map_or((None, None), parse_node);
        let addresses = elements.iter().rev().map(|element| client(element).0);
        let element = from_right(&elements, trusted.hops(peer, addresses))?;
        let (address, port) = client(element);
        let secure = member(element, "proto").and_then(is_secure);
        Some(Self {
            address,
            port,
            secure,
        })
    }

    /// The client, if `info` is that of the socket.
    pub(crate) fn apply(self, info: ConnectionInfo) -> ConnectionInfo {
        ConnectionInfo {
            remote_address: self.address,
            remote_port: self.port,
            secure: self.secure.unwrap_or(info.secure),
        }
    }
}

/// The parts of a value between commas, without the empty ones.
fn plain(value: &str) -> impl Iterator<Item = &str> {
    let parts = value.split(',').map(|part| part.trim_matches([' ', '\t']));
    parts.filter(|part| !part.is_empty())
}

/// The parts of a value of `Forwarded`, without the empty ones. A separator in quotes does not count, unless a quote is
/// left open: a client could write it, so that the entries of proxies behind it would not be separate.
fn split(value: &str, separator: char) -> impl Iterator<Item = &str> {
    let has_quotes = value.bytes().filter(|byte| *byte == b'"').count() % 2 == 0;
    let mut is_quoted = false;
    let parts = value.split(move |c| {
        is_quoted ^= c == '"' && has_quotes;
        c == separator && !is_quoted
    });
    parts
        .map(|part| part.trim_matches([' ', '\t']))
        .filter(|part| !part.is_empty())
}

/// The entry of the outermost of this many proxies; the first one if there are fewer; none if there is no proxy.
fn from_right<'a>(entries: &[&'a str], hops: usize) -> Option<&'a str> {
    entries.get(entries.len().saturating_sub(hops)).copied()
}

/// The value of a member of an element of `Forwarded`.
fn member<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    split(element, ';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.eq_ignore_ascii_case(name).then(|| unquote(value))
    })
}

/// The value of a member of `Forwarded`. Addresses need no escapes.
fn unquote(value: &str) -> &str {
    let inner = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'));
    inner.unwrap_or(value)
}

/// Parses an address with or without a port. An IPv6 address may be in brackets.
fn parse_node(node: &str) -> (Option<IpAddr>, Option<u16>) {
    if let Ok(address) = node.parse::<SocketAddr>() {
        return (Some(address.ip().to_canonical()), Some(address.port()));
    }
    let bare = node
        .strip_prefix('[')
        .and_then(|node| node.strip_suffix(']'));
    let address = bare.unwrap_or(node).parse::<IpAddr>().ok();
    (address.map(|address| address.to_canonical()), None)
}

/// True for a scheme with TLS; none for an unknown scheme.
fn is_secure(scheme: &str) -> Option<bool> {
    match scheme.to_ascii_lowercase().as_str() {
        "https" | "wss" => Some(true),
        "http" | "ws" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Line = (&'static str, &'static str);

    fn read(hops: usize, lines: &[Line]) -> Option<Forwarded> {
        Forwarded::read(&TrustProxy::Hops(hops), SocketPeer::Local, |name| {
            let lines = lines.iter().filter(|line| line.0 == name);
            lines.map(|line| line.1.into()).collect()
        })
    }

    fn client(address: &str, port: Option<u16>, secure: Option<bool>) -> Option<Forwarded> {
        Some(Forwarded {
            address: Some(address.parse().unwrap()),
            port,
            secure,
        })
    }

    const FOR: &str = "x-forwarded-for";

    #[test]
    fn the_entry_of_the_outermost_trusted_proxy_counts() {
        let chain = [(FOR, "1.1.1.1, 2.2.2.2"), (FOR, "3.3.3.3")];
        assert_eq!(read(1, &chain), client("3.3.3.3", None, None));
        assert_eq!(read(2, &chain), client("2.2.2.2", None, None));
        assert_eq!(read(3, &chain), client("1.1.1.1", None, None));
        assert_eq!(read(usize::MAX, &chain), client("1.1.1.1", None, None));
        assert_eq!(read(1, &[]), None);
        assert_eq!(read(1, &[(FOR, " , ")]), None);
    }

    #[test]
    fn entries_of_a_client_do_not_hide_those_of_proxies() {
        let chain = [(FOR, "6.6.6.6, \", 1.2.3.4, 10.0.0.1")];
        assert_eq!(read(2, &chain), client("1.2.3.4", None, None));
        assert_eq!(read(1, &chain), client("10.0.0.1", None, None));
        let chain = [(FOR, "\u{fffd}, 1.2.3.4"), ("forwarded", "for=6.6.6.6")];
        assert_eq!(read(1, &chain), client("1.2.3.4", None, None));
        let chain = [("forwarded", "for=6.6.6.6, for=\"x, for=\"1.2.3.4:5\"")];
        assert_eq!(read(1, &chain), client("1.2.3.4", Some(5), None));
    }

    #[test]
    fn an_address_may_have_a_port_and_brackets() {
        for (text, address, port) in [
            ("1.2.3.4:80", "1.2.3.4", Some(80)),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[2001:db8::1]:443", "2001:db8::1", Some(443)),
            ("::ffff:1.2.3.4", "1.2.3.4", None),
        ] {
            assert_eq!(
                read(1, &[(FOR, text)]),
                client(address, port, None),
                "{text}"
            );
        }
    }

    #[test]
    fn a_secret_or_invalid_address_is_unknown() {
        for text in [
            "unknown",
            "_hidden",
            "1.2.3",
            "a.example",
            "[::1",
            "1.2.3.4:x",
        ] {
            let found = read(1, &[(FOR, text)]).unwrap();
            assert_eq!((found.address, found.port), (None, None), "{text}");
        }
    }

    #[test]
    fn the_scheme_is_that_of_the_same_proxy() {
        let proto = |value| [(FOR, "1.1.1.1, 2.2.2.2"), ("x-forwarded-proto", value)];
        assert_eq!(
            read(1, &proto("https")),
            client("2.2.2.2", None, Some(true))
        );
        assert_eq!(
            read(1, &proto("https, http")),
            client("2.2.2.2", None, Some(false))
        );
        assert_eq!(
            read(2, &proto("WSS, http")),
            client("1.1.1.1", None, Some(true))
        );
        assert_eq!(read(1, &proto("gopher")), client("2.2.2.2", None, None));
    }

    #[test]
    fn the_standard_header_is_read_without_the_usual_one() {
        let standard = |value| [("forwarded", value)];
        let value = "for=1.1.1.1;proto=http, For=\"[2001:db8::1]:4711\" ; Proto=https;by=\"a;b,c\"";
        assert_eq!(
            read(1, &standard(value)),
            client("2001:db8::1", Some(4711), Some(true))
        );
        assert_eq!(
            read(2, &standard(value)),
            client("1.1.1.1", None, Some(false))
        );
        assert_eq!(read(1, &standard("proto=https")).unwrap().address, None);
        let both = [("forwarded", "for=9.9.9.9"), (FOR, "1.1.1.1")];
        assert_eq!(read(1, &both), client("1.1.1.1", None, None));
    }
}

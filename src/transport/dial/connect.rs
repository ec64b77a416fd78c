//! Opens a TCP connection to a host that may have several addresses: happy eyeballs (RFC 8305).
//!
//! The addresses are tried in the order of the system, IPv6 and IPv4 in turn. An attempt that has neither
//! succeeded nor failed for [`ATTEMPT_DELAY`] continues while the next one starts. The first connection wins,
//! and the other attempts are cancelled.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};

use crate::error::{Error, Result};

/// Head start of an attempt (RFC 8305, 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the first address that accepts. `addresses`: at least one, those of `host`.
///
/// Errors: `Io` for one address, `Connect` for several.
pub(super) async fn connect(
    host: &str,
    addresses: Vec<SocketAddr>,
    deadline: Instant,
) -> Result<TcpStream> {
    let mut failures = Vec::new();
    let mut waiting = interleave(addresses).into_iter().peekable();
    let mut pending = Vec::new();
    let mut attempts = FuturesUnordered::new();
    let mut next_start = Instant::now();
    loop {
        if attempts.is_empty() || Instant::now() >= next_start {
            if let Some(address) = waiting.next() {
                pending.push(address);
                attempts.push(async move { (address, TcpStream::connect(address).await) });
                next_start = Instant::now() + ATTEMPT_DELAY;
            } else if attempts.is_empty() {
                return Err(failed(host, failures));
            }
        }
        tokio::select! {
            Some((address, result)) = attempts.next() => match result {
                Ok(socket) => return Ok(socket),
                Err(error) => {
                    pending.retain(|each| *each != address);
                    failures.push((address, error));
                    // The next attempt starts at once.
                    next_start = Instant::now();
                }
            },
            () = sleep_until(next_start), if waiting.peek().is_some() => {}
            () = sleep_until(deadline) => {
                let late = pending.into_iter().chain(waiting);
                failures.extend(late.map(|address| (address, io::ErrorKind::TimedOut.into())));
                return Err(failed(host, failures));
            }
        }
    }
}

/// Orders addresses so that the two families take turns, beginning with that of the first address.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let begins_with_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == begins_with_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return ordered;
        }
        ordered.extend(pair.0);
        ordered.extend(pair.1);
    }
}

/// The error of a host to which no attempt has succeeded.
fn failed(host: &str, failures: Vec<(SocketAddr, io::Error)>) -> Error {
    let mut failures: Vec<_> = failures
        .into_iter()
        .map(|(address, error)| Error::io("connect", address, error))
        .collect();
    match failures.len() {
        1 => failures.remove(0),
        _ => Error::Connect {
            host: host.to_owned(),
            failures,
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_families_take_turns() {
        let given = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]);
        let expected = addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(interleave(given), expected);
        let given = addresses(&["1.1.1.1:1", "2.2.2.2:1", "[::1]:1"]);
        assert_eq!(
            interleave(given),
            addresses(&["1.1.1.1:1", "[::1]:1", "2.2.2.2:1"])
        );
    }

    /// A socket that has an address but does not listen there: connections are refused.
    fn refusing() -> (TcpSocket, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_skipped_without_delay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let (_socket, closed) = refusing();
        let start = Instant::now();
        let deadline = start + Duration::from_secs(30);
        // More addresses than there is time for, if each had its head start.
        let mut addresses = vec![closed; 100];
        addresses.push(open);
        let socket = connect("x", addresses, deadline).await.unwrap();
        assert_eq!(socket.peer_addr().unwrap(), open);
        assert!(start.elapsed() < 50 * ATTEMPT_DELAY);
    }

    #[tokio::test]
    async fn an_error_lists_all_addresses_and_has_the_most_telling_code() {
        let ((_first, one), (_second, other)) = (refusing(), refusing());
        let deadline = Instant::now() + Duration::from_secs(30);
        let error = connect("x", vec![one, other], deadline).await;
        let error = error.unwrap_err();
        assert_eq!(error.code(), "ECONNREFUSED");
        for address in [one, other] {
            let text = format!("ECONNREFUSED: {address}");
            assert!(error.to_string().contains(&text), "{error}");
        }
        let error = connect("x", vec![one], deadline).await.unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }

    #[test]
    fn a_missing_route_tells_less_than_a_refusal() {
        let failure = |kind: io::ErrorKind| ("[::1]:1".parse().unwrap(), kind.into());
        for (kinds, code) in [
            (
                [
                    io::ErrorKind::NetworkUnreachable,
                    io::ErrorKind::ConnectionRefused,
                ],
                "ECONNREFUSED",
            ),
            (
                [io::ErrorKind::HostUnreachable, io::ErrorKind::TimedOut],
                "ETIMEDOUT",
            ),
            (
                [
                    io::ErrorKind::NetworkUnreachable,
                    io::ErrorKind::HostUnreachable,
                ],
                "ENETUNREACH",
            ),
        ] {
            let error = failed("x", kinds.map(failure).into());
            assert_eq!(error.code(), code, "{error}");
        }
    }
}

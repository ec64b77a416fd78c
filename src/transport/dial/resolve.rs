//! Looks up the addresses of a host name.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType, getaddrinfo};
use tokio::task::spawn_blocking;

use crate::error::{Error, Result, code_of};

/// Returns the addresses of a host, in the order in which the system prefers them.
///
/// Errors: `Lookup`.
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let failed = |code| Error::Lookup {
        host: host.to_owned(),
        code,
    };
    let name = host.to_owned();
    // The system call blocks its thread until the resolver answers.
    let addresses = spawn_blocking(move || look_up(&name, port)).await;
    match addresses {
        Ok(Ok(addresses)) if addresses.is_empty() => Err(failed("ENOTFOUND")),
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(failed(lookup_code(error))),
        // The runtime is shutting down.
        Err(_) => Err(failed("ECANCELED")),
    }
}

fn look_up(host: &str, port: u16) -> std::result::Result<Vec<SocketAddr>, LookupError> {
    let hints = AddrInfoHints {
        socktype: SockType::Stream.into(),
        ..AddrInfoHints::default()
    };
    let mut addresses = Vec::new();
    for found in getaddrinfo(Some(host), None, Some(hints))? {
        let mut address = found?.sockaddr;
        address.set_port(port);
        // Some systems list an address once per entry of their hosts file.
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// The code that Node.js uses for a failed lookup.
fn lookup_code(error: LookupError) -> &'static str {
    match error.kind() {
        LookupErrorKind::Again => "EAI_AGAIN",
        LookupErrorKind::Fail => "EAI_FAIL",
        LookupErrorKind::Memory => "EAI_MEMORY",
        LookupErrorKind::System => code_of(&io::Error::from(error)),
        // Among these a name that no resolver can be asked for.
        _ => "ENOTFOUND",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_need_no_resolver_and_names_have_the_port() {
        for (host, address) in [("127.0.0.1", "127.0.0.1:7"), ("::1", "[::1]:7")] {
            assert_eq!(resolve(host, 7).await.unwrap(), [address.parse().unwrap()]);
        }
        let addresses = resolve("localhost", 7).await.unwrap();
        assert!(
            addresses.contains(&"127.0.0.1:7".parse().unwrap()),
            "{addresses:?}"
        );
        assert!(addresses.iter().all(|address| address.port() == 7));
    }

    #[tokio::test]
    async fn a_name_that_cannot_exist_is_not_found() {
        for host in ["no-such-host.invalid", "a\0b"] {
            let error = resolve(host, 7).await.unwrap_err();
            assert!(matches!(error.code(), "ENOTFOUND" | "EAI_AGAIN"), "{error}");
        }
    }
}

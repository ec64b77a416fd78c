//! The proxies in front of a server whose headers name the client.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use crate::error::{Error, Result};

/// The trusted proxies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustProxy {
    /// This number of proxies; `usize::MAX` is any number.
    Hops(usize),
    /// All proxies with addresses of these networks.
    Networks(Vec<Network>),
}

impl Default for TrustProxy {
    fn default() -> Self {
        Self::Hops(0)
    }
}

impl TrustProxy {
    /// The trusted proxies with addresses of these networks: `10.0.0.0/8`, `::1`, or the names `loopback`,
    /// `linklocal` and `uniquelocal`.
    ///
    /// Errors: `InvalidOption`.
    pub fn networks(texts: &[impl AsRef<str>]) -> Result<Self> {
        let mut networks = Vec::new();
        for text in texts {
            let text = text.as_ref();
            match NAMES.iter().find(|(name, _)| *name == text) {
                Some((_, members)) => {
                    networks.extend(
                        members
                            .iter()
                            .filter_map(|text| text.parse::<Network>().ok()),
                    );
                }
                None => networks.push(text.parse()?),
            }
        }
        Ok(Self::Networks(networks))
    }

    pub(crate) fn is_none(&self) -> bool {
        *self == Self::Hops(0)
    }

    /// The number of trusted proxies. `addresses`: those that the proxies report, the nearest first, none for one that
    /// is not an address.
    pub(crate) fn hops(
        &self,
        peer: SocketPeer,
        addresses: impl Iterator<Item = Option<IpAddr>>,
    ) -> usize {
        let networks = match self {
            Self::Hops(hops) => return *hops,
            Self::Networks(networks) => networks,
        };
        let is_trusted = |address: IpAddr| networks.iter().any(|it| it.contains(address));
        let is_peer_trusted = match peer {
            SocketPeer::Address(address) => is_trusted(address),
            SocketPeer::Local => true,
            SocketPeer::Unknown => false,
        };
        if !is_peer_trusted {
            return 0;
        }
        1 + addresses
            .take_while(|address| address.is_some_and(is_trusted))
            .count()
    }
}

/// The peer of a socket.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SocketPeer {
    Address(IpAddr),
    /// That of a Unix socket, which the system lets connect only with permission: always trusted.
    Local,
    /// Never trusted.
    Unknown,
}

/// Names for networks.
const NAMES: [(&str, &[&str]); 3] = [
    ("loopback", &["127.0.0.0/8", "::1"]),
    ("linklocal", &["169.254.0.0/16", "fe80::/10"]),
    (
        "uniquelocal",
        &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"],
    ),
];

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Number of bits that all addresses have in common.
    prefix: u8,
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let same = |one: u128, other: u128, bits: u32| {
            let shift = bits - u32::from(self.prefix);
            one.checked_shr(shift).unwrap_or(0) == other.checked_shr(shift).unwrap_or(0)
        };
        let v4 = |address: Ipv4Addr| u128::from(u32::from(address));
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(one), IpAddr::V4(other)) => same(v4(one), v4(other), Ipv4Addr::BITS),
            (IpAddr::V6(one), IpAddr::V6(other)) => same(one.into(), other.into(), Ipv6Addr::BITS),
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::InvalidOption {
            name: "trustProxy",
            reason: format!(
                "has \"{text}\", expected an address, a range such as 10.0.0.0/8, loopback, linklocal or uniquelocal"
            ),
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(most), str::parse);
        match prefix {
            Ok(prefix) if prefix > most => Err(invalid()),
            // Of addresses that are IPv4 in the form of IPv6.
            Ok(prefix) if prefix >= 96 && address.to_canonical() != address => Ok(Self {
                address: address.to_canonical(),
                prefix: prefix - 96,
            }),
            Ok(prefix) => Ok(Self { address, prefix }),
            Err(_) => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(trust: &TrustProxy, peer: &str, addresses: &[&str]) -> usize {
        let peer = match peer {
            "" => SocketPeer::Local,
            "?" => SocketPeer::Unknown,
            peer => SocketPeer::Address(peer.parse().unwrap()),
        };
        trust.hops(peer, addresses.iter().map(|text| text.parse().ok()))
    }

    #[test]
    fn proxies_of_trusted_networks_are_counted_from_the_socket_on() {
        let trust = TrustProxy::networks(&["loopback", "10.1.0.0/16", "2001:db8::/32"]).unwrap();
        for (peer, addresses, expected) in [
            ("192.0.2.1", &[][..], 0),
            ("192.0.2.1", &["10.1.2.3"], 0),
            ("127.0.0.9", &[], 1),
            ("", &["192.0.2.1"], 1),
            ("?", &["127.0.0.1"], 0),
            ("::1", &["10.1.2.3", "192.0.2.1", "10.1.9.9"], 2),
            ("::ffff:127.0.0.1", &["10.2.0.1"], 1),
            ("2001:db8:1::1", &["nonsense", "10.1.2.3"], 1),
            ("127.0.0.1", &["10.1.0.0", "10.1.255.255"], 3),
        ] {
            assert_eq!(
                hops(&trust, peer, addresses),
                expected,
                "{peer} {addresses:?}"
            );
        }
        for mapped in ["::ffff:127.0.0.1", "::ffff:127.0.0.0/104"] {
            let trust = TrustProxy::networks(&[mapped]).unwrap();
            assert_eq!(hops(&trust, "127.0.0.1", &["192.0.2.1"]), 1, "{mapped}");
        }
        let all = TrustProxy::networks(&["0.0.0.0/0"]).unwrap();
        assert_eq!(hops(&all, "192.0.2.1", &["198.51.100.1"]), 2);
        assert_eq!(hops(&TrustProxy::Hops(2), "192.0.2.1", &[]), 2);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0",
            "10.0.0.0/x",
            "local",
            "a/8",
        ] {
            assert!(TrustProxy::networks(&[text]).is_err(), "{text}");
        }
    }
}

//! The PROXY protocol, versions 1 and 2: a header with which a proxy names the client before all other bytes of a
//! connection.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::event::ConnectionInfo;

/// The first bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The maximum length of the line of version 1.
const MAX_LINE: usize = 107;
/// The maximum length of the addresses and extensions of version 2. A proxy needs a few hundred bytes.
const MAX_BODY: usize = 4096;
/// The extension of version 2 about TLS.
const SSL: u8 = 0x20;

/// Reads a header, which must be there. Returns the client that it names: `info` if it names none, as for a health
/// check of the proxy itself.
///
/// Errors: `InvalidData` for other bytes; those of the socket.
pub(crate) async fn read(
    socket: &mut (impl AsyncRead + Unpin),
    info: ConnectionInfo,
) -> io::Result<ConnectionInfo> {
    let mut start = [0; SIGNATURE.len()];
    socket.read_exact(&mut start).await?;
    if start == *SIGNATURE {
        return read_version_2(socket, info).await;
    }
    let mut line = start.to_vec();
    // Byte by byte: what follows belongs to the client.
    while !line.ends_with(b"\r\n") {
        if line.len() == MAX_LINE || !line.starts_with(b"PROXY ") {
            return Err(invalid());
        }
        line.push(socket.read_u8().await?);
    }
    let line = std::str::from_utf8(&line[..line.len() - 2]).map_err(|_| invalid())?;
    parse_line(line, info).ok_or_else(invalid)
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Parses `PROXY TCP4 client proxy client-port proxy-port`, or `PROXY UNKNOWN` with anything behind it.
fn parse_line(line: &str, info: ConnectionInfo) -> Option<ConnectionInfo> {
    let parts: Vec<_> = line.split(' ').collect();
    let (family, addresses) = match parts[..] {
        ["PROXY", "UNKNOWN", ..] => return Some(info),
        ["PROXY", family, client, proxy, client_port, proxy_port] => {
            let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            if !is_number(client_port) || !is_number(proxy_port) {
                return None;
            }
            let _: u16 = proxy_port.parse().ok()?;
            (family, (client, proxy, client_port))
        }
        _ => return None,
    };
    let (client, proxy, port) = addresses;
    let [client, proxy]: [IpAddr; 2] = [client.parse().ok()?, proxy.parse().ok()?];
    let is_expected = match family {
        "TCP4" => client.is_ipv4() && proxy.is_ipv4(),
        "TCP6" => client.is_ipv6() && proxy.is_ipv6(),
        _ => false,
    };
    let port = port.parse().ok()?;
    is_expected.then(|| named(client, port, info))
}

fn named(address: IpAddr, port: u16, info: ConnectionInfo) -> ConnectionInfo {
    ConnectionInfo {
        remote_address: Some(address.to_canonical()),
        remote_port: Some(port),
        ..info
    }
}

async fn read_version_2(
    socket: &mut (impl AsyncRead + Unpin),
    info: ConnectionInfo,
) -> io::Result<ConnectionInfo> {
    let mut head = [0; 4];
    socket.read_exact(&mut head).await?;
    let [command, family, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_BODY {
        return Err(invalid());
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await?;
    match command {
        // LOCAL: the proxy itself.
        0x20 => Ok(info),
        0x21 => parse_body(family, &body, info).ok_or_else(invalid),
        _ => Err(invalid()),
    }
}

/// Parses the addresses of the client and the proxy, their ports, and extensions.
fn parse_body(family: u8, body: &[u8], info: ConnectionInfo) -> Option<ConnectionInfo> {
    let (client, extensions) = match family >> 4 {
        1 => {
            let (addresses, rest) = body.split_at_checked(12)?;
            let address: [u8; 4] = addresses[..4].try_into().ok()?;
            let port = u16::from_be_bytes([addresses[8], addresses[9]]);
            (named(Ipv4Addr::from(address).into(), port, info), rest)
        }
        2 => {
            let (addresses, rest) = body.split_at_checked(36)?;
            let address: [u8; 16] = addresses[..16].try_into().ok()?;
            let port = u16::from_be_bytes([addresses[32], addresses[33]]);
            (named(Ipv6Addr::from(address).into(), port, info), rest)
        }
        // Unspecified, or a Unix socket.
        _ => return Some(info),
    };
    let secure = client.secure || has_tls(extensions)?;
    Some(ConnectionInfo { secure, ..client })
}

/// True if an extension tells that the client uses TLS. None if the extensions are malformed.
fn has_tls(mut extensions: &[u8]) -> Option<bool> {
    let mut is_secure = false;
    while let [kind, high, low, rest @ ..] = extensions {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(length)?;
        // The first bit: the client connected by TLS.
        is_secure |= *kind == SSL && value.first().is_some_and(|client| client & 1 == 1);
        extensions = rest;
    }
    extensions.is_empty().then_some(is_secure)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(bytes: &[u8]) -> io::Result<(ConnectionInfo, Vec<u8>)> {
        let info = ConnectionInfo {
            remote_address: Some([127, 0, 0, 1].into()),
            remote_port: Some(7),
            secure: false,
        };
        let mut bytes = bytes;
        let found = read(&mut bytes, info).await?;
        Ok((found, bytes.to_vec()))
    }

    fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [SIGNATURE, &[command, family][..], &length, body, b"GET /"].concat()
    }

    fn text(info: ConnectionInfo) -> String {
        let port = info.remote_port.unwrap_or_default();
        format!("{} {port} {}", info.address_text(), info.secure)
    }

    #[tokio::test]
    async fn the_client_is_the_one_that_the_header_names() {
        let v4 = [[192, 0, 2, 1], [10, 0, 0, 1], [0x12, 0x34, 0, 80]].concat();
        let tls = [&v4[..], &[SSL, 0, 5, 1, 0, 0, 0, 0]].concat();
        let no_tls = [&v4[..], &[SSL, 0, 5, 0, 0, 0, 0, 0, 4, 0, 1, 9]].concat();
        let mut v6 = [0; 36];
        (v6[0], v6[1], v6[15], v6[33]) = (0x20, 1, 5, 9);
        for (bytes, expected) in [
            (
                b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\nGET /".to_vec(),
                "192.0.2.1 4660 false",
            ),
            (
                b"PROXY TCP6 2001::5 ::1 9 80\r\nGET /".to_vec(),
                "2001::5 9 false",
            ),
            (b"PROXY UNKNOWN\r\nGET /".to_vec(), "127.0.0.1 7 false"),
            (
                b"PROXY UNKNOWN a b c\r\nGET /".to_vec(),
                "127.0.0.1 7 false",
            ),
            (version_2(0x21, 0x11, &v4), "192.0.2.1 4660 false"),
            (version_2(0x21, 0x11, &tls), "192.0.2.1 4660 true"),
            (version_2(0x21, 0x11, &no_tls), "192.0.2.1 4660 false"),
            (version_2(0x21, 0x21, &v6), "2001::5 9 false"),
            (version_2(0x20, 0x00, b""), "127.0.0.1 7 false"),
            (version_2(0x20, 0x11, &v4), "127.0.0.1 7 false"),
            (version_2(0x21, 0x31, &[0; 216]), "127.0.0.1 7 false"),
        ] {
            let (info, rest) = read_all(&bytes).await.unwrap();
            assert_eq!(text(info), expected, "{bytes:?}");
            assert_eq!(rest, b"GET /", "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE));
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 99999 80\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 +1 80\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 10.0.0.1 1 80\r\n".to_vec(),
            b"PROXY  TCP4 192.0.2.1 10.0.0.1 1 80\r\n".to_vec(),
            long.into_bytes(),
            version_2(0x11, 0x11, &[0; 12]),
            version_2(0x22, 0x11, &[0; 12]),
            version_2(0x21, 0x11, &[0; 11]),
            version_2(0x21, 0x21, &[0; 35]),
            version_2(0x21, 0x11, &[0; 14]),
            version_2(0x21, 0x11, &vec![0; MAX_BODY + 1]),
        ] {
            let error = read_all(&bytes).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let error = read_all(b"PROXY TCP4 192.0.2.1").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

//! Opens the client side of a connection: name lookup, TCP connection, TLS and WebSocket handshake.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{self, client::IntoClientRequest, error::ProtocolError, protocol::Role},
};

use crate::{
    error::{Error, Result},
    options::{ClientOptions, headers},
    transport::{
        framing::{Bounds, Reader},
        socket::{ReadHalf, Socket, WriteHalf},
        tls::{self, TlsConnector},
    },
};

/// Connects to the server and upgrades to WebSocket.
///
/// Errors: a failure of the system, or an unexpected response of the server.
pub(crate) async fn dial(
    options: &ClientOptions,
    tls: Option<&TlsConnector>,
) -> Result<(Reader, WriteHalf)> {
    let host = match options.host.contains(':') && !options.host.starts_with('[') {
        true => format!("[{}]", options.host),
        false => options.host.clone(),
    };
    let scheme = if tls.is_some() { "wss" } else { "ws" };
    let url = format!("{scheme}://{host}:{}{}", options.port, options.path);
    let mut request = url
        .as_str()
        .into_client_request()
        .map_err(|_| Error::InvalidAddress(url.clone()))?;
    for (name, value) in &options.headers {
        let (name, value) = headers::parse(name, value)?;
        request.headers_mut().append(name, value);
    }
    let (read, write) = Socket::Tcp(connect(options).await?).into_halves();
    let (read, write) = match tls {
        None => (read, write),
        Some(tls) => tls.connect(bare(&options.host), read, write).await?,
    };
    let io = HandshakeIo::new(read, write);
    let (socket, _) = client_async(request, io).await.map_err(handshake_error)?;
    let HandshakeIo {
        read, write, early, ..
    } = socket.into_inner();
    let reader = Reader::new(Role::Client, read, early, bounds(options));
    Ok((reader, write))
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

/// Opens a TCP connection to the first reachable address of the host.
async fn connect(options: &ClientOptions) -> Result<TcpStream> {
    let ClientOptions { host, port, .. } = options;
    let name = bare(host);
    let addresses: Vec<SocketAddr> = lookup_host((name, *port))
        .await
        .map_err(|error| Error::io("getaddrinfo", name, io::Error::other(error.to_string())))?
        .collect();
    let mut failure = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = Some(Error::io("connect", address, error)),
        }
    }
    Err(failure.unwrap_or_else(|| Error::io("getaddrinfo", name, io::Error::other("no address"))))
}

fn handshake_error(error: tungstenite::Error) -> Error {
    use tungstenite::Error as Ws;
    match error {
        Ws::Http(response) => Error::UnexpectedResponse(response.status().as_u16()),
        Ws::Protocol(ProtocolError::SecWebSocketAcceptKeyMismatch) => Error::InvalidServerKey,
        Ws::Protocol(ProtocolError::HandshakeIncomplete) => Error::HangUp,
        // With TLS 1.3, a server rejects our certificate after our side of the handshake is complete.
        Ws::Io(error) if tls::failure(&error).is_some() => Error::TlsHandshake(error.to_string()),
        Ws::Io(error) if error.kind() == io::ErrorKind::ConnectionReset => Error::HangUp,
        Ws::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => Error::HangUp,
        Ws::Io(source) => Error::Io {
            syscall: "read",
            target: None,
            source,
        },
        error => Error::WebSocket(error.to_string()),
    }
}

/// The socket during the handshake. tokio-tungstenite reads no further than the end of the response head,
/// because bytes behind it would be lost with its buffers.
struct HandshakeIo {
    read: ReadHalf,
    write: WriteHalf,
    /// Bytes of the blank line that ends the head, matched so far.
    matched: usize,
    /// Bytes received behind the head.
    early: Vec<u8>,
}

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

impl HandshakeIo {
    fn new(read: ReadHalf, write: WriteHalf) -> Self {
        Self {
            read,
            write,
            matched: 0,
            early: Vec::new(),
        }
    }

    /// Returns how many of these bytes belong to the head.
    fn head(&mut self, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            self.matched = match *byte {
                byte if byte == END_OF_HEAD[self.matched] => self.matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if self.matched == END_OF_HEAD.len() {
                return at + 1;
            }
        }
        bytes.len()
    }
}

impl AsyncRead for HandshakeIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.matched == END_OF_HEAD.len() {
            return Poll::Ready(Ok(()));
        }
        let mut chunk = [0; 1024];
        let length = chunk.len().min(buf.remaining());
        let mut part = ReadBuf::new(&mut chunk[..length]);
        ready!(Pin::new(&mut this.read).poll_read(cx, &mut part))?;
        let (head, early) = part.filled().split_at(this.head(part.filled()));
        buf.put_slice(head);
        this.early.extend_from_slice(early);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HandshakeIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.write.poll_writable(cx))?;
            match self.write.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

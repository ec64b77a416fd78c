//! Takes over sockets from an HTTP server of the embedder, which has read their upgrade requests.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{
    Server,
    handshakes::PendingHandshake,
    ingress::{AdoptedRequest, Arrival},
};
use crate::{
    error::{Error, Result},
    event::ConnectionInfo,
    metrics::Metrics,
    transport::socket::{
        Socket,
        bridge::{Bridge, BridgeEvent},
    },
};

/// A socket that the embedder hands over. The embedder neither reads nor writes it any more.
#[derive(Debug)]
pub enum AdoptedSocket {
    /// A connected TCP socket.
    Tcp(std::net::TcpStream),
    /// A connected Unix socket.
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

/// An upgrade request that an HTTP server of the embedder has read.
#[derive(Debug, Clone)]
pub struct AdoptedUpgrade {
    /// The head of the request as HTTP/1.1, and all bytes that have arrived behind it.
    pub bytes: Vec<u8>,
    /// The client of the request.
    pub info: ConnectionInfo,
    /// Facts about the client, as JSON text, for [`Authenticate`](crate::auth::Authenticate).
    pub context: Option<Arc<str>>,
}

impl Server {
    /// Takes over a socket whose upgrade request was read by an HTTP server of the embedder: answers the
    /// request, and serves the WebSocket as if it had come to the server's own address. The path of the request
    /// is not checked; all other rules and limits apply.
    ///
    /// Errors: `NotOpen` once the server is closed; `Io`.
    pub fn adopt(&self, socket: AdoptedSocket, upgrade: AdoptedUpgrade) -> Result<()> {
        let entered = self.runtime.enter();
        let socket = match socket {
            AdoptedSocket::Tcp(socket) => socket
                .set_nonblocking(true)
                .and_then(|()| tokio::net::TcpStream::from_std(socket))
                .map(Socket::Tcp),
            #[cfg(unix)]
            AdoptedSocket::Unix(socket) => socket
                .set_nonblocking(true)
                .and_then(|()| tokio::net::UnixStream::from_std(socket))
                .map(Socket::Unix),
        };
        let socket = socket.map_err(failed)?;
        drop(entered);
        self.serve_adopted(socket, upgrade)?;
        self.broker.metrics.handed_over.fetch_add(1, Relaxed);
        Ok(())
    }

    /// As [`adopt`](Self::adopt), for a socket that the embedder itself reads and writes. `notify` is called on
    /// any thread; it must neither block nor call the bridge.
    ///
    /// Errors: `NotOpen` once the server is closed.
    pub fn bridge(
        &self,
        upgrade: AdoptedUpgrade,
        notify: impl Fn(BridgeEvent) + Send + Sync + 'static,
    ) -> Result<Arc<Bridge>> {
        let bridge = Bridge::new(&self.broker.memory, notify);
        self.serve_adopted(Socket::Bridge(bridge.clone()), upgrade)?;
        self.broker.metrics.bridged.fetch_add(1, Relaxed);
        Ok(bridge)
    }

    /// Reports an upgrade request that an HTTP server of the embedder has refused on behalf of this server: counts it and
    /// emits [`ServerEvent::HandshakeRefused`](crate::ServerEvent::HandshakeRefused), as for a request at the server's own
    /// address. `status`: the HTTP status of the response (401 or one with which this server refuses handshakes; another one
    /// counts as 400), or none if the socket was closed without a response.
    pub fn report_refused(&self, info: ConnectionInfo, status: Option<u16>) {
        let status = status.map_or("dropped", Metrics::refused_label);
        self.ingress.refuse(info, status);
    }

    fn serve_adopted(&self, socket: Socket, upgrade: AdoptedUpgrade) -> Result<()> {
        let closing = self.broker.closing();
        if *closing.borrow() {
            return Err(Error::NotOpen);
        }
        let AdoptedUpgrade {
            bytes,
            info,
            context,
        } = upgrade;
        let (read, write) = socket.into_halves();
        let request = Some(AdoptedRequest { bytes, context });
        let arrival = Arrival {
            read,
            write,
            info,
            request,
        };
        let under_way = PendingHandshake::begin(&self.ingress);
        let serving = self.ingress.clone().serve(arrival, under_way, closing);
        self.runtime.spawn(serving);
        Ok(())
    }
}

fn failed(source: io::Error) -> Error {
    Error::Io {
        syscall: "dup",
        target: None,
        source,
    }
}

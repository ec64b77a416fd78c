//! The two halves of a stream socket, TCP or Unix, with or without TLS over it; or what stands for one.
//!
//! The reading half belongs to the connection's task. The writing half is shared: whoever has
//! queued bytes for a connection may write them, without waking its task.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

#[cfg(unix)]
use tokio::net::{UnixStream, unix};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::{TcpStream, tcp},
    sync::Semaphore,
};

use self::tls::{TlsReadHalf, TlsWriteHalf};
use super::uplink::Uplink;
use crate::memory::TLS;

pub(crate) mod pair;
#[cfg(any(test, feature = "bench"))]
pub(crate) mod pipe;
pub(super) mod tls;

/// A connected socket that is not yet in halves.
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    /// The peer's IP address; empty where there is none.
    pub(crate) fn peer_address(&self) -> String {
        match self {
            Self::Tcp(socket) => socket.peer_addr().map_or_else(
                |_| String::new(),
                |address| address.ip().to_canonical().to_string(),
            ),
            #[cfg(unix)]
            Self::Unix(_) => String::new(),
        }
    }

    /// Splits it, with Nagle's algorithm off: what is written together was collected by us.
    pub(crate) fn into_halves(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(socket) => {
                // Fails only for a socket that is already dead, which reading will tell.
                let _ = socket.set_nodelay(true);
                let (read, write) = socket.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            #[cfg(unix)]
            Self::Unix(socket) => {
                let (read, write) = socket.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }
}

/// The reading half.
#[derive(Debug)]
pub(crate) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    #[cfg(unix)]
    Unix(unix::OwnedReadHalf),
    Tls(Box<TlsReadHalf>),
    /// For tests and benchmarks of what lies above a socket.
    #[cfg(any(test, feature = "bench"))]
    Pipe(Arc<pipe::Pipe>),
}

impl ReadHalf {
    /// Does the handshake of TLS, where there is one. Nothing may be read or written before. `turns`:
    /// whoever has one of these computes; the others wait.
    pub(crate) async fn handshake(&mut self, turns: Option<&Semaphore>) -> io::Result<()> {
        match self {
            Self::Tls(half) => half.handshake(turns).await,
            _ => Ok(()),
        }
    }

    /// Ready when a read may give something. For the one task that waits for it.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => half.as_ref().poll_read_ready(cx),
            #[cfg(unix)]
            Self::Unix(half) => half.as_ref().poll_read_ready(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Bytes that are here, and not yet read. Only TLS keeps any.
    pub(crate) fn unread(&self) -> usize {
        match self {
            Self::Tls(half) => half.unread(),
            _ => 0,
        }
    }

    /// Bytes of memory beyond what it takes at rest, but for those. They are charged by itself.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Tls(half) => half.held(),
            _ => 0,
        }
    }

    /// The socket without TLS: for what is thrown away as it comes.
    pub(crate) fn socket(&mut self) -> &mut Self {
        match self {
            Self::Tls(half) => half.socket(),
            half => half,
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            #[cfg(unix)]
            Self::Unix(half) => Pin::new(half).poll_read(cx, buf),
            Self::Tls(half) => half.poll_read(cx, buf),
            #[cfg(any(test, feature = "bench"))]
            Self::Pipe(pipe) => pipe.poll_fill(buf, cx).map(Ok),
        }
    }
}

/// The writing half. All its methods take `&self`.
#[derive(Debug)]
pub(crate) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    #[cfg(unix)]
    Unix(unix::OwnedWriteHalf),
    Tls(Arc<TlsWriteHalf>),
    /// No socket: the way to another broker.
    Uplink(Arc<dyn Uplink>),
    /// For tests and benchmarks of what lies above a socket.
    #[cfg(any(test, feature = "bench"))]
    Pipe(Arc<pipe::Pipe>),
}

impl WriteHalf {
    /// Writes what the socket takes now; `WouldBlock` if that is nothing.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            #[cfg(unix)]
            Self::Unix(half) => half.try_write(bytes),
            Self::Tls(half) => half.try_write_vectored(&[IoSlice::new(bytes)]),
            Self::Uplink(uplink) => uplink.clone().try_write(&[IoSlice::new(bytes)]),
            #[cfg(any(test, feature = "bench"))]
            Self::Pipe(pipe) => pipe.try_write(&[IoSlice::new(bytes)]),
        }
    }

    /// The same for bytes that lie in several places.
    pub(crate) fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write_vectored(bytes),
            #[cfg(unix)]
            Self::Unix(half) => half.try_write_vectored(bytes),
            Self::Tls(half) => half.try_write_vectored(bytes),
            Self::Uplink(uplink) => uplink.clone().try_write(bytes),
            #[cfg(any(test, feature = "bench"))]
            Self::Pipe(pipe) => pipe.try_write(bytes),
        }
    }

    /// Writes what was taken and is still here; `WouldBlock` if something is left. Only TLS keeps
    /// anything.
    pub(crate) fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Tls(half) => half.try_flush(),
            _ => Ok(()),
        }
    }

    /// Bytes that were taken and are still here, about; zero only if there are none.
    pub(crate) fn buffered_ciphertext(&self) -> usize {
        match self {
            Self::Tls(half) => half.buffered_ciphertext(),
            _ => 0,
        }
    }

    /// Bytes of memory that it takes all the time, about.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Self::Tls(_) => TLS,
            _ => 0,
        }
    }

    /// Ready when nothing that was taken is still here. For the one task that waits for it.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(half) => half.poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Ready when a write may take something. For the one task that waits for it.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => half.as_ref().poll_write_ready(cx),
            #[cfg(unix)]
            Self::Unix(half) => half.as_ref().poll_write_ready(cx),
            Self::Tls(half) => half.poll_writable(cx),
            // Whoever owns it is told: it has no task that could wait.
            Self::Uplink(_) => Poll::Pending,
            #[cfg(any(test, feature = "bench"))]
            Self::Pipe(pipe) => pipe.poll_writable(cx),
        }
    }

    /// Ends one or both directions. An error means that it has ended already.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _ = match self {
            Self::Tcp(half) => socket2::SockRef::from(half.as_ref()).shutdown(how),
            #[cfg(unix)]
            Self::Unix(half) => socket2::SockRef::from(half.as_ref()).shutdown(how),
            Self::Tls(half) => {
                half.shutdown(how);
                Ok(())
            }
            Self::Uplink(uplink) => {
                uplink.close();
                Ok(())
            }
            #[cfg(any(test, feature = "bench"))]
            Self::Pipe(pipe) => {
                pipe.shutdown();
                Ok(())
            }
        };
    }
}

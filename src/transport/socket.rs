//! A stream socket in two halves: TCP or Unix, with or without TLS, or a substitute for one.
//!
//! The read half belongs to the connection's task. The write half is shared: any sender may write the bytes
//! that it has queued for a connection, without waking its task.

use std::{
    io::{self, IoSlice},
    net::{Shutdown, SocketAddr},
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

use self::{
    bridge::{Bridge, BridgeHalf},
    replaceable::Replaceable,
    tls::{TlsReadHalf, TlsWriteHalf},
};
use super::uplink::Uplink;
use crate::memory::TLS;

pub(crate) mod bridge;
pub(crate) mod pair;
#[cfg(any(test, feature = "bench"))]
pub(crate) mod pipe;
mod replaceable;
pub(super) mod tls;

/// A connected socket that is not yet split.
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    /// Read and written by the embedder.
    Bridge(Arc<Bridge>),
}

impl Socket {
    /// The peer's IP address; empty for a Unix socket.
    pub(crate) fn peer_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => {
                let address = socket.peer_addr().ok()?;
                Some((address.ip().to_canonical(), address.port()).into())
            }
            #[cfg(unix)]
            Self::Unix(_) => None,
            Self::Bridge(_) => None,
        }
    }

    /// Splits the socket. Nagle's algorithm is turned off, because writes are already batched.
    pub(crate) fn into_halves(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(socket) => {
                // Fails only for a socket that has already failed, which the next read reports.
                let _ = socket.set_nodelay(true);
                let (read, write) = socket.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            #[cfg(unix)]
            Self::Unix(socket) => {
                let (read, write) = socket.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
            Self::Bridge(bridge) => {
                let (read, write) = BridgeHalf::pair(bridge);
                (ReadHalf::Bridge(read), WriteHalf::Bridge(write))
            }
        }
    }
}

/// The read half of a socket.
#[derive(Debug)]
pub(crate) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    #[cfg(unix)]
    Unix(unix::OwnedReadHalf),
    Tls(Box<TlsReadHalf>),
    Bridge(BridgeHalf),
    /// No socket: nothing is read.
    None,
    /// An in-memory pipe, for tests and benchmarks.
    #[cfg(any(test, feature = "bench"))]
    Pipe(Arc<pipe::Pipe>),
}

impl ReadHalf {
    /// Performs the TLS handshake, if the socket has TLS. Nothing may be read or written before. `turns`:
    /// limits how many handshakes compute at once.
    pub(crate) async fn handshake(&mut self, turns: Option<&Semaphore>) -> io::Result<()> {
        match self {
            Self::Tls(half) => half.handshake(turns).await,
            _ => Ok(()),
        }
    }

    /// True for a socket that the embedder reads and writes.
    pub(crate) fn is_bridge(&self) -> bool {
        matches!(self, Self::Bridge(_))
    }

    /// True for a Unix socket.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            #[cfg(unix)]
            Self::Unix(_) => true,
            Self::Tls(half) => half.is_local(),
            _ => false,
        }
    }

    /// The certificate of the peer in DER, if it has sent one in its TLS handshake.
    pub(crate) fn peer_certificate(&self) -> Option<Vec<u8>> {
        match self {
            Self::Tls(half) => half.peer_certificate(),
            _ => None,
        }
    }

    /// Ready when a read may return bytes. Only one task may wait for it.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => half.as_ref().poll_read_ready(cx),
            #[cfg(unix)]
            Self::Unix(half) => half.as_ref().poll_read_ready(cx),
            Self::Bridge(half) => half.poll_readable(cx).map(Ok),
            Self::None => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Like [`Self::poll_readable`], but with TLS it waits until something has arrived.
    fn poll_input(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(half) => half.poll_input(cx),
            half => half.poll_readable(cx),
        }
    }

    /// Bytes decrypted but not yet read. Always zero without TLS.
    pub(crate) fn unread(&self) -> usize {
        match self {
            Self::Tls(half) => half.unread(),
            _ => 0,
        }
    }

    /// Bytes of memory beyond those needed when idle, without [`Self::unread`]. The socket charges them
    /// itself.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Tls(half) => half.held(),
            _ => 0,
        }
    }

    /// The underlying socket without TLS, to read bytes that are discarded.
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
            Self::Bridge(half) => half.poll_fill(buf, cx).map(Ok),
            Self::None => Poll::Pending,
            #[cfg(any(test, feature = "bench"))]
            Self::Pipe(pipe) => pipe.poll_fill(buf, cx).map(Ok),
        }
    }
}

/// The write half of a socket. All its methods take `&self`.
#[derive(Debug)]
pub(crate) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    #[cfg(unix)]
    Unix(unix::OwnedWriteHalf),
    Tls(Arc<TlsWriteHalf>),
    Bridge(BridgeHalf),
    /// No socket: a route to another broker.
    Uplink(Arc<dyn Uplink>),
    /// A socket that can be replaced.
    Replaceable(Box<Replaceable>),
    /// An in-memory pipe, for tests and benchmarks.
    #[cfg(any(test, feature = "bench"))]
    Pipe(Arc<pipe::Pipe>),
}

impl WriteHalf {
    /// Makes this socket one that can be replaced.
    pub(crate) fn into_replaceable(self) -> Self {
        Self::Replaceable(Replaceable::new(self))
    }

    /// True if the socket can be replaced.
    pub(crate) fn is_replaceable(&self) -> bool {
        matches!(self, Self::Replaceable(_))
    }

    /// Replaces the socket, if it can be replaced. Returns the former one.
    pub(crate) fn replace(&self, socket: Option<Self>) -> Option<Self> {
        match self {
            Self::Replaceable(half) => half.replace(socket),
            _ => None,
        }
    }

    /// Writes the bytes that the socket accepts now; `WouldBlock` if it accepts none.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            #[cfg(unix)]
            Self::Unix(half) => half.try_write(bytes),
            Self::Tls(half) => half.try_write_vectored(&[IoSlice::new(bytes)]),
            Self::Bridge(half) => half.try_write(&[IoSlice::new(bytes)]),
            Self::Uplink(uplink) => uplink.clone().try_write(&[IoSlice::new(bytes)]),
            Self::Replaceable(half) => half.try_write(&[IoSlice::new(bytes)]),
            #[cfg(any(test, feature = "bench"))]
            Self::Pipe(pipe) => pipe.try_write(&[IoSlice::new(bytes)]),
        }
    }

    /// Writes from several slices.
    pub(crate) fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write_vectored(bytes),
            #[cfg(unix)]
            Self::Unix(half) => half.try_write_vectored(bytes),
            Self::Tls(half) => half.try_write_vectored(bytes),
            Self::Bridge(half) => half.try_write(bytes),
            Self::Uplink(uplink) => uplink.clone().try_write(bytes),
            Self::Replaceable(half) => half.try_write(bytes),
            #[cfg(any(test, feature = "bench"))]
            Self::Pipe(pipe) => pipe.try_write(bytes),
        }
    }

    /// Writes buffered ciphertext; `WouldBlock` if some is left. Does nothing without TLS.
    #[inline]
    pub(crate) fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Tls(half) => half.try_flush(),
            Self::Replaceable(half) => half.try_flush(),
            _ => Ok(()),
        }
    }

    /// Approximate bytes of buffered ciphertext; zero only if there is none.
    #[inline]
    pub(crate) fn buffered_ciphertext(&self) -> usize {
        match self {
            Self::Tls(half) => half.buffered_ciphertext(),
            Self::Replaceable(half) => half.buffered_ciphertext(),
            _ => 0,
        }
    }

    /// Approximate bytes of memory that it always needs.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Self::Tls(_) => TLS,
            Self::Replaceable(half) => half.memory(),
            _ => 0,
        }
    }

    /// Ready when no ciphertext is buffered. Only one task may wait for it.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(half) => half.poll_flush(cx),
            Self::Replaceable(half) => half.poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Ready when a write may accept bytes. Only one task may wait for it.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => half.as_ref().poll_write_ready(cx),
            #[cfg(unix)]
            Self::Unix(half) => half.as_ref().poll_write_ready(cx),
            Self::Tls(half) => half.poll_writable(cx),
            Self::Bridge(half) => half.poll_writable(cx),
            // The cluster unblocks the outbox itself: an uplink has no task to wake.
            Self::Uplink(_) => Poll::Pending,
            Self::Replaceable(half) => half.poll_writable(cx),
            #[cfg(any(test, feature = "bench"))]
            Self::Pipe(pipe) => pipe.poll_writable(cx),
        }
    }

    /// Shuts down one or both directions. An error means that it was already shut down.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _ = match self {
            Self::Tcp(half) => socket2::SockRef::from(half.as_ref()).shutdown(how),
            #[cfg(unix)]
            Self::Unix(half) => socket2::SockRef::from(half.as_ref()).shutdown(how),
            Self::Tls(half) => {
                half.shutdown(how);
                Ok(())
            }
            Self::Bridge(half) => {
                // The peer's end is found when the embedder has lost the socket.
                half.shutdown();
                Ok(())
            }
            Self::Uplink(uplink) => {
                uplink.close();
                Ok(())
            }
            Self::Replaceable(half) => {
                half.shutdown(how);
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

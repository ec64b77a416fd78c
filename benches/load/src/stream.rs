//! A stream to the broker: TCP, or TLS over TCP.
//!
//! An enum instead of a trait object: without TLS, a read or write costs only one additional
//! branch.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::arguments::Target;
use crate::failure::Result;
use crate::tls::TlsStream;

pub(crate) enum Stream<S> {
    Plain(S),
    /// Boxed, because it is far larger than a socket.
    Tls(Box<TlsStream<S>>),
}

impl Stream<TcpStream> {
    /// Connects, including the TLS handshake. Reads and writes block.
    pub(crate) fn connect(target: &Target, timeout: Duration) -> Result<Self> {
        let socket = TcpStream::connect_timeout(&target.address, timeout)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(timeout))?;
        Ok(match &target.tls {
            None => Stream::Plain(socket),
            Some(connector) => Stream::Tls(Box::new(connector.connect(socket)?)),
        })
    }

    /// Makes the stream non-blocking.
    pub(crate) fn into_nonblocking(self) -> Result<Stream<mio::net::TcpStream>> {
        let convert = |socket: TcpStream| {
            socket.set_read_timeout(None)?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(mio::net::TcpStream::from_std(socket))
        };
        Ok(match self {
            Stream::Plain(socket) => Stream::Plain(convert(socket)?),
            Stream::Tls(stream) => Stream::Tls(Box::new(stream.try_map(convert)?)),
        })
    }
}

impl<S> Stream<S> {
    /// The socket to register for events.
    pub(crate) fn socket(&mut self) -> &mut S {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream.socket(),
        }
    }
}

impl<S: Read + Write> Read for Stream<S> {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl<S: Read + Write> Write for Stream<S> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    /// Continues to send the bytes that `write` has accepted. `WouldBlock` if some are left.
    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

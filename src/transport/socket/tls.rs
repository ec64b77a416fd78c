//! TLS over the two halves of a socket.
//!
//! Both halves share one rustls connection under a lock, held no longer than one read or one write.
//! Ciphertext must be written in order, so when the socket is full, bytes accepted from a writer may remain
//! here as buffered ciphertext.

mod inbound;

use std::{
    future::poll_fn,
    io::{self, IoSlice, Read, Write},
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use rustls::Connection;
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::Semaphore,
};

use super::{ReadHalf, WriteHalf};
pub(in crate::transport) use inbound::Limits;
use inbound::{InboundRecords, Records};

/// Bytes encrypted at once: four records of the largest size. Also the bound of the buffered ciphertext.
const ENCRYPT: usize = 64 << 10;

/// Wraps a socket in TLS. The handshake is not done yet.
pub(in crate::transport) fn wrap(
    connection: impl Into<Connection>,
    read: ReadHalf,
    write: WriteHalf,
    limits: Limits,
) -> (ReadHalf, WriteHalf) {
    let mut connection = connection.into();
    connection.set_buffer_limit(Some(ENCRYPT));
    let write = Arc::new(TlsWriteHalf {
        socket: write,
        session: Mutex::new(Session {
            connection,
            buffered_ciphertext: 0,
        }),
    });
    let read = TlsReadHalf {
        socket: read,
        write: write.clone(),
        inbound: InboundRecords::new(limits),
    };
    (ReadHalf::Tls(Box::new(read)), WriteHalf::Tls(write))
}

/// The TLS connection that both halves share.
struct Session {
    connection: Connection,
    /// Bytes accepted but still buffered as ciphertext: too high by the overhead of a few records, but zero
    /// only if there is none.
    buffered_ciphertext: usize,
}

impl Session {
    /// Writes ciphertext until none is left; `WouldBlock` if some is.
    fn push(&mut self, socket: &WriteHalf) -> io::Result<()> {
        while self.connection.wants_write() {
            self.buffered_ciphertext = self.buffered_ciphertext.max(1);
            match self.connection.write_tls(&mut Sink(socket)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.buffered_ciphertext = self.buffered_ciphertext.saturating_sub(written)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if let Err(error) = socket.try_flush() {
            // The socket has TLS too, of a proxy, and has buffered ciphertext itself.
            self.buffered_ciphertext = self.buffered_ciphertext.max(1);
            return Err(error);
        }
        self.buffered_ciphertext = 0;
        Ok(())
    }
}

/// The read half of a TLS socket.
pub(crate) struct TlsReadHalf {
    socket: ReadHalf,
    write: Arc<TlsWriteHalf>,
    inbound: InboundRecords,
}

impl TlsReadHalf {
    /// Performs the handshake. Errors of rustls are also sent to the peer as alerts. `turns`: limits how many
    /// handshakes compute at once.
    pub(crate) async fn handshake(&mut self, turns: Option<&Semaphore>) -> io::Result<()> {
        loop {
            poll_fn(|cx| self.write.poll_flush(cx)).await?;
            if !self.write.session.lock().connection.is_handshaking() {
                return Ok(());
            }
            poll_fn(|cx| self.socket.poll_input(cx)).await?;
            let turn = match turns {
                None => None,
                // The semaphore is never closed, so this cannot fail.
                Some(turns) => turns.acquire().await.ok(),
            };
            let filled = poll_fn(|cx| Poll::Ready(self.poll_fill(cx))).await;
            // Pending: no bytes had arrived, and the socket is no longer readable.
            if let Poll::Ready(read) = filled
                && read? == 0
            {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            drop(turn);
        }
    }

    /// Ready when a read may return bytes, or may at least read some from the socket.
    pub(super) fn poll_input(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.inbound.unread {
            0 => self.socket.poll_input(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// The certificate of the peer in DER, if it has sent one.
    pub(crate) fn peer_certificate(&self) -> Option<Vec<u8>> {
        let session = self.write.session.lock();
        let chain = session.connection.peer_certificates()?;
        Some(chain.first()?.to_vec())
    }

    /// Bytes decrypted but not yet read.
    pub(crate) fn unread(&self) -> usize {
        self.inbound.unread
    }

    /// Bytes of memory beyond those needed when idle, without [`Self::unread`].
    pub(crate) fn held(&self) -> usize {
        self.inbound.held()
    }

    /// The underlying socket.
    pub(crate) fn is_local(&self) -> bool {
        self.socket.is_local()
    }

    pub(crate) fn socket(&mut self) -> &mut ReadHalf {
        &mut self.socket
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut session = self.write.session.lock();
            let read = session.connection.reader().read(buf.initialize_unfilled());
            drop(session);
            match read {
                Ok(length) => {
                    buf.advance(length);
                    self.inbound.unread = self.inbound.unread.saturating_sub(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The stream ended without a close_notify. That is accepted, because WebSocket close frames
                // already distinguish a clean close from a lost connection.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
            if self.poll_fill(cx)?.is_pending() {
                self.inbound.settle();
                return Poll::Pending;
            }
        }
    }

    /// Reads and decrypts arrived bytes, and writes the response of TLS: handshakes, keys, alerts. Returns
    /// the bytes read; zero at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self {
            socket,
            write,
            inbound,
        } = self;
        let mut session = write.session.lock();
        write.settle(&mut session, cx);
        let records = &mut inbound.records;
        let source = &mut TlsSource {
            socket,
            records,
            cx,
        };
        let read = match session.connection.read_tls(source) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            read => read?,
        };
        let processed = session.connection.process_new_packets();
        write.settle(&mut session, cx);
        let is_handshaking = session.connection.is_handshaking();
        drop(session);
        Poll::Ready(match processed {
            Ok(state) => {
                inbound.unread = state.plaintext_bytes_to_read();
                inbound.took(read, is_handshaking).map(|()| read)
            }
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        })
    }
}

/// The write half of a TLS socket.
pub(crate) struct TlsWriteHalf {
    socket: WriteHalf,
    session: Mutex<Session>,
}

impl TlsWriteHalf {
    /// Encrypts and writes. Accepted bytes count as written even if their ciphertext stays buffered; while
    /// some is buffered, no more bytes are accepted.
    pub(crate) fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut session = self.session.lock();
        session.push(&self.socket)?;
        let taken = session.connection.writer().write_vectored(bytes)?;
        session.buffered_ciphertext += taken;
        let pushed = session.push(&self.socket);
        match is_would_block(&pushed) {
            true => Ok(taken),
            false => pushed.map(|()| taken),
        }
    }

    pub(crate) fn try_flush(&self) -> io::Result<()> {
        self.session.lock().push(&self.socket)
    }

    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let flushed = self.try_flush();
            if !is_would_block(&flushed) {
                return Poll::Ready(flushed);
            }
            ready!(self.poll_writable(cx))?;
        }
    }

    pub(crate) fn buffered_ciphertext(&self) -> usize {
        self.session.lock().buffered_ciphertext
    }

    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_writable(cx)
    }

    /// Sends a close_notify, if the socket accepts it, and shuts down.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        if how != Shutdown::Read {
            let mut session = self.session.lock();
            session.connection.send_close_notify();
            // A socket that has failed or is full is shut down regardless.
            let _ = session.push(&self.socket);
        }
        self.socket.shutdown(how);
    }

    /// Writes pending ciphertext after a read. If the socket is full, the task is woken to call this again.
    fn settle(&self, session: &mut Session, cx: &mut Context<'_>) {
        // A failed socket is reported by the next read.
        while is_would_block(&session.push(&self.socket)) {
            if !matches!(self.socket.poll_writable(cx), Poll::Ready(Ok(()))) {
                return;
            }
        }
    }
}

impl std::fmt::Debug for TlsReadHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsReadHalf").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for TlsWriteHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsWriteHalf").finish_non_exhaustive()
    }
}

/// Adapts the socket for reads of rustls.
struct TlsSource<'a, 'b> {
    socket: &'a mut ReadHalf,
    records: &'a mut Records,
    cx: &'a mut Context<'b>,
}

impl Read for TlsSource<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        match Pin::new(&mut *self.socket).poll_read(self.cx, &mut buf) {
            Poll::Ready(read) => read.map(|()| {
                self.records.feed(buf.filled());
                buf.filled().len()
            }),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// Adapts the socket for writes of rustls.
struct Sink<'a>(&'a WriteHalf);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_would_block(result: &io::Result<()>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Poll, time::Duration};

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
    };

    use crate::{
        memory::Memory,
        options::{TlsClientOptions, TlsServerOptions},
        transport::{
            framing::Mask,
            outbox::{Flushed, Outbox},
            socket::{ReadHalf, Socket, WriteHalf},
            tls::{TlsAcceptor, TlsConnector},
        },
    };

    type Halves = (ReadHalf, WriteHalf);

    /// Longer than the test takes, unless it fails.
    const PATIENCE: Duration = Duration::from_secs(30);
    /// Bytes that exceed the buffers of two sockets.
    const ENOUGH: usize = 256 << 20;

    /// Both ends of a connection, after the handshake.
    async fn connected() -> (Halves, Halves) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let options = TlsServerOptions::new(cert.pem(), signing_key.serialize_pem());
        let acceptor = TlsAcceptor::new(&options).unwrap();
        let connector = TlsConnector::new(&TlsClientOptions {
            ca: Some(vec![cert.pem().into()]),
            ..TlsClientOptions::default()
        })
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(listener.accept(), far);
        let (read, write) = Socket::Tcp(near.unwrap().0).into_halves();
        let memory = Arc::new(Memory::new(usize::MAX));
        let (mut read, write) = acceptor.accept(read, write, &memory).unwrap();
        let (far_read, far_write) = Socket::Tcp(far.unwrap()).into_halves();
        let far = connector.connect("localhost", "localhost:1", far_read, far_write);
        let (near, far) = tokio::join!(read.handshake(None), far);
        near.unwrap();
        ((read, write), far.unwrap())
    }

    #[tokio::test]
    async fn buffered_ciphertext_blocks_the_outbox_and_is_written_without_another_push() {
        let ((_read, write), (mut far, _far_write)) = connected().await;
        let memory = Arc::new(Memory::new(usize::MAX));
        let outbox = Outbox::new(1 << 30, Mask::None, Some(memory.clone()));
        let text = "x".repeat(10_000);
        let mut sent = 0;
        // Each text is accepted in full: only ciphertext of the last one stays queued.
        let blocked = loop {
            assert!(sent < ENOUGH);
            let _ = outbox.push(&[&text]);
            sent += crate::transport::framing::frame_size(text.len(), Mask::None);
            if let Flushed::Blocked = outbox.flush(&write) {
                break outbox.state();
            }
        };
        assert_eq!(blocked.drained, sent as u64);
        assert!(blocked.blocked && !blocked.empty);
        assert_eq!(outbox.waiting(), write.buffered_ciphertext());
        assert!(write.buffered_ciphertext() > 0 && memory.used() >= write.buffered_ciphertext());
        // Other writers cannot write before it.
        assert!(matches!(outbox.flush(&write), Flushed::Done));
        let taken = write.try_write(b"more").unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::WouldBlock);
        let mut received = vec![0; sent];
        let reader = async { far.read_exact(&mut received).await.unwrap() };
        let writer = std::future::poll_fn(|cx| {
            let _ = outbox.poll_writable(&write, cx);
            match outbox.state().blocked {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        });
        let all = async { tokio::join!(reader, writer) };
        tokio::time::timeout(PATIENCE, all)
            .await
            .expect("all of it");
        assert_eq!((outbox.waiting(), write.buffered_ciphertext()), (0, 0));
        assert_eq!(memory.used(), 0);
        assert!(outbox.state().empty);
    }
}

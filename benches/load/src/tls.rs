//! TLS over a blocking or non-blocking socket: always TLS 1.3 with the same cipher.

use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::failure::Result;

/// Maximum ciphertext of one read: four records of the largest size. By default rustls reads one
/// record at most, and 4 KiB if it has no part of one yet.
const READ_CIPHERTEXT: usize = 64 * 1024;

/// The initial buffer size, enough for most idle streams.
const FIRST_READ: usize = 4 * 1024;

/// The common configuration of all sessions.
pub(crate) struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connector {
    /// `host` is that of a URL, with or without a port. `ca` has the trusted authorities in PEM.
    pub(crate) fn new(host: &str, ca: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("--ca is no PEM: {error}"))?;
            roots.add(certificate)?;
        }
        if roots.is_empty() {
            return Err("--ca has no certificate in PEM".into());
        }
        let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("{name} is no name for a certificate"))?;
        // One cipher, so that figures of different days and machines are comparable: the first
        // choice of rustls, which the clients of this package and of Node.js negotiate as well.
        let provider = CryptoProvider {
            cipher_suites: vec![ring::cipher_suite::TLS13_AES_256_GCM_SHA384],
            ..ring::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Each connection represents a separate client, so sessions are not resumed.
        config.resumption = Resumption::disabled();
        Ok(Connector {
            config: Arc::new(config),
            name,
        })
    }

    /// Performs the handshake over a blocking socket.
    pub(crate) fn connect<S: Read + Write>(&self, mut socket: S) -> Result<TlsStream<S>> {
        let mut session = ClientConnection::new(Arc::clone(&self.config), self.name.clone())?;
        session.complete_io(&mut socket)?;
        Ok(TlsStream {
            session,
            socket,
            ciphertext: vec![0; FIRST_READ],
            unread: 0..0,
        })
    }
}

/// A session and its socket.
pub(crate) struct TlsStream<S> {
    session: ClientConnection,
    socket: S,
    ciphertext: Vec<u8>,
    /// Ciphertext read from the socket but not yet passed to the session.
    unread: Range<usize>,
}

impl<S> TlsStream<S> {
    pub(crate) fn socket(&mut self) -> &mut S {
        &mut self.socket
    }

    /// The stream with its socket converted by `convert`.
    pub(crate) fn try_map<T>(
        self,
        convert: impl FnOnce(S) -> io::Result<T>,
    ) -> io::Result<TlsStream<T>> {
        Ok(TlsStream {
            session: self.session,
            socket: convert(self.socket)?,
            ciphertext: self.ciphertext,
            unread: self.unread,
        })
    }
}

impl<S: Read + Write> TlsStream<S> {
    /// Reads ciphertext. The buffer grows if the last read filled it.
    fn fill(&mut self) -> io::Result<usize> {
        if self.unread.end == self.ciphertext.len() {
            let twice = READ_CIPHERTEXT.min(2 * self.ciphertext.len());
            self.ciphertext.resize(twice, 0);
        }
        let length = self.socket.read(&mut self.ciphertext)?;
        self.unread = 0..length;
        Ok(length)
    }

    /// Decrypts a part of the unread ciphertext, and writes responses of the session, such as key
    /// updates.
    fn decrypt(&mut self) -> io::Result<()> {
        let mut bytes = &self.ciphertext[self.unread.clone()];
        self.unread.start += self.session.read_tls(&mut bytes)?;
        self.session
            .process_new_packets()
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        match self.push() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            pushed => pushed,
        }
    }

    /// Writes ciphertext until none is left. `WouldBlock` if some is left.
    fn push(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                written => drop(written?),
            }
        }
        Ok(())
    }
}

impl<S: Read + Write> Read for TlsStream<S> {
    /// Fills the buffer as far as possible, so that a short read has emptied the socket. The end of
    /// the stream is an error at once, even before remaining data: after a short read there is no
    /// further read, and a run that loses a connection has failed.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        let mut emptied = false;
        loop {
            match self.session.reader().read(&mut buffer[filled..]) {
                Ok(0) => return Ok(0),
                Ok(length) => {
                    filled += length;
                    if filled == buffer.len() {
                        return Ok(filled);
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.unread.is_empty() {
                if emptied && filled > 0 {
                    return Ok(filled);
                }
                match self.fill() {
                    Ok(0) => return Ok(0),
                    Ok(length) => emptied = length < self.ciphertext.len(),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == ErrorKind::WouldBlock && filled > 0 => {
                        return Ok(filled);
                    }
                    Err(error) => return Err(error),
                }
            }
            self.decrypt()?;
        }
    }
}

impl<S: Read + Write> Write for TlsStream<S> {
    /// Encrypts and writes. Accepted bytes count as written even if ciphertext is left. While any
    /// is left, no further bytes are accepted.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push()?;
        let taken = self.session.writer().write(bytes)?;
        match self.push() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(taken),
            pushed => pushed.map(|()| taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection};

    use super::*;

    /// The broker's end, and a socket to it that accepts at most `room` bytes and never blocks.
    struct Peer {
        session: ServerConnection,
        room: usize,
        received: Vec<u8>,
        /// Whether to alter bytes on their way to the client.
        altering: bool,
    }

    impl Peer {
        fn send(&mut self, bytes: &[u8]) {
            self.session.writer().write_all(bytes).unwrap();
        }
    }

    impl Read for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = buffer.len();
            let mut rest = &mut *buffer;
            while self.session.wants_write() && !rest.is_empty() {
                self.session.write_tls(&mut rest)?;
            }
            match size - rest.len() {
                0 => Err(ErrorKind::WouldBlock.into()),
                length => {
                    buffer[length - 1] ^= u8::from(self.altering);
                    Ok(length)
                }
            }
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.room -= taken;
            let mut rest = &bytes[..taken];
            while !rest.is_empty() {
                self.session.read_tls(&mut rest)?;
                let state = self.session.process_new_packets().unwrap();
                let start = self.received.len();
                self.received
                    .resize(start + state.plaintext_bytes_to_read(), 0);
                self.session
                    .reader()
                    .read_exact(&mut self.received[start..])?;
            }
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A broker for localhost, and its trusted certificate.
    fn peer() -> (Peer, String) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::from_pem_slice(signing_key.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let mut session = ServerConnection::new(Arc::new(config)).unwrap();
        session.set_buffer_limit(None);
        let peer = Peer {
            session,
            room: usize::MAX,
            received: Vec::new(),
            altering: false,
        };
        (peer, cert.pem())
    }

    fn connected() -> TlsStream<Peer> {
        let (peer, ca) = peer();
        let connector = Connector::new("localhost:443", &ca).unwrap();
        connector.connect(peer).unwrap()
    }

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index % 251) as u8).collect()
    }

    fn blocks<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    #[test]
    fn a_short_read_has_emptied_the_socket() {
        let mut stream = connected();
        let mut buffer = vec![0; 30_000];
        assert!(blocks(stream.read(&mut buffer)));
        // More than one read of the socket, and more than one record.
        let sent = text(500_000);
        stream.socket().send(&sent);
        let mut received = Vec::new();
        loop {
            let length = stream.read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..length]);
            if length < buffer.len() {
                break;
            }
        }
        assert!(received == sent);
        assert!(!stream.socket().session.wants_write());
        assert!(blocks(stream.read(&mut buffer)));
    }

    #[test]
    fn bytes_refused_by_a_full_socket_are_written_first() {
        let mut stream = connected();
        let sent = text(30_000);
        stream.socket().room = 1000;
        assert_eq!(stream.write(&sent[..20_000]).unwrap(), 20_000);
        assert!(blocks(stream.write(&sent[20_000..])));
        assert!(blocks(stream.flush()));
        stream.socket().room = usize::MAX;
        stream.flush().unwrap();
        assert!(stream.socket().received == sent[..20_000]);
        stream.write_all(&sent[20_000..]).unwrap();
        assert!(stream.socket().received == sent);
    }

    #[test]
    fn an_altered_record_is_an_error() {
        let mut stream = connected();
        stream.socket().send(b"a text");
        stream.socket().altering = true;
        let error = stream.read(&mut [0; 100]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn the_end_of_the_stream_is_reported_at_once() {
        let mut stream = connected();
        stream.socket().send(b"a text");
        stream.socket().session.send_close_notify();
        assert_eq!(stream.read(&mut [0; 100]).unwrap(), 0);
    }

    #[test]
    fn only_the_named_authority_is_trusted_and_only_for_that_name() {
        let (_, other) = peer();
        for (host, ca) in [("localhost", Some(other)), ("127.0.0.1", None)] {
            let (peer, own) = peer();
            let connector = Connector::new(host, &ca.unwrap_or(own)).unwrap();
            assert!(connector.connect(peer).is_err());
        }
        assert!(Connector::new("localhost", "no certificate").is_err());
    }

    #[test]
    fn the_cipher_is_always_the_same() {
        let stream = connected();
        let suite = stream.session.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    }
}

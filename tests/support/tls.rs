//! Certificates of a test authority, and peers that speak TLS by another library.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use tokio_tungstenite::client_async;
use wsmsgbroker::{ServerOptions, TlsClientOptions, TlsServerOptions};

use super::{Listening, Peer, options, tcp};

pub const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Identity {
    pub cert: String,
    pub key: String,
}

impl Identity {
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        let certificates = CertificateDer::pem_slice_iter(self.cert.as_bytes());
        certificates.map(Result::unwrap).collect()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// One who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    /// A certificate for `localhost` and 127.0.0.1.
    pub fn issue(&self) -> Identity {
        self.issue_for(&["localhost", "127.0.0.1"])
    }

    pub fn issue_for(&self, names: &[&str]) -> Identity {
        self.sign(params(names))
    }

    /// A certificate that is valid in these years only, from January to January.
    pub fn issue_from_to(&self, from: i32, to: i32) -> Identity {
        let mut params = params(&["localhost", "127.0.0.1"]);
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        self.sign(params)
    }

    /// A certificate for a key that is there.
    pub fn issue_to(&self, key: KeyPair) -> Identity {
        self.certify(params(&["localhost", "127.0.0.1"]), key)
    }

    fn sign(&self, params: CertificateParams) -> Identity {
        self.certify(params, KeyPair::generate().unwrap())
    }

    fn certify(&self, params: CertificateParams, key: KeyPair) -> Identity {
        let cert = params.signed_by(&key, &self.0).unwrap();
        Identity {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Options of a server with a certificate of ours.
    pub fn server(&self) -> ServerOptions {
        secured(&self.issue())
    }

    /// Options of a client that trusts us.
    pub fn client(&self) -> TlsClientOptions {
        TlsClientOptions {
            ca: Some(vec![self.pem().into()]),
            ..TlsClientOptions::default()
        }
    }
}

/// A self-signed certificate.
pub fn self_signed() -> Identity {
    let key = KeyPair::generate().unwrap();
    let cert = params(&["localhost", "127.0.0.1"]).self_signed(&key);
    Identity {
        cert: cert.unwrap().pem(),
        key: key.serialize_pem(),
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).unwrap()
}

/// Options of a server with this certificate.
pub fn secured(identity: &Identity) -> ServerOptions {
    ServerOptions {
        tls: Some(tls_of(identity)),
        ..options()
    }
}

pub fn tls_of(identity: &Identity) -> TlsServerOptions {
    TlsServerOptions::new(&*identity.cert, &*identity.key)
}

/// How a peer speaks TLS that trusts this authority, and has a certificate or not.
pub fn connector(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    own: Option<&Identity>,
) -> TlsConnector {
    connector_to(authority.roots(), versions, own)
}

/// A connector that trusts these certificates.
pub fn connector_to(
    roots: RootCertStore,
    versions: &[&'static SupportedProtocolVersion],
    own: Option<&Identity>,
) -> TlsConnector {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder
            .with_client_auth_cert(own.chain(), own.key())
            .unwrap(),
    };
    TlsConnector::from(Arc::new(config))
}

/// How a played server speaks TLS.
pub fn acceptor(identity: &Identity) -> TlsAcceptor {
    acceptor_with(identity, identity)
}

/// An acceptor with the certificate of one identity and the key of another.
pub fn acceptor_with(shown: &Identity, own: &Identity) -> TlsAcceptor {
    let provider = Arc::new(ring::default_provider());
    let key = provider.key_provider.load_private_key(own.key()).unwrap();
    let certified = CertifiedKey::new(shown.chain(), key);
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(BOTH)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    TlsAcceptor::from(Arc::new(config))
}

/// A connection with the handshake of TLS done.
pub async fn connect(server: &impl Listening, connector: &TlsConnector) -> TlsStream<TcpStream> {
    let socket = tcp(server).await;
    socket.set_nodelay(true).unwrap();
    try_connect(socket, connector).await.unwrap()
}

pub async fn try_connect<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    connector: &TlsConnector,
) -> std::io::Result<TlsStream<S>> {
    let name = ServerName::try_from("localhost").unwrap();
    connector.connect(name, socket).await
}

/// A peer that speaks WebSocket over TLS.
pub async fn peer(server: &impl Listening, connector: &TlsConnector) -> Peer<TlsStream<TcpStream>> {
    let stream = connect(server, connector).await;
    Peer(client_async("wss://localhost/", stream).await.unwrap().0)
}

/// The first message of a client, made by a TLS library.
pub async fn client_hello() -> Vec<u8> {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let connector = connector(&Authority::new("nobody"), BOTH, None);
    let task = tokio::spawn(async move { try_connect(near, &connector).await.is_ok() });
    let mut hello = vec![0; 5];
    far.read_exact(&mut hello).await.unwrap();
    let mut rest = vec![0; usize::from(u16::from_be_bytes([hello[3], hello[4]]))];
    far.read_exact(&mut rest).await.unwrap();
    hello.extend(rest);
    task.abort();
    hello
}

//! TLS: loads and checks certificates and keys from the options, and starts sessions with them.
//!
//! Uses rustls with the cryptography of `ring`, passed with each configuration: a process-wide default would
//! be the embedder's choice.

use std::{
    borrow::Cow,
    io,
    sync::{Arc, OnceLock},
};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    ServerConfig, ServerConnection, SignatureScheme, SupportedProtocolVersion,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature,
        verify_tls13_signature,
    },
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::{ParsedCertificate, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use rustls_native_certs::{load_certs_from_paths, load_native_certs};

use crate::{
    error::{Error, Result, code_of},
    memory::Memory,
    options::{Pem, TlsClientOptions, TlsServerOptions, TlsVersion, TrustStore},
    transport::socket::{
        ReadHalf, WriteHalf,
        tls::{Limits, wrap},
    },
};

/// Protocol name offered and accepted in ALPN.
const HTTP: &[u8] = b"http/1.1";

const CERT: &str = "tls.cert";
const KEY: &str = "tls.key";
const CA: &str = "tls.ca";

/// The TLS side of a server, used for all its connections.
#[derive(Debug, Clone)]
pub(crate) struct TlsAcceptor {
    config: Arc<ServerConfig>,
    /// Certificates of clients are requested.
    asks: bool,
}

impl TlsAcceptor {
    /// Builds the configuration of a server.
    ///
    /// Errors: `Tls` names the option that cannot be used.
    pub(crate) fn new(options: &TlsServerOptions) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let certified = certified(&options.cert, &options.key, &provider)?;
        let roots = options.ca.as_deref().map(roots).transpose()?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions(options.min_version))
            .map_err(|error| wrong("tls.minVersion", error))?;
        let builder = match (options.request_cert, roots) {
            (false, _) => builder.with_no_client_auth(),
            (true, None) => return Err(wrong(CA, "is missing: requestCert is verified by it")),
            (true, Some(roots)) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| wrong(CA, error))?,
            ),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![HTTP.to_vec()];
        Ok(Self {
            config: Arc::new(config),
            asks: options.request_cert,
        })
    }

    /// Starts a session and charges its memory. The handshake is not done yet.
    pub(crate) fn accept(
        &self,
        read: ReadHalf,
        write: WriteHalf,
        memory: &Arc<Memory>,
    ) -> io::Result<Halves> {
        let session = ServerConnection::new(self.config.clone()).map_err(io::Error::other)?;
        let limits = Limits::of_client(self.asks, memory);
        Ok(wrap(session, read, write, limits))
    }
}

/// The TLS side of a client.
#[derive(Debug)]
pub(crate) struct TlsConnector {
    config: Arc<ClientConfig>,
    /// The expected name of the server, if it differs from the host.
    name: Option<ServerName<'static>>,
}

impl TlsConnector {
    /// Builds the configuration of a client.
    ///
    /// Errors: `Tls` names the option that cannot be used.
    pub(crate) fn new(options: &TlsClientOptions) -> Result<Self> {
        let name = options
            .servername
            .clone()
            .map(|name| ServerName::try_from(name).map_err(|error| wrong("tls.servername", error)));
        let mut config = client_config(options)?;
        config.alpn_protocols = vec![HTTP.to_vec()];
        Ok(Self {
            config: Arc::new(config),
            name: name.transpose()?,
        })
    }

    /// Connects over TLS to the server at `host`. `address`: host and port, for error texts.
    ///
    /// Errors: `InvalidAddress`, `TlsHandshake`.
    pub(crate) async fn connect(
        &self,
        host: &str,
        address: &str,
        read: ReadHalf,
        write: WriteHalf,
    ) -> Result<Halves> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|_| Error::InvalidAddress(host.to_owned()))?,
        };
        let session = ClientConnection::new(self.config.clone(), name)
            .map_err(|error| Error::TlsHandshake(describe(address, &error)))?;
        let (mut read, write) = wrap(session, read, write, Limits::of_server());
        match read.handshake(None).await {
            Ok(()) => Ok((read, write)),
            Err(error) => Err(handshake_error(address, error)),
        }
    }
}

/// The error of a handshake that has failed. `address`: host and port of the server.
pub(crate) fn handshake_error(address: &str, error: io::Error) -> Error {
    Error::TlsHandshake(match failure(&error) {
        Some(failure) => describe(address, failure),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            format!("the server at {address} closed the connection during the TLS handshake")
        }
        None => format!(
            "the connection to {address} failed during the TLS handshake: {}",
            code_of(&error)
        ),
    })
}

/// Describes the failure of a handshake with the server at `address`, and what to do.
fn describe(address: &str, error: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, Error as Tls, InvalidMessage as Message};
    match error {
        Tls::InvalidMessage(
            Message::InvalidContentType
            | Message::UnknownProtocolVersion
            | Message::MessageTooLarge
            | Message::InvalidEmptyPayload,
        ) => no_tls(address),
        Tls::InvalidCertificate(reason) => {
            format!(
                "the certificate of the server at {address} {}",
                rejected(reason)
            )
        }
        Tls::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::UnsupportedCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::AccessDenied,
        ) => format!(
            "the server at {address} does not accept the certificate of this client: set \
             \"tls.cert\" and \"tls.key\" to one that it trusts"
        ),
        Tls::AlertReceived(Alert::ProtocolVersion) | Tls::PeerIncompatible(_) => format!(
            "the server at {address} supports no version or cipher of TLS that this client \
             supports: it needs TLS 1.2 or 1.3, at least \"tls.minVersion\""
        ),
        Tls::AlertReceived(Alert::UnrecognisedName) => format!(
            "the server at {address} has no certificate for this name: set \"tls.servername\""
        ),
        error => format!("the TLS handshake with {address} failed: {error}"),
    }
}

fn no_tls(address: &str) -> String {
    format!(
        "the server at {address} does not speak TLS: use ws: (for a proxy http:), or its port for TLS"
    )
}

/// The error of a server that does not speak TLS.
pub(crate) fn not_tls(address: &str) -> Error {
    Error::TlsHandshake(no_tls(address))
}

/// The reason why a certificate is rejected, and what to do.
fn rejected(reason: &CertificateError) -> String {
    use CertificateError as Reason;
    match reason {
        // The second: an authority that has the name of a trusted one, but not its key.
        Reason::UnknownIssuer | Reason::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "is signed by an authority that is not trusted: set \"tls.ca\" to the \
             certificate of that authority (in Node.js also NODE_EXTRA_CA_CERTS or --use-system-ca)"
                .to_owned()
        }
        Reason::Expired | Reason::ExpiredContext { .. } => "has expired".to_owned(),
        Reason::NotValidYet | Reason::NotValidYetContext { .. } => {
            "is not valid yet: check the clock of this machine".to_owned()
        }
        Reason::NotValidForName => "is not valid for this host: set \"tls.servername\"".to_owned(),
        Reason::NotValidForNameContext {
            expected,
            presented,
        } if presented.is_empty() => format!(
            "is not valid for \"{}\": it has no subjectAltName with the hosts it is valid for",
            expected.to_str(),
        ),
        Reason::NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "is not valid for \"{}\" but for {}: use such a host, or set \"tls.servername\"",
            expected.to_str(),
            presented
                .iter()
                .map(|name| host(name))
                .collect::<Vec<_>>()
                .join(", "),
        ),
        Reason::Revoked => "is revoked".to_owned(),
        Reason::BadSignature => "has a wrong signature".to_owned(),
        Reason::BadEncoding => "is malformed".to_owned(),
        reason => format!("cannot be used: {}", fault(reason)),
    }
}

/// Converts the options to a configuration of rustls.
///
/// Errors: `Tls` names the option that cannot be used.
pub(crate) fn client_config(options: &TlsClientOptions) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let certified = match (&options.cert, &options.key) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some(certified(cert, key, &provider)?),
        (Some(_), None) => return Err(wrong(KEY, "is missing: tls.cert needs it")),
        (None, Some(_)) => return Err(wrong(CERT, "is missing: tls.key needs it")),
    };
    let roots = match &options.ca {
        Some(ca) => roots(ca)?,
        None => default_roots(&options.trust),
    };
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(options.min_version))
        .map_err(|error| wrong("tls.minVersion", error))?;
    let builder = match options.reject_unauthorized {
        true => builder.with_root_certificates(roots),
        false => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(algorithms))),
    };
    Ok(match certified {
        None => builder.with_no_client_auth(),
        Some(certified) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    })
}

type Halves = (ReadHalf, WriteHalf);

/// The error of rustls inside an IO error; none if the socket failed.
pub(crate) fn failure(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn wrong(option: &'static str, reason: impl ToString) -> Error {
    let reason = reason.to_string();
    Error::Tls { option, reason }
}

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_12: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match min {
        TlsVersion::Tls12 => &FROM_12,
        TlsVersion::Tls13 => &FROM_12[..1],
    }
}

const SUPPORTED_KEYS: &str = "is damaged or not supported, expected RSA (2048 to 4096 bits), ECDSA (P-256, P-384) or Ed25519";

/// Loads a certificate chain and its key. Checks that they match, and that the certificate is valid today.
fn certified(cert: &Pem, key: &Pem, provider: &CryptoProvider) -> Result<CertifiedKey> {
    let chain = certificates(CERT, cert)?;
    let leaf =
        ParsedCertificate::try_from(&chain[0]).map_err(|error| wrong(CERT, invalid(error)))?;
    check_dates(&leaf, provider)?;
    let key = PrivateKeyDer::from_pem_slice(&read(KEY, key)?).map_err(|error| match error {
        pem::Error::NoItemsFound => wrong(
            KEY,
            "has no private key in PEM, or an encrypted one, which is not supported",
        ),
        error => wrong(KEY, unreadable(error)),
    })?;
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|_| wrong(KEY, SUPPORTED_KEYS))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(_) => Err(wrong(KEY, "does not belong to the certificate in tls.cert")),
    }
}

/// Checks the dates of a certificate. webpki checks them first, and with no trust anchors it stops there.
fn check_dates(leaf: &ParsedCertificate<'_>, provider: &CryptoProvider) -> Result<()> {
    let verified = verify_server_cert_signed_by_trust_anchor(
        leaf,
        &RootCertStore::empty(),
        &[],
        UnixTime::now(),
        provider.signature_verification_algorithms.all,
    );
    use CertificateError as Reason;
    match verified {
        Err(rustls::Error::InvalidCertificate(Reason::Expired | Reason::ExpiredContext { .. })) => {
            Err(wrong(CERT, "has expired"))
        }
        Err(rustls::Error::InvalidCertificate(
            Reason::NotValidYet | Reason::NotValidYetContext { .. },
        )) => Err(wrong(CERT, "is not valid yet")),
        _ => Ok(()),
    }
}

/// Loads the certificate authorities that may sign the peer's certificate.
fn roots(ca: &[Pem]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for pem in ca {
        for certificate in certificates(CA, pem)? {
            let added = roots.add(certificate);
            added.map_err(|error| wrong(CA, invalid(error)))?;
        }
    }
    Ok(roots)
}

/// The authorities that are trusted if the option `ca` names none. Certificates that cannot be read or used
/// are left out: the handshake fails if one of them was needed.
fn default_roots(trust: &TrustStore) -> RootCertStore {
    let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    for path in &trust.files {
        let (file, folder) = match path.is_dir() {
            true => (None, Some(path.as_path())),
            false => (Some(path.as_path()), None),
        };
        roots.add_parsable_certificates(load_certs_from_paths(file, folder).certs);
    }
    if trust.system {
        roots.add_parsable_certificates(system_certificates().iter().cloned());
    }
    roots
}

/// The authorities of the operating system. Reading them takes long, so they are read once.
fn system_certificates() -> &'static [CertificateDer<'static>] {
    static CERTIFICATES: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    CERTIFICATES.get_or_init(|| load_native_certs().certs)
}

/// Loads at least one certificate, in the given order.
fn certificates(option: &'static str, pem: &Pem) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&read(option, pem)?).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong(option, "has no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(option, unreadable(error))),
    }
}

fn read<'a>(option: &'static str, pem: &'a Pem) -> Result<Cow<'a, [u8]>> {
    match pem {
        Pem::Text(text) => Ok(Cow::Borrowed(text.as_bytes())),
        Pem::File(path) => match std::fs::read(path) {
            Ok(bytes) => Ok(Cow::Owned(bytes)),
            Err(error) => {
                let reason = format!("cannot be read from {}: {error}", path.display());
                Err(wrong(option, reason))
            }
        },
    }
}

fn unreadable(error: pem::Error) -> String {
    format!("is not proper PEM: {error}")
}

/// A fault of a certificate, in words where they help.
fn fault(reason: &CertificateError) -> String {
    let text = match reason {
        // webpki's own error.
        CertificateError::Other(error) => error.0.to_string(),
        reason => reason.to_string(),
    };
    match text.as_str() {
        "UnsupportedCertVersion" => {
            "it has version 1, expected version 3: create it with extensions, such as subjectAltName"
                .to_owned()
        }
        "CaUsedAsEndEntity" => {
            "it is marked as an authority: create it with basicConstraints=CA:FALSE".to_owned()
        }
        _ => text,
    }
}

/// The host in a name of a certificate, such as `DnsName("localhost")`.
fn host(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

fn invalid(error: rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(reason) => {
            format!("is no proper certificate: {}", fault(&reason))
        }
        error => format!("is no proper certificate: {error}"),
    }
}

/// A verifier that accepts any certificate, but still requires a signature made with its key.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

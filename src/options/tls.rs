//! The TLS options of servers and clients: certificates, keys and trusted authorities.

use std::{fmt, path::PathBuf};

/// Certificates or a key in PEM. A string that contains `-----BEGIN` is the PEM text; any other is the path
/// of a file.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// The PEM text.
    Text(String),
    /// A file, read when the option is used.
    File(PathBuf),
}

impl From<&str> for Pem {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for Pem {
    fn from(text: String) -> Self {
        match text.contains("-----BEGIN") {
            true => Self::Text(text),
            false => Self::File(text.into()),
        }
    }
}

impl fmt::Debug for Pem {
    /// Omits the text, which may be a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.debug_tuple("Text").finish_non_exhaustive(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// The TLS options of a server.
#[derive(Debug, Clone)]
pub struct TlsServerOptions {
    /// The server's certificate, followed by those of its issuers.
    pub cert: Pem,
    /// The key of the certificate: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: Pem,
    /// The authorities that may sign a client's certificate.
    pub ca: Option<Vec<Pem>>,
    /// The minimum TLS version. Default TLS 1.2.
    pub min_version: TlsVersion,
    /// Require clients to have a certificate signed by `ca`. Default false.
    pub request_cert: bool,
}

impl TlsServerOptions {
    /// The default options with this certificate and key.
    pub fn new(cert: impl Into<Pem>, key: impl Into<Pem>) -> Self {
        Self {
            cert: cert.into(),
            key: key.into(),
            ca: None,
            min_version: TlsVersion::default(),
            request_cert: false,
        }
    }
}

/// Authorities of this machine or process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustStore {
    /// PEM files, and directories of PEM files as OpenSSL names them. Those that cannot be read are ignored.
    pub files: Vec<PathBuf>,
    /// Trust the authorities of the operating system. They are read once per process.
    pub system: bool,
}

/// The TLS options of a client.
#[derive(Debug, Clone)]
pub struct TlsClientOptions {
    /// The authorities that may sign the server's certificate. Default: those of Mozilla's list and of `trust`.
    pub ca: Option<Vec<Pem>>,
    /// Authorities that are trusted beside Mozilla's list if there is no `ca`. Default: none.
    pub trust: TrustStore,
    /// The server name that is requested, and that the certificate must contain. Default: the host.
    pub servername: Option<String>,
    /// The client's own certificate, followed by those of its issuers.
    pub cert: Option<Pem>,
    /// The key of the client's certificate: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: Option<Pem>,
    /// Verify the server's certificate. False accepts any, so a man in the middle can read everything.
    /// Default true.
    pub reject_unauthorized: bool,
    /// The minimum TLS version. Default TLS 1.2.
    pub min_version: TlsVersion,
}

impl Default for TlsClientOptions {
    fn default() -> Self {
        Self {
            ca: None,
            trust: TrustStore::default(),
            servername: None,
            cert: None,
            key: None,
            reject_unauthorized: true,
            min_version: TlsVersion::default(),
        }
    }
}

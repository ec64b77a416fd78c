//! How a server and a client make themselves known by certificates, and whom they trust.

use std::{fmt, path::PathBuf};

/// Certificates or a key in PEM. A text that contains `-----BEGIN` is taken as it is, any other
/// is the path of a file.
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
    /// A key is for nobody's log.
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

/// The certificate of a server, and whom it lets in.
#[derive(Debug, Clone)]
pub struct TlsServerOptions {
    /// The certificate, those of its issuers behind it.
    pub cert: Pem,
    /// Its key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: Pem,
    /// The authorities that may sign a client's certificate.
    pub ca: Option<Pem>,
    /// The oldest version that is spoken. Default TLS 1.2.
    pub min_version: TlsVersion,
    /// Only clients with a certificate signed by `ca` are let in. Default false.
    pub request_cert: bool,
}

impl TlsServerOptions {
    /// A certificate and its key; all else as by default.
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

/// How a client knows its server, and makes itself known.
#[derive(Debug, Clone)]
pub struct TlsClientOptions {
    /// The authorities that may sign the server's certificate. Default: those that Mozilla trusts.
    pub ca: Option<Pem>,
    /// The name that is asked for and that the certificate must have. Default: the host.
    pub servername: Option<String>,
    /// The client's own certificate, those of its issuers behind it.
    pub cert: Option<Pem>,
    /// Its key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: Option<Pem>,
    /// False takes any certificate: whoever is in between may read all. Default true.
    pub reject_unauthorized: bool,
    /// The oldest version that is spoken. Default TLS 1.2.
    pub min_version: TlsVersion,
}

impl Default for TlsClientOptions {
    fn default() -> Self {
        Self {
            ca: None,
            servername: None,
            cert: None,
            key: None,
            reject_unauthorized: true,
            min_version: TlsVersion::default(),
        }
    }
}

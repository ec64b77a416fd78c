//! Certificates of a broker in another process, and of its clients.

use rustls::RootCertStore;
use tokio_rustls::TlsConnector;
use wsmsgbroker::TlsServerOptions;

use crate::support::tls::{Authority, BOTH, Identity, connector_to, tls_of};

/// The option that asks for TLS: `server`, or `both` where clients show certificates, too.
pub(crate) const TLS: &str = "tls";

/// The certificates of a broker.
pub(crate) struct Issued {
    authority: Authority,
    mutual: bool,
}

impl Issued {
    /// Made for a broker whose options ask for it.
    pub(crate) fn asked_for(options: &str) -> Option<Self> {
        let mut pairs = options
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(name, _)| *name == TLS)?;
        Some(Self {
            authority: Authority::new("faults"),
            mutual: value == "both",
        })
    }

    pub(crate) fn server(&self) -> TlsServerOptions {
        TlsServerOptions {
            ca: self.mutual.then(|| vec![self.authority.pem().into()]),
            request_cert: self.mutual,
            ..tls_of(&self.authority.issue())
        }
    }

    /// The settings for peers, on one line.
    pub(crate) fn to_line(&self) -> String {
        let Identity { cert, key } = self.authority.issue();
        serde_json::json!([self.authority.pem(), cert, key]).to_string()
    }
}

/// The trusted authority of a broker, and a client certificate for it.
pub(crate) struct Trust {
    roots: RootCertStore,
    own: Identity,
}

impl Trust {
    pub(crate) fn from_line(line: &str) -> Self {
        let [authority, cert, key]: [String; 3] = serde_json::from_str(line).unwrap();
        let mut roots = RootCertStore::empty();
        let authority = Identity {
            cert: authority,
            key: String::new(),
        };
        roots.add_parsable_certificates(authority.chain());
        Self {
            roots,
            own: Identity { cert, key },
        }
    }

    /// How an honest peer speaks TLS.
    pub(crate) fn connector(&self) -> TlsConnector {
        self.connector_with(Some(&self.own))
    }

    /// How one does that has another certificate, or none.
    pub(crate) fn connector_with(&self, own: Option<&Identity>) -> TlsConnector {
        connector_to(self.roots.clone(), BOTH, own)
    }
}

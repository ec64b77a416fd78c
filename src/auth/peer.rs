//! Data of a peer from its handshake, for the hook that authenticates it.

use std::sync::Arc;

/// Bytes charged for a header besides its name and value.
const HEADER: usize = size_of::<(String, String)>();

/// Data of a peer from its handshake.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    /// Names in lower case, and values.
    pub(crate) headers: Arc<[(String, String)]>,
    /// Target of the request: path and query.
    pub(crate) url: Arc<str>,
    /// Its certificate in DER.
    pub(crate) certificate: Option<Arc<[u8]>>,
    /// Facts from the embedder's HTTP server, as JSON text.
    pub(crate) context: Option<Arc<str>>,
}

impl Peer {
    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        let header = |(name, value): &(String, String)| HEADER + name.len() + value.len();
        let certificate = self.certificate.as_ref().map_or(0, |der| der.len());
        let context = self.context.as_ref().map_or(0, |text| text.len());
        self.url.len() + certificate + context + self.headers.iter().map(header).sum::<usize>()
    }
}

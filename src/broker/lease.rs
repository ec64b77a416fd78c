//! Lease: the right of one connection to an id among all brokers of a cluster.

use std::{
    fmt,
    sync::{Arc, Weak},
};

/// Whether a lease still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseState {
    Held,
    /// Another broker has claimed the id. `conflict`: for another principal.
    Lost {
        conflict: bool,
    },
}

/// Releases leases. The cluster implements it.
pub(crate) trait Release: fmt::Debug + Send + Sync {
    /// Frees the id, unless it was claimed after `time`.
    fn release(&self, id: &str, time: u64);
}

/// Right to an id. Dropping it frees the id.
#[must_use]
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) id: Arc<str>,
    /// Time of the claim: the latest claim wins.
    pub(crate) time: u64,
    pub(crate) holder: Weak<dyn Release>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(holder) = self.holder.upgrade() {
            holder.release(&self.id, self.time);
        }
    }
}

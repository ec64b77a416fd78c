//! The right of a connection to an id among all brokers of a cluster.

use std::{
    fmt,
    sync::{Arc, Weak},
};

/// Whether a lease still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseState {
    Held,
    /// Another broker has the id; `conflict`: for another principal.
    Lost {
        conflict: bool,
    },
}

/// Takes leases back. The cluster implements it.
pub(crate) trait Release: fmt::Debug + Send + Sync {
    /// The id is free again, unless it was claimed since.
    fn release(&self, id: &str, time: u64);
}

/// The right to an id. Dropping it gives the id back.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) id: Arc<str>,
    /// The time of the claim: later claims win.
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

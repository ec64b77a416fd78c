//! The trait by which a broker uses the other brokers of its cluster.

use std::{fmt, pin::Pin, sync::Arc, task::Waker};

use tokio::sync::oneshot;

use super::{
    Broker,
    handle::Handle,
    lease::{Lease, LeaseState},
    receipts::Receipts,
    requests::DeliveryError,
};
use crate::{auth::Denied, metrics::ClusterStats};

/// A future that borrows nothing of its maker.
pub(crate) type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Why there is no handle for an id at another broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// The other brokers cannot be reached.
    Down,
    /// The connection looks up as many ids as it may: its waker is called when it may go on.
    Held,
}

/// The other brokers.
pub(crate) trait Peers: fmt::Debug + Send + Sync {
    /// Claims an id among all brokers, for a principal; a participant has none and wins.
    /// Without a connection to the others the lease holds here, and they hear of it later.
    ///
    /// Errors: `Conflict` if another principal has it; `Unavailable` if that cannot be decided now.
    fn claim(
        self: Arc<Self>,
        id: Arc<str>,
        principal: Option<Arc<str>>,
        participant: bool,
    ) -> Task<Result<Lease, Denied>>;

    /// Whether another broker has claimed the id since.
    fn lease_state(&self, lease: &Lease) -> LeaseState;

    /// Ends the registration of an id that another broker has claimed; `conflict`: for another principal.
    fn end_lost(&self, broker: &Broker, id: &Arc<str>, conflict: bool);

    /// Keeps a lease for a moment, so that messages for an id that moves wait for its next owner. The moment
    /// begins when the sender that is returned is dropped; none if the others cannot be reached.
    fn park(self: Arc<Self>, lease: Lease) -> Option<oneshot::Sender<()>>;

    /// A connection is about to own an id that may have been at a broker that drains.
    fn expect_arrival(&self, owner: &Handle);

    /// A client of this broker, by its id as JSON, is about to send to an owner that has just arrived.
    fn note_sender(&self, owner: &Handle, sender: &str);

    /// The handle of an id that is not registered here, for the connection with this key.
    fn find_remote(
        &self,
        broker: &Broker,
        id: &str,
        connection: (u64, &Waker),
    ) -> Result<Arc<Handle>, Unreachable>;

    /// The handle that a connection waits for which looks up as many ids as it may.
    fn lookup_gate(&self, broker: &Broker) -> Option<Arc<Handle>>;

    /// Why the id of a remote handle has no owner; none if it may have one.
    fn absence(&self, handle: &Handle) -> Option<DeliveryError>;

    /// Receipts that wait for reports of other brokers.
    fn receipts(&self) -> &Receipts;

    /// Bytes of the largest frame that another broker can be sent, for this id.
    fn max_frame(&self, id: &str) -> usize;

    /// Counts a message that no broker could be reached for.
    fn count_unreachable(&self);

    /// Announces that this broker drains.
    fn announce_drain(&self);

    /// True while messages for ids that have left are handed over.
    fn hands_over(&self) -> bool;

    fn stats(&self) -> ClusterStats;
}

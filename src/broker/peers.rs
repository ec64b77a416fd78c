//! The trait through which a broker uses the other brokers of its cluster.

use std::{fmt, pin::Pin, sync::Arc, task::Waker};

use tokio::sync::oneshot;

use super::{
    Broker,
    handle::Handle,
    lease::{Lease, LeaseState},
    receipts::Receipts,
    requests::DeliveryError,
    topics::{
        Publication,
        groups::{Group, Job},
        request::TopicRequest,
    },
};
use crate::{auth::Denied, metrics::ClusterStats};

/// A boxed future that borrows nothing.
pub(crate) type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Reason why there is no handle for an id at another broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// The other brokers are unreachable.
    Down,
    /// The connection has reached its limit of concurrent lookups: its waker is called when it may
    /// continue.
    Held,
}

/// The other brokers of a cluster.
pub(crate) trait Peers: fmt::Debug + Send + Sync {
    /// Claims an id among all brokers for a principal. A participant has no principal, and wins. While NATS
    /// is unreachable the lease holds locally and is announced later.
    ///
    /// Errors: `Conflict` if another principal owns the id; `Unavailable` if that cannot be decided now.
    fn claim(
        self: Arc<Self>,
        id: Arc<str>,
        principal: Option<Arc<str>>,
        participant: bool,
    ) -> Task<Result<Lease, Denied>>;

    /// Whether another broker has claimed the id since.
    fn lease_state(&self, lease: &Lease) -> LeaseState;

    /// Ends the registration of an id that another broker has claimed. `conflict`: for another principal.
    fn end_lost(&self, broker: &Broker, id: &Arc<str>, conflict: bool);

    /// Keeps a lease for a moment, so that messages for a moving id wait for its next owner. The time
    /// starts when the returned sender is dropped. None if the other brokers are unreachable.
    fn park(self: Arc<Self>, lease: Lease) -> Option<oneshot::Sender<()>>;

    /// Prepares a connection to own an id that may come from a draining broker.
    fn expect_arrival(&self, owner: &Handle);

    /// Records that a client of this broker (`sender`: its id as JSON) is about to send to an owner that
    /// has just arrived.
    fn note_sender(&self, owner: &Handle, sender: &str);

    /// Handle of an id that is not registered here. `connection`: key and waker of the sender.
    fn find_remote(
        &self,
        broker: &Broker,
        id: &str,
        connection: (u64, &Waker),
    ) -> Result<Arc<Handle>, Unreachable>;

    /// Handle on which a connection waits that has reached its limit of lookups.
    fn lookup_gate(&self, broker: &Broker) -> Option<Arc<Handle>>;

    /// Why the id of a remote handle has no owner; none if it may have one.
    fn absence(&self, handle: &Handle) -> Option<DeliveryError>;

    /// Receipts that wait for reports of other brokers.
    fn receipts(&self) -> &Receipts;

    /// Size in bytes of the largest frame that can be sent to another broker for this id.
    fn max_frame(&self, id: &str) -> usize;

    /// Whether messages to topics can be sent to other brokers now.
    ///
    /// Errors: `Held` while too many wait: the waker of the connection with this key is called when there is room.
    /// `Down`.
    fn may_publish(&self, key: u64, waker: &Waker) -> Result<(), Unreachable>;

    /// Sends messages of a topic to the brokers that have subscribers. False if they are unreachable.
    fn publish(&self, messages: &Publication<'_>) -> bool;

    /// Whether the receivers of a request to a topic can be looked for at other brokers now.
    ///
    /// Errors: as [`may_publish`](Self::may_publish).
    fn may_ask(&self, key: u64, waker: &Waker) -> Result<(), Unreachable>;

    /// Asks the receivers of a topic at other brokers. Sends the receipt of the request, and its failure if it has no
    /// receiver.
    fn ask_topic(self: Arc<Self>, request: TopicRequest);

    /// Sends a message of a group to a broker that has members. False if they are unreachable, or too many brokers have
    /// passed it on.
    fn pass_on(&self, group: &Group, job: &Job) -> bool;

    /// Records that a message waits in a group: other brokers may have members that can take it.
    fn note_waiting(&self, group: &Group);

    /// Called under a lock when a pattern has got its first subscriber or group here, or has lost its last.
    fn pattern_changed(&self, pattern: &Arc<str>);

    /// Called under a lock when a subject of presence has got its first watcher here, or has lost its last.
    fn watched(&self, subject: &Arc<str>, is_watched: bool);

    /// Called under a lock when members have changed that other brokers watch.
    fn presence_changed(&self);

    /// Size in bytes of the largest frame that can be sent to other brokers for this topic. `groups`: number of groups
    /// with members here.
    fn max_publication(&self, topic: &str, groups: usize) -> usize;

    /// Counts a message dropped because NATS was unreachable.
    fn count_unreachable(&self);

    /// Announces that this broker drains.
    fn announce_drain(&self);

    /// True while messages for moved ids are being handed over.
    fn hands_over(&self) -> bool;

    /// The sorted names of all known brokers, including this one.
    fn names(&self) -> Vec<String>;

    fn stats(&self) -> ClusterStats;
}

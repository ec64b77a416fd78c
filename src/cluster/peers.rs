//! Implementation of the trait `Peers`, by which a broker uses the cluster.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Waker,
};

use tokio::sync::oneshot;

use super::{Cluster, message};
use crate::{
    auth::Denied,
    broker::{
        Broker,
        handle::Handle,
        lease::{Lease, LeaseState},
        peers::{Peers, Task, Unreachable},
        receipts::Receipts,
        requests::DeliveryError,
        topics::{
            Publication,
            groups::{Group, Job},
            request::TopicRequest,
        },
    },
    metrics::ClusterStats,
};

impl Peers for Cluster {
    fn claim(
        self: Arc<Self>,
        id: Arc<str>,
        principal: Option<Arc<str>>,
        participant: bool,
    ) -> Task<Result<Lease, Denied>> {
        Self::claim(&self, id, principal, participant)
    }

    fn lease_state(&self, lease: &Lease) -> LeaseState {
        self.claims.lease_state(lease)
    }

    fn end_lost(&self, broker: &Broker, id: &Arc<str>, conflict: bool) {
        self.end_lost(broker, id, conflict);
    }

    fn park(self: Arc<Self>, lease: Lease) -> Option<oneshot::Sender<()>> {
        Self::park(&self, lease)
    }

    fn expect_arrival(&self, owner: &Handle) {
        self.handover.expect_arrival(owner);
    }

    fn note_sender(&self, owner: &Handle, sender: &str) {
        self.handover.note_sender(owner, sender);
    }

    fn find_remote(
        &self,
        broker: &Broker,
        id: &str,
        connection: (u64, &Waker),
    ) -> Result<Arc<Handle>, Unreachable> {
        self.find_remote(broker, id, connection)
    }

    fn lookup_gate(&self, broker: &Broker) -> Option<Arc<Handle>> {
        self.lookup_gate(broker)
    }

    fn absence(&self, handle: &Handle) -> Option<DeliveryError> {
        handle.outbox.state().closed.then(|| self.absence_error())
    }

    fn receipts(&self) -> &Receipts {
        &self.receipts
    }

    fn max_frame(&self, id: &str) -> usize {
        let head = message::PACKET_HEAD + id.len();
        self.bus.max_payload().saturating_sub(head)
    }

    fn may_publish(&self, key: u64, waker: &Waker) -> Result<(), Unreachable> {
        self.may_publish(key, waker)
    }

    fn publish(&self, messages: &Publication<'_>) -> bool {
        self.publish_topic(messages)
    }

    fn may_ask(&self, key: u64, waker: &Waker) -> Result<(), Unreachable> {
        self.may_ask(key, waker)
    }

    fn ask_topic(self: Arc<Self>, request: TopicRequest) {
        Self::ask_topic(self, request);
    }

    fn note_waiting(&self, group: &Group) {
        self.note_waiting(group);
    }

    fn pass_on(&self, group: &Group, job: &Job) -> bool {
        self.pass_on(group, job)
    }

    fn pattern_changed(&self, pattern: &Arc<str>) {
        self.pattern_changed(pattern);
    }

    fn watched(&self, subject: &Arc<str>, is_watched: bool) {
        self.watched(subject, is_watched);
    }

    fn presence_changed(&self) {
        self.presence_changed();
    }

    fn max_publication(&self, topic: &str, groups: usize) -> usize {
        self.max_publication(topic, groups)
    }

    fn count_unreachable(&self) {
        self.counters.unreachable.fetch_add(1, Relaxed);
    }

    fn announce_drain(&self) {
        if self.is_up() {
            self.heartbeat_due.notify_one();
        }
    }

    fn hands_over(&self) -> bool {
        self.hands_over()
    }

    fn names(&self) -> Vec<String> {
        self.nodes()
    }

    fn stats(&self) -> ClusterStats {
        self.stats()
    }
}

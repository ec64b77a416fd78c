//! Probes: asks the owners of remote ids whether open requests and receipts may still be answered.
//!
//! A request or its answer may be lost with a packet, with a broker, or when an id moves. So open requests of a
//! remote id are probed periodically, each by its number. If the owner of the id does not know a request, that
//! request fails; if the id has no owner, all fail.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::time::sleep;

use super::{Cluster, bus::NodeId, notify, remotes::link_of};
use crate::{
    broker::{
        Broker,
        handle::Handle,
        requests::{DeliveryError, Notifications, Request},
    },
    protocol,
    transport::{framing, uplink::Uplink},
};

/// Time for the former broker of an id to answer, before requests and receipts are probed at the new one.
const MOVE_GRACE: Duration = Duration::from_secs(1);
/// Time after which a probe without an answer is forgotten.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay of a negative answer to a probe, so that an answer just received goes first.
const PROBE_ANSWER_DELAY: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Probes {
    open: Mutex<OpenProbes>,
    /// Remote handles whose ids have moved, by their keys, and when to probe them. A further move does not
    /// extend that time.
    moved: Mutex<HashMap<u64, (Instant, Arc<Handle>)>>,
}

/// Recent probes.
#[derive(Debug, Default)]
struct OpenProbes {
    /// Batches of probes, by the number of the first in each.
    batches: BTreeMap<u64, Probe>,
    next: u64,
}

#[derive(Debug)]
struct Probe {
    at: Instant,
    handle: Weak<Handle>,
    requests: Vec<Weak<Request>>,
}

impl Cluster {
    /// Redirects the link of a remote id to the node that has claimed it. The former node still answers or
    /// fails requests that arrived there; those in flight to it may be lost, so they are probed.
    pub(super) fn on_moved(&self, broker: &Broker, id: &str, to: NodeId) {
        let Some(handle) = self.remotes.find(id) else {
            return;
        };
        let Some(link) = link_of(&handle) else { return };
        // An unresolved link stays as it is. One to the same node does not: a new subscription may receive
        // there now.
        if link.node().is_none() {
            return;
        }
        link.on_moved(to, self.nodes.epoch_of(to));
        if broker.registry.requests.has_incoming(&handle) || self.receipts.is_awaited(handle.key) {
            let until = Instant::now() + MOVE_GRACE;
            let mut moved = self.probes.moved.lock();
            moved
                .entry(handle.key)
                .or_insert_with(|| (until, handle.clone()));
        }
    }

    /// Probes handles whose ids have moved, once their former brokers had time to answer.
    pub(super) fn probe_moved(&self, broker: &Broker, now: Instant) {
        (self.probes.open.lock().batches).retain(|_, probe| now - probe.at < PROBE_TIMEOUT);
        let is_over = |_: &u64, (until, _): &mut (Instant, Arc<Handle>)| *until <= now;
        let moved: Vec<_> = self.probes.moved.lock().extract_if(is_over).collect();
        for (_, (_, handle)) in moved {
            self.probe_requests(broker, &handle);
            self.probe_receipts(&handle, now);
        }
    }

    /// Probes all open receipts of a remote id.
    fn probe_receipts(&self, handle: &Arc<Handle>, now: Instant) {
        if let Some(link) = link_of(handle)
            && let Some(number) = self.receipts.fence(handle.key, now)
        {
            let mut frames = Vec::new();
            framing::append_text(&protocol::confirm(&number.to_string()), &mut frames);
            link.expect_report();
            handle.write(|outbox| outbox.push_frames(&mut frames, 1));
        }
    }

    /// Probes all open requests to a remote id.
    pub(super) fn probe_requests(&self, broker: &Broker, handle: &Arc<Handle>) {
        let incoming = broker.registry.requests.incoming(handle);
        if incoming.is_empty() {
            return;
        }
        let first = {
            let mut probes = self.probes.open.lock();
            let first = probes.next;
            probes.next += incoming.len() as u64;
            let probe = Probe {
                at: Instant::now(),
                handle: Arc::downgrade(handle),
                requests: incoming.iter().map(Arc::downgrade).collect(),
            };
            probes.batches.insert(first, probe);
            first
        };
        let mut frames = Vec::new();
        for (number, request) in (first..).zip(&incoming) {
            let (ack, number) = (protocol::json_string(request.ack()), number.to_string());
            framing::append_text(&protocol::probe(&ack, &number), &mut frames);
        }
        handle.write(|outbox| outbox.push_frames(&mut frames, 1));
    }

    /// Fails the request with this probe number: the owner of the id does not know it.
    pub(super) fn on_probe_failed(
        &self,
        broker: &Broker,
        number: u64,
        notifications: &mut Notifications,
    ) {
        let lost = {
            let probes = self.probes.open.lock();
            let probe = probes.batches.range(..=number).next_back();
            probe.and_then(|(first, probe)| {
                let request = probe.requests.get((number - first) as usize)?;
                Some((probe.handle.upgrade()?, request.upgrade()?))
            })
        };
        if let Some((handle, request)) = lost {
            let requests = &broker.registry.requests;
            requests.fail_responder(&request, &handle, DeliveryError::Gone, notifications);
        }
    }

    /// Answers probes of requests that are unknown here, after a delay. Only a broker that has claimed the id
    /// may.
    pub(super) async fn answer_probes(
        &self,
        id: &str,
        asker: Option<&Arc<Handle>>,
        unknown: &[(String, u64)],
    ) {
        sleep(PROBE_ANSWER_DELAY).await;
        let (Some(broker), Some(_)) = (self.broker(), self.claims.owner(id)) else {
            return;
        };
        let mut notifications = Vec::new();
        for (ack, number) in unknown {
            match asker {
                Some(asker) => {
                    let number = number.to_string();
                    // Flushed below.
                    let _ = asker.outbox.push(&protocol::probe_failed(&number));
                    // A former owner may still work on it.
                    let (key, requests) = (protocol::ack_key(ack), &broker.registry.requests);
                    requests.cancel_part(&key, asker, None, id, &mut notifications);
                }
                None => self.on_probe_failed(&broker, *number, &mut notifications),
            }
        }
        notify(&broker, &mut notifications);
        if let Some(asker) = asker {
            asker.flush();
        }
    }
}

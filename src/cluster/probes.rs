//! What ids at other brokers are asked for: what they owe, and may have lost.
//!
//! A question, or what became of it, may be lost on its way, with a broker or when an id moves. So now and
//! then an id from which answers are awaited is asked for them, one by one. Whoever has the id and knows
//! nothing of one says so, and it fails; where nobody has it, all fail.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Cluster, bus::NodeId, remotes::link_of};
use crate::{
    broker::{
        Broker,
        handle::Handle,
        requests::{DeliveryError, Notifications, Request},
    },
    protocol,
    transport::{framing, uplink::Uplink},
};

/// How long the former broker of an id may say what becomes of what it was asked.
const MOVED: Duration = Duration::from_secs(1);
/// How long it may take to hear that something was lost.
const FORGET: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Probes {
    open: Mutex<OpenProbes>,
    /// Those whose ids have gone to another broker, by their keys, and when they are asked for what the
    /// former one may still have answered. An id that moves once more before is not given more time.
    moved: Mutex<HashMap<u64, (Instant, Arc<Handle>)>>,
}

/// What ids were asked for of late: requests that may have been lost, each with a number.
#[derive(Debug, Default)]
struct OpenProbes {
    /// By the number of the first.
    asked: BTreeMap<u64, Probe>,
    next: u64,
}

#[derive(Debug)]
struct Probe {
    at: Instant,
    handle: Weak<Handle>,
    requests: Vec<Weak<Request>>,
}

impl Cluster {
    /// An id is at this broker from now on. What the former one has got it answers, or
    /// says that it will not; what was on its way there may be lost.
    pub(super) fn moved(&self, broker: &Broker, id: &str, to: NodeId) {
        let Some(handle) = self.remotes.find(id) else {
            return;
        };
        let Some(link) = link_of(&handle) else { return };
        // Where it is at the same broker again, others may listen for it there.
        if link.node().is_none() {
            return;
        }
        link.moved(to, self.nodes.epoch_of(to));
        if broker.registry.requests.owes(&handle) || self.receipts.awaits(handle.key) {
            let until = Instant::now() + MOVED;
            let mut moved = self.probes.moved.lock();
            moved
                .entry(handle.key)
                .or_insert_with(|| (until, handle.clone()));
        }
    }

    /// Asks those who have moved, once their former brokers had time to answer.
    pub(super) fn ask_moved(&self, broker: &Broker, now: Instant) {
        (self.probes.open.lock().asked).retain(|_, probe| now - probe.at < FORGET);
        let is_over = |_: &u64, (until, _): &mut (Instant, Arc<Handle>)| *until <= now;
        let moved: Vec<_> = self.probes.moved.lock().extract_if(is_over).collect();
        for (_, (_, handle)) in moved {
            self.ask_for_owed(broker, &handle);
            self.ask_for_receipts(&handle, now);
        }
    }

    /// Asks an id for all receipts that it owes.
    fn ask_for_receipts(&self, handle: &Arc<Handle>, now: Instant) {
        if let Some(link) = link_of(handle)
            && let Some(number) = self.receipts.fence(handle.key, now)
        {
            let mut frames = Vec::new();
            framing::append_text(&protocol::settle(&number.to_string()), &mut frames);
            link.expect_report();
            handle.outbox.push_frames(&mut frames);
            handle.flush();
        }
    }

    /// Asks an id for all that it owes.
    pub(super) fn ask_for_owed(&self, broker: &Broker, handle: &Arc<Handle>) {
        let owed = broker.registry.requests.owed(handle);
        if owed.is_empty() {
            return;
        }
        let first = {
            let mut probes = self.probes.open.lock();
            let first = probes.next;
            probes.next += owed.len() as u64;
            let probe = Probe {
                at: Instant::now(),
                handle: Arc::downgrade(handle),
                requests: owed.iter().map(Arc::downgrade).collect(),
            };
            probes.asked.insert(first, probe);
            first
        };
        let mut frames = Vec::new();
        for (number, request) in (first..).zip(&owed) {
            let (ack, number) = (protocol::json_string(request.ack()), number.to_string());
            framing::append_text(&protocol::awaits(&ack, &number), &mut frames);
        }
        handle.outbox.push_frames(&mut frames);
        handle.flush();
    }

    /// Whoever has the id of which a request was awaited with this number knows nothing of it.
    pub(super) fn lost(&self, broker: &Broker, number: u64, outcomes: &mut Notifications) {
        let lost = {
            let probes = self.probes.open.lock();
            let probe = probes.asked.range(..=number).next_back();
            probe.and_then(|(first, probe)| {
                let request = probe.requests.get((number - first) as usize)?;
                Some((probe.handle.upgrade()?, request.upgrade()?))
            })
        };
        if let Some((handle, request)) = lost {
            let requests = &broker.registry.requests;
            requests.fail_responder(&request, &handle, DeliveryError::Gone, outcomes);
        }
    }
}

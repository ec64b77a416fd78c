//! Receiver side of flow control: counts what arrives and what is consumed by each link of other brokers,
//! and returns it as credit, that of many links in one message.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    Cluster,
    bus::{NodeId, Publication, ReplyAddress},
    packet::Credit,
};

/// Credit waits for this long, so that others go with it: where its sender needs it soon, and elsewhere.
const SOON: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_millis(100);
/// Bytes, and packets, of one broker for which credit is returned soon.
const BYTES: usize = 64 << 10;
const PACKETS: usize = 32;
/// Links whose credit fits into one message.
const LINKS: usize = 1000;

/// Credit that has not been returned yet.
#[derive(Debug, Default)]
pub(super) struct CreditLedger {
    nodes: Mutex<HashMap<NodeId, PendingCredit>>,
    /// There is some.
    any: Notify,
    /// It is to be returned soon.
    due: Notify,
}

/// Credit of the links of one broker.
#[derive(Debug, Default)]
struct PendingCredit {
    links: HashMap<u64, Credit, RandomState>,
    bytes: usize,
    packets: usize,
    is_due: bool,
}

/// A packet of frames, as flow control sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) from: ReplyAddress,
    pub(super) packet: u64,
    pub(super) bytes: usize,
    /// Its sender needs credit soon.
    pub(super) is_eager: bool,
}

impl CreditLedger {
    /// A packet has arrived.
    pub(super) fn arrived(&self, packet: Counted) {
        self.count(packet, true, false);
    }

    /// A packet that had arrived was consumed.
    pub(super) fn consumed(&self, packet: Counted) {
        self.count(packet, false, true);
    }

    /// A packet has arrived and was consumed at once.
    pub(super) fn passed(&self, packet: Counted) {
        self.count(packet, true, true);
    }

    /// Forgets what was not returned yet to a link: its packets go to another broker, whose credit must not be
    /// followed by ours.
    pub(super) fn withdraw(&self, from: ReplyAddress) {
        if let Some(pending) = self.nodes.lock().get_mut(&from.node) {
            pending.links.remove(&from.number);
        }
    }

    fn count(&self, packet: Counted, arrives: bool, is_consumed: bool) {
        let Counted {
            from,
            packet,
            bytes,
            is_eager,
        } = packet;
        let (is_first, becomes_due) = {
            let mut nodes = self.nodes.lock();
            let is_first = nodes.is_empty();
            let pending = match nodes.entry(from.node) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(PendingCredit::default()),
            };
            let credit = pending.links.entry(from.number).or_default();
            if arrives {
                credit.packet = credit.packet.max(packet);
                credit.arrived.add(bytes);
            }
            if is_consumed {
                credit.consumed.add(bytes);
            }
            pending.bytes += bytes;
            pending.packets += 1;
            let is_due = is_eager || pending.bytes >= BYTES || pending.packets >= PACKETS;
            let becomes_due = is_due && !pending.is_due;
            pending.is_due |= is_due;
            (is_first, becomes_due)
        };
        if is_first {
            self.any.notify_one();
        }
        if becomes_due {
            self.due.notify_one();
        }
    }
}

/// Returns credit, for ever.
pub(super) async fn return_credit(cluster: Arc<Cluster>) {
    let CreditLedger { nodes, any, due } = &cluster.credits;
    loop {
        any.notified().await;
        if timeout(LATER, due.notified()).await.is_ok() {
            sleep(SOON).await;
        }
        let pending = std::mem::take(&mut *nodes.lock());
        for (node, PendingCredit { links, .. }) in pending {
            let credits: Vec<_> = links.into_iter().collect();
            for credits in credits.chunks(LINKS) {
                let epoch = cluster.epoch();
                let place = ReplyAddress { node, number: 0 };
                let publication = Publication {
                    subject: cluster.subjects.place(place),
                    reply: None,
                    payload: Credit::encode(cluster.node.0, epoch, credits).into(),
                };
                cluster.bus.publish(publication).await;
            }
        }
    }
}

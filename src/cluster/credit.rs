//! Receiver side of flow control: counts the packets that arrive and those that are consumed, and returns
//! credit to the links of other brokers, batched.

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
    message::{Credit, Message},
};

/// Delay before credit is returned, so that credit of other links joins the batch: if a sender needs it soon,
/// and otherwise.
const EAGER_DELAY: Duration = Duration::from_millis(1);
const DELAY: Duration = Duration::from_millis(100);
/// Bytes and packets counted for one broker from which on credit is returned soon.
const BYTES: usize = 64 << 10;
const PACKETS: usize = 32;
/// Number of links whose credit fits into one message.
const LINKS: usize = 1000;

/// Credit that has not been returned yet.
#[derive(Debug, Default)]
pub(super) struct CreditLedger {
    nodes: Mutex<HashMap<NodeId, PendingCredit>>,
    /// Wakes the task when the ledger is no longer empty.
    any: Notify,
    /// Wakes the task when credit must be returned soon.
    due: Notify,
}

/// Credit for the links of one broker.
#[derive(Debug, Default)]
struct PendingCredit {
    links: HashMap<u64, Credit, RandomState>,
    bytes: usize,
    packets: usize,
    is_due: bool,
}

/// A packet of frames, as counted by flow control.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) from: ReplyAddress,
    pub(super) packet: u64,
    pub(super) bytes: usize,
    /// The sender needs credit soon.
    pub(super) is_eager: bool,
}

impl CreditLedger {
    /// Counts a packet that arrived.
    pub(super) fn arrived(&self, packet: Counted) {
        self.count(packet, true, false);
    }

    /// Counts a packet as consumed whose arrival was counted before.
    pub(super) fn consumed(&self, packet: Counted) {
        self.count(packet, false, true);
    }

    /// Counts a packet that arrived and was consumed at once.
    pub(super) fn passed(&self, packet: Counted) {
        self.count(packet, true, true);
    }

    /// Discards credit not yet returned to a link: its packets are handed over to another broker, which returns
    /// all credit for them.
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

/// Returns credit in batches until the cluster ends.
pub(super) async fn return_credit(cluster: Arc<Cluster>) {
    let CreditLedger { nodes, any, due } = &cluster.credits;
    loop {
        any.notified().await;
        if timeout(DELAY, due.notified()).await.is_ok() {
            sleep(EAGER_DELAY).await;
        }
        let pending = std::mem::take(&mut *nodes.lock());
        for (node, PendingCredit { links, .. }) in pending {
            let credits: Vec<_> = links.into_iter().collect();
            for credits in credits.chunks(LINKS) {
                let message = Message::Credit {
                    node: cluster.node,
                    epoch: cluster.epoch(),
                    credits: credits.into(),
                };
                let address = ReplyAddress { node, number: 0 };
                let publication = Publication {
                    subject: cluster.subjects.reply(address),
                    reply: None,
                    payload: message.encode().into(),
                };
                cluster.bus.publish(publication).await;
            }
        }
    }
}

//! Sender side of flow control for one link: counts packets in flight and unconsumed, and the broker that
//! consumes them.

use std::{sync::Arc, time::Instant};

use super::{
    bus::NodeId,
    lanes::{Lane, Lanes},
    lookups::Lookup,
    message::{Amount, Credit},
};

/// The window of a link: bytes and packets sent but not yet consumed.
const WINDOW: usize = 512 << 10;
const PACKETS: usize = 256;
/// The window in packets while the consuming broker is unknown: the id may not exist.
const UNKNOWN_PACKETS: usize = 4;
/// Limit of frame bytes in one packet, unless a single frame is longer. NATS copies larger packets once more.
pub(super) const PACKET: usize = 16 << 10;

/// State of flow control of a link.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) lane: Arc<Lane>,
    /// Sent, and not known to have arrived.
    pub(super) in_flight: Amount,
    /// Sent, and not known to have been consumed.
    pub(super) unconsumed: Amount,
    /// The broker that consumes the packets, or zero while it is unknown; and its epoch.
    pub(super) node: u64,
    pub(super) epoch: u32,
    /// The newest packet known to have arrived at that broker. Credit of another broker for an older packet
    /// does not prove that the id is there now.
    pub(super) newest: u64,
    /// When the first packet was sent.
    pub(super) first: Option<Instant>,
    /// When credit was last received, or a packet was sent while none was in flight.
    pub(super) last_credit: Instant,
    /// The open lookup, while the broker is unknown.
    pub(super) lookup: Option<Lookup>,
}

impl Flow {
    pub(super) fn new(lane: Arc<Lane>, node: Option<NodeId>, lookup: Option<Lookup>) -> Self {
        Self {
            lane,
            in_flight: Amount::default(),
            unconsumed: Amount::default(),
            node: node.map_or(0, |node| node.0),
            epoch: 0,
            newest: 0,
            first: None,
            last_credit: Instant::now(),
            lookup,
        }
    }

    pub(super) fn has_window(&self) -> bool {
        let Amount { bytes, packets } = self.unconsumed;
        match self.node {
            0 => packets < UNKNOWN_PACKETS && bytes < WINDOW,
            _ => packets < PACKETS && bytes < WINDOW && (bytes < PACKET || !self.lane.is_crowded()),
        }
    }

    /// Counts a packet; true if credit is needed soon.
    pub(super) fn count_sent(&mut self, bytes: usize) -> bool {
        if self.in_flight.packets == 0 {
            self.last_credit = Instant::now();
        }
        self.first.get_or_insert(self.last_credit);
        self.in_flight.add(bytes);
        self.unconsumed.add(bytes);
        let amount = Amount { bytes, packets: 1 };
        self.lane.add(amount, amount);
        self.node == 0
            || self.unconsumed.bytes > WINDOW / 4
            || self.unconsumed.packets > PACKETS / 4
            || self.lane.needs_credit()
    }

    /// Applies credit from a broker.
    pub(super) fn credit(&mut self, node: NodeId, epoch: u32, credit: Credit, lanes: &Lanes) {
        let Credit {
            packet,
            arrived,
            consumed,
        } = credit;
        // While an id moves, two brokers may return credit. The one that received the newer packet has the id;
        // for one packet it is the one whose credit comes later, since the packet was handed over to it. Counts
        // of the other one are discarded already.
        if self.node != node.0 {
            if self.node != 0 && packet < self.newest {
                return;
            }
            self.set_node(node, epoch, lanes);
        }
        self.newest = self.newest.max(packet);
        self.last_credit = Instant::now();
        self.arrived(arrived);
        self.consumed(consumed);
    }

    pub(super) fn arrived(&mut self, amount: Amount) {
        // Credit may exceed the amount in flight once that has been discarded.
        self.lane.arrived(self.in_flight.subtract(amount));
    }

    pub(super) fn consumed(&mut self, amount: Amount) {
        self.lane.consumed(self.unconsumed.subtract(amount));
    }

    /// Discards what is in flight and unconsumed: the packets may be lost, and no credit may come for them.
    pub(super) fn discard(&mut self) {
        self.arrived(self.in_flight);
        self.consumed(self.unconsumed);
    }

    /// Redirects the link to the broker that now has the id. `sent`: number of packets sent so far.
    pub(super) fn on_moved(&mut self, to: NodeId, epoch: Option<u32>, sent: u64, lanes: &Lanes) {
        self.discard();
        if let Some(epoch) = epoch {
            self.set_node(to, epoch, lanes);
            // The former broker may still return credit for earlier packets.
            self.newest = sent + 1;
        }
    }

    /// Sets the broker that consumes the packets.
    pub(super) fn set_node(&mut self, node: NodeId, epoch: u32, lanes: &Lanes) {
        let before = (self.node, self.epoch);
        (self.node, self.epoch) = (node.0, epoch);
        if before.0 == node.0 {
            if before.1 != epoch && before.1 != 0 {
                self.discard();
            }
            return;
        }
        if before.0 != 0 {
            self.discard();
        }
        let under_way = (self.in_flight, self.unconsumed);
        self.discard();
        self.lane = lanes.to(node);
        self.lane.add(under_way.0, under_way.1);
        (self.in_flight, self.unconsumed) = under_way;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMER: NodeId = NodeId(1);
    const NEW: NodeId = NodeId(2);
    const BYTES: usize = 1000;
    const ONE: Amount = Amount {
        bytes: BYTES,
        packets: 1,
    };

    /// A link to the former broker with so many unconsumed packets.
    fn flow(lanes: &Lanes, packets: u64) -> Flow {
        let mut flow = Flow::new(lanes.unknown(), None, None);
        for _ in 0..packets {
            flow.count_sent(BYTES);
        }
        flow.credit(FORMER, 1, arrived(packets), lanes);
        assert_eq!(flow.node, FORMER.0);
        flow
    }

    fn arrived(packet: u64) -> Credit {
        Credit {
            packet,
            arrived: ONE,
            consumed: Amount::default(),
        }
    }

    fn consumed(packet: u64) -> Credit {
        Credit {
            packet,
            arrived: ONE,
            consumed: ONE,
        }
    }

    #[test]
    fn credit_for_a_handed_over_packet_redirects_to_the_new_broker() {
        let lanes = Lanes::default();
        let mut flow = flow(&lanes, PACKETS as u64);
        assert!(!flow.has_window());
        for packet in 1..=PACKETS as u64 {
            flow.credit(NEW, 1, consumed(packet), &lanes);
        }
        assert_eq!(flow.node, NEW.0);
        assert_eq!(flow.unconsumed, Amount::default());
        assert!(flow.has_window());
    }

    #[test]
    fn credit_for_packets_from_before_a_move_does_not_redirect_to_the_former_broker() {
        let lanes = Lanes::default();
        let mut flow = flow(&lanes, 2);
        flow.on_moved(NEW, Some(1), 4, &lanes);
        flow.count_sent(BYTES);
        flow.credit(FORMER, 1, consumed(4), &lanes);
        assert_eq!((flow.node, flow.in_flight), (NEW.0, ONE));
        flow.credit(NEW, 1, consumed(5), &lanes);
        assert_eq!(flow.unconsumed, Amount::default());
        // The id moves back, and the claim has not been received.
        flow.count_sent(BYTES);
        flow.credit(FORMER, 1, consumed(6), &lanes);
        assert_eq!(flow.node, FORMER.0);
    }
}

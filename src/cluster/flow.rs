//! Sender side of flow control of one link: what is under way by it, and who consumes that.

use std::{sync::Arc, time::Instant};

use super::{
    bus::NodeId,
    lanes::{Lane, Lanes},
    lookups::Lookup,
    packet::{Amount, ConsumedReport, Credit},
};

/// Bytes, and packets, that one link may have sent and that were not consumed yet.
const WINDOW: usize = 512 << 10;
const PACKETS: usize = 256;
/// The same while it is not known which broker consumes them: nobody may have the id.
const UNKNOWN_PACKETS: usize = 4;
/// Bytes of frames in one packet, but for a frame that is longer: NATS copies large ones once more.
pub(super) const PACKET: usize = 16 << 10;

/// What is under way by a link.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) lane: Arc<Lane>,
    /// Sent, and not known to have arrived.
    pub(super) in_flight: Amount,
    /// Sent, and not known to have been consumed.
    pub(super) unconsumed: Amount,
    /// The broker that consumes it; zero while that is not known. Its epoch then.
    pub(super) node: u64,
    pub(super) epoch: u32,
    /// The newest packet that is known to have arrived there: by an older one no other broker shows that it has
    /// the id now.
    pub(super) newest: u64,
    /// When the first packet went out.
    pub(super) first: Option<Instant>,
    /// When credit came last, or something went out while nothing was in flight.
    pub(super) heard: Instant,
    /// Its place among those whose broker is not known.
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
            heard: Instant::now(),
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
    pub(super) fn sends(&mut self, bytes: usize) -> bool {
        if self.in_flight.packets == 0 {
            self.heard = Instant::now();
        }
        self.first.get_or_insert(self.heard);
        self.in_flight.add(bytes);
        self.unconsumed.add(bytes);
        let amount = Amount { bytes, packets: 1 };
        self.lane.add(amount, amount);
        self.node == 0
            || self.unconsumed.bytes > WINDOW / 4
            || self.unconsumed.packets > PACKETS / 4
            || self.lane.needs_credit()
    }

    /// A broker returns credit.
    pub(super) fn credit(&mut self, node: NodeId, epoch: u32, credit: Credit, lanes: &Lanes) {
        let Credit {
            packet,
            arrived,
            consumed,
        } = credit;
        // Of two brokers the one that got the newer packet has the id now; of one that both got, the one that
        // says so later, to which it was handed over. What the other one had is forgotten already.
        if self.node != node.0 {
            if self.node != 0 && packet < self.newest {
                return;
            }
            self.set_node(node, epoch, lanes);
        }
        self.newest = self.newest.max(packet);
        self.heard = Instant::now();
        self.arrived(arrived);
        self.consumed(consumed);
    }

    /// The same by a broker that returns it for this link alone.
    pub(super) fn taken(&mut self, taken: ConsumedReport, lanes: &Lanes) {
        // Whoever begins to take something says who it is. Others may tell later what they took before.
        if taken.amount.packets == 0 || self.node == 0 {
            self.set_node(NodeId(taken.node), taken.epoch, lanes);
        }
        self.heard = Instant::now();
        self.arrived(taken.amount);
        self.consumed(taken.amount);
    }

    pub(super) fn arrived(&mut self, amount: Amount) {
        // More may be told than is known to be in flight, once that has been forgotten.
        self.lane.arrived(self.in_flight.take(amount));
    }

    pub(super) fn consumed(&mut self, amount: Amount) {
        self.lane.consumed(self.unconsumed.take(amount));
    }

    /// What is under way may be lost, and nobody may return credit for it.
    pub(super) fn forget(&mut self) {
        self.arrived(self.in_flight);
        self.consumed(self.unconsumed);
    }

    /// The id is at this broker from now on. `sent`: packets that have gone out before.
    pub(super) fn moved(&mut self, to: NodeId, epoch: Option<u32>, sent: u64, lanes: &Lanes) {
        self.forget();
        if let Some(epoch) = epoch {
            self.set_node(to, epoch, lanes);
            // The former broker may still return credit for those.
            self.newest = sent + 1;
        }
    }

    /// Notes which broker consumes what goes out.
    pub(super) fn set_node(&mut self, node: NodeId, epoch: u32, lanes: &Lanes) {
        let before = (self.node, self.epoch);
        (self.node, self.epoch) = (node.0, epoch);
        if before.0 == node.0 {
            if before.1 != epoch && before.1 != 0 {
                self.forget();
            }
            return;
        }
        if before.0 != 0 {
            self.forget();
        }
        let under_way = (self.in_flight, self.unconsumed);
        self.forget();
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

    /// A link whose id is at the former broker, with so many packets that were not consumed.
    fn flow(lanes: &Lanes, packets: u64) -> Flow {
        let mut flow = Flow::new(lanes.unknown(), None, None);
        for _ in 0..packets {
            flow.sends(BYTES);
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
    fn a_packet_that_arrived_at_one_broker_and_was_handed_over_to_another_gives_credit_there() {
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
    fn credit_for_packets_from_before_a_move_does_not_lead_back_to_the_former_broker() {
        let lanes = Lanes::default();
        let mut flow = flow(&lanes, 2);
        flow.moved(NEW, Some(1), 4, &lanes);
        flow.sends(BYTES);
        flow.credit(FORMER, 1, consumed(4), &lanes);
        assert_eq!((flow.node, flow.in_flight), (NEW.0, ONE));
        flow.credit(NEW, 1, consumed(5), &lanes);
        assert_eq!(flow.unconsumed, Amount::default());
        // It moves back, and nobody has said so.
        flow.sends(BYTES);
        flow.credit(FORMER, 1, consumed(6), &lanes);
        assert_eq!(flow.node, FORMER.0);
    }
}

//! Sender side of flow control toward each broker: bounds the bytes in flight to it, with fair queueing of the
//! sending connections.
//!
//! A lane is shared by all links to one broker. While its window is full, links with something to send wait in
//! it, each in the queue of the connection that wrote to it last. The queues take turns of one packet each
//! (round robin), so that a connection that sends to thousands of ids delays another by at most one packet. A
//! connection stops reading (backpressure) while links wait in its queue.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Waker,
};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::{Link, bus::NodeId, link::LaneTurn, message::Amount};

/// The window of one broker, in bytes in flight: with many brokers, an equal share of `TOTAL_WINDOW`, but at
/// least `MIN_WINDOW`.
const WINDOW: usize = 2 << 20;
const TOTAL_WINDOW: usize = 16 << 20;
const MIN_WINDOW: usize = 256 << 10;
/// The window, in bytes in flight, of all links whose broker is unknown.
const UNKNOWN_WINDOW: usize = 1 << 20;
/// Bytes that a packet counts in addition to its size: NATS takes about as long for a small packet as for so
/// many bytes.
const PACKET_COST: usize = 4 << 10;
/// Unconsumed bytes at one broker (slow receivers) above which each link may have only one more packet there.
const MAX_UNCONSUMED: usize = 8 << 20;

/// All lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    /// The lane of links whose broker is unknown.
    unknown: Arc<Lane>,
    nodes: Mutex<HashMap<NodeId, Arc<Lane>>>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            unknown: Arc::new(Lane::new(UNKNOWN_WINDOW)),
            nodes: Mutex::default(),
        }
    }
}

impl Lanes {
    /// The lane to a broker.
    pub(super) fn to(&self, node: NodeId) -> Arc<Lane> {
        let mut nodes = self.nodes.lock();
        if let Some(lane) = nodes.get(&node) {
            return lane.clone();
        }
        let lane = Arc::new(Lane::new(WINDOW));
        nodes.insert(node, lane.clone());
        let window = (TOTAL_WINDOW / nodes.len()).clamp(MIN_WINDOW, WINDOW);
        for lane in nodes.values() {
            lane.window.store(window, SeqCst);
        }
        lane
    }

    pub(super) fn unknown(&self) -> Arc<Lane> {
        self.unknown.clone()
    }

    /// Lets waiting links of all lanes send, as far as the windows allow.
    pub(super) fn run(&self) {
        let lanes: Vec<_> = self.nodes.lock().values().cloned().collect();
        lanes.iter().for_each(|lane| lane.run());
        self.unknown.run();
    }

    /// Removes a broker that has left. Links to it keep the lane until they end.
    pub(super) fn forget(&self, node: NodeId) {
        self.nodes.lock().remove(&node);
    }
}

/// Flow control shared by all links to one broker.
#[derive(Debug)]
pub(super) struct Lane {
    window: AtomicUsize,
    /// Amount in flight, in units of [`cost`].
    in_flight: AtomicUsize,
    /// Bytes not yet consumed, including those in flight.
    unconsumed: AtomicUsize,
    /// Number of links in the queues.
    waiting: AtomicUsize,
    queues: Mutex<Queues>,
}

/// Waiting links, by the key of the connection that wrote to each last.
#[derive(Debug, Default)]
struct Queues {
    turns: VecDeque<u64>,
    senders: HashMap<u64, LaneQueue, RandomState>,
}

#[derive(Debug, Default)]
struct LaneQueue {
    links: VecDeque<Arc<Link>>,
    /// The connection's waker, while it is paused.
    waker: Option<Waker>,
}

/// The cost of an amount in the window of a lane.
fn cost(amount: Amount) -> usize {
    amount.bytes + amount.packets * PACKET_COST
}

impl Lane {
    fn new(window: usize) -> Self {
        Self {
            window: AtomicUsize::new(window),
            in_flight: AtomicUsize::new(0),
            unconsumed: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queues: Mutex::default(),
        }
    }

    fn has_room(&self) -> bool {
        self.in_flight.load(SeqCst) < self.window.load(SeqCst)
    }

    /// True if a link may send a packet now; otherwise it is queued.
    pub(super) fn enter(&self, link: &Arc<Link>) -> bool {
        if self.waiting.load(SeqCst) == 0 && self.has_room() {
            return true;
        }
        let mut queues = self.queues.lock();
        // Before the check of the window: `arrived` first shrinks the amount in flight, then `run` checks `waiting`.
        self.waiting.fetch_add(1, SeqCst);
        if queues.turns.is_empty() && self.has_room() {
            self.waiting.fetch_sub(1, SeqCst);
            return true;
        }
        queues.push(link);
        false
    }

    /// Moves a waiting link to the queue of the connection that wrote to it last, if that queue is shorter.
    pub(super) fn promote(&self, link: &Arc<Link>) {
        let mut queues = self.queues.lock();
        let Some(former) = link.turn.queued_by() else {
            return;
        };
        let length = |key| (queues.senders.get(&key)).map_or(0, |queue| queue.links.len());
        if length(link.sender()) < length(former) {
            self.waiting.fetch_add(1, SeqCst);
            queues.push(link);
        }
    }

    /// Adds to the amounts in flight and unconsumed.
    pub(super) fn add(&self, in_flight: Amount, unconsumed: Amount) {
        self.in_flight.fetch_add(cost(in_flight), SeqCst);
        self.unconsumed.fetch_add(unconsumed.bytes, SeqCst);
    }

    /// Removes an amount that has arrived or is lost. The caller then calls [`Lane::run`].
    pub(super) fn arrived(&self, amount: Amount) {
        self.in_flight.fetch_sub(cost(amount), SeqCst);
    }

    /// Removes an amount that was consumed or is lost.
    pub(super) fn consumed(&self, amount: Amount) {
        self.unconsumed.fetch_sub(amount.bytes, SeqCst);
    }

    /// True if so many bytes are unconsumed that each link may have only one packet there.
    pub(super) fn is_crowded(&self) -> bool {
        self.unconsumed.load(SeqCst) >= MAX_UNCONSUMED
    }

    /// True if credit is needed soon.
    pub(super) fn needs_credit(&self) -> bool {
        self.in_flight.load(SeqCst) >= self.window.load(SeqCst) / 4
            || self.unconsumed.load(SeqCst) >= MAX_UNCONSUMED / 2
    }

    /// True if links of this connection wait: it must pause until they have sent, and its waker is called then.
    pub(super) fn holds(&self, key: u64, waker: &Waker) -> bool {
        if self.waiting.load(SeqCst) == 0 {
            return false;
        }
        let mut queues = self.queues.lock();
        let queue = queues.senders.get_mut(&key);
        queue.is_some_and(|queue| {
            queue.waker = Some(waker.clone());
            true
        })
    }

    /// Lets waiting links send, as far as the window allows. The caller must not hold a lock.
    pub(super) fn run(&self) {
        while self.waiting.load(SeqCst) > 0
            && let Some(link) = self.next()
        {
            link.unblock();
        }
    }

    /// The link whose turn it is, if the window allows a packet.
    fn next(&self) -> Option<Arc<Link>> {
        let mut woken = Vec::new();
        let next = {
            let mut queues = self.queues.lock();
            match self.has_room() {
                true => queues.pop(&mut woken, &self.waiting),
                false => None,
            }
        };
        woken.into_iter().for_each(Waker::wake);
        next
    }
}

impl Queues {
    fn push(&mut self, link: &Arc<Link>) {
        let sender = link.sender();
        link.turn.set(LaneTurn::Queued(sender));
        let queue = self.senders.entry(sender).or_insert_with(|| {
            self.turns.push_back(sender);
            LaneQueue::default()
        });
        queue.links.push_back(link.clone());
    }

    /// Removes the next link and grants it a packet. `woken`: wakers of connections whose queues became empty.
    fn pop(&mut self, woken: &mut Vec<Waker>, waiting: &AtomicUsize) -> Option<Arc<Link>> {
        while let Some(sender) = self.turns.pop_front() {
            let Some(queue) = self.senders.get_mut(&sender) else {
                continue;
            };
            let link = queue.links.pop_front();
            match queue.links.is_empty() {
                true => woken.extend(self.senders.remove(&sender).and_then(|queue| queue.waker)),
                false => self.turns.push_back(sender),
            }
            let Some(link) = link else { continue };
            waiting.fetch_sub(1, SeqCst);
            // The link may have moved to another queue.
            if link.turn.queued_by() == Some(sender) {
                link.turn.set(LaneTurn::Granted);
                return Some(link);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use tokio::runtime::Handle as Runtime;

    use super::*;
    use crate::{
        cluster::{
            link::{LinkTarget, Parts},
            tests::test_bus::TestConnection,
        },
        memory::Memory,
        transport::uplink::Uplink,
    };

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    const NODE: NodeId = NodeId(1);
    const SOME: Amount = Amount {
        bytes: WINDOW,
        packets: 1,
    };

    /// A link to the node, last written to by the connection with this key.
    fn link(lanes: &Arc<Lanes>, sender: u64) -> Arc<Link> {
        let parts = Parts {
            bus: Arc::new(TestConnection::isolated()),
            runtime: Runtime::current(),
            memory: Arc::new(Memory::new(1 << 20)),
            lanes: lanes.clone(),
            receipts: Arc::default(),
        };
        let target = LinkTarget {
            subject: String::new(),
            reply: String::new(),
            head: Box::default(),
            id: None,
            node: Some(NODE),
        };
        let link = Arc::new(Link::new(parts, target, None));
        link.clone().set_writer(sender);
        link
    }

    #[tokio::test]
    async fn connections_take_turns_and_each_one_pauses_until_its_links_have_sent() {
        let lanes = Arc::<Lanes>::default();
        let lane = lanes.to(NODE);
        let senders = [1, 1, 1, 2, 1, 2];
        let links = senders.map(|sender| link(&lanes, sender));
        assert!(lane.enter(&links[0]), "there is room");
        lane.add(SOME, SOME);
        assert!(links.iter().all(|link| !lane.enter(link)));
        let woken = [1, 2].map(|_| Arc::<Woken>::default());
        for (key, woken) in [1, 2].into_iter().zip(&woken) {
            assert!(lane.holds(key, &woken.clone().into()));
        }
        assert!(!lane.holds(3, &woken[0].clone().into()), "it has no queue");
        assert!(lane.next().is_none(), "it is full");
        lane.arrived(SOME);
        lane.consumed(SOME);
        // New links wait behind the queued ones.
        let late = link(&lanes, 3);
        assert!(!lane.enter(&late));
        let mut order = Vec::new();
        while let Some(next) = lane.next() {
            order.push(next.sender());
            let counts = woken.each_ref().map(|woken| woken.0.load(SeqCst));
            let are_left = [1, 2].map(|key| {
                let gone = order.iter().filter(|sender| **sender == key).count();
                usize::from(gone == senders.iter().filter(|sender| **sender == key).count())
            });
            assert_eq!(counts, are_left, "after {order:?}");
        }
        assert_eq!(order, [1, 2, 3, 1, 2, 1, 1]);
        assert!(lane.enter(&link(&lanes, 1)));
    }

    #[tokio::test]
    async fn a_link_waits_in_the_shortest_queue_of_its_writers() {
        let lanes = Arc::<Lanes>::default();
        let lane = lanes.to(NODE);
        lane.add(SOME, SOME);
        let links = [1, 1, 1].map(|sender| link(&lanes, sender));
        assert!(links.iter().all(|link| !lane.enter(link)));
        links[2].clone().set_writer(2);
        links[1].clone().set_writer(2);
        // Not to the longer queue, where it would be last.
        links[2].clone().set_writer(1);
        assert_eq!(links[2].turn.queued_by(), Some(2));
        lane.arrived(SOME);
        let next = lane.next().expect("one waits");
        assert!(Arc::ptr_eq(&next, &links[0]));
        let next = lane.next().expect("one waits");
        assert!(Arc::ptr_eq(&next, &links[2]));
        let next = lane.next().expect("one waits");
        assert!(Arc::ptr_eq(&next, &links[1]));
        assert!(lane.next().is_none());
        assert_eq!(lane.waiting.load(SeqCst), 0);
        lane.consumed(SOME);
    }

    #[test]
    fn many_brokers_share_the_total_window() {
        let lanes = Lanes::default();
        let window = |lanes: &Lanes| lanes.to(NODE).window.load(SeqCst);
        assert_eq!(window(&lanes), WINDOW);
        for node in 0..100 {
            lanes.to(NodeId(node));
        }
        assert_eq!(window(&lanes), MIN_WINDOW);
    }
}

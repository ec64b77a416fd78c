//! Sender side of flow control toward each broker: bounds the bytes on their way there, and lets the links
//! of those who send take turns.
//!
//! A lane is what all links to one broker share. While it is full, links with something to send wait in it,
//! each in the queue of the connection that wrote to it last. The queues take turns, a packet each, so that
//! a connection that sends to thousands of ids delays nobody else by more than one packet. A connection
//! is held (its reading pauses) while links wait in its queue.

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

use super::{Link, bus::NodeId, link::LaneTurn, packet::Amount};

/// Bytes on their way to one broker; where there are many brokers, their part of `ALL`.
const WINDOW: usize = 2 << 20;
const ALL: usize = 16 << 20;
const LEAST: usize = 256 << 10;
/// Bytes on their way to brokers that are not known yet.
const UNKNOWN: usize = 1 << 20;
/// What a packet counts for beside its bytes: NATS needs about as long for a small one as for so many bytes.
const PACKET: usize = 4 << 10;
/// Bytes that may wait at one broker for receivers that are slow. Beyond it each link may have one packet
/// there.
const UNCONSUMED: usize = 8 << 20;

/// All of them.
#[derive(Debug)]
pub(super) struct Lanes {
    /// That of links whose broker is not known yet.
    unknown: Arc<Lane>,
    nodes: Mutex<HashMap<NodeId, Arc<Lane>>>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            unknown: Arc::new(Lane::new(UNKNOWN)),
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
        let window = (ALL / nodes.len()).clamp(LEAST, WINDOW);
        for lane in nodes.values() {
            lane.window.store(window, SeqCst);
        }
        lane
    }

    pub(super) fn unknown(&self) -> Arc<Lane> {
        self.unknown.clone()
    }

    /// Lets all that wait go on, as far as there is room.
    pub(super) fn run(&self) {
        let lanes: Vec<_> = self.nodes.lock().values().cloned().collect();
        lanes.iter().for_each(|lane| lane.run());
        self.unknown.run();
    }

    /// A broker has gone. Links that still lead there keep its lane until they end.
    pub(super) fn forget(&self, node: NodeId) {
        self.nodes.lock().remove(&node);
    }
}

/// What all links to one broker share.
#[derive(Debug)]
pub(super) struct Lane {
    window: AtomicUsize,
    /// What is on its way, as [`cost`] counts it.
    in_flight: AtomicUsize,
    /// Bytes that were not consumed yet, those on their way among them.
    unconsumed: AtomicUsize,
    /// Links in the queues.
    waiting: AtomicUsize,
    queues: Mutex<Queues>,
}

/// Links that wait, by the key of the connection that wrote to them last.
#[derive(Debug, Default)]
struct Queues {
    turns: VecDeque<u64>,
    senders: HashMap<u64, LaneQueue, RandomState>,
}

#[derive(Debug, Default)]
struct LaneQueue {
    links: VecDeque<Arc<Link>>,
    /// The connection itself, if it is held.
    held: Option<Waker>,
}

/// What a lane counts for such an amount.
fn cost(amount: Amount) -> usize {
    amount.bytes + amount.packets * PACKET
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

    /// True if a link may send a packet now; if not, it waits for its turn.
    pub(super) fn enter(&self, link: &Arc<Link>) -> bool {
        if self.waiting.load(SeqCst) == 0 && self.has_room() {
            return true;
        }
        let mut queues = self.queues.lock();
        // Before the look at what is on its way: whoever takes some away looks at this behind it.
        self.waiting.fetch_add(1, SeqCst);
        if queues.turns.is_empty() && self.has_room() {
            self.waiting.fetch_sub(1, SeqCst);
            return true;
        }
        queues.push(link);
        false
    }

    /// A link that waits was written to by another connection: it waits in the shorter queue of the two.
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

    /// So much is on its way by it, and so much was not consumed.
    pub(super) fn add(&self, in_flight: Amount, unconsumed: Amount) {
        self.in_flight.fetch_add(cost(in_flight), SeqCst);
        self.unconsumed.fetch_add(unconsumed.bytes, SeqCst);
    }

    /// So much has arrived, or is lost. Its room is for others: [`Lane::run`] follows.
    pub(super) fn arrived(&self, amount: Amount) {
        self.in_flight.fetch_sub(cost(amount), SeqCst);
    }

    /// So much was consumed, or is lost.
    pub(super) fn consumed(&self, amount: Amount) {
        self.unconsumed.fetch_sub(amount.bytes, SeqCst);
    }

    /// True if much waits there for receivers that are slow.
    pub(super) fn is_crowded(&self) -> bool {
        self.unconsumed.load(SeqCst) >= UNCONSUMED
    }

    /// True if credit is needed soon.
    pub(super) fn needs_credit(&self) -> bool {
        self.in_flight.load(SeqCst) >= self.window.load(SeqCst) / 4
            || self.unconsumed.load(SeqCst) >= UNCONSUMED / 2
    }

    /// True if links of this connection wait: it is held until they have gone out.
    pub(super) fn holds(&self, key: u64, waker: &Waker) -> bool {
        if self.waiting.load(SeqCst) == 0 {
            return false;
        }
        let mut queues = self.queues.lock();
        let queue = queues.senders.get_mut(&key);
        queue.is_some_and(|queue| {
            queue.held = Some(waker.clone());
            true
        })
    }

    /// Lets those that wait go on, as far as there is room. No lock may be held.
    pub(super) fn run(&self) {
        while self.waiting.load(SeqCst) > 0
            && let Some(link) = self.next()
        {
            link.go_on();
        }
    }

    /// The link whose turn it is.
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

    /// Takes the next link out, and grants it a packet. `woken`: connections of which no link waits any more.
    fn pop(&mut self, woken: &mut Vec<Waker>, waiting: &AtomicUsize) -> Option<Arc<Link>> {
        while let Some(sender) = self.turns.pop_front() {
            let Some(queue) = self.senders.get_mut(&sender) else {
                continue;
            };
            let link = queue.links.pop_front();
            match queue.links.is_empty() {
                true => woken.extend(self.senders.remove(&sender).and_then(|queue| queue.held)),
                false => self.turns.push_back(sender),
            }
            let Some(link) = link else { continue };
            waiting.fetch_sub(1, SeqCst);
            // It may wait in another queue since.
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
            bus::{Bus, Inlet, Publication, Task},
            link::{LinkTarget, Parts},
        },
        error::{Error, Result},
        memory::Memory,
        transport::uplink::Uplink,
    };

    #[derive(Debug)]
    struct Nowhere;

    impl Bus for Nowhere {
        fn try_publish(&self, _: Publication) -> std::result::Result<(), Publication> {
            Ok(())
        }

        fn publish(&self, _: Publication) -> Task<()> {
            Box::pin(async {})
        }

        fn subscribe(&self, _: String, _: bool) -> Task<Result<Box<dyn Inlet>>> {
            Box::pin(async { Err(Error::NotOpen) })
        }

        fn max_payload(&self) -> usize {
            1 << 20
        }

        fn is_connected(&self) -> bool {
            true
        }

        fn connections(&self) -> u64 {
            1
        }

        fn flush(&self) -> Task<()> {
            Box::pin(async {})
        }

        fn close(&self) {}
    }

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

    /// A link to the node to which the connection with this key has written.
    fn link(lanes: &Arc<Lanes>, sender: u64) -> Arc<Link> {
        let parts = Parts {
            bus: Arc::new(Nowhere),
            runtime: Runtime::current(),
            memory: Arc::new(Memory::new(1 << 20)),
            lanes: lanes.clone(),
            receipts: Arc::default(),
        };
        let target = LinkTarget {
            subject: String::new(),
            reply: String::new(),
            head: Vec::new(),
            id: None,
            node: Some(NODE),
        };
        let link = Arc::new(Link::new(parts, target, None));
        link.clone().set_writer(sender);
        link
    }

    #[tokio::test]
    async fn links_of_different_connections_take_turns_and_each_connection_is_held_until_its_own_have_gone()
     {
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
        assert!(
            !lane.holds(3, &woken[0].clone().into()),
            "it has sent nothing"
        );
        assert!(lane.next().is_none(), "it is full");
        lane.arrived(SOME);
        lane.consumed(SOME);
        // Nobody overtakes those that wait.
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
    async fn a_link_waits_in_the_shortest_queue_of_those_who_wrote_to_it() {
        let lanes = Arc::<Lanes>::default();
        let lane = lanes.to(NODE);
        lane.add(SOME, SOME);
        let links = [1, 1, 1].map(|sender| link(&lanes, sender));
        assert!(links.iter().all(|link| !lane.enter(link)));
        links[2].clone().set_writer(2);
        links[1].clone().set_writer(2);
        // Not back again, behind all others.
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
    fn many_brokers_share_what_is_on_its_way() {
        let lanes = Lanes::default();
        let window = |lanes: &Lanes| lanes.to(NODE).window.load(SeqCst);
        assert_eq!(window(&lanes), WINDOW);
        for node in 0..100 {
            lanes.to(NodeId(node));
        }
        assert_eq!(window(&lanes), LEAST);
    }
}

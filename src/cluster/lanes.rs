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

use super::{Link, bus::NodeId, link::Turn, packet::Amount};

/// Bytes on their way to one broker; where there are many brokers, their part of `ALL`.
const WINDOW: usize = 4 << 20;
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
    senders: HashMap<u64, Queue, RandomState>,
}

#[derive(Debug, Default)]
struct Queue {
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
        link.turn.set(Turn::Queued(sender));
        let queue = self.senders.entry(sender).or_insert_with(|| {
            self.turns.push_back(sender);
            Queue::default()
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
                link.turn.set(Turn::Granted);
                return Some(link);
            }
        }
        None
    }
}

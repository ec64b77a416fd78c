//! The link to another broker: what an outbox writes to, in place of a socket.
//!
//! The receiving broker returns credit for what arrived and for what was consumed. What is not consumed yet
//! has a bound for each link, what has not arrived a bound for each broker ([`Lane`]); at either the
//! outbox fills, and those who send are held, as they are by a slow reader.

use std::{
    io::{self, IoSlice},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
    },
    task::Waker,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle as Runtime;

use super::{
    bus::{Bus, NodeId, Publication},
    lanes::{Lane, Lanes},
    lookups::Lookup,
    packet::{self, Amount, Credit, Frames, Taken},
    receipts::Receipts,
};
use crate::{
    handle::Handle,
    memory::{self, Charge, Memory},
    protocol,
};

/// Bytes, and packets, that one link may have sent and that were not consumed yet.
const WINDOW: usize = 512 << 10;
const PACKETS: usize = 256;
/// The same while it is not known which broker consumes them: nobody may have the id.
const UNKNOWN_PACKETS: usize = 4;
/// Bytes of frames in one packet, but for a frame that is longer: NATS copies large ones once more.
const PACKET: usize = 16 << 10;

/// What a link is made of.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) runtime: Runtime,
    pub(super) memory: Arc<Memory>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) receipts: Arc<Receipts>,
}

/// Where a link leads.
#[derive(Debug)]
pub(super) struct Target {
    /// The subject of what is written, and that of what is said of it.
    pub(super) subject: String,
    pub(super) reply: String,
    /// The bytes with which each packet begins.
    pub(super) head: Vec<u8>,
    /// The id, unless it leads to a node.
    pub(super) id: Option<Arc<str>>,
    /// The broker, where it is known.
    pub(super) node: Option<NodeId>,
}

/// A way to another broker.
#[derive(Debug)]
pub(crate) struct Link {
    parts: Parts,
    target: Target,
    /// Questions for what became of a message that have not gone out.
    questions: AtomicUsize,
    /// A packet waits for room on the way to the bus.
    waits: AtomicBool,
    closed: AtomicBool,
    /// The first packet was one without frames.
    is_lookup: AtomicBool,
    /// How many packets have gone out.
    sent: AtomicU64,
    /// The connection that wrote to it last, by its key.
    sender: AtomicU64,
    /// Whether it waits in its lane.
    pub(super) turn: TurnCell,
    flow: Mutex<Flow>,
    /// The handle whose outbox writes here.
    owner: OnceLock<Weak<Handle>>,
}

/// What is under way by a link.
#[derive(Debug)]
struct Flow {
    lane: Arc<Lane>,
    /// Sent, and not known to have arrived.
    in_flight: Amount,
    /// Sent, and not known to have been consumed.
    unconsumed: Amount,
    /// The broker that consumes it; zero while that is not known. Its epoch then.
    node: u64,
    epoch: u32,
    /// The newest packet that is known to have arrived there.
    newest: u64,
    /// When the first packet went out.
    first: Option<Instant>,
    /// When credit came last, or something went out while nothing was in flight.
    heard: Instant,
    /// Its place among those whose broker is not known.
    lookup: Option<Lookup>,
}

/// Whether a link waits in its lane for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// In the queue of the connection with this key.
    Queued(u64),
    /// It may send a packet, whatever else is on its way.
    Granted,
}

/// A [`Turn`], or none. It is set under the lock of the lane.
#[derive(Debug, Default)]
pub(super) struct TurnCell(AtomicU64);

impl TurnCell {
    const GRANTED: u64 = 1;
    const FIRST: u64 = 2;

    pub(super) fn set(&self, turn: Turn) {
        let value = match turn {
            Turn::Granted => Self::GRANTED,
            Turn::Queued(key) => key + Self::FIRST,
        };
        self.0.store(value, SeqCst);
    }

    /// The key of the queue in which it waits.
    pub(super) fn queued_by(&self) -> Option<u64> {
        self.0.load(SeqCst).checked_sub(Self::FIRST)
    }

    /// True if a packet was granted: once.
    fn use_grant(&self) -> bool {
        let used = self.0.compare_exchange(Self::GRANTED, 0, SeqCst, SeqCst);
        used.is_ok()
    }
}

impl Link {
    pub(super) fn new(parts: Parts, target: Target, lookup: Option<Lookup>) -> Self {
        let lane = match target.node {
            Some(node) => parts.lanes.to(node),
            None => parts.lanes.unknown(),
        };
        Self {
            flow: Mutex::new(Flow {
                lane,
                in_flight: Amount::default(),
                unconsumed: Amount::default(),
                node: target.node.map_or(0, |node| node.0),
                epoch: 0,
                newest: 0,
                first: None,
                heard: Instant::now(),
                lookup,
            }),
            parts,
            target,
            questions: AtomicUsize::new(0),
            waits: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            is_lookup: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            sender: AtomicU64::new(0),
            turn: TurnCell::default(),
            owner: OnceLock::new(),
        }
    }

    /// Names the handle whose outbox writes here.
    pub(super) fn belongs_to(&self, owner: &Arc<Handle>) {
        let _ = self.owner.set(Arc::downgrade(owner));
    }

    /// The connection that wrote to it last.
    pub(super) fn sender(&self) -> u64 {
        self.sender.load(Relaxed)
    }

    /// The connection with this key is about to write to it.
    pub(crate) fn written_by(self: &Arc<Self>, key: u64) {
        if self.sender.swap(key, Relaxed) != key && self.turn.queued_by().is_some() {
            let lane = self.flow.lock().lane.clone();
            lane.promote(self);
        }
    }

    /// True if links of the connection with this key wait for the broker to which this one leads: it is
    /// woken once they do not.
    pub(crate) fn holds(&self, key: u64, waker: &Waker) -> bool {
        let lane = self.flow.lock().lane.clone();
        lane.holds(key, waker)
    }

    /// True if it may take something now.
    pub(crate) fn has_room(&self) -> bool {
        self.closed.load(SeqCst)
            || !self.waits.load(SeqCst)
                && self.turn.queued_by().is_none()
                && self.flow.lock().has_window()
    }

    /// Takes whole frames; `WouldBlock` if it has no room. Only one writes at a time.
    #[inline(never)]
    pub(crate) fn try_write(self: &Arc<Self>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.closed.load(SeqCst) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if !self.has_room() || !self.enters() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let head = &self.target.head;
        let limit = self.parts.bus.max_payload().saturating_sub(head.len());
        let waiting: usize = slices.iter().map(|slice| slice.len()).sum();
        let first = slices.first().map_or(0, |slice| slice.len());
        let room = waiting.min(PACKET.max(first)).min(limit);
        let mut payload = Vec::with_capacity(head.len() + room);
        payload.extend_from_slice(head);
        let mut length = 0;
        // All that lies in one place are whole frames, unless a part of it went before.
        for slice in slices {
            let fits = slice.len().min(limit.saturating_sub(length));
            if length > 0 && length + slice.len() > PACKET.min(limit) {
                break;
            }
            let taken = match slice.len() > fits {
                true => packet::whole_frames(slice, fits),
                false => slice.len(),
            };
            payload.extend_from_slice(&slice[..taken]);
            length += taken;
            if taken < slice.len() {
                break;
            }
        }
        if length == 0 {
            // A frame that was let through while more was allowed.
            return Err(io::ErrorKind::InvalidData.into());
        }
        match self.publish(payload) {
            true => Ok(length),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Publishes a packet without frames, unless one has gone out before: whoever has the id returns credit
    /// for it.
    pub(crate) fn look_up(self: &Arc<Self>) {
        if self.sent() == 0 {
            self.is_lookup.store(true, SeqCst);
            self.publish(self.target.head.clone());
        }
    }

    /// True if nothing but a packet without frames has gone out.
    pub(super) fn is_lookup(&self) -> bool {
        self.is_lookup.load(SeqCst) && self.sent() == 1
    }

    /// True if it is not known yet whether any broker has the id.
    pub(crate) fn is_unresolved(&self) -> bool {
        !self.closed.load(SeqCst) && self.flow.lock().node == 0
    }

    /// True if the lane lets a packet out now.
    fn enters(self: &Arc<Self>) -> bool {
        if self.turn.use_grant() {
            return true;
        }
        let lane = self.flow.lock().lane.clone();
        lane.enter(self)
    }

    /// Publishes a packet; false if the link has been closed.
    fn publish(self: &Arc<Self>, mut payload: Vec<u8>) -> bool {
        let length = payload.len() - self.target.head.len();
        let number = self.sent.fetch_add(1, SeqCst) + 1;
        if self.questions.load(SeqCst) > 0 {
            self.note_questions(&payload[self.target.head.len()..], number);
        }
        {
            let mut flow = self.flow.lock();
            // Given up meanwhile: what was noted just now has been told as not sent.
            if self.closed.load(SeqCst) {
                self.sent.fetch_sub(1, SeqCst);
                return false;
            }
            if flow.sends(length) {
                packet::make_eager(&mut payload);
            }
        }
        let charge = Charge::new(&self.parts.memory, payload.len());
        let publication = Publication {
            subject: self.target.subject.clone(),
            reply: Some(format!("{}.{number:x}", self.target.reply)),
            payload: Bytes::from_owner(memory::Shared {
                bytes: payload,
                _charge: charge,
            }),
        };
        if let Err(publication) = self.parts.bus.try_publish(publication) {
            self.waits.store(true, SeqCst);
            let link = self.clone();
            self.parts.runtime.spawn(async move {
                link.parts.bus.publish(publication).await;
                link.waits.store(false, SeqCst);
                link.go_on();
            });
        }
        true
    }

    /// True while a packet waits for room on the way to the bus: nothing may overtake it.
    pub(super) fn is_waiting(&self) -> bool {
        self.waits.load(SeqCst)
    }

    /// Something that is about to be written asks what becomes of it.
    pub(crate) fn asks(&self) {
        self.questions.fetch_add(1, SeqCst);
    }

    /// Notes which packet carries what receipts wait for.
    #[cold]
    fn note_questions(&self, frames: &[u8], packet: u64) {
        let Some(id) = &self.target.id else { return };
        for (text, _) in Frames(frames) {
            if let Some(number) = protocol::settle_number(text) {
                self.questions.fetch_sub(1, SeqCst);
                self.parts.receipts.sent(number, id, packet);
            }
        }
    }

    /// A broker returns credit.
    pub(super) fn credit(&self, node: NodeId, epoch: u32, credit: Credit) {
        let lanes = &self.parts.lanes;
        self.change(|flow| {
            // Of two brokers the one that got the newer packet has the id now. What the other one had is
            // forgotten already.
            if flow.node != node.0 {
                if flow.node != 0 && credit.packet <= flow.newest {
                    return;
                }
                flow.set_node(node, epoch, lanes);
            }
            flow.newest = flow.newest.max(credit.packet);
            flow.heard = Instant::now();
            let Credit {
                arrived, consumed, ..
            } = credit;
            flow.arrived(arrived);
            flow.consumed(consumed);
        });
    }

    /// The same by a broker that returns it for this link alone.
    pub(super) fn taken(&self, taken: Taken) {
        let lanes = &self.parts.lanes;
        self.change(|flow| {
            // Whoever begins to take something says who it is. Others may tell later what they took before.
            if taken.amount.packets == 0 || flow.node == 0 {
                flow.set_node(NodeId(taken.node), taken.epoch, lanes);
            }
            flow.heard = Instant::now();
            flow.arrived(taken.amount);
            flow.consumed(taken.amount);
        });
    }

    /// Changes what is under way, and goes on: this link, and others of its lanes.
    fn change(&self, change: impl FnOnce(&mut Flow)) {
        let (before, after, lookup) = {
            let mut flow = self.flow.lock();
            let before = flow.lane.clone();
            change(&mut flow);
            let is_over = flow.node != 0 || self.closed.load(SeqCst);
            let lookup = is_over.then(|| flow.lookup.take());
            (before, flow.lane.clone(), lookup)
        };
        drop(lookup);
        self.go_on();
        before.run();
        if !Arc::ptr_eq(&before, &after) {
            after.run();
        }
    }

    /// The id is at this broker from now on.
    pub(super) fn moved(&self, to: NodeId, epoch: Option<u32>) {
        let lanes = &self.parts.lanes;
        self.change(|flow| {
            flow.forget();
            if let Some(epoch) = epoch {
                flow.set_node(to, epoch, lanes);
            }
        });
    }

    /// What is in flight is lost if nothing was heard of it for so long: as much may go out once more.
    pub(super) fn find_lost(&self, now: Instant, limit: Duration) {
        let is_lost = {
            let flow = self.flow.lock();
            flow.in_flight.packets > 0 && now.saturating_duration_since(flow.heard) > limit
        };
        if is_lost {
            self.change(|flow| {
                let lost = flow.in_flight;
                flow.arrived(lost);
                flow.consumed(lost);
                flow.heard = now;
            });
        }
    }

    /// True if something is under way that was not consumed, unless nothing was heard of it for so long.
    pub(super) fn is_used(&self, now: Instant, limit: Duration) -> bool {
        let flow = self.flow.lock();
        self.is_waiting()
            || flow.unconsumed.packets > 0 && now.saturating_duration_since(flow.heard) < limit
    }

    /// How many packets have gone out; once it is closed, no more do.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    /// The outbox may write again.
    pub(super) fn go_on(&self) {
        if let Some(owner) = self.owner.get().and_then(Weak::upgrade) {
            owner.unblock();
        }
    }

    /// Takes nothing more, and makes room in its lane.
    pub(crate) fn close(&self) {
        if !self.closed.swap(true, SeqCst) {
            self.change(Flow::forget);
        }
    }

    /// The broker that consumes what goes out, where that is known.
    pub(super) fn node(&self) -> Option<NodeId> {
        let node = self.flow.lock().node;
        (node != 0).then_some(NodeId(node))
    }

    /// The epoch of that broker.
    pub(super) fn epoch(&self) -> u32 {
        self.flow.lock().epoch
    }

    /// True if nobody has returned credit for this long.
    pub(super) fn is_unheard(&self, limit: Duration) -> bool {
        let flow = self.flow.lock();
        flow.node == 0 && flow.first.is_some_and(|first| first.elapsed() > limit)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.flow.get_mut().forget();
    }
}

impl Flow {
    fn has_window(&self) -> bool {
        let Amount { bytes, packets } = self.unconsumed;
        match self.node {
            0 => packets < UNKNOWN_PACKETS && bytes < WINDOW,
            _ => packets < PACKETS && bytes < WINDOW && (bytes < PACKET || !self.lane.is_crowded()),
        }
    }

    /// Counts a packet; true if credit is needed soon.
    fn sends(&mut self, bytes: usize) -> bool {
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

    fn arrived(&mut self, amount: Amount) {
        // More may be told than is known to be in flight, once that has been forgotten.
        self.lane.arrived(self.in_flight.take(amount));
    }

    fn consumed(&mut self, amount: Amount) {
        self.lane.consumed(self.unconsumed.take(amount));
    }

    /// What is under way may be lost, and nobody return credit for it.
    fn forget(&mut self) {
        self.arrived(self.in_flight);
        self.consumed(self.unconsumed);
    }

    /// Notes which broker consumes what goes out.
    fn set_node(&mut self, node: NodeId, epoch: u32, lanes: &Lanes) {
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

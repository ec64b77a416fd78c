//! The link to another broker: what an outbox writes to, in place of a socket.
//!
//! The receiving broker returns credit for what arrived and for what was consumed. What is not consumed yet
//! has a bound for each link, what has not arrived a bound for each broker (`lanes`); at either the
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
    flow::{Flow, PACKET},
    lanes::Lanes,
    lookups::Lookup,
    packet::{self, ConsumedReport, Credit, Frames},
};
use crate::{
    broker::{handle::Handle, receipts::Receipts},
    memory::{self, Charge, Memory},
    protocol,
    transport::uplink::Uplink,
};

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
pub(super) struct LinkTarget {
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
    target: LinkTarget,
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
    pub(super) turn: LaneTurnCell,
    flow: Mutex<Flow>,
    /// The handle whose outbox writes here.
    owner: OnceLock<Weak<Handle>>,
}

/// Whether a link waits in its lane for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneTurn {
    /// In the queue of the connection with this key.
    Queued(u64),
    /// It may send a packet, whatever else is on its way.
    Granted,
}

/// A [`LaneTurn`], or none. It is set under the lock of the lane.
#[derive(Debug, Default)]
pub(super) struct LaneTurnCell(AtomicU64);

impl LaneTurnCell {
    const GRANTED: u64 = 1;
    const FIRST: u64 = 2;

    pub(super) fn set(&self, turn: LaneTurn) {
        let value = match turn {
            LaneTurn::Granted => Self::GRANTED,
            LaneTurn::Queued(key) => key + Self::FIRST,
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

impl Uplink for Link {
    /// The connection with this key is about to write to it.
    fn set_writer(self: Arc<Self>, key: u64) {
        if self.sender.swap(key, Relaxed) != key && self.turn.queued_by().is_some() {
            let lane = self.flow.lock().lane.clone();
            lane.promote(&self);
        }
    }

    /// True if links of the connection with this key wait for the broker to which this one leads: it is
    /// woken once they do not.
    fn holds(&self, key: u64, waker: &Waker) -> bool {
        let lane = self.flow.lock().lane.clone();
        lane.holds(key, waker)
    }

    /// True if it may take something now.
    fn has_room(&self) -> bool {
        self.closed.load(SeqCst)
            || !self.waits.load(SeqCst)
                && self.turn.queued_by().is_none()
                && self.flow.lock().has_window()
    }

    /// Takes whole frames; `WouldBlock` if it has no room. Only one writes at a time.
    #[inline(never)]
    fn try_write(self: Arc<Self>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
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
    fn look_up(self: Arc<Self>) {
        if self.sent() == 0 {
            self.is_lookup.store(true, SeqCst);
            self.publish(self.target.head.clone());
        }
    }

    /// True if it is not known yet whether any broker has the id.
    fn is_unresolved(&self) -> bool {
        !self.closed.load(SeqCst) && self.flow.lock().node == 0
    }

    /// Something that is about to be written asks what becomes of it.
    fn expect_report(&self) {
        self.questions.fetch_add(1, SeqCst);
    }

    /// Takes nothing more, and makes room in its lane.
    fn close(&self) {
        if !self.closed.swap(true, SeqCst) {
            self.change(Flow::forget);
        }
    }
}

impl Link {
    pub(super) fn new(parts: Parts, target: LinkTarget, lookup: Option<Lookup>) -> Self {
        let lane = match target.node {
            Some(node) => parts.lanes.to(node),
            None => parts.lanes.unknown(),
        };
        Self {
            flow: Mutex::new(Flow::new(lane, target.node, lookup)),
            parts,
            target,
            questions: AtomicUsize::new(0),
            waits: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            is_lookup: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            sender: AtomicU64::new(0),
            turn: LaneTurnCell::default(),
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

    /// True if nothing but a packet without frames has gone out.
    pub(super) fn is_lookup(&self) -> bool {
        self.is_lookup.load(SeqCst) && self.sent() == 1
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
            payload: Bytes::from_owner(memory::ChargedBytes {
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
        self.change(|flow| flow.credit(node, epoch, credit, lanes));
    }

    /// The same by a broker that returns it for this link alone.
    pub(super) fn taken(&self, taken: ConsumedReport) {
        let lanes = &self.parts.lanes;
        self.change(|flow| flow.taken(taken, lanes));
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
        self.change(|flow| flow.moved(to, epoch, self.sent(), lanes));
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

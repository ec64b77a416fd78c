//! The link to a remote id or node: an outbox writes to it in place of a socket, and it publishes packets.
//!
//! The receiving broker returns credit for packets that arrive and that are consumed. Unconsumed packets are
//! bounded for each link, packets in flight for each broker (`lanes`). At either limit the outbox fills, and
//! senders get backpressure as with a slow local receiver.

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
    message::{self, Credit},
};
use crate::{
    broker::{handle::Handle, receipts::Receipts},
    memory::{self, Charge, Memory},
    protocol::{self, Frames},
    transport::uplink::Uplink,
};

/// The shared services that a link uses.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) runtime: Runtime,
    pub(super) memory: Arc<Memory>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) receipts: Arc<Receipts>,
}

/// The target of a link.
#[derive(Debug)]
pub(super) struct LinkTarget {
    /// The subject that packets are published to, and the reply subject for credit and reports.
    pub(super) subject: String,
    pub(super) reply: String,
    /// The head of each packet.
    pub(super) head: Box<[u8]>,
    /// The id; none if the link leads to a node.
    pub(super) id: Option<Arc<str>>,
    /// The broker, if known.
    pub(super) node: Option<NodeId>,
}

/// A link to a remote id or node.
#[derive(Debug)]
pub(crate) struct Link {
    parts: Parts,
    target: LinkTarget,
    /// Number of report requests in the outbox that have not been sent yet.
    pending_reports: AtomicUsize,
    /// A packet waits for room on the bus.
    is_publish_pending: AtomicBool,
    closed: AtomicBool,
    /// The first packet was a lookup, without frames.
    is_lookup: AtomicBool,
    /// Number of packets sent.
    sent: AtomicU64,
    /// The key of the connection that wrote last.
    sender: AtomicU64,
    /// The turn of the link in its lane.
    pub(super) turn: LaneTurnCell,
    flow: Mutex<Flow>,
    /// The handle whose outbox writes here.
    owner: OnceLock<Weak<Handle>>,
}

/// The turn of a link in its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneTurn {
    /// Waits in the queue of the connection with this key.
    Queued(u64),
    /// May send one packet, whatever is in flight.
    Granted,
}

/// An atomic [`LaneTurn`], or none. It is written under the lock of the lane.
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

    /// The key of the connection in whose queue the link waits.
    pub(super) fn queued_by(&self) -> Option<u64> {
        self.0.load(SeqCst).checked_sub(Self::FIRST)
    }

    /// Consumes a grant; true if there was one.
    fn use_grant(&self) -> bool {
        let used = self.0.compare_exchange(Self::GRANTED, 0, SeqCst, SeqCst);
        used.is_ok()
    }
}

impl Uplink for Link {
    /// Notes that the connection with this key is about to write.
    fn set_writer(self: Arc<Self>, key: u64) {
        if self.sender.swap(key, Relaxed) != key && self.turn.queued_by().is_some() {
            let lane = self.flow.lock().lane.clone();
            lane.promote(&self);
        }
    }

    /// True if links of the connection with this key wait in this link's lane: its waker is called once none
    /// does.
    fn holds(&self, key: u64, waker: &Waker) -> bool {
        let lane = self.flow.lock().lane.clone();
        lane.holds(key, waker)
    }

    /// True if the link may take frames now.
    fn has_room(&self) -> bool {
        self.closed.load(SeqCst)
            || !self.is_publish_pending.load(SeqCst)
                && self.turn.queued_by().is_none()
                && self.flow.lock().has_window()
    }

    /// Takes whole frames; `WouldBlock` if it has no room. Only one thread writes at a time.
    #[inline(never)]
    fn try_write(self: Arc<Self>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.closed.load(SeqCst) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if !self.has_room() || !self.enter_lane() {
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
        // Each slice consists of whole frames: one that was sent in part was cut between frames.
        for slice in slices {
            let fits = slice.len().min(limit.saturating_sub(length));
            if length > 0 && length + slice.len() > PACKET.min(limit) {
                break;
            }
            let taken = match slice.len() > fits {
                true => protocol::whole_frames(slice, fits),
                false => slice.len(),
            };
            payload.extend_from_slice(&slice[..taken]);
            length += taken;
            if taken < slice.len() {
                break;
            }
        }
        if length == 0 {
            // A frame above the size limit, admitted while the limit was higher.
            return Err(io::ErrorKind::InvalidData.into());
        }
        match self.publish(payload) {
            true => Ok(length),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Publishes a packet without frames if none has been sent yet: the owner's broker returns credit for it.
    fn look_up(self: Arc<Self>) {
        if self.sent() == 0 {
            self.is_lookup.store(true, SeqCst);
            self.publish(self.target.head.to_vec());
        }
    }

    /// True while it is unknown which broker has the id.
    fn is_unresolved(&self) -> bool {
        !self.closed.load(SeqCst) && self.flow.lock().node == 0
    }

    /// Counts a report request that is about to be written.
    fn expect_report(&self) {
        self.pending_reports.fetch_add(1, SeqCst);
    }

    /// Closes the link, and frees its share of the lane's window.
    fn close(&self) {
        if !self.closed.swap(true, SeqCst) {
            self.change(Flow::discard);
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
            pending_reports: AtomicUsize::new(0),
            is_publish_pending: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            is_lookup: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            sender: AtomicU64::new(0),
            turn: LaneTurnCell::default(),
            owner: OnceLock::new(),
        }
    }

    /// Sets the handle whose outbox writes here.
    pub(super) fn set_owner(&self, owner: &Arc<Handle>) {
        let _ = self.owner.set(Arc::downgrade(owner));
    }

    /// The key of the connection that wrote last.
    pub(super) fn sender(&self) -> u64 {
        self.sender.load(Relaxed)
    }

    /// True if only a lookup without frames has been sent.
    pub(super) fn is_lookup(&self) -> bool {
        self.is_lookup.load(SeqCst) && self.sent() == 1
    }

    /// True if the lane allows a packet now; otherwise the link is queued in it.
    fn enter_lane(self: &Arc<Self>) -> bool {
        if self.turn.use_grant() {
            return true;
        }
        let lane = self.flow.lock().lane.clone();
        lane.enter(self)
    }

    /// Publishes a packet; false if the link is closed.
    fn publish(self: &Arc<Self>, mut payload: Vec<u8>) -> bool {
        let length = payload.len() - self.target.head.len();
        let number = self.sent.fetch_add(1, SeqCst) + 1;
        if self.pending_reports.load(SeqCst) > 0 {
            self.note_reports(&payload[self.target.head.len()..], number);
        }
        {
            let mut flow = self.flow.lock();
            // Closed meanwhile: the receipts noted above have already failed.
            if self.closed.load(SeqCst) {
                self.sent.fetch_sub(1, SeqCst);
                return false;
            }
            if flow.count_sent(length) {
                message::make_eager(&mut payload);
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
            self.is_publish_pending.store(true, SeqCst);
            let link = self.clone();
            self.parts.runtime.spawn(async move {
                link.parts.bus.publish(publication).await;
                link.is_publish_pending.store(false, SeqCst);
                link.unblock();
            });
        }
        true
    }

    /// True while a packet waits for room on the bus: later packets must not overtake it.
    pub(super) fn is_publish_pending(&self) -> bool {
        self.is_publish_pending.load(SeqCst)
    }

    /// Notes which packet carries the report requests of receipts.
    #[cold]
    fn note_reports(&self, frames: &[u8], packet: u64) {
        let Some(id) = &self.target.id else { return };
        for (text, _) in Frames(frames) {
            if let Some(number) = protocol::confirm_number(text) {
                self.pending_reports.fetch_sub(1, SeqCst);
                self.parts.receipts.on_sent(number, id, packet);
            }
        }
    }

    /// Applies credit from a broker. Credit for a packet that was not sent is damaged: later credit would seem older.
    pub(super) fn credit(&self, node: NodeId, epoch: u32, credit: Credit) {
        if credit.packet > self.sent() {
            return;
        }
        let lanes = &self.parts.lanes;
        self.change(|flow| flow.credit(node, epoch, credit, lanes));
    }

    /// Changes the state of flow control, and then lets this link and others of its lanes send.
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
        self.unblock();
        before.run();
        if !Arc::ptr_eq(&before, &after) {
            after.run();
        }
    }

    /// Redirects the link to the broker that now has the id.
    pub(super) fn on_moved(&self, to: NodeId, epoch: Option<u32>) {
        let lanes = &self.parts.lanes;
        self.change(|flow| flow.on_moved(to, epoch, self.sent(), lanes));
    }

    /// Discards packets in flight without credit for this long: they are lost, and their share of the window is
    /// free again.
    pub(super) fn expire_in_flight(&self, now: Instant, limit: Duration) {
        let is_lost = {
            let flow = self.flow.lock();
            flow.in_flight.packets > 0 && now.saturating_duration_since(flow.last_credit) > limit
        };
        if is_lost {
            self.change(|flow| {
                let lost = flow.in_flight;
                flow.arrived(lost);
                flow.consumed(lost);
                flow.last_credit = now;
            });
        }
    }

    /// True if a packet waits for the bus, or packets are unconsumed and credit has come within this time.
    pub(super) fn has_unconsumed(&self, now: Instant, limit: Duration) -> bool {
        let flow = self.flow.lock();
        self.is_publish_pending()
            || flow.unconsumed.packets > 0
                && now.saturating_duration_since(flow.last_credit) < limit
    }

    /// Number of packets sent. It stays the same once the link is closed.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    /// Lets the outbox write again.
    pub(super) fn unblock(&self) {
        if let Some(owner) = self.owner.get().and_then(Weak::upgrade) {
            owner.unblock();
        }
    }

    /// The broker that consumes the packets, if known.
    pub(super) fn node(&self) -> Option<NodeId> {
        let node = self.flow.lock().node;
        (node != 0).then_some(NodeId(node))
    }

    /// The epoch of that broker.
    pub(super) fn epoch(&self) -> u32 {
        self.flow.lock().epoch
    }

    /// True if no broker has returned credit for this long.
    pub(super) fn is_unresponsive(&self, limit: Duration) -> bool {
        let flow = self.flow.lock();
        flow.node == 0 && flow.first.is_some_and(|first| first.elapsed() > limit)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.flow.get_mut().discard();
    }
}

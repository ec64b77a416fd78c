//! The way of frames to another broker: what an outbox writes to, in place of a socket.
//!
//! Whoever takes what comes by it says so now and then. What is under way and not yet taken has a
//! bound; at it the outbox fills, and those who send are held, as they are by a slow reader.

use std::{
    io::{self, IoSlice},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst,
        },
    },
    time::{Duration, Instant},
};

use tokio::runtime::Handle as Runtime;

use super::{
    bus::{Bus, NodeId, Publication},
    packet::{self, Frames, Taken},
    receipts::Receipts,
};
use crate::{handle::Handle, protocol};

/// Bytes, and packets, under way by one link.
const WINDOW: usize = 512 << 10;
const PACKETS: usize = 256;
/// What was taken is told when it comes to this much.
pub(super) const TELL_BYTES: u32 = (WINDOW / 4) as u32;
pub(super) const TELL_PACKETS: u32 = (PACKETS / 4) as u32;
/// Bytes of frames in one packet, but for a frame that is longer: NATS copies large ones once more.
const PACKET: usize = 16 << 10;

/// A way to another broker.
#[derive(Debug)]
pub(crate) struct Link {
    bus: Arc<dyn Bus>,
    runtime: Runtime,
    /// Where what is written goes, and where what is said of it comes.
    subject: String,
    reply: String,
    /// What each packet begins with.
    head: Vec<u8>,
    /// The id that it is for, unless it is for a node; and where it is told which packet carries what
    /// a receipt waits for.
    id: Option<Arc<str>>,
    receipts: Arc<Receipts>,
    /// Questions for what became of a message that have not gone out.
    questions: AtomicUsize,
    bytes: AtomicUsize,
    packets: AtomicUsize,
    /// A packet waits for room on the way to the bus.
    waits: AtomicBool,
    closed: AtomicBool,
    /// When the first packet went out.
    first: OnceLock<Instant>,
    /// How many have gone out.
    sent: AtomicU64,
    /// How often somebody has said that he has taken something.
    told: AtomicU64,
    /// Who takes what goes out; zero while that is not known.
    node: AtomicU64,
    /// Its epoch then.
    epoch: AtomicU32,
    /// Whose outbox it is.
    owner: OnceLock<Weak<Handle>>,
}

impl Link {
    pub(super) fn new(
        bus: Arc<dyn Bus>,
        runtime: Runtime,
        [subject, reply]: [String; 2],
        (head, id): (Vec<u8>, Option<Arc<str>>),
        receipts: Arc<Receipts>,
    ) -> Self {
        Self {
            bus,
            runtime,
            subject,
            reply,
            head,
            id,
            receipts,
            questions: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            packets: AtomicUsize::new(0),
            waits: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            first: OnceLock::new(),
            sent: AtomicU64::new(0),
            told: AtomicU64::new(0),
            node: AtomicU64::new(0),
            epoch: AtomicU32::new(0),
            owner: OnceLock::new(),
        }
    }

    /// Names the handle whose outbox writes here.
    pub(super) fn belongs_to(&self, owner: &Arc<Handle>) {
        let _ = self.owner.set(Arc::downgrade(owner));
    }

    /// True if it takes something now.
    pub(crate) fn has_room(&self) -> bool {
        self.closed.load(SeqCst)
            || !self.waits.load(SeqCst)
                && self.bytes.load(SeqCst) < WINDOW
                && self.packets.load(SeqCst) < PACKETS
    }

    /// Takes whole frames; `WouldBlock` if it has no room. Only one writes at a time.
    #[inline(never)]
    pub(crate) fn try_write(self: &Arc<Self>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.closed.load(SeqCst) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if !self.has_room() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let limit = self.bus.max_payload().saturating_sub(self.head.len());
        let waiting: usize = slices.iter().map(|slice| slice.len()).sum();
        let first = slices.first().map_or(0, |slice| slice.len());
        let room = waiting.min(PACKET.max(first)).min(limit);
        let mut payload = Vec::with_capacity(self.head.len() + room);
        payload.extend_from_slice(&self.head);
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
        self.first.get_or_init(Instant::now);
        let number = self.sent.fetch_add(1, SeqCst) + 1;
        if self.questions.load(SeqCst) > 0 {
            self.note_questions(&payload[self.head.len()..], number);
        }
        // Given up meanwhile: what was noted just now has been told as not sent.
        if self.closed.load(SeqCst) {
            self.sent.fetch_sub(1, SeqCst);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.bytes.fetch_add(length, SeqCst);
        self.packets.fetch_add(1, SeqCst);
        let publication = Publication {
            subject: self.subject.clone(),
            reply: Some(format!("{}.{number:x}", self.reply)),
            payload: payload.into(),
        };
        if let Err(publication) = self.bus.try_publish(publication) {
            self.waits.store(true, SeqCst);
            let link = self.clone();
            self.runtime.spawn(async move {
                link.bus.publish(publication).await;
                link.waits.store(false, SeqCst);
                link.go_on();
            });
        }
        Ok(length)
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
        let Some(id) = &self.id else { return };
        for (text, _) in Frames(frames) {
            if let Some(number) = protocol::settle_number(text) {
                self.questions.fetch_sub(1, SeqCst);
                self.receipts.sent(number, id, packet);
            }
        }
    }

    /// So much of it was taken.
    pub(super) fn taken(&self, taken: Taken) {
        // Whoever begins to take something says who it is. Others may tell later what they took before.
        if taken.packets == 0 || self.node().is_none() {
            let before = (
                self.node.swap(taken.node, Relaxed),
                self.epoch.swap(taken.epoch, Relaxed),
            );
            if before.0 != 0 && before != (taken.node, taken.epoch) {
                self.forget_window();
            }
        }
        let less = |counter: &AtomicUsize, by: u32| {
            // More may be told than was known to be under way, once that has been forgotten.
            let _ =
                counter.fetch_update(SeqCst, SeqCst, |now| Some(now.saturating_sub(by as usize)));
        };
        self.told.fetch_add(1, Relaxed);
        less(&self.bytes, taken.bytes);
        less(&self.packets, taken.packets);
        self.go_on();
    }

    /// The id is at this broker from now on.
    pub(super) fn moved(&self, to: NodeId, epoch: Option<u32>) {
        if let Some(epoch) = epoch {
            self.node.store(to.0, Relaxed);
            self.epoch.store(epoch, Relaxed);
        }
        self.renew();
    }

    /// What is under way may be lost, and nobody tell that he has taken it: as much may go out once more.
    pub(super) fn renew(&self) {
        self.forget_window();
        self.go_on();
    }

    /// How often something was told of it, while it has no room.
    pub(super) fn full(&self) -> Option<u64> {
        (!self.has_room()).then(|| self.told.load(Relaxed))
    }

    fn forget_window(&self) {
        self.bytes.store(0, SeqCst);
        self.packets.store(0, SeqCst);
    }

    /// How many packets have gone out; once it is closed, no more do.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    /// The outbox may write again.
    fn go_on(&self) {
        if let Some(owner) = self.owner.get().and_then(Weak::upgrade) {
            owner.unblock();
        }
    }

    /// Takes nothing more.
    pub(crate) fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    /// Who takes what goes out, where that is known.
    pub(super) fn node(&self) -> Option<NodeId> {
        let node = self.node.load(Relaxed);
        (node != 0).then_some(NodeId(node))
    }

    /// The epoch of whoever takes it.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Relaxed)
    }

    /// True if nobody has said for this long that he has taken anything.
    pub(super) fn is_unheard(&self, limit: Duration) -> bool {
        let is_late = |first: &Instant| first.elapsed() > limit;
        self.node().is_none() && self.first.get().is_some_and(is_late)
    }
}

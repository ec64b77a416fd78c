//! What others hold of a connection: a way to send to it, and to ask it to close.

use std::{
    net::Shutdown,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::task::AtomicWaker;

use crate::{
    auth::Denied,
    broker::{lease::Lease, requests::ConnectionRequests},
    memory::Memory,
    protocol::version_2,
    sync::{
        Mutex,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    transport::{
        framing::Mask,
        outbox::{Flushed, Outbox, Pushed},
        socket::WriteHalf,
    },
};

/// Why a connection is closed by us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Close {
    /// The server closes.
    GoingAway,
    /// It does not read what is sent to it.
    Slow,
    /// It holds more memory than any other, and there is none left.
    Memory,
    /// It has not registered in time.
    NotRegistered,
    /// Its pings and pongs, or its refused actions, were more than their limit.
    TooMany(&'static str),
    /// It broke the WebSocket protocol, with the close code that says how.
    Violation(u16),
    /// It may not do what it wants.
    Denied(Denied),
    /// The embedder wants it so.
    Requested {
        /// 1000, or 3000 to 4999.
        code: u16,
        /// As long as a close frame has room for.
        reason: Arc<str>,
    },
}

impl Close {
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::Slow | Self::Memory => 1013,
            Self::NotRegistered | Self::TooMany(_) => 1008,
            Self::Violation(code) => *code,
            Self::Denied(denied) => denied.close_code(),
            Self::Requested { code, .. } => *code,
        }
    }

    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::GoingAway => "server is closing",
            Self::Slow => "too slow",
            Self::Memory => "server is out of memory",
            Self::NotRegistered => "not registered in time",
            Self::TooMany(what) => what,
            Self::Violation(1009) => "message too big",
            Self::Violation(1008) => "too many fragments",
            Self::Violation(1007) => "invalid UTF-8",
            Self::Violation(_) => "protocol violation",
            Self::Denied(denied) => denied.reason(),
            Self::Requested { reason, .. } => reason,
        }
    }
}

/// One connection, as seen from outside its task.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Tells it from all other connections of the server, for ever.
    pub(crate) key: u64,
    /// It is the server's own participant, and no peer.
    pub(crate) participant: bool,
    /// It stands for an id, or for a node, at another broker of the cluster.
    pub(crate) remote: bool,
    pub(crate) outbox: Outbox,
    /// The number of its registration, while the id is its own: another connection may take it
    /// over. If not, zero.
    registration: AtomicU64,
    /// Its peer understands version 2 of the protocol.
    speaks_2: AtomicBool,
    /// It has been told that the server drains.
    warned: AtomicBool,
    /// Its id has just come from a broker that drains.
    arrived: AtomicBool,
    /// True while what is sent to it is dropped.
    dropping: AtomicBool,
    /// Bytes of memory that its task holds: itself, its id, what it has read and not passed on.
    pub(crate) held: AtomicUsize,
    /// Who registered its id, where clients are authenticated.
    pub(crate) principal: Mutex<Option<Arc<str>>>,
    /// The id that it registered last and has not given up, though another connection may have taken it
    /// over.
    pub(crate) last_id: Mutex<Option<Arc<str>>>,
    /// Its right to its id, where there is a cluster.
    pub(crate) lease: Mutex<Option<Lease>>,
    /// The requests it asked and those it may answer.
    pub(crate) book: Mutex<ConnectionRequests>,
    /// Wakes its task.
    pub(crate) waker: AtomicWaker,
    close: Mutex<Option<Close>>,
    socket: WriteHalf,
}

impl Handle {
    /// `mark`: bytes from which its outbox counts as full.
    pub(crate) fn new(key: u64, socket: WriteHalf, mark: usize, memory: Arc<Memory>) -> Self {
        Self {
            key,
            participant: false,
            remote: false,
            outbox: Outbox::new(mark, Mask::None, Some(memory)),
            registration: AtomicU64::new(0),
            speaks_2: AtomicBool::new(false),
            warned: AtomicBool::new(false),
            arrived: AtomicBool::new(false),
            dropping: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            principal: Mutex::default(),
            last_id: Mutex::default(),
            lease: Mutex::default(),
            book: Mutex::default(),
            waker: AtomicWaker::new(),
            close: Mutex::new(None),
            socket,
        }
    }

    /// The same for the server's own participant.
    pub(crate) fn of_participant(self) -> Self {
        Self {
            participant: true,
            ..self
        }
    }

    /// The same for an id, or a node, at another broker. It understands all that there is.
    pub(crate) fn of_remote(self) -> Self {
        self.set_registration(self.key);
        self.set_speaks_2(true);
        Self {
            remote: true,
            ..self
        }
    }

    /// Writes what waits for it; its task does the rest where the socket refuses.
    pub(crate) fn flush(&self) {
        match self.outbox.flush(&self.socket) {
            Flushed::Done => {}
            Flushed::Blocked if self.remote => self.look_again(),
            Flushed::Blocked | Flushed::Emptied | Flushed::Failed => self.waker.wake(),
        }
    }

    /// A link has no task that waits for room: it tells when there is some, but perhaps just before
    /// it was known that somebody waits.
    #[cold]
    fn look_again(&self) {
        if let WriteHalf::Uplink(uplink) = &self.socket
            && uplink.has_room()
        {
            self.unblock();
        }
    }

    /// What it is about to be sent, at another broker, asks what becomes of it.
    pub(crate) fn asks(&self) {
        if let WriteHalf::Uplink(uplink) = &self.socket {
            uplink.expect_report();
        }
    }

    /// The connection with this key is about to send something to it, at another broker.
    pub(crate) fn written_by(&self, key: u64) {
        if let WriteHalf::Uplink(uplink) = &self.socket {
            uplink.clone().set_writer(key);
        }
    }

    /// True if what the connection with this key sent to its broker, another one, has not gone out: the
    /// connection is woken once it has.
    pub(crate) fn holds(&self, key: u64, waker: &Waker) -> bool {
        matches!(&self.socket, WriteHalf::Uplink(uplink) if uplink.holds(key, waker))
    }

    /// True if it stands for an id of which it is not known yet whether any broker has it.
    pub(crate) fn is_unresolved(&self) -> bool {
        matches!(&self.socket, WriteHalf::Uplink(uplink) if uplink.is_unresolved())
    }

    /// Asks which broker has its id, unless something that was sent to it does so.
    pub(crate) fn look_up(&self) {
        if let WriteHalf::Uplink(uplink) = &self.socket {
            uplink.clone().look_up();
        }
    }

    /// There is room again where there was none.
    pub(crate) fn unblock(&self) {
        if self.outbox.unblock() {
            self.flush();
        }
    }

    /// For its task: goes on writing once a full socket takes something again. Ready when the
    /// socket is dead.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.outbox.poll_writable(&self.socket, cx)
    }

    /// Asks its task to close it. The first reason counts.
    pub(crate) fn request_close(&self, close: Close) {
        self.close.lock().get_or_insert(close);
        self.waker.wake();
    }

    pub(crate) fn requested_close(&self) -> Option<Close> {
        self.close.lock().clone()
    }

    /// Something that is sent to it is dropped; true if that begins now.
    pub(crate) fn drop_begins(&self) -> bool {
        !self.dropping.swap(true, Relaxed)
    }

    /// There is room again: that counts as the end of dropping once it has caught up by half.
    pub(crate) fn drops_end(&self) {
        if self.dropping.load(Relaxed) && self.outbox.has_caught_up() {
            self.dropping.store(false, Relaxed);
        }
    }

    /// Bytes of memory that it holds, but for what waits for it.
    pub(crate) fn own_memory(&self) -> usize {
        let asked = self.book.lock().charged();
        self.held.load(Relaxed) + asked
    }

    /// True if the other may take over its id: both are the same connection, or were registered by
    /// the same principal. No peer is what the participant is, which may have any id.
    pub(crate) fn yields_to(&self, other: &Self) -> bool {
        if self.key == other.key || other.participant {
            return true;
        }
        if self.participant {
            return false;
        }
        // One after the other: the other way round may be asked at the same time.
        let principal = self.principal.lock().clone();
        principal == *other.principal.lock()
    }

    /// The number of its registration; zero if its id is not its own.
    pub(crate) fn registration(&self) -> u64 {
        self.registration.load(Acquire)
    }

    pub(crate) fn set_registration(&self, number: u64) {
        self.registration.store(number, Release);
    }

    pub(crate) fn speaks_2(&self) -> bool {
        self.speaks_2.load(Acquire)
    }

    pub(crate) fn set_speaks_2(&self, speaks: bool) {
        self.speaks_2.store(speaks, Release);
    }

    /// Tells it once that the server drains, if it understands that, and when it will close at the
    /// latest. Whoever calls owes a flush.
    pub(crate) fn warn(&self, within: Duration) -> Pushed {
        if !self.speaks_2() || self.warned.swap(true, Relaxed) {
            return Pushed::More;
        }
        let within = within.as_millis().to_string();
        self.outbox.push(&version_2::goaway(&within))
    }

    /// True if it has been told that the server drains.
    pub(crate) fn is_warned(&self) -> bool {
        self.warned.load(Relaxed)
    }

    /// True if messages that were sent to its id before it came to this broker may still arrive.
    pub(crate) fn has_arrived(&self) -> bool {
        self.arrived.load(Acquire)
    }

    pub(crate) fn set_arrived(&self, arrived: bool) {
        self.arrived.store(arrived, Release);
    }

    pub(crate) fn owns_its_id(&self) -> bool {
        self.registration() != 0
    }

    pub(crate) fn socket(&self) -> &WriteHalf {
        &self.socket
    }

    /// Ends the socket, so that no handle held elsewhere keeps it open.
    pub(crate) fn destroy(&self) {
        self.set_registration(0);
        self.outbox.close();
        self.socket.shutdown(Shutdown::Both);
    }
}

//! Handle of a connection: other connections use it to send to it and to ask it to close.

use std::{
    net::Shutdown,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;

use crate::{
    auth::Denied,
    broker::{lease::Lease, requests::ConnectionRequests, topics::subscriber::SubscriberState},
    event::{ConnectionInfo, Traffic},
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

/// Reason why the broker closes a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Close {
    GoingAway,
    /// Slow consumer: its outbox is full.
    Slow,
    /// Memory is short, and it holds the most.
    Memory,
    /// No `register` within `register_timeout`.
    NotRegistered,
    /// Too many control frames or refused actions; with the reason for the close frame.
    TooMany(&'static str),
    /// Violation of the WebSocket protocol, with the close code.
    Violation(u16),
    /// Authentication or authorization failed.
    Denied(Denied),
    /// Closed by the embedder.
    Requested {
        /// 1000, or 3000 to 4999.
        code: u16,
        /// At most 123 bytes.
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

/// One connection, as used from outside its task.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Unique among all connections of the broker, never reused.
    pub(crate) key: u64,
    /// True for the server's own participant.
    pub(crate) participant: bool,
    /// True for an id, or a node, at another broker of the cluster.
    pub(crate) remote: bool,
    /// Where it comes from; unknown for a participant and for a remote handle.
    info: Mutex<ConnectionInfo>,
    /// When it was created.
    since: Instant,
    /// Messages received from it, and their bytes. Its task counts them once per turn.
    messages: AtomicU64,
    bytes_received: AtomicU64,
    pub(crate) outbox: Outbox,
    /// Number of its registration while it owns its id; zero otherwise.
    registration: AtomicU64,
    /// True if the peer speaks version 2 of the protocol.
    uses_version_2: AtomicBool,
    /// True once `goaway` was sent to it.
    warned: AtomicBool,
    /// True if its id has just come from a broker that drains.
    arrived: AtomicBool,
    /// True once its peer has given up the id or closed the connection, instead of losing it.
    has_left: AtomicBool,
    /// True while messages to it are dropped.
    dropping: AtomicBool,
    /// True while a `gap` is still to be sent to it.
    has_losses: AtomicBool,
    /// True while messages of a group wait until it has room.
    awaits_jobs: AtomicBool,
    /// True while its session has no socket.
    suspended: AtomicBool,
    /// True while a subscription of it gets messages from a log.
    has_replays: AtomicBool,
    /// True while a mailbox of it may have messages, or receipts of it are to be written.
    has_mail: AtomicBool,
    /// Bytes held by its task: the task itself, its id, input not yet routed.
    pub(crate) held: AtomicUsize,
    /// Principal that registered its id; none without authentication.
    pub(crate) principal: Mutex<Option<Arc<str>>>,
    /// The id that it registered last and has not given up, even if another connection has taken it over.
    pub(crate) last_id: Mutex<Option<Arc<str>>>,
    /// Lease of its id; none without a cluster.
    pub(crate) lease: Mutex<Option<Lease>>,
    /// Requests that it sent, and those that it may answer.
    pub(crate) requests: Mutex<ConnectionRequests>,
    /// Its subscriptions; none for most connections.
    pub(crate) subscriber: Mutex<Option<Box<SubscriberState>>>,
    /// Waker of its task.
    pub(crate) waker: AtomicWaker,
    close: Mutex<Option<Close>>,
    socket: WriteHalf,
}

impl Handle {
    /// `mark`: high-water mark of the outbox, in bytes.
    pub(crate) fn new(key: u64, socket: WriteHalf, mark: usize, memory: Arc<Memory>) -> Self {
        Self {
            key,
            participant: false,
            remote: false,
            info: Mutex::default(),
            since: Instant::now(),
            messages: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            outbox: Outbox::new(mark, Mask::None, Some(memory)),
            registration: AtomicU64::new(0),
            uses_version_2: AtomicBool::new(false),
            warned: AtomicBool::new(false),
            arrived: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
            dropping: AtomicBool::new(false),
            has_losses: AtomicBool::new(false),
            awaits_jobs: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
            has_replays: AtomicBool::new(false),
            has_mail: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            principal: Mutex::default(),
            last_id: Mutex::default(),
            lease: Mutex::default(),
            requests: Mutex::default(),
            subscriber: Mutex::default(),
            waker: AtomicWaker::new(),
            close: Mutex::new(None),
            socket,
        }
    }

    /// Sets where its connection comes from.
    pub(crate) fn of(self, info: ConnectionInfo) -> Self {
        *self.info.lock() = info;
        self
    }

    /// Where its connection comes from.
    pub(crate) fn info(&self) -> ConnectionInfo {
        *self.info.lock()
    }

    /// True if a session can continue on another socket.
    pub(crate) fn is_replaceable(&self) -> bool {
        self.socket.is_replaceable()
    }

    /// True while its session has no socket.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Relaxed)
    }

    /// Closes the socket of a session, which waits for another. `mark`: bytes that may be queued until then.
    pub(crate) fn suspend(&self, mark: usize) {
        self.suspended.store(true, Relaxed);
        if let Some(socket) = self.socket.replace(None) {
            socket.shutdown(Shutdown::Both);
        }
        self.outbox.suspend(mark);
    }

    /// Takes the socket of a connection that continues the session of another.
    pub(crate) fn take_socket(&self) -> Option<WriteHalf> {
        self.socket.replace(None)
    }

    /// Continues a suspended session on another socket, with the peer's count of actions received; see
    /// [`Outbox::resume`].
    pub(crate) fn resume(
        &self,
        (socket, info): (WriteHalf, ConnectionInfo),
        count: u64,
        first: &[&str],
        mark: usize,
    ) -> bool {
        // Nothing is written before the outbox continues.
        self.socket.replace(Some(socket));
        if !self.outbox.resume(count, first, mark) {
            self.socket.replace(None);
            return false;
        }
        *self.info.lock() = info;
        self.suspended.store(false, Relaxed);
        self.flush();
        true
    }

    /// Counts messages that its task has received.
    pub(crate) fn count_received(&self, messages: u32, bytes: usize) {
        // Only its task writes these.
        let messages = self.messages.load(Relaxed) + u64::from(messages);
        self.messages.store(messages, Relaxed);
        let bytes = self.bytes_received.load(Relaxed) + bytes as u64;
        self.bytes_received.store(bytes, Relaxed);
    }

    /// Messages and bytes that it has transferred so far.
    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            open: self.since.elapsed(),
            messages: self.messages.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            bytes_sent: self.outbox.written(),
        }
    }

    /// Turns it into the handle of the server's own participant.
    pub(crate) fn of_participant(self) -> Self {
        Self {
            participant: true,
            ..self
        }
    }

    /// Turns it into the handle of an id, or a node, at another broker. Remote handles speak version 2.
    pub(crate) fn of_remote(self) -> Self {
        self.set_registration(self.key);
        self.set_uses_version_2(true);
        Self {
            remote: true,
            ..self
        }
    }

    /// Appends frames to the outbox and writes it to the socket.
    pub(crate) fn write(&self, push: impl FnOnce(&Outbox) -> Pushed) {
        let _ = push(&self.outbox);
        self.flush();
    }

    /// Writes the outbox to the socket. If the socket is full, its task writes the rest.
    pub(crate) fn flush(&self) {
        match self.outbox.flush(&self.socket) {
            Flushed::Done => {}
            Flushed::Blocked if self.remote => self.recheck_room(),
            Flushed::Blocked | Flushed::Emptied | Flushed::Failed => self.waker.wake(),
        }
    }

    /// Checks again whether the link has room. A link has no task: it calls `unblock`, but perhaps just
    /// before the outbox was marked as blocked.
    #[cold]
    fn recheck_room(&self) {
        if let WriteHalf::Uplink(uplink) = &self.socket
            && uplink.has_room()
        {
            self.unblock();
        }
    }

    /// Announces to another broker that the next frames ask for a report of their delivery.
    pub(crate) fn expect_report(&self) {
        if let WriteHalf::Uplink(uplink) = &self.socket {
            uplink.expect_report();
        }
    }

    /// Announces that the connection with this key is about to write to the link.
    pub(crate) fn set_writer(&self, key: u64) {
        if let WriteHalf::Uplink(uplink) = &self.socket {
            uplink.clone().set_writer(key);
        }
    }

    /// True if frames of the connection with this key wait for the same link: the waker is called once they
    /// have gone out.
    pub(crate) fn holds(&self, key: u64, waker: &Waker) -> bool {
        matches!(&self.socket, WriteHalf::Uplink(uplink) if uplink.holds(key, waker))
    }

    /// True if it is not known yet which broker owns its id.
    pub(crate) fn is_unresolved(&self) -> bool {
        matches!(&self.socket, WriteHalf::Uplink(uplink) if uplink.is_unresolved())
    }

    /// Looks up which broker owns its id, unless a frame sent to it does so.
    pub(crate) fn look_up(&self) {
        if let WriteHalf::Uplink(uplink) = &self.socket {
            uplink.clone().look_up();
        }
    }

    /// Resumes writing when the link has room again.
    pub(crate) fn unblock(&self) {
        if self.outbox.unblock() {
            self.flush();
        }
    }

    /// For its task: resumes writing when the socket is writable. Ready when the socket is dead.
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

    /// Marks that messages to it are dropped. True if this is the first one.
    pub(crate) fn drop_begins(&self) -> bool {
        !self.dropping.swap(true, Relaxed)
    }

    /// Clears that mark once half of the outbox has been written.
    pub(crate) fn drops_end(&self) {
        if self.dropping.load(Relaxed) && self.outbox.has_caught_up() {
            self.dropping.store(false, Relaxed);
        }
    }

    pub(crate) fn has_losses(&self) -> bool {
        self.has_losses.load(Acquire)
    }

    /// True while messages of a group wait until it has room.
    pub(crate) fn awaits_jobs(&self) -> bool {
        self.awaits_jobs.load(Acquire)
    }

    pub(crate) fn set_awaits_jobs(&self, awaits_jobs: bool) {
        self.awaits_jobs.store(awaits_jobs, Release);
    }

    pub(crate) fn set_has_losses(&self, has_losses: bool) {
        self.has_losses.store(has_losses, Release);
    }

    pub(crate) fn has_mail(&self) -> bool {
        self.has_mail.load(Acquire)
    }

    pub(crate) fn set_has_mail(&self, has_mail: bool) {
        self.has_mail.store(has_mail, Release);
    }

    /// Has its task write its outbox, and take messages from its mailboxes.
    pub(crate) fn take_mail(&self) {
        self.set_has_mail(true);
        self.waker.wake();
    }

    pub(crate) fn has_replays(&self) -> bool {
        self.has_replays.load(Acquire)
    }

    pub(crate) fn set_has_replays(&self, has_replays: bool) {
        self.has_replays.store(has_replays, Release);
    }

    /// Bytes of memory that it holds, without its outbox.
    pub(crate) fn own_memory(&self) -> usize {
        let asked = self.requests.lock().charged();
        let subscriber = self.subscriber.lock();
        let subscriptions = subscriber.as_ref().map_or(0, |state| state.memory());
        self.held.load(Relaxed) + asked + subscriptions
    }

    /// True if `other` may take over its id: same connection, same principal, or `other` is the
    /// participant. The participant's id cannot be taken over by peers.
    pub(crate) fn yields_to(&self, other: &Self) -> bool {
        if self.key == other.key || other.participant {
            return true;
        }
        if self.participant {
            return false;
        }
        // The locks are taken one after the other: a call with the arguments swapped may run at the same
        // time.
        let principal = self.principal.lock().clone();
        principal == *other.principal.lock()
    }

    /// Number of its registration; zero if it does not own its id.
    pub(crate) fn registration(&self) -> u64 {
        self.registration.load(Acquire)
    }

    pub(crate) fn set_registration(&self, number: u64) {
        self.registration.store(number, Release);
    }

    pub(crate) fn uses_version_2(&self) -> bool {
        self.uses_version_2.load(Acquire)
    }

    pub(crate) fn set_uses_version_2(&self, speaks: bool) {
        self.uses_version_2.store(speaks, Release);
    }

    /// Sends `goaway` once, if the peer speaks version 2. `within`: time until it is closed.
    pub(crate) fn warn(&self, within: Duration) -> Pushed {
        if !self.uses_version_2() || self.warned.swap(true, Relaxed) {
            return Pushed::More;
        }
        let within = within.as_millis().to_string();
        self.outbox.push(&version_2::goaway(&within))
    }

    /// True once `goaway` was sent to it.
    pub(crate) fn is_warned(&self) -> bool {
        self.warned.load(Relaxed)
    }

    /// True if messages sent to its id at the former broker may still arrive.
    pub(crate) fn has_arrived(&self) -> bool {
        self.arrived.load(Acquire)
    }

    pub(crate) fn set_arrived(&self, arrived: bool) {
        self.arrived.store(arrived, Release);
    }

    /// The id that it owns.
    pub(crate) fn owned_id(&self) -> Option<Arc<str>> {
        let id = self.last_id.lock().clone();
        id.filter(|_| self.owns_its_id())
    }

    /// True if others may see at once that its id is offline, unless it moves to another broker.
    pub(crate) fn has_left(&self) -> bool {
        self.has_left.load(Relaxed) && !self.is_warned()
    }

    pub(crate) fn set_has_left(&self, has_left: bool) {
        self.has_left.store(has_left, Relaxed);
    }

    pub(crate) fn owns_its_id(&self) -> bool {
        self.registration() != 0
    }

    pub(crate) fn socket(&self) -> &WriteHalf {
        &self.socket
    }

    /// Shuts the socket down, so that handles held elsewhere do not keep it open.
    pub(crate) fn destroy(&self) {
        self.set_registration(0);
        self.outbox.close();
        self.socket.shutdown(Shutdown::Both);
    }
}

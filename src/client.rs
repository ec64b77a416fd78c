//! A client of the broker: a cheap handle, and the task that owns its socket.
//!
//! The handle queues frames and writes them itself where the socket takes them, so that a send
//! needs no other thread. The task connects, reads, and writes what a full socket had refused.

mod events;
mod task;

use std::{
    net::Shutdown,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering::SeqCst},
    },
};

use futures_util::task::AtomicWaker;
use parking_lot::RwLock;
use tokio::runtime::Handle as Runtime;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::{
    error::{Error, Result},
    event::{ClientEvent, ClientListener},
    options::ClientOptions,
    protocol,
    transport::{
        dial::bounds,
        framing::{self, Mask, Reader},
        outbox::{Flushed, Outbox, Pushed},
        socket::{ReadHalf, WriteHalf},
        tls::TlsConnector,
    },
};

const CONNECTING: u8 = 0;
const OPEN: u8 = 1;
const CLOSING: u8 = 2;
const CLOSED: u8 = 3;

/// A connection to a broker. Clones are the same connection; dropping them does not close it.
#[derive(Clone)]
pub struct Client {
    link: Arc<ClientShared>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("options", &self.link.options)
            .finish_non_exhaustive()
    }
}

/// What the handles and the task share.
struct ClientShared {
    options: ClientOptions,
    /// Present if this client speaks TLS.
    tls: Option<TlsConnector>,
    listener: Box<dyn ClientListener>,
    outbox: Outbox,
    /// Present from the end of the handshake to the end of the connection. A handle may live much
    /// longer (in JavaScript until the garbage collection), and must not keep the descriptor open.
    socket: RwLock<Option<WriteHalf>>,
    state: AtomicU8,
    /// The embedder has enough for now.
    paused: AtomicBool,
    /// The embedder wants nothing until it says so.
    held: AtomicBool,
    /// What the server's close frame said.
    reason: OnceLock<String>,
    /// Above the high-water mark since the last `drain`.
    wants_drain: AtomicBool,
    waker: AtomicWaker,
}

impl Client {
    /// Starts to connect, and to register. What is sent before the connection is open waits.
    ///
    /// Errors: `InvalidOption`, `Tls`; all else comes as events.
    pub fn connect(
        mut options: ClientOptions,
        listener: impl ClientListener,
        runtime: &Runtime,
    ) -> Result<Self> {
        let tls = check(&options)?;
        // A key is kept by nobody who does not need it.
        options.tls = None;
        let client = Self::new(options, tls, listener)?;
        let link = client.link.clone();
        runtime.spawn(async move {
            let opened = task::open(&link).await;
            task::run(link, opened).await;
        });
        Ok(client)
    }

    /// The same on a socket that is there, without a handshake.
    ///
    /// Errors: `InvalidOption`.
    pub(crate) fn over(
        (read, write): (ReadHalf, WriteHalf),
        options: ClientOptions,
        listener: impl ClientListener,
        runtime: &Runtime,
    ) -> Result<Self> {
        options.validate()?;
        let reader = Reader::new(Role::Client, read, Vec::new(), bounds(&options));
        let client = Self::new(options, None, listener)?;
        runtime.spawn(task::run(client.link.clone(), Some(Ok((reader, write)))));
        Ok(client)
    }

    /// A client that has queued its registration, and has no task yet.
    fn new(
        options: ClientOptions,
        tls: Option<TlsConnector>,
        listener: impl ClientListener,
    ) -> Result<Self> {
        let link = Arc::new(ClientShared {
            listener: Box::new(listener),
            outbox: Outbox::new(options.high_water_mark, Mask::Random, None),
            socket: RwLock::default(),
            state: AtomicU8::new(CONNECTING),
            paused: AtomicBool::new(false),
            held: AtomicBool::new(false),
            reason: OnceLock::new(),
            wants_drain: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            tls,
            options,
        });
        let client = Self { link };
        client.register(client.link.options.token.as_deref())?;
        Ok(client)
    }

    /// Queues another registration, which renews what the first one was granted; `token`: a new
    /// one, or none to show none.
    ///
    /// Errors: `NotOpen`, `QueueFull`.
    pub fn register(&self, token: Option<&str>) -> Result<()> {
        let token = token.map(protocol::json_string);
        let ClientOptions { id, protocol, .. } = &self.link.options;
        self.push(&protocol::register(
            id.as_deref(),
            token.as_deref(),
            *protocol,
        ))
    }

    /// Queues a message; all three are JSON text. An empty `message` or `dest` is left out of the
    /// frame, and the server complains; an empty `ack` asks for no answer.
    ///
    /// Nothing is written before [`flush`](Self::flush): sends that belong together are one write.
    /// Errors: `NotOpen`, `QueueFull`.
    pub fn send(&self, message: &str, dest: &str, ack: &str) -> Result<()> {
        self.push(&protocol::send(message, dest, ack))
    }

    /// Queues an answer to the request known by `ack`; both are JSON text.
    ///
    /// Errors: `NotOpen`, `QueueFull`.
    pub fn answer(&self, ack: &str, message: &str) -> Result<()> {
        self.push(&protocol::client_answer(
            ack,
            message,
            self.link.options.id.as_deref(),
        ))
    }

    /// Queues the end of the registration.
    ///
    /// Errors: `NotOpen`, `QueueFull`.
    pub fn unregister(&self) -> Result<()> {
        self.push(&protocol::unregister(self.link.options.id.as_deref()))
    }

    /// Queues an action as it is: the JSON text of one object.
    ///
    /// Errors: `NotOpen`, `QueueFull`.
    pub fn push_action(&self, text: &str) -> Result<()> {
        self.push(&[text])
    }

    fn push(&self, pieces: &[&str]) -> Result<()> {
        let link = &self.link;
        if link.state.load(SeqCst) > OPEN {
            return Err(Error::NotOpen);
        }
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let (queued, limit) = (link.outbox.waiting() + length, link.options.max_queued);
        if queued > limit {
            return Err(Error::QueueFull { queued, limit });
        }
        match link.outbox.push(pieces) {
            Pushed::NeedsFlush | Pushed::More => Ok(()),
            Pushed::Closed => Err(Error::NotOpen),
        }
    }

    /// Writes what was queued, as far as the socket takes it now; the bytes that still wait. At
    /// the high-water mark or above, a `Drain` event follows when all has been written.
    pub fn flush(&self) -> usize {
        self.link.flush();
        let waiting = self.link.outbox.waiting();
        if waiting >= self.link.options.high_water_mark {
            self.want_drain();
        }
        waiting
    }

    /// Asks for a `Drain` event when all has been written; at once if nothing waits.
    pub fn want_drain(&self) {
        self.link.wants_drain.store(true, SeqCst);
        self.link.waker.wake();
    }

    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        self.link.outbox.waiting()
    }

    /// Reads on, after [`ClientListener::batch_end`] has said stop.
    pub fn resume(&self) {
        if self.link.paused.swap(false, SeqCst) {
            self.link.waker.wake();
        }
    }

    /// Reads nothing more, but for what a batch has taken already, until it is called with false, or
    /// the connection closes. The socket then pushes back on the server.
    pub fn hold(&self, on: bool) {
        if self.link.held.swap(on, SeqCst) && !on {
            self.link.waker.wake();
        }
    }

    /// Closes (1000): what was queued is written first. A `Closed` event follows.
    pub fn close(&self) {
        self.link.start_closing(1000, "");
    }

    /// Ends the connection at once and silently; a `Closed` event may follow.
    pub fn destroy(&self) {
        self.link.state.store(CLOSED, SeqCst);
        self.link.outbox.close();
        if let Some(socket) = &*self.link.socket.read() {
            socket.shutdown(Shutdown::Both);
        }
        self.link.waker.wake();
    }
}

/// The name by which a server knows a request: the string that JavaScript makes of its ack.
#[cfg(feature = "node")]
pub(crate) fn ack_name(raw: &str) -> std::borrow::Cow<'_, str> {
    protocol::ack_key(raw)
}

/// Checks options, and reads what those of TLS name.
pub(crate) fn check(options: &ClientOptions) -> Result<Option<TlsConnector>> {
    options.validate()?;
    options.tls.as_ref().map(TlsConnector::new).transpose()
}

impl ClientShared {
    fn flush(&self) {
        if let Some(socket) = &*self.socket.read()
            && !matches!(self.outbox.flush(socket), Flushed::Done)
        {
            self.waker.wake();
        }
    }

    /// Closes the writing half. Waits for a write in progress, which never blocks.
    fn drop_socket(&self) {
        if let Some(socket) = self.socket.write().take() {
            socket.shutdown(Shutdown::Both);
        }
    }

    /// Sends a close frame, unless one was sent already.
    fn start_closing(&self, code: u16, reason: &str) {
        let before = self.state.fetch_max(CLOSING, SeqCst);
        if before == OPEN {
            self.outbox
                .push_control(&framing::close_frame(Some(code), reason, Mask::Random));
            self.flush();
        }
        self.waker.wake();
    }

    fn emit(&self, event: ClientEvent<'_>) {
        self.listener.event(event);
    }

    fn emit_closed(&self, code: Option<u16>) {
        let reason = self.reason.get().map_or("", |reason| reason);
        self.emit(ClientEvent::Closed { code, reason });
    }

    /// True while nothing may be read. Whoever closes reads on, to the end.
    fn is_held(&self) -> bool {
        // One whose socket has failed has nothing to wait for but its end.
        let is_open = || self.state.load(SeqCst) == OPEN && !self.outbox.state().closed;
        self.paused.load(SeqCst) || self.held.load(SeqCst) && is_open()
    }
}

//! Client of a broker: a cheap handle, and the task that owns its socket.
//!
//! The handle queues frames and writes them to the socket itself, without switching threads. The task
//! connects, reads, and writes the rest when the socket was full.

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
        dial::{Dialer, bounds},
        framing::{self, Mask, Reader},
        outbox::{Flushed, Outbox, Pushed},
        socket::{ReadHalf, WriteHalf},
    },
};

const CONNECTING: u8 = 0;
const OPEN: u8 = 1;
const CLOSING: u8 = 2;
const CLOSED: u8 = 3;

/// A connection to a broker. Clones share it; dropping them does not close it.
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

/// State shared by the handles and the task.
struct ClientShared {
    options: ClientOptions,
    /// Opens the connection; none on a socket that is connected already.
    dialer: Option<Dialer>,
    listener: Box<dyn ClientListener>,
    outbox: Outbox,
    /// Present while the connection is open. Handles may live much longer (in JavaScript until garbage
    /// collection) and must not keep the descriptor open.
    socket: RwLock<Option<WriteHalf>>,
    state: AtomicU8,
    /// True if the listener has paused reading, until [`Client::resume`].
    paused: AtomicBool,
    /// True if the embedder has paused reading with [`Client::hold`].
    held: AtomicBool,
    /// Reason from the server's close frame.
    reason: OnceLock<String>,
    /// True if a `Drain` event is due when the outbox is empty.
    wants_drain: AtomicBool,
    waker: AtomicWaker,
}

impl Client {
    /// Starts to connect and to register. Frames sent before the connection is open are queued.
    ///
    /// Errors: `InvalidOption`, `Tls`; all other errors are emitted as events.
    pub fn connect(
        mut options: ClientOptions,
        listener: impl ClientListener,
        runtime: &Runtime,
    ) -> Result<Self> {
        let dialer = check(&options)?;
        // The options do not keep the private key, nor the password of the proxy.
        options.tls = None;
        options.proxy = None;
        let client = Self::new(options, Some(dialer), listener)?;
        let link = client.link.clone();
        runtime.spawn(async move {
            let opened = task::open(&link).await;
            task::run(link, opened).await;
        });
        Ok(client)
    }

    /// Starts a client on a connected socket, without a handshake.
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

    /// A client with its registration queued, but without a task.
    fn new(
        options: ClientOptions,
        dialer: Option<Dialer>,
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
            dialer,
            options,
        });
        let client = Self { link };
        let ClientOptions { token, session, .. } = &client.link.options;
        let session = session.as_ref().map(|session| {
            let since = session.since.as_ref();
            let since = since.map(|(token, count)| (&**token, *count));
            protocol::ask_session(session.timeout.as_millis(), since)
        });
        client.register_in(token.as_deref(), &session.unwrap_or_default())?;
        Ok(client)
    }

    /// Queues another registration, which renews the grant. `token`: a new one; none for a registration
    /// without a token.
    ///
    /// Errors: `NotOpen`, `QueueFull`.
    pub fn register(&self, token: Option<&str>) -> Result<()> {
        self.register_in(token, "")
    }

    /// Queues a registration. `session`: the member, or empty.
    fn register_in(&self, token: Option<&str>, session: &str) -> Result<()> {
        let token = token.map(protocol::json_string);
        let ClientOptions { id, protocol, .. } = &self.link.options;
        self.push(&protocol::register(
            id.as_deref(),
            token.as_deref(),
            *protocol,
            session,
        ))
    }

    /// Queues a message. All arguments are JSON text. If `message` or `dest` is empty, the member is left
    /// out of the frame and the server responds with `error`; if `ack` is empty, no answer is requested.
    ///
    /// Nothing is written before [`flush`](Self::flush), so that several sends become one write.
    ///
    /// Errors: `NotOpen`, `QueueFull`.
    pub fn send(&self, message: &str, dest: &str, ack: &str) -> Result<()> {
        self.push(&protocol::send(message, dest, ack))
    }

    /// Queues an answer to the request with this `ack`. Both arguments are JSON text.
    ///
    /// Errors: `NotOpen`, `QueueFull`.
    pub fn answer(&self, ack: &str, message: &str) -> Result<()> {
        self.push(&protocol::client_answer(
            ack,
            message,
            self.link.options.id.as_deref(),
        ))
    }

    /// Queues the action `unregister`.
    ///
    /// Errors: `NotOpen`, `QueueFull`.
    pub fn unregister(&self) -> Result<()> {
        self.push(&protocol::unregister(self.link.options.id.as_deref()))
    }

    /// Queues any action, as the JSON text of an object.
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

    /// Writes queued frames as far as the socket takes them. Returns the number of bytes still queued. If
    /// that is `high_water_mark` or more, a `Drain` event follows when all are written.
    pub fn flush(&self) -> usize {
        self.link.flush();
        let waiting = self.link.outbox.waiting();
        if waiting >= self.link.options.high_water_mark {
            self.want_drain();
        }
        waiting
    }

    /// Requests a `Drain` event when all queued bytes are written; it comes at once if none are queued.
    pub fn want_drain(&self) {
        self.link.wants_drain.store(true, SeqCst);
        self.link.waker.wake();
    }

    /// Number of bytes queued.
    pub fn waiting(&self) -> usize {
        self.link.outbox.waiting()
    }

    /// Resumes reading after [`ClientListener::batch_end`] has returned false.
    pub fn resume(&self) {
        if self.link.paused.swap(false, SeqCst) {
            self.link.waker.wake();
        }
    }

    /// Pauses reading after the current batch (`on` is true), or resumes it. While paused, TCP flow control
    /// applies backpressure to the server. A pause ends when the connection closes.
    pub fn hold(&self, on: bool) {
        if self.link.held.swap(on, SeqCst) && !on {
            self.link.waker.wake();
        }
    }

    /// Closes the connection (1000) after writing the queue. A `Closed` event follows.
    pub fn close(&self) {
        self.link.start_closing(1000, "");
    }

    /// Ends the connection at once, without a close frame. A `Closed` event may follow.
    pub fn destroy(&self) {
        self.link.state.store(CLOSED, SeqCst);
        self.link.outbox.close();
        if let Some(socket) = &*self.link.socket.read() {
            socket.shutdown(Shutdown::Both);
        }
        self.link.waker.wake();
    }
}

/// Key of a request at the server: the string to which JavaScript converts the ack.
#[cfg(feature = "node")]
pub(crate) fn ack_name(raw: &str) -> std::borrow::Cow<'_, str> {
    protocol::ack_key(raw)
}

/// Checks options and loads the TLS files that they name.
pub(crate) fn check(options: &ClientOptions) -> Result<Dialer> {
    options.validate()?;
    Dialer::new(options)
}

impl ClientShared {
    fn flush(&self) {
        if let Some(socket) = &*self.socket.read()
            && !matches!(self.outbox.flush(socket), Flushed::Done)
        {
            self.waker.wake();
        }
    }

    /// Shuts the socket down and drops it. Waits for a write in progress, which never blocks.
    fn drop_socket(&self) {
        if let Some(socket) = self.socket.write().take() {
            socket.shutdown(Shutdown::Both);
        }
    }

    /// Sends a close frame, unless one was sent before.
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

    /// True while reading is paused. A closing connection ignores `hold`, to read up to its end.
    fn is_held(&self) -> bool {
        // A connection whose socket has failed must read up to its end, too.
        let is_open = || self.state.load(SeqCst) == OPEN && !self.outbox.state().closed;
        self.paused.load(SeqCst) || self.held.load(SeqCst) && is_open()
    }
}

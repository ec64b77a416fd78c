//! A client of the broker: a cheap handle, and the task that owns its socket.
//!
//! The handle queues frames and writes them itself where the socket takes them, so that a send
//! needs no other thread. The task connects, reads, and writes what a full socket had refused.

mod told;

use std::{
    future::{Future, poll_fn},
    net::Shutdown,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use tokio::{
    runtime::Handle as Runtime,
    time::{Sleep, sleep, timeout},
};
use tokio_tungstenite::tungstenite::{Message, protocol::Role};

use crate::{
    dial::{bounds, dial},
    error::{ActionError, Error, Result},
    event::{ClientEvent, ClientListener},
    framing::{self, Broken, Incoming, Input, Mask, Reader},
    heartbeat::{Beat, Heartbeat},
    options::ClientOptions,
    outbox::{Flushed, Outbox, Pushed},
    protocol,
    socket::{ReadHalf, WriteHalf},
    tls::Connector,
};

/// Messages and bytes read in one turn; what a turn has read is told as one batch.
const TURN_MESSAGES: usize = 256;
const TURN_BYTES: usize = 64 << 10;

const CONNECTING: u8 = 0;
const OPEN: u8 = 1;
const CLOSING: u8 = 2;
const CLOSED: u8 = 3;

/// A connection to a broker. Clones are the same connection; dropping them does not close it.
#[derive(Clone)]
pub struct Client {
    link: Arc<Link>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("options", &self.link.options)
            .finish_non_exhaustive()
    }
}

/// What the handles and the task share.
struct Link {
    options: ClientOptions,
    /// Present if this client speaks TLS.
    tls: Option<Connector>,
    listener: Box<dyn ClientListener>,
    outbox: Outbox,
    /// Set once the handshake is done: nothing is written before.
    socket: OnceLock<WriteHalf>,
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
            let opened = open(&link).await;
            run(link, opened).await;
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
        runtime.spawn(run(client.link.clone(), Some(Ok((reader, write)))));
        Ok(client)
    }

    /// A client that has queued its registration, and has no task yet.
    fn new(
        options: ClientOptions,
        tls: Option<Connector>,
        listener: impl ClientListener,
    ) -> Result<Self> {
        let link = Arc::new(Link {
            listener: Box::new(listener),
            outbox: Outbox::new(options.high_water_mark, Mask::Random, None),
            socket: OnceLock::new(),
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
            Pushed::First | Pushed::More => Ok(()),
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
        if let Some(socket) = self.link.socket.get() {
            socket.shutdown(Shutdown::Both);
        }
        self.link.waker.wake();
    }
}

/// Checks options, and reads what those of TLS name.
pub(crate) fn check(options: &ClientOptions) -> Result<Option<Connector>> {
    options.validate()?;
    options.tls.as_ref().map(Connector::new).transpose()
}

impl Link {
    fn flush(&self) {
        if let Some(socket) = self.socket.get()
            && !matches!(self.outbox.flush(socket), Flushed::Done)
        {
            self.waker.wake();
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

    fn tell(&self, event: ClientEvent<'_>) {
        self.listener.event(event);
    }

    fn tell_closed(&self, code: Option<u16>) {
        let reason = self.reason.get().map_or("", |reason| reason);
        self.tell(ClientEvent::Closed { code, reason });
    }

    /// True while nothing may be read. Whoever closes reads on, to the end.
    fn is_held(&self) -> bool {
        // One whose socket has failed has nothing to wait for but its end.
        let is_open = || self.state.load(SeqCst) == OPEN && !self.outbox.state().closed;
        self.paused.load(SeqCst) || self.held.load(SeqCst) && is_open()
    }
}

/// The life of a connection, once it is open, or why it is not. None: it was given up.
async fn run(link: Arc<Link>, opened: Option<Result<(Reader, WriteHalf)>>) {
    match opened {
        None => {
            link.state.store(CLOSED, SeqCst);
            link.outbox.close();
            link.tell_closed(None);
        }
        Some(Err(error)) => {
            link.state.store(CLOSED, SeqCst);
            link.outbox.close();
            link.tell(ClientEvent::Error(error));
            link.tell_closed(Some(1006));
        }
        Some(Ok((reader, write))) => {
            let opened = link
                .state
                .compare_exchange(CONNECTING, OPEN, SeqCst, SeqCst);
            let code = if opened.is_ok() {
                let _ = link.socket.set(write);
                link.flush();
                link.tell(ClientEvent::Open);
                link.listener.batch_end();
                Task::new(link.clone(), reader).await
            } else {
                // Closed before it was open.
                write.shutdown(Shutdown::Both);
                None
            };
            link.state.store(CLOSED, SeqCst);
            link.outbox.close();
            if let Some(socket) = link.socket.get() {
                socket.shutdown(Shutdown::Both);
            }
            link.tell_closed(code);
        }
    }
    link.listener.batch_end();
}

/// Connects and shakes hands. None: it was given up.
async fn open(link: &Link) -> Option<Result<(Reader, WriteHalf)>> {
    let limit = link.options.connect_timeout;
    let handshake = dial(&link.options, link.tls.as_ref());
    let reaches = |state| {
        poll_fn(move |cx| {
            link.waker.register(cx.waker());
            match link.state.load(SeqCst) >= state {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
    };
    let given_up = async {
        reaches(CLOSING).await;
        // As in version 1 the handshake may come to its end, but not for longer than any close.
        let _ = timeout(link.options.close_timeout, reaches(CLOSED)).await;
    };
    tokio::select! {
        result = timeout(limit, handshake) => Some(match result {
            Ok(result) => result,
            Err(_) => Err(Error::ConnectTimeout(limit.as_millis() as u64)),
        }),
        () = given_up => None,
    }
}

/// An open connection; resolves to the code with which it has ended.
struct Task {
    link: Arc<Link>,
    reader: Reader,
    /// True while the socket may have more to read.
    readable: bool,
    /// The code with which the connection ends.
    closing: Option<u16>,
    /// The peer broke the protocol: what it still sends is thrown away.
    broken: bool,
    /// The end of closing, unless the peer still takes what is sent.
    timer: Option<Pin<Box<Sleep>>>,
    /// Bytes the peer had taken when the timer was set.
    progress: u64,
    heartbeat: Option<Heartbeat>,
}

impl Task {
    fn new(link: Arc<Link>, reader: Reader) -> Self {
        let ClientOptions {
            ping_interval,
            ping_timeout,
            ..
        } = link.options;
        Self {
            heartbeat: Heartbeat::new(ping_interval, ping_timeout),
            link,
            reader,
            readable: true,
            closing: None,
            broken: false,
            timer: None,
            progress: 0,
        }
    }

    /// Reads and tells, up to a budget. Ready when the connection has ended.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<u16> {
        if self.broken {
            return self.discard(cx);
        }
        let mut input = Input::borrow();
        let ended = self.read_turn(cx, &mut input);
        self.reader.keep(&mut input);
        input.give_back();
        let replies = self.reader.take_replies();
        let wanted = self.closing.is_some() || self.link.outbox.waiting() < framing::PONG_LIMIT;
        // Nothing follows a close frame of ours.
        if !replies.is_empty() && wanted && self.link.state.load(SeqCst) == OPEN {
            self.link.outbox.push_control(&replies);
            self.link.flush();
        }
        ended
    }

    fn read_turn(&mut self, cx: &mut Context<'_>, input: &mut Input) -> Poll<u16> {
        let mut bytes = 0;
        for _ in 0..TURN_MESSAGES {
            match self.reader.poll_message(cx, input) {
                Poll::Pending => {
                    self.readable = false;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(Incoming::Text(text))) => {
                    bytes += text.len();
                    self.tell(text);
                }
                Poll::Ready(Ok(Incoming::Message(Message::Text(text)))) => {
                    bytes += text.len();
                    self.tell(&text);
                }
                Poll::Ready(Ok(Incoming::Message(Message::Binary(_)))) => {
                    self.link.tell(ClientEvent::Refused(ActionError::NotJson));
                }
                Poll::Ready(Ok(Incoming::Message(Message::Close(frame)))) => {
                    // An empty close frame counts as 1000. The echo is among the replies.
                    let code = frame.as_ref().map_or(1000, |frame| frame.code.into());
                    self.closing = Some(code);
                    let reason = frame.map_or(String::new(), |frame| frame.reason.to_string());
                    let _ = self.link.reason.set(reason.clone());
                    if let Some(error) = Error::denied(code, reason) {
                        self.link.tell(ClientEvent::Error(error));
                    }
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(Broken::Rules { code, text })) if self.closing.is_none() => {
                    // What version 1 reports, whatever it has told the server.
                    self.closing = Some(1006);
                    self.broken = true;
                    self.link.tell(ClientEvent::Error(Error::WebSocket(text)));
                    self.link.start_closing(code, "");
                    return self.discard(cx);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(self.closing.unwrap_or(1006)),
            }
            if bytes >= TURN_BYTES {
                break;
            }
        }
        Poll::Pending
    }

    /// Reads and throws away until the peer is done: a socket closed on unread bytes would reset
    /// the connection before the peer has read our close frame.
    fn discard(&mut self, cx: &mut Context<'_>) -> Poll<u16> {
        loop {
            match self.reader.poll_discard(cx) {
                Poll::Pending => {
                    self.readable = false;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(length)) if length > 0 => {}
                Poll::Ready(_) => return Poll::Ready(self.closing.unwrap_or(1006)),
            }
        }
    }

    fn tell(&self, text: &str) {
        let action = protocol::decode_server_action(text, self.link.options.protocol);
        self.link
            .tell(action.map_or_else(ClientEvent::Refused, Into::into));
    }

    /// Ready when the server is dead.
    fn poll_heartbeat(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(heartbeat) = &mut self.heartbeat else {
            return Poll::Pending;
        };
        while heartbeat.poll(cx).is_ready() {
            let listens = !self.link.is_held();
            if !listens && self.link.outbox.waiting() == 0 {
                // The server's pings are not read: it is told unasked that we live.
                self.link.outbox.push_control(&framing::pong(Mask::Random));
                self.link.flush();
            }
            let heard = self.reader.has_heard();
            match heartbeat.beat(listens.then_some(heard), self.link.outbox.state()) {
                Beat::Rest => {}
                Beat::Ping => {
                    self.link.outbox.push_control(&framing::ping(Mask::Random));
                    self.link.flush();
                }
                Beat::Dead => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Tells the embedder when all has been written, if it wants to know.
    fn tell_drained(&self) {
        let link = &self.link;
        // Taken first: whoever wants it from here on is told later.
        if link.wants_drain.swap(false, SeqCst) {
            if link.outbox.await_empty() {
                link.tell(ClientEvent::Drain);
                link.listener.batch_end();
            } else {
                link.wants_drain.store(true, SeqCst);
            }
        }
    }
}

impl Future for Task {
    type Output = Option<u16>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<u16>> {
        let this = self.get_mut();
        this.link.waker.register(cx.waker());
        if let Some(socket) = this.link.socket.get() {
            // A dead socket is told by reading, after what came before its end.
            let _ = this.link.outbox.poll_writable(socket, cx);
        }
        this.tell_drained();
        if this.link.state.load(SeqCst) == CLOSED {
            return Poll::Ready(Some(1006));
        }
        if !this.link.is_held() {
            this.readable = true;
            let ended = this.read(cx);
            if !this.link.listener.batch_end() {
                this.link.paused.store(true, SeqCst);
                // Between the answer and the store the embedder may have caught up.
                if this.link.listener.batch_end() {
                    this.link.paused.store(false, Relaxed);
                }
            }
            if let Poll::Ready(code) = ended {
                return Poll::Ready(Some(code));
            }
            if this.readable {
                cx.waker().wake_by_ref();
            }
        }
        if this.closing.is_some() {
            this.link.state.fetch_max(CLOSING, SeqCst);
        }
        if this.link.state.load(SeqCst) == OPEN && this.poll_heartbeat(cx).is_ready() {
            return Poll::Ready(Some(1006));
        }
        if this.link.state.load(SeqCst) == CLOSING {
            let limit = this.link.options.close_timeout;
            let drained = this.link.outbox.state().drained;
            if drained > std::mem::replace(&mut this.progress, drained) {
                this.timer = None;
            }
            let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(this.closing.unwrap_or(1006)));
            }
        }
        Poll::Pending
    }
}

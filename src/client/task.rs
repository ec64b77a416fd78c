//! Task of a client: connects, reads, and writes the rest when the socket was full.

use std::{
    future::{Future, poll_fn},
    net::Shutdown,
    pin::Pin,
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    task::{Context, Poll},
};

use tokio::time::{Sleep, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{CLOSED, CLOSING, CONNECTING, ClientShared, OPEN};
use crate::{
    error::{ActionError, Error, Result},
    event::ClientEvent,
    options::ClientOptions,
    protocol,
    transport::{
        framing::{self, Broken, Incoming, Input, Mask, Reader},
        heartbeat::{Beat, Heartbeat},
        socket::WriteHalf,
    },
};

/// Maximum messages and bytes read in one turn, which is one batch for the listener.
const TURN_MESSAGES: usize = 256;
const TURN_BYTES: usize = 64 << 10;
/// Limit in bytes of a member that is neither a message, nor an error, nor a list of ids. Brokers bound ids, acks and
/// codes to less; a larger one is refused before JavaScript parses it.
const MAX_NAME: usize = 1 << 20;

/// Runs a client from the end of its handshake. `opened`: none if it was closed during the handshake.
pub(super) async fn run(link: Arc<ClientShared>, opened: Option<Result<(Reader, WriteHalf)>>) {
    match opened {
        None => {
            link.state.store(CLOSED, SeqCst);
            link.outbox.close();
            link.emit_closed(None);
        }
        Some(Err(error)) => {
            link.state.store(CLOSED, SeqCst);
            link.outbox.close();
            link.emit(ClientEvent::Error(error));
            link.emit_closed(Some(1006));
        }
        Some(Ok((reader, write))) => {
            let opened = link
                .state
                .compare_exchange(CONNECTING, OPEN, SeqCst, SeqCst);
            let code = if opened.is_ok() {
                *link.socket.write() = Some(write);
                link.flush();
                link.emit(ClientEvent::Open);
                link.listener.batch_end();
                ClientTask::new(link.clone(), reader).await
            } else {
                // Closed before it was open.
                write.shutdown(Shutdown::Both);
                drop((reader, write));
                None
            };
            link.state.store(CLOSED, SeqCst);
            link.outbox.close();
            // The descriptor is closed before the embedder gets `Closed`.
            link.drop_socket();
            link.emit_closed(code);
        }
    }
    link.listener.batch_end();
}

/// Connects and performs the handshakes. None if the client was closed meanwhile.
pub(super) async fn open(link: &ClientShared) -> Option<Result<(Reader, WriteHalf)>> {
    let dialer = link.dialer.as_ref()?;
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
        // As in version 1 the handshake may complete, but within `close_timeout`.
        let _ = timeout(link.options.close_timeout, reaches(CLOSED)).await;
    };
    tokio::select! {
        result = dialer.dial(&link.options) => Some(result),
        () = given_up => None,
    }
}

/// An open connection. Resolves to the close code.
struct ClientTask {
    link: Arc<ClientShared>,
    reader: Reader,
    /// True if the socket may have more input.
    readable: bool,
    /// Close code, once it is known.
    closing: Option<u16>,
    /// True if the server violated the protocol: further input is discarded.
    broken: bool,
    /// Close timeout. Restarted while the server still reads.
    timer: Option<Pin<Box<Sleep>>>,
    /// Bytes written when the timer was set.
    progress: u64,
    heartbeat: Option<Heartbeat>,
}

impl ClientTask {
    fn new(link: Arc<ClientShared>, reader: Reader) -> Self {
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

    /// Reads and emits events, up to the budget of a turn. Ready when the connection has ended.
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
        // No frame may follow our close frame.
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
                    self.emit(text);
                }
                Poll::Ready(Ok(Incoming::Message(Message::Text(text)))) => {
                    bytes += text.len();
                    self.emit(&text);
                }
                Poll::Ready(Ok(Incoming::Message(Message::Binary(_)))) => {
                    self.link.emit(ClientEvent::Refused(ActionError::NotJson));
                }
                Poll::Ready(Ok(Incoming::Message(Message::Close(frame)))) => {
                    // An empty close frame counts as 1000. The echo is among the automatic replies.
                    let code = frame.as_ref().map_or(1000, |frame| frame.code.into());
                    self.closing = Some(code);
                    let reason = frame.map_or(String::new(), |frame| frame.reason.to_string());
                    let _ = self.link.reason.set(reason.clone());
                    if let Some(error) = Error::denied(code, reason) {
                        self.link.emit(ClientEvent::Error(error));
                    }
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(Broken::Rules { code, text })) if self.closing.is_none() => {
                    // As in version 1: 1006 in the event, whatever code the server is sent.
                    self.closing = Some(1006);
                    self.broken = true;
                    self.link.emit(ClientEvent::Error(Error::WebSocket(text)));
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

    /// Discards input until the server closes: closing a socket with unread bytes would reset the
    /// connection before the server has read our close frame.
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

    fn emit(&self, text: &str) {
        let action = protocol::decode_server_action(text, self.link.options.protocol);
        let event = action.map_or_else(ClientEvent::Refused, Into::into);
        self.link.emit(self.bounded(event));
    }

    /// Replaces an event whose payload exceeds `max_message`, or is refused by the listener, and one whose other
    /// members are larger than those of a broker.
    fn bounded<'a>(&self, event: ClientEvent<'a>) -> ClientEvent<'a> {
        let link = &self.link;
        let is_large =
            |text: &str| text.len() > link.options.max_message || !link.listener.accepts(text);
        if event.names().iter().flatten().any(|it| it.len() > MAX_NAME) {
            return ClientEvent::Refused(ActionError::InvalidMember("a member: it is too long"));
        }
        match event {
            ClientEvent::Message {
                message: Some(message),
                ack,
                from,
                ..
            } if is_large(message) => ClientEvent::MessageTooLarge {
                ack,
                from,
                size: message.len(),
            },
            ClientEvent::Answer {
                ack,
                from,
                message,
                error,
            } => match error.or(message).filter(|text| is_large(text)) {
                Some(text) => ClientEvent::AnswerTooLarge {
                    ack,
                    from,
                    size: text.len(),
                },
                None => ClientEvent::Answer {
                    ack,
                    from,
                    message,
                    error,
                },
            },
            ClientEvent::Receipt {
                delivered, failed, ..
            } if !link.listener.accepts(delivered) || !link.listener.accepts(failed) => {
                ClientEvent::Refused(ActionError::InvalidMember("a receipt: it is too large"))
            }
            ClientEvent::History { messages, .. } if is_large(messages) => {
                ClientEvent::Refused(ActionError::InvalidMember("a history: it is too large"))
            }
            event => event,
        }
    }

    /// Ready when the server is dead.
    fn poll_heartbeat(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(heartbeat) = &mut self.heartbeat else {
            return Poll::Pending;
        };
        while heartbeat.poll(cx).is_ready() {
            let listens = !self.link.is_held();
            if !listens && self.link.outbox.waiting() == 0 {
                // While paused, the server's pings are not read: send an unsolicited pong instead.
                self.link
                    .outbox
                    .push_control(&framing::pong(&[], Mask::Random));
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

    /// Emits `Drain` if it is due and the outbox is empty.
    fn emit_drained(&self) {
        let link = &self.link;
        // Cleared before the check, so that a concurrent request for `Drain` is not lost.
        if link.wants_drain.swap(false, SeqCst) {
            if link.outbox.await_empty() {
                link.emit(ClientEvent::Drain);
                link.listener.batch_end();
            } else {
                link.wants_drain.store(true, SeqCst);
            }
        }
    }
}

impl Future for ClientTask {
    type Output = Option<u16>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<u16>> {
        let this = self.get_mut();
        this.link.waker.register(cx.waker());
        if let Some(socket) = &*this.link.socket.read() {
            // The end of a dead socket is reported by reading, after the remaining input.
            let _ = this.link.outbox.poll_writable(socket, cx);
        }
        this.emit_drained();
        if this.link.state.load(SeqCst) == CLOSED {
            return Poll::Ready(Some(1006));
        }
        if !this.link.is_held() {
            this.readable = true;
            let ended = this.read(cx);
            if !this.link.listener.batch_end() {
                this.link.paused.store(true, SeqCst);
                // The listener may have called `resume` before the store.
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

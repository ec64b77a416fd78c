//! One accepted connection: the task that reads it, routes what came, and closes it.
//!
//! A turn reads what the socket has, up to a budget; every message goes into its receivers'
//! outboxes, and at the turn's end each touched outbox is written once, from here: the receiver's
//! task is not woken for it. A receiver whose outbox is full holds this connection: it is read no
//! further until there is room, or the receiver has lost its patience.

use std::{
    cell::Cell,
    future::Future,
    net::Shutdown,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::time::{Sleep, sleep};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::{
    error::ActionError,
    event::ServerEvent,
    framing::{self, Mask, Reader},
    handle::{Close, Handle},
    outbox::Pushed,
    protocol::{self, ClientAction, Dest},
    server::Shared,
};

/// Messages and bytes read in one turn, before others get theirs.
const TURN_MESSAGES: u32 = 128;
const TURN_BYTES: usize = 64 << 10;
/// A slow reader's clock starts again whenever it has taken this many bytes.
const PROGRESS: u64 = 2 << 20;
/// Answers may fill an outbox to this multiple of its mark.
const ANSWERS: usize = 8;

/// The task of one connection.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    reader: Reader,
    /// What it registered last.
    id: Option<Arc<str>>,
    /// The id as JSON, for the messages it sends.
    from: String,
    /// A message for which a receiver had no room, and that receiver.
    waiting: Option<(Utf8Bytes, Arc<Handle>)>,
    /// True while the socket may have more to read.
    readable: bool,
    closing: bool,
    /// Bytes still read from a connection that is closing.
    discard: usize,
    /// The end of closing, or of a slow reader's time.
    timer: Option<Pin<Box<Sleep>>>,
    /// Bytes this connection had taken when the clock of a slow reader started.
    progress: u64,
}

/// What became of a message.
enum Routed {
    Done,
    /// This receiver is full: the message waits, and the connection with it.
    Held(Arc<Handle>),
}

/// One turn's bookkeeping: what is written, counted and woken at its end.
#[derive(Default)]
struct Turn {
    touched: Vec<Arc<Handle>>,
    messages_in: u32,
    messages_out: u32,
}

thread_local! {
    /// The list of touched handles, empty between turns, kept for its memory.
    static TOUCHED: Cell<Vec<Arc<Handle>>> = const { Cell::new(Vec::new()) };
}

impl Turn {
    /// Notes what a push came to; false if the receiver has ended.
    fn pushed(&mut self, handle: &Arc<Handle>, pushed: Pushed) -> bool {
        if pushed == Pushed::First {
            self.touched.push(handle.clone());
        }
        pushed != Pushed::Closed
    }

    /// The same for a message or an answer, which counts.
    fn delivered(&mut self, handle: &Arc<Handle>, pushed: Pushed) -> bool {
        self.messages_out += u32::from(pushed != Pushed::Closed);
        self.pushed(handle, pushed)
    }
}

impl Connection {
    /// A connection whose handshake is done.
    pub(crate) fn new(shared: Arc<Shared>, handle: Arc<Handle>, reader: Reader) -> Self {
        let discard = shared.options.max_payload;
        Self {
            shared,
            handle,
            reader,
            id: None,
            from: String::new(),
            waiting: None,
            readable: true,
            closing: false,
            discard,
            timer: None,
            progress: 0,
        }
    }

    /// Reads and routes, up to a budget.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut turn = Turn {
            touched: TOUCHED.take(),
            ..Turn::default()
        };
        let ended = self.read_turn(cx, &mut turn);
        self.send_replies();
        for handle in turn.touched.drain(..) {
            handle.flush();
        }
        TOUCHED.set(turn.touched);
        let metrics = &self.shared.metrics;
        metrics
            .messages_in
            .fetch_add(turn.messages_in.into(), Relaxed);
        metrics
            .messages_out
            .fetch_add(turn.messages_out.into(), Relaxed);
        ended
    }

    /// Sends what the WebSocket protocol answers by itself: pongs, and the echo of a close frame.
    fn send_replies(&mut self) {
        let replies = self.reader.take_replies();
        if !replies.is_empty()
            && (self.closing || self.handle.outbox.waiting() < framing::PONG_LIMIT)
        {
            self.handle.outbox.push_control(&replies);
            self.handle.flush();
        }
    }

    fn read_turn(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<()> {
        if let Some((text, receiver)) = self.waiting.take() {
            if receiver.outbox.hold(self.handle.key, cx.waker()) {
                self.waiting = Some((text, receiver));
            } else {
                self.route(text, cx, turn);
            }
            if self.waiting.is_some() {
                return Poll::Pending;
            }
        }
        let mut bytes = 0;
        while turn.messages_in < TURN_MESSAGES && bytes < TURN_BYTES {
            match self.reader.poll_message(cx) {
                Poll::Pending => {
                    self.readable = false;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(Message::Text(text))) => {
                    turn.messages_in += 1;
                    bytes += text.len();
                    self.route(text, cx, turn);
                    if self.waiting.is_some() {
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Ok(Message::Binary(_))) => {
                    turn.messages_in += 1;
                    self.refused(ActionError::Binary, None);
                }
                Poll::Ready(Ok(Message::Close(_))) => {
                    // The echo is among the replies.
                    self.start_closing();
                    return Poll::Pending;
                }
                // Pings are answered by the reader; they count against the turn.
                Poll::Ready(Ok(_)) => turn.messages_in += 1,
                Poll::Ready(Err(error)) => {
                    let Some(code) = framing::violation(&error) else {
                        return Poll::Ready(());
                    };
                    self.shared.metrics.violations.fetch_add(1, Relaxed);
                    // Nothing may follow our close frame.
                    self.send_replies();
                    self.close(Close::Violation(code));
                    return Poll::Pending;
                }
            }
        }
        Poll::Pending
    }

    /// Carries out one action, or keeps it waiting.
    fn route(&mut self, text: Utf8Bytes, cx: &mut Context<'_>, turn: &mut Turn) {
        let result = match protocol::decode_client_action(&text) {
            Ok(ClientAction::Send { message, dest, ack }) => {
                match self.send(message, dest, ack, cx, turn) {
                    Ok(Routed::Held(receiver)) => {
                        self.waiting = Some((text, receiver));
                        return;
                    }
                    Ok(Routed::Done) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            Ok(ClientAction::Answer { ack, message }) => {
                self.answer(ack, message, turn);
                Ok(())
            }
            Ok(ClientAction::Register { id }) => self.register(id, turn),
            Ok(ClientAction::Unregister) => {
                self.unregister(true, turn);
                self.shared.router.requests.withdraw(&self.handle);
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.refused(error, Some(&text));
        }
    }

    fn send(
        &mut self,
        message: &str,
        dest: &str,
        ack: Option<&str>,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) -> Result<Routed, ActionError> {
        match protocol::decode_dest(dest, self.shared.options.max_dest)? {
            Dest::One(id) => match self.shared.router.find(&id) {
                None => self.unknown(&id),
                Some(receiver) => {
                    if self.is_held_by(&receiver, cx) {
                        return Ok(Routed::Held(receiver));
                    }
                    self.await_answer(ack, std::slice::from_ref(&receiver))?;
                    let frame = protocol::message(message, ack, self.from());
                    if !turn.delivered(&receiver, receiver.outbox.push(&frame)) {
                        self.unknown(&id);
                    }
                }
            },
            Dest::Many(ids) => {
                let found: Vec<_> = ids.iter().map(|id| self.shared.router.find(id)).collect();
                if let Some(full) = found
                    .iter()
                    .flatten()
                    .find(|full| self.is_held_by(full, cx))
                {
                    return Ok(Routed::Held(full.clone()));
                }
                let receivers: Vec<_> = found.iter().flatten().cloned().collect();
                self.await_answer(ack, &receivers)?;
                // Encoded once, whatever the number of receivers.
                let pieces = protocol::message(message, ack, self.from());
                let length = pieces.iter().map(|piece| piece.len()).sum();
                let mut frame = Vec::with_capacity(framing::frame_size(length, Mask::None));
                framing::encode_text(&pieces, length, Mask::None, &mut frame);
                let frame = frame.into();
                for (id, receiver) in ids.iter().zip(&found) {
                    let delivered = receiver.as_ref().is_some_and(|receiver| {
                        turn.delivered(receiver, receiver.outbox.push_encoded(&frame))
                    });
                    if !delivered {
                        self.unknown(id);
                    }
                }
            }
        }
        Ok(Routed::Done)
    }

    /// True if the receiver is full: this connection is woken when it has room again.
    fn is_held_by(&self, receiver: &Arc<Handle>, cx: &Context<'_>) -> bool {
        if !receiver.outbox.is_full() {
            return false;
        }
        if receiver.strict.load(Relaxed) {
            receiver.request_close(Close::Slow);
        }
        // What this turn has promised to write may be what fills it.
        receiver.flush();
        let held = receiver.outbox.hold(self.handle.key, cx.waker());
        if held {
            // Its task starts the clock.
            receiver.waker.wake();
        }
        held
    }

    /// Keeps a request open, if there is an ack and anybody to answer it.
    fn await_answer(
        &self,
        ack: Option<&str>,
        receivers: &[Arc<Handle>],
    ) -> Result<(), ActionError> {
        match ack {
            Some(ack) if protocol::is_truthy(ack) && !receivers.is_empty() => {
                let requests = &self.shared.router.requests;
                let key = protocol::ack_key(ack);
                let (length, limit) = (key.len(), self.shared.options.max_id_length);
                if length > limit {
                    return Err(ActionError::AckTooLong(length, limit));
                }
                // Rule 7.9: who has no id is not answered, but may not take an ack either.
                match self.id {
                    Some(_) => requests.open(&key, &self.handle, receivers, Instant::now()),
                    None => requests.check(&key, &self.handle),
                }
            }
            _ => Ok(()),
        }
    }

    fn answer(&mut self, ack: &str, message: Option<&str>, turn: &mut Turn) {
        let key = protocol::ack_key(ack);
        let Some(asker) = self
            .shared
            .router
            .requests
            .answer(&key, &self.handle, Instant::now())
        else {
            return;
        };
        let mark = self.shared.options.max_backpressure;
        if asker.outbox.waiting() >= mark {
            asker.outbox.press();
            match asker.outbox.waiting() >= mark.saturating_mul(ANSWERS) {
                true => return asker.request_close(Close::Slow),
                false => asker.waker.wake(),
            }
        }
        let frame = protocol::answer(ack, self.from(), message);
        turn.delivered(&asker, asker.outbox.push(&frame));
    }

    fn register(&mut self, id: &str, turn: &mut Turn) -> Result<(), ActionError> {
        let id = protocol::decode_id(id, self.shared.options.max_id_length)?;
        if self.id.as_deref().is_some_and(|former| former != id) {
            self.unregister(false, turn);
        }
        let id: Arc<str> = id.into();
        self.from = protocol::json_string(&id);
        let Self {
            shared,
            handle,
            from,
            ..
        } = self;
        shared
            .router
            .register(&id, handle, Instant::now(), |replaced| {
                // Told before the peer knows: what it does next is told later.
                let event = ServerEvent::Registered { id: &id, replaced };
                shared.listener.event(event);
                turn.pushed(handle, handle.outbox.push(&protocol::registered(from)));
            });
        self.id = Some(id);
        Ok(())
    }

    /// Gives up the id, if it is still ours; `tell`: with a frame to the peer.
    fn unregister(&mut self, tell: bool, turn: &mut Turn) {
        let Some(id) = self.id.take() else { return };
        let Self {
            shared,
            handle,
            from,
            ..
        } = self;
        shared.router.unregister(&id, handle, || {
            shared.listener.event(ServerEvent::Unregistered(&id));
            if tell {
                turn.pushed(handle, handle.outbox.push(&protocol::unregistered(from)));
            }
        });
    }

    /// The id as JSON, if we own one.
    fn from(&self) -> Option<&str> {
        self.handle.owner.load(Relaxed).then_some(&self.from)
    }

    fn unknown(&self, id: &str) {
        self.shared.metrics.unknown_ids.fetch_add(1, Relaxed);
        // Longer ones exist nowhere; their beginning tells enough.
        let shown = protocol::shorten(id, self.shared.options.max_id_length);
        self.shared.listener.event(ServerEvent::UnknownId(shown));
    }

    fn refused(&self, error: ActionError, text: Option<&str>) {
        self.shared.metrics.errors.fetch_add(1, Relaxed);
        self.shared
            .listener
            .event(ServerEvent::Refused { error, text });
    }

    /// Closes from our side.
    fn close(&mut self, close: Close) {
        if self.closing {
            return;
        }
        if close == Close::Slow {
            // An id that was taken over is not the one that is slow.
            let id = self.id.as_ref().filter(|_| self.from().is_some());
            self.shared.metrics.slow.fetch_add(1, Relaxed);
            if let Some(id) = id {
                self.shared.router.strike(id, Instant::now());
            }
            let event = ServerEvent::Slow(id.map(|id| &**id));
            self.shared.listener.event(event);
            self.handle.outbox.discard();
        }
        self.start_closing();
        let frame = framing::close_frame(Some(close.code()), close.reason(), Mask::None);
        self.handle.outbox.push_control(&frame);
        self.handle.flush();
    }

    /// From here on nothing is routed: what waits is written, what comes is thrown away.
    fn start_closing(&mut self) {
        self.leave();
        // Those who wait for room here find the id gone.
        self.handle.outbox.start_closing();
        if let Some((_, receiver)) = self.waiting.take() {
            receiver.outbox.unhold(self.handle.key);
        }
        self.closing = true;
        self.timer = Some(Box::pin(sleep(self.shared.options.close_timeout)));
    }

    /// Gives up the id and all requests.
    fn leave(&mut self) {
        self.unregister(false, &mut Turn::default());
        self.shared.router.requests.leave(&self.handle);
    }

    /// Ready when the connection has ended.
    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.handle.outbox.state();
        if state.closed {
            return Poll::Ready(());
        }
        if state.empty {
            self.handle.socket().shutdown(Shutdown::Write);
        }
        loop {
            match self.reader.poll_discard(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(length)) if length > 0 && length <= self.discard => {
                    self.discard -= length;
                }
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }

    /// Writes what a full socket had refused, once it takes something again.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.handle.outbox.state().blocked {
            match self.handle.socket().poll_writable(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {
                    self.handle.outbox.unblock();
                    self.handle.flush();
                }
            }
        }
        match self.handle.outbox.state().closed {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Closes this connection when others have waited too long for it.
    fn poll_patience(&mut self, cx: &mut Context<'_>) {
        let state = self.handle.outbox.state();
        if !state.pressed {
            self.timer = None;
            return;
        }
        let patience: Duration = self.shared.options.slow_consumer_timeout;
        if self.timer.is_none() || state.drained >= self.progress + PROGRESS {
            self.progress = state.drained;
            self.timer = Some(Box::pin(sleep(patience)));
        }
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.close(Close::Slow);
        }
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.handle.waker.register(cx.waker());
        if this.poll_writable(cx).is_ready() {
            return Poll::Ready(());
        }
        if !this.closing {
            if let Some(close) = this.handle.requested_close() {
                this.close(close);
            } else {
                this.readable = true;
                if this.read(cx).is_ready() {
                    return Poll::Ready(());
                }
                // The end of closing has its time in the same timer.
                if !this.closing {
                    this.poll_patience(cx);
                }
                if this.readable && this.waiting.is_none() && !this.closing {
                    // The budget is used up: others first.
                    cx.waker().wake_by_ref();
                }
            }
        }
        if !this.closing {
            return Poll::Pending;
        }
        // A flush of the close frame may have found the socket full.
        if this.poll_writable(cx).is_ready() {
            return Poll::Ready(());
        }
        this.poll_closing(cx)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.leave();
        self.handle.destroy();
        self.shared.forget(&self.handle);
    }
}

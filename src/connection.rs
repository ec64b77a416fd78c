//! One accepted connection: the task that reads it, routes what came, and closes it.
//!
//! A turn reads what the socket has, up to a budget; every message goes into its receivers'
//! outboxes, and at the turn's end each touched outbox is written once, from here: the receiver's
//! task is not woken for it. A receiver whose outbox is full holds this connection: it is read no
//! further until there is room, or the receiver has lost its patience.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `connection` | the task: reading, writing, and what comes first |
//! | `routing` | what a `send` does |
//! | `asking` | acks and answers, and what becomes known of a message to whoever sent it |
//! | `far` | the same with other brokers |
//! | `lookup` | ids that are not registered here: which of them other brokers have |
//! | `telling` | what others are told of a request beside its answer |
//! | `registration` | `register` and `unregister`, and who may |
//! | `turn` | what is written, counted and woken at a turn's end |
//! | `clocks` | heartbeat, deadlines, patience, rate limit |
//! | `closing` | the way out |

mod answer;
mod clocks;
mod closing;
mod lookup;
mod notify;
mod register;
mod remote;
mod request;
mod send;
#[cfg(test)]
mod tests;
mod turn;

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Instant,
};

use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::{
    auth::Authenticator,
    broker::{
        Broker,
        handle::{Close, Handle},
        requests::DeliveryError,
    },
    error::ActionError,
    memory::{CONNECTION, Charge},
    protocol::{self, ClientAction},
    transport::{
        framing::{self, Broken, Incoming, Input, Reader},
        heartbeat::Heartbeat,
    },
};
use clocks::{Rate, Window};
use register::AuthState;
pub(crate) use register::Peer;
use send::RecentReceivers;
use turn::Turn;

/// A clock that may run.
type Timer = Option<Pin<Box<Sleep>>>;

/// The task of one connection.
pub(crate) struct Connection {
    broker: Arc<Broker>,
    handle: Arc<Handle>,
    reader: Reader,
    /// What it registered last.
    id: Option<Arc<str>>,
    /// The id as JSON, for the messages it sends.
    from: String,
    access: AuthState,
    /// What is known of the peer from its handshake, if somebody wants to know.
    peer: Option<Peer>,
    /// A message for which a receiver had no room, and that receiver.
    waiting: Option<(Utf8Bytes, Arc<Handle>)>,
    /// What is known of its ids, where it is for many.
    lookups: Option<Box<lookup::PendingLookups>>,
    /// Whoever it answered last at another broker, if more answers wait for that than may.
    answered: Option<Arc<Handle>>,
    /// True while the socket may have more to read.
    readable: bool,
    closing: bool,
    /// Bytes still read from a connection that is closing.
    discard: usize,
    /// The end of closing, or of a slow reader's time.
    timer: Timer,
    /// Bytes this connection had taken when the clock of a slow reader started.
    progress: u64,
    /// The end of the time for which it may delay others.
    delay_timer: Timer,
    recent: RecentReceivers,
    /// Memory was short when it added to what waits for another: it is read no further until there is
    /// enough again.
    over_share: bool,
    /// The end of the time to register, or of what was granted.
    deadline: Timer,
    heartbeat: Option<Heartbeat>,
    rate: Option<Rate>,
    /// Pings and pongs in this second.
    controls: Window,
    /// Refused actions in this minute.
    refusals: Window,
    /// Renewals of what was granted, in this second.
    renewals: Window,
    /// Bytes of memory that it takes while it has nothing to do.
    itself: usize,
    /// Its own memory: that, its id, and what it has read but not yet passed on.
    charge: Charge,
}

impl Connection {
    /// A connection whose handshake is done.
    pub(crate) fn new(
        broker: Arc<Broker>,
        handle: Arc<Handle>,
        reader: Reader,
        peer: Option<Peer>,
    ) -> Self {
        let options = &broker.options;
        let peer_memory = peer.as_ref().map_or(0, Peer::memory);
        let itself = CONNECTION + peer_memory;
        // Nobody asks himself who he is.
        let gate = match handle.participant {
            true => &Authenticator::Free,
            false => &broker.authenticator,
        };
        let mut connection = Self {
            access: AuthState::new(gate),
            // In between there is nothing that could die silently.
            heartbeat: (!handle.participant)
                .then(|| Heartbeat::new(options.ping_interval, options.ping_timeout))
                .flatten(),
            rate: options
                .rate_limit
                .filter(|_| !handle.participant)
                .map(|limit| Rate::new(limit, Instant::now())),
            charge: Charge::new(&broker.memory, itself),
            itself,
            discard: options.max_payload,
            id: None,
            from: String::new(),
            peer,
            waiting: None,
            lookups: None,
            answered: None,
            readable: true,
            closing: false,
            timer: None,
            progress: 0,
            delay_timer: None,
            recent: RecentReceivers::default(),
            over_share: false,
            deadline: None,
            controls: Window::default(),
            refusals: Window::default(),
            renewals: Window::default(),
            broker,
            handle,
            reader,
        };
        connection.await_registration();
        connection
    }

    /// Reads and routes, up to a budget.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut turn = Turn::begin();
        let mut input = Input::borrow();
        let ended = self.read_turn(cx, &mut turn, &mut input);
        self.reader.keep(&mut input);
        input.give_back();
        self.deliver(&mut turn);
        self.notify(&mut turn);
        self.send_replies();
        turn.flush();
        let metrics = &self.broker.metrics;
        metrics
            .messages_in
            .fetch_add(turn.messages_in.into(), Relaxed);
        metrics
            .messages_out
            .fetch_add(turn.messages_out.into(), Relaxed);
        turn.end();
        self.settle();
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

    fn read_turn(&mut self, cx: &mut Context<'_>, turn: &mut Turn, input: &mut Input) -> Poll<()> {
        if let Some((text, mut receiver)) = self.waiting.take() {
            let waits = match receiver
                .outbox
                .add_waiter(self.handle.key, cx.waker(), false)
            {
                true => true,
                false => match self.route(&text, cx, turn) {
                    Some(full) => {
                        receiver = full;
                        true
                    }
                    None => false,
                },
            };
            self.waiting = waits.then_some((text, receiver));
        }
        loop {
            // Before the budget is looked at: the last message of a turn may be a registration, whose
            // decision wakes this task only if it was polled. All else that this connection may wait
            // for is armed where it begins (a receiver's room), at the end of `poll` (the rate, the
            // clocks), or asked of `handle.waker`, which was registered before (memory, a close).
            self.poll_access(cx, turn);
            if !turn.goes_on() || self.is_paused(cx) {
                return Poll::Pending;
            }
            match self.reader.poll_message(cx, input) {
                Poll::Pending => {
                    // It may only have come to the end of what it is allowed.
                    self.readable = self.reader.allowance() == Some(0);
                    if !self.readable {
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Ok(Incoming::Text(text))) => {
                    turn.took(text.len());
                    self.took_message();
                    if let Some(receiver) = self.route(text, cx, turn) {
                        self.waiting = Some((text.into(), receiver));
                    }
                }
                Poll::Ready(Ok(Incoming::Message(Message::Text(text)))) => {
                    turn.took(text.len());
                    self.took_message();
                    if let Some(receiver) = self.route(&text, cx, turn) {
                        self.waiting = Some((text, receiver));
                    }
                }
                Poll::Ready(Ok(Incoming::Message(Message::Binary(_)))) => {
                    turn.took(0);
                    self.took_message();
                    match self.access.is_open() {
                        true => self.refused(ActionError::Binary, None, turn),
                        false => self.deny_stranger(),
                    }
                }
                Poll::Ready(Ok(Incoming::Message(Message::Close(_)))) => {
                    self.deliver(turn);
                    // The echo is among the replies.
                    self.start_closing(DeliveryError::Gone);
                }
                // Pings are answered by the reader; they count against the turn.
                Poll::Ready(Ok(_)) => {
                    turn.read += 1;
                    self.took_message();
                    self.deliver(turn);
                    // One may be too many.
                    self.control_frame();
                }
                Poll::Ready(Err(Broken::Lost)) => return Poll::Ready(()),
                Poll::Ready(Err(Broken::Rules { code, .. })) => {
                    self.deliver(turn);
                    self.broker.metrics.violations.fetch_add(1, Relaxed);
                    self.close(&Close::Violation(code));
                }
            }
        }
    }

    /// True while nothing more may be read.
    fn is_paused(&mut self, cx: &mut Context<'_>) -> bool {
        self.closing
            || self.waiting.is_some()
            || self.answered.is_some() && self.has_answered_much(cx)
            || self.access.is_pending()
            // Whoever would need much of what is short waits until there is enough again.
            || (self.broker.memory.share())
                .is_some_and(|share| self.over_share || self.reader.part() > share)
            || self.is_throttled(cx)
    }

    /// Carries out one action. Returns the connection whose outbox is full, if the action is to
    /// wait for it: then nothing was done.
    fn route(&mut self, text: &str, cx: &mut Context<'_>, turn: &mut Turn) -> Option<Arc<Handle>> {
        let action = protocol::decode_client_action(text);
        // Only sends are collected: all else comes behind them.
        if !matches!(action, Ok(ClientAction::Send { .. })) {
            self.deliver(turn);
        }
        let result = match action {
            // These are answered, whether the answers are read or not.
            Ok(ClientAction::Register { .. } | ClientAction::Unregister) if self.is_full(cx) => {
                return Some(self.handle.clone());
            }
            Ok(ClientAction::Register {
                id,
                token,
                protocol,
            }) => self.register(id, token, protocol, turn),
            Ok(_) | Err(_) if !self.access.is_open() => {
                self.deny_stranger();
                return None;
            }
            Ok(ClientAction::Send {
                message,
                dest,
                ack,
                wanted,
            }) => match self.send(message, dest, ack, wanted.as_deref(), cx, turn) {
                Ok(None) => Ok(()),
                Ok(full) => return full,
                Err(error) => Err(error),
            },
            Ok(ClientAction::Answer {
                ack,
                message,
                error,
            }) => match error.filter(|_| self.handle.speaks_2()) {
                None => self.answer(ack, Ok(message), turn),
                Some(error) => self.answer(ack, Err(error), turn),
            },
            Ok(ClientAction::Unregister) => {
                self.unregister(true, turn);
                let requests = &self.broker.registry.requests;
                requests.cancel_all(&self.handle, &mut turn.outcomes);
                self.await_registration();
                Ok(())
            }
            Ok(ClientAction::Cancel { ack }) => self.cancel(ack, turn),
            Err(error) => Err(error),
        };
        if !turn.outcomes.is_empty() {
            self.notify(turn);
        }
        if let Err(error) = result {
            self.refused(error, Some(text), turn);
        }
        None
    }

    /// Charges what has been read and not yet passed on.
    fn settle(&mut self) {
        self.over_share &= self.broker.memory.is_short();
        let waiting = self.waiting.as_ref().map_or(0, |(text, _)| text.len());
        let reading = self.reader.held() + waiting;
        let id = self.id.as_ref().map_or(0, |id| id.len()) + self.from.len();
        let held = self.itself + id + self.access.memory() + reading;
        let socket = self.handle.socket().memory() + self.reader.held_by_socket();
        self.handle.held.store(held + socket, Relaxed);
        self.charge.set(held);
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.handle.waker.register(cx.waker());
        if this.handle.poll_writable(cx).is_ready() {
            return Poll::Ready(());
        }
        if !this.closing {
            if let Some(close) = this.handle.requested_close() {
                this.close(&close);
            } else {
                this.readable = true;
                if this.read(cx).is_ready() || this.poll_clocks(cx).is_ready() {
                    return Poll::Ready(());
                }
                if this.readable && !this.closing && !this.is_paused(cx) {
                    // The budget is used up: others first.
                    cx.waker().wake_by_ref();
                }
            }
        }
        if !this.closing {
            return Poll::Pending;
        }
        // A flush of the close frame may have found the socket full.
        if this.handle.poll_writable(cx).is_ready() {
            return Poll::Ready(());
        }
        this.poll_closing(cx)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.leave(DeliveryError::Gone);
        self.wait_no_longer();
        self.handle.destroy();
        self.broker.remove_connection(&self.handle);
    }
}

//! One accepted connection: the task that reads it, executes its commands, and closes it.
//!
//! A turn reads what the socket has, up to a budget. Messages go into the outboxes of their receivers, and
//! at the end of the turn this task flushes each touched outbox once, without waking the receiver's task.
//! If a receiver's outbox is full, this connection stops reading until there is room or the receiver is
//! closed as slow (backpressure).
//!
//! | file | contents |
//! | --- | --- |
//! | `connection` | the task: reads, decodes, dispatches commands |
//! | `send` | the command `send` and its options; delivers a message to one id |
//! | `send_many` | delivers a message to many ids |
//! | `publish` | delivers a message to the subscribers of a topic |
//! | `publish_kept` | delivers messages that are kept |
//! | `replay` | sends kept messages; the command `history` |
//! | `send_mail` | sends messages to mailboxes |
//! | `mail` | opens mailboxes, and delivers their messages |
//! | `publish_request` | asks the subscribers of a topic |
//! | `subscribe` | the commands `subscribe`, `unsubscribe` and `acknowledge` |
//! | `watch` | the commands `watch` and `unwatch` |
//! | `request` | requests, reports and receipts of a `send`; the command `cancel` |
//! | `remote` | receivers at other brokers: finds one, sends to it |
//! | `lookup` | lookup of the ids of a message to many ids at other brokers |
//! | `answer` | the command `answer` |
//! | `session` | the session of a connection, which survives the loss of its socket |
//! | `register` | the commands `register` and `unregister`, and authentication |
//! | `waiting` | a message that waits for room, and the receivers delayed meanwhile |
//! | `turn` | budget, batch, notifications, errors and flushes of one turn |
//! | `clocks` | heartbeat, deadlines, slow-consumer timers, rate limit |
//! | `closing` | close handshake and cleanup |

mod answer;
mod clocks;
mod closing;
mod lookup;
mod mail;
mod publish;
mod publish_kept;
mod publish_request;
mod register;
mod remote;
mod replay;
mod request;
mod send;
mod send_mail;
mod send_many;
mod session;
mod subscribe;
#[cfg(test)]
mod tests;
mod turn;
mod waiting;
mod watch;

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Instant,
};

use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    auth::{Authenticator, Peer},
    broker::{
        Broker,
        handle::{Close, Handle},
        requests::DeliveryError,
    },
    error::ActionError,
    memory::{CONNECTION, Charge},
    metrics::CloseReason,
    protocol::{self, ClientAction},
    transport::{
        framing::{self, Broken, Incoming, Input, Reader},
        heartbeat::Heartbeat,
    },
};
use clocks::{Rate, Window};
use closing::Ended;
use register::AuthState;
pub(crate) use session::Progress;
use session::SessionState;
use turn::Turn;
use waiting::{RecentReceivers, Waiting};

/// Maximum number of turns in which a connection reads after its socket has failed.
const LAST_TURNS: usize = 64;

/// Timer, if it is running.
type Timer = Option<Pin<Box<Sleep>>>;

/// Task of one connection.
pub(crate) struct Connection {
    broker: Arc<Broker>,
    handle: Arc<Handle>,
    reader: Reader,
    /// The id that it registered last.
    id: Option<Arc<str>>,
    /// The id as JSON, for the messages it sends.
    from: String,
    access: AuthState,
    /// Data from the handshake, if a hook authenticates clients.
    peer: Option<Box<Peer>>,
    /// The message that waits for room in a receiver's outbox.
    waiting: Option<Box<Waiting>>,
    /// Lookups of a message to many ids that waits for them.
    lookups: Option<Box<lookup::PendingLookups>>,
    /// Remote asker that was answered last, if its outbox is full.
    answered: Option<Arc<Handle>>,
    /// The replay of kept messages that is being read.
    replaying: Option<Box<replay::Replaying>>,
    /// True while it does not read because the store has many messages to write.
    awaits_store: bool,
    /// The page of a mailbox that is being read.
    reading_mail: Option<Box<mail::ReadingMail>>,
    /// True while it waits for a permit to read kept messages.
    awaits_permit: bool,
    /// The `history` that is being read.
    reading_history: Option<Box<replay::ReadingHistory>>,
    /// True if the socket may have more input.
    readable: bool,
    closing: bool,
    /// Its session; none without one.
    session: Option<Box<SessionState>>,
    /// How it has ended, once it has.
    ended: Option<Box<Ended>>,
    /// Bytes that may still be discarded from a closing connection.
    discard: usize,
    /// Close timeout, or slow-consumer timeout.
    timer: Timer,
    /// Bytes written when the slow-consumer timer was started.
    progress: u64,
    /// Runs out when the connection has used up its budget for delaying others.
    delay_timer: Timer,
    recent: RecentReceivers,
    /// True if memory was short when it filled another outbox: it stops reading until memory is available.
    over_share: bool,
    /// Timeout for the registration, or expiry of the grant.
    deadline: Timer,
    heartbeat: Option<Heartbeat>,
    rate: Option<Box<Rate>>,
    /// Pings and pongs in the current second.
    controls: Window,
    /// Refused actions in the current minute.
    refusals: Window,
    /// Renewals of the grant in the current second.
    renewals: Window,
    /// Bytes of memory that it takes while idle.
    itself: usize,
    /// Memory charged for the task: `itself`, the id, and input not yet routed.
    charge: Charge,
}

impl Connection {
    /// Connection whose handshake is complete.
    pub(crate) fn new(
        broker: Arc<Broker>,
        handle: Arc<Handle>,
        reader: Reader,
        peer: Option<Peer>,
    ) -> Self {
        let options = &broker.options;
        let peer_memory = peer.as_ref().map_or(0, Peer::memory);
        let itself = CONNECTION + peer_memory;
        // The participant is not authenticated.
        let gate = match handle.participant {
            true => &Authenticator::Free,
            false => &broker.authenticator,
        };
        let mut connection = Self {
            access: AuthState::new(gate),
            // The participant has no network in between that could fail silently.
            heartbeat: (!handle.participant)
                .then(|| Heartbeat::new(options.ping_interval, options.ping_timeout))
                .flatten(),
            rate: options
                .rate_limit
                .filter(|_| !handle.participant)
                .map(|limit| Box::new(Rate::new(limit, Instant::now()))),
            charge: Charge::new(&broker.memory, itself),
            itself,
            discard: options.max_payload,
            id: None,
            from: String::new(),
            peer: peer.map(Box::new),
            waiting: None,
            lookups: None,
            answered: None,
            replaying: None,
            awaits_store: false,
            reading_mail: None,
            awaits_permit: false,
            reading_history: None,
            readable: true,
            closing: false,
            session: None,
            ended: None,
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

    /// Reads and executes commands, up to the budget of a turn.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut turn = Turn::begin();
        let mut input = Input::borrow();
        let ended = self.read_turn(cx, &mut turn, &mut input);
        self.reader.keep(&mut input);
        input.give_back();
        self.deliver(&mut turn);
        self.notify(&mut turn);
        if self.handle.has_replays() && !self.handle.is_suspended() {
            // Before the flush: the first messages of a replay go out with the response to `subscribe`.
            self.replay(cx);
        }
        if self.handle.has_mail() && !self.handle.is_suspended() {
            self.take_mail(cx, &mut turn);
        }
        self.send_replies();
        turn.flush();
        self.count(&turn);
        self.awaits_store |= turn.awaits_store;
        if self.session.is_some() {
            self.count_for_session(turn.messages_in, turn.bytes);
        }
        turn.end();
        self.update_charge();
        ended
    }

    /// Reads what has arrived on a socket that accepts no bytes any more: its peer may have ended the session, which
    /// then is not suspended.
    #[cold]
    fn read_rest(&mut self, cx: &mut Context<'_>) {
        for _ in 0..LAST_TURNS {
            if self.session.is_none() || self.closing || self.is_paused(cx) {
                return;
            }
            self.readable = true;
            if self.read(cx).is_ready() || !self.readable {
                return;
            }
        }
    }

    /// Counts the messages of a turn.
    fn count(&self, turn: &Turn) {
        if turn.messages_in == 0 && turn.messages_out == 0 {
            return;
        }
        let metrics = &self.broker.metrics;
        let counters = &metrics.turns;
        let (received, sent) = (turn.messages_in.into(), turn.messages_out.into());
        counters.messages_in.fetch_add(received, Relaxed);
        counters.messages_out.fetch_add(sent, Relaxed);
        (counters.received_bytes).fetch_add(turn.bytes as u64, Relaxed);
        (self.handle).count_received(turn.messages_in, turn.bytes);
        if let Some(begin) = turn.begin {
            metrics.routing.record(begin.elapsed());
        }
    }

    /// Sends automatic replies of the WebSocket protocol: pongs, and the echo of a close frame.
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
        self.retry(cx, turn);
        loop {
            // Before the budget check: the last message of a turn may be a registration, whose decision
            // wakes this task only if it was polled. Other wake-ups are registered elsewhere: room in an
            // outbox where the wait begins, rate limit and timers at the end of `poll`, memory and close
            // requests through `handle.waker`.
            self.poll_access(cx, turn);
            if !turn.has_budget() || self.is_paused(cx) {
                return Poll::Pending;
            }
            match self.reader.poll_message(cx, input) {
                Poll::Pending => {
                    // The reader may have stopped at its rate allowance, not at the end of the input.
                    self.readable = self.reader.allowance() == Some(0);
                    if !self.readable {
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Ok(Incoming::Text(text))) => {
                    turn.count_message(text.len());
                    self.on_message();
                    if let Some(receiver) = self.route(text, cx, turn) {
                        self.waiting = Some(Waiting::new(&self.broker, text.into(), receiver, cx));
                    }
                }
                Poll::Ready(Ok(Incoming::Message(Message::Text(text)))) => {
                    turn.count_message(text.len());
                    self.on_message();
                    if let Some(receiver) = self.route(&text, cx, turn) {
                        self.waiting = Some(Waiting::new(&self.broker, text, receiver, cx));
                    }
                }
                Poll::Ready(Ok(Incoming::Message(Message::Binary(_)))) => {
                    turn.count_message(0);
                    self.on_message();
                    match self.access.is_open() {
                        true => self.refused(ActionError::Binary, None, turn),
                        false => self.deny_unregistered(),
                    }
                }
                Poll::Ready(Ok(Incoming::Message(Message::Close(frame)))) => {
                    self.deliver(turn);
                    let code = frame.map(|frame| frame.code.into());
                    // A page that goes away (1001) may be loaded again.
                    self.handle
                        .set_has_left(code.is_none_or(|code| code == 1000));
                    self.ends(CloseReason::Client, code);
                    // The echo is among the automatic replies.
                    self.start_closing(DeliveryError::Gone);
                }
                // Pings are answered by the reader; they count against the budget.
                Poll::Ready(Ok(_)) => {
                    turn.read += 1;
                    self.on_message();
                    self.deliver(turn);
                    // Closes the connection if there were too many.
                    self.control_frame();
                }
                Poll::Ready(Err(Broken::Lost)) => return Poll::Ready(()),
                Poll::Ready(Err(Broken::Rules { code, .. })) => {
                    self.deliver(turn);
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
            || self.awaits_store && self.is_store_busy(cx)
            // Memory is short: a connection in the middle of a message larger than its share stops reading.
            || (self.broker.memory.share())
                .is_some_and(|share| self.over_share || self.reader.part() > share)
            || self.is_throttled(cx)
    }

    /// True while the store has many messages to write. Its task is woken later.
    #[cold]
    fn is_store_busy(&mut self, cx: &Context<'_>) -> bool {
        let kept = &self.broker.kept;
        self.awaits_store = !kept.await_store(self.handle.key, cx.waker());
        self.awaits_store
    }

    /// Executes one action. Returns the connection whose outbox is full, if the action must wait for it:
    /// then nothing was done.
    fn route(&mut self, text: &str, cx: &mut Context<'_>, turn: &mut Turn) -> Option<Arc<Handle>> {
        let action = protocol::decode_client_action(text);
        // Only sends are batched: deliver them before any other action.
        if !matches!(action, Ok(ClientAction::Send { .. })) {
            self.deliver(turn);
        }
        let result = match action {
            // Each of these produces a response, so it waits if the connection's own outbox is full.
            Ok(
                ClientAction::Register { .. }
                | ClientAction::Unregister
                | ClientAction::Subscription(_),
            ) if self.is_full(cx) => {
                return Some(self.handle.clone());
            }
            Ok(ClientAction::Register {
                id,
                token,
                protocol,
                session,
            }) => self.register(id, token, protocol, session, turn),
            Ok(_) | Err(_) if !self.access.is_open() => {
                self.deny_unregistered();
                return None;
            }
            Ok(ClientAction::Send {
                message,
                dest,
                ack,
                reply,
            }) => match self.send(message, dest, ack, reply.as_deref(), cx, turn) {
                Ok(None) => Ok(()),
                Ok(full) => return full,
                Err(error) => Err(error),
            },
            Ok(ClientAction::Answer {
                ack,
                message,
                error,
            }) => match error.filter(|_| self.handle.uses_version_2()) {
                None => self.answer(ack, Ok(message), turn),
                Some(error) => self.answer(ack, Err(error), turn),
            },
            Ok(ClientAction::Unregister) => {
                self.handle.set_has_left(true);
                self.unregister(true, turn);
                let requests = &self.broker.registry.requests;
                requests.cancel_all(&self.handle, &mut turn.notifications);
                self.await_registration();
                Ok(())
            }
            Ok(ClientAction::Cancel { ack }) => self.cancel(ack, turn),
            Ok(ClientAction::Received(count)) => self.client_received(count),
            Ok(ClientAction::Subscription(subscription)) => {
                let result = self.subscription(&subscription, text, cx, turn);
                if self.reading_history.is_some() {
                    return Some(self.handle.clone());
                }
                result
            }
            Err(error) => Err(error),
        };
        if !turn.notifications.is_empty() {
            self.notify(turn);
        }
        if let Err(error) = result {
            self.refused(error, Some(text), turn);
        }
        None
    }

    /// Updates the memory charged for input that is not yet routed.
    fn update_charge(&mut self) {
        self.over_share &= self.broker.memory.is_short();
        let waiting = self
            .waiting
            .as_ref()
            .map_or(0, |waiting| waiting.text.len());
        let reading = self.reader.held() + waiting;
        let id = self.id.as_ref().map_or(0, |id| id.len()) + self.from.len();
        let held = self.itself + id + self.access.memory() + reading;
        let socket = self.handle.socket().memory() + self.reader.held_by_socket();
        self.handle.held.store(held + socket, Relaxed);
        self.charge.set(held);
    }
}

impl Connection {
    /// Reads, writes and closes. Ready when the connection has ended.
    fn poll_socket(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.handle.poll_writable(cx).is_ready() && !self.handle.is_suspended() {
            self.read_rest(cx);
            return Poll::Ready(());
        }
        if self.handle.has_losses() {
            self.tell_losses();
        }
        if self.handle.awaits_jobs() {
            self.await_jobs();
        }
        if !self.closing {
            if let Some(close) = self.handle.requested_close() {
                self.close(&close);
            } else {
                self.readable = true;
                if self.read(cx).is_ready() || self.poll_clocks(cx).is_ready() {
                    return Poll::Ready(());
                }
                if self.readable && !self.closing && !self.is_paused(cx) {
                    // The budget is used up: yield to other tasks.
                    cx.waker().wake_by_ref();
                }
            }
        }
        if !self.closing {
            return Poll::Pending;
        }
        if self.hands_over() {
            return Poll::Ready(());
        }
        // The flush of the close frame may have filled the socket.
        if self.handle.poll_writable(cx).is_ready() {
            return Poll::Ready(());
        }
        self.poll_closing(cx)
    }
}

impl Future for Connection {
    type Output = Progress;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Progress> {
        let this = self.get_mut();
        this.handle.waker.register(cx.waker());
        if this.session.is_some()
            && let Poll::Ready(progress) = this.poll_session(cx)
        {
            return Poll::Ready(progress);
        }
        this.poll_socket(cx).map(|()| this.lost())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.hands_over() {
            self.ends(CloseReason::Lost, None);
        }
        self.leave(DeliveryError::Gone);
        self.wait_no_longer();
        self.stop_replay();
        self.reading_mail = None;
        self.handle.destroy();
        self.broker.remove_connection(&self.handle);
        self.emit_disconnected();
    }
}

//! The session of a connection: counts actions, survives the loss of the socket, and continues on another.

#[cfg(test)]
mod tests;

use std::{
    any::Any,
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::sleep;

use super::{Connection, Timer, Turn, register::AuthState};
use crate::{
    auth::Grant,
    broker::sessions::{Continuation, Session, Sessions},
    error::ActionError,
    event::ServerEvent,
    metrics::CloseReason,
    protocol,
    transport::{framing::Reader, heartbeat::Heartbeat},
};

/// Number and bytes of the actions received after which their number is confirmed.
const CONFIRM_EVERY: u64 = 256;
const CONFIRM_BYTES: usize = 64 << 10;

/// The step that a connection has reached.
pub(crate) enum Progress {
    Ended,
    /// Its session has lost the socket, and waits for another.
    Suspended,
    /// Its session continues on another socket, which comes with this permit.
    Resumed(Option<Box<dyn Any + Send>>),
    /// Its socket belongs to this session from now on.
    HandsOver(Arc<Session>, Box<Continuation>),
}

/// The session of a connection, or its way to one.
pub(super) enum SessionState {
    /// Its client has asked for one.
    Requested {
        timeout: Duration,
        /// The token of the session that continues.
        token: Option<Box<str>>,
        /// Number of actions that the client has received in it.
        count: u64,
    },
    /// Its socket is for another session, which continues with this grant and the client's count.
    HandsOver(Arc<Session>, Option<Grant>, u64),
    /// Its socket belongs to another session.
    HandedOver,
    Own(OwnSession),
}

/// The session of a connection.
pub(super) struct OwnSession {
    shared: Arc<Session>,
    /// Number of actions received.
    received: u64,
    /// The number that was confirmed last, and the bytes received since.
    confirmed: u64,
    bytes: usize,
    /// Runs while there is no socket.
    expires: Timer,
}

impl Connection {
    /// The session of this connection.
    fn own_session(&mut self) -> Option<&mut OwnSession> {
        match self.session.as_deref_mut() {
            Some(SessionState::Own(session)) => Some(session),
            _ => None,
        }
    }

    /// Notes the session that the client asks for when it registers.
    ///
    /// Errors: `InvalidMember`.
    pub(super) fn request_session(&mut self, raw: Option<&str>) -> Result<(), ActionError> {
        let Some(raw) = raw else { return Ok(()) };
        let request = protocol::decode_session(raw)?;
        let most = self.broker.options.session_timeout;
        let timeout = Duration::from_millis(request.timeout).min(most);
        // A session begins with the first registration of a connection.
        if !timeout.is_zero()
            && self.handle.is_replaceable()
            && self.handle.last_id.lock().is_none()
        {
            self.session = Some(Box::new(SessionState::Requested {
                timeout,
                token: request.token.map(Into::into),
                count: request.count,
            }));
        }
        Ok(())
    }

    /// Begins to hand the socket over to the session that the client wants to continue. False if there is no such
    /// session.
    pub(super) fn continues_session(&mut self, id: &str, grant: Option<&Grant>) -> bool {
        let Some(SessionState::Requested {
            token: Some(token),
            count,
            ..
        }) = self.session.as_deref()
        else {
            return false;
        };
        let principal = grant.map(|grant| &*grant.principal);
        let found = self.broker.sessions.find(token, id, principal, *count);
        let Some(session) = found else { return false };
        let state = SessionState::HandsOver(session, grant.cloned(), *count);
        self.session = Some(Box::new(state));
        // Nothing more is read here.
        self.closing = true;
        true
    }

    /// True if its socket is for another session.
    pub(super) fn hands_over(&self) -> bool {
        use SessionState::{HandedOver, HandsOver};
        matches!(self.session.as_deref(), Some(HandsOver(..) | HandedOver))
    }

    /// The socket of this connection, for the session to which it is handed over.
    fn hand_over(&mut self) -> Option<Progress> {
        let has_written = self.handle.outbox.state().empty;
        let state = self.session.as_deref_mut()?;
        if !matches!(state, SessionState::HandsOver(..)) {
            return None;
        }
        let SessionState::HandsOver(session, grant, count) =
            std::mem::replace(state, SessionState::HandedOver)
        else {
            return None;
        };
        if !has_written {
            // The peer would get a part of a frame. It may try again.
            return Some(Progress::Ended);
        }
        let next = Continuation {
            reader: std::mem::replace(&mut self.reader, Reader::closed()),
            socket: self.handle.take_socket()?,
            info: self.handle.info(),
            peer: self.peer.take(),
            grant,
            count,
            permit: None,
        };
        Some(Progress::HandsOver(session, Box::new(next)))
    }

    /// Keeps the frames that are written from now on, if the client has asked for a session. Returns its token.
    pub(super) fn begin_session(&mut self, protocol: u8) -> Option<(Arc<str>, Duration)> {
        let SessionState::Requested { timeout, .. } = *self.session.as_deref()? else {
            return None;
        };
        self.session = None;
        if protocol == 1 {
            return None;
        }
        let most = self.broker.options.max_session_buffer;
        let has_begun = self.handle.outbox.begin_session(most);
        has_begun.then(|| (Sessions::token(), timeout))
    }

    /// The session can be continued from now on.
    pub(super) fn session_begun(
        &mut self,
        (token, timeout): (Arc<str>, Duration),
        id: &Arc<str>,
        turn: &Turn,
    ) {
        let (sessions, handle) = (&self.broker.sessions, &self.handle);
        let shared = sessions.add(token, id.clone(), handle, timeout);
        self.session = Some(Box::new(SessionState::Own(OwnSession {
            shared,
            // The messages of this turn so far precede the session. They are added when the turn ends.
            received: 0_u64.wrapping_sub(turn.messages_in.into()),
            confirmed: 0,
            bytes: 0,
            expires: None,
        })));
    }

    /// Counts the messages of a turn, and confirms them now and then.
    #[cold]
    pub(super) fn count_for_session(&mut self, messages: u32, bytes: usize) {
        let Some(session) = self.own_session() else {
            return;
        };
        session.received = session.received.wrapping_add(messages.into());
        session.bytes += bytes;
        let unconfirmed = session.received.saturating_sub(session.confirmed);
        if unconfirmed >= CONFIRM_EVERY || session.bytes >= CONFIRM_BYTES {
            self.confirm_received();
        }
    }

    /// Does not count an action that belongs to one socket.
    pub(super) fn uncount_for_session(&mut self) {
        if let Some(session) = self.own_session() {
            session.received = session.received.wrapping_sub(1);
        }
    }

    /// Sends the client the number of actions received.
    pub(super) fn confirm_received(&mut self) {
        if let Some(session) = self.own_session()
            && session.received != session.confirmed
        {
            (session.confirmed, session.bytes) = (session.received, 0);
            let count = session.received.to_string();
            self.handle
                .write(|outbox| outbox.push(&protocol::received(&count)));
        }
    }

    /// Action `received`: the client has received so many actions.
    pub(super) fn client_received(&mut self, count: Option<&str>) -> Result<(), ActionError> {
        if !self.handle.uses_version_2() {
            return Err(ActionError::UnknownAction("received".to_owned()));
        }
        self.uncount_for_session();
        self.handle.outbox.confirm(protocol::decode_count(count)?);
        Ok(())
    }

    /// Continues the session on another socket, or ends it if it waits no longer for one.
    pub(super) fn poll_session(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        let Some(SessionState::Own(session)) = self.session.as_deref_mut() else {
            return Poll::Pending;
        };
        if session.shared.has_next() && !self.closing {
            if !self.handle.is_suspended() {
                self.suspend(CloseReason::Lost);
            }
            if self.handle.outbox.state().writing {
                // The writer puts back what it could not write, and wakes this task: the outbox is suspended.
                return Poll::Pending;
            }
            return Poll::Ready(self.resume());
        }
        if !self.handle.is_suspended() {
            return Poll::Pending;
        }
        let expires = session.expires.as_mut();
        let is_over = expires.is_none_or(|timer| timer.as_mut().poll(cx).is_ready());
        let broker = &self.broker;
        let is_over = is_over
            || self.closing
            || !self.handle.owns_its_id()
            || self.handle.requested_close().is_some()
            || broker.drains_for().is_some()
            // A sender waits for room.
            || self.handle.outbox.state().backpressure;
        match is_over {
            true => Poll::Ready(Progress::Ended),
            false => Poll::Pending,
        }
    }

    /// True if the session of a lost connection waits for another socket.
    fn may_suspend(&self) -> bool {
        let broker = &self.broker;
        matches!(self.session.as_deref(), Some(SessionState::Own(_)))
            && !self.closing
            && self.handle.owns_its_id()
            && self.handle.requested_close().is_none()
            && broker.drains_for().is_none()
            && !broker.memory.is_short()
            && broker.sessions.count().1 < broker.options.max_connections
    }

    /// Handles the loss of the connection.
    #[cold]
    pub(super) fn lost(&mut self) -> Progress {
        if let Some(progress) = self.hand_over() {
            return progress;
        }
        if !self.may_suspend() {
            return Progress::Ended;
        }
        // Dead connections have a reason already.
        let reason = self.ended.take().map(|ended| ended.reason);
        let is_counted = reason.is_some();
        self.suspend_for(reason.unwrap_or(CloseReason::Lost), is_counted);
        Progress::Suspended
    }

    fn suspend(&mut self, reason: CloseReason) {
        self.suspend_for(reason, false);
    }

    /// Closes the socket, and waits for another.
    fn suspend_for(&mut self, reason: CloseReason, is_counted: bool) {
        let (broker, handle) = (self.broker.clone(), self.handle.clone());
        if !is_counted {
            broker.metrics.closed(reason);
        }
        handle.suspend(broker.options.max_session_buffer);
        self.reader = Reader::closed();
        self.stop_replay();
        (self.heartbeat, self.timer, self.delay_timer) = (None, None, None);
        if let Some(session) = self.own_session() {
            session.expires = Some(Box::pin(sleep(session.shared.timeout)));
        }
        broker.metrics.connections.fetch_sub(1, Relaxed);
        broker.sessions.count_suspended(true);
        broker.listener.event(ServerEvent::Disconnected {
            id: self.id.as_deref(),
            info: handle.info(),
            reason,
            code: None,
            traffic: handle.traffic(),
        });
    }

    /// Continues the session on the socket that was handed over.
    fn resume(&mut self) -> Progress {
        let Some(SessionState::Own(session)) = self.session.as_deref_mut() else {
            return Progress::Ended;
        };
        let Some(next) = session.shared.take_next() else {
            return Progress::Ended;
        };
        let Continuation {
            reader,
            socket,
            info,
            peer,
            grant,
            count,
            permit,
        } = *next;
        let Session { token, timeout, .. } = &*session.shared;
        (session.confirmed, session.bytes) = (session.received, 0);
        let granted = protocol::session(token, timeout.as_millis(), Some(session.received));
        session.expires = None;
        let options = &self.broker.options;
        let first = protocol::registered_in(&self.from, &granted);
        let mark = options.max_backpressure;
        let metrics = &self.broker.metrics;
        // Before the client gets its response, and counts them.
        metrics.connections.fetch_add(1, Relaxed);
        metrics.sessions_resumed.fetch_add(1, Relaxed);
        self.broker.sessions.count_suspended(false);
        if !self.handle.resume((socket, info), count, &first, mark) {
            // The client registers anew.
            metrics.connections.fetch_sub(1, Relaxed);
            metrics.sessions_resumed.fetch_sub(1, Relaxed);
            self.broker.sessions.count_suspended(true);
            return Progress::Ended;
        }
        self.reader = reader;
        self.reader.set_max_payload(options.max_payload);
        self.heartbeat = Heartbeat::new(options.ping_interval, options.ping_timeout);
        self.limit_reader();
        self.peer = peer;
        if let Some(id) = &self.id {
            (self.broker.listener).event(ServerEvent::Resumed { id, info });
        }
        let mut turn = Turn::begin();
        if let Some(grant) = grant {
            self.regrant(grant, &mut turn);
        }
        self.take_jobs(&mut turn);
        turn.flush();
        turn.end();
        Progress::Resumed(permit)
    }

    /// Applies the grant with which the session continues.
    fn regrant(&mut self, grant: Grant, turn: &mut Turn) {
        self.set_deadline(&grant);
        match &mut self.access {
            AuthState::Authorizing(pending) => pending.grant = grant,
            access => *access = AuthState::Granted(grant),
        }
        self.recheck_subscriptions(turn);
        self.recheck_watches(turn);
        self.recheck_mailboxes(turn);
        self.notify(turn);
    }

    /// Ends the session, if there is one: a lost connection is lost from now on.
    pub(super) fn end_session(&mut self) {
        let Some(SessionState::Own(session)) = self.session.as_deref() else {
            return;
        };
        self.broker.sessions.remove(&session.shared);
        self.session = None;
        self.handle.outbox.end_session();
        if self.handle.is_suspended() {
            self.broker.sessions.count_suspended(false);
            (self.broker.metrics.sessions_ended).fetch_add(1, Relaxed);
        }
    }
}

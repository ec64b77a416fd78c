//! Closing of a connection.

use std::{
    net::Shutdown,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::time::sleep;

use super::{Connection, Turn, register::AuthState};
use crate::{
    broker::{handle::Close, requests::DeliveryError},
    event::{ServerEvent, Slow},
    metrics::CloseReason,
    transport::framing::{self, Mask},
};

/// How a connection has ended.
pub(super) struct Ended {
    pub(super) reason: CloseReason,
    /// The code of the close frame that was sent or received first.
    code: Option<u16>,
    /// The id that it had.
    id: Option<Arc<str>>,
}

impl Connection {
    /// Closes the connection from this side.
    pub(super) fn close(&mut self, close: &Close) {
        if self.closing {
            return;
        }
        // No frame may follow the close frame.
        self.send_replies();
        let error = match close {
            Close::Slow | Close::Memory => DeliveryError::Slow,
            _ => DeliveryError::Gone,
        };
        let (reason, why) = match close {
            Close::GoingAway => (CloseReason::GoingAway, None),
            Close::Slow => (CloseReason::Slow, Some(Slow::Closed)),
            Close::Memory => (CloseReason::Memory, Some(Slow::Memory)),
            Close::NotRegistered => (CloseReason::NotRegistered, None),
            Close::TooMany(_) => (CloseReason::TooMany, None),
            Close::Violation(_) => (CloseReason::Violation, None),
            Close::Denied(_) => (CloseReason::Denied, None),
            Close::Requested { .. } => (CloseReason::Requested, None),
        };
        self.ends(reason, Some(close.code()));
        if let Some(why) = why {
            // A former owner of an id gives it no strike.
            let id = self.id.as_ref().filter(|_| self.from().is_some());
            if let (Some(id), Slow::Closed) = (id, why) {
                self.broker.registry.strike(id, Instant::now());
            }
            let id = id.map(|id| &**id);
            self.broker.listener.event(ServerEvent::Slow { id, why });
            self.handle.outbox.discard();
        }
        self.start_closing(error);
        let frame = framing::close_frame(Some(close.code()), close.reason(), Mask::None);
        self.handle.outbox.push_control(&frame);
        self.handle.flush();
    }

    /// Records why the connection ends, with the code of the close frame. The first reason counts; the end of the
    /// connection of a suspended session was recorded when it was lost.
    pub(super) fn ends(&mut self, reason: CloseReason, code: Option<u16>) {
        if self.ended.is_some() || self.handle.is_suspended() {
            return;
        }
        if !self.handle.participant {
            self.broker.metrics.closed(reason);
        }
        // Unless another connection owns it now.
        let id = self.id.clone().filter(|id| {
            let owner = self.broker.registry.find(id);
            owner.is_none_or(|owner| owner.key == self.handle.key)
        });
        self.ended = Some(Box::new(Ended { reason, code, id }));
    }

    pub(super) fn emit_disconnected(&self) {
        let Self { handle, broker, .. } = self;
        if let Some(ended) = &self.ended
            && !handle.participant
        {
            let (id, info, traffic) = (ended.id.as_deref(), handle.info(), handle.traffic());
            let end = (ended.reason, ended.code);
            broker
                .recently_closed
                .add(handle.key, id, info, end, traffic);
            broker.listener.event(ServerEvent::Disconnected {
                id,
                info,
                reason: ended.reason,
                code: ended.code,
                traffic,
            });
        }
    }

    /// Starts to close: writes the outbox and discards input. `error`: sent to the askers of its pending
    /// requests.
    pub(super) fn start_closing(&mut self, error: DeliveryError) {
        self.leave(error);
        // Waiting senders then find that the id has no owner.
        self.handle.outbox.start_closing();
        self.wait_no_longer();
        // The decision is no longer needed; the authenticator can continue with others.
        if self.access.is_pending() {
            self.access = AuthState::Closed;
        }
        self.closing = true;
        self.timer = Some(Box::pin(sleep(self.broker.options.close_timeout)));
    }

    /// Removes this connection from the outboxes and lookups for which it waits.
    pub(super) fn wait_no_longer(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.receiver.outbox.remove_waiter(self.handle.key);
        }
        self.lookups = None;
        if let Some(asker) = self.answered.take() {
            asker.outbox.remove_waiter(self.handle.key);
        }
    }

    /// Gives up the id and all requests. No notification of version 2 is sent to it from here on, such as
    /// about the consequences of its own end.
    pub(super) fn leave(&mut self, error: DeliveryError) {
        let mut turn = Turn::default();
        self.handle.set_uses_version_2(false);
        self.unregister(false, &mut turn);
        let requests = &self.broker.registry.requests;
        requests.disconnect(&self.handle, error, &mut turn.notifications);
        self.notify(&mut turn);
        for handle in turn.touched {
            handle.flush();
        }
    }

    /// Ready when the connection has ended.
    pub(super) fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.handle.outbox.state();
        if state.closed || state.suspended {
            return Poll::Ready(());
        }
        if self.handle.outbox.await_empty() {
            self.handle.socket().shutdown(Shutdown::Write);
        }
        let discarded = self.discard_input(cx);
        // Buffers of an incomplete message have been released.
        self.update_charge();
        if discarded.is_ready() {
            return Poll::Ready(());
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }

    /// Ready when the peer has closed its side, or has sent more than the limit for discarded input.
    fn discard_input(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.reader.poll_discard(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(length)) if length > 0 && length <= self.discard => {
                    self.discard -= length;
                }
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }
}

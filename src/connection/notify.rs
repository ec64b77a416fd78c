//! Notifications and errors that a command of this connection has caused.

use super::{Connection, Turn};
use crate::{
    error::ActionError,
    event::ServerEvent,
    protocol::{self, version_2},
};

impl Connection {
    /// Sends the notifications collected in this turn.
    pub(super) fn notify(&self, turn: &mut Turn) {
        // Messages first: a notification must not overtake its message.
        self.deliver(turn);
        self.broker
            .notify(&mut turn.notifications, &mut turn.touched);
    }

    /// Reports an action that was refused: counts it, sends `error`, and emits an event.
    pub(super) fn refused(&mut self, error: ActionError, text: Option<&str>, turn: &mut Turn) {
        // The refusal may close this connection.
        self.deliver(turn);
        self.broker.metrics.error(&error);
        self.push_refused(&error, text.unwrap_or_default(), turn);
        self.broker.listener.event(ServerEvent::Refused {
            error,
            text,
            id: self.id.as_deref(),
            info: self.handle.info,
        });
        self.count_refusal();
    }

    /// Sends `error` to a peer that speaks version 2, or asks for it with this action. Dropped while its
    /// outbox is full (rule 29).
    fn push_refused(&self, error: &ActionError, text: &str, turn: &mut Turn) {
        let Self { handle, broker, .. } = self;
        if handle.outbox.is_full() || !(handle.uses_version_2() || protocol::asks_for_2(text)) {
            return;
        }
        let [reference, ack] = protocol::echo(text, broker.options.max_id_length);
        let words = protocol::json_string(&error.to_string());
        let repeated = version_2::repeated(reference, ack);
        let frame = version_2::error(error.code(), &words, &repeated);
        turn.pushed(handle, handle.outbox.push(&frame));
    }
}

//! What others are told of a request beside its answer, and how much of it may wait for them.

use std::sync::atomic::Ordering::Relaxed;

use super::{Connection, Turn};
use crate::{
    error::ActionError,
    event::ServerEvent,
    protocol::{self, version_2},
};

impl Connection {
    /// Tells what this turn has brought about.
    pub(super) fn notify(&self, turn: &mut Turn) {
        // Nobody is told of a message that is still to come.
        self.deliver(turn);
        self.broker.notify(&mut turn.outcomes, &mut turn.touched);
    }

    /// Tells of an action that was not carried out.
    pub(super) fn refused(&mut self, error: ActionError, text: Option<&str>, turn: &mut Turn) {
        // It may be one too many.
        self.deliver(turn);
        self.broker.metrics.errors.fetch_add(1, Relaxed);
        self.push_refused(&error, text.unwrap_or_default(), turn);
        self.broker
            .listener
            .event(ServerEvent::Refused { error, text });
        self.count_refusal();
    }

    /// The same, to a peer that speaks version 2, or would have from now on; not while it has enough
    /// to read (rule 29).
    fn push_refused(&self, error: &ActionError, text: &str, turn: &mut Turn) {
        let Self { handle, broker, .. } = self;
        if handle.outbox.is_full() || !(handle.speaks_2() || protocol::asks_for_2(text)) {
            return;
        }
        let [reference, ack] = protocol::echo(text, broker.options.max_id_length);
        let words = protocol::json_string(&error.to_string());
        let repeated = version_2::repeated(reference, ack);
        let frame = version_2::error(error.code(), &words, &repeated);
        turn.pushed(handle, handle.outbox.push(&frame));
    }
}

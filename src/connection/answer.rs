//! Command `answer`: an answer to a request, or a refusal.

use std::{sync::Arc, task::Context};

use super::{Connection, Turn};
use crate::{
    broker::{
        answers::{Answer, Answered},
        handle::Handle,
        requests::DeliveryError,
    },
    error::ActionError,
    protocol::{self, version_2},
    transport::framing::{self, Mask},
};

impl Connection {
    /// Forwards an answer. `outcome`: its message, or the error of a refusal. Answers are ignored if this
    /// connection may not answer the request.
    pub(super) fn answer(
        &mut self,
        ack: &str,
        outcome: Result<Option<&str>, &str>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        // No pending request has an ack that is too long.
        let Ok(key) = self.key(ack) else {
            return Ok(());
        };
        let answer = Answer {
            ack,
            from: self.answers_from(),
            outcome,
        };
        let (broker, notifications) = (&self.broker, &mut turn.notifications);
        match broker.take_answer(&self.handle, &key, &answer, notifications) {
            None | Some(Answered::Here(_, None)) => Ok(()),
            Some(Answered::Here(asker, Some(pushed))) => {
                turn.delivered(&asker, pushed);
                self.over_share |= self.broker.memory.is_short() && asker.outbox.is_full();
                Ok(())
            }
            Some(Answered::Elsewhere { asker, dest }) => {
                self.answer_remote(asker, &dest, ack, outcome, turn)
            }
        }
    }

    /// Sends an answer to the broker of the asker. `dest`: the id that was asked.
    fn answer_remote(
        &mut self,
        asker: Arc<Handle>,
        dest: &str,
        ack: &str,
        outcome: Result<Option<&str>, &str>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let dest = protocol::json_string(dest);
        let frame = protocol::remote_answer(&dest, ack, self.answers_from(), outcome);
        let length: usize = frame.iter().map(|piece| piece.len()).sum();
        let size = framing::frame_size(length, Mask::None);
        let limit = (self.broker.peers.as_ref()).map_or(0, |peers| peers.max_frame(""));
        if size > limit {
            let frame = version_2::failed(ack, &dest, DeliveryError::TooLarge.code());
            turn.pushed(&asker, asker.outbox.push(&frame));
            return Err(ActionError::ClusterPayload(size, limit));
        }
        if self.broker.has_room_for_answer(&asker) {
            asker.set_writer(self.handle.key);
            turn.delivered(&asker, asker.outbox.push(&frame));
        }
        if asker.outbox.is_full() {
            // Frames queued in this turn may have filled the outbox.
            asker.flush();
            self.answered = Some(asker).filter(|asker| asker.outbox.is_full());
        }
        Ok(())
    }

    /// True while the outbox to the remote asker is full: this connection stops reading, and is woken when
    /// there is room.
    pub(super) fn has_answered_much(&mut self, cx: &Context<'_>) -> bool {
        let Some(asker) = &self.answered else {
            return false;
        };
        let is_held = asker.outbox.add_waiter(self.handle.key, cx.waker(), false);
        if !is_held {
            self.answered = None;
        }
        is_held
    }
}

//! Handling of an answer or a refusal: ends the responder's part in the request and forwards it to the
//! asker.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use super::{
    Broker,
    handle::{Close, Handle},
    requests::{Notifications, ResponderDone},
};
use crate::{
    options::SlowConsumer,
    protocol::{self, version_2},
    transport::outbox::Pushed,
};

/// Outboxes may hold this multiple of the high-water mark if the excess is answers.
const ANSWERS: usize = 8;

/// Answer to a request, as JSON.
pub(crate) struct Answer<'a> {
    pub(crate) ack: &'a str,
    pub(crate) from: Option<&'a str>,
    /// The message, or the error of a refusal.
    pub(crate) outcome: Result<Option<&'a str>, &'a str>,
}

/// Destination of an answer that was accepted.
#[must_use]
pub(crate) enum Answered {
    /// The asker's outbox; none if that has no room.
    Here(Arc<Handle>, Option<Pushed>),
    /// Another broker, where the asker is; the answer is still to be sent. `dest`: the id that was asked.
    Elsewhere { asker: Arc<Handle>, dest: Arc<str> },
}

impl Broker {
    /// Accepts an answer if this responder may still give one: counts the request down and pushes the
    /// answer. `key`: the ack as a key.
    // Inlined: otherwise a request with its answer takes 1 % more instructions.
    #[inline(always)]
    pub(crate) fn take_answer(
        &self,
        responder: &Handle,
        key: &str,
        answer: &Answer<'_>,
        notifications: &mut Notifications,
    ) -> Option<Answered> {
        let Answer { ack, from, outcome } = *answer;
        let message = match outcome {
            Ok(message) => message,
            Err(error) => {
                return self.take_refusal(responder, key, (ack, from, error), notifications);
            }
        };
        let requests = &self.registry.requests;
        let part = requests.answer(key, responder, Instant::now(), notifications)?;
        let ResponderDone { asker, dest, .. } = part;
        if let Some(dest) = dest {
            return Some(Answered::Elsewhere { asker, dest });
        }
        let has_room = self.has_room_for_answer(&asker);
        let pushed = has_room.then(|| asker.outbox.push(&protocol::answer(ack, from, message)));
        Some(Answered::Here(asker, pushed))
    }

    /// Accepts a refusal, as [`take_answer`](Self::take_answer) does an answer.
    #[cold]
    fn take_refusal(
        &self,
        responder: &Handle,
        key: &str,
        (ack, from, error): (&str, Option<&str>, &str),
        notifications: &mut Notifications,
    ) -> Option<Answered> {
        let requests = &self.registry.requests;
        let part = requests.refuse(key, responder, Instant::now(), notifications)?;
        let ResponderDone { asker, dest, ended } = part;
        if let Some(dest) = dest {
            return Some(Answered::Elsewhere { asker, dest });
        }
        let pushed = self.push_refusal(&asker, ended, ack, from, error);
        Some(Answered::Here(asker, pushed))
    }

    /// Forwards an answer from another broker to the asker. Returns the asker if it needs a flush.
    pub(crate) fn pass_answer(
        &self,
        responder: &Handle,
        answer: &Answer<'_>,
        notifications: &mut Notifications,
    ) -> Option<Arc<Handle>> {
        let key = protocol::ack_key(answer.ack);
        let answered = self.take_answer(responder, &key, answer, notifications)?;
        let Answered::Here(asker, Some(pushed)) = answered else {
            return None;
        };
        if pushed != Pushed::Closed {
            self.metrics.turns.messages_out.fetch_add(1, Relaxed);
        }
        (pushed == Pushed::NeedsFlush).then_some(asker)
    }

    /// Pushes a refusal. An asker of version 1 does not understand refusals: it gets an answer without a
    /// message once no other responder is left (rule 27.4).
    fn push_refusal(
        &self,
        asker: &Handle,
        ended: bool,
        ack: &str,
        from: Option<&str>,
        error: &str,
    ) -> Option<Pushed> {
        let frame = match asker.uses_version_2() {
            true => version_2::refusal(ack, from, error),
            false if ended => protocol::answer(ack, from, None),
            false => return None,
        };
        let has_room = self.has_room_for_answer(asker);
        has_room.then(|| asker.outbox.push(&frame))
    }

    /// Maximum number of bytes in an outbox, answers included.
    pub(super) fn most_answers(&self) -> usize {
        self.options.max_backpressure.saturating_mul(ANSWERS)
    }

    /// True if an answer may be added, even above the high-water mark: answers never block the responder.
    #[inline]
    pub(crate) fn has_room_for_answer(&self, asker: &Handle) -> bool {
        !asker.outbox.is_full() || self.has_room_beyond_mark(asker)
    }

    #[cold]
    fn has_room_beyond_mark(&self, asker: &Handle) -> bool {
        // Frames queued in this turn may have filled the outbox.
        asker.flush();
        if !asker.outbox.is_full() {
            return true;
        }
        if asker.remote {
            // A remote outbox serves many askers: it cannot be closed because of one of them.
            return asker.outbox.waiting() < self.most_answers();
        }
        match self.options.slow_consumer {
            SlowConsumer::Pushback => {
                asker.outbox.mark_overdue();
                let fits = asker.outbox.waiting() < self.most_answers();
                match fits {
                    true => asker.waker.wake(),
                    false if asker.participant => self.drop_message(None, asker),
                    false => asker.request_close(Close::Slow),
                }
                fits
            }
            SlowConsumer::Close if asker.participant => {
                self.drop_message(None, asker);
                false
            }
            SlowConsumer::Close => {
                asker.request_close(Close::Slow);
                false
            }
            SlowConsumer::Drop => {
                self.drop_message(None, asker);
                false
            }
        }
    }
}

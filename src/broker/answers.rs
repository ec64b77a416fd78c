//! An answer or a refusal arrives: it ends the responder's part, and goes to the one who asked.

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

/// Answers may fill an outbox to this multiple of its mark.
const ANSWERS: usize = 8;

/// An answer to a request, as JSON.
pub(crate) struct Answer<'a> {
    pub(crate) ack: &'a str,
    pub(crate) from: Option<&'a str>,
    /// The message, or the error of a refusal.
    pub(crate) outcome: Result<Option<&'a str>, &'a str>,
}

/// Where an answer has gone.
pub(crate) enum Answered {
    /// Into the outbox of the one who asked, unless that has no room.
    Here(Arc<Handle>, Option<Pushed>),
    /// The one who asked is at another broker, to which it is still to be sent; `dest`: the id that was asked.
    Elsewhere { asker: Arc<Handle>, dest: Arc<str> },
}

impl Broker {
    /// Takes an answer, if this responder still owes one: the request is counted down, and the answer pushed.
    /// `key`: the ack as a key.
    // Always: otherwise a request and its answer take one hundredth more instructions.
    #[inline(always)]
    pub(crate) fn take_answer(
        &self,
        responder: &Handle,
        key: &str,
        answer: &Answer<'_>,
        outcomes: &mut Notifications,
    ) -> Option<Answered> {
        let Answer { ack, from, outcome } = *answer;
        let message = match outcome {
            Ok(message) => message,
            Err(error) => return self.take_refusal(responder, key, (ack, from, error), outcomes),
        };
        let requests = &self.registry.requests;
        let part = requests.answer(key, responder, Instant::now(), outcomes)?;
        let ResponderDone { asker, dest, .. } = part;
        if let Some(dest) = dest {
            return Some(Answered::Elsewhere { asker, dest });
        }
        let has_room = self.has_room_for_answer(&asker);
        let pushed = has_room.then(|| asker.outbox.push(&protocol::answer(ack, from, message)));
        Some(Answered::Here(asker, pushed))
    }

    #[cold]
    fn take_refusal(
        &self,
        responder: &Handle,
        key: &str,
        (ack, from, error): (&str, Option<&str>, &str),
        outcomes: &mut Notifications,
    ) -> Option<Answered> {
        let requests = &self.registry.requests;
        let part = requests.refuse(key, responder, Instant::now(), outcomes)?;
        let ResponderDone { asker, dest, ended } = part;
        if let Some(dest) = dest {
            return Some(Answered::Elsewhere { asker, dest });
        }
        let pushed = self.push_refusal(&asker, ended, ack, from, error);
        Some(Answered::Here(asker, pushed))
    }

    /// Passes an answer from another broker on to the one who asked, who owes a flush then.
    pub(crate) fn pass_answer(
        &self,
        responder: &Handle,
        answer: &Answer<'_>,
        outcomes: &mut Notifications,
    ) -> Option<Arc<Handle>> {
        let key = protocol::ack_key(answer.ack);
        let answered = self.take_answer(responder, &key, answer, outcomes)?;
        let Answered::Here(asker, Some(pushed)) = answered else {
            return None;
        };
        if pushed != Pushed::Closed {
            self.metrics.messages_out.fetch_add(1, Relaxed);
        }
        (pushed == Pushed::NeedsFlush).then_some(asker)
    }

    /// Who asked in version 1 does not understand a refusal: it gets an answer without a message, if
    /// nobody is left who could give one (rule 27.4).
    fn push_refusal(
        &self,
        asker: &Handle,
        ended: bool,
        ack: &str,
        from: Option<&str>,
        error: &str,
    ) -> Option<Pushed> {
        let frame = match asker.speaks_2() {
            true => version_2::refusal(ack, from, error),
            false if ended => protocol::answer(ack, from, None),
            false => return None,
        };
        let has_room = self.has_room_for_answer(asker);
        has_room.then(|| asker.outbox.push(&frame))
    }

    /// Bytes that may wait for a connection, answers included.
    pub(super) fn most_answers(&self) -> usize {
        self.options.max_backpressure.saturating_mul(ANSWERS)
    }

    /// Whether an answer may still be added, beyond the mark, too: it never holds the one who
    /// gives it.
    #[inline]
    pub(crate) fn has_room_for_answer(&self, asker: &Handle) -> bool {
        !asker.outbox.is_full() || self.has_room_beyond_mark(asker)
    }

    #[cold]
    fn has_room_beyond_mark(&self, asker: &Handle) -> bool {
        // What this turn has promised to write may be what fills it.
        asker.flush();
        if !asker.outbox.is_full() {
            return true;
        }
        if asker.remote {
            // It stands for many: none of them is to suffer from the others, and it cannot be closed.
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

//! What others are told of a request beside its answer, and how much of it may wait for them.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use super::{Connection, Turn};
use crate::{
    error::ActionError,
    event::{ServerEvent, Slow},
    handle::{Close, Handle},
    options::SlowConsumer,
    protocol::{self, version_2},
    requests::{Outcome, Outcomes},
    server::Shared,
    transport::outbox::Pushed,
};

/// Answers may fill an outbox to this multiple of its mark.
const ANSWERS: usize = 8;

impl Shared {
    /// Tells outcomes to those whom they concern; those who owe a flush then are added to
    /// `touched`.
    pub(crate) fn tell(&self, outcomes: &mut Outcomes, touched: &mut Vec<Arc<Handle>>) {
        for outcome in outcomes.drain(..) {
            let (handle, pushed) = match outcome {
                Outcome::Failed {
                    asker,
                    ack,
                    dest,
                    fault,
                } => {
                    if !asker.speaks_2() || !self.has_room_for_answer(&asker) {
                        continue;
                    }
                    let (ack, dest) = (protocol::json_string(&ack), protocol::json_string(&dest));
                    let frame = version_2::failed(&ack, &dest, fault.code());
                    let pushed = asker.outbox.push(&frame);
                    (asker, pushed)
                }
                Outcome::Cancelled { responder, ack } => {
                    // It costs nothing but work in vain.
                    if !responder.speaks_2() || responder.outbox.waiting() >= self.most_answers() {
                        continue;
                    }
                    let ack = protocol::json_string(&ack);
                    let pushed = responder.outbox.push(&version_2::cancel(&ack));
                    (responder, pushed)
                }
            };
            if pushed == Pushed::First {
                touched.push(handle);
            }
        }
    }

    /// Lets requests expire.
    pub(crate) fn expire(&self, now: Instant) {
        let mut touched = Vec::new();
        let requests = &self.router.requests;
        requests.expire(now, |outcomes| self.tell(outcomes, &mut touched));
        for handle in touched {
            handle.flush();
        }
    }

    /// Frees what is left of ended requests in the queues of connections.
    pub(crate) fn sweep(&self) {
        if self.router.requests.sweep() {
            for handle in self.handles() {
                handle.book.lock().sweep();
            }
        }
    }

    /// Bytes that may wait for a connection, answers included.
    fn most_answers(&self) -> usize {
        self.options.max_backpressure.saturating_mul(ANSWERS)
    }

    /// Whether an answer may still be added, beyond the mark, too: it never holds the one who
    /// gives it.
    #[inline]
    pub(super) fn has_room_for_answer(&self, asker: &Handle) -> bool {
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
                asker.outbox.press();
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

    /// Counts a message that its receiver has no room for.
    pub(super) fn drop_message(&self, id: Option<&str>, receiver: &Handle) {
        self.metrics.dropped.fetch_add(1, Relaxed);
        // Told once, until there is room again.
        if receiver.drop_begins() {
            let why = Slow::Dropping;
            self.listener.event(ServerEvent::Slow { id, why });
        }
    }
}

impl Connection {
    /// Tells what this turn has brought about.
    pub(super) fn tell(&self, turn: &mut Turn) {
        // Nobody is told of a message that is still to come.
        self.deliver(turn);
        self.shared.tell(&mut turn.outcomes, &mut turn.touched);
    }

    /// Tells of an action that was not carried out.
    pub(super) fn refused(&mut self, error: ActionError, text: Option<&str>, turn: &mut Turn) {
        // It may be one too many.
        self.deliver(turn);
        self.shared.metrics.errors.fetch_add(1, Relaxed);
        self.tell_refused(&error, text.unwrap_or_default(), turn);
        self.shared
            .listener
            .event(ServerEvent::Refused { error, text });
        self.count_refusal();
    }

    /// The same, to a peer that speaks version 2, or would have from now on; not while it has enough
    /// to read (rule 29).
    fn tell_refused(&self, error: &ActionError, text: &str, turn: &mut Turn) {
        let Self { handle, shared, .. } = self;
        if handle.outbox.is_full() || !(handle.speaks_2() || protocol::asks_for_2(text)) {
            return;
        }
        let [reference, ack] = protocol::echo(text, shared.options.max_id_length);
        let words = protocol::json_string(&error.to_string());
        let repeated = version_2::repeated(reference, ack);
        let frame = version_2::error(error.code(), &words, &repeated);
        turn.pushed(handle, handle.outbox.push(&frame));
    }
}

//! Queues the events of one server or client for JavaScript, as JSON text.
//!
//! An event is an array, `[kind, ...arguments]`. The kinds are the enums `ClientEventKind` (`client.rs`)
//! and `ServerEventKind` (`events.rs`), which the addon exports to JavaScript. Consecutive events of one
//! object form a batch, which JavaScript parses with one `JSON.parse`. All objects of an environment share
//! one queue, so that JavaScript receives events in the order in which they happened: a server's event
//! before the events that it causes at clients.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use super::hub::Inbox;

/// Bytes at which a batch takes no further event: a larger batch only delays the first event of the next.
const BATCH: usize = 64 << 10;

/// Consecutive events of one object.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) number: u32,
    /// A JSON array of events without its closing bracket.
    text: String,
    /// When its first event was appended.
    since: Instant,
}

impl Batch {
    /// Appends an event to a queue of batches. Returns the bytes that the event takes.
    pub(super) fn append(
        queue: &mut VecDeque<Self>,
        number: u32,
        kind: u8,
        arguments: &[&str],
    ) -> usize {
        match queue.back_mut() {
            Some(last) if last.number == number && last.text.len() < BATCH => {
                last.push(',', kind, arguments)
            }
            _ => {
                let mut batch = Self {
                    number,
                    text: String::new(),
                    since: Instant::now(),
                };
                let size = batch.push('[', kind, arguments);
                queue.push_back(batch);
                size
            }
        }
    }

    fn push(&mut self, before: char, kind: u8, arguments: &[&str]) -> usize {
        let start = self.text.len();
        self.text.push(before);
        self.text.push('[');
        // Kinds have one digit or two. Formatting costs more on this path.
        if kind >= 10 {
            self.text.push(char::from(b'0' + kind / 10));
        }
        self.text.push(char::from(b'0' + kind % 10));
        for argument in arguments {
            self.text.push(',');
            self.text.push_str(argument);
        }
        self.text.push(']');
        self.text.len() - start
    }

    /// The time for which its oldest event waits.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Bytes of the events in this batch.
    pub(super) fn size(&self) -> usize {
        self.text.len()
    }

    /// The events as one JSON array.
    pub(super) fn into_text(mut self) -> String {
        self.text.push(']');
        self.text
    }
}

/// The handle with which one object appends its events to the shared queue.
#[derive(Debug)]
pub(super) struct Mailbox {
    number: u32,
    inbox: Arc<Inbox>,
    /// Bytes of this object's events that JavaScript has not collected.
    waiting: AtomicUsize,
}

impl Mailbox {
    /// `number`: the number of the object in the hub.
    pub(super) fn new(number: u32, inbox: Arc<Inbox>) -> Self {
        Self {
            number,
            inbox,
            waiting: AtomicUsize::new(0),
        }
    }

    /// Appends an event. `arguments` are JSON texts.
    pub(super) fn push(&self, kind: u8, arguments: &[&str]) {
        self.inbox.push(self.number, kind, arguments, &self.waiting);
    }

    /// Bytes of events that JavaScript has not collected.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// The time for which the oldest event of any object waits.
    pub(super) fn lag(&self) -> Duration {
        self.inbox.lag()
    }

    /// Subtracts bytes that were handed to JavaScript.
    pub(super) fn collected(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, SeqCst);
    }
}

/// JSON text of a string.
pub(super) fn json(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_follow_each_other_share_a_batch() {
        let mut queue = VecDeque::new();
        for (number, kind, arguments) in [
            (1, 0, &[][..]),
            (1, 3, &["null"]),
            (2, 0, &[]),
            (1, 15, &["\"a\"", "1"]),
        ] {
            Batch::append(&mut queue, number, kind, arguments);
        }
        let texts: Vec<_> = queue
            .into_iter()
            .map(|batch| (batch.number, batch.into_text()))
            .collect();
        let expected = [(1, "[[0],[3,null]]"), (2, "[[0]]"), (1, "[[15,\"a\",1]]")];
        assert_eq!(
            texts,
            expected.map(|(number, text)| (number, text.to_owned()))
        );
    }
}

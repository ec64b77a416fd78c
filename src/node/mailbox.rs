//! The way of events to JavaScript, as JSON text.
//!
//! An event is an array, `[kind, ...]`; events of one object that follow each other are joined
//! into a batch, which one `JSON.parse` opens. The kinds are listed in `client.rs` and
//! `events.rs`, and in `lib/`. All objects of an environment share one queue, so that JavaScript
//! hears things in the order in which they happened: a server's event before those of the clients
//! it causes.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use super::hub::Inbox;

/// A batch is closed at this size: larger ones only delay the first event of the next.
const BATCH: usize = 64 << 10;

/// Events of one object.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) number: u32,
    /// A JSON array, but for its last bracket.
    text: String,
}

impl Batch {
    /// Appends an event to a queue of batches; the bytes it takes.
    pub(super) fn append(queue: &mut VecDeque<Self>, number: u32, parts: &[&str]) -> usize {
        match queue.back_mut() {
            Some(last) if last.number == number && last.text.len() < BATCH => last.push(',', parts),
            _ => {
                let mut batch = Self {
                    number,
                    text: String::new(),
                };
                let size = batch.push('[', parts);
                queue.push_back(batch);
                size
            }
        }
    }

    fn push(&mut self, before: char, parts: &[&str]) -> usize {
        let start = self.text.len();
        self.text.push(before);
        for (at, part) in parts.iter().enumerate() {
            self.text.push(if at == 0 { '[' } else { ',' });
            self.text.push_str(part);
        }
        self.text.push(']');
        self.text.len() - start
    }

    /// Bytes of its events.
    pub(super) fn size(&self) -> usize {
        self.text.len()
    }

    /// The JSON text.
    pub(super) fn into_text(mut self) -> String {
        self.text.push(']');
        self.text
    }
}

/// One object's way into the queue.
#[derive(Debug)]
pub(super) struct Mailbox {
    number: u32,
    inbox: Arc<Inbox>,
    /// Bytes of its events that wait.
    waiting: AtomicUsize,
}

impl Mailbox {
    /// `number`: how the hub calls the object.
    pub(super) fn new(number: u32, inbox: Arc<Inbox>) -> Self {
        Self {
            number,
            inbox,
            waiting: AtomicUsize::new(0),
        }
    }

    /// Appends an event: the JSON texts of its kind and arguments.
    pub(super) fn push(&self, parts: &[&str]) {
        self.inbox.push(self.number, parts, &self.waiting);
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// So many bytes have been handed over.
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
        for (number, parts) in [
            (1, &["0"][..]),
            (1, &["3", "null"]),
            (2, &["0"]),
            (1, &["8"]),
        ] {
            Batch::append(&mut queue, number, parts);
        }
        let texts: Vec<_> = queue
            .into_iter()
            .map(|batch| (batch.number, batch.into_text()))
            .collect();
        let expected = [(1, "[[0],[3,null]]"), (2, "[[0]]"), (1, "[[8]]")];
        assert_eq!(
            texts,
            expected.map(|(number, text)| (number, text.to_owned()))
        );
    }
}

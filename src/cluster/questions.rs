//! Questions to other brokers, each with a number and a queue of answers.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Cluster, bus::Delivery};

/// Capacity of the queue of answers to one question.
const ANSWER_QUEUE: usize = 1024;

/// Questions that await answers, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<HashMap<u64, mpsc::Sender<Delivery>>>);

impl Questions {
    /// Adds an answer to the queue of its question; dropped if there is none, or the queue is full.
    pub(super) fn on_answer(&self, answer: Delivery) {
        let queue = self.0.lock().get(&answer.number).cloned();
        if let Some(queue) = queue {
            let _ = queue.try_send(answer);
        }
    }
}

/// An open question. Dropping it discards further answers.
#[must_use]
pub(super) struct OpenQuestion<'a> {
    cluster: &'a Cluster,
    pub(super) number: u64,
    pub(super) answers: mpsc::Receiver<Delivery>,
}

impl Drop for OpenQuestion<'_> {
    fn drop(&mut self) {
        self.cluster.questions.0.lock().remove(&self.number);
    }
}

impl Cluster {
    /// Opens a question: allocates its number, and the queue of its answers.
    pub(super) fn open_question(&self) -> OpenQuestion<'_> {
        let number = self.broker().map_or(u64::MAX, |broker| broker.next_key());
        let (sender, answers) = mpsc::channel(ANSWER_QUEUE);
        self.questions.0.lock().insert(number, sender);
        OpenQuestion {
            cluster: self,
            number,
            answers,
        }
    }
}

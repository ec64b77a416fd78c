//! The publications of other brokers that have arrived: tells apart new ones, further copies, and late ones.
//!
//! Numbers of a broker's publications rise in the order in which it gives them to NATS, also across its connections. NATS
//! keeps the order of one connection. But if a broker has connected again, NATS may read the rest of what came by the
//! former connection after the first messages of the new one. While this broker connects again, a message may come by
//! one subscription only, and be overtaken in another one that matches. Such a late message is lost: to hand it over
//! would break the order of its topic.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::BuildHasher,
    time::Duration,
};

use foldhash::quality::RandomState;
use tokio::time::Instant;

use super::nodes::NODE_TIMEOUT;

/// Number of publications of a broker that are remembered because several patterns match them.
const REMEMBERED: usize = 64 << 10;
/// Number of topics of a broker of which the newest number is remembered, at least; at most twice as many.
const TOPICS: usize = 64 << 10;
/// Limit of topics whose late publications are timed.
const MAX_LATE: usize = 1024;
/// If all publications of a topic are late for so long, its newest number is wrong: it came in a damaged packet.
const MAX_DELAY: Duration = NODE_TIMEOUT;

/// A publication that has arrived: whether it is handled, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    New,
    /// It has arrived before, by another subscription of NATS.
    Copy,
    /// A later one of its topic has arrived before it.
    Late,
}

/// The publications of one broker.
#[derive(Default)]
pub(super) struct Arrivals {
    /// Numbers of those that several patterns match: NATS delivers one for each.
    numbers: HashSet<u64, RandomState>,
    oldest: VecDeque<u64>,
    /// By the hash of a topic, the number of the newest one.
    newest: HashMap<u64, u64, RandomState>,
    /// Topics without a publication since `newest` was empty, as they were before.
    former: HashMap<u64, u64, RandomState>,
    /// By the hash of a topic, since when all of its publications are late.
    late: HashMap<u64, Instant, RandomState>,
    hasher: RandomState,
}

impl Arrivals {
    /// Records a publication. `is_shared`: several subscriptions of NATS match its topic.
    pub(super) fn add(&mut self, topic: &str, number: u64, is_shared: bool) -> Arrival {
        // Once there are several, the last copies come when there may be one again.
        if (is_shared || !self.numbers.is_empty()) && !self.remember(number) {
            return Arrival::Copy;
        }
        let topic = self.hasher.hash_one(topic);
        let newest = self.newest_of(topic);
        if number <= *newest {
            return self.late(topic, number);
        }
        *newest = number;
        if !self.late.is_empty() {
            self.late.remove(&topic);
        }
        Arrival::New
    }

    /// Remembers a number; false if it was known.
    fn remember(&mut self, number: u64) -> bool {
        if !self.numbers.insert(number) {
            return false;
        }
        self.oldest.push_back(number);
        if self.oldest.len() > REMEMBERED
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.numbers.remove(&oldest);
        }
        true
    }

    /// The number of the newest publication of a topic; zero if there is none.
    fn newest_of(&mut self, topic: u64) -> &mut u64 {
        if self.newest.len() >= TOPICS && !self.newest.contains_key(&topic) {
            self.former = std::mem::take(&mut self.newest);
        }
        let former = &mut self.former;
        (self.newest.entry(topic)).or_insert_with(|| former.remove(&topic).unwrap_or(0))
    }

    #[cold]
    fn late(&mut self, topic: u64, number: u64) -> Arrival {
        if self.late.len() >= MAX_LATE && !self.late.contains_key(&topic) {
            self.late.clear();
        }
        let since = *self.late.entry(topic).or_insert_with(Instant::now);
        if since.elapsed() <= MAX_DELAY {
            return Arrival::Late;
        }
        self.late.remove(&topic);
        self.newest.insert(topic, number);
        Arrival::New
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[test]
    fn a_copy_is_known_as_long_as_it_is_remembered() {
        let mut arrivals = Arrivals::default();
        for number in 1..=REMEMBERED as u64 {
            assert_eq!(arrivals.add("a", number, true), Arrival::New);
            assert_eq!(arrivals.add("a", number, number % 2 == 0), Arrival::Copy);
        }
        assert_eq!(arrivals.add("a", 1, true), Arrival::Copy);
        assert_eq!(arrivals.add("a", 1 << 40, true), Arrival::New);
        assert_eq!(arrivals.numbers.len(), REMEMBERED);
        assert_eq!(arrivals.add("a", 1, true), Arrival::Late, "forgotten");
    }

    #[test]
    fn a_publication_behind_a_later_one_of_its_topic_is_late() {
        for is_shared in [false, true] {
            let mut arrivals = Arrivals::default();
            let mut add = |topic, number| arrivals.add(topic, number, is_shared);
            assert_eq!(add("a", 3), Arrival::New);
            assert_eq!(add("b", 2), Arrival::New);
            assert_eq!(add("a", 1), Arrival::Late);
            assert_eq!(add("a", 4), Arrival::New);
        }
    }

    #[test]
    fn the_newest_number_of_many_topics_is_remembered_within_a_limit() {
        let mut arrivals = Arrivals::default();
        let mut number = 0;
        let mut add = |arrivals: &mut Arrivals, topic: usize| {
            number += 1;
            arrivals.add(&topic.to_string(), number, false)
        };
        for topic in 0..3 * TOPICS {
            assert_eq!(add(&mut arrivals, topic), Arrival::New);
            // One of them is used all the time.
            assert_eq!(add(&mut arrivals, 0), Arrival::New);
            assert!(arrivals.newest.len() + arrivals.former.len() <= 2 * TOPICS);
        }
        for topic in [0, 3 * TOPICS - 1, 2 * TOPICS + 1] {
            let topic = topic.to_string();
            assert_eq!(arrivals.add(&topic, 1, false), Arrival::Late, "{topic}");
        }
        assert_eq!(arrivals.add("1", 1, false), Arrival::New, "forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_that_is_never_reached_again_is_replaced() {
        let mut arrivals = Arrivals::default();
        // A damaged packet.
        assert_eq!(arrivals.add("a", u64::MAX, false), Arrival::New);
        assert_eq!(arrivals.add("a", 1, false), Arrival::Late);
        advance(MAX_DELAY).await;
        assert_eq!(arrivals.add("a", 2, false), Arrival::Late);
        advance(Duration::from_millis(1)).await;
        assert_eq!(arrivals.add("a", 3, false), Arrival::New);
        assert_eq!(arrivals.add("a", 2, false), Arrival::Late);
        advance(2 * MAX_DELAY).await;
        // The time begins again with each that is not late.
        assert_eq!(arrivals.add("a", 4, false), Arrival::New);
        assert_eq!(arrivals.add("a", 1, false), Arrival::Late);
    }

    #[test]
    fn many_late_topics_are_timed_within_a_limit() {
        let mut arrivals = Arrivals::default();
        for topic in 0..2 * MAX_LATE {
            let topic = topic.to_string();
            assert_eq!(arrivals.add(&topic, 2, false), Arrival::New);
            assert_eq!(arrivals.add(&topic, 1, false), Arrival::Late);
            assert!(arrivals.late.len() <= MAX_LATE);
        }
    }
}

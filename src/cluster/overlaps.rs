//! Order between subscriptions of NATS whose patterns match the same topic: the first message that a new subscription
//! gets of a topic waits until the older ones have handled what they got before it.
//!
//! NATS sends a broker the copies of a message together, and its client library puts them, in the order of arrival, into
//! a queue per subscription. So if two subscriptions exist, each gets all messages of the topic in order, and handling
//! the first copy of each keeps the order. Only messages from before a subscription existed are in the queues of older
//! ones alone. They are there before the first message of the new one is.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use foldhash::quality::RandomState;
use parking_lot::RwLock;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    broker::topics::wildcards::{Tree, Value},
    topic,
};

/// Deliveries after which a barrier is passed even if more have come: as many as the queue of a subscription of NATS
/// holds.
const QUEUED: u32 = 64 << 10;
/// Time from the first delivery of a subscription until it waits for older ones no more: they have handled everything
/// from before by then.
const YOUTH: Duration = Duration::from_secs(10);
/// Topics that a subscription remembers having waited for.
const MAX_TOPICS: usize = 1024;

/// Dropped once everything that was in the queue of a subscription has been handled.
type Barrier = oneshot::Sender<()>;

/// A live subscription, as others know it.
#[derive(Debug)]
struct Live {
    /// A number that rises in the order of the subscriptions.
    age: u64,
    /// At most one for each younger subscription.
    barriers: mpsc::UnboundedSender<Barrier>,
}

/// The live subscriptions of a pattern: two while the former one of a pattern that has come back ends.
type OfPattern = Vec<Live>;

impl Value for OfPattern {
    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}

/// The live subscriptions of NATS for subscribers without a group.
#[derive(Default)]
pub(super) struct Overlaps {
    topics: RwLock<HashMap<Arc<str>, OfPattern, RandomState>>,
    wildcards: RwLock<Tree<OfPattern>>,
    /// Number of patterns in `wildcards`.
    patterns: AtomicUsize,
    count: AtomicU64,
}

/// One of these subscriptions, until it is dropped.
pub(super) struct Member {
    overlaps: Arc<Overlaps>,
    pattern: Arc<str>,
    age: u64,
    barriers: mpsc::UnboundedReceiver<Barrier>,
    /// Barriers that are not passed yet, and the number of deliveries after which each is.
    waiting: Vec<(u32, Barrier)>,
    hasher: RandomState,
    youth: Youth,
}

enum Youth {
    /// Nothing has been delivered yet.
    New,
    /// With hashes of the topics that it has waited for.
    Young(Instant, HashSet<u64, RandomState>),
    Over,
}

impl Overlaps {
    /// Adds a subscription, which is younger than those added before. To be called before NATS subscribes.
    pub(super) fn add(self: &Arc<Self>, pattern: &Arc<str>) -> Member {
        let (sender, barriers) = mpsc::unbounded_channel();
        let age = self.count.fetch_add(1, Relaxed);
        let live = Live {
            age,
            barriers: sender,
        };
        self.change(pattern, |of_pattern| of_pattern.push(live));
        Member {
            overlaps: self.clone(),
            pattern: pattern.clone(),
            age,
            barriers,
            waiting: Vec::new(),
            hasher: RandomState::default(),
            youth: Youth::New,
        }
    }

    /// True if several live subscriptions match a topic: each gets a copy of a message.
    pub(super) fn has_several(&self, topic: &str) -> bool {
        let mut count = 0;
        self.visit(topic, |live| count += live.len());
        count > 1
    }

    fn change(&self, pattern: &Arc<str>, change: impl FnOnce(&mut OfPattern)) {
        if topic::has_wildcards(pattern) {
            let mut wildcards = self.wildcards.write();
            wildcards.change(pattern, change);
            self.patterns.store(wildcards.count(), Relaxed);
            return;
        }
        let mut topics = self.topics.write();
        let of_pattern = topics.entry(pattern.clone()).or_default();
        change(of_pattern);
        if of_pattern.is_empty() {
            topics.remove(pattern);
            if topics.capacity() > 1024 && topics.len() < topics.capacity() / 4 {
                topics.shrink_to_fit();
            }
        }
    }

    fn visit(&self, topic: &str, mut visit: impl FnMut(&OfPattern)) {
        if let Some(live) = self.topics.read().get(topic) {
            visit(live);
        }
        if self.patterns.load(Relaxed) > 0 {
            self.wildcards.read().visit(topic, &mut visit);
        }
    }
}

impl Member {
    /// True if messages of this topic may still be in the queues of older subscriptions alone.
    pub(super) fn is_young(&mut self) -> bool {
        match &self.youth {
            Youth::New => {
                self.youth = Youth::Young(Instant::now() + YOUTH, HashSet::default());
            }
            Youth::Young(until, _) if *until <= Instant::now() => self.youth = Youth::Over,
            Youth::Young(..) | Youth::Over => {}
        }
        !matches!(self.youth, Youth::Over)
    }

    /// Waits until older subscriptions that match a topic have handled what they have got so far.
    pub(super) async fn wait_for_older(&mut self, topic: &str) {
        let hash = self.hasher.hash_one(topic);
        let Youth::Young(_, known) = &mut self.youth else {
            return;
        };
        if known.contains(&hash) {
            return;
        }
        let mut passed = Vec::new();
        self.overlaps.visit(topic, |of_pattern| {
            for live in of_pattern.iter().filter(|live| live.age < self.age) {
                let (barrier, is_passed) = oneshot::channel();
                if live.barriers.send(barrier).is_ok() {
                    passed.push(is_passed);
                }
            }
        });
        // Older ones wait for still older ones only: there is no circle.
        for is_passed in passed {
            let _ = is_passed.await;
        }
        if known.len() < MAX_TOPICS {
            known.insert(hash);
        }
    }

    /// Resolves when a younger subscription waits for this one.
    pub(super) async fn barrier(&mut self) {
        match self.barriers.recv().await {
            Some(barrier) => self.waiting.push((QUEUED, barrier)),
            None => std::future::pending().await,
        }
    }

    /// True if younger ones wait for this one.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A delivery has been handled, and there may be more.
    pub(super) fn handled(&mut self) {
        while let Ok(barrier) = self.barriers.try_recv() {
            self.waiting.push((QUEUED, barrier));
        }
        self.waiting.retain_mut(|(left, _)| {
            *left -= 1;
            *left > 0
        });
    }

    /// All deliveries have been handled that came before the barriers.
    pub(super) fn pass(&mut self) {
        self.waiting.clear();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let age = self.age;
        (self.overlaps).change(&self.pattern, |live| live.retain(|live| live.age != age));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_subscription_waits_once_for_a_topic_while_it_is_young() {
        let overlaps = Arc::<Overlaps>::default();
        let mut older = overlaps.add(&"a.*".into());
        let mut young = overlaps.add(&"a.b".into());
        advance(2 * YOUTH).await;
        assert!(young.is_young(), "nothing has come yet");
        assert!(young.wait_for_older("a.b").now_or_never().is_none());
        let mut waits = Box::pin(young.wait_for_older("a.b"));
        assert!((&mut waits).now_or_never().is_none());
        assert!(older.barrier().now_or_never().is_some());
        assert!(older.has_waiting());
        older.handled();
        assert!((&mut waits).now_or_never().is_none());
        older.pass();
        assert!(waits.now_or_never().is_some());
        assert!(young.wait_for_older("a.b").now_or_never().is_some());
        assert!(young.is_young());
        assert!(older.is_young());
        assert!(older.wait_for_older("a.b").now_or_never().is_some());
        advance(YOUTH).await;
        assert!(!young.is_young());
    }

    #[test]
    fn a_queue_that_never_gets_empty_holds_younger_ones_up_for_its_length() {
        let overlaps = Arc::<Overlaps>::default();
        let mut older = overlaps.add(&"a.*".into());
        let mut young = overlaps.add(&"a.b".into());
        young.youth = Youth::Young(Instant::now() + YOUTH, HashSet::default());
        let mut waits = Box::pin(young.wait_for_older("a.b"));
        assert!((&mut waits).now_or_never().is_none());
        for _ in 1..QUEUED {
            older.handled();
        }
        assert!((&mut waits).now_or_never().is_none());
        older.handled();
        assert!(waits.now_or_never().is_some());
    }

    #[test]
    fn subscriptions_of_a_topic_are_counted_until_they_end() {
        let overlaps = Arc::<Overlaps>::default();
        let [exact, again] = [0, 0].map(|_| overlaps.add(&"a.b".into()));
        assert!(overlaps.has_several("a.b") && !overlaps.has_several("a.c"));
        drop(exact);
        assert!(!overlaps.has_several("a.b"));
        let [one, rest] = ["a.*", "a.>"].map(|pattern| overlaps.add(&pattern.into()));
        assert!(overlaps.has_several("a.c") && !overlaps.has_several("a.c.d"));
        drop((again, one));
        assert!(!overlaps.has_several("a.b"));
        drop(rest);
        assert!(overlaps.topics.read().is_empty());
        assert_eq!(overlaps.patterns.load(Relaxed), 0);
    }
}

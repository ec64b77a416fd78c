//! Messages to topics, between brokers.
//!
//! Each distinct pattern of a broker's subscribers is one subscription of NATS, so that NATS sends a broker what its
//! subscribers want and nothing else. Publications leave through one queue, in order. Its bound makes publishers wait.
//! Unlike messages to ids they have no credit: what NATS drops on the way is lost, and reported as `Lagged`.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

use data_encoding::BASE64URL_NOPAD;
use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    Cluster,
    bus::{Delivery, NodeId, Publication, Subjects, Subscription},
    message::{Message, PUBLICATION_HEAD, Rest},
};
use crate::{
    broker::{peers::Unreachable, topics::Publication as Messages},
    topic::{self, ONE, REST},
};

/// Bytes queued for NATS at which publishers wait, and to which they wait.
const MAX_QUEUED: usize = 4 << 20;
const ENOUGH: usize = MAX_QUEUED / 2;
/// Number of publications of a broker that are remembered because several patterns match them.
const REMEMBERED: usize = 64 << 10;

/// The publications on their way to NATS, and the patterns of this broker.
pub(super) struct Topics {
    outgoing: mpsc::UnboundedSender<Publication>,
    /// The other end, until the task that publishes has taken it.
    incoming: Mutex<Option<mpsc::UnboundedReceiver<Publication>>>,
    queued: AtomicUsize,
    /// Publishers that wait for room, by the keys of their connections.
    waiters: Mutex<HashMap<u64, Waker, RandomState>>,
    /// Number of publications so far.
    published: AtomicU64,
    /// Patterns that have got their first subscriber, or have lost their last.
    changed_patterns: Mutex<HashSet<Arc<str>, RandomState>>,
    changed: Notify,
    /// By broker, publications that have arrived.
    arrived: Mutex<HashMap<NodeId, Arrived, RandomState>>,
}

/// The publications of one broker that were handled: NATS delivers one for each pattern that matches.
#[derive(Default)]
struct Arrived {
    numbers: HashSet<u64, RandomState>,
    oldest: VecDeque<u64>,
}

impl Default for Topics {
    fn default() -> Self {
        let (outgoing, incoming) = mpsc::unbounded_channel();
        Self {
            outgoing,
            incoming: Mutex::new(Some(incoming)),
            queued: AtomicUsize::new(0),
            waiters: Mutex::default(),
            published: AtomicU64::new(0),
            changed_patterns: Mutex::default(),
            changed: Notify::new(),
            arrived: Mutex::default(),
        }
    }
}

impl Subjects {
    /// The subject of a topic, or that of all topics that match a pattern. Each token is one of the subject, so that
    /// wildcards mean the same.
    pub(super) fn topic(&self, pattern: &str) -> String {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let mut subject = self.topics();
        for token in pattern.split('.') {
            subject.push('.');
            match token {
                ONE | REST => subject.push_str(token),
                _ if token.bytes().all(is_plain) && !token.starts_with('_') => {
                    subject.push_str(token);
                }
                _ => {
                    subject.push('_');
                    BASE64URL_NOPAD.encode_append(token.as_bytes(), &mut subject);
                }
            }
        }
        subject
    }
}

impl Cluster {
    /// Whether messages to topics can be sent to other brokers now.
    ///
    /// Errors: `Held` while too much waits for NATS: the waker of the connection with this key is called when there is
    /// room. `Down`.
    pub(super) fn may_publish(&self, key: u64, waker: &Waker) -> Result<(), Unreachable> {
        if !self.is_up() {
            return Err(Unreachable::Down);
        }
        if self.topics.queued.load(Relaxed) < MAX_QUEUED {
            return Ok(());
        }
        self.topics.waiters.lock().insert(key, waker.clone());
        // There may be room since: then the waker would never be called.
        match self.topics.queued.load(Relaxed) < MAX_QUEUED {
            true => Ok(()),
            false => Err(Unreachable::Held),
        }
    }

    /// Sends messages of a topic to the brokers that have subscribers. False if NATS is unreachable.
    pub(super) fn publish_topic(&self, messages: &Messages<'_>) -> bool {
        if !self.is_up() {
            return false;
        }
        let message = Message::Publication {
            node: self.node,
            number: self.topics.published.fetch_add(1, Relaxed) + 1,
            count: messages.count,
            // It fits: a message is smaller than 4 GiB.
            last: messages.last as u32,
            topic: messages.topic,
            frames: Rest(messages.frames),
        };
        let publication = Publication {
            subject: self.subjects.topic(messages.topic),
            reply: None,
            payload: message.encode().into(),
        };
        self.topics
            .queued
            .fetch_add(publication.payload.len(), Relaxed);
        // Fails only once the cluster has ended.
        self.topics.outgoing.send(publication).is_ok()
    }

    /// Records that a pattern has got its first subscriber, or has lost its last.
    pub(super) fn pattern_changed(&self, pattern: &Arc<str>) {
        self.topics.changed_patterns.lock().insert(pattern.clone());
        self.topics.changed.notify_one();
    }

    /// Size limit in bytes of a message to this topic.
    pub(super) fn max_publication(&self, topic: &str) -> usize {
        self.bus
            .max_payload()
            .saturating_sub(PUBLICATION_HEAD + topic.len())
    }

    /// Handles a message of another broker. It comes once for each pattern that matches.
    fn on_publication(&self, delivery: &Delivery) {
        let message = Message::decode(&delivery.payload);
        let (
            Some(broker),
            Ok(Message::Publication {
                node,
                number,
                count,
                last,
                topic,
                frames: Rest(frames),
            }),
        ) = (self.broker(), message)
        else {
            return;
        };
        let last = last as usize;
        if node == self.node || last >= frames.len() || !topic::is_topic(topic) {
            return;
        }
        let mut arrived = self.topics.arrived.lock();
        let is_shared = broker.topics.patterns_of(topic) > 1;
        let known = arrived.entry(node).or_default();
        if (is_shared || !known.numbers.is_empty()) && !known.add(number) {
            return;
        }
        // Under the lock: the first copy of a message is handled before those of later ones.
        let messages = Messages {
            topic,
            frames,
            shared: None,
            count,
            last,
        };
        (self.counters.received).fetch_add(count.into(), Relaxed);
        broker.publish_all(&messages);
    }

    /// Forgets the publications of a broker that has ended.
    pub(super) fn forget_publications(&self, node: NodeId) {
        self.topics.arrived.lock().remove(&node);
    }
}

impl Arrived {
    /// Remembers a number; false if it was known.
    fn add(&mut self, number: u64) -> bool {
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
}

/// Publishes what is queued, in order.
pub(super) async fn publish_queued(cluster: Arc<Cluster>) {
    let topics = &cluster.topics;
    let Some(mut incoming) = topics.incoming.lock().take() else {
        return;
    };
    while let Some(publication) = incoming.recv().await {
        let bytes = publication.payload.len();
        cluster.bus.publish(publication).await;
        let before = topics.queued.fetch_sub(bytes, Relaxed);
        if before >= ENOUGH && before - bytes < ENOUGH {
            for (_, waker) in topics.waiters.lock().drain() {
                waker.wake();
            }
        }
    }
}

/// Keeps the subscriptions of NATS those of the patterns that have subscribers here.
pub(super) async fn follow_patterns(cluster: Arc<Cluster>) {
    let mut stops: HashMap<Arc<str>, oneshot::Sender<()>, RandomState> = HashMap::default();
    loop {
        cluster.topics.changed.notified().await;
        let changed = std::mem::take(&mut *cluster.topics.changed_patterns.lock());
        for pattern in changed {
            let Some(broker) = cluster.broker() else {
                return;
            };
            // A pattern may have come and gone meanwhile: the present state decides.
            let is_wanted = broker.topics.has(&pattern);
            drop(broker);
            match (is_wanted, stops.entry(pattern)) {
                (false, Entry::Occupied(entry)) => drop(entry.remove()),
                (true, Entry::Vacant(entry)) => {
                    let subject = cluster.subjects.topic(entry.key());
                    let Ok(subscription) = cluster.bus.subscribe(subject, false).await else {
                        return;
                    };
                    let (stop, stopped) = oneshot::channel();
                    entry.insert(stop);
                    let task = receive(cluster.clone(), subscription, stopped);
                    cluster.runtime.spawn(task);
                }
                _ => {}
            }
        }
    }
}

/// Receives the packets of a pattern until its `stop` is dropped, or the cluster ends.
async fn receive(
    cluster: Arc<Cluster>,
    mut subscription: Box<dyn Subscription>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut ended = cluster.ended.subscribe();
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            _ = ended.wait_for(|ended| *ended) => break,
            delivery = subscription.next() => match delivery {
                Some(delivery) => cluster.on_publication(&delivery),
                None => break,
            },
        }
    }
    subscription.unsubscribe().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_has_the_size_that_is_reserved_for_it() {
        let message = Message::Publication {
            node: NodeId(1),
            number: 2,
            count: 3,
            last: 4,
            topic: "a.b",
            frames: Rest(b"frames"),
        };
        assert_eq!(
            message.encode().len(),
            PUBLICATION_HEAD + "a.b".len() + "frames".len()
        );
    }

    #[test]
    fn subjects_have_the_tokens_of_topics() {
        let subjects = Subjects::new("ns");
        let subject = |pattern| subjects.topic(pattern);
        assert_eq!(subject("room.7"), "wsmb.ns.t.room.7");
        assert_eq!(subject("room.*.>"), "wsmb.ns.t.room.*.>");
        assert_eq!(subject("_x"), "wsmb.ns.t._X3g");
        let topics = ["a", "_YQ", "a:b", "é", "a_b", "A", "-", "_", "\"", "\\"];
        let distinct: HashSet<_> = topics.iter().map(|topic| subject(topic)).collect();
        assert_eq!(distinct.len(), topics.len());
        for subject in distinct {
            let token = subject.strip_prefix("wsmb.ns.t.").expect("its prefix");
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            assert!(
                !token.is_empty() && token.chars().all(is_plain),
                "{subject}"
            );
        }
    }

    #[test]
    fn a_number_is_new_once_as_long_as_it_is_remembered() {
        let mut arrived = Arrived::default();
        for number in 0..REMEMBERED as u64 {
            assert!(arrived.add(number));
            assert!(!arrived.add(number));
        }
        assert!(!arrived.add(0));
        assert!(arrived.add(1 << 40));
        assert_eq!(arrived.numbers.len(), REMEMBERED);
        assert!(arrived.add(0), "the oldest is forgotten");
    }
}

//! Messages to topics, between brokers.
//!
//! Each distinct pattern of a broker's subscribers is one subscription of NATS, so that NATS sends a broker what its
//! subscribers want and nothing else. Publications leave through one queue, in order. Its bound makes publishers wait.
//! Unlike messages to ids they have no credit: what NATS drops on the way is lost, and reported as `Lagged`.
//!
//! Each group of workers with members at this broker is a subscription in a queue group of NATS, so that NATS chooses
//! one broker for each message. A publisher's broker with members gives a message to these, and names the group in the
//! publication: other brokers skip it. A message that finds no member any more is passed on to another broker of the
//! group, on a subject of its own.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use foldhash::quality::RandomState;
use futures_util::future::OptionFuture;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Sleep, sleep},
};

use super::{
    Cluster,
    bus::{Delivery, NodeId, Publication, Subjects, Subscription},
    message::{GROUP_JOB_HEAD, Message, PUBLICATION_HEAD, Rest, SERVED},
};
use crate::{
    broker::{
        Broker,
        handle::Handle,
        peers::Unreachable,
        topics::{
            Publication as Messages,
            groups::{Dispatched, Group, GroupId, Job},
        },
    },
    error,
    protocol::{self, Frames},
    topic::{self, ONE, REST},
    transport::framing,
};

/// Bytes queued at which publishers and askers wait, and to which they wait.
const MAX_QUEUED: usize = 4 << 20;
const ENOUGH: usize = MAX_QUEUED / 2;
/// Number of publications of a broker that are remembered because several patterns match them.
const REMEMBERED: usize = 64 << 10;
/// Number of brokers that pass on a message whose group has no members there (NATS may choose such a broker several
/// times until its subscription has ended), and one for which too many messages wait.
const MAX_HOPS: u8 = 64;
const MAX_HOPS_FULL: u8 = 2;
/// After the last member of a group has left: how many publications more its subscription may get, and the time until it
/// ends. They are passed on.
const LAST_DELIVERIES: u64 = 256;
const LAST_TIME: Duration = Duration::from_secs(1);

/// The publications on their way to NATS, and the patterns of this broker.
pub(super) struct Topics {
    outgoing: mpsc::UnboundedSender<Publication>,
    /// The other end, until the task that publishes has taken it.
    incoming: Mutex<Option<mpsc::UnboundedReceiver<Publication>>>,
    queued: Budget,
    /// The requests whose receivers at other brokers are looked for.
    pub(super) asking: Budget,
    /// Number of publications so far.
    published: AtomicU64,
    /// Patterns that have got their first subscriber, or have lost their last.
    changed_patterns: Mutex<HashSet<Arc<str>, RandomState>>,
    changed: Notify,
    /// By broker, publications that have arrived.
    arrived: Mutex<HashMap<NodeId, Arrived, RandomState>>,
}

/// Bytes that are queued, and the connections that wait for room.
#[derive(Default)]
pub(super) struct Budget {
    bytes: AtomicUsize,
    /// By the keys of the connections.
    waiters: Mutex<HashMap<u64, Waker, RandomState>>,
}

impl Budget {
    /// True if there is room. Otherwise the waker of the connection with this key is called when there is.
    pub(super) fn admit(&self, key: u64, waker: &Waker) -> bool {
        let has_room = || self.bytes.load(Relaxed) < MAX_QUEUED;
        if has_room() {
            return true;
        }
        self.waiters.lock().insert(key, waker.clone());
        // There may be room since: then the waker would never be called.
        has_room()
    }

    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn subtract(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Relaxed);
        if before >= ENOUGH && before - bytes < ENOUGH {
            for (_, waker) in self.waiters.lock().drain() {
                waker.wake();
            }
        }
    }
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
            queued: Budget::default(),
            asking: Budget::default(),
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
        match self.topics.queued.admit(key, waker) {
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
            served: messages.served.into(),
            frames: Rest(messages.frames),
        };
        self.queue(self.subjects.topic(messages.topic), &message)
    }

    /// Queues a message for NATS. False if the cluster has ended.
    pub(super) fn queue(&self, subject: String, message: &Message<'_>) -> bool {
        let publication = Publication {
            subject,
            reply: None,
            payload: message.encode().into(),
        };
        self.topics.queued.add(publication.payload.len());
        self.topics.outgoing.send(publication).is_ok()
    }

    /// Sends a message of a group to a broker that has members; see `Peers::pass_on`.
    pub(super) fn pass_on(&self, group: &Group, job: &Job) -> bool {
        let message = Message::GroupJob {
            hops: job.hops + 1,
            pattern: &group.pattern,
            group: &group.name,
            frame: Rest(&job.frame),
        };
        let head = GROUP_JOB_HEAD + group.pattern.len() + group.name.len();
        self.is_up()
            && job.hops < MAX_HOPS
            && head + job.frame.len() <= self.bus.max_payload()
            && self.queue(self.subjects.group(group.id), &message)
    }

    /// Bytes of the requests whose receivers are looked for.
    #[cfg(test)]
    pub(super) fn topics_asking(&self) -> usize {
        self.topics.asking.bytes.load(Relaxed)
    }

    /// Records that a pattern has got its first subscriber, or has lost its last.
    pub(super) fn pattern_changed(&self, pattern: &Arc<str>) {
        self.topics.changed_patterns.lock().insert(pattern.clone());
        self.topics.changed.notify_one();
    }

    /// Size limit in bytes of a message to this topic.
    pub(super) fn max_publication(&self, topic: &str, groups: usize) -> usize {
        let head = PUBLICATION_HEAD + topic.len() + groups * SERVED;
        self.bus.max_payload().saturating_sub(head)
    }

    /// Handles a message of another broker. It comes once for each pattern that matches.
    fn on_publication(&self, delivery: &Delivery) {
        let message = self.decode(&delivery.payload);
        let (
            Some(broker),
            Some(Message::Publication {
                node,
                number,
                count,
                last,
                topic,
                frames: Rest(frames),
                served: _,
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
            served: &[],
        };
        (self.counters.received).fetch_add(count.into(), Relaxed);
        broker.publish_all(&messages);
    }

    /// Gives the messages of a publication, which may be this broker's own, to members of a group.
    fn on_group_publication(&self, source: &Source, delivery: &Delivery) {
        let (
            Some(broker),
            Some(Message::Publication {
                topic,
                served,
                frames: Rest(frames),
                ..
            }),
        ) = (self.broker(), self.decode(&delivery.payload))
        else {
            return;
        };
        let Source { pattern, group } = source;
        let Some((name, id)) = group else { return };
        if served.contains(id) || !topic::is_topic(topic) {
            return;
        }
        let name_end = [",\"group\":", &protocol::json_string(name), "}"].concat();
        let mut touched = Vec::new();
        for (text, _) in Frames(frames).filter(|(text, _)| protocol::is_message(text)) {
            let text = std::str::from_utf8(text).ok();
            let Some(text) = text.and_then(|text| text.strip_suffix('}')) else {
                continue;
            };
            let mut frame = Vec::with_capacity(text.len() + name_end.len() + 16);
            framing::append_text(&[text, &name_end], &mut frame);
            self.dispatch(&broker, (pattern, name), frame, 0, &mut touched);
        }
        touched.iter().for_each(|handle| handle.flush());
    }

    /// Gives a message that another broker has passed on to a member of a group.
    pub(super) fn on_group_job(&self, delivery: &Delivery) {
        let (
            Some(broker),
            Some(Message::GroupJob {
                hops,
                pattern,
                group,
                frame: Rest(frame),
            }),
        ) = (self.broker(), self.decode(&delivery.payload))
        else {
            return;
        };
        let mut frames = Frames(frame);
        let is_message = |(text, whole): (&[u8], &[u8])| {
            protocol::is_message(text) && std::str::from_utf8(text).is_ok() && whole == frame
        };
        if topic::is_pattern(pattern) && frames.next().is_some_and(is_message) {
            let mut touched = Vec::new();
            self.dispatch(
                &broker,
                (pattern, group),
                frame.to_vec(),
                hops,
                &mut touched,
            );
            touched.iter().for_each(|handle| handle.flush());
        }
    }

    /// Gives a message to a member of a group, or passes it on if there is none.
    fn dispatch(
        &self,
        broker: &Broker,
        (pattern, name): (&str, &str),
        frame: Vec<u8>,
        hops: u8,
        touched: &mut Vec<Arc<Handle>>,
    ) {
        self.counters.received.fetch_add(1, Relaxed);
        let job = Job {
            frame: broker.charged_bytes(frame),
            request: None,
            hops,
        };
        let known = broker.topics.group(pattern, name);
        let dispatched = match &known {
            Some(group) => broker.dispatch(group, job.clone(), touched),
            None => Dispatched::Empty,
        };
        let is_done = match dispatched {
            Dispatched::Sent | Dispatched::Queued => true,
            Dispatched::Full if hops >= MAX_HOPS_FULL => false,
            Dispatched::Full | Dispatched::Empty => {
                let group = known.unwrap_or_else(|| Group::new(&pattern.into(), name));
                self.pass_on(&group, &job)
            }
        };
        if !is_done {
            broker.metrics.dropped.fetch_add(1, Relaxed);
        }
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
        topics.queued.subtract(bytes);
    }
}

/// The receivers of a subscription of NATS: the subscribers of a pattern, or the members of one of its groups.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    pattern: Arc<str>,
    /// The name and the id of the group.
    group: Option<(Arc<str>, GroupId)>,
}

/// A subscription of NATS, and the sender that ends it when it is dropped.
type Subscribed = (Source, oneshot::Sender<()>);

/// Keeps the subscriptions of NATS those of the patterns that have subscribers here, and of their groups.
pub(super) async fn follow_patterns(cluster: Arc<Cluster>) {
    let mut known: HashMap<Arc<str>, Vec<Subscribed>, RandomState> = HashMap::default();
    loop {
        cluster.topics.changed.notified().await;
        let changed = std::mem::take(&mut *cluster.topics.changed_patterns.lock());
        for pattern in changed {
            let Some(broker) = cluster.broker() else {
                return;
            };
            // A pattern may have come and gone meanwhile: the present state decides.
            let (has_subscribers, groups) = broker.topics.demand(&pattern);
            drop(broker);
            let groups = groups
                .iter()
                .map(|group| Some((group.name.clone(), group.id)));
            let wanted: Vec<_> = (has_subscribers.then_some(None).into_iter())
                .chain(groups)
                .map(|group| Source {
                    pattern: pattern.clone(),
                    group,
                })
                .collect();
            let sources = known.entry(pattern.clone()).or_default();
            sources.retain(|(source, _)| wanted.contains(source));
            for source in wanted {
                if sources.iter().any(|(known, _)| *known == source) {
                    continue;
                }
                let (stop, stopped) = oneshot::channel();
                if subscribe(&cluster, source.clone(), stopped).await.is_err() {
                    return;
                }
                sources.push((source, stop));
            }
            if sources.is_empty() {
                known.remove(&pattern);
            }
        }
    }
}

/// Subscribes for subscribers or for a group, until the sender of `stopped` is dropped.
async fn subscribe(
    cluster: &Arc<Cluster>,
    source: Source,
    stopped: oneshot::Receiver<()>,
) -> error::Result<()> {
    let (bus, subjects) = (&cluster.bus, &cluster.subjects);
    let subject = subjects.topic(&source.pattern);
    let Some((_, id)) = &source.group else {
        let subscription = bus.subscribe(subject, None).await?;
        let task = receive(cluster.clone(), subscription, stopped);
        cluster.runtime.spawn(task);
        return Ok(());
    };
    // Not the name alone: NATS joins the queue groups of one name, whatever their subjects are.
    let queue = Some(id.to_string());
    let passed_on = bus.subscribe(subjects.group(*id), queue.clone()).await?;
    let published = bus.subscribe(subject, queue).await?;
    let task = receive_for_group(cluster.clone(), source, (published, passed_on), stopped);
    cluster.runtime.spawn(task);
    Ok(())
}

/// Receives the packets of a pattern until the sender of `stopped` is dropped, or the cluster ends.
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

/// Receives the packets for a group until the sender of `stopped` is dropped, or the cluster ends. NATS may have chosen
/// this broker for some more, which are passed on.
async fn receive_for_group(
    cluster: Arc<Cluster>,
    source: Source,
    (mut published, mut passed_on): (Box<dyn Subscription>, Box<dyn Subscription>),
    mut stopped: oneshot::Receiver<()>,
) {
    let mut ended = cluster.ended.subscribe();
    let mut last_time = pin!(None::<Sleep>);
    loop {
        let is_stopping = last_time.is_some();
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => break,
            _ = &mut stopped, if !is_stopping => last_time.set(Some(sleep(LAST_TIME))),
            Some(()) = OptionFuture::from(last_time.as_mut().as_pin_mut()) => break,
            delivery = published.next() => match delivery {
                Some(delivery) => cluster.on_group_publication(&source, &delivery),
                None => break,
            },
            Some(delivery) = passed_on.next(), if !is_stopping => cluster.on_group_job(&delivery),
        }
        if !is_stopping && last_time.is_some() {
            published.unsubscribe_after(LAST_DELIVERIES).await;
            passed_on.unsubscribe().await;
            while let Some(delivery) = passed_on.next().await {
                cluster.on_group_job(&delivery);
            }
        }
    }
    published.unsubscribe().await;
    while let Some(delivery) = published.next().await {
        cluster.on_group_publication(&source, &delivery);
    }
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
            served: vec![GroupId(1), GroupId(2)].into(),
            frames: Rest(b"frames"),
        };
        assert_eq!(
            message.encode().len(),
            PUBLICATION_HEAD + "a.b".len() + 2 * SERVED + "frames".len()
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

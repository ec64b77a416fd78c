//! Order of messages to topics that come from another broker.

use std::{pin::Pin, thread};

use futures_util::FutureExt;
use tokio::{
    sync::oneshot,
    time::{advance, sleep},
};

use super::{
    super::{message::Message, patterns::receive},
    test_bus::*,
    topics::{counts, publish, settle, subscribe, subscribe_again},
    *,
};
use crate::{broker::handle::Handle, protocol::version_2, transport::framing};

/// A subscription of NATS whose task runs only when the test polls it.
struct Receiving {
    task: Pin<Box<dyn Future<Output = ()> + Send>>,
    _stop: oneshot::Sender<()>,
}

impl Receiving {
    async fn new(at: &TestBroker, pattern: &str) -> Self {
        let cluster = at.cluster.clone();
        let member = cluster.patterns.overlaps.add(&pattern.into());
        let subject = cluster.subjects.topic(pattern);
        let subscription = cluster.bus.subscribe(subject, None).await;
        let (stop, stopped) = oneshot::channel();
        let subscription = subscription.expect("a subscription");
        let task = Box::pin(receive(cluster, subscription, member, stopped));
        Self { task, _stop: stop }
    }

    /// Handles what has come, as far as it can.
    fn poll(&mut self) {
        assert!((&mut self.task).now_or_never().is_none());
    }
}

/// Publishes a message with this number at once. Tasks of brokers do not run.
async fn publish_number(at: &TestBroker, topic: &str, number: u64) {
    let mut frames = Vec::new();
    framing::append_text(&[r#"{"action":"message","message":1}"#], &mut frames);
    let cluster = &at.cluster;
    let message = Message::Publication {
        node: cluster.node,
        number,
        count: 1,
        last: 0,
        topic,
        served: Vec::new().into(),
        frames: super::super::message::Rest(&frames),
    };
    let publication = bus::Publication {
        subject: cluster.subjects.topic(topic),
        reply: None,
        payload: message.encode().into(),
    };
    cluster.bus.publish(publication).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_subscription_waits_for_what_older_ones_have_got_before() {
    let bus = Arc::<TestBus>::default();
    let brokers = joined_brokers(&bus, 2).await;
    let subscriber = subscribe(&brokers[1], "s", "t.*");
    let mut oldest = Receiving::new(&brokers[1], "t.*").await;
    let mut other = Receiving::new(&brokers[1], "u.*").await;
    publish_number(&brokers[0], "t.x", 1).await;
    let mut exact = Receiving::new(&brokers[1], "t.x").await;
    publish_number(&brokers[0], "t.x", 2).await;
    let mut rest = Receiving::new(&brokers[1], "t.>").await;
    publish_number(&brokers[0], "t.x", 3).await;
    let poll = |receiving: &mut Receiving, expected| {
        receiving.poll();
        assert_eq!(counts([&subscriber]), [expected]);
    };
    // The newer two wait for the oldest.
    poll(&mut rest, 0);
    poll(&mut exact, 0);
    poll(&mut rest, 0);
    poll(&mut other, 0);
    poll(&mut oldest, 3);
    poll(&mut exact, 3);
    poll(&mut rest, 3);
    // From now on the first copy is handled, whichever it is.
    for number in 4..10 {
        publish_number(&brokers[0], "t.x", number).await;
        let mut receiving = [&mut oldest, &mut exact, &mut rest];
        receiving.rotate_left(number as usize % 3);
        for receiving in receiving {
            poll(receiving, number as u32);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_subscription_waits_no_more_for_one_that_ends() {
    let bus = Arc::<TestBus>::default();
    let brokers = joined_brokers(&bus, 2).await;
    let subscriber = subscribe(&brokers[1], "s", "t.x");
    let older = Receiving::new(&brokers[1], "t.*").await;
    publish_number(&brokers[0], "t.x", 1).await;
    let mut newer = Receiving::new(&brokers[1], "t.x").await;
    publish_number(&brokers[0], "t.x", 2).await;
    newer.poll();
    assert_eq!(counts([&subscriber]), [0]);
    let Receiving { task, _stop: stop } = older;
    drop(stop);
    task.await;
    newer.poll();
    assert_eq!(counts([&subscriber]), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_still_ends_adds_no_second_copy() {
    let bus = Arc::<TestBus>::default();
    let brokers = joined_brokers(&bus, 2).await;
    // The subscribers of the other pattern have left already.
    let subscriber = subscribe(&brokers[1], "s", "t.*");
    let mut stays = Receiving::new(&brokers[1], "t.*").await;
    let mut ends = Receiving::new(&brokers[1], "t.x").await;
    publish_number(&brokers[0], "t.x", 1).await;
    for _ in 0..2 {
        stays.poll();
        ends.poll();
        assert_eq!(counts([&subscriber]), [1]);
    }
}

/// Bytes of a `gap` of one message.
fn gap_bytes(topic: &str) -> usize {
    let mut frame = Vec::new();
    framing::append_text(&version_2::gap(&format!("\"{topic}\""), "1"), &mut frame);
    frame.len()
}

/// Asserts that a subscriber gets a `gap` of one message and nothing else while this runs.
async fn gets_gap(subscriber: &Arc<Handle>, topic: &str, run: impl Future<Output = ()>) {
    let ([count], bytes) = (counts([subscriber]), subscriber.outbox.waiting());
    run.await;
    assert_eq!(counts([subscriber]), [count + 1]);
    assert_eq!(subscriber.outbox.waiting(), bytes + gap_bytes(topic));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_arrives_after_a_later_one_is_a_gap() {
    for patterns in [&["t.x"][..], &["t.x", "t.*", ">"]] {
        let bus = Arc::<TestBus>::default();
        let brokers = joined_brokers(&bus, 3).await;
        let subscriber = subscribe(&brokers[1], "s", patterns[0]);
        for pattern in patterns {
            subscribe_again(&brokers[1], &subscriber, pattern);
        }
        settle().await;
        let publish = async |from: usize, topic: &str, number| {
            publish_number(&brokers[from], topic, number).await;
            settle().await;
        };
        for number in [1, 2, 5] {
            publish(0, "t.x", number).await;
        }
        assert_eq!(counts([&subscriber]), [3]);
        // By the former connection of its broker, which has connected to NATS again.
        gets_gap(&subscriber, "t.x", publish(0, "t.x", 3)).await;
        // Of another topic, and of another broker.
        publish(0, "t.y", 4).await;
        publish(2, "t.x", 1).await;
        publish(0, "t.x", 6).await;
        let more = if patterns.len() > 1 { 3 } else { 2 };
        assert_eq!(counts([&subscriber]), [4 + more]);
        assert_eq!(brokers[1].cluster.stats().late, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_another_subscription_has_overtaken_is_a_gap() {
    let bus = Arc::<TestBus>::default();
    let brokers = joined_brokers(&bus, 2).await;
    let subscriber = subscribe(&brokers[1], "s", "t.*");
    settle().await;
    let mut other = Receiving::new(&brokers[1], "t.x").await;
    publish_number(&brokers[0], "t.x", 1).await;
    settle().await;
    other.poll();
    // It is not young. While this broker connected to NATS again, "t.*" was subscribed before "t.x".
    advance(Duration::from_secs(20)).await;
    let mut copies = 0;
    bus.lose_if(move |_, _, publication| {
        let message = Message::decode(&publication.payload);
        copies += usize::from(matches!(message, Ok(Message::Publication { .. })));
        copies == 2
    });
    publish_number(&brokers[0], "t.x", 2).await;
    bus.heal();
    publish_number(&brokers[0], "t.x", 3).await;
    other.poll();
    assert_eq!(counts([&subscriber]), [2]);
    gets_gap(&subscriber, "t.x", settle()).await;
    assert_eq!(brokers[1].cluster.stats().late, 1);
}

#[tokio::test(start_paused = true)]
async fn publications_are_numbered_in_the_order_in_which_they_leave_their_broker() {
    let bus = Arc::<TestBus>::default();
    let brokers = joined_brokers(&bus, 2).await;
    let _subscriber = subscribe(&brokers[1], "s", "t");
    settle().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let numbers = seen.clone();
    bus.lose_if(move |_, _, publication| {
        if let Ok(Message::Publication { number, .. }) = Message::decode(&publication.payload) {
            numbers.lock().push(number);
        }
        false
    });
    // Of two connections: the second one has been encoded first.
    let encoded = [2, 1].map(|number| Message::Publication {
        node: brokers[0].cluster.node,
        number,
        count: 1,
        last: 0,
        topic: "t",
        served: Vec::new().into(),
        frames: super::super::message::Rest(b"\x81\x00"),
    });
    let subject = || brokers[0].cluster.subjects.topic("t");
    for message in encoded.iter().chain([&Message::Empty {}]) {
        assert!(brokers[0].cluster.queue(subject(), message));
    }
    publish(&brokers[0], "t", &[3]);
    settle().await;
    assert_eq!(*seen.lock(), [1, 2, 3]);
    assert_eq!(brokers[1].cluster.stats().late, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_several_senders_to_one_topic_are_in_order() {
    const SENDERS: u32 = 4;
    const MESSAGES: u32 = 500;
    let bus = Arc::<TestBus>::default();
    let brokers = joined_brokers(&bus, 2).await;
    let subscriber = subscribe(&brokers[1], "s", "t");
    settle().await;
    thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| (0..MESSAGES).for_each(|n| publish(&brokers[0], "t", &[n])));
        }
    });
    let stats = || brokers[1].cluster.stats();
    while stats().received + stats().late < u64::from(SENDERS * MESSAGES) {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stats().late, 0);
    assert_eq!(counts([&subscriber]), [SENDERS * MESSAGES]);
}

//! Topics and groups of workers at several brokers.

use tokio::time::sleep;

use super::{super::message::Message, test_bus::*, *};
use crate::{
    broker::{
        handle::Handle,
        requests::{Name, Question},
        topics::{
            Publication,
            groups::{Dispatched, Job},
            request::TopicRequest,
        },
    },
    protocol::{Slow, version_2},
    transport::{framing, socket::pipe::Pipe},
};

/// A connection that owns an id, and whose outbox keeps everything.
fn connection(broker: &TestBroker, id: &str) -> Arc<Handle> {
    let broker = broker.broker();
    let (key, memory) = (broker.next_key(), broker.memory.clone());
    let handle = Handle::new(key, Pipe::full(), 1 << 20, memory);
    handle.set_registration(key);
    handle.set_uses_version_2(true);
    *handle.last_id.lock() = Some(id.into());
    Arc::new(handle)
}

fn join(broker: &TestBroker, id: &str, pattern: &str, window: u32) -> Arc<Handle> {
    let member = connection(broker, id);
    let broker = broker.broker();
    let limits = (&broker.options, &broker.memory);
    let joined = (broker.topics).join(&member, pattern, ("g", window), limits);
    let (group, assigned) = joined.expect("no limit");
    broker.deliver_jobs(&group, assigned, &mut Vec::new());
    member
}

pub(super) fn subscribe(broker: &TestBroker, id: &str, pattern: &str) -> Arc<Handle> {
    let subscriber = connection(broker, id);
    subscribe_again(broker, &subscriber, pattern);
    subscriber
}

pub(super) fn subscribe_again(broker: &TestBroker, subscriber: &Arc<Handle>, pattern: &str) {
    let broker = broker.broker();
    let limits = (&broker.options, &broker.memory);
    let subscribed = (broker.topics).subscribe(subscriber, pattern, Slow::Drop, limits);
    subscribed.expect("no limit");
}

/// Publishes these messages as a batch, as the connection of a client does.
pub(super) fn publish(at: &TestBroker, topic: &str, messages: &[u32]) {
    let broker = at.broker();
    let mut found = Default::default();
    broker.topics.find(topic, &mut found);
    let (mut frames, mut last, mut served) = (Vec::new(), 0, Vec::new());
    let end = |group| version_2::publication_end(&format!("\"{topic}\""), group, 1);
    for n in messages {
        let text = n.to_string();
        for group in &found.groups {
            let mut frame = Vec::new();
            let end = end(Some("\"g\""));
            let pieces = crate::protocol::publication(&text, None, None, &end);
            framing::append_text(&pieces, &mut frame);
            let job = Job {
                frame: frame.into(),
                request: None,
                hops: 0,
            };
            let dispatched = broker.dispatch(group, job, &mut Vec::new());
            assert!(matches!(dispatched, Dispatched::Sent | Dispatched::Queued));
            if !served.contains(&group.id) {
                served.push(group.id);
            }
        }
        last = frames.len();
        let end = end(None);
        let pieces = crate::protocol::publication(&text, None, None, &end);
        framing::append_text(&pieces, &mut frames);
    }
    let publication = Publication {
        topic,
        frames: &frames,
        shared: None,
        count: messages.len() as u32,
        last,
        served: &served,
    };
    assert!(at.cluster.publish_topic(&publication));
}

/// Number of messages in the outboxes of these connections.
pub(super) fn counts<const N: usize>(handles: [&Arc<Handle>; N]) -> [u32; N] {
    handles.map(|handle| handle.outbox.messages())
}

/// Waits until all subscriptions and publications have been handled.
pub(super) async fn settle() {
    sleep(Duration::from_millis(50)).await;
}

#[tokio::test(start_paused = true)]
async fn one_member_at_all_brokers_gets_a_message_and_each_subscriber_gets_it_once() {
    let bus = Arc::<TestBus>::default();
    let brokers = joined_brokers(&bus, 3).await;
    let [a, b] = ["a", "b"].map(|id| join(&brokers[0], id, "jobs.*", 64));
    let c = join(&brokers[1], "c", "jobs.*", 64);
    let other = join(&brokers[1], "other", "jobs.>", 64);
    let plain = subscribe(&brokers[1], "plain", "jobs.*");
    let twice = subscribe(&brokers[1], "twice", "jobs.*");
    subscribe_again(&brokers[1], &twice, "jobs.x");
    settle().await;
    for n in 0..10 {
        publish(&brokers[2], "jobs.x", &[n, n]);
        settle().await;
    }
    assert_eq!(counts([&plain, &twice, &other]), [20, 20, 20]);
    let [of_a, of_b, of_c] = counts([&a, &b, &c]);
    assert_eq!(of_a + of_b + of_c, 20);
    assert!(of_a == of_b && of_a > 0 && of_c > 0, "{of_a} {of_b} {of_c}");
    // Members at the publisher's broker come first.
    for n in 0..10 {
        publish(&brokers[0], "jobs.x", &[n]);
        settle().await;
    }
    assert_eq!(counts([&plain, &twice, &other]), [30, 30, 30]);
    assert_eq!(counts([&a, &b, &c]), [of_a + 5, of_b + 5, of_c]);
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_group_without_members_are_passed_on() {
    let bus = Arc::<TestBus>::default();
    let brokers = joined_brokers(&bus, 2).await;
    let a = join(&brokers[0], "a", "jobs", 1);
    let b = join(&brokers[1], "b", "jobs", 64);
    settle().await;
    publish(&brokers[0], "jobs", &[1, 2, 3]);
    settle().await;
    assert_eq!(counts([&a, &b]), [1, 0]);
    brokers[0].broker().end_subscriptions(&a);
    settle().await;
    assert_eq!(counts([&a, &b]), [1, 2]);
    // NATS chooses the broker without members, too, until its subscription has ended.
    for n in 0..4 {
        let back = join(&brokers[0], "back", "jobs", 64);
        settle().await;
        brokers[0].broker().end_subscriptions(&back);
        publish(&brokers[0], "jobs", &[n]);
        settle().await;
        assert_eq!(counts([&back, &b]), [0, 3 + n]);
    }
}

/// A request that this broker's connection sends to a topic, as the connection of a client does.
fn ask(at: &TestBroker, asker: &Arc<Handle>, topic: &str, ack: &str) {
    let broker = at.broker();
    let holder = broker.new_holder();
    let question = Question {
        ack,
        asker,
        receivers: std::slice::from_ref(&holder),
        names: &[Name {
            id: "",
            registration: holder.registration(),
        }],
        answers: 1,
        timeout: None,
    };
    let requests = &broker.registry.requests;
    let opened = requests.open(&question, std::time::Instant::now(), &mut Vec::new());
    let request = opened.expect("a new ack").pending().expect("a new request");
    requests.delivered(&request, &mut Vec::new());
    at.cluster.clone().ask_topic(TopicRequest {
        asker: asker.clone(),
        request,
        holder,
        topic: topic.to_owned(),
        message: "1".to_owned(),
        ack: format!("\"{ack}\""),
        from: None,
        attempt: 1,
        reference: Some("1".to_owned()),
        served: Vec::new(),
        queued: 0,
        dropped: 0,
        is_busy: false,
    });
}

fn is_answer(publication: &bus::Publication) -> bool {
    let message = Message::decode(&publication.payload);
    matches!(message, Ok(Message::Receivers { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_request_without_receivers_fails_once_all_brokers_have_answered_or_are_late() {
    let bus = Arc::<TestBus>::default();
    let brokers = joined_brokers(&bus, 3).await;
    let asker = connection(&brokers[0], "asker");
    let requests = &brokers[0].broker().registry.requests;
    let failed = || {
        let outcomes = requests.outcomes();
        let mut each = outcomes.0.iter();
        let failed = each.find(|(name, _)| *name == "no_subscriber");
        failed.map_or(0, |(_, count)| *count)
    };
    ask(&brokers[0], &asker, "jobs", "1");
    assert_eq!((requests.count(), failed()), (1, 0));
    settle().await;
    // Its failure, and its receipt.
    assert_eq!((requests.count(), failed(), counts([&asker])), (0, 1, [2]));
    bus.lose_if(|from, _, publication| from == 1 && is_answer(publication));
    ask(&brokers[0], &asker, "jobs", "2");
    sleep(ANSWER_TIMEOUT - Duration::from_millis(50)).await;
    assert_eq!((requests.count(), failed()), (1, 1));
    sleep(Duration::from_millis(100)).await;
    assert_eq!((requests.count(), failed(), counts([&asker])), (0, 2, [4]));
    // One that has ended meanwhile gets its receipt only.
    ask(&brokers[0], &asker, "jobs", "3");
    requests.cancel("3", &asker, &mut Vec::new());
    sleep(2 * ANSWER_TIMEOUT).await;
    assert_eq!((requests.count(), failed(), counts([&asker])), (0, 2, [5]));
    assert_eq!(brokers[0].cluster.topics_asking(), 0);
}

#[tokio::test(start_paused = true)]
async fn many_subscribers_and_groups_are_named_in_several_parts() {
    let bus = Arc::<TestBus>::default();
    let brokers = joined_brokers(&bus, 2).await;
    let mut connections = Vec::new();
    for n in 0..1200 {
        connections.push(subscribe(&brokers[1], &format!("s{n}"), "jobs"));
    }
    let member = join(&brokers[1], "member", "jobs", 1);
    let parts = Arc::<Mutex<Vec<(usize, usize, bool)>>>::default();
    let seen = parts.clone();
    bus.lose_if(move |_, to, publication| {
        if let (
            0,
            Ok(Message::Receivers {
                ids,
                offers,
                is_last,
                ..
            }),
        ) = (to, Message::decode(&publication.payload))
        {
            assert!(
                offers
                    .iter()
                    .all(|one| &*one.member == "member" && one.is_free)
            );
            seen.lock().push((ids.len(), offers.len(), is_last));
        }
        false
    });
    let asker = connection(&brokers[0], "asker");
    ask(&brokers[0], &asker, "jobs", "1");
    settle().await;
    let expected = [(500, 0, false), (500, 0, false), (200, 1, true)];
    assert_eq!(*parts.lock(), expected);
    drop(member);
}

#[tokio::test(start_paused = true)]
async fn messages_that_wait_go_to_brokers_whose_members_can_take_them() {
    let bus = Arc::<TestBus>::default();
    let brokers = joined_brokers(&bus, 3).await;
    let paused = join(&brokers[0], "paused", "jobs", 0);
    let a = join(&brokers[1], "a", "jobs", 3);
    settle().await;
    publish(&brokers[0], "jobs", &[1, 2, 3, 4, 5]);
    settle().await;
    assert_eq!(counts([&paused, &a]), [0, 0]);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(counts([&paused, &a]), [0, 3]);
    let b = join(&brokers[2], "b", "jobs", 1);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(counts([&paused, &a, &b]), [0, 3, 1]);
    // The last one stays, and nothing is announced once it has gone, too.
    let broker = brokers[0].broker();
    let group = broker.topics.group("jobs", "g").expect("it has a member");
    assert!(group.has_jobs());
    join(&brokers[2], "c", "jobs", 1);
    sleep(Duration::from_secs(1)).await;
    assert!(!group.has_jobs());
    let is_waiting = |publication: &bus::Publication| {
        let message = Message::decode(&publication.payload);
        matches!(message, Ok(Message::Waiting { .. }))
    };
    let announced = Arc::<AtomicU64>::default();
    let count = announced.clone();
    bus.lose_if(move |_, _, publication| {
        count.fetch_add(is_waiting(publication).into(), Relaxed);
        false
    });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(announced.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn damaged_messages_for_a_group_are_ignored() {
    let bus = Arc::<TestBus>::default();
    let brokers = joined_brokers(&bus, 2).await;
    let a = join(&brokers[0], "a", "jobs", 64);
    settle().await;
    let id = crate::broker::topics::groups::GroupId::new("jobs", "g");
    let mut frame = Vec::new();
    framing::append_text(&["{\"action\":\"message\",\"message\":1}"], &mut frame);
    let twice = [&frame[..], &frame].concat();
    for (pattern, frame, expected) in [
        ("jobs", &frame[..frame.len() - 1], 0),
        ("jobs", b"\x81\x02{}", 0),
        ("jobs", &twice, 0),
        ("", &frame, 0),
        ("jobs", &frame, 1),
    ] {
        let message = Message::GroupJob {
            hops: 0,
            pattern,
            group: "g",
            frame: super::super::message::Rest(frame),
        };
        let publication = bus::Publication {
            subject: brokers[1].cluster.subjects.group(id),
            reply: None,
            payload: message.encode().into(),
        };
        brokers[1].cluster.bus.publish(publication).await;
        settle().await;
        assert_eq!(counts([&a]), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_for_the_last_member_goes_to_another_broker_if_that_has_just_left() {
    let bus = Arc::<TestBus>::default();
    let brokers = joined_brokers(&bus, 2).await;
    let a = join(&brokers[0], "a", "jobs", 64);
    let b = join(&brokers[1], "b", "jobs", 64);
    settle().await;
    let broker = brokers[0].broker();
    let group = broker.topics.group("jobs", "g").expect("a member");
    // Assigned to `a`, which closes and leaves before the message is in its outbox.
    a.outbox.close();
    broker.end_subscriptions(&a);
    let mut text = Vec::new();
    framing::append_text(
        &[r#"{"action":"message","message":1,"topic":"jobs","group":"g"}"#],
        &mut text,
    );
    let message = Job {
        frame: text.into(),
        request: None,
        hops: 0,
    };
    broker.deliver_jobs(&group, vec![(message.clone(), a.clone())], &mut Vec::new());
    settle().await;
    assert_eq!(counts([&b]), [1]);
    // Another member has come: the group is a new one.
    let c = join(&brokers[0], "c", "jobs", 64);
    broker.deliver_jobs(&group, vec![(message, a)], &mut Vec::new());
    settle().await;
    assert_eq!(counts([&b, &c]), [1, 1]);
}

//! Sessions that lose their connections while they get kept messages from a log.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    task::yield_now,
    time::{Duration, advance},
};

use super::world::{Client, ENOUGH, Ends, TIMEOUT, member};
use crate::{
    broker::Broker,
    options::{KeepRule, ServerOptions, StoreOptions},
    store::disk::tests::Folder,
};

/// Maximum bytes of a log in memory without messages.
const EMPTY_LOG: usize = 1000;

fn options(store: Option<&Folder>) -> ServerOptions {
    ServerOptions {
        keep: vec![KeepRule {
            messages: 10_000,
            disk: store.is_some(),
            ..KeepRule::new("room.>")
        }],
        store: store.map(|folder| StoreOptions::new(&folder.0)),
        // More than a page: a chunk beyond the limit is not kept.
        max_session_buffer: 512 << 10,
        ..ServerOptions::default()
    }
}

/// Publishes messages of the client `b`, whose topics take turns.
struct Publisher {
    ends: Ends,
    sent: usize,
}

impl Publisher {
    fn begin(client: &mut Client) -> Self {
        let (_, ends) = client.world.connect(ENOUGH);
        ends.register("b", "");
        client.world.settle();
        Self { ends, sent: 0 }
    }

    fn publish(&mut self, count: usize, pad: usize) {
        let pad = "x".repeat(pad);
        for _ in 0..count {
            self.sent += 1;
            let topic = format!(r#"{{"topic":"room.{}"}}"#, self.sent % 3);
            let text = format!(r#"{{"action":"send","message":"{pad}","dest":{topic}}}"#);
            self.ends.send(&text);
        }
    }
}

fn subscribe(client: &Client, pattern: &str, start: &str) {
    let text = format!(r#"{{"action":"subscribe","topic":"{pattern}",{start}}}"#);
    client.ends.send(&text);
}

fn offset(text: &str) -> usize {
    member(text, "offset").unwrap().parse().unwrap()
}

/// Numbers of permits that are taken, and of connections that wait for one.
fn permits(broker: &Broker) -> (usize, usize) {
    broker.kept.permits.counts()
}

/// Rules 41.4 and 43.1, with connections that are lost. `expires`: the first sessions expire. Returns the number of
/// resumed sessions.
async fn replay(seed: u64, store: Option<&Folder>, expires: bool) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut client = Client::begin(options(store));
    let broker = client.world.broker();
    let mut publisher = Publisher::begin(&mut client);
    publisher.publish(random.random_range(1..300), random.random_range(0..100));
    client.world.settle();
    client.cut();
    client.resume(random.random_range(500..5000));
    subscribe(&client, "room.>", r#""last":1000000"#);
    let mut lives = if expires { 3 } else { 0 };
    let mut rounds = 0;
    loop {
        for _ in 0..random.random_range(1..20) {
            if random.random_bool(0.5) && rounds < 100 {
                publisher.publish(random.random_range(1..10), random.random_range(0..200));
            }
            client.world.settle();
            client.read(random.random_range(1..5000));
            // Readings of the store.
            yield_now().await;
        }
        rounds += 1;
        assert!(
            rounds < 10_000,
            "seed {seed}: {} of {}",
            client.received.len(),
            publisher.sent
        );
        if client.received.len() == publisher.sent {
            break;
        }
        if random.random_bool(0.5) {
            continue;
        }
        client.cut();
        assert_eq!(permits(&broker), (0, 0), "seed {seed}");
        if random.random_bool(0.5) && rounds < 100 {
            // Now and then more than may wait for the session.
            let pad = if random.random_bool(0.1) { 25_000 } else { 250 };
            publisher.publish(random.random_range(1..50), pad);
            client.world.settle();
        }
        let room = random.random_range(500..5000);
        if lives == 0 {
            client.resume(room);
            continue;
        }
        lives -= 1;
        advance(TIMEOUT + Duration::from_secs(1)).await;
        client.world.settle();
        assert_eq!(client.world.server.stats().sessions, 0, "seed {seed}");
        client.register(room);
        let last = client.received.last().map_or(0, |text| offset(text));
        let epoch = broker
            .kept
            .rule_of("room.1")
            .unwrap()
            .log
            .epoch()
            .to_owned();
        let since = format!(r#""since":{{"offset":{last},"epoch":"{epoch}"}}"#);
        subscribe(&client, "room.>", &since);
    }
    let offsets: Vec<_> = client.received.iter().map(|text| offset(text)).collect();
    let expected: Vec<_> = (1..=publisher.sent).collect();
    assert_eq!(offsets, expected, "seed {seed}");
    let stats = client.world.server.stats();
    assert_eq!(
        (stats.sessions, stats.without_subscriber),
        (1, 0),
        "seed {seed}"
    );
    // The session ends, in the middle of another replay.
    subscribe(&client, "room.1", r#""last":1000000"#);
    client.world.settle();
    client.cut();
    advance(TIMEOUT + Duration::from_secs(1)).await;
    publisher.ends.cut();
    while client.world.tasks() > 0 {
        client.world.settle();
        yield_now().await;
    }
    assert_eq!(permits(&broker), (0, 0), "seed {seed}");
    assert_eq!(broker.topics.count(), 0, "seed {seed}");
    // Of the memory only that of the log is left. A log on the disk is not released.
    broker.kept.release(usize::MAX);
    let used = broker.memory.used();
    assert!(
        store.is_some() || used <= EMPTY_LOG,
        "seed {seed}: {used} bytes"
    );
    stats.sessions_resumed
}

#[tokio::test(start_paused = true)]
async fn a_replay_continues_with_its_session() {
    let mut resumed = 0;
    for seed in 0..40 {
        resumed += replay(seed, None, false).await;
    }
    assert!(resumed > 50, "{resumed}");
}

#[tokio::test(start_paused = true)]
async fn a_replay_from_the_disk_continues_with_its_session() {
    for seed in 0..5 {
        replay(seed, Some(&Folder::new()), false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_continues_from_a_position_when_its_session_has_expired() {
    for seed in 0..20 {
        replay(seed, None, true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_without_a_connection_lets_others_read() {
    for is_granted in [false, true] {
        let mut client = Client::begin(options(None));
        let broker = client.world.broker();
        let mut publisher = Publisher::begin(&mut client);
        publisher.publish(10, 0);
        client.world.settle();
        let take = |key| broker.kept.permits.take(key, std::task::Waker::noop());
        // All that a test has.
        let (one, two) = (take(1001), take(1002));
        assert!(one.is_some() && two.is_some());
        subscribe(&client, "room.>", r#""last":100"#);
        client.world.settle();
        client.read(ENOUGH);
        assert_eq!((permits(&broker), client.received.len()), ((2, 1), 0));
        if is_granted {
            client.ends.cut();
            drop(one);
            client.world.settle();
            assert_eq!(permits(&broker), (1, 0));
        } else {
            client.cut();
            assert_eq!(permits(&broker), (2, 0));
            drop(one);
        }
        client.resume(ENOUGH);
        client.read(ENOUGH);
        let offsets: Vec<_> = client.received.iter().map(|text| offset(text)).collect();
        assert_eq!(offsets, Vec::from_iter(1..=10));
        drop(two);
        assert_eq!(permits(&broker), (0, 0));
    }
}

/// A client whose live messages fill its socket while it waits for a permit.
#[tokio::test(start_paused = true)]
async fn a_slow_client_that_waits_for_a_replay_lets_others_read() {
    let mut client = Client::begin(options(None));
    let broker = client.world.broker();
    let mut publisher = Publisher::begin(&mut client);
    publisher.publish(10, 0);
    client.world.settle();
    client.cut();
    client.resume(500);
    let take = |key| broker.kept.permits.take(key, std::task::Waker::noop());
    let (one, two) = (take(1001), take(1002));
    subscribe(&client, "room.>", r#""last":100"#);
    client.world.settle();
    assert_eq!(permits(&broker), (2, 1));
    for _ in 0..50 {
        let text = format!(
            r#"{{"action":"send","message":"{}","dest":"a"}}"#,
            "x".repeat(200)
        );
        publisher.ends.send(&text);
    }
    client.world.settle();
    drop((one, two));
    client.world.settle();
    assert_eq!(permits(&broker), (0, 0));
    while client.received.len() < 60 {
        client.read(ENOUGH);
        client.world.settle();
    }
    assert_eq!(permits(&broker), (0, 0));
}

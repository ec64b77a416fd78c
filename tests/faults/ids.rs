//! Many connections that claim one id, and a few that claim very many ids.

use tokio::io::AsyncWriteExt;

use crate::{
    broker::Broker,
    case::{MIB, count, crowd, endure},
    support::{
        raw::{PING, PONG, Raw, TEXT, frame},
        until,
    },
};

/// Bytes of the longest id.
const LONGEST: usize = 8 << 10;

/// An id of its own for each number, as long as may be.
fn long_id(n: usize) -> String {
    format!("{n:0>LONGEST$}")
}

fn register(id: &str) -> Vec<u8> {
    frame(TEXT, format!(r#"{{"action":"register","id":"{id}"}}"#))
}

/// Frames that a peer received before the answer to this probe.
async fn heard(raw: &mut Raw) -> Vec<String> {
    raw.write(&frame(PING, "")).await;
    let mut texts = Vec::new();
    loop {
        match raw.next().await.unwrap() {
            (PONG, _) => return texts,
            (_, text) => texts.push(String::from_utf8(text).unwrap()),
        }
    }
}

/// `contenders` connections take over one id from each other, `count` times in all. In the end one of them
/// owns it; the others get no notification, and their messages have no `from`.
async fn race(broker: &Broker, contenders: usize, count: usize) {
    let mut crowd = Vec::new();
    for _ in 0..contenders {
        crowd.push(Raw::connect(broker).await);
    }
    let each = count.div_ceil(contenders);
    let mut tasks = Vec::new();
    for mut raw in crowd {
        tasks.push(tokio::spawn(async move {
            for _ in 0..each {
                raw.write(&register("prize")).await;
                assert_eq!(
                    raw.receive().await,
                    r#"{"action":"registered","id":"prize"}"#
                );
            }
            raw
        }));
    }
    let mut crowd = Vec::new();
    for task in tasks {
        crowd.push(task.await.unwrap());
    }
    let mut judge = Raw::register(broker, "judge").await;
    judge
        .send(r#"{"action":"send","message":"it is you","dest":["prize","judge"]}"#)
        .await;
    assert_eq!(heard(&mut judge).await.len(), 1);
    let mut winners = 0;
    for raw in &mut crowd {
        let won =
            heard(raw).await == [r#"{"action":"message","message":"it is you","from":"judge"}"#];
        raw.send(r#"{"action":"send","message":"me","dest":"judge"}"#)
            .await;
        let from = if won { r#","from":"prize""# } else { "" };
        let expected = format!(r#"{{"action":"message","message":"me"{from}}}"#);
        assert_eq!(judge.receive().await, expected);
        winners += usize::from(won);
    }
    assert_eq!(winners, 1);
    for raw in crowd {
        raw.ended_by_us().await;
    }
    judge.ended_by_us().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_taken_over_by_two_connections_has_one_owner() {
    endure("", count(1_000, 100_000), async |broker, count| {
        race(broker, 2, count).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_taken_over_by_fifty_connections_has_one_owner() {
    endure("", count(1_000, 100_000), async |broker, count| {
        race(broker, 50, count).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_registers_many_ids_owns_the_last() {
    endure("", count(2_000, 100_000), async |broker, count| {
        let before = broker.forget_the_peak();
        let mut raw = Raw::connect(broker).await;
        for n in 0..count {
            let id = long_id(n);
            raw.write(&register(&id)).await;
            assert_eq!(
                raw.receive().await.len(),
                r#"{"action":"registered","id":""}"#.len() + LONGEST
            );
        }
        assert_eq!(broker.count("registered"), 3);
        let cost = broker.count("peak") - before;
        assert!(cost < MIB, "{cost}");
        raw.ended_by_us().await;
    })
    .await;
}

/// The responses fill its own outbox, so it gets backpressure, like a client that sends to itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_registers_without_reading_is_closed_as_slow() {
    let options = "max_backpressure=1048576 slow_consumer_timeout=500 close_timeout=3600000";
    endure(options, count(4_000, 100_000), async |broker, count| {
        let before = broker.forget_the_peak();
        let slow = broker.count("slow");
        let (mut raw, mut write) = Raw::connect(broker).await.split();
        let flood = tokio::spawn(async move {
            // More than the buffers of two sockets take.
            for n in 0..count + 2_000 {
                if write.write_all(&register(&long_id(n))).await.is_err() {
                    break;
                }
            }
            write
        });
        until("it is closed", || broker.count("slow") > slow).await;
        let cost = broker.count("peak") - before;
        assert!(cost < 3 * MIB, "{cost}");
        assert_eq!(raw.close_code().await, 1013);
        flood.abort();
    })
    .await;
}

/// A thousand connections, with as many ids each as there is count for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_ids_of_many_connections_are_free_again_at_the_end() {
    const MANY: usize = 1_000;
    endure("", count(4_000, 100_000), async |broker, count| {
        let each = count.div_ceil(MANY);
        crowd(MANY, MANY, async |n| {
            let mut raw = Raw::connect(broker).await;
            for m in 0..each {
                raw.write(&register(&long_id(n * each + m))).await;
                raw.next().await.unwrap();
            }
            // Half of them say goodbye.
            if n % 2 == 0 {
                raw.ended_by_us().await;
            }
        })
        .await;
        until("all are free", || broker.count("registered") == 2).await;
        assert_eq!(broker.count("replaced"), 0);
    })
    .await;
}

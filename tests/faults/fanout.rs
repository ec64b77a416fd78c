//! One message to very many receivers.

use tokio::task::JoinSet;

use crate::{
    broker::Broker,
    case::{MIB, count, endure},
    support::raw::Raw,
};

/// Entries that a `dest` may have.
const MAX_DEST: usize = 65_536;

/// Registers so many receivers, sends one message to `entries` of them (each is listed as often as it takes),
/// and waits until each has got the messages it should get, all of one length.
async fn fan_out(broker: &Broker, receivers: usize, entries: usize, length: usize) {
    let mut crowd = Vec::new();
    for n in 0..receivers {
        crowd.push(Raw::register(broker, &format!("receiver {n}")).await);
    }
    let mut sender = Raw::connect(broker).await;
    let ids = (0..entries).map(|n| format!("\"receiver {}\"", n % receivers));
    let (dest, text) = (ids.collect::<Vec<_>>().join(","), "x".repeat(length));
    sender
        .send(&format!(
            r#"{{"action":"send","message":"{text}","dest":[{dest}]}}"#
        ))
        .await;
    let mut readers = JoinSet::new();
    for (n, mut raw) in crowd.into_iter().enumerate() {
        let copies = entries / receivers + usize::from(n < entries % receivers);
        readers.spawn(async move {
            for _ in 0..copies {
                let (_, message) = raw.next().await.unwrap();
                assert_eq!(
                    message.len(),
                    r#"{"action":"message","message":""}"#.len() + length
                );
            }
            raw.ended_by_us().await;
        });
    }
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
    sender.ended_by_us().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_to_the_maximum_of_ids_reaches_each_once_per_listing() {
    endure("", count(100, 1_000), async |broker, receivers| {
        let before = broker.forget_the_peak();
        fan_out(broker, receivers, MAX_DEST, 1_000).await;
        // Where a copy each is cheaper than a share: as much as is sent at most.
        let cost = broker.count("peak") - before;
        assert!(cost < 96 * MIB, "{cost}");
    })
    .await;
}

/// A megabyte for a thousand is a megabyte, and what their sockets hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_message_to_many_receivers_is_stored_once() {
    endure("", count(200, 1_000), async |broker, receivers| {
        let before = broker.forget_the_peak();
        fan_out(broker, receivers, receivers, 1 << 20).await;
        let cost = broker.count("peak") - before;
        assert!(cost < 16 * MIB, "{cost}");
    })
    .await;
}

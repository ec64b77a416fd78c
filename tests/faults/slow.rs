//! Peers that read slowly or not at all.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

use crate::{
    broker::Broker,
    case::{MIB, count, crowd, endure},
    support::raw::{CLOSE, Raw, TEXT, code, frame, number, numbered_send},
};

/// Bytes of a message.
const LENGTH: usize = 64 << 10;
/// Messages to each: more than may wait, and than the buffers of two sockets take.
const FLOOD: usize = 512;
/// A high-water mark below the default keeps the flood short. The slow-consumer timeout is short; the close
/// timeout is long, for clients that read their close frame late.
const PUSHBACK: &str = "max_backpressure=2097152 slow_consumer_timeout=500 close_timeout=3600000";

/// A new id: one that was closed as slow before is penalized the next time.
fn unique(broker: &Broker, n: usize) -> String {
    format!("deaf {} {n}", broker.count("accepted"))
}

/// Sends a flood to one id, and ends when the broker has carried all of it out.
async fn flood(broker: &Broker, id: &str) {
    let mut raw = Raw::register(broker, &format!("sender to {id}")).await;
    for n in 0..FLOOD {
        raw.send(&numbered_send(n, &format!("{id:?}"), LENGTH))
            .await;
    }
    raw.send(r#"{"action":"unregister"}"#).await;
    raw.receive().await;
}

/// Reads what has come of a flood: messages in order from the first on, then the close code.
async fn rest_of_flood(raw: &mut Raw<impl AsyncRead + Unpin>) -> u16 {
    let mut count = 0;
    loop {
        match raw.next().await {
            Some((TEXT, message)) => assert_eq!(number(&message), count),
            Some((CLOSE, payload)) => return code(&payload),
            other => panic!("{other:?}"),
        }
        count += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_never_reads_is_closed_and_its_senders_continue() {
    endure(PUSHBACK, count(8, 100), async |broker, count| {
        let before = broker.forget_the_peak();
        let slow = broker.count("slow");
        crowd(count, 8, async |n| {
            let id = unique(broker, n);
            let mut deaf = Raw::register(broker, &id).await;
            flood(broker, &id).await;
            assert_eq!(rest_of_flood(&mut deaf).await, 1013);
            deaf.ended().await;
        })
        .await;
        assert_eq!(broker.count("slow") - slow, count as u64);
        // For each of those that are at it together: the mark, and a message or two.
        let cost = broker.count("peak") - before;
        assert!(cost < 8 * 3 * MIB, "{cost}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_of_one_byte_per_second_is_closed_as_slow() {
    let options = "max_backpressure=2097152 slow_consumer_timeout=2000 close_timeout=3600000";
    endure(options, count(8, 100), async |broker, count| {
        crowd(count, 100, async |n| {
            let id = unique(broker, n);
            let slow = Raw::register(broker, &id).await;
            let (mut read, _write) = slow.0.into_inner().into_split();
            let mut first = Vec::new();
            let drip = async {
                loop {
                    first.push(read.read_u8().await.unwrap());
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            tokio::select! {
                () = drip => {}
                () = flood(broker, &id) => {}
            }
            let mut slow = Raw(BufReader::new(first.as_slice().chain(read)));
            assert_eq!(rest_of_flood(&mut slow).await, 1013);
            slow.ended().await;
        })
        .await;
    })
    .await;
}

/// It is closed at once, and no sender waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_policy_close_a_full_receiver_is_closed_at_once() {
    // What happens does not happen because this time is up.
    let options = "slow_consumer=close max_backpressure=2097152 slow_consumer_timeout=3600000 \
        close_timeout=3600000";
    endure(options, count(8, 100), async |broker, count| {
        let before = broker.counters();
        crowd(count, 8, async |n| {
            let id = unique(broker, n);
            let mut deaf = Raw::register(broker, &id).await;
            flood(broker, &id).await;
            assert_eq!(rest_of_flood(&mut deaf).await, 1013);
            deaf.ended().await;
        })
        .await;
        let after = broker.counters();
        assert_eq!(after.get("slow") - before.get("slow"), count as u64);
    })
    .await;
}

/// Dropped messages are counted, the others arrive in order, and no connection is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_policy_drop_a_full_receiver_loses_messages() {
    let options = "slow_consumer=drop max_backpressure=2097152 close_timeout=3600000";
    endure(options, count(8, 100), async |broker, count| {
        let before = broker.forget_the_peak();
        crowd(count, 8, async |n| {
            let id = unique(broker, n);
            let mut deaf = Raw::register(broker, &id).await;
            let dropped = broker.count("dropped");
            flood(broker, &id).await;
            assert!(broker.count("dropped") > dropped);
            // Its end is its own, behind what is there.
            deaf.write(&frame(CLOSE, 1000_u16.to_be_bytes())).await;
            let mut last = None;
            let code = loop {
                match deaf.next().await {
                    Some((TEXT, message)) => {
                        assert!(last < Some(number(&message)));
                        last = Some(number(&message));
                    }
                    Some((CLOSE, payload)) => break code(&payload),
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(code, 1000);
            deaf.ended().await;
        })
        .await;
        assert_eq!(broker.count("slow"), 0);
        let cost = broker.count("peak") - before;
        assert!(cost < 8 * 3 * MIB, "{cost}");
    })
    .await;
}

//! A broker without a free file descriptor.

use std::time::Duration;

use tokio::{io::BufReader, time::sleep};

use crate::{
    broker::Broker,
    case::{all_gone, at_rest, turn},
    support::{
        canary::Canary,
        raw::{REQUEST, Raw, TEXT, frame},
        tcp, until,
    },
};

/// Files that the broker may open: enough for its runtime and a few connections.
const FILES: usize = 32;
/// Longer than the broker rests before it tries again to accept.
const NEXT_TRY: Duration = Duration::from_millis(150);

/// Connected as far as the system is concerned, with all that it has to say on its way.
async fn knock(broker: &Broker, n: usize) -> Raw {
    let mut raw = Raw(BufReader::new(tcp(broker).await));
    raw.write(REQUEST.as_bytes()).await;
    let register = format!(r#"{{"action":"register","id":"{n}"}}"#);
    raw.write(&frame(TEXT, register)).await;
    raw
}

async fn is_served(raw: &mut Raw, n: usize) {
    assert!(raw.head().await.starts_with("HTTP/1.1 101 "));
    let registered = format!(r#"{{"action":"registered","id":"{n}"}}"#);
    assert_eq!(raw.receive().await, registered);
}

/// How many are connected when no more are accepted.
async fn full(broker: &Broker) -> usize {
    let mut before = 0;
    loop {
        let now = broker.count("connections");
        if now == before {
            return now as usize;
        }
        before = now;
        sleep(NEXT_TRY).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_file_descriptors_pauses_and_accepts_again() {
    let _turn = turn().await;
    // Or it would refuse in good time.
    let broker = Broker::start(&format!("files={FILES} max_connections=10000"));
    let descriptors = broker.descriptors();
    let canary = Canary::start(&broker).await;
    let mut peers = Vec::new();
    for n in 0..FILES {
        peers.push(knock(&broker, n).await);
    }
    let connected = full(&broker).await;
    assert!((3..FILES).contains(&connected), "{connected}");
    // It serves those who are there, and not only the canary.
    let mut served = connected - 2;
    for (n, raw) in peers[..served].iter_mut().enumerate() {
        is_served(raw, n).await;
    }
    // The next two have their places as soon as they are free.
    canary.finish().await;
    for _ in 0..2 {
        is_served(&mut peers[served], served).await;
        served += 1;
    }
    // The rest waits, and so does the broker.
    at_rest(&broker).await;
    let canary = async {
        let canary = Canary::start(&broker).await;
        until("the canary has exchanged messages", || {
            canary.exchanged() > 0
        })
        .await;
        canary.finish().await;
    };
    let others = async {
        for (n, mut raw) in peers.into_iter().enumerate() {
            if n >= served {
                is_served(&mut raw, n).await;
            }
            raw.ended_by_us().await;
        }
    };
    tokio::join!(canary, others);
    all_gone(&broker).await;
    until("the files are closed", || {
        broker.descriptors() <= descriptors
    })
    .await;
    at_rest(&broker).await;
    broker.stop();
}

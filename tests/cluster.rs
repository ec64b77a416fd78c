//! Many brokers that are one, as JavaScript cannot see them.

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use futures_util::StreamExt;
use support::{Peer, nats::Nats, options};
use tokio::time::timeout;

const SOON: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_go_on_however_often_their_receiver_moves() {
    let nats = Nats::start().await;
    let (servers, _) = nats.brokers("moves", 3, options).await;
    let mut sender = Peer::register(&servers[0], "sender").await;
    let mut receivers = Vec::new();
    let mut lost = 0;
    let send = |text: &str| format!(r#"{{"action":"send","message":"{text}","dest":"receiver"}}"#);
    let message =
        |text: &str| format!(r#"{{"action":"message","message":"{text}","from":"sender"}}"#);
    for round in 0..20 {
        let mut receiver = Peer::register(&servers[1 + round % 2], "receiver").await;
        // What is sent while the id moves may be lost.
        loop {
            sender.send(&send("first")).await;
            let came = timeout(SOON, receiver.0.next()).await;
            if came.is_ok() {
                break;
            }
            lost += 1;
            assert!(lost < 100, "round {round}");
        }
        // One by one: each is a packet of its own.
        for number in 0..40 {
            let number = number.to_string();
            sender.send(&send(&number)).await;
            let mut received = receiver.receive().await;
            while received.contains("first") {
                received = receiver.receive().await;
            }
            assert_eq!(received, message(&number), "round {round}");
        }
        receivers.push(receiver);
    }
}

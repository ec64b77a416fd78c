//! `slow_consumer`: a slow connection is closed at once, or messages for it are dropped (rules 17.8 and
//! 17.9).

use std::time::Duration;

use wsmsgbroker::{ServerOptions, SlowConsumer};

use crate::support::{
    canary::Canary,
    options,
    raw::{Raw, TEXT, frame, number, numbered_send},
    start_server, until,
};

const MARK: usize = 1 << 20;
/// Bytes of a message, and how many: several times what two sockets and the mark take.
const LENGTH: usize = 64 << 10;
const FLOOD: usize = 512;

fn policy(slow_consumer: SlowConsumer) -> ServerOptions {
    ServerOptions {
        slow_consumer,
        max_backpressure: MARK,
        // What happens does not happen because this time is up.
        slow_consumer_timeout: Duration::from_secs(3600),
        ..options()
    }
}

/// Rule 17.8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_policy_close_a_full_receiver_is_closed_and_its_sender_continues() {
    let (server, log) = start_server(policy(SlowConsumer::Close));
    let canary = Canary::start(&server).await;
    let mut deaf = Raw::register(&server, "deaf").await;
    let mut sender = Raw::register(&server, "sender").await;
    for n in 0..FLOOD {
        sender.send(&numbered_send(n, r#""deaf""#, LENGTH)).await;
    }
    sender
        .send(r#"{"action":"send","message":1,"dest":"sender"}"#)
        .await;
    assert_eq!(
        sender.receive().await,
        r#"{"action":"message","message":1,"from":"sender"}"#
    );
    log.wait_for(r#"slow Some("deaf") Closed"#).await;
    assert_eq!(server.stats().slow, 1);
    assert_eq!(deaf.close_code().await, 1013);
    canary.finish().await;
}

/// Rule 17.9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_policy_drop_accepted_messages_stay_in_order() {
    let (server, log) = start_server(policy(SlowConsumer::Drop));
    let canary = Canary::start(&server).await;
    let mut reader = Raw::register(&server, "late").await;
    let mut sender = Raw::register(&server, "sender").await;
    for n in 0..FLOOD {
        sender.send(&numbered_send(n, r#"["late"]"#, LENGTH)).await;
    }
    sender
        .send(r#"{"action":"send","message":1,"dest":"sender"}"#)
        .await;
    sender.receive().await;
    let dropped = server.stats().dropped;
    assert!(dropped > 0);
    assert_eq!(log.count(r#"slow Some("late") Dropping"#), 1);
    assert_eq!(server.stats().slow, 0);
    let mut last = None;
    for _ in 0..FLOOD as u64 - dropped {
        let (kind, message) = reader.next().await.unwrap();
        assert_eq!(kind, TEXT);
        assert!(last < Some(number(&message)));
        last = Some(number(&message));
    }
    // The oldest are those that are kept.
    assert!(last < Some(FLOOD - 1));
    // Bytes that a peer has read leave its outbox a moment later, once the writer has returned.
    let mut dropped = u64::MAX;
    while server.stats().dropped != dropped {
        dropped = server.stats().dropped;
        sender.send(&numbered_send(7, r#""late""#, 16)).await;
        sender
            .send(r#"{"action":"send","message":1,"dest":"sender"}"#)
            .await;
        sender.receive().await;
    }
    assert_eq!(number(&reader.next().await.unwrap().1), 7);
    // There is room again, so messages arrive; if it fills once more, the event is emitted again.
    for n in 0..FLOOD {
        sender.send(&numbered_send(n, r#""late""#, LENGTH)).await;
    }
    assert_eq!(number(&reader.next().await.unwrap().1), 0);
    until("more is dropped", || server.stats().dropped > dropped).await;
    until("told again", || {
        log.count(r#"slow Some("late") Dropping"#) > 1
    })
    .await;
    canary.finish().await;
}

/// Below the mark both policies do nothing at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_receiver_is_neither_closed_nor_loses_messages() {
    for slow_consumer in [SlowConsumer::Close, SlowConsumer::Drop] {
        let (server, log) = start_server(policy(slow_consumer));
        let mut reader = Raw::register(&server, "reader").await;
        let mut sender = Raw::register(&server, "sender").await;
        for n in 0..FLOOD {
            sender.send(&numbered_send(n, r#""reader""#, LENGTH)).await;
            assert_eq!(number(&reader.next().await.unwrap().1), n);
        }
        assert_eq!((server.stats().slow, server.stats().dropped), (0, 0));
        assert!(!log.lines().iter().any(|line| line.starts_with("slow")));
    }
}

/// Answers fill an outbox as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asker_that_does_not_read_is_closed_or_loses_answers() {
    for slow_consumer in [SlowConsumer::Close, SlowConsumer::Drop] {
        let (server, log) = start_server(policy(slow_consumer));
        let asker = Raw::register(&server, "asker").await;
        let mut responder = Raw::register(&server, "responder").await;
        let (_read, mut write) = asker.split();
        let asks = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            for n in 0..FLOOD {
                let ask =
                    format!(r#"{{"action":"send","message":0,"dest":"responder","ack":"k{n}"}}"#);
                if write.write_all(&frame(TEXT, ask)).await.is_err() {
                    break;
                }
            }
            write
        });
        let text = "x".repeat(LENGTH);
        for n in 0..FLOOD {
            let answer = format!(r#"{{"action":"answer","ack":"k{n}","message":"{text}"}}"#);
            if responder.next().await.is_none() {
                panic!("the responder is none of this");
            }
            responder.send(&answer).await;
            // Once the asker has been closed, no request of its comes any more.
            if server.stats().slow + server.stats().dropped > 0 {
                break;
            }
        }
        match slow_consumer {
            SlowConsumer::Close => log.wait_for(r#"slow Some("asker") Closed"#).await,
            _ => log.wait_for("slow None Dropping").await,
        }
        drop(asks);
    }
}

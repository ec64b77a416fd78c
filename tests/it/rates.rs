//! Rate limits: traffic within a limit passes; beyond it, the sender is closed or has to wait.

use std::time::{Duration, Instant};

use wsmsgbroker::{RateLimit, ServerOptions};

use crate::support::{
    Peer,
    canary::Canary,
    options,
    raw::{CLOSE, LAST, MORE, PING, PONG, Raw, TEXT, TEXT_FRAGMENT, code, frame},
    start_server, until,
};

/// A text in so many fragments, most of them empty.
fn fragments(text: &str, count: usize) -> Vec<u8> {
    let mut bytes = frame(TEXT_FRAGMENT, text);
    for _ in 0..count - 2 {
        bytes.extend(frame(MORE, ""));
    }
    bytes.extend(frame(LAST, ""));
    bytes
}

/// Rule 20.1, with the default of 16,384.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_too_many_fragments_closes_its_sender() {
    let (server, _) = start_server(options());
    let canary = Canary::start(&server).await;
    let mut a = Raw::connect(&server).await;
    let register = r#"{"action":"register","id":"a"}"#;
    for _ in 0..2 {
        a.write(&fragments(register, 16_384)).await;
        assert_eq!(a.receive().await, r#"{"action":"registered","id":"a"}"#);
    }
    // The count is one message's, and does not end with the bytes of one read.
    a.write(&fragments(register, 16_385)).await;
    assert_eq!(a.close_code().await, 1008);
    assert_eq!(server.stats().violations, 1);
    canary.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_message_of_a_million_fragments_closes_its_sender() {
    let (server, _) = start_server(options());
    let canary = Canary::start(&server).await;
    let a = Raw::connect(&server).await;
    let (mut read, mut write) = a.split();
    let flood = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let part = frame(MORE, "x").repeat(1_000);
        write.write_all(&frame(TEXT_FRAGMENT, "x")).await.unwrap();
        for _ in 0..1_000 {
            if write.write_all(&part).await.is_err() {
                return;
            }
        }
    });
    assert_eq!(read.close_code().await, 1008);
    read.ended().await;
    flood.await.unwrap();
    until("it is gone", || server.stats().connections == 2).await;
    canary.finish().await;
}

/// Rule 20.2, with the default of 100.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_and_pongs_are_limited_per_second() {
    let (server, _) = start_server(options());
    let canary = Canary::start(&server).await;
    for kind in [PING, PONG] {
        let mut a = Raw::connect(&server).await;
        a.write(&frame(kind, "x").repeat(100)).await;
        a.send(r#"{"action":"register","id":"a"}"#).await;
        while a.next().await.unwrap().0 != TEXT {}
        // At once: more than a second's worth, whenever the second began.
        a.write(&frame(kind, "x").repeat(201)).await;
        assert_eq!(a.close_code().await, 1008);
    }
    assert_eq!(server.stats().violations, 2);
    canary.finish().await;
}

/// They would hide how much is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_and_pongs_do_not_count_as_actions() {
    let (server, _) = start_server(options());
    let mut a = Raw::register(&server, "a").await;
    a.write(&[frame(PING, "x").repeat(40), frame(PONG, "x").repeat(40)].concat())
        .await;
    a.send(r#"{"action":"send","message":1,"dest":"a"}"#).await;
    while a.next().await.unwrap().0 != TEXT {}
    // Counted at the end of the turn that has sent it.
    until("it is counted", || server.stats().messages_out == 1).await;
    until("both are", || server.stats().messages_in >= 2).await;
    assert_eq!(server.stats().messages_in, 2);
}

/// Rule 20.3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_actions_are_limited_per_minute() {
    let (server, log) = start_server(ServerOptions {
        max_protocol_errors: Some(10),
        ..options()
    });
    let canary = Canary::start(&server).await;
    let mut a = Peer::register(&server, "a").await;
    for _ in 0..10 {
        a.send("no JSON").await;
    }
    a.send(r#"{"action":"send","message":1,"dest":"a"}"#).await;
    assert_eq!(
        a.receive().await,
        r#"{"action":"message","message":1,"from":"a"}"#
    );
    a.send("42").await;
    assert_eq!(a.close_code().await, 1008);
    assert_eq!(
        (log.count("refused ERR_WSMB_JSON"), server.stats().errors),
        (10, 11)
    );
    canary.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_unlimited_by_default() {
    let (server, _) = start_server(options());
    let mut a = Peer::register(&server, "a").await;
    for _ in 0..1_000 {
        a.send("no JSON").await;
    }
    a.send(r#"{"action":"register","id":"b"}"#).await;
    assert_eq!(a.receive().await, r#"{"action":"registered","id":"b"}"#);
    assert_eq!(server.stats().errors, 1_000);
}

/// The time that a burst of messages to itself takes a connection.
async fn burst(limit: Option<RateLimit>, count: usize, length: usize) -> (Duration, u64) {
    let (server, _) = start_server(ServerOptions {
        rate_limit: limit,
        ..options()
    });
    let (mut read, mut write) = Raw::register(&server, "a").await.split();
    let start = Instant::now();
    let text = "x".repeat(length);
    let message = format!(r#"{{"action":"send","message":"{text}","dest":"a"}}"#);
    let expected = format!(r#"{{"action":"message","message":"{text}","from":"a"}}"#);
    let sender = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let bytes = frame(TEXT, message).repeat(count);
        write.write_all(&bytes).await.unwrap();
        write
    });
    for _ in 0..count {
        assert_eq!(read.receive().await, expected);
    }
    let time = start.elapsed();
    let _write = sender.await.unwrap();
    (time, server.stats().throttled)
}

/// Rule 20.5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_message_rate_a_sender_is_paused_and_loses_nothing() {
    let limit = RateLimit {
        messages: 100,
        bytes: 1 << 30,
    };
    // A second's worth at once, then half of one more.
    let (time, throttled) = burst(Some(limit), 150, 10).await;
    assert!(time >= Duration::from_millis(400), "{time:?}");
    assert!(throttled >= 1);
    let (_, throttled) = burst(Some(limit), 90, 10).await;
    assert_eq!(throttled, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_byte_rate_a_sender_is_paused_and_loses_nothing() {
    let limit = RateLimit {
        messages: 1 << 30,
        bytes: 200_000,
    };
    // Of many messages, and within one.
    for (count, length) in [(150, 2_000), (1, 300_000)] {
        let (time, throttled) = burst(Some(limit), count, length).await;
        assert!(time >= Duration::from_millis(400), "{time:?}");
        assert!(throttled >= 1);
    }
    let (_, throttled) = burst(Some(limit), 90, 2_000).await;
    assert_eq!(throttled, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limited_connection_still_receives_and_closes() {
    let (server, _) = start_server(ServerOptions {
        rate_limit: Some(RateLimit {
            messages: 1,
            bytes: 1_024,
        }),
        ..options()
    });
    let mut a = Raw::register(&server, "a").await;
    let mut b = Raw::connect(&server).await;
    // Its only message of this second.
    b.send(r#"{"action":"send","message":1,"dest":"a"}"#).await;
    assert_eq!(a.receive().await, r#"{"action":"message","message":1}"#);
    server.close();
    for raw in [&mut a, &mut b] {
        let (kind, payload) = raw.next().await.unwrap();
        assert_eq!((kind, code(&payload)), (CLOSE, 1001));
    }
}

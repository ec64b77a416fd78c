//! Messaging: register, send, answer, take over an id, unregister.

use crate::support::{Peer, options, start_server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_delivered_and_its_answer_returned() {
    let (server, log) = start_server(options());
    let mut a = Peer::register(&server, "a").await;
    let mut b = Peer::register(&server, "b").await;
    a.send(r#"{"action":"send","message":"Hi there","dest":"b","ack":"k1"}"#)
        .await;
    assert_eq!(
        b.receive().await,
        r#"{"action":"message","message":"Hi there","ack":"k1","from":"a"}"#
    );
    b.send(r#"{"action":"answer","ack":"k1","message":"Hi to you","from":"x"}"#)
        .await;
    assert_eq!(
        a.receive().await,
        r#"{"action":"answer","ack":"k1","from":"b","message":"Hi to you"}"#
    );
    // Used up: a second answer goes nowhere, and what comes next is the next message.
    b.send(r#"{"action":"answer","ack":"k1","message":"again"}"#)
        .await;
    b.send(r#"{"action":"send","message":1.0,"dest":["a","nobody","a"]}"#)
        .await;
    for _ in 0..2 {
        assert_eq!(
            a.receive().await,
            r#"{"action":"message","message":1.0,"from":"b"}"#
        );
    }
    log.wait_for("unknown nobody").await;
    b.send(r#"{"action":"unregister"}"#).await;
    assert_eq!(b.receive().await, r#"{"action":"unregistered","id":"b"}"#);
    b.send(r#"{"action":"send","message":null,"dest":"a"}"#)
        .await;
    assert_eq!(a.receive().await, r#"{"action":"message","message":null}"#);
    server.close();
    assert_eq!(a.close_code().await, 1001);
    drop((a, b));
    tokio::time::timeout(crate::support::PATIENCE, server.closed())
        .await
        .unwrap();
    assert_eq!(server.stats().connections, 0);
    assert_eq!(
        log.lines(),
        [
            "connection",
            "registered a",
            "connection",
            "registered b",
            "unknown nobody",
            "unregistered b",
            "unregistered a",
            "disconnected going_away",
            "disconnected going_away"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_registration_owns_the_id() {
    let (server, log) = start_server(options());
    let mut first = Peer::register(&server, "a").await;
    let mut second = Peer::register(&server, "a").await;
    first
        .send(r#"{"action":"send","message":1,"dest":"a"}"#)
        .await;
    // The former owner gets no notification, and its messages have no `from`.
    assert_eq!(
        second.receive().await,
        r#"{"action":"message","message":1}"#
    );
    drop(first);
    log.wait_for("registered a").await;
    second
        .send(r#"{"action":"send","message":2,"dest":"a"}"#)
        .await;
    assert_eq!(
        second.receive().await,
        r#"{"action":"message","message":2,"from":"a"}"#
    );
    drop(second);
    log.wait_for("unregistered a").await;
    assert_eq!(
        log.lines()
            .iter()
            .filter(|line| *line == "unregistered a")
            .count(),
        1
    );
    assert_eq!(server.stats().registered, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_registration_ends_the_first() {
    let (server, log) = start_server(options());
    let mut a = Peer::register(&server, "a").await;
    a.send(r#"{"action":"register","id":5}"#).await;
    assert_eq!(a.receive().await, r#"{"action":"registered","id":"5"}"#);
    assert_eq!(
        log.lines(),
        [
            "connection",
            "registered a",
            "unregistered a",
            "registered 5"
        ]
    );
}

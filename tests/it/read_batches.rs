//! Frames that arrive in one read are handled in order, though they are read and written together.

use crate::support::{
    options,
    raw::{CLOSE, PING, Raw, TEXT, frame},
    start_server,
};

/// Rule 16.1: what was sent before one ping too many is delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_before_an_excessive_ping_are_delivered() {
    let (server, log) = start_server(options());
    let mut a = Raw::register(&server, "a").await;
    let mut b = Raw::register(&server, "b").await;
    let send = |dest: &str| {
        let text = format!(r#"{{"action":"send","message":1,"dest":"{dest}"}}"#);
        frame(TEXT, text)
    };
    let pings = frame(PING, "x").repeat(201);
    a.write(&[send("b"), send("a"), pings].concat()).await;
    let message = r#"{"action":"message","message":1,"from":"a"}"#;
    let mut kinds = Vec::new();
    while let Some((kind, payload)) = a.next().await {
        if kind == TEXT {
            assert_eq!(payload, message.as_bytes());
        }
        kinds.push(kind);
    }
    assert_eq!(kinds.iter().filter(|kind| **kind == TEXT).count(), 1);
    assert_eq!(kinds.last(), Some(&CLOSE));
    assert_eq!(b.receive().await, message);
    assert_eq!(log.count("unknown a"), 0);
    assert_eq!(server.stats().unknown_ids, 0);
}

/// A turn remembers the receiver of the message before, but not for longer than its registration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_after_an_unregister_in_the_same_turn_are_not_delivered() {
    let (server, _) = start_server(options());
    let mut a = Raw::register(&server, "a").await;
    let send = |n| {
        frame(
            TEXT,
            format!(r#"{{"action":"send","message":{n},"dest":"a"}}"#),
        )
    };
    let unregister = frame(TEXT, r#"{"action":"unregister"}"#);
    let register = frame(TEXT, r#"{"action":"register","id":"a"}"#);
    a.write(&[send(1), unregister, send(2), register, send(3)].concat())
        .await;
    for expected in [
        r#"{"action":"message","message":1,"from":"a"}"#,
        r#"{"action":"unregistered","id":"a"}"#,
        r#"{"action":"registered","id":"a"}"#,
        r#"{"action":"message","message":3,"from":"a"}"#,
    ] {
        assert_eq!(a.receive().await, expected);
    }
    assert_eq!(server.stats().unknown_ids, 1);
}

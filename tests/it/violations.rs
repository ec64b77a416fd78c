//! A peer that violates the WebSocket protocol is closed with the code for the violation, and no other
//! connection is affected (rules 15.2 to 15.4 and 15.8).

use std::time::Duration;

use tokio::{io::AsyncWriteExt, time::timeout};
use wsmsgbroker::ServerOptions;

use crate::support::{
    PATIENCE,
    canary::Canary,
    options,
    raw::{LAST, PING, PONG, Raw, TEXT, TEXT_FRAGMENT, frame, header},
    start_server, until,
    violations::{MAX_PAYLOAD, violations},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_violation_closes_only_its_connection() {
    let (server, log) = start_server(ServerOptions {
        max_payload: MAX_PAYLOAD,
        ..options()
    });
    let canary = Canary::start(&server).await;
    let violations = violations();
    for (what, code, bytes) in &violations {
        let mut raw = Raw::register(&server, what).await;
        raw.write(bytes).await;
        assert_eq!(raw.close_code().await, *code, "{what}");
        log.wait_for(&format!("unregistered {what}")).await;
        raw.ended().await;
        // The id is free, and no connection was mixed up with another.
        Raw::register(&server, what).await.ended_by_us().await;
    }
    canary.finish().await;
    assert!(log.lines().iter().all(|line| !line.starts_with("refused")));
    assert_eq!(log.count("registered x"), 0);
    let closed_as_asked = 2;
    let expected = violations.len() as u64 - closed_as_asked;
    assert_eq!(server.stats().violations, expected);
    until("nobody there", || server.stats().connections == 0).await;
}

/// Rules 1.6 and 15.7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_before_a_violation_is_answered_before_the_close_frame() {
    let (server, _) = start_server(options());
    let mut raw = Raw::connect(&server).await;
    // In one segment, so that one turn reads both.
    raw.write(&[frame(PING, "x"), frame(LAST, "")].concat())
        .await;
    assert_eq!(raw.next().await, Some((PONG, b"x".to_vec())));
    assert_eq!(raw.close_code().await, 1002);
    assert_eq!(raw.next().await, None);
}

/// Rule 15.7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_close_code_reaches_a_peer_that_continues_sending() {
    let (server, _) = start_server(ServerOptions {
        max_payload: MAX_PAYLOAD,
        ..options()
    });
    for round in 0..20 {
        let mut raw = Raw::connect(&server).await;
        raw.write(&header(TEXT, 1 << 20)).await;
        // The server may have seen the header by now, and must not cut off what follows it.
        for _ in 0..16 {
            raw.write(&[b'x'; 2 << 10]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(raw.close_code().await, 1009, "round {round}");
        // Neither is the connection cut off before we are done.
        raw.write(&[b'x'; 2 << 10]).await;
        raw.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_stops_sending_is_disconnected() {
    let (server, _) = start_server(ServerOptions {
        max_payload: MAX_PAYLOAD,
        close_timeout: Duration::from_millis(100),
        ..options()
    });
    let mut raw = Raw::connect(&server).await;
    raw.write(&header(TEXT, 1 << 30)).await;
    // Up to `maxPayload` bytes are discarded; then the connection is closed.
    let endless = async { while raw.0.write_all(&[0; 1024]).await.is_ok() {} };
    timeout(PATIENCE, endless).await.unwrap();
    until("nobody there", || server.stats().connections == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_disconnects_within_a_frame_leaves_no_resources() {
    let (server, log) = start_server(options());
    let canary = Canary::start(&server).await;
    let whole = frame(TEXT, format!(r#"{{"action":"foo{}"}}"#, "x".repeat(70_000)));
    for (n, length) in [1, 2, 8, 13, 14, 15, 40_000, whole.len() - 1]
        .into_iter()
        .enumerate()
    {
        let id = format!("v{n}");
        let mut raw = Raw::register(&server, &id).await;
        raw.write(&whole[..length]).await;
        drop(raw);
        log.wait_for(&format!("unregistered {id}")).await;
    }
    let mut raw = Raw::register(&server, "fragment").await;
    raw.write(&frame(TEXT_FRAGMENT, "{")).await;
    drop(raw);
    log.wait_for("unregistered fragment").await;
    canary.finish().await;
    let stats = server.stats();
    assert_eq!((stats.violations, stats.errors), (0, 0));
}

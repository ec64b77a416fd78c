//! A peer that breaks the WebSocket protocol loses its connection, with the code that says why,
//! and costs nobody else anything (rules 15.2 to 15.4 and 15.8).

mod support;

use std::time::Duration;

use support::{
    PATIENCE,
    canary::Canary,
    options,
    raw::{BINARY, CLOSE, LAST, MORE, PING, PONG, Raw, TEXT, TEXT_FRAGMENT, frame, header},
    start_server, until,
};
use tokio::{io::AsyncWriteExt, time::timeout};
use wsmsgbroker::ServerOptions;

/// Small enough to be exceeded in a moment.
const MAX_PAYLOAD: usize = 64 << 10;

/// A frame without a mask.
fn unmasked(payload: &str) -> Vec<u8> {
    [&[TEXT, payload.len() as u8], payload.as_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_violation_costs_its_connection_and_nothing_else() {
    let (server, log) = start_server(ServerOptions {
        max_payload: MAX_PAYLOAD,
        ..options()
    });
    let canary = Canary::start(&server).await;
    let register = r#"{"action":"register","id":"x"}"#;
    let fragment = frame(TEXT_FRAGMENT, "{");
    let big = vec![b'x'; MAX_PAYLOAD + 1];
    let half = &big[..MAX_PAYLOAD / 2 + 1];
    let violations: &[(&str, u16, Vec<u8>)] = &[
        ("an unmasked frame", 1002, unmasked(register)),
        ("reserved bit 1", 1002, frame(TEXT | 0x40, register)),
        ("reserved bit 2", 1002, frame(TEXT | 0x20, register)),
        ("reserved bit 3", 1002, frame(TEXT | 0x10, register)),
        ("an unknown data opcode", 1002, frame(0x83, register)),
        ("an unknown control opcode", 1002, frame(0x8b, "")),
        ("a lone continuation", 1002, frame(LAST, register)),
        ("a lone first continuation", 1002, frame(MORE, register)),
        (
            "a message within a fragmented one",
            1002,
            [fragment.clone(), frame(TEXT, register)].concat(),
        ),
        ("a fragmented ping", 1002, frame(PING & 0x7f, "")),
        ("a ping too long", 1002, frame(PING, [0; 126])),
        ("a pong too long", 1002, frame(PONG, [0; 126])),
        ("a close frame of one byte", 1002, frame(CLOSE, [3])),
        (
            "a close code nobody may send",
            1002,
            frame(CLOSE, 1006_u16.to_be_bytes()),
        ),
        (
            "a close code out of range",
            1002,
            frame(CLOSE, 999_u16.to_be_bytes()),
        ),
        (
            "a close reason in no UTF-8",
            1007,
            frame(CLOSE, b"\x03\xe8\xff"),
        ),
        ("a text in no UTF-8", 1007, frame(TEXT, b"{\"a\":\"\xff\"}")),
        ("an overlong text", 1007, frame(TEXT, b"\xc0\xaf")),
        ("a surrogate in UTF-8", 1007, frame(TEXT, b"\xed\xa0\x80")),
        (
            "a text that ends within a character",
            1007,
            [frame(TEXT_FRAGMENT, "{"), frame(LAST, b"\xe2\x82")].concat(),
        ),
        (
            "a fragment in no UTF-8",
            1007,
            frame(TEXT_FRAGMENT, b"\xff"),
        ),
        ("a frame too big", 1009, frame(TEXT, &big)),
        ("a binary frame too big", 1009, frame(BINARY, &big)),
        (
            "the header of a frame too big",
            1009,
            header(TEXT, MAX_PAYLOAD + 1),
        ),
        ("a frame of 2^63 bytes", 1009, header(TEXT, 1 << 63)),
        ("a frame of 2^64 bytes", 1009, header(TEXT, usize::MAX)),
        (
            "fragments that are too big together",
            1009,
            [frame(TEXT_FRAGMENT, half), frame(MORE, half)].concat(),
        ),
    ];
    for (what, code, bytes) in violations {
        let mut raw = Raw::register(&server, what).await;
        raw.write(bytes).await;
        assert_eq!(raw.close_code().await, *code, "{what}");
        log.wait_for(&format!("unregistered {what}")).await;
        raw.ended().await;
        // The id is free, and nobody has been mistaken for another.
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
async fn the_code_reaches_a_peer_that_sends_on() {
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
async fn a_peer_that_never_stops_sending_is_cut_off() {
    let (server, _) = start_server(ServerOptions {
        max_payload: MAX_PAYLOAD,
        close_timeout: Duration::from_millis(100),
        ..options()
    });
    let mut raw = Raw::connect(&server).await;
    raw.write(&header(TEXT, 1 << 30)).await;
    // Up to `maxPayload` is thrown away; after that there is nobody to take it.
    let endless = async { while raw.0.write_all(&[0; 1024]).await.is_ok() {} };
    timeout(PATIENCE, endless).await.unwrap();
    until("nobody there", || server.stats().connections == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_vanishes_in_the_midst_of_a_frame_leaves_nothing() {
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

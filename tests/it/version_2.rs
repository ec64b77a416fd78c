//! Protocol version 2: how it is negotiated, and the frames a connection gets beside receipts and the
//! outcomes of its requests (rules 23, 29, 30 and 31).

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use wsmsgbroker::ServerOptions;

use crate::support::{
    LONG, PATIENCE, Peer, options,
    raw::{Raw, TEXT, frame},
    start_server, until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_from_2_on_requests_version_2_and_any_other_value_version_1() {
    let (server, _) = start_server(options());
    let mut a = Peer::connect(&server).await;
    for protocol in ["2", "2.0", "3", "1e3", "2.5", "1e999"] {
        a.send(&format!(
            r#"{{"action":"register","id":"a","protocol":{protocol}}}"#
        ))
        .await;
        a.expect(r#"{"action":"registered","id":"a","protocol":2}"#)
            .await;
    }
    for protocol in ["1", "1.9", "-2", "0", "\"2\"", "null", "true", "[2]", "{}"] {
        a.send(&format!(
            r#"{{"protocol":{protocol},"action":"register","id":"a"}}"#
        ))
        .await;
        a.expect(r#"{"action":"registered","id":"a"}"#).await;
    }
    // Refused, and therefore without effect.
    a.send(r#"{"action":"register","id":"","protocol":2}"#)
        .await;
    let told = a.receive().await;
    assert!(told.starts_with(r#"{"action":"error","code":"ERR_WSMB_ID""#));
    a.send(r#"{"action":"send","message":1,"dest":"a","ref":1}"#)
        .await;
    a.expect(r#"{"action":"message","message":1,"from":"a"}"#)
        .await;
    a.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_2_applies_from_one_register_to_the_next() {
    let (server, _) = start_server(options());
    let mut raw = Raw::connect(&server).await;
    let mut bytes = Vec::new();
    for text in [
        r#"{"action":"register","id":"a","protocol":2}"#,
        r#"{"action":"send","message":0,"dest":"x","ref":1}"#,
        r#"{"action":"unregister"}"#,
        r#"{"action":"send","message":0,"dest":"x","ref":2}"#,
        r#"{"action":"register","id":"a"}"#,
        r#"{"action":"send","message":0,"dest":"x","ref":3}"#,
        r#"{"action":"unregister"}"#,
    ] {
        bytes.extend(frame(TEXT, text));
    }
    raw.write(&bytes).await;
    for text in [
        r#"{"action":"registered","id":"a","protocol":2}"#,
        r#"{"action":"receipt","ref":1,"delivered":[],"failed":{"x":"UNKNOWN_ID"}}"#,
        r#"{"action":"unregistered","id":"a"}"#,
        r#"{"action":"receipt","ref":2,"delivered":[],"failed":{"x":"UNKNOWN_ID"}}"#,
        r#"{"action":"registered","id":"a"}"#,
        r#"{"action":"unregistered","id":"a"}"#,
    ] {
        assert_eq!(raw.receive().await, text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_version_1_get_the_frames_of_version_1() {
    let (server, log) = start_server(options());
    let mut old = Peer::register(&server, "old").await;
    let mut new = Peer::register_2(&server, "new").await;
    // It does not know these members and this action.
    for text in [
        r#"{"action":"send","message":1,"dest":"new","ref":{},"answers":-1,"timeout":"x"}"#,
        r#"{"action":"send","message":2,"dest":["x","x"],"ack":"k0","ref":1}"#,
        r#"{"action":"send","message":3,"dest":"x","ack":"k0"}"#,
        r#"{"action":"send","message":4,"dest":"new","ack":"k1","answers":9,"timeout":1}"#,
        r#"{"action":"cancel","ack":"k1"}"#,
        "{",
    ] {
        old.send(text).await;
    }
    log.wait_for("refused ERR_WSMB_ACTION").await;
    log.wait_for("refused ERR_WSMB_JSON").await;
    new.expect(r#"{"action":"message","message":1,"from":"old"}"#)
        .await;
    new.expect(r#"{"action":"message","message":4,"ack":"k1","from":"old"}"#)
        .await;
    new.send(r#"{"action":"answer","ack":"k1","message":5}"#)
        .await;
    old.expect(r#"{"action":"answer","ack":"k1","from":"new","message":5}"#)
        .await;
    assert_eq!(server.stats().pending, 0, "one answer was all it wanted");
    // Its own refusal is an answer.
    new.send(r#"{"action":"send","message":6,"dest":"old","ack":"k2"}"#)
        .await;
    old.expect(r#"{"action":"message","message":6,"ack":"k2","from":"new"}"#)
        .await;
    old.send(r#"{"action":"answer","ack":"k2","message":7,"error":"no"}"#)
        .await;
    new.expect(r#"{"action":"answer","ack":"k2","from":"old","message":7}"#)
        .await;
    // Nor is it told that a request which it was asked has ended, or one that it asked.
    new.send(r#"{"action":"send","message":8,"dest":"old","ack":"k3"}"#)
        .await;
    new.send(r#"{"action":"cancel","ack":"k3"}"#).await;
    old.expect(r#"{"action":"message","message":8,"ack":"k3","from":"new"}"#)
        .await;
    old.send(r#"{"action":"send","message":9,"dest":"new","ack":"k4"}"#)
        .await;
    new.expect(r#"{"action":"message","message":9,"ack":"k4","from":"old"}"#)
        .await;
    drop(new);
    until("its request has ended", || server.stats().pending == 0).await;
    // Nor that it lost its id, or that the server drains.
    let mut other = Peer::register(&server, "old").await;
    drop(server.drain(LONG));
    old.expect_nothing().await;
    other.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_action_gets_an_error_with_its_ref_and_ack() {
    let (server, log) = start_server(ServerOptions {
        max_id_length: 8,
        ..options()
    });
    let mut a = Peer::register_2(&server, "a").await;
    let mut refused = 0;
    for (text, code, rest) in [
        ("{", "ERR_WSMB_JSON", ""),
        ("null", "ERR_WSMB_JSON", ""),
        ("[]", "ERR_WSMB_ACTION", ""),
        (
            r#"{"action":"x","ref":7,"ack":"k"}"#,
            "ERR_WSMB_ACTION",
            r#","ref":7,"ack":"k""#,
        ),
        (
            r#"{"ref":"12345678","ack":[1]}"#,
            "ERR_WSMB_ACTION",
            r#","ref":"12345678","ack":[1]"#,
        ),
        (
            r#"{"ref":"123456789","ack":[1,2,3,4]}"#,
            "ERR_WSMB_ACTION",
            "",
        ),
        (r#"{"action":"register"}"#, "ERR_WSMB_ID", ""),
        (
            r#"{"action":"register","id":"123456789"}"#,
            "ERR_WSMB_MAX_ID_LENGTH",
            "",
        ),
        (
            r#"{"action":"send","dest":"a","ref":1}"#,
            "ERR_WSMB_SEND",
            r#","ref":1"#,
        ),
        (
            r#"{"action":"send","message":1,"dest":1,"ref":1}"#,
            "ERR_WSMB_DEST",
            r#","ref":1"#,
        ),
        (
            r#"{"action":"answer","ack":""}"#,
            "ERR_WSMB_ANSWER",
            r#","ack":"""#,
        ),
        (r#"{"action":"cancel"}"#, "ERR_WSMB_CANCEL", ""),
        (
            r#"{"action":"cancel","ack":0}"#,
            "ERR_WSMB_CANCEL",
            r#","ack":0"#,
        ),
        (
            r#"{"action":"send","message":1,"dest":"x","ack":"123456789"}"#,
            "ERR_WSMB_MAX_ID_LENGTH",
            "",
        ),
    ] {
        a.send(text).await;
        let told = a.receive().await;
        let start = format!(r#"{{"action":"error","code":"{code}","message":""#);
        assert!(told.starts_with(&start), "{text}: {told}");
        assert!(told.ends_with(&format!("\"{rest}}}")), "{text}: {told}");
        refused += 1;
        assert_eq!(server.stats().errors, refused);
    }
    a.0.send(Message::binary("x")).await.unwrap();
    assert_eq!(
        a.receive().await,
        r#"{"action":"error","code":"ERR_WSMB_BINARY","message":"\"undefined\" is not valid JSON"}"#
    );
    assert_eq!(log.count("refused ERR_WSMB_BINARY"), 1);
    assert_eq!(server.stats().pending, 0);
    // It is what it was.
    a.send(r#"{"action":"send","message":1,"dest":"a"}"#).await;
    a.expect(r#"{"action":"message","message":1,"from":"a"}"#)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_for_a_client_that_does_not_read_are_bounded() {
    const COUNT: usize = 20_000;
    let mark = 64 << 10;
    let (server, log) = start_server(ServerOptions {
        max_backpressure: mark,
        slow_consumer_timeout: LONG,
        ..options()
    });
    let mut raw = Raw::register_2(&server, "a").await;
    let before = server.stats().memory;
    let bad = frame(TEXT, format!(r#"{{"action":"{}"}}"#, "x".repeat(1000)));
    for _ in 0..COUNT {
        raw.write(&bad).await;
    }
    let all = || log.count("refused ERR_WSMB_ACTION") == COUNT;
    until("all are read", all).await;
    // The mark, and what is being read; without a bound it would be a hundred times as much.
    assert!(server.stats().memory < before + 8 * mark);
    // Those that came in time are there, whole.
    let told = raw.receive().await;
    assert!(told.starts_with(r#"{"action":"error","code":"ERR_WSMB_ACTION""#));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_owner_gets_unregistered_and_stays_connected() {
    let (server, _) = start_server(options());
    let mut first = Peer::register_2(&server, "a").await;
    // Its own id, once more.
    first
        .send(r#"{"action":"register","id":"a","protocol":2}"#)
        .await;
    first
        .expect(r#"{"action":"registered","id":"a","protocol":2}"#)
        .await;
    let mut second = Peer::register(&server, "a").await;
    first
        .expect(r#"{"action":"unregistered","id":"a","code":"REPLACED"}"#)
        .await;
    first
        .send(r#"{"action":"send","message":1,"dest":"a","ref":1}"#)
        .await;
    first
        .expect(r#"{"action":"receipt","ref":1,"delivered":["a"],"failed":{}}"#)
        .await;
    second.expect(r#"{"action":"message","message":1}"#).await;
    // It owns nothing that it could lose.
    drop(second);
    let _third = Peer::register(&server, "a").await;
    first.send(r#"{"action":"unregister"}"#).await;
    first.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_server_sends_goaway_once_also_to_late_clients() {
    let (server, _) = start_server(options());
    let mut early = Peer::register_2(&server, "early").await;
    let mut late = Peer::connect(&server).await;
    early
        .send(r#"{"action":"send","message":1,"dest":"early","ack":"k"}"#)
        .await;
    early
        .expect(r#"{"action":"message","message":1,"ack":"k","from":"early"}"#)
        .await;
    let drained = server.drain(LONG);
    early
        .expect(r#"{"action":"goaway","within":3600000}"#)
        .await;
    late.send(r#"{"action":"register","id":"late","protocol":2}"#)
        .await;
    late.expect(r#"{"action":"registered","id":"late","protocol":2}"#)
        .await;
    let told = late.receive().await;
    let within = told
        .strip_prefix(r#"{"action":"goaway","within":"#)
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap_or_else(|| panic!("{told}"));
    assert!((1..=3_600_000).contains(&within.parse::<u32>().unwrap()));
    // ClientLog once, whatever it does.
    for peer in [&mut early, &mut late] {
        peer.send(r#"{"action":"register","id":"again","protocol":2}"#)
            .await;
        peer.expect(r#"{"action":"registered","id":"again","protocol":2}"#)
            .await;
        peer.send(r#"{"action":"unregister"}"#).await;
        peer.expect(r#"{"action":"unregistered","id":"again"}"#)
            .await;
    }
    // Its own request has ended with its id.
    early.expect(r#"{"action":"cancel","ack":"k"}"#).await;
    // Connections that got `goaway` have the announced time, even if they use version 1 by now.
    let drained = tokio::spawn(drained);
    early.send(r#"{"action":"register","id":"early"}"#).await;
    early
        .expect(r#"{"action":"registered","id":"early"}"#)
        .await;
    drop(late);
    until("one is left", || server.stats().connections == 1).await;
    // Longer than the server takes to look.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!drained.is_finished());
    drop(early);
    timeout(PATIENCE, drained).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_got_goaway_is_closed_after_the_announced_time() {
    let (server, _) = start_server(options());
    let mut a = Peer::register_2(&server, "a").await;
    let start = Instant::now();
    server.drain(Duration::from_millis(200)).await;
    assert!(start.elapsed() >= Duration::from_millis(200));
    a.expect(r#"{"action":"goaway","within":200}"#).await;
    server.close();
    assert_eq!(a.close_code().await, 1001);
}

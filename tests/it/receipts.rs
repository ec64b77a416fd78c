//! Receipts: the result of a delivery, reported to a sender that asks for it (rule 24).

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use wsmsgbroker::{ServerOptions, SlowConsumer};

use crate::support::{
    LONG, Peer, options,
    raw::{Raw, TEXT, frame, numbered_send},
    start_server, until,
};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_lists_each_id_once_in_order_after_the_messages() {
    let (server, log) = start_server(options());
    let mut a = Peer::register_2(&server, "a").await;
    let mut b = Peer::register(&server, "b").await;
    for (dest, reference, own, receipt) in [
        (r#""a""#, "7", 1, r#""delivered":["a"],"failed":{}"#),
        (r#""b""#, "-1.50e2", 0, r#""delivered":["b"],"failed":{}"#),
        (
            r#""x""#,
            r#""r\u0041""#,
            0,
            r#""delivered":[],"failed":{"x":"UNKNOWN_ID"}"#,
        ),
        ("[]", r#""""#, 0, r#""delivered":[],"failed":{}"#),
        (
            r#"["y","b","a","x","b","y",5,"a","__proto__"]"#,
            "0",
            2,
            r#""delivered":["b","a"],"failed":{"y":"UNKNOWN_ID","x":"UNKNOWN_ID","5":"UNKNOWN_ID","__proto__":"UNKNOWN_ID"}"#,
        ),
    ] {
        a.send(&format!(
            r#"{{"action":"send","message":0,"dest":{dest},"ref":{reference}}}"#
        ))
        .await;
        for _ in 0..own {
            a.expect(r#"{"action":"message","message":0,"from":"a"}"#)
                .await;
        }
        a.expect(&format!(
            r#"{{"action":"receipt","ref":{reference},{receipt}}}"#
        ))
        .await;
    }
    for _ in 0..3 {
        b.expect(r#"{"action":"message","message":0,"from":"a"}"#)
            .await;
    }
    b.expect_nothing().await;
    // The server still emits its events.
    assert_eq!(log.count("unknown y"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_with_and_without_receipts_keep_their_order() {
    let (server, _) = start_server(options());
    let mut raw = Raw::connect(&server).await;
    let mut b = Peer::register(&server, "b").await;
    let mut bytes = frame(TEXT, r#"{"action":"register","id":"a","protocol":2}"#);
    for n in 0..100 {
        let reference = match n % 3 {
            0 => format!(r#","ref":{n}"#),
            _ => String::new(),
        };
        let dest = [r#""b""#, r#"["b"]"#][n % 2];
        let text = format!(r#"{{"action":"send","message":{n},"dest":{dest}{reference}}}"#);
        bytes.extend(frame(TEXT, text));
    }
    raw.write(&bytes).await;
    raw.receive().await;
    for n in 0..100 {
        b.expect(&format!(
            r#"{{"action":"message","message":{n},"from":"a"}}"#
        ))
        .await;
        if n % 3 == 0 {
            let receipt =
                format!(r#"{{"action":"receipt","ref":{n},"delivered":["b"],"failed":{{}}}}"#);
            assert_eq!(raw.receive().await, receipt);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_the_wrong_type_is_refused_and_null_counts_as_missing() {
    let (server, _) = start_server(ServerOptions {
        max_id_length: 8,
        ..options()
    });
    let mut a = Peer::register_2(&server, "a").await;
    for member in [
        r#""ref":{}"#,
        r#""ref":[]"#,
        r#""ref":true"#,
        r#""ref":"123456789""#,
        r#""ref":123456789"#,
        r#""answers":0"#,
        r#""answers":-1"#,
        r#""answers":1.5"#,
        r#""answers":"some""#,
        r#""answers":"1""#,
        r#""answers":false"#,
        r#""answers":[1]"#,
        r#""timeout":0"#,
        r#""timeout":-5"#,
        r#""timeout":"5""#,
        r#""timeout":true"#,
        r#""ack":"","answers":0"#,
    ] {
        a.send(&format!(
            r#"{{"action":"send","message":1,"dest":"a",{member}}}"#
        ))
        .await;
        let told = a.receive().await;
        let start = r#"{"action":"error","code":"ERR_WSMB_MEMBER","message":"#;
        assert!(told.starts_with(start), "{member}: {told}");
    }
    for member in [
        r#""ref":null,"answers":null,"timeout":null"#,
        r#""answers":1"#,
        r#""answers":1e300"#,
        r#""answers":2.0"#,
        r#""answers":"all""#,
        r#""answers":"\u0061ll""#,
        r#""timeout":0.5"#,
        r#""timeout":1e300"#,
        r#""timeout":1e999"#,
    ] {
        a.send(&format!(
            r#"{{"action":"send","message":1,"dest":"a",{member}}}"#
        ))
        .await;
        a.expect(r#"{"action":"message","message":1,"from":"a"}"#)
            .await;
    }
    a.send(r#"{"action":"send","message":1,"dest":[],"ref":"\u0031\u0032345678"}"#)
        .await;
    a.expect(r#"{"action":"receipt","ref":"\u0031\u0032345678","delivered":[],"failed":{}}"#)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_to_a_full_receiver_is_reported_as_failed() {
    for slow_consumer in [SlowConsumer::Drop, SlowConsumer::Close] {
        let (server, _) = start_server(ServerOptions {
            max_backpressure: MIB,
            slow_consumer,
            ..options()
        });
        let _slow = Raw::register(&server, "slow").await;
        let mut a = Peer::register_2(&server, "a").await;
        let is_slow = r#"{"action":"receipt","ref":0,"delivered":[],"failed":{"slow":"SLOW"}}"#;
        // Until the socket, and the outbox, are full.
        loop {
            let send = numbered_send(0, r#""slow""#, MIB / 2);
            a.send(&send.replace(r#","message""#, r#","ref":0,"message""#))
                .await;
            let receipt = a.receive().await;
            if receipt == is_slow {
                break;
            }
            let delivered = r#"{"action":"receipt","ref":0,"delivered":["slow"],"failed":{}}"#;
            assert_eq!(receipt, delivered);
        }
        if slow_consumer == SlowConsumer::Drop {
            a.send(r#"{"action":"send","message":1,"dest":["x","slow","slow"],"ref":1}"#)
                .await;
            a.expect(
                r#"{"action":"receipt","ref":1,"delivered":[],"failed":{"x":"UNKNOWN_ID","slow":"SLOW"}}"#,
            )
            .await;
        }
        a.expect_nothing().await;
    }
}

/// Rules 17.4 and 17.7; and rule 25.2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_to_a_penalized_receiver_fails_as_slow() {
    let (server, _) = start_server(ServerOptions {
        max_backpressure: MIB,
        slow_consumer_timeout: Duration::from_millis(100),
        ..options()
    });
    let mut a = Peer::register_2(&server, "a").await;
    for (round, (dest, code)) in [
        // The waiting senders find an unknown id.
        (r#""slow""#, "UNKNOWN_ID"),
        (r#""slow""#, "UNKNOWN_ID"),
        // From here on no sender waits.
        (r#""slow""#, "SLOW"),
        (r#"["slow"]"#, "SLOW"),
    ]
    .into_iter()
    .enumerate()
    {
        let _slow = Raw::register(&server, "slow").await;
        let mut failed = Vec::new();
        let mut count = 0;
        // Until the socket, and the outbox, are full.
        let receipt = loop {
            count += 1;
            let members = format!(r#","ref":0,"ack":"{round} {count}","message""#);
            let send = numbered_send(0, dest, MIB / 2);
            a.send(&send.replace(r#","message""#, &members)).await;
            let receipt = loop {
                let told = a.receive().await;
                match told.starts_with(r#"{"action":"failed""#) {
                    true => failed.push(told),
                    false => break told,
                }
            };
            if !receipt.ends_with(r#""delivered":["slow"],"failed":{}}"#) {
                break receipt;
            }
        };
        let is_slow = format!(
            r#"{{"action":"receipt","ref":0,"delivered":[],"failed":{{"slow":"{code}"}}}}"#
        );
        assert_eq!(receipt, is_slow, "round {round}");
        while failed.len() < count {
            failed.push(a.receive().await);
        }
        // The receipt reports the last one; the others fail when their receiver is closed.
        let slow = failed
            .iter()
            .filter(|told| told.contains(r#""code":"SLOW""#));
        assert!(slow.count() >= count - usize::from(code != "SLOW"));
    }
    assert_eq!(server.stats().pending, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_does_not_read_receipts_is_paused_and_loses_none() {
    const COUNT: usize = 4_000;
    let mark = 64 << 10;
    let (server, _) = start_server(ServerOptions {
        max_backpressure: mark,
        slow_consumer_timeout: LONG,
        ..options()
    });
    let raw = Raw::register_2(&server, "a").await;
    let fill = "x".repeat(8000);
    let (mut reader, mut writer) = raw.split();
    let text = fill.clone();
    let writing = tokio::spawn(async move {
        for n in 0..COUNT {
            let send = format!(r#"{{"action":"send","message":0,"dest":[],"ref":"{n} {text}"}}"#);
            writer.write_all(&frame(TEXT, send)).await.unwrap();
        }
        writer
    });
    // Nothing of it is read here, until nothing more is read there.
    let (mut read, mut still) = (0, 0);
    until("it is read no further", || {
        let now = server.stats().messages_in;
        still = if now == read { still + 1 } else { 0 };
        read = now;
        read > 1 && still == 200
    })
    .await;
    let most = server.stats().memory;
    for n in 0..COUNT {
        let receipt =
            format!(r#"{{"action":"receipt","ref":"{n} {fill}","delivered":[],"failed":{{}}}}"#);
        assert_eq!(reader.receive().await, receipt);
    }
    drop(writing.await.unwrap());
    assert!(most < 8 * mark, "{most}");
    assert_eq!(server.stats().slow, 0);
}

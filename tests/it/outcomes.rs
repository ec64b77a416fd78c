//! The outcome of a request: answers, refusals, failed receivers, and its end, each reported once to the
//! connections concerned (rules 25 to 28).

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use wsmsgbroker::{Server, ServerOptions, SlowConsumer};

use crate::support::{
    LONG, PATIENCE, Peer, options,
    raw::{Raw, TEXT, frame, numbered_send},
    start_server, until,
};

const MIB: usize = 1 << 20;

/// Sends a request, and lets the receivers have it.
async fn ask(asker: &mut Peer, from: &str, request: &str, receivers: &mut [&mut Peer]) {
    asker
        .send(&format!(r#"{{"action":"send","message":1,{request}}}"#))
        .await;
    let ack = request.split_once(r#""ack":"#).unwrap().1;
    let ack = ack.split(',').next().unwrap();
    for receiver in receivers {
        let message = format!(r#"{{"action":"message","message":1,"ack":{ack},"from":"{from}"}}"#);
        receiver.expect(&message).await;
    }
}

async fn is_over(server: &Server) {
    until("nothing is pending", || server.stats().pending == 0).await;
}

fn failed(dest: &str, code: &str) -> String {
    format!(r#"{{"action":"failed","ack":"k","dest":"{dest}","code":"{code}"}}"#)
}

const CANCEL: &str = r#"{"action":"cancel","ack":"k"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_an_unknown_id_fails_at_once() {
    let (server, log) = start_server(options());
    let mut a = Peer::register_2(&server, "a").await;
    let mut b = Peer::register(&server, "b").await;
    ask(&mut a, "a", r#""dest":"x","ack":"k""#, &mut []).await;
    a.expect(&failed("x", "UNKNOWN_ID")).await;
    assert_eq!(server.stats().pending, 0);
    // The ack is the text of its key, whatever it was.
    ask(&mut a, "a", r#""dest":"\u0078\"","ack":7.0"#, &mut []).await;
    a.expect(r#"{"action":"failed","ack":"7","dest":"x\"","code":"UNKNOWN_ID"}"#)
        .await;
    // Each once, behind the receipt; the others may answer.
    let request = r#""dest":["x","b","y","x"],"ack":"k","ref":5"#;
    ask(&mut a, "a", request, &mut [&mut b]).await;
    a.expect(r#"{"action":"receipt","ref":5,"delivered":["b"],"failed":{"x":"UNKNOWN_ID","y":"UNKNOWN_ID"}}"#)
        .await;
    a.expect(&failed("x", "UNKNOWN_ID")).await;
    a.expect(&failed("y", "UNKNOWN_ID")).await;
    b.send(r#"{"action":"answer","ack":"k","message":2}"#).await;
    a.expect(r#"{"action":"answer","ack":"k","from":"b","message":2}"#)
        .await;
    // Without an ack there is no request.
    a.send(r#"{"action":"send","message":1,"dest":"x","ack":""}"#)
        .await;
    // A refused `send` leaves no request, and no `failed` is sent.
    ask(&mut b, "b", r#""dest":"a","ack":"k""#, &mut [&mut a]).await;
    a.send(r#"{"action":"send","message":1,"dest":["x","b"],"ack":"k"}"#)
        .await;
    let received = a.receive().await;
    assert!(received.starts_with(r#"{"action":"error","code":"ERR_WSMB_ACK_TAKEN""#));
    // Who has no id awaits nothing.
    a.send(r#"{"action":"unregister"}"#).await;
    a.expect(r#"{"action":"unregistered","id":"a"}"#).await;
    a.send(r#"{"action":"send","message":1,"dest":["x"],"ack":"n"}"#)
        .await;
    log.wait_for("unknown x").await;
    a.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responders_of_an_asker_without_an_id_are_cancelled_after_each_message() {
    let (server, _) = start_server(options());
    let mut b = Peer::register_2(&server, "b").await;
    // All in one turn, of any size.
    let mut nobody = Raw::connect(&server).await;
    let long = "x".repeat(64 << 10);
    let messages = ["1", &format!("\"{long}\""), "2", "3"];
    let mut bytes = Vec::new();
    for message in messages {
        let send = format!(r#"{{"action":"send","message":{message},"dest":"b","ack":"k"}}"#);
        bytes.extend(frame(TEXT, send));
    }
    nobody.write(&bytes).await;
    for message in messages {
        b.expect(&format!(
            r#"{{"action":"message","message":{message},"ack":"k"}}"#
        ))
        .await;
        b.expect(CANCEL).await;
    }
    assert_eq!(server.stats().pending, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disconnected_receiver_fails_and_the_last_one_ends_the_request() {
    let (server, _) = start_server(ServerOptions {
        max_payload: 512,
        ..options()
    });
    let mut a = Peer::register_2(&server, "a").await;
    let mut b = Peer::register(&server, "b").await;
    let mut c = Peer::register_2(&server, "c").await;
    let request = r#""dest":["b","c"],"ack":"k""#;
    ask(&mut a, "a", request, &mut [&mut b, &mut c]).await;
    drop(b);
    a.expect(&failed("b", "GONE")).await;
    assert_eq!(server.stats().pending, 1);
    // A violation is an end like any other.
    c.send(&"x".repeat(1 << 10)).await;
    a.expect(&failed("c", "GONE")).await;
    is_over(&server).await;
    // Its ack may be used again, by anybody.
    let mut other = Peer::register_2(&server, "other").await;
    ask(
        &mut other,
        "other",
        r#""dest":"a","ack":"k""#,
        &mut [&mut a],
    )
    .await;
    a.send(r#"{"action":"answer","ack":"k","message":2}"#).await;
    other
        .expect(r#"{"action":"answer","ack":"k","from":"a","message":2}"#)
        .await;
    a.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_fails_if_its_id_is_taken_over_but_not_if_it_unregisters() {
    let (server, _) = start_server(options());
    let mut a = Peer::register_2(&server, "a").await;
    let mut old = Peer::register(&server, "old").await;
    let mut b = Peer::register_2(&server, "b").await;
    ask(&mut a, "a", r#""dest":"b","ack":"k""#, &mut [&mut b]).await;
    ask(&mut old, "old", r#""dest":"b","ack":"o""#, &mut [&mut b]).await;
    // None of these takes the id over.
    for register in [
        r#"{"action":"register","id":"b","protocol":2}"#,
        r#"{"action":"register","id":"c","protocol":2}"#,
        r#"{"action":"register","id":"b","protocol":2}"#,
        r#"{"action":"unregister"}"#,
    ] {
        b.send(register).await;
        b.receive().await;
    }
    let mut second = Peer::register(&server, "b").await;
    b.send(r#"{"action":"answer","ack":"k","message":2}"#).await;
    a.expect(r#"{"action":"answer","ack":"k","message":2}"#)
        .await;
    ask(&mut a, "a", r#""dest":"b","ack":"k""#, &mut [&mut second]).await;
    // Another id is none of its business.
    let _other = Peer::register(&server, "c").await;
    let third = Peer::register(&server, "b").await;
    a.expect(&failed("b", "REPLACED")).await;
    is_over_but_for(&server, 1).await;
    // It can not answer any more: but for those of version 1.
    second
        .send(r#"{"action":"answer","ack":"k","message":3}"#)
        .await;
    b.send(r#"{"action":"answer","ack":"o","message":4}"#).await;
    old.expect(r#"{"action":"answer","ack":"o","message":4}"#)
        .await;
    drop(third);
    second.expect_nothing().await;
    a.expect_nothing().await;
}

async fn is_over_but_for(server: &Server, pending: usize) {
    until("the rest is over", || server.stats().pending == pending).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_has_its_own_timeout() {
    let (server, _) = start_server(options());
    let mut a = Peer::register_2(&server, "a").await;
    let mut b = Peer::register_2(&server, "b").await;
    let mut c = Peer::register(&server, "c").await;
    let mut d = Peer::register_2(&server, "d").await;
    let request = r#""dest":["b","c","d"],"ack":"k","answers":"all","timeout":50"#;
    ask(&mut a, "a", request, &mut [&mut b, &mut c, &mut d]).await;
    let mut received = [a.receive().await, a.receive().await, a.receive().await];
    received.sort();
    assert_eq!(received, ["b", "c", "d"].map(|id| failed(id, "TIMEOUT")));
    b.expect(CANCEL).await;
    d.expect(CANCEL).await;
    assert_eq!(server.stats().pending, 0);
    // Too late.
    b.send(r#"{"action":"answer","ack":"k","message":2}"#).await;
    b.expect_nothing().await;
    c.expect_nothing().await;
    a.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reused_ack_belongs_to_the_new_request() {
    let (server, _) = start_server(options());
    let mut raw = Raw::connect(&server).await;
    let mut b = Peer::register_2(&server, "b").await;
    let mut c = Peer::register_2(&server, "c").await;
    raw.send(r#"{"action":"register","id":"a","protocol":2}"#)
        .await;
    raw.receive().await;
    // In one turn, of any size: each request times out before the next is read, and is not yet swept.
    let long = format!("\"{}\"", "x".repeat(64 << 10));
    for dest in [r#""b""#, r#"["b","c"]"#] {
        let messages = ["1", "2", &long, "3"];
        let mut bytes = Vec::new();
        for message in messages {
            let timeout = match message {
                "3" => "",
                _ => r#","timeout":1e-6"#,
            };
            let send = format!(
                r#"{{"action":"send","message":{message},"dest":{dest},"ack":"k"{timeout}}}"#
            );
            bytes.extend(frame(TEXT, send));
        }
        raw.write(&bytes).await;
        let mut asked = vec![("b", &mut b)];
        if dest.contains('c') {
            asked.push(("c", &mut c));
        }
        for (_, peer) in &mut asked {
            for message in messages {
                peer.expect(&format!(
                    r#"{{"action":"message","message":{message},"ack":"k","from":"a"}}"#
                ))
                .await;
                if message != "3" {
                    peer.expect(CANCEL).await;
                }
            }
        }
        for _ in 1..messages.len() {
            for (id, _) in &asked {
                assert_eq!(raw.receive().await, failed(id, "TIMEOUT"));
            }
        }
        // The last one has all the time that there is.
        let (id, peer) = &mut asked[0];
        peer.send(r#"{"action":"answer","ack":"k","message":4}"#)
            .await;
        let answer = format!(r#"{{"action":"answer","ack":"k","from":"{id}","message":4}}"#);
        assert_eq!(raw.receive().await, answer);
        if let Some((_, other)) = asked.get_mut(1) {
            other.expect(CANCEL).await;
        }
        is_over(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_general_timeout_limits_the_timeout_of_a_request() {
    let (server, _) = start_server(ServerOptions {
        ack_timeout: Duration::from_millis(50),
        ..options()
    });
    let mut a = Peer::register_2(&server, "a").await;
    let mut b = Peer::register_2(&server, "b").await;
    let request = r#""dest":"b","ack":"k","timeout":3600000"#;
    ask(&mut a, "a", request, &mut [&mut b]).await;
    a.expect(&failed("b", "TIMEOUT")).await;
    b.expect(CANCEL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_limit_the_oldest_request_fails_and_its_responders_are_cancelled() {
    let (server, _) = start_server(ServerOptions {
        max_pending_acks: 2,
        ..options()
    });
    let mut a = Peer::register_2(&server, "a").await;
    let mut b = Peer::register_2(&server, "b").await;
    ask(&mut a, "a", r#""dest":"b","ack":"k""#, &mut [&mut b]).await;
    ask(&mut a, "a", r#""dest":"b","ack":"l""#, &mut [&mut b]).await;
    ask(&mut a, "a", r#""dest":"b","ack":"m""#, &mut []).await;
    a.expect(&failed("b", "TIMEOUT")).await;
    b.expect(r#"{"action":"message","message":1,"ack":"m","from":"a"}"#)
        .await;
    b.expect(CANCEL).await;
    // One that is too much by itself; its receivers hear of it before it is cancelled.
    let request = r#""dest":["a","a","b","x"],"ack":"k""#;
    let mut c = Peer::register_2(&server, "x").await;
    ask(&mut a, "a", request, &mut []).await;
    let mut received = Vec::new();
    for _ in 0..8 {
        received.push(a.receive().await);
    }
    let message = r#"{"action":"message","message":1,"ack":"k","from":"a"}"#;
    assert_eq!(&received[..2], [message, message]);
    received.sort();
    assert_eq!(received[0], CANCEL);
    assert_eq!(
        received[1..4],
        ["a", "b", "x"].map(|id| failed(id, "TIMEOUT"))
    );
    for ack in ["l", "m"] {
        let failed = format!(r#"{{"action":"failed","ack":"{ack}","dest":"b","code":"TIMEOUT"}}"#);
        assert!(received.contains(&failed), "{received:?}");
    }
    c.expect(message).await;
    c.expect(CANCEL).await;
    assert_eq!(server.stats().pending, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_ends_after_its_number_of_answers_and_cancels_the_rest() {
    let (server, _) = start_server(options());
    let mut a = Peer::register_2(&server, "a").await;
    let mut b = Peer::register_2(&server, "b").await;
    let mut c = Peer::register(&server, "c").await;
    let mut d = Peer::register_2(&server, "d").await;
    let dest = r#""dest":["b","c","d"],"ack":"k""#;
    let answered =
        |id: &str| format!(r#"{{"action":"answer","ack":"k","from":"{id}","message":2}}"#);
    const ANSWER: &str = r#"{"action":"answer","ack":"k","message":2}"#;
    for (wants, answers) in [
        ("", 1),
        (r#","answers":2"#, 2),
        (r#","answers":9"#, 3),
        (r#","answers":"all""#, 3),
    ] {
        let request = format!("{dest}{wants}");
        ask(&mut a, "a", &request, &mut [&mut b, &mut c, &mut d]).await;
        for (id, peer) in [("b", &mut b), ("c", &mut c), ("d", &mut d)]
            .into_iter()
            .take(answers)
        {
            // A second one is dropped, before anything else is asked.
            peer.send(ANSWER).await;
            peer.send(ANSWER).await;
            peer.send(&format!(r#"{{"action":"send","message":0,"dest":"{id}"}}"#))
                .await;
            a.expect(&answered(id)).await;
            peer.expect(&format!(
                r#"{{"action":"message","message":0,"from":"{id}"}}"#
            ))
            .await;
        }
        is_over(&server).await;
        if answers < 3 {
            d.expect(CANCEL).await;
        }
    }
    // What a later send with the same ack wants does not count.
    ask(
        &mut a,
        "a",
        r#""dest":"b","ack":"k","answers":2"#,
        &mut [&mut b],
    )
    .await;
    ask(
        &mut a,
        "a",
        r#""dest":"d","ack":"k","answers":1,"timeout":1"#,
        &mut [&mut d],
    )
    .await;
    for (id, peer) in [("b", &mut b), ("d", &mut d)] {
        peer.send(ANSWER).await;
        a.expect(&answered(id)).await;
    }
    is_over(&server).await;
    a.expect_nothing().await;
    b.expect_nothing().await;
    c.expect_nothing().await;
    d.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_reaches_the_asker_and_does_not_count_as_an_answer() {
    let (server, _) = start_server(options());
    let mut a = Peer::register_2(&server, "a").await;
    let mut b = Peer::register_2(&server, "b").await;
    let mut c = Peer::register_2(&server, "c").await;
    let dest = r#""dest":["b","c"],"ack":"k""#;
    ask(&mut a, "a", dest, &mut [&mut b, &mut c]).await;
    b.send(r#"{"action":"answer","ack":"k","message":1,"error":{ "code":"E" }}"#)
        .await;
    a.expect(r#"{"action":"answer","ack":"k","from":"b","error":{ "code":"E" }}"#)
        .await;
    assert_eq!(server.stats().pending, 1);
    // A second answer of the same responder is ignored. The message to itself shows that it was handled.
    b.send(r#"{"action":"answer","ack":"k","message":1}"#).await;
    b.send(r#"{"action":"send","message":"handled","dest":"b"}"#)
        .await;
    b.expect(r#"{"action":"message","message":"handled","from":"b"}"#)
        .await;
    // Falsy: no refusal.
    c.send(r#"{"action":"answer","ack":"k","message":1,"error":0}"#)
        .await;
    a.expect(r#"{"action":"answer","ack":"k","from":"c","message":1}"#)
        .await;
    is_over(&server).await;
    // The last refusal ends the request, and no responder is left to be cancelled.
    ask(&mut a, "a", dest, &mut [&mut b, &mut c]).await;
    for (id, peer) in [("b", &mut b), ("c", &mut c)] {
        peer.send(r#"{"error":"no","ack":"k","action":"answer"}"#)
            .await;
        a.expect(&format!(
            r#"{{"action":"answer","ack":"k","from":"{id}","error":"no"}}"#
        ))
        .await;
    }
    is_over(&server).await;
    // An asker of version 1 gets an answer without a message for the last refusal only.
    let mut old = Peer::register(&server, "old").await;
    ask(&mut old, "old", dest, &mut [&mut b, &mut c]).await;
    for peer in [&mut b, &mut c] {
        peer.send(r#"{"action":"answer","ack":"k","message":1,"error":"no"}"#)
            .await;
    }
    let received = old.receive().await;
    let from = |id: &str| format!(r#"{{"action":"answer","ack":"k","from":"{id}"}}"#);
    assert!(received == from("b") || received == from("c"), "{received}");
    is_over(&server).await;
    for peer in [&mut a, &mut b, &mut c, &mut old] {
        peer.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asker_can_cancel_and_its_responders_are_notified() {
    let (server, _) = start_server(options());
    let mut a = Peer::register_2(&server, "a").await;
    let mut b = Peer::register_2(&server, "b").await;
    let mut c = Peer::register(&server, "c").await;
    let mut old = Peer::register(&server, "old").await;
    let dest = r#""dest":["b","c"],"ack":"k""#;
    ask(&mut a, "a", dest, &mut [&mut b, &mut c]).await;
    // Neither of these: they did not ask.
    b.send(CANCEL).await;
    a.send(r#"{"action":"cancel","ack":"another"}"#).await;
    b.send(r#"{"action":"send","message":0,"dest":"b"}"#).await;
    b.expect(r#"{"action":"message","message":0,"from":"b"}"#)
        .await;
    assert_eq!(server.stats().pending, 1);
    a.send(r#"{"ack":"\u006b","action":"cancel"}"#).await;
    b.expect(CANCEL).await;
    assert_eq!(server.stats().pending, 0);
    b.send(r#"{"action":"answer","ack":"k","message":2}"#).await;
    b.send(r#"{"action":"send","message":0,"dest":"b"}"#).await;
    b.expect(r#"{"action":"message","message":0,"from":"b"}"#)
        .await;
    // By its end, whatever version it speaks, and by giving up its id.
    ask(&mut old, "old", dest, &mut [&mut b, &mut c]).await;
    drop(old);
    b.expect(CANCEL).await;
    ask(&mut a, "a", dest, &mut [&mut b, &mut c]).await;
    a.send(r#"{"action":"unregister"}"#).await;
    a.expect(r#"{"action":"unregistered","id":"a"}"#).await;
    b.expect(CANCEL).await;
    is_over(&server).await;
    for peer in [&mut a, &mut b, &mut c] {
        peer.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_a_full_receiver_fails_as_slow() {
    for slow_consumer in [
        SlowConsumer::Drop,
        SlowConsumer::Close,
        SlowConsumer::Pushback,
    ] {
        let (server, _) = start_server(ServerOptions {
            max_backpressure: MIB,
            slow_consumer_timeout: Duration::from_millis(100),
            slow_consumer,
            ..options()
        });
        let _slow = Raw::register(&server, "b").await;
        let a = Peer::register_2(&server, "a").await;
        // Until the socket and the outbox are full. All have one ack, so only one failure is reported.
        let send = numbered_send(0, r#""b""#, MIB / 2);
        let request = send.replace(r#","message""#, r#","ack":"k","message""#);
        let (mut writer, mut reader) = a.0.split();
        let flood = tokio::spawn(async move {
            for _ in 0..64 {
                writer.send(Message::text(request.as_str())).await.unwrap();
            }
            writer
        });
        let received = timeout(PATIENCE, reader.next()).await.unwrap();
        let received = received.unwrap().unwrap();
        assert_eq!(received.to_text().unwrap(), failed("b", "SLOW"));
        let writer = flood.await.unwrap();
        if slow_consumer == SlowConsumer::Drop {
            // What it has got it may still answer.
            assert_eq!(server.stats().pending, 1);
        } else {
            is_over(&server).await;
        }
        drop((reader, writer));
        is_over(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asker_that_does_not_read_failures_is_closed_at_eight_times_the_high_water_mark() {
    let mark = 64 << 10;
    let (server, log) = start_server(ServerOptions {
        max_backpressure: mark,
        slow_consumer_timeout: LONG,
        ..options()
    });
    let ids: Vec<_> = (0..100).map(|n| format!("\"{n}\"")).collect();
    let mut closed = None;
    // The buffers of the sockets are full in the midst of the failures of one request. If few of these are left, fewer
    // than eight times the mark, the next request waits. Their sizes differ, so that this is not so for all.
    for n in 0..20 {
        let id = format!("a{n}");
        let mut raw = Raw::register_2(&server, &id).await;
        let ack = "k".repeat(8000 - 190 * n);
        let dest = ids.join(",");
        let send = format!(r#"{{"action":"send","message":0,"dest":[{dest}],"ack":"{ack}"}}"#);
        // Each comes to a hundred times as much.
        raw.write(&frame(TEXT, send).repeat(32)).await;
        let line = format!(r#"slow Some("{id}") Closed"#);
        // Until it is closed, or long enough to know that it is not.
        let begun = Instant::now();
        while log.count(&line) == 0 && begun.elapsed() < Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if log.count(&line) > 0 {
            closed = Some(raw);
            break;
        }
    }
    let mut raw = closed.expect("one is closed");
    assert_eq!(raw.close_code().await, 1013);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancellations_for_a_responder_that_does_not_read_are_bounded() {
    const COUNT: usize = 2_000;
    let mark = 64 << 10;
    let (server, _) = start_server(ServerOptions {
        max_backpressure: mark,
        slow_consumer_timeout: LONG,
        ..options()
    });
    let mut b = Raw::register_2(&server, "b").await;
    let mut a = Peer::register_2(&server, "a").await;
    let fill = "k".repeat(8000);
    for n in 0..COUNT {
        a.send(&format!(
            r#"{{"action":"send","message":0,"dest":"b","ack":"{n} {fill}"}}"#
        ))
        .await;
        b.receive().await;
    }
    assert_eq!(server.stats().pending, COUNT);
    drop(a);
    until("its end is known", || {
        let stats = server.stats();
        stats.pending == 0 && stats.connections == 1
    })
    .await;
    assert!(server.stats().memory < 12 * mark);
    // It is not closed for that, and the frames it receives are complete.
    let received = b.receive().await;
    assert!(received.starts_with(r#"{"action":"cancel","ack":""#));
    assert_eq!(server.stats().slow, 0);
}

//! Limits on input: what fits is delivered; what exceeds a limit is refused, and the connection stays
//! open.

use std::time::Duration;

use wsmsgbroker::ServerOptions;

use crate::support::{
    Peer,
    canary::Canary,
    options,
    random::Random,
    raw::{Raw, TEXT, frame, header},
    start_server, until,
};

/// Rule 2.4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_of_a_hundred_thousand_levels_is_delivered() {
    let (server, _) = start_server(options());
    let canary = Canary::start(&server).await;
    let mut a = Peer::register(&server, "a").await;
    let levels = 100_000;
    let deep = "[".repeat(levels) + &"]".repeat(levels);
    let deeper = r#"{"a":"#.repeat(levels) + "0" + &"}".repeat(levels);
    for message in [deep, deeper] {
        a.send(&format!(
            r#"{{"action":"send","message":{message},"dest":"a"}}"#
        ))
        .await;
        let expected = format!(r#"{{"action":"message","message":{message},"from":"a"}}"#);
        assert!(a.receive().await == expected);
        // Also in members that are decoded: the value is no id, no ack, or an unknown id.
        for text in [
            format!(r#"{{"action":"register","id":{message}}}"#),
            format!(r#"{{"action":{message}}}"#),
            format!(r#"{{"action":"send","message":1,"dest":{message}}}"#),
            format!(r#"{{"action":"answer","ack":{message}}}"#),
            message,
        ] {
            a.send(&text).await;
        }
    }
    a.send(r#"{"action":"send","message":1,"dest":"a"}"#).await;
    assert_eq!(
        a.receive().await,
        r#"{"action":"message","message":1,"from":"a"}"#
    );
    canary.finish().await;
}

/// Rule 6.10, with the default of 65,536.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_receivers_are_refused_and_the_allowed_maximum_is_not() {
    let (server, log) = start_server(options());
    let canary = Canary::start(&server).await;
    let mut a = Raw::register(&server, "a").await;
    let many = |count: usize| format!("[{}\"a\"]", "\"nobody\",".repeat(count - 1));
    for (count, refused) in [(1_000_000, 1), (65_537, 2), (65_536, 2)] {
        let dest = many(count);
        a.send(&format!(r#"{{"action":"send","message":1,"dest":{dest}}}"#))
            .await;
        until("it was carried out", || server.stats().errors == refused).await;
    }
    assert_eq!(
        a.receive().await,
        r#"{"action":"message","message":1,"from":"a"}"#
    );
    until("all were unknown", || server.stats().unknown_ids == 65_535).await;
    assert_eq!(log.count("refused ERR_WSMB_MAX_DEST"), 2);
    canary.finish().await;
}

/// Rule 20.4: unknown ids do not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_above_the_fanout_limit_reaches_no_receiver() {
    let frame = r#"{"action":"message","message":"0123456789","from":"a"}"#;
    let (server, log) = start_server(ServerOptions {
        max_fanout_bytes: 3 * (frame.len() + 2),
        ..options()
    });
    let mut a = Peer::register(&server, "a").await;
    for dest in [
        r#"["a","a","a","a"]"#,
        r#"["nobody","a","a","nobody","a","nobody"]"#,
    ] {
        let send = format!(r#"{{"action":"send","message":"0123456789","dest":{dest}}}"#);
        a.send(&send).await;
    }
    for _ in 0..3 {
        assert_eq!(a.receive().await, frame);
    }
    assert_eq!(log.count("refused ERR_WSMB_MAX_FANOUT"), 1);
    a.send(r#"{"action":"register","id":"b"}"#).await;
    assert_eq!(a.receive().await, r#"{"action":"registered","id":"b"}"#);
}

/// Rule 4.4, with the default of 8,192.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_of_eight_kibibytes_is_the_longest() {
    let (server, log) = start_server(options());
    let mut a = Peer::connect(&server).await;
    for length in [8_193, 1_000_000] {
        a.send(&format!(
            r#"{{"action":"register","id":"{}"}}"#,
            "x".repeat(length)
        ))
        .await;
    }
    let id = "é".repeat(4_096);
    a.send(&format!(r#"{{"action":"register","id":"{id}"}}"#))
        .await;
    assert_eq!(
        a.receive().await,
        format!(r#"{{"action":"registered","id":"{id}"}}"#)
    );
    assert_eq!(log.count("refused ERR_WSMB_MAX_ID_LENGTH"), 2);
}

/// Rules 4.4, 6.11 and 7.12: nothing longer than the text of an id is made into a name, whatever its type.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_longer_than_ids_are_refused_unconverted() {
    let (server, log) = start_server(options());
    let mut a = Peer::register(&server, "a").await;
    let numbers = format!("[{}0]", "0,".repeat(1 << 20));
    let objects = format!("[{}{{}}]", "{},".repeat(1 << 20));
    let nested = format!("[[[[{numbers}]]]]");
    let escaped = format!("\"{}\"", "\\u0001".repeat(1 << 20));
    for long in [&numbers, &objects, &nested, &escaped] {
        for text in [
            format!(r#"{{"action":"send","message":1,"dest":"a","ack":{long}}}"#),
            format!(r#"{{"action":"send","message":1,"dest":["a",{long}]}}"#),
            format!(r#"{{"action":{long},"message":1,"dest":"a"}}"#),
            format!(r#"{{"action":"register","id":{long}}}"#),
            // No request has such an ack.
            format!(r#"{{"action":"answer","message":1,"ack":{long}}}"#),
            format!(r#"{{"action":"cancel","ack":{long}}}"#),
        ] {
            a.send(&text).await;
        }
    }
    a.send(r#"{"action":"send","message":2,"dest":"a"}"#).await;
    assert_eq!(
        a.receive().await,
        r#"{"action":"message","message":2,"from":"a"}"#
    );
    assert_eq!(log.count("refused ERR_WSMB_MAX_ID_LENGTH"), 2 * 4 + 1);
    assert_eq!(log.count("refused ERR_WSMB_ID"), 3);
    assert_eq!(log.count("refused ERR_WSMB_ACTION"), 4 + 4);
}

/// Rule 4.4: an id is as long as it is in the `from` of a message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_characters_count_as_they_are_escaped() {
    let (server, log) = start_server(options());
    let mut a = Peer::connect(&server).await;
    let id = |length| "\\u0001".repeat(length);
    a.send(&format!(r#"{{"action":"register","id":"{}"}}"#, id(1_366)))
        .await;
    let id = id(1_365);
    a.send(&format!(r#"{{"action":"register","id":"{id}"}}"#))
        .await;
    assert_eq!(
        a.receive().await,
        format!(r#"{{"action":"registered","id":"{id}"}}"#)
    );
    assert_eq!(log.count("refused ERR_WSMB_MAX_ID_LENGTH"), 1);
}

/// Rule 7.12, with the default of 8,192.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_of_eight_kibibytes_is_the_longest() {
    let (server, log) = start_server(options());
    let mut a = Peer::register(&server, "a").await;
    for (length, pending) in [(8_193, 0), (8_192, 1)] {
        let ack = "k".repeat(length);
        a.send(&format!(
            r#"{{"action":"send","message":1,"dest":"a","ack":"{ack}"}}"#
        ))
        .await;
        a.send(r#"{"action":"send","message":2,"dest":"a"}"#).await;
        if pending == 1 {
            assert!(a.receive().await.contains(&ack));
        }
        assert_eq!(
            a.receive().await,
            r#"{"action":"message","message":2,"from":"a"}"#
        );
        assert_eq!(server.stats().pending, pending);
    }
    log.wait_for("refused ERR_WSMB_MAX_ID_LENGTH").await;
}

/// Rule 15.4, with the default of 100 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_a_hundred_mebibytes_is_the_largest() {
    let (server, _) = start_server(options());
    let limit = 100 << 20;
    let (start, end) = (r#"{"action":"send","dest":"b","message":""#, r#""}"#);
    let mut b = Raw::register(&server, "b").await;
    let (_read, mut a) = Raw::connect(&server).await.split();
    let sender = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let text = "x".repeat(limit - start.len() - end.len());
        for part in [
            &header(TEXT, limit)[..],
            start.as_bytes(),
            text.as_bytes(),
            end.as_bytes(),
        ] {
            a.write_all(part).await.unwrap();
        }
        a
    });
    let (_, message) = b.next().await.unwrap();
    let around = r#"{"action":"message","message":""}"#;
    assert_eq!(
        message.len(),
        around.len() + limit - start.len() - end.len()
    );
    let _a = sender.await.unwrap();
    let mut too_big = Raw::connect(&server).await;
    too_big.write(&header(TEXT, limit + 1)).await;
    assert_eq!(too_big.close_code().await, 1009);
}

/// Rules 7.7 and 7.11.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_ends_on_timeout() {
    let (server, _) = start_server(ServerOptions {
        ack_timeout: Duration::from_millis(20),
        ..options()
    });
    let mut a = Peer::register(&server, "a").await;
    let mut b = Peer::register(&server, "b").await;
    let ask = r#"{"action":"send","message":1,"dest":["b","a"],"ack":"k"}"#;
    a.send(ask).await;
    b.receive().await;
    a.receive().await;
    until("forgotten", || server.stats().pending == 0).await;
    b.send(r#"{"action":"answer","ack":"k","message":"late"}"#)
        .await;
    // By anybody: the ack is free.
    b.send(ask).await;
    assert_eq!(
        a.receive().await,
        r#"{"action":"message","message":1,"ack":"k","from":"b"}"#
    );
}

/// Rule 7.7, when the time is changed while requests wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_ack_timeout_applies_to_later_requests() {
    let (server, _) = start_server(options());
    let mut a = Peer::register(&server, "a").await;
    // Enough that some of them lie before any later one.
    for n in 0..1_100 {
        if n == 1_000 {
            server.set_ack_timeout(Duration::from_millis(20));
        }
        a.send(&format!(
            r#"{{"action":"send","message":1,"dest":"a","ack":"k{n}"}}"#
        ))
        .await;
        a.receive().await;
    }
    until("the hasty ones are forgotten", || {
        server.stats().pending == 1_000
    })
    .await;
}

/// Rule 1.5: noise behind a handshake ends in a close frame, or is waited for, or is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_actions_do_not_affect_other_connections() {
    let (server, _) = start_server(options());
    let canary = Canary::start(&server).await;
    let mut random = Random::new(1);
    let mut noise = |length| random.bytes(length);
    for round in 0..200 {
        let mut raw = Raw::connect(&server).await;
        let length = 1 + round * 7 % 300;
        match round % 3 {
            0 => raw.write(&noise(length)).await,
            // As the payload of a proper frame, in ASCII.
            1 => {
                let text: Vec<u8> = noise(length).iter().map(|byte| byte & 0x7f).collect();
                raw.write(&frame(TEXT, text)).await;
            }
            _ => {
                let mut text = br#"{"action":"send","dest":""#.to_vec();
                text.extend(noise(length).iter().map(|byte| 0x20 | byte & 0x5f));
                raw.write(&frame(TEXT, text)).await;
            }
        }
    }
    until("nobody there but the canary", || {
        server.stats().connections == 2
    })
    .await;
    canary.finish().await;
}

/// Rule 20.7: the number of `failed` frames is limited to what may be queued for a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_a_long_ack_to_very_many_unknown_ids_is_refused() {
    let (server, _) = start_server(options());
    let mut a = Peer::register_2(&server, "a").await;
    let dest = vec![r#""x""#; 4_000].join(",");
    let ack = "k".repeat(8_000);
    a.send(&format!(
        r#"{{"action":"send","message":1,"dest":[{dest}],"ack":"{ack}"}}"#
    ))
    .await;
    assert!(a.receive().await.contains("ERR_WSMB_MAX_FANOUT"));
    a.send(&format!(
        r#"{{"action":"send","message":1,"dest":[{dest}],"ack":"k"}}"#
    ))
    .await;
    a.expect(r#"{"action":"failed","ack":"k","dest":"x","code":"UNKNOWN_ID"}"#)
        .await;
}

/// Rules 7.12 and 20.7: `{}` becomes `[object Object]` in each failure and cancellation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_length_of_an_ack_is_that_of_the_string_it_becomes() {
    let (server, _) = start_server(options());
    let mut a = Peer::register_2(&server, "a").await;
    let request = |objects: usize, dest: &str| {
        let ack = vec!["{}"; objects].join(",");
        format!(r#"{{"action":"send","message":1,"dest":{dest},"ack":[{ack}]}}"#)
    };
    // 513 x 16 bytes, less a comma.
    for dest in [r#""x""#, r#"["x","y"]"#, r#""a""#, r#"["a","x"]"#] {
        a.send(&request(513, dest)).await;
        let error = a.receive().await;
        assert!(error.contains("ERR_WSMB_MAX_ID_LENGTH"), "{error}");
        assert_eq!(server.stats().pending, 0);
    }
    a.send(&request(512, r#""x""#)).await;
    let name = vec!["[object Object]"; 512].join(",");
    a.expect(&format!(
        r#"{{"action":"failed","ack":"{name}","dest":"x","code":"UNKNOWN_ID"}}"#
    ))
    .await;
    let dest = format!("[{}]", vec![r#""x""#; 4_000].join(","));
    a.send(&request(512, &dest)).await;
    assert!(a.receive().await.contains("ERR_WSMB_MAX_FANOUT"));
    // Lone surrogates and escapes.
    for (item, count, code) in [
        (r"\ud800", 1_365, "ERR_WSMB_MAX_ID_LENGTH"),
        (r"\u0001", 1_365, "UNKNOWN_ID"),
    ] {
        let ack = item.repeat(count);
        a.send(&format!(
            r#"{{"action":"send","message":1,"dest":"x","ack":"{ack}"}}"#
        ))
        .await;
        let frame = a.receive().await;
        assert!(frame.contains(code), "{frame}");
    }
}

//! Topics: permissions, limits, and subscribers that do not read.

use std::{sync::Arc, time::Duration};

use tokio::io::AsyncWriteExt;
use wsmsgbroker::{
    ServerOptions,
    auth::{Authentication, Authorization, Credentials, Decision, Grant, Permission, TopicRequest},
};

use crate::support::{
    LONG, Peer, backpressure,
    canary::Canary,
    options,
    raw::{Raw, TEXT, frame},
    start_server, until,
};

fn subscribe(pattern: &str) -> String {
    format!(r#"{{"action":"subscribe","topic":"{pattern}"}}"#)
}

fn subscribed(pattern: &str) -> String {
    format!(r#"{{"action":"subscribed","topic":"{pattern}"}}"#)
}

fn publish(topic: &str, message: impl std::fmt::Display) -> String {
    format!(r#"{{"action":"send","message":{message},"dest":{{"topic":"{topic}"}}}}"#)
}

fn message(topic: &str, message: impl std::fmt::Display, from: &str) -> String {
    format!(r#"{{"action":"message","message":{message},"from":"{from}","topic":"{topic}"}}"#)
}

async fn subscriber(server: &wsmsgbroker::Server, id: &str, patterns: &[&str]) -> Peer {
    let mut peer = Peer::register_2(server, id).await;
    for pattern in patterns {
        peer.send(&subscribe(pattern)).await;
        peer.expect(&subscribed(pattern)).await;
    }
    peer
}

/// Grants what the token lists: topics to send to, a slash, and topics to subscribe to.
fn authenticate(credentials: Credentials) -> Decision {
    let token = credentials.token.unwrap_or_default();
    let (publish, subscribe) = token.split_once('/').unwrap_or_default();
    let list = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let mut grant = Grant::new(credentials.id);
    (grant.publish, grant.subscribe) = (list(publish), list(subscribe));
    Box::pin(std::future::ready(Ok(grant)))
}

/// Rules 35.6 and 36.7.
#[tokio::test]
async fn a_client_may_use_the_topics_of_its_grant_and_no_others() {
    let (server, log) = start_server(ServerOptions {
        authentication: Authentication::Hook(Arc::new(authenticate), Duration::from_secs(5)),
        ..options()
    });
    let register = |token: &str| {
        format!(r#"{{"action":"register","id":"ann","token":"{token}","protocol":2}}"#)
    };
    let registered = r#"{"action":"registered","id":"ann","protocol":2}"#;
    let mut ann = Peer::connect(&server).await;
    ann.send(&register("room.* to.{id}/room.* user.{id}.>"))
        .await;
    ann.expect(registered).await;
    for pattern in ["room.7", "room.*", "user.ann.>", "user.ann.a.*"] {
        ann.send(&subscribe(pattern)).await;
        ann.expect(&subscribed(pattern)).await;
    }
    for pattern in [
        "room.>",
        ">",
        "*",
        "user.bob.a",
        "user.*.a",
        "user.{id}.a",
        "other",
    ] {
        ann.send(&subscribe(pattern)).await;
        let error = ann.receive().await;
        assert!(
            error.contains(r#""code":"ERR_WSMB_FORBIDDEN""#),
            "{pattern}: {error}"
        );
    }
    for topic in ["room.7", "to.ann"] {
        ann.send(&publish(topic, 1)).await;
    }
    ann.expect(&message("room.7", 1, "ann")).await;
    for topic in ["room", "to.bob", "to.{id}", "user.ann.a"] {
        ann.send(&publish(topic, 1)).await;
        let error = ann.receive().await;
        assert!(
            error.contains(r#""code":"ERR_WSMB_FORBIDDEN""#),
            "{topic}: {error}"
        );
    }
    assert_eq!(log.count("refused ERR_WSMB_FORBIDDEN"), 7 + 4);

    // A grant that no longer covers a subscription ends it.
    ann.send(&register("room.*/room.7 user.{id}.>")).await;
    ann.expect(registered).await;
    ann.expect(r#"{"action":"unsubscribed","topic":"room.*","code":"FORBIDDEN"}"#)
        .await;
    ann.send(&publish("room.8", 2)).await;
    ann.send(&publish("room.7", 3)).await;
    ann.expect(&message("room.7", 3, "ann")).await;
    assert_eq!(server.stats().subscriptions, 3);

    // Without patterns there is nothing.
    ann.send(&register("")).await;
    ann.expect(registered).await;
    let mut ended = [
        ann.receive().await,
        ann.receive().await,
        ann.receive().await,
    ];
    ended.sort();
    let unsubscribed = |pattern: &str| {
        format!(r#"{{"action":"unsubscribed","topic":"{pattern}","code":"FORBIDDEN"}}"#)
    };
    assert_eq!(
        ended,
        ["room.7", "user.ann.>", "user.ann.a.*"].map(unsubscribed)
    );
    assert_eq!(server.stats().subscriptions, 0);
}

/// Rule 36.6.
#[tokio::test]
async fn the_bytes_of_a_message_times_its_subscribers_are_limited() {
    let (server, log) = start_server(ServerOptions {
        max_fanout_bytes: 150,
        ..options()
    });
    let mut a = subscriber(&server, "a", &["t"]).await;
    a.send(&publish("t", 1)).await;
    a.expect(&message("t", 1, "a")).await;
    let _b = subscriber(&server, "b", &["t"]).await;
    let _c = subscriber(&server, "c", &["*"]).await;
    a.send(&publish("t", 2)).await;
    let error = a.receive().await;
    assert!(error.contains("ERR_WSMB_MAX_FANOUT"), "{error}");
    log.wait_for("refused ERR_WSMB_MAX_FANOUT").await;
}

/// Rules 37.1 and 37.2: exact counts, an undisturbed pair beside, and order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_does_not_read_loses_messages_alone_and_learns_how_many() {
    const MESSAGES: usize = 4000;
    let (server, _log) = start_server(backpressure(64 << 10, Duration::from_millis(200)));
    let canary = Canary::start(&server).await;
    let mut fast = subscriber(&server, "fast", &["t.*"]).await;
    let mut slow = Raw::register_2(&server, "slow").await;
    slow.send(&subscribe("t.>")).await;
    assert_eq!(slow.receive().await, subscribed("t.>"));
    let mut sender = Raw::register_2(&server, "s").await;
    let filler = "x".repeat(4 << 10);
    let text = |n: usize| format!(r#"{{"n":{n},"filler":"{filler}"}}"#);
    for n in 0..MESSAGES {
        let topic = if n % 2 == 0 { "t.even" } else { "t.odd" };
        sender.write(&frame(TEXT, publish(topic, text(n)))).await;
        fast.expect(&message(topic, text(n), "s")).await;
    }
    let mut next = [0, 1];
    let mut lost = 0;
    let mut received = 0;
    while lost + received < MESSAGES {
        let frame = slow.receive().await;
        let value: serde_json::Value = serde_json::from_str(&frame).unwrap();
        let topic = value["topic"].as_str().unwrap();
        let place = usize::from(topic == "t.odd");
        match value["action"].as_str() {
            Some("gap") => {
                let count = value["lost"].as_u64().unwrap() as usize;
                next[place] += 2 * count;
                lost += count;
            }
            _ => {
                let n = value["message"]["n"].as_u64().unwrap() as usize;
                assert_eq!(n, next[place], "a gap that says too much or too little");
                next[place] += 2;
                received += 1;
            }
        }
    }
    assert!(lost > 0 && received > 0, "{lost} lost, {received} received");
    assert_eq!(server.stats().dropped, lost as u64);
    assert_eq!(server.stats().slow, 0);
    canary.finish().await;
}

/// Rules 37.4 and 37.5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_makes_publishers_wait_loses_nothing() {
    const MESSAGES: usize = 3000;
    let (server, _log) = start_server(ServerOptions {
        allow_wait: true,
        ..backpressure(64 << 10, LONG)
    });
    let mut waited = Raw::register_2(&server, "waited").await;
    for (pattern, slow) in [("t", "drop"), ("*", "wait"), (">", "latest")] {
        let subscribe = format!(r#"{{"action":"subscribe","topic":"{pattern}","slow":"{slow}"}}"#);
        waited.send(&subscribe).await;
        assert_eq!(waited.receive().await, subscribed(pattern));
    }
    let filler = "x".repeat(4 << 10);
    let text = move |n: usize| format!(r#"{{"n":{n},"filler":"{filler}"}}"#);
    let (_read, mut write) = Raw::register_2(&server, "s").await.split();
    let texts = text.clone();
    let sender = tokio::spawn(async move {
        for n in 0..MESSAGES {
            write
                .write_all(&frame(TEXT, publish("t", texts(n))))
                .await
                .unwrap();
        }
        write
    });
    until("the sender is held", || server.stats().senders_held == 1).await;
    for n in 0..MESSAGES {
        assert_eq!(waited.receive().await, message("t", text(n), "s"));
    }
    sender.await.unwrap();
    assert_eq!(server.stats().dropped, 0);
}

/// Every way in which a connection ends takes its subscriptions along.
#[tokio::test]
async fn subscriptions_end_with_their_connection() {
    let (server, _log) = start_server(options());
    let before = server.stats().memory;
    for round in 0..3 {
        let mut peer = subscriber(&server, "a", &["x", "x.*", ">"]).await;
        assert_eq!(server.stats().subscriptions, 3);
        assert_eq!((server.stats().topics, server.stats().patterns), (1, 2));
        match round {
            0 => drop(peer),
            1 => {
                server.disconnect("a", 3000, "").unwrap();
                while peer.next().await.is_some() {}
            }
            _ => {
                let _next = Peer::register_2(&server, "a").await;
                assert_eq!(server.stats().subscriptions, 0);
            }
        }
        until("they have ended", || server.stats().subscriptions == 0).await;
    }
    until("the memory is free", || server.stats().memory == before).await;
}

/// A connection that subscribes and unsubscribes without end, and one that never reads the responses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_subscriptions_harms_its_sender_alone() {
    const ROUNDS: usize = 40;
    const TOPICS: usize = 1000;
    let (server, _log) = start_server(backpressure(64 << 10, Duration::from_millis(200)));
    let canary = Canary::start(&server).await;
    let before = server.stats().memory;
    let mut flooder = Raw::register_2(&server, "flooder").await;
    let frames: Vec<u8> = (0..TOPICS)
        .flat_map(|n| frame(TEXT, subscribe(&format!("t.*.{n}.>"))))
        .collect();
    let ends: Vec<u8> = (0..TOPICS)
        .flat_map(|n| {
            frame(
                TEXT,
                format!(r#"{{"action":"unsubscribe","topic":"t.*.{n}.>"}}"#),
            )
        })
        .collect();
    for _ in 0..ROUNDS {
        flooder.write(&frames).await;
        for _ in 0..TOPICS {
            assert!(flooder.receive().await.contains("subscribed"));
        }
        flooder.write(&ends).await;
        for _ in 0..TOPICS {
            assert!(flooder.receive().await.contains("unsubscribed"));
        }
    }
    assert_eq!(
        (server.stats().subscriptions, server.stats().patterns),
        (0, 0)
    );
    // Beyond `maxSubscriptions` each is refused, and the memory stays where it is.
    for _ in 0..ROUNDS {
        for n in 0..TOPICS / 4 {
            flooder
                .write(&frame(TEXT, subscribe(&format!("u{n}"))))
                .await;
            let response = flooder.receive().await;
            let is_refused = response.contains("ERR_WSMB_MAX_SUBSCRIPTIONS");
            assert!(is_refused || response.contains("subscribed"), "{response}");
        }
    }
    let deaf = Raw::register_2(&server, "deaf").await;
    let (_unread, mut write) = deaf.split();
    let flood = tokio::spawn(async move { while write.write_all(&frames).await.is_ok() {} });
    tokio::time::timeout(LONG, flood)
        .await
        .expect("it is closed as slow")
        .unwrap();
    drop(flooder);
    until("all has ended", || server.stats().subscriptions == 0).await;
    until("the memory is free", || server.stats().memory <= before).await;
    canary.finish().await;
}

/// As many patterns as possible match one topic, in as many ways as possible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_thousands_of_patterns_match_harms_no_other() {
    const TOKENS: u32 = 13;
    let (server, _log) = start_server(options());
    let canary = Canary::start(&server).await;
    let topic = vec!["a"; TOKENS as usize].join(".");
    let mut subscribers = Vec::new();
    for place in 0..8_u32 {
        let mut peer = Raw::register_2(&server, &format!("p{place}")).await;
        let patterns = (0..1 << (TOKENS - 3)).map(|number| {
            let bits = (place << (TOKENS - 3)) | number;
            let token = |bit| if bits >> bit & 1 == 1 { "*" } else { "a" };
            (0..TOKENS).map(token).collect::<Vec<_>>().join(".")
        });
        let frames: Vec<u8> = patterns
            .flat_map(|one| frame(TEXT, subscribe(&one)))
            .collect();
        peer.write(&frames).await;
        for _ in 0..1 << (TOKENS - 3) {
            assert!(peer.receive().await.contains("subscribed"));
        }
        subscribers.push(peer);
    }
    assert_eq!(server.stats().patterns, (1 << TOKENS) - 1);
    let mut sender = Raw::register_2(&server, "s").await;
    for n in 0..20 {
        sender.write(&frame(TEXT, publish(&topic, n))).await;
    }
    for peer in &mut subscribers {
        for n in 0..20 {
            assert_eq!(peer.receive().await, message(&topic, n, "s"));
        }
    }
    canary.finish().await;
}

/// Rule 36.8.
#[cfg(feature = "nats")]
mod cluster {
    use super::*;
    use crate::support::nats::Nats;

    /// Publishes numbered messages until the peer gets one: NATS has its subscription then. Returns the next number.
    async fn until_subscribed(sender: &mut Peer, topic: &str, peer: &mut Peer) -> usize {
        for n in 0.. {
            sender.send(&publish(topic, n)).await;
            let arrived = tokio::time::timeout(Duration::from_millis(50), peer.receive());
            if let Ok(text) = arrived.await {
                // Those before it came too early, or come now.
                let number = |text: &str| -> usize {
                    let value: serde_json::Value = serde_json::from_str(text).unwrap();
                    value["message"].as_u64().unwrap() as usize
                };
                let mut last = number(&text);
                while last < n {
                    last = number(&peer.receive().await);
                }
                return n + 1;
            }
        }
        unreachable!()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn subscribers_at_all_brokers_get_each_message_once_and_in_order() {
        const MESSAGES: usize = 2000;
        let nats = Nats::start().await;
        let (servers, _log) = nats.brokers("topics", 3, options).await;
        let mut sender = Peer::register_2(&servers[0], "s").await;
        // Several patterns of one broker match, and one of another.
        let mut many = subscriber(&servers[1], "many", &["t.*", "t.a", ">", "*.a"]).await;
        let mut one = subscriber(&servers[2], "one", &["t.a"]).await;
        let mut here = subscriber(&servers[0], "here", &["t.>"]).await;
        let mut from = until_subscribed(&mut sender, "t.a", &mut one).await;
        for _ in 0..from {
            here.receive().await;
        }
        // All four are subscriptions of NATS once the messages of one second have come once.
        let mut next = None;
        let end = tokio::time::Instant::now() + Duration::from_secs(1);
        while tokio::time::Instant::now() < end {
            sender.send(&publish("t.a", from)).await;
            for peer in [&mut one, &mut here] {
                peer.expect(&message("t.a", from, "s")).await;
            }
            from += 1;
        }
        for n in from..from + MESSAGES {
            sender.send(&publish("t.a", n)).await;
        }
        for peer in [&mut one, &mut here] {
            for n in from..from + MESSAGES {
                peer.expect(&message("t.a", n, "s")).await;
            }
        }
        // It may have missed the first ones, and then none.
        loop {
            let text = many.receive().await;
            let n = next.unwrap_or_else(|| {
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                value["message"].as_u64().unwrap() as usize
            });
            assert_eq!(text, message("t.a", n, "s"));
            next = Some(n + 1);
            if n + 1 == from + MESSAGES {
                break;
            }
        }
        sender.send(&publish("t.b", r#""last""#)).await;
        many.expect(&message("t.b", r#""last""#, "s")).await;
        here.expect(&message("t.b", r#""last""#, "s")).await;
        // `one` has no such pattern: nothing comes to its broker.
        sender.send(&publish("t.a", 1)).await;
        one.expect(&message("t.a", 1, "s")).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_receipt_says_whether_a_message_went_to_other_brokers() {
        let nats = Nats::start().await;
        let (servers, _log) = nats.brokers("receipts", 2, options).await;
        let mut sender = subscriber(&servers[0], "s", &["t"]).await;
        sender
            .send(r#"{"action":"send","message":1,"dest":{"topic":"t"},"ref":1}"#)
            .await;
        sender.expect(&message("t", 1, "s")).await;
        sender
            .expect(r#"{"action":"receipt","ref":1,"queued":1,"dropped":0,"elsewhere":"sent"}"#)
            .await;
        drop(nats);
        until("NATS is unreachable", || {
            servers[0]
                .stats()
                .cluster
                .is_some_and(|cluster| !cluster.connected)
        })
        .await;
        sender
            .send(r#"{"action":"send","message":2,"dest":{"topic":"t"},"ref":2}"#)
            .await;
        sender.expect(&message("t", 2, "s")).await;
        sender
            .expect(r#"{"action":"receipt","ref":2,"queued":1,"dropped":0,"elsewhere":"down"}"#)
            .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn patterns_that_come_and_go_leave_nothing_behind() {
        let nats = Nats::start().await;
        let (servers, _log) = nats.brokers("patterns", 2, options).await;
        let mut sender = Peer::register_2(&servers[0], "s").await;
        let mut peer = Peer::register_2(&servers[1], "p").await;
        for round in 0..200 {
            let pattern = format!("t.{}", round % 10);
            peer.send(&subscribe(&pattern)).await;
            peer.expect(&subscribed(&pattern)).await;
            peer.send(&format!(
                r#"{{"action":"unsubscribe","topic":"{pattern}"}}"#
            ))
            .await;
            peer.expect(&format!(
                r#"{{"action":"unsubscribed","topic":"{pattern}"}}"#
            ))
            .await;
        }
        peer.send(&subscribe("t.5")).await;
        peer.expect(&subscribed("t.5")).await;
        let from = until_subscribed(&mut sender, "t.5", &mut peer).await;
        for n in from..from + 100 {
            sender.send(&publish("t.4", n)).await;
            sender.send(&publish("t.5", n)).await;
            peer.expect(&message("t.5", n, "s")).await;
        }
        assert_eq!(servers[1].stats().subscriptions, 1);
    }
}

/// Rule 35.6. The hook allows the topic that the token names.
#[tokio::test]
async fn the_embedder_allows_subscriptions_beyond_the_grant() {
    let authorize = |request: TopicRequest| -> Permission {
        Box::pin(async move {
            tokio::task::yield_now().await;
            match &*request.topic {
                "never" => std::future::pending().await,
                topic => request.token.as_deref() == Some(topic) && &*request.id == "ann",
            }
        })
    };
    let limit = Duration::from_millis(100);
    let with = |authentication| ServerOptions {
        authentication,
        authorization: Authorization::Hook(Arc::new(authorize), limit),
        ..options()
    };
    let needs = with(Authentication::None).validate().unwrap_err();
    assert_eq!(
        needs.to_string(),
        r#"option "authorize" needs "authenticate" or "jwt""#
    );
    let (server, log) = start_server(with(Authentication::Hook(Arc::new(authenticate), limit)));
    let mut ann = Peer::connect(&server).await;
    ann.send(r#"{"action":"register","id":"ann","token":"a b never/own","protocol":2}"#)
        .await;
    ann.expect(r#"{"action":"registered","id":"ann","protocol":2}"#)
        .await;
    let ask = |topic: &str, token: &str| {
        format!(r#"{{"action":"subscribe","topic":"{topic}","ref":"{topic}","token":{token}}}"#)
    };
    let confirmed =
        |topic: &str| format!(r#"{{"action":"subscribed","topic":"{topic}","ref":"{topic}"}}"#);
    // The actions behind wait.
    ann.send(&ask("a", r#""a""#)).await;
    ann.send(&publish("a", 1)).await;
    ann.send(&ask("own", "7")).await;
    ann.expect(&confirmed("a")).await;
    ann.expect(&message("a", 1, "ann")).await;
    ann.expect(&confirmed("own")).await;
    for (topic, token) in [("b", r#""a""#), ("b", "7"), ("b", "null"), ("never", "1")] {
        ann.send(&ask(topic, token)).await;
        let error = ann.receive().await;
        let parts = [
            r#""code":"ERR_WSMB_FORBIDDEN""#,
            &format!(r#""ref":"{topic}""#),
        ];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    assert_eq!(log.count("refused ERR_WSMB_FORBIDDEN"), 4);
    ann.send(&ask("b", &format!("\"{}\"", "b".repeat(65_537))))
        .await;
    assert!(ann.receive().await.contains("ERR_WSMB_MEMBER"));
    assert_eq!(server.stats().subscriptions, 2);
    // A client that goes meanwhile leaves nothing behind.
    ann.send(&ask("never", "1")).await;
    drop(ann);
    while server.stats().subscriptions > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Rules 35.7 and 35.8.
#[tokio::test]
async fn the_embedder_subscribes_clients_and_ends_their_subscriptions() {
    let (server, _log) = start_server(ServerOptions {
        authentication: Authentication::Hook(Arc::new(authenticate), Duration::from_secs(5)),
        max_subscriptions: 2,
        ..options()
    });
    let register = r#"{"action":"register","id":"ann","token":"room.7/own","protocol":2}"#;
    let registered = r#"{"action":"registered","id":"ann","protocol":2}"#;
    let unknown = server.add_subscriber("room.*", "ann");
    assert_eq!(unknown.unwrap_err().code(), "UNKNOWN_ID");
    let mut ann = Peer::connect(&server).await;
    ann.send(register).await;
    ann.expect(registered).await;
    for _ in 0..2 {
        server.add_subscriber("room.*", "ann").unwrap();
    }
    ann.expect(r#"{"action":"subscribed","topic":"room.*"}"#)
        .await;
    ann.send(&publish("room.7", 1)).await;
    ann.expect(&message("room.7", 1, "ann")).await;
    // A new grant does not end it.
    ann.send(register).await;
    ann.expect(registered).await;
    assert_eq!(server.subscribers("room.8").unwrap(), ["ann".into()]);
    ann.send(&subscribe("own")).await;
    ann.expect(&subscribed("own")).await;
    let many = server.add_subscriber("other", "ann").unwrap_err();
    assert_eq!(many.code(), "ERR_WSMB_MAX_SUBSCRIPTIONS");
    for pattern in ["own", "room.*"] {
        assert!(server.remove_subscriber(pattern, "ann").unwrap());
        assert!(!server.remove_subscriber(pattern, "ann").unwrap());
        let frame = format!(r#"{{"action":"unsubscribed","topic":"{pattern}","code":"REMOVED"}}"#);
        ann.expect(&frame).await;
    }
    assert!(server.subscribers("room.8").unwrap().is_empty());
    assert_eq!(server.stats().subscriptions, 0);
    assert_eq!(
        server.add_subscriber("a..b", "ann").unwrap_err().code(),
        "ERR_WSMB_TOPIC"
    );
}

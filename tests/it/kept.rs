//! Kept topics: history, replays from a position, bounds, and subscribers that do not read.

use std::{sync::Arc, time::Duration};

use wsmsgbroker::{
    KeepRule, Server, ServerOptions,
    auth::{Authentication, Credentials, Decision, Grant},
};

use crate::support::{LONG, Peer, backpressure, canary::Canary, options, start_server, until};

fn keep(rules: &[(&str, usize)]) -> ServerOptions {
    let rule = |(topic, messages): &(&str, usize)| KeepRule {
        messages: *messages,
        ..KeepRule::new(*topic)
    };
    ServerOptions {
        keep: rules.iter().map(rule).collect(),
        ..options()
    }
}

fn publish(topic: &str, message: impl std::fmt::Display) -> String {
    format!(r#"{{"action":"send","message":{message},"dest":{{"topic":"{topic}"}}}}"#)
}

/// A kept message from `ann`, with its offset and perhaps the one before it.
fn kept(topic: &str, message: impl std::fmt::Display, offset: u64, prev: Option<u64>) -> String {
    let prev = prev.map(|prev| format!(r#","prev":{prev}"#));
    let prev = prev.unwrap_or_default();
    format!(
        r#"{{"action":"message","message":{message},"from":"ann","topic":"{topic}","offset":{offset}{prev}}}"#
    )
}

/// Publishes with a receipt, so that it is done when this returns. Returns the offset.
async fn deliver(peer: &mut Peer, topic: &str, message: impl std::fmt::Display) -> u64 {
    let text = publish(topic, message);
    let text = text.strip_suffix('}').unwrap();
    peer.send(&format!(r#"{text},"ref":"r"}}"#)).await;
    let receipt = peer.receive().await;
    let end = r#","stored":"memory"}"#;
    let offset = receipt
        .strip_suffix(end)
        .unwrap_or_else(|| panic!("{receipt}"));
    offset.rsplit(':').next().unwrap().parse().unwrap()
}

/// Subscribes with further members, and returns the members of the response behind the topic, without the epoch.
async fn subscribe(peer: &mut Peer, pattern: &str, more: &str) -> String {
    peer.send(&format!(
        r#"{{"action":"subscribe","topic":"{pattern}"{more}}}"#
    ))
    .await;
    let response = peer.receive().await;
    let begin = format!(r#"{{"action":"subscribed","topic":"{pattern}","#);
    let rest = response
        .strip_prefix(&begin)
        .unwrap_or_else(|| panic!("{response}"));
    let epoch = epoch_of(rest).unwrap_or_default();
    rest.replace(&format!(r#","epoch":"{epoch}""#), "")
}

fn epoch_of(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(r#""epoch":""#)?;
    Some(rest.split_once('"')?.0)
}

async fn epoch(server: &Server) -> String {
    let mut peer = Peer::register_2(server, "epoch").await;
    peer.send(r#"{"action":"history","topic":"room.7","ref":1}"#)
        .await;
    epoch_of(&peer.receive().await).unwrap().to_owned()
}

fn since(offset: u64, epoch: &str) -> String {
    format!(r#","since":{{"offset":{offset},"epoch":"{epoch}"}}"#)
}

/// Rules 41.2 and 41.3.
#[tokio::test]
async fn offsets_rise_over_all_topics_of_a_rule_and_name_the_message_before() {
    let (server, _) = start_server(keep(&[("room.>", 100), ("news", 100)]));
    let mut ann = Peer::register_2(&server, "ann").await;
    let mut bob = Peer::register_2(&server, "bob").await;
    assert_eq!(subscribe(&mut bob, "room.*", "").await, r#""offset":0}"#);
    assert_eq!(subscribe(&mut bob, "news", "").await, r#""offset":0}"#);
    for (topic, n) in [
        ("room.7", 1),
        ("room.7", 2),
        ("room.8", 3),
        ("news", 4),
        ("room.7", 5),
    ] {
        ann.send(&publish(topic, n)).await;
    }
    bob.expect(&kept("room.7", 1, 1, None)).await;
    bob.expect(&kept("room.7", 2, 2, None)).await;
    bob.expect(&kept("room.8", 3, 3, Some(0))).await;
    bob.expect(&kept("news", 4, 1, None)).await;
    bob.expect(&kept("room.7", 5, 4, Some(2))).await;
    assert_eq!(deliver(&mut ann, "room.9", "{}").await, 5);
    let stats = server.stats();
    assert_eq!((stats.kept, stats.trimmed, stats.replays), (6, 0, 0));
    // Requests are not kept.
    ann.send(r#"{"action":"send","message":1,"dest":{"topic":"room.7"},"ack":"k"}"#)
        .await;
    bob.expect(&kept("room.9", "{}", 5, Some(0))).await;
    bob.expect(r#"{"action":"message","message":1,"ack":"k","from":"ann","topic":"room.7"}"#)
        .await;
    bob.send(r#"{"action":"answer","ack":"k"}"#).await;
    ann.expect(r#"{"action":"answer","ack":"k","from":"bob"}"#)
        .await;
    assert_eq!(server.stats().kept, 6);
}

/// Rules 42.2 to 42.4.
#[tokio::test]
async fn a_subscription_begins_with_the_messages_behind_its_position() {
    let (server, _) = start_server(keep(&[("room.>", 3)]));
    let mut ann = Peer::register_2(&server, "ann").await;
    for n in 1..=5 {
        deliver(&mut ann, "room.7", n).await;
    }
    deliver(&mut ann, "room.8", 6).await;
    let epoch = epoch(&server).await;
    let mut bob = Peer::register_2(&server, "bob").await;
    // Trimmed: 1 and 2.
    for (pattern, more, response, offsets) in [
        (
            "room.7",
            since(2, &epoch),
            r#""recovered":true,"replay":3}"#,
            3..6,
        ),
        (
            "room.7",
            since(4, &epoch),
            r#""recovered":true,"replay":1}"#,
            5..6,
        ),
        (
            "room.7",
            since(6, &epoch),
            r#""recovered":true,"replay":0}"#,
            0..0,
        ),
        (
            "room.7",
            since(1, &epoch),
            r#""recovered":false,"lost":null,"replay":3}"#,
            3..6,
        ),
        (
            "room.9",
            since(0, &epoch),
            r#""recovered":true,"replay":0}"#,
            0..0,
        ),
        (
            "room.>",
            since(2, &epoch),
            r#""recovered":true,"replay":4}"#,
            3..7,
        ),
        (
            "room.>",
            since(0, &epoch),
            r#""recovered":false,"lost":2,"replay":4}"#,
            3..7,
        ),
        (
            "room.*",
            since(4, &epoch),
            r#""recovered":true,"replay":2}"#,
            5..7,
        ),
        (
            "room.>",
            since(4, "other"),
            r#""recovered":false,"lost":null,"replay":4}"#,
            3..7,
        ),
        (
            "room.>",
            since(7, &epoch),
            r#""recovered":false,"lost":null,"replay":4}"#,
            3..7,
        ),
        ("room.7", r#","last":2"#.into(), r#""replay":2}"#, 4..6),
        ("room.7", r#","last":1e9"#.into(), r#""replay":3}"#, 3..6),
        ("room.>", r#","last":3"#.into(), r#""replay":3}"#, 4..7),
        ("room.7", r#","last":0"#.into(), r#""replay":0}"#, 0..0),
        ("room.8", r#","last":9"#.into(), r#""replay":1}"#, 6..7),
    ] {
        let answer = subscribe(&mut bob, pattern, &more).await;
        assert_eq!(
            answer,
            format!(r#""offset":6,{response}"#),
            "{pattern} {more}"
        );
        for offset in offsets {
            let topic = if offset == 6 { "room.8" } else { "room.7" };
            let prev = (offset == 6).then_some(0);
            bob.expect(&kept(topic, offset, offset, prev)).await;
        }
        bob.send(&format!(
            r#"{{"action":"unsubscribe","topic":"{pattern}"}}"#
        ))
        .await;
        bob.expect(&format!(
            r#"{{"action":"unsubscribed","topic":"{pattern}"}}"#
        ))
        .await;
    }
    until("no replay is left", || server.stats().subscriptions == 0).await;
}

/// Rule 42.5.
#[tokio::test]
async fn messages_that_are_published_during_a_replay_follow_it() {
    let (server, _) = start_server(keep(&[("room.>", 100_000)]));
    let mut ann = Peer::register_2(&server, "ann").await;
    for n in 0..2_000 {
        ann.send(&publish(["room.7", "room.8"][n % 2], n)).await;
    }
    deliver(&mut ann, "room.7", 2_000).await;
    let epoch = epoch(&server).await;
    let publisher = tokio::spawn(async move {
        for n in 2_001..6_000 {
            ann.send(&publish(["room.7", "room.8"][n % 2], n)).await;
        }
        ann
    });
    let mut tasks = Vec::new();
    for id in 0..8 {
        let mut peer = Peer::register_2(&server, &format!("peer {id}")).await;
        let since = since(500, &epoch);
        tasks.push(tokio::spawn(async move {
            for pattern in ["room.*", "room.7"] {
                let subscribe = format!(r#"{{"action":"subscribe","topic":"{pattern}"{since}}}"#);
                peer.send(&subscribe).await;
            }
            // The second subscription repeats what the first has got, at most once.
            let mut last = 500;
            while last < 6_000 {
                let frame = peer.receive().await;
                let Some((_, offset)) = frame.split_once(r#""offset":"#) else {
                    panic!("{frame}");
                };
                if frame.starts_with(r#"{"action":"message""#) {
                    let digits = offset.split([',', '}']).next().unwrap();
                    let offset: u64 = digits.parse().unwrap();
                    assert!(offset <= last + 1, "{offset} after {last}");
                    last = last.max(offset);
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    publisher.await.unwrap();
}

/// Rules 41.4, 42.6 and 43.1.
#[tokio::test]
async fn a_subscriber_that_recovers_gets_what_it_had_no_room_for_from_the_log() {
    let (server, _) = start_server(ServerOptions {
        keep: keep(&[("room.>", 100_000)]).keep,
        ..backpressure(1024, LONG)
    });
    let mut ann = Peer::register_2(&server, "ann").await;
    let mut bob = Peer::register_2(&server, "bob").await;
    assert_eq!(
        subscribe(&mut bob, "room.*", r#","last":0"#).await,
        r#""offset":0,"replay":0}"#
    );
    let mut carl = Peer::register_2(&server, "carl").await;
    assert_eq!(subscribe(&mut carl, "room.*", "").await, r#""offset":0}"#);
    let fill = format!("\"{}\"", "x".repeat(16 << 10));
    let canary = Canary::start(&server).await;
    for _ in 0..1_000 {
        ann.send(&publish("room.7", &fill)).await;
    }
    deliver(&mut ann, "room.7", "1").await;
    assert!(server.stats().replays > 0);
    for offset in 1..=1_000 {
        bob.expect(&kept("room.7", &fill, offset, None)).await;
    }
    bob.expect(&kept("room.7", "1", 1_001, None)).await;
    // Without a position it loses messages, and gets a gap.
    loop {
        let frame = carl.receive().await;
        if frame.starts_with(r#"{"action":"gap","topic":"room.7","lost":"#) {
            break;
        }
    }
    canary.finish().await;
}

/// Rule 43.2.
#[tokio::test]
async fn messages_trimmed_before_a_replay_has_got_them_are_a_gap() {
    let (server, _) = start_server(ServerOptions {
        keep: keep(&[("room.>", 10)]).keep,
        ..backpressure(1024, LONG)
    });
    let mut ann = Peer::register_2(&server, "ann").await;
    let mut bob = Peer::register_2(&server, "bob").await;
    subscribe(&mut bob, "room.*", r#","last":0"#).await;
    let fill = format!("\"{}\"", "x".repeat(16 << 10));
    for _ in 0..1_000 {
        ann.send(&publish("room.7", &fill)).await;
    }
    deliver(&mut ann, "room.7", "1").await;
    let (mut gaps, mut last) = (0, 0);
    loop {
        let frame = bob.receive().await;
        if frame == r#"{"action":"gap","topic":"room.*","lost":null}"# {
            gaps += 1;
            continue;
        }
        let (_, offset) = frame.split_once(r#","offset":"#).unwrap();
        let offset: u64 = offset.split([',', '}']).next().unwrap().parse().unwrap();
        assert!(offset > last);
        assert!(offset == last + 1 || gaps > 0, "{offset} after {last}");
        (gaps, last) = (0, offset);
        if last == 1_001 {
            break;
        }
    }
    assert_eq!(server.stats().kept, 10);
}

/// Rules 44.1 and 44.2.
#[tokio::test]
async fn history_reads_pages_in_both_directions() {
    let (server, _) = start_server(keep(&[("room.>", 100)]));
    let mut ann = Peer::register_2(&server, "ann").await;
    for n in 1..=6 {
        deliver(&mut ann, ["room.7", "room.8"][n % 2], n).await;
    }
    let epoch = epoch(&server).await;
    let of_8 = |n: u64| {
        kept(
            "room.8",
            n,
            n,
            Some(n.saturating_sub(2)).filter(|prev| *prev + 1 != n),
        )
    };
    for (query, offset, messages, more) in [
        (r#""after":0,"limit":2"#, 3, vec![1, 3], true),
        (r#""after":3,"limit":9"#, 6, vec![5], false),
        (r#""after":9"#, 9, vec![], false),
        (r#""limit":2"#, 3, vec![3, 5], true),
        (r#""before":3"#, 1, vec![1], false),
        (r#""before":1"#, 1, vec![], false),
        (r#""limit":0"#, 7, vec![], true),
    ] {
        ann.send(&format!(
            r#"{{"action":"history","topic":"room.8","ref":1,{query}}}"#
        ))
        .await;
        let messages: Vec<_> = messages.into_iter().map(of_8).collect();
        let messages = messages.join(",");
        ann.expect(&format!(
            r#"{{"action":"history","topic":"room.8","ref":1,"epoch":"{epoch}","messages":[{messages}],"offset":{offset},"more":{more}}}"#
        ))
        .await;
    }
}

/// Rules 42.1 and 44.1.
#[tokio::test]
async fn invalid_positions_are_refused() {
    let (server, log) = start_server(keep(&[("room.>", 100), ("news", 100)]));
    let mut ann = Peer::register_2(&server, "ann").await;
    let long = "x".repeat(1 << 20);
    for (action, topic, more, code) in [
        (
            "subscribe",
            "room.7",
            r#""since":{"offset":18446744073709551616,"epoch":"a"}"#,
            "MEMBER",
        ),
        (
            "subscribe",
            "room.7",
            r#""since":{"offset":-1,"epoch":"a"}"#,
            "MEMBER",
        ),
        (
            "subscribe",
            "room.7",
            r#""since":{"offset":1.5,"epoch":"a"}"#,
            "MEMBER",
        ),
        (
            "subscribe",
            "room.7",
            r#""since":{"offset":"1","epoch":"a"}"#,
            "MEMBER",
        ),
        ("subscribe", "room.7", r#""since":{"offset":1}"#, "MEMBER"),
        ("subscribe", "room.7", r#""since":{"epoch":"a"}"#, "MEMBER"),
        (
            "subscribe",
            "room.7",
            r#""since":{"offset":1,"epoch":2}"#,
            "MEMBER",
        ),
        ("subscribe", "room.7", r#""since":"here""#, "MEMBER"),
        ("subscribe", "room.7", r#""since":[1,"a"]"#, "MEMBER"),
        ("subscribe", "room.7", r#""since":1"#, "MEMBER"),
        (
            "subscribe",
            "room.7",
            &format!(r#""since":{{"offset":1,"epoch":"{long}"}}"#),
            "MEMBER",
        ),
        (
            "subscribe",
            "room.7",
            r#""since":{"offset":1,"epoch":"a"},"last":1"#,
            "MEMBER",
        ),
        ("subscribe", "room.7", r#""last":-1"#, "MEMBER"),
        ("subscribe", "room.7", r#""last":"1""#, "MEMBER"),
        ("subscribe", "room.7", r#""last":1,"group":"g""#, "MEMBER"),
        ("subscribe", "other", r#""last":1"#, "NOT_KEPT"),
        ("subscribe", ">", r#""last":1"#, "NOT_KEPT"),
        (
            "subscribe",
            "*",
            r#""since":{"offset":1,"epoch":"a"}"#,
            "NOT_KEPT",
        ),
        ("history", "other", r#""limit":1"#, "NOT_KEPT"),
        ("history", ">", r#""limit":1"#, "NOT_KEPT"),
        ("history", "a..b", r#""limit":1"#, "TOPIC"),
        ("history", "room.7", r#""limit":-1"#, "MEMBER"),
        ("history", "room.7", r#""limit":"1""#, "MEMBER"),
        ("history", "room.7", r#""after":-1"#, "MEMBER"),
        ("history", "room.7", r#""after":1e300"#, "MEMBER"),
        ("history", "room.7", r#""before":"1""#, "MEMBER"),
        ("history", "room.7", r#""after":1,"before":1"#, "MEMBER"),
    ] {
        ann.send(&format!(
            r#"{{"action":"{action}","topic":"{topic}","ref":7,{more}}}"#
        ))
        .await;
        let error = ann.receive().await;
        let begin = format!(r#"{{"action":"error","code":"ERR_WSMB_{code}","#);
        assert!(
            error.starts_with(&begin) && error.ends_with(r#","ref":7}"#),
            "{more}: {error}"
        );
    }
    // A position of another rule is of another epoch.
    let epoch = epoch(&server).await;
    deliver(&mut ann, "news", 1).await;
    let response = subscribe(&mut ann, "news", &since(0, &epoch)).await;
    assert_eq!(
        response,
        r#""offset":1,"recovered":false,"lost":null,"replay":1}"#
    );
    drop(log);
}

/// Rule 41.6.
#[tokio::test]
async fn messages_are_trimmed_by_their_age_and_by_bytes() {
    let mut options = keep(&[("age", 100), ("bytes", 1_000)]);
    options.keep[0].age = Some(Duration::from_millis(1));
    options.keep[1].bytes = 64 << 10;
    let (server, _) = start_server(options);
    let mut ann = Peer::register_2(&server, "ann").await;
    for n in 0..10 {
        deliver(&mut ann, "age", n).await;
    }
    until("all are too old", || server.stats().trimmed == 10).await;
    assert_eq!(server.stats().kept, 0);
    let fill = format!("\"{}\"", "x".repeat(1_000));
    for _ in 0..200 {
        deliver(&mut ann, "bytes", &fill).await;
    }
    let stats = server.stats();
    assert!(stats.kept > 40 && stats.kept_bytes < 66 << 10, "{stats:?}");
}

#[tokio::test]
async fn kept_messages_give_way_when_memory_is_short() {
    let (server, log) = start_server(ServerOptions {
        max_memory: 4 << 20,
        ..keep(&[("room.>", 1_000_000)])
    });
    let mut ann = Peer::register_2(&server, "ann").await;
    let fill = format!("\"{}\"", "x".repeat(4_000));
    for _ in 0..2_000 {
        ann.send(&publish("room.7", &fill)).await;
    }
    assert_eq!(deliver(&mut ann, "room.7", 1).await, 2_001);
    until("memory is enough", || server.stats().memory < 4 << 20).await;
    let stats = server.stats();
    assert!(stats.trimmed > 900 && stats.kept > 100, "{stats:?}");
    assert_eq!(stats.evicted, 0);
    drop(log);
}

#[tokio::test]
async fn many_replays_of_a_full_log_delay_nobody_and_free_their_memory() {
    let (server, log) = start_server(keep(&[("room.>", 2_000)]));
    let mut ann = Peer::register_2(&server, "ann").await;
    let fill = format!("\"{}\"", "x".repeat(2_000));
    for _ in 0..2_000 {
        ann.send(&publish("room.7", &fill)).await;
    }
    assert_eq!(deliver(&mut ann, "room.7", 1).await, 2_001);
    let before = server.stats().memory;
    let canary = Canary::start(&server).await;
    let mut peers = Vec::new();
    for id in 0..256 {
        let mut peer = Peer::register_2(&server, &format!("peer {id}")).await;
        peer.send(r#"{"action":"subscribe","topic":"room.*","last":1e9}"#)
            .await;
        peers.push(peer);
    }
    until("all replays have begun", || server.stats().replays == 256).await;
    // None of them reads: little is queued for each, and publishers go on.
    assert_eq!(deliver(&mut ann, "room.8", 2).await, 2_002);
    let stats = server.stats();
    assert!(stats.outbox_bytes < 256 * (300 << 10), "{stats:?}");
    let mut reader = peers.pop().unwrap();
    for _ in 0..2_002 {
        reader.receive().await;
    }
    canary.finish().await;
    drop((peers, reader));
    until("memory is free", || {
        server.stats().memory <= before + (64 << 10)
    })
    .await;
    drop(log);
}

/// Rule 43.3.
#[tokio::test]
async fn overlapping_subscriptions_get_messages_from_the_log_together() {
    let (server, _) = start_server(keep(&[("room.>", 100)]));
    let mut ann = Peer::register_2(&server, "ann").await;
    for n in 1..=3 {
        deliver(&mut ann, ["room.7", "room.8"][n % 2], n).await;
    }
    let mut bob = Peer::register_2(&server, "bob").await;
    // In one turn, so that both replays are due at the same time.
    for pattern in ["room.*", "room.8"] {
        let subscribe = format!(r#"{{"action":"subscribe","topic":"{pattern}","last":9}}"#);
        bob.send(&subscribe).await;
    }
    deliver(&mut ann, "room.7", 4).await;
    let mut last = 0;
    let mut subscribed = 0;
    while last < 4 || subscribed < 2 {
        let frame = bob.receive().await;
        if frame.starts_with(r#"{"action":"subscribed""#) {
            subscribed += 1;
            continue;
        }
        let (_, offset) = frame.split_once(r#","offset":"#).unwrap();
        let offset: u64 = offset.split([',', '}']).next().unwrap().parse().unwrap();
        assert!(offset <= last + 1, "{offset} after {last}");
        last = last.max(offset);
    }
}

/// Rule 44.3.
#[tokio::test]
async fn history_needs_the_permission_to_subscribe() {
    let decide = |credentials: Credentials| -> Decision {
        let mut grant = Grant::new(credentials.id);
        grant.subscribe = ["room.7".to_owned()].into_iter().collect();
        Box::pin(std::future::ready(Ok(grant)))
    };
    let (server, log) = start_server(ServerOptions {
        authentication: Authentication::Hook(Arc::new(decide), Duration::from_secs(5)),
        ..keep(&[("room.>", 100)])
    });
    let mut ann = Peer::register_2(&server, "ann").await;
    ann.send(r#"{"action":"history","topic":"room.7","ref":1}"#)
        .await;
    let page = ann.receive().await;
    assert!(
        page.ends_with(r#","messages":[],"offset":1,"more":false}"#),
        "{page}"
    );
    for topic in ["room.8", "room.*", "other"] {
        let history = format!(r#"{{"action":"history","topic":"{topic}","ref":1}}"#);
        ann.send(&history).await;
        let error = ann.receive().await;
        assert!(
            error.contains(r#""code":"ERR_WSMB_FORBIDDEN""#),
            "{topic}: {error}"
        );
    }
    drop(log);
}

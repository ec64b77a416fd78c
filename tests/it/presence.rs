//! Presence: permissions, the bound of frames, and peers that join and leave without end.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use wsmsgbroker::{
    ServerOptions,
    auth::{Authentication, Credentials, Decision, Grant, Patterns, TopicPatterns},
};

use crate::support::{
    Peer, backpressure,
    canary::Canary,
    options,
    raw::{Raw, TEXT, frame},
    start_server, until,
};

fn watch(topic: &str) -> String {
    format!(r#"{{"action":"watch","topic":"{topic}"}}"#)
}

fn join(topic: &str, info: &str) -> String {
    format!(r#"{{"action":"subscribe","topic":"{topic}","info":{info}}}"#)
}

const WATCHED: &str = r#"{"action":"watched"}"#;

/// Grants presence of the topics before the slash in the token, and a watch of the ids behind it.
fn authenticate(credentials: Credentials) -> Decision {
    let token = credentials.token.unwrap_or_default();
    let (topics, ids) = token.split_once('/').unwrap_or((&token, ""));
    let mut grant = Grant::new(credentials.id);
    grant.subscribe = TopicPatterns::from_iter([">"]);
    grant.presence = topics.split_whitespace().collect();
    grant.watch = Patterns::from_iter(ids.split_whitespace());
    Box::pin(std::future::ready(Ok(grant)))
}

/// Rule 39.8.
#[tokio::test]
async fn a_client_may_watch_what_its_grant_names_and_nothing_else() {
    let (server, log) = start_server(ServerOptions {
        authentication: Authentication::Hook(Arc::new(authenticate), Duration::from_secs(5)),
        ..options()
    });
    let register = |token: &str| {
        format!(r#"{{"action":"register","id":"ann","token":"{token}","protocol":2}}"#)
    };
    let registered = r#"{"action":"registered","id":"ann","protocol":2}"#;
    let mut ann = Peer::connect(&server).await;
    ann.send(&register("room.* of.{id}/a* bob")).await;
    ann.expect(registered).await;
    for topic in ["room.7", "of.ann"] {
        ann.send(&watch(topic)).await;
        ann.expect(WATCHED).await;
        ann.expect(&format!(
            r#"{{"action":"presence","topic":"{topic}","count":0,"members":{{}}}}"#
        ))
        .await;
    }
    ann.send(r#"{"action":"watch","ids":["bob"]}"#).await;
    ann.expect(WATCHED).await;
    ann.expect(r#"{"action":"presence","online":[],"offline":["bob"]}"#)
        .await;
    let refused = [
        watch("room"),
        watch("of.bob"),
        watch("other"),
        r#"{"action":"watch","ids":["bob","carl"]}"#.to_owned(),
    ];
    for text in &refused {
        ann.send(text).await;
        let error = ann.receive().await;
        assert!(error.contains(r#""code":"ERR_WSMB_FORBIDDEN""#), "{error}");
    }
    assert_eq!(log.count("refused ERR_WSMB_FORBIDDEN"), refused.len());

    // A grant that no longer allows it ends a watch.
    ann.send(&register("of.{id}/a*")).await;
    ann.expect(registered).await;
    let mut ended = [ann.receive().await, ann.receive().await];
    ended.sort();
    let expected = [
        r#"{"action":"unwatched","ids":["bob"],"code":"FORBIDDEN"}"#,
        r#"{"action":"unwatched","topic":"room.7","code":"FORBIDDEN"}"#,
    ];
    assert_eq!(ended, expected);
    ann.send(&join("of.ann", "1")).await;
    ann.expect(r#"{"action":"subscribed","topic":"of.ann"}"#)
        .await;
    ann.expect(r#"{"action":"presence","topic":"of.ann","count":1,"joined":{"ann":1},"left":[]}"#)
        .await;
}

/// Rule 39.5: all members reconnect at the same time, and all of them watch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_reconnect_all_at_once_get_few_frames() {
    const MEMBERS: usize = 200;
    let (server, _log) = start_server(options());
    for round in 0..2 {
        let mut peers = Vec::new();
        for n in 0..MEMBERS {
            let mut peer = Peer::register_2(&server, &n.to_string()).await;
            peer.send(&join("room", &round.to_string())).await;
            peer.send(&watch("room")).await;
            peers.push(peer);
        }
        let all: Vec<_> = peers
            .into_iter()
            .map(|mut peer| async move {
                let (mut frames, mut members) = (0, serde_json::Map::new());
                while members.len() < MEMBERS || !members.values().all(|info| *info == round) {
                    let frame: Value = serde_json::from_str(&peer.receive().await).unwrap();
                    if frame["action"] != "presence" {
                        continue;
                    }
                    frames += 1;
                    if let Some(all) = frame["members"].as_object() {
                        members = all.clone();
                    } else {
                        members.extend(frame["joined"].as_object().expect("changes").clone());
                    }
                }
                (frames, peer)
            })
            .collect();
        let mut most = 0;
        for one in all {
            let (frames, _peer) = one.await;
            most = frames.max(most);
        }
        // As long as the members take to connect, there may be four frames a second.
        assert!(most <= 40, "{most} frames");
    }
}

/// Members and watches without end: nothing remains, and a pair beside is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_join_watch_and_vanish_leave_nothing() {
    let (server, _log) = start_server(ServerOptions {
        max_subscriptions: 64,
        presence_timeout: Duration::from_millis(50),
        ..backpressure(64 << 10, Duration::from_secs(5))
    });
    let canary = Canary::start(&server).await;
    let idle = server.stats().memory;
    for round in 0..20 {
        // Reads nothing at all.
        let mut peer = Raw::register_2(&server, &format!("peer {}", round % 3)).await;
        let info = format!("\"{}\"", "x".repeat(1000));
        for n in 0..80 {
            let mut text = frame(TEXT, join(&format!("t.{n}"), &info));
            text.extend(frame(TEXT, watch(&format!("t.{}", n % 40))));
            text.extend(frame(
                TEXT,
                r#"{"action":"watch","ids":["peer 0","peer 1"]}"#,
            ));
            if n % 3 == 0 {
                let topic = format!(r#"{{"action":"unsubscribe","topic":"t.{}"}}"#, n / 2);
                text.extend(frame(TEXT, topic));
            }
            peer.write(&text).await;
        }
        until("a member", || server.stats().members > 0).await;
    }
    canary.finish().await;
    until("no subscription", || {
        server.stats().members == 0 && server.stats().subscriptions == 0
    })
    .await;
    until("as little memory as before", || {
        server.stats().memory <= idle
    })
    .await;
}

//! Groups of workers: each message goes to one member, and a request to one that can take it.

use std::collections::HashMap;

use wsmsgbroker::Server;

use crate::support::{Peer, canary::Canary, options, start_server, until};

fn publish(message: impl std::fmt::Display) -> String {
    format!(r#"{{"action":"send","message":{message},"dest":{{"topic":"jobs.a"}}}}"#)
}

fn request(message: usize, more: &str) -> String {
    format!(
        r#"{{"action":"send","message":{message},"dest":{{"topic":"jobs.a"}},"ack":"k{message}"{more}}}"#
    )
}

fn job(message: usize) -> String {
    format!(r#"{{"action":"message","message":{message},"from":"s","topic":"jobs.a","group":"g"}}"#)
}

fn asked(message: usize) -> String {
    format!(
        r#"{{"action":"message","message":{message},"ack":"k{message}","from":"s","topic":"jobs.a","group":"g"}}"#
    )
}

fn answer(message: usize) -> String {
    format!(r#"{{"action":"answer","ack":"k{message}","message":{message}}}"#)
}

fn acknowledge(count: usize) -> String {
    format!(r#"{{"action":"acknowledge","topic":"jobs.*","group":"g","count":{count}}}"#)
}

fn subscribe(window: usize) -> String {
    format!(r#"{{"action":"subscribe","topic":"jobs.*","group":"g","window":{window}}}"#)
}

async fn join(peer: &mut Peer, window: usize) {
    peer.send(&subscribe(window)).await;
    peer.expect(r#"{"action":"subscribed","topic":"jobs.*"}"#)
        .await;
}

async fn worker(server: &Server, id: &str, window: usize) -> Peer {
    let mut peer = Peer::register_2(server, id).await;
    join(&mut peer, window).await;
    peer
}

/// Rules 38.1, 38.2 and 38.3.
#[tokio::test]
async fn each_message_goes_to_the_member_with_the_least_to_do() {
    let (server, _log) = start_server(options());
    let mut sender = Peer::register_2(&server, "s").await;
    let mut a = worker(&server, "a", 2).await;
    let mut b = worker(&server, "b", 3).await;
    for n in 0..7 {
        sender.send(&publish(n)).await;
    }
    // In turn, up to their windows; two wait.
    for n in [0, 2] {
        a.expect(&job(n)).await;
    }
    for n in [1, 3, 4] {
        b.expect(&job(n)).await;
    }
    a.send(&acknowledge(1)).await;
    a.expect(&job(5)).await;
    b.send(&acknowledge(3)).await;
    b.expect(&job(6)).await;
    // `b` has one unfinished message, and `a` two.
    sender.send(&publish(7)).await;
    b.expect(&job(7)).await;
    a.send(&acknowledge(2)).await;
    a.send(&acknowledge(100)).await;
    a.send(r#"{"action":"acknowledge","topic":"jobs.*","group":"other"}"#)
        .await;
    until("all is handled", || server.stats().messages_in >= 15).await;
    for n in 8..10 {
        sender.send(&publish(n)).await;
        a.expect(&job(n)).await;
    }
}

/// Rules 38.4 and 38.8: one who stops takes no more, and a new member takes what waits.
#[tokio::test]
async fn a_window_of_zero_pauses_a_member_and_messages_wait() {
    let (server, _log) = start_server(options());
    let mut sender = Peer::register_2(&server, "s").await;
    let mut a = worker(&server, "a", 0).await;
    sender
        .send(r#"{"action":"send","message":0,"dest":{"topic":"jobs.a"},"ref":1}"#)
        .await;
    sender
        .expect(r#"{"action":"receipt","ref":1,"queued":1,"dropped":0}"#)
        .await;
    sender.send(&publish(1)).await;
    sender.send(&request(2, "")).await;
    let mut b = worker(&server, "b", 1).await;
    b.expect(&job(0)).await;
    join(&mut a, 1).await;
    a.expect(&job(1)).await;
    a.send(&acknowledge(1)).await;
    a.expect(&asked(2)).await;
    a.send(&answer(2)).await;
    sender
        .expect(r#"{"action":"answer","ack":"k2","from":"a","message":2}"#)
        .await;
}

/// Rules 38.5 and 38.6.
#[tokio::test]
async fn a_request_asks_one_member_and_fails_with_it() {
    let (server, _log) = start_server(options());
    let mut sender = Peer::register_2(&server, "s").await;
    sender.send(&request(1, "")).await;
    sender
        .expect(
            r#"{"action":"failed","ack":"k1","dest":{"topic":"jobs.a"},"code":"NO_SUBSCRIBER"}"#,
        )
        .await;
    let mut a = worker(&server, "a", 1).await;
    let mut plain = Peer::register_2(&server, "p").await;
    plain
        .send(r#"{"action":"subscribe","topic":"jobs.>"}"#)
        .await;
    plain
        .expect(r#"{"action":"subscribed","topic":"jobs.>"}"#)
        .await;
    sender.send(&request(2, r#","answers":"all""#)).await;
    a.expect(&asked(2)).await;
    let to_all = r#"{"action":"message","message":2,"ack":"k2","from":"s","topic":"jobs.a"}"#;
    plain.expect(to_all).await;
    plain.send(&answer(2)).await;
    sender
        .expect(r#"{"action":"answer","ack":"k2","from":"p","message":2}"#)
        .await;
    drop(a);
    sender
        .expect(r#"{"action":"failed","ack":"k2","dest":"a","code":"GONE"}"#)
        .await;
    drop(plain);
    until("both have left", || server.stats().subscriptions == 0).await;

    // Those that wait fail with the last member.
    let mut b = worker(&server, "b", 1).await;
    sender.send(&request(3, "")).await;
    b.expect(&asked(3)).await;
    sender.send(&request(4, "")).await;
    sender.send(&publish(5)).await;
    until("they wait", || server.stats().messages_in >= 13).await;
    drop(b);
    let mut failed = [sender.receive().await, sender.receive().await];
    failed.sort();
    assert_eq!(
        failed[0],
        r#"{"action":"failed","ack":"k3","dest":"b","code":"GONE"}"#
    );
    assert_eq!(
        failed[1],
        r#"{"action":"failed","ack":"k4","dest":{"topic":"jobs.a"},"code":"GONE"}"#
    );
    assert_eq!(server.stats().pending, 0);
    assert_eq!(server.stats().without_subscriber, 2);
}

/// Rule 38.7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_wait_and_requests_fail_when_too_many_wait() {
    const MESSAGES: usize = 3000;
    let (server, _log) = start_server(options());
    let canary = Canary::start(&server).await;
    let before = server.stats().memory;
    let mut sender = Peer::register_2(&server, "s").await;
    let mut asker = Peer::register_2(&server, "asker").await;
    let mut slow = worker(&server, "slow", 1).await;
    for n in 0..MESSAGES {
        sender.send(&publish(n)).await;
    }
    until("the publisher is held", || server.stats().senders_held == 1).await;
    asker.send(&request(1, "")).await;
    asker
        .expect(r#"{"action":"failed","ack":"k1","dest":{"topic":"jobs.a"},"code":"BUSY"}"#)
        .await;
    for n in 0..MESSAGES {
        slow.expect(&job(n)).await;
        slow.send(&acknowledge(1)).await;
    }
    drop((slow, sender, asker));
    until("the memory is free", || server.stats().memory <= before).await;
    canary.finish().await;
}

/// A model: whatever members do, each message is handled once, and none is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_handled_once_by_members_that_come_and_go() {
    const MESSAGES: usize = 2000;
    let (server, _log) = start_server(options());
    let mut sender = Peer::register_2(&server, "s").await;
    let mut workers = Vec::new();
    for n in 0..4 {
        workers.push(worker(&server, &format!("w{n}"), 1 + n).await);
    }
    let handled: Vec<_> = workers
        .into_iter()
        .enumerate()
        .map(|(place, mut peer)| {
            tokio::spawn(async move {
                let mut seen = HashMap::new();
                loop {
                    let text = peer.receive().await;
                    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                    if value["action"] == "subscribed" {
                        continue;
                    }
                    let Some(n) = value["message"].as_u64() else {
                        break;
                    };
                    *seen.entry(n).or_insert(0) += 1;
                    if n % 7 == place as u64 {
                        // It pauses, and comes back.
                        peer.send(&acknowledge(1)).await;
                        peer.send(&subscribe(0)).await;
                        peer.send(&subscribe(1 + place)).await;
                    } else {
                        peer.send(&acknowledge(1)).await;
                    }
                }
                seen
            })
        })
        .collect();
    for n in 0..MESSAGES {
        sender.send(&publish(n)).await;
    }
    until("all is handled", || {
        server.stats().messages_out >= MESSAGES as u64
    })
    .await;
    for n in 0..4 {
        let end = format!(r#"{{"action":"send","message":"end","dest":"w{n}"}}"#);
        sender.send(&end).await;
    }
    let mut all = HashMap::new();
    for one in handled {
        for (n, count) in one.await.unwrap() {
            *all.entry(n).or_insert(0) += count;
        }
    }
    assert_eq!(all.len(), MESSAGES);
    assert!(all.values().all(|count| *count == 1), "handled twice");
}

/// Rule 38.5.
#[tokio::test]
async fn a_request_whose_asker_no_longer_waits_goes_to_no_member() {
    let (server, _log) = start_server(options());
    let mut sender = Peer::register_2(&server, "s").await;
    let mut other = Peer::register_2(&server, "o").await;
    let mut a = worker(&server, "a", 0).await;
    // Of two groups.
    a.send(r#"{"action":"subscribe","topic":"jobs.>","group":"g","window":0}"#)
        .await;
    a.expect(r#"{"action":"subscribed","topic":"jobs.>"}"#)
        .await;
    for n in 1..=4 {
        sender.send(&request(n, "")).await;
    }
    sender.send(&request(5, r#","timeout":1"#)).await;
    for ack in ["k1", "k3", "unknown"] {
        sender
            .send(&format!(r#"{{"action":"cancel","ack":"{ack}"}}"#))
            .await;
    }
    // The ack of another connection.
    other.send(r#"{"action":"cancel","ack":"k2"}"#).await;
    sender.send(&publish(6)).await;
    until("all is handled", || server.stats().messages_in >= 14).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    join(&mut a, 64).await;
    for n in [2, 4] {
        a.expect(&asked(n)).await;
    }
    a.expect(&job(6)).await;
    a.send(&answer(2)).await;
    sender
        .expect(r#"{"action":"answer","ack":"k2","from":"a","message":2}"#)
        .await;
    assert_eq!(server.stats().pending, 1);

    // An asker that gives up its id waits for nothing, under the same id neither.
    a.send(&subscribe(0)).await;
    a.expect(r#"{"action":"subscribed","topic":"jobs.*"}"#)
        .await;
    sender.send(&request(7, "")).await;
    sender.send(r#"{"action":"unregister","id":"s"}"#).await;
    sender.expect(r#"{"action":"unregistered","id":"s"}"#).await;
    sender
        .send(r#"{"action":"register","id":"s","protocol":2}"#)
        .await;
    sender
        .expect(r#"{"action":"registered","id":"s","protocol":2}"#)
        .await;
    sender.send(&publish(8)).await;
    until("it waits", || server.stats().messages_in >= 20).await;
    a.send(&subscribe(64)).await;
    let mut rest = Vec::new();
    while rest.last() != Some(&job(8)) {
        rest.push(a.receive().await);
    }
    assert!(
        !rest.iter().any(|frame| frame.contains("\"k7\"")),
        "{rest:?}"
    );
}

/// Rule 38.7.
#[tokio::test]
async fn requests_whose_askers_no_longer_wait_take_no_room() {
    const MANY: usize = 1000;
    let (server, _log) = start_server(options());
    let before = server.stats().memory;
    let mut sender = Peer::register_2(&server, "s").await;
    let mut a = worker(&server, "a", 0).await;
    for n in 0..MANY {
        sender.send(&request(n, "")).await;
    }
    sender.send(&request(MANY, "")).await;
    let busy = |n: usize| {
        format!(r#"{{"action":"failed","ack":"k{n}","dest":{{"topic":"jobs.a"}},"code":"BUSY"}}"#)
    };
    sender.expect(&busy(MANY)).await;
    for n in 1..MANY {
        sender
            .send(&format!(r#"{{"action":"cancel","ack":"k{n}"}}"#))
            .await;
    }
    // Room is made at intervals.
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    sender.send(&request(MANY + 1, "")).await;
    until("all is handled", || server.stats().messages_in >= 2004).await;
    join(&mut a, 64).await;
    for n in [0, MANY + 1] {
        a.expect(&asked(n)).await;
    }
    drop((sender, a));
    until("the memory is free", || server.stats().memory <= before).await;
}

/// Rule 38.9.
#[tokio::test]
async fn a_member_learns_which_attempt_a_request_is() {
    let (server, _log) = start_server(options());
    let mut sender = Peer::register_2(&server, "s").await;
    let mut a = worker(&server, "a", 64).await;
    for (n, attempt, copied) in [
        (1, "2", Some("2")),
        (2, "7.0", Some("7")),
        (3, "1e99", Some("4294967295")),
        (4, "1", None),
        (5, "-2", None),
        (6, "2.5", None),
        (7, r#""2""#, None),
        (8, "null", None),
    ] {
        sender
            .send(&request(
                n,
                &format!(r#","timeout":60000,"attempt":{attempt}"#),
            ))
            .await;
        let expected = match copied {
            None => asked(n),
            Some(number) => asked(n).replace('}', &format!(r#","attempt":{number}}}"#)),
        };
        a.expect(&expected).await;
    }
}

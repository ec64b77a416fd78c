//! Random peers that connect, take over ids, ask, answer and disconnect at the same time: afterwards every
//! table is empty, and each id was released as often as it was owned.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use wsmsgbroker::{Server, ServerOptions};

use crate::{
    alone,
    support::{Peer, options, random::Random, start_server, until},
};

const PEERS: u64 = 12;
const LIVES: u64 = 40;
const IDS: usize = 5;

/// Panics of any thread: those of the server's tasks would go unseen.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// One connection, from its registration to an end of some kind.
async fn live(server: &Server, random: &mut Random, name: &str) {
    let mut peer = Peer::connect(server).await;
    let mut actions = Vec::new();
    for _ in 0..random.below(30) {
        let id = random.below(IDS);
        let other = random.below(IDS);
        // Few enough acks that peers meet at them.
        let ack = random.below(20);
        actions.push(match random.below(8) {
            0 => format!(r#"{{"action":"register","id":"{id}"}}"#),
            1 => r#"{"action":"unregister"}"#.to_owned(),
            2 => format!(r#"{{"action":"send","message":1,"dest":"{id}","ack":{ack}}}"#),
            3 | 4 => format!(
                r#"{{"action":"send","message":1,"dest":["{id}","{other}"],"ack":"{name}{ack}"}}"#
            ),
            5 => format!(r#"{{"action":"answer","ack":{ack},"message":2}}"#),
            _ => format!(r#"{{"action":"send","message":1,"dest":["{id}","{other}",{id}]}}"#),
        });
    }
    peer.send(&format!(
        r#"{{"action":"register","id":"{}"}}"#,
        random.below(IDS)
    ))
    .await;
    for action in actions {
        peer.send(&action).await;
        // Answers what has come meanwhile.
        while let Ok(Some(Ok(Message::Text(text)))) =
            timeout(Duration::from_micros(100), peer.0.next()).await
        {
            if let Some((_, rest)) = text.split_once(r#","ack":"#) {
                let ack = rest.split([',', '}']).next().unwrap_or_default();
                peer.send(&format!(r#"{{"action":"answer","ack":{ack},"message":3}}"#))
                    .await;
            }
        }
    }
    match random.below(3) {
        0 => drop(peer),
        1 => {
            // It may be reset by what it has not read.
            let _ = peer.0.close(None).await;
        }
        _ => peer.send(r#"{"action":"unregister"}"#).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_connections_leave_no_memory_behind() {
    let _alone = alone().await;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Relaxed);
        hook(panic);
    }));
    let (server, log) = start_server(ServerOptions {
        max_pending_acks: 8,
        ack_timeout: Duration::from_millis(30),
        ..options()
    });
    let server = std::sync::Arc::new(server);
    let mut tasks = Vec::new();
    for n in 0..PEERS {
        let server = server.clone();
        tasks.push(tokio::spawn(async move {
            let mut random = Random::new(n + 1);
            for life in 0..LIVES {
                live(&server, &mut random, &format!("{n}-{life}-")).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    until("nobody there", || server.stats().connections == 0).await;
    let stats = server.stats();
    assert_eq!((stats.registered, stats.pending), (0, 0));
    assert_eq!(stats.accepted, PEERS * LIVES);
    assert_eq!((stats.slow, stats.violations), (0, 0));
    assert_eq!(PANICS.load(Relaxed), 0);
    // Owned from its first registration to its end, and then anew.
    let mut owned = BTreeMap::new();
    for line in log.lines() {
        match line.split_once(' ') {
            Some(("registered", id)) => {
                owned.insert(id.to_owned(), true);
            }
            Some(("unregistered", id)) => {
                assert_eq!(owned.insert(id.to_owned(), false), Some(true))
            }
            _ => {}
        }
    }
    assert!(owned.len() == IDS && owned.values().all(|owned| !owned));
}

//! Peers that come, take each other's ids, ask, answer and vanish, all at once: afterwards every
//! table is empty, and every id was given up as often as it should be.

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
    support::{Peer, options, start_server, until},
};

const PEERS: u64 = 12;
const LIVES: u64 = 40;
const IDS: u64 = 5;

/// Panics of any thread: those of the server's tasks would go unseen.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Numbers that are the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// One connection, from its registration to an end of some kind.
async fn live(server: &Server, numbers: &mut Numbers, name: &str) {
    let mut peer = Peer::connect(server).await;
    let mut actions = Vec::new();
    for _ in 0..numbers.below(30) {
        let id = numbers.below(IDS);
        let other = numbers.below(IDS);
        // Few enough acks that peers meet at them.
        let ack = numbers.below(20);
        actions.push(match numbers.below(8) {
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
        numbers.below(IDS)
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
    match numbers.below(3) {
        0 => drop(peer),
        1 => {
            // It may be reset by what it has not read.
            let _ = peer.0.close(None).await;
        }
        _ => peer.send(r#"{"action":"unregister"}"#).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_left_of_many_lives() {
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
            let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ (n << 40));
            for life in 0..LIVES {
                live(&server, &mut numbers, &format!("{n}-{life}-")).await;
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
    assert!(owned.len() as u64 == IDS && owned.values().all(|owned| !owned));
}

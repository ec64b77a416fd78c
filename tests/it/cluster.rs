//! A cluster of brokers, for cases that cannot be observed from JavaScript.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;
use wsmsgbroker::Server;

use crate::support::{
    Log, Peer,
    nats::{Line, Nats},
    options, until,
};

const SOON: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_continue_however_often_their_receiver_moves() {
    let nats = Nats::start().await;
    let (servers, _) = nats.brokers("moves", 3, options).await;
    let mut sender = Peer::register(&servers[0], "sender").await;
    let mut receivers = Vec::new();
    let mut lost = 0;
    let send = |text: &str| format!(r#"{{"action":"send","message":"{text}","dest":"receiver"}}"#);
    let message =
        |text: &str| format!(r#"{{"action":"message","message":"{text}","from":"sender"}}"#);
    for round in 0..20 {
        let mut receiver = Peer::register(&servers[1 + round % 2], "receiver").await;
        // What is sent while the id moves may be lost.
        loop {
            sender.send(&send("first")).await;
            let came = timeout(SOON, receiver.0.next()).await;
            if came.is_ok() {
                break;
            }
            lost += 1;
            assert!(lost < 100, "round {round}");
        }
        // One by one: each is a packet of its own.
        for number in 0..40 {
            let number = number.to_string();
            sender.send(&send(&number)).await;
            let mut received = receiver.receive().await;
            while received.contains("first") {
                received = receiver.receive().await;
            }
            assert_eq!(received, message(&number), "round {round}");
        }
        receivers.push(receiver);
    }
}

/// Races at the same time, each for an id of its own, and how long all brokers may take to agree.
const AT_ONCE: usize = 50;
const AGREED: Duration = Duration::from_secs(1);

fn races() -> usize {
    match std::env::var("WSMB_FAULTS") {
        Ok(size) if size == "full" => 10_000,
        _ => 500,
    }
}

/// One id, registered at all brokers at the same moment.
async fn race(servers: &[Server], id: &str) -> Vec<Peer> {
    let peers = futures_util::future::join_all(servers.iter().map(Peer::connect)).await;
    futures_util::future::join_all(peers.into_iter().map(|peer| peer.registered(id))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_registrations_of_an_id_leave_one_owner_at_all_brokers() {
    let nats = Nats::start().await;
    let (servers, _) = nats.brokers("races", 3, options).await;
    let mut slowest = Duration::ZERO;
    for round in 0..races() / AT_ONCE {
        let ids: Vec<_> = (0..AT_ONCE).map(|n| format!("{round}.{n}")).collect();
        let racing = ids.iter().map(|id| race(&servers, id));
        let mut peers = futures_util::future::join_all(racing).await;
        let begun = std::time::Instant::now();
        let owners = |id: &str| servers.iter().filter(|server| server.has(id)).count();
        while !ids.iter().all(|id| owners(id) == 1) {
            let owned: Vec<_> = ids.iter().map(|id| owners(id)).collect();
            assert!(begun.elapsed() < AGREED, "round {round}: {owned:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        slowest = slowest.max(begun.elapsed());
        // What is sent from each broker reaches the one who has it, once.
        let (id, racers) = (&ids[0], &mut peers[0]);
        let owner = servers.iter().position(|server| server.has(id)).unwrap();
        for (number, server) in servers.iter().enumerate() {
            let mut sender = Peer::connect(server).await;
            let text = format!(r#"{{"action":"send","message":{number},"dest":"{id}"}}"#);
            sender.send(&text).await;
            let message = format!(r#"{{"action":"message","message":{number}}}"#);
            racers[owner].expect(&message).await;
        }
        for (place, racer) in racers.iter_mut().enumerate() {
            let more = timeout(Duration::from_millis(20), racer.0.next()).await;
            assert!(more.is_err(), "round {round}, {place}: {more:?}");
        }
        if round == 0 {
            let found = servers[0].cluster_ids(AGREED).await;
            let mut names: Vec<_> = found.ids.iter().map(|(id, _)| id.to_string()).collect();
            names.sort();
            let mut expected = ids.clone();
            expected.sort();
            assert_eq!((names, found.silent), (expected, vec![]));
        }
    }
    // Ids without a connection have no owner.
    crate::support::until("no ghosts", || {
        servers.iter().all(|server| server.ids().is_empty())
    })
    .await;
    println!("{} races, agreed after {slowest:?} at most", races());
}

/// How long after the way between their NATS servers is back brokers may take to agree: NATS tries once a
/// second to connect.
const HEALED: Duration = Duration::from_secs(5);

/// A broker at each of two NATS servers, and the way between these servers.
async fn two_sides() -> (Vec<Server>, Log, Line, [Nats; 2]) {
    let left = Nats::start_clustered(None).await;
    let line = Line::to(left.route()).await;
    let right = Nats::start_clustered(Some(line.address())).await;
    let log = Log::default();
    let servers = vec![
        left.broker("routes", "left", options(), &log),
        right.broker("routes", "right", options(), &log),
    ];
    until("they know each other", || know_each_other(&servers)).await;
    (servers, log, line, [left, right])
}

fn know_each_other(servers: &[Server]) -> bool {
    let knows_all = |server: &Server| server.nodes().is_some_and(|nodes| nodes.len() == 2);
    servers.iter().all(knows_all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_moved_during_a_partition_of_nats_have_one_owner_afterwards() {
    for down in [0, 2, 7].map(Duration::from_secs) {
        let (servers, log, line, _nats) = two_sides().await;
        let ids: Vec<_> = (0..20).map(|number| format!("id{number}")).collect();
        let mut former = Vec::new();
        for (number, id) in ids.iter().enumerate() {
            former.push(Peer::register_2(&servers[number % 2], id).await);
        }
        line.cut().await;
        let mut newer = Vec::new();
        for (number, id) in ids.iter().enumerate() {
            newer.push(Peer::register_2(&servers[(number + 1) % 2], id).await);
        }
        tokio::time::sleep(down).await;
        let owners = |id: &str| servers.iter().filter(|server| server.has(id)).count();
        assert!(ids.iter().all(|id| owners(id) == 2), "{down:?}");
        line.mend();
        let begun = std::time::Instant::now();
        until("one owner each", || ids.iter().all(|id| owners(id) == 1)).await;
        let took = begun.elapsed();
        for (number, id) in ids.iter().enumerate() {
            assert!(servers[(number + 1) % 2].has(id), "the newest has it");
            let replaced = format!(r#"{{"action":"unregistered","id":"{id}","code":"REPLACED"}}"#);
            former[number].expect(&replaced).await;
        }
        assert!(took < HEALED, "down for {down:?}: {took:?}");
        assert_eq!(
            log.count("Cluster(Up)"),
            2,
            "the brokers kept their connections"
        );
        println!("down for {down:?}: one owner each after {took:?}");
        // A sender at either side reaches the owner.
        for (number, server) in servers.iter().enumerate() {
            let mut sender = Peer::connect(server).await;
            for (id, owner) in ids.iter().zip(&mut newer) {
                let text = format!(r#"{{"action":"send","message":{number},"dest":"{id}"}}"#);
                sender.send(&text).await;
                owner
                    .expect(&format!(r#"{{"action":"message","message":{number}}}"#))
                    .await;
            }
        }
    }
}

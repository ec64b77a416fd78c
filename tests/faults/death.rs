//! Processes that are killed while they work.

use crate::{
    broker::Broker,
    case::{all_gone, at_rest, count, endure, turn},
    process::Process,
    ring::Ring,
    support::{
        Listening,
        raw::{REQUEST, Raw, TEXT, frame},
        tcp, until,
    },
};

/// Clients of a ring.
const CLIENTS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_of_a_killed_process_are_free_and_others_lose_nothing() {
    endure("", count(10, 200), async |broker, count| {
        for _ in 0..count {
            let port = broker.socket_address().port();
            let process = Process::start("some_clients", &format!("{CLIENTS} {port}"));
            assert_eq!(process.line(), "it turns");
            process.kill();
            until("their ids are free", || broker.count("registered") == 2).await;
        }
        assert_eq!(broker.count("replaced"), 0);
    })
    .await;
}

/// Every client detects the end of the broker, and a new broker on the same port serves them all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_killed_broker_are_disconnected_and_served_by_the_next_one() {
    let _turn = turn().await;
    let mut broker = Broker::start("");
    let port = broker.socket_address().port();
    for _ in 0..count(10, 200) {
        let ring = Ring::connect(CLIENTS, port);
        ring.turns().await;
        // Others wait for this and that: an answer, the rest of a message, the end of a handshake.
        let mut asker = Raw::register(&broker, "asker").await;
        asker
            .send(r#"{"action":"send","message":1,"dest":"asker","ack":"k"}"#)
            .await;
        asker.receive().await;
        let mut half = Raw::connect(&broker).await;
        half.write(&frame(TEXT, "{}")[..3]).await;
        let mut early = Raw(tokio::io::BufReader::new(tcp(&broker).await));
        early.write(&REQUEST.as_bytes()[..9]).await;
        broker.kill();
        ring.is_closed(1006).await;
        for mut raw in [asker, half, early] {
            raw.ended().await;
        }
        broker = Broker::start(&format!("port={port}"));
    }
    let ring = Ring::connect(CLIENTS, port);
    ring.turns().await;
    ring.close().await;
    all_gone(&broker).await;
    at_rest(&broker).await;
    broker.stop();
}

//! Answers are never blocked by backpressure: they may fill the asker's outbox to a multiple of the
//! high-water mark (rule 17.5). A connection that is too slow several times is closed (rule 17.7).

use std::time::Duration;

use wsmsgbroker::Server;

use crate::support::{
    LONG, backpressure,
    canary::Canary,
    raw::{Raw, TEXT, frame, numbered_send},
    start_server, until,
};

const MIB: usize = 1 << 20;

/// `asker` asks `count` requests; they are answered with 1 MiB each, whether it reads or not.
/// Ends when the server has carried out all answers.
async fn ask_and_answer(server: &Server, asker: &mut Raw, count: usize) {
    let mut responder = Raw::register(server, "responder").await;
    let mut requests = Vec::new();
    for n in 0..count {
        let request = format!(r#"{{"action":"send","message":0,"dest":"responder","ack":"k{n}"}}"#);
        requests.extend(frame(TEXT, request));
    }
    asker.write(&requests).await;
    for _ in 0..count {
        responder.receive().await;
    }
    let text = "x".repeat(MIB);
    for n in 0..count {
        responder
            .send(&format!(
                r#"{{"action":"answer","ack":"k{n}","message":"{text}"}}"#
            ))
            .await;
    }
    responder.send(r#"{"action":"unregister"}"#).await;
    assert_eq!(
        responder.receive().await,
        r#"{"action":"unregistered","id":"responder"}"#
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_answers_arrive_at_an_asker_that_reads_late() {
    let (server, _) = start_server(backpressure(16 * MIB, LONG));
    let mut asker = Raw::register(&server, "asker").await;
    let count = 100;
    // Six times the mark, and the one who answers was never held.
    ask_and_answer(&server, &mut asker, count).await;
    for n in 0..count {
        let (_, answer) = asker.next().await.unwrap();
        let head = format!(r#"{{"action":"answer","ack":"k{n}","from":"responder","message":"x"#);
        assert!(answer.starts_with(head.as_bytes()));
        assert_eq!(answer.len(), head.len() - 1 + MIB + 2);
    }
    assert_eq!(server.stats().slow, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asker_that_never_reads_is_closed_at_eight_times_the_high_water_mark() {
    let (server, log) = start_server(backpressure(MIB / 4, LONG));
    let canary = Canary::start(&server).await;
    let mut asker = Raw::register(&server, "asker").await;
    ask_and_answer(&server, &mut asker, 48).await;
    log.wait_for(r#"slow Some("asker") Closed"#).await;
    assert_eq!(asker.close_code().await, 1013);
    canary.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asker_that_never_reads_is_closed_on_timeout() {
    let (server, log) = start_server(backpressure(8 * MIB, Duration::from_millis(200)));
    let mut asker = Raw::register(&server, "asker").await;
    // Beyond the mark, far from eight times as much.
    ask_and_answer(&server, &mut asker, 40).await;
    log.wait_for(r#"slow Some("asker") Closed"#).await;
    assert_eq!(asker.close_code().await, 1013);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_was_slow_twice_is_closed_at_once_the_third_time() {
    let (server, log) = start_server(backpressure(MIB / 4, LONG));
    for _ in 0..2 {
        let mut asker = Raw::register(&server, "again").await;
        ask_and_answer(&server, &mut asker, 48).await;
        assert_eq!(asker.close_code().await, 1013);
    }
    assert_eq!(log.count(r#"slow Some("again") Closed"#), 2);
    let mut again = Raw::register(&server, "again").await;
    let mut sender = Raw::connect(&server).await;
    // Now a full outbox is enough, and no time is given.
    for n in 0..48 {
        sender.send(&numbered_send(n, r#""again""#, MIB)).await;
    }
    until("closed a third time", || server.stats().slow == 3).await;
    assert_eq!(again.close_code().await, 1013);
    // Its slowness is not the next one's, whose id is another.
    let mut late = Raw::register(&server, "another").await;
    sender.send(&numbered_send(0, r#""another""#, MIB)).await;
    assert!(late.next().await.unwrap().1.len() > MIB);
}

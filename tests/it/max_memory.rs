//! `max_memory`: connections that need much memory wait, those that hold most are closed, others are not
//! affected (rule 20.6).

use tokio::io::AsyncWriteExt;
use wsmsgbroker::ServerOptions;

use crate::support::{
    LONG,
    canary::Canary,
    options,
    raw::{REQUEST, Raw, TEXT, frame, header, number, numbered_send},
    start_server, tcp, until,
};

const MIB: usize = 1 << 20;

fn memory(max_memory: usize) -> ServerOptions {
    ServerOptions {
        max_memory,
        max_backpressure: 64 * MIB,
        slow_consumer_timeout: LONG,
        ..options()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_receiver_with_the_largest_queue_is_closed_first() {
    let (server, log) = start_server(memory(16 * MIB));
    let canary = Canary::start(&server).await;
    let mut small = Raw::register(&server, "small").await;
    let mut large = Raw::register(&server, "large").await;
    let mut sender = Raw::register(&server, "sender").await;
    // Beyond what the sockets take: little waits for one, much for the other.
    for n in 0..10 {
        sender.send(&numbered_send(n, r#""small""#, MIB)).await;
    }
    let (_read, mut flood) = Raw::connect(&server).await.split();
    let flood = tokio::spawn(async move {
        for n in 0..40 {
            let message = frame(TEXT, numbered_send(n, r#""large""#, MIB));
            if flood.write_all(&message).await.is_err() {
                break;
            }
        }
        flood
    });
    log.wait_for(r#"slow Some("large") Memory"#).await;
    assert_eq!(large.close_code().await, 1013);
    let _flood = flood.await.unwrap();
    for n in 0..10 {
        assert_eq!(number(&small.next().await.unwrap().1), n);
    }
    assert_eq!((server.stats().evicted, server.stats().slow), (1, 0));
    until("the memory is free", || server.stats().memory < MIB).await;
    canary.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_messages_are_closed_largest_first() {
    let (server, _) = start_server(memory(16 * MIB));
    let canary = Canary::start(&server).await;
    let mut parts = Vec::new();
    // Buffers take up to twice what has arrived: those of the first two together less than the limit.
    for size in [2, 3, 12] {
        let mut raw = Raw::connect(&server).await;
        raw.write(&header(TEXT, 50 * MIB)).await;
        let (read, mut write) = raw.split();
        let part = "x".repeat(size * MIB);
        tokio::spawn(async move {
            let _ = write.write_all(part.as_bytes()).await;
            std::future::pending::<()>().await;
        });
        parts.push(read);
    }
    assert_eq!(parts.pop().unwrap().close_code().await, 1013);
    until("one is gone", || server.stats().connections == 4).await;
    assert_eq!(server.stats().evicted, 1);
    canary.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unanswered_requests_count_as_memory() {
    let (server, log) = start_server(ServerOptions {
        max_pending_acks: 1 << 20,
        ..memory(8 * MIB)
    });
    let canary = Canary::start(&server).await;
    let mut asker = Raw::register(&server, "asker").await;
    let (mut read, write) = Raw::register(&server, "silent").await.split();
    tokio::spawn(async move {
        while read.next().await.is_some() {}
        drop(write);
    });
    let ack = "k".repeat(8_000);
    for n in 0..1_200 {
        let ask = format!(r#"{{"action":"send","message":0,"dest":"silent","ack":"{n:05}{ack}"}}"#);
        asker.write(&frame(TEXT, ask)).await;
    }
    log.wait_for(r#"slow Some("asker") Memory"#).await;
    assert_eq!(asker.close_code().await, 1013);
    until("the memory is free", || server.stats().memory < MIB).await;
    canary.finish().await;
}

/// Each of them has few requests, and long acks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_holder_of_long_acks_is_closed_not_the_sender_of_a_message() {
    let (server, log) = start_server(memory(8 * MIB));
    let (mut read, write) = Raw::register(&server, "silent").await.split();
    tokio::spawn(async move {
        while read.next().await.is_some() {}
        drop(write);
    });
    let message = frame(TEXT, numbered_send(7, r#""sender""#, 300 << 10));
    let (first, rest) = message.split_at(100 << 10);
    let mut sender = Raw::register(&server, "sender").await;
    sender.write(first).await;
    let ack = "k".repeat(8_000);
    let mut askers = Vec::new();
    for asker in 0..4 {
        let mut raw = Raw::register(&server, &format!("asker{asker}")).await;
        for n in 0..252 {
            let ask = format!(
                r#"{{"action":"send","message":0,"dest":"silent","ack":"{asker}{n:05}{ack}"}}"#
            );
            raw.write(&frame(TEXT, ask)).await;
        }
        askers.push(raw);
    }
    until("one has gone", || server.stats().evicted > 0).await;
    sender.write(rest).await;
    assert_eq!(number(&sender.next().await.unwrap().1), 7);
    assert_eq!(log.count(r#"slow Some("sender") Memory"#), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_holders_are_closed_until_memory_is_available() {
    let (server, _) = start_server(memory(8 * MIB));
    let canary = Canary::start(&server).await;
    let (mut read, write) = Raw::register(&server, "silent").await.split();
    tokio::spawn(async move {
        while read.next().await.is_some() {}
        drop(write);
    });
    // Those who come while memory is short are not let in: all of them come first.
    let mut askers = Vec::new();
    for asker in 0..220 {
        askers.push(Raw::register(&server, &format!("asker{asker}")).await);
    }
    let ack = "k".repeat(8_000);
    for (asker, raw) in askers.iter_mut().enumerate() {
        for n in 0..5 {
            let ask = format!(
                r#"{{"action":"send","message":0,"dest":"silent","ack":"{asker:03}{n:05}{ack}"}}"#
            );
            // It may have been ended.
            let _ = raw.0.get_mut().write_all(&frame(TEXT, ask)).await;
        }
    }
    until("some have gone", || server.stats().evicted > 0).await;
    until("there is room", || server.stats().memory <= 7 * MIB).await;
    let let_in = async {
        loop {
            let mut late = Raw(tokio::io::BufReader::new(tcp(&server).await));
            late.write(REQUEST.as_bytes()).await;
            if late.head().await.starts_with("HTTP/1.1 101 ") {
                return;
            }
        }
    };
    let_in.await;
    assert!(server.stats().evicted < 220);
    canary.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_for_many_is_counted_once() {
    let (server, _) = start_server(memory(32 * MIB));
    let mut readers = Vec::new();
    for n in 0..64 {
        readers.push(Raw::register(&server, &n.to_string()).await);
    }
    let ids: Vec<_> = (0..64).map(|n| format!("\"{n}\"")).collect();
    let dest = format!("[{}]", ids.join(","));
    let mut sender = Raw::register(&server, "sender").await;
    for n in 0..8 {
        sender.send(&numbered_send(n, &dest, MIB)).await;
    }
    // 512 MiB wait for all of them together, and are not more than 8.
    for reader in &mut readers {
        for n in 0..8 {
            assert_eq!(number(&reader.next().await.unwrap().1), n);
        }
    }
    assert_eq!(server.stats().evicted, 0);
    until("the memory is free", || server.stats().memory < 2 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_memory_is_short_new_connections_are_refused() {
    let (server, _) = start_server(memory(8 * MIB));
    let _deaf = Raw::register(&server, "deaf").await;
    let (_read, mut flood) = Raw::connect(&server).await.split();
    tokio::spawn(async move {
        for n in 0.. {
            let message = frame(TEXT, numbered_send(n, r#""deaf""#, MIB));
            if flood.write_all(&message).await.is_err() {
                return;
            }
        }
    });
    until("it is short", || server.stats().memory >= 8 * MIB).await;
    let mut late = Raw(tokio::io::BufReader::new(tcp(&server).await));
    late.write(REQUEST.as_bytes()).await;
    let head = late.head().await;
    // Unless the deaf one was ended first.
    match server.stats().evicted {
        0 => assert!(head.starts_with("HTTP/1.1 503 "), "{head}"),
        _ => assert!(head.starts_with("HTTP/1.1 "), "{head}"),
    }
    until("there is room again", || server.stats().memory < 8 * MIB).await;
    until("it is not short any more", || server.stats().evicted == 1).await;
    Raw::register(&server, "new").await;
}

//! Memory that the server allocates: bounded under load, and freed afterwards.
//!
//! The peers are in the same process, so they allocate little themselves.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Handle,
};
use wsmsgbroker::{Client, ClientEvent, ClientListener, ClientOptions, Server, ServerOptions};

use crate::{
    MEMORY, alone,
    support::{
        bind, options, port,
        raw::{
            CLOSE, LAST, MORE, PING, Raw, TEXT, TEXT_FRAGMENT, frame, header, number, numbered_send,
        },
        tcp, until,
    },
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Buffers that threads keep for reuse, and what a runtime allocates now and then.
const SLACK: usize = 2 * MIB;

/// Waits until no more is allocated than there was, but for the slack.
async fn back_to(before: usize) {
    until("the memory is back", || {
        MEMORY.current_usage() < before + SLACK
    })
    .await;
}

/// Rule 16.2: a burst to a healthy reader loses nothing, and costs no more than the mark.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_500_megabytes_is_delivered_in_bounded_memory() {
    let _alone = alone().await;
    let server = bind(options()).unwrap();
    let mut reader = Raw::register(&server, "b").await;
    let (_read, mut sender) = Raw::connect(&server).await.split();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let count = 500;
    let task = tokio::spawn(async move {
        for n in 0..count {
            let message = frame(TEXT, numbered_send(n, r#""b""#, MIB));
            sender.write_all(&message).await.unwrap();
        }
        sender
    });
    for n in 0..count {
        let (_, message) = reader.next().await.unwrap();
        assert_eq!((number(&message), message.len() > MIB), (n, true));
    }
    let _sender = task.await.unwrap();
    let peak = MEMORY.peak_usage().saturating_sub(before);
    // The mark of 16 MiB, and some messages in the hands of reader, router, writer and peers.
    assert!(peak < 32 * MIB, "{peak}");
    assert_eq!(server.stats().slow, 0);
    drop(reader);
    back_to(before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_connection_frees_the_memory_of_a_large_message() {
    let _alone = alone().await;
    let server = bind(options()).unwrap();
    let mut a = Raw::register(&server, "a").await;
    let mut b = Raw::register(&server, "b").await;
    let before = MEMORY.current_usage();
    let length = 50 * MIB;
    for round in 0..3 {
        let (dest, fragmented) =
            [(r#""b""#, false), (r#"["a","b"]"#, false), (r#""b""#, true)][round];
        let text = numbered_send(round, dest, length);
        if fragmented {
            let (start, rest) = text.split_at(length / 3);
            a.write(&frame(TEXT_FRAGMENT, start)).await;
            a.write(&frame(LAST, rest)).await;
        } else {
            a.send(&text).await;
        }
        drop(text);
        if dest.starts_with('[') {
            assert!(a.next().await.unwrap().1.len() > length);
        }
        assert!(b.next().await.unwrap().1.len() > length);
        // Both are still open, and idle.
        back_to(before).await;
    }
    for peer in [&mut a, &mut b] {
        peer.send(r#"{"action":"unregister"}"#).await;
        peer.receive().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_client_frees_the_memory_of_a_large_message() {
    let _alone = alone().await;
    let server = bind(options()).unwrap();
    let messages = Arc::new(AtomicUsize::new(0));
    let client = Client::connect(
        ClientOptions {
            host: "127.0.0.1".into(),
            port: port(&server),
            id: Some(r#""c""#.into()),
            ..ClientOptions::default()
        },
        Count(messages.clone()),
        &Handle::current(),
    )
    .unwrap();
    let mut a = Raw::register(&server, "a").await;
    until("registered", || server.stats().registered == 2).await;
    let before = MEMORY.current_usage();
    for n in 1..=2 {
        a.send(&numbered_send(n, r#""c""#, 50 * MIB)).await;
        until("heard", || messages.load(SeqCst) == n).await;
        back_to(before).await;
    }
    client.close();
}

/// Counts the messages that a client receives.
struct Count(Arc<AtomicUsize>);

impl ClientListener for Count {
    fn event(&self, event: ClientEvent<'_>) {
        if matches!(event, ClientEvent::Message { .. }) {
            self.0.fetch_add(1, SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_costs_a_few_kibibytes() {
    let _alone = alone().await;
    let server = bind(options()).unwrap();
    drop(Raw::register(&server, "warm").await);
    let before = MEMORY.current_usage();
    let count = 500;
    let mut peers = Vec::new();
    for n in 0..count {
        // Without its own buffer.
        peers.push(Raw::register(&server, &format!("peer {n}")).await.split().1);
    }
    let each = MEMORY.current_usage().saturating_sub(before) / count;
    assert!(each < 4 * KIB, "{each} bytes");
    drop(peers);
    until("nobody there", || server.stats().connections == 0).await;
    back_to(before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_leaves_no_memory_behind() {
    let _alone = alone().await;
    let server = bind(ServerOptions {
        max_payload: MIB,
        ..options()
    })
    .unwrap();
    let id = "x".repeat(8 * KIB);
    let inputs = [
        b"\x81\x02{}".to_vec(),
        frame(TEXT | 0x40, "{}"),
        frame(0x83, "{}"),
        frame(LAST, "{}"),
        frame(PING & 0x7f, ""),
        frame(TEXT, b"\xff"),
        frame(CLOSE, b"\x03"),
        frame(TEXT, vec![b'x'; MIB + 1]),
        // Never complete.
        header(TEXT, MIB),
        [header(TEXT, MIB), vec![b'x'; MIB - 1]].concat(),
        [frame(TEXT_FRAGMENT, "x".repeat(MIB / 2)), frame(MORE, "x")].concat(),
        frame(TEXT_FRAGMENT, "x".repeat(MIB)),
        // Complete, and refused.
        frame(TEXT, "[".repeat(MIB)),
        frame(TEXT, format!(r#"{{"action":"{id}"}}"#)).repeat(16),
        frame(
            TEXT,
            format!(
                r#"{{"action":"send","message":1,"dest":[{}0]}}"#,
                "0,".repeat(200_000)
            ),
        ),
        frame(TEXT, format!(r#"{{"action":"register","id":"{id}"}}"#)).repeat(16),
        frame(PING, [0; 125]).repeat(1_000),
    ];
    let heads = [
        "",
        "GET / HTTP/1.1\r\nCookie: ",
        "POST /\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
    ];
    let all = async |server: &Server| {
        for input in &inputs {
            let mut raw = Raw::connect(server).await;
            // The server may have had enough of it before the end.
            let _ = raw.0.write_all(input).await;
            // Vanishes, in whatever state it is.
        }
        for head in heads {
            let mut socket = tcp(server).await;
            socket.write_all(head.as_bytes()).await.unwrap();
        }
        until("nobody there", || server.stats().connections == 0).await;
    };
    all(&server).await;
    let before = MEMORY.current_usage();
    for _ in 0..20 {
        all(&server).await;
    }
    back_to(before).await;
    assert_eq!(server.ids().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unanswered_requests_end_with_their_connections() {
    let _alone = alone().await;
    let server = bind(options()).unwrap();
    let before = MEMORY.current_usage();
    let mut b = Raw::register(&server, "b").await;
    let mut a = Raw::register(&server, "a").await;
    let ack = "x".repeat(100);
    let (count, limit) = (100_000, ServerOptions::default().max_pending_acks);
    for batch in 0..count / 1_000 {
        let mut requests = Vec::new();
        for n in 0..1_000 {
            let ack = format!("{ack}{batch}-{n}");
            let request = format!(r#"{{"action":"send","message":1,"dest":"b","ack":"{ack}"}}"#);
            requests.extend(frame(TEXT, request));
        }
        a.write(&requests).await;
        for _ in 0..1_000 {
            b.next().await.unwrap();
        }
        assert!(server.stats().pending <= limit);
    }
    assert_eq!(server.stats().pending, limit);
    // Both tables, both queues, and the texts of the acks.
    let cost = MEMORY.current_usage().saturating_sub(before);
    assert!(cost / limit < KIB, "{cost}");
    drop(b);
    until("nobody can answer", || server.stats().pending == 0).await;
    drop(a);
    until("nobody there", || server.stats().connections == 0).await;
    back_to(before).await;
}

/// A receiver listed as often as can be does not get as many copies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_listed_65_536_times_queues_little_more_than_the_high_water_mark() {
    let _alone = alone().await;
    let server = bind(options()).unwrap();
    let mut b = Raw::register(&server, "b").await;
    let mut a = Raw::connect(&server).await;
    let before = MEMORY.current_usage();
    let times = 65_536;
    let text = "x".repeat(4_000);
    let dest = format!("[{}\"b\"]", "\"b\",".repeat(times - 1));
    a.send(&format!(
        r#"{{"action":"send","message":"{text}","dest":{dest}}}"#
    ))
    .await;
    let times = times as u64;
    until("all are queued", || server.stats().messages_out == times).await;
    let cost = MEMORY.current_usage().saturating_sub(before);
    assert!(cost < 32 * MIB, "{cost}");
    for _ in 0..times {
        assert!(b.next().await.unwrap().1.len() > 4_000);
    }
    back_to(before).await;
}

/// The queue of a peer that does not read is bounded, and freed with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_reads_queues_no_more_than_the_high_water_mark() {
    let _alone = alone().await;
    let server = bind(ServerOptions {
        slow_consumer_timeout: std::time::Duration::from_millis(200),
        ..options()
    })
    .unwrap();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let deaf = Raw::register(&server, "deaf").await;
    let mut senders = Vec::new();
    for _ in 0..4 {
        let (mut read, mut write) = Raw::connect(&server).await.split();
        senders.push(tokio::spawn(async move {
            let message = frame(TEXT, numbered_send(0, r#""deaf""#, MIB / 4));
            for _ in 0..256 {
                write.write_all(&message).await.unwrap();
            }
            write.shutdown().await.unwrap();
            while read.0.read(&mut [0]).await.is_ok_and(|n| n > 0) {}
        }));
    }
    for sender in senders {
        sender.await.unwrap();
    }
    assert_eq!(server.stats().slow, 1);
    let peak = MEMORY.peak_usage().saturating_sub(before);
    assert!(peak < 32 * MIB, "{peak}");
    drop(deaf);
    back_to(before).await;
}

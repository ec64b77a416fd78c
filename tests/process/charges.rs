//! `stats().memory` is what the server holds: for every kind of state that a peer can create, the bytes
//! allocated are compared with the bytes charged (rule 20.6).
//!
//! The peers are in the same process, so they allocate little themselves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use wsmsgbroker::{Server, ServerOptions};

use crate::{
    MEMORY, alone,
    support::{
        LONG, bind,
        canary::Canary,
        comes_true, options,
        raw::{
            BINARY, MORE, PING, REQUEST, Raw, TEXT, TEXT_FRAGMENT, frame, header, numbered_send,
        },
        start_server, tcp, until,
    },
};

const MIB: usize = 1 << 20;
/// Buffers that threads keep for reuse, tables with room for more, and what peers and a runtime allocate.
const SLACK: usize = 3 * MIB;

/// No limit is in the way.
fn limits() -> ServerOptions {
    ServerOptions {
        max_memory: 1 << 36,
        slow_consumer_timeout: LONG,
        max_backpressure: 1 << 40,
        max_pending_acks: 1 << 24,
        max_control_frames: 1 << 24,
        max_connections: 4096,
        close_timeout: Duration::from_millis(10),
        ..options()
    }
}

/// Memory held now, as measured and as charged by the server.
struct Held {
    allocated: usize,
    charged: usize,
}

impl Held {
    /// Once what tests before held is free.
    async fn begin(server: &Server) -> Self {
        let (mut last, mut steady) = (0, 0);
        until("nothing is freed any more", || {
            let now = MEMORY.current_usage() / 1024;
            steady = if now == last { steady + 1 } else { 0 };
            last = now;
            steady > 50
        })
        .await;
        Self::now(server)
    }

    fn now(server: &Server) -> Self {
        Self {
            allocated: MEMORY.current_usage(),
            charged: server.stats().memory,
        }
    }

    /// At least `least` bytes have been allocated since, and they are charged, within a tenth; not
    /// twice over, either.
    async fn is_charged(&self, server: &Server, least: usize) {
        let (mut last, mut steady) = ((0, 0), 0);
        until("so much is allocated, and nothing changes any more", || {
            let (allocated, charged) = (MEMORY.current_usage(), server.stats().memory);
            let now = (allocated / 1024, charged / 1024);
            let is_steady = now == last && allocated >= self.allocated + least;
            steady = if is_steady { steady + 1 } else { 0 };
            last = now;
            steady > 50
        })
        .await;
        let now = Self::now(server);
        let allocated = now.allocated.saturating_sub(self.allocated);
        let charged = now.charged.saturating_sub(self.charged);
        println!("allocated {allocated}, charged {charged}");
        assert!(
            allocated <= charged + charged / 10 + SLACK,
            "{allocated}, charged {charged}"
        );
        assert!(
            charged <= allocated * 2 + SLACK,
            "{charged}, allocated {allocated}"
        );
    }

    /// All of it is free again.
    async fn is_free(&self, server: &Server) {
        let is_free = || {
            let now = Self::now(server);
            now.allocated < self.allocated + SLACK && now.charged < self.charged + SLACK
        };
        let is_free = comes_true(is_free).await;
        let (now, before) = (Self::now(server), self);
        let left = now.allocated.saturating_sub(before.allocated);
        assert!(
            is_free,
            "{left} allocated, {} charged",
            now.charged - before.charged
        );
    }
}

/// Connections that are registered as `a0`, `a1`, ..., and do not read.
async fn deaf(server: &Server, count: usize) -> Vec<Raw> {
    let mut all = Vec::new();
    for n in 0..count {
        all.push(Raw::register(server, &format!("a{n}")).await);
    }
    all
}

/// Reads and forgets all that comes.
fn drain(raw: Raw) -> tokio::net::tcp::OwnedWriteHalf {
    let (read, write) = raw.split();
    let mut socket = read.0.into_inner();
    tokio::spawn(async move {
        let mut scratch = vec![0; 64 << 10];
        while socket
            .read(&mut scratch)
            .await
            .is_ok_and(|length| length > 0)
        {}
    });
    write
}

/// Fills the sockets of deaf receivers, so that what follows waits in the server.
async fn fill(sender: &mut Raw, server: &Server, receivers: usize) {
    for n in 0..receivers {
        for number in 0..8 {
            sender
                .send(&numbered_send(number, &format!("\"a{n}\""), MIB))
                .await;
        }
    }
    until("all is routed", || {
        server.stats().messages_out as usize >= receivers * 8
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_their_ids() {
    let _alone = alone().await;
    let server = bind(limits()).unwrap();
    let held = Held::begin(&server).await;
    let mut all = Vec::new();
    for n in 0..1_000 {
        let mut socket = tcp(&server).await;
        let id = format!("{n:04}{}", "i".repeat(8_000));
        let register = format!(r#"{{"action":"register","id":"{id}"}}"#);
        socket.write_all(REQUEST.as_bytes()).await.unwrap();
        socket.write_all(&frame(TEXT, register)).await.unwrap();
        all.push(socket);
    }
    until("all are registered", || server.stats().registered == 1_000).await;
    held.is_charged(&server, 16 * MIB).await;
    drop(all);
    held.is_free(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_heads() {
    let _alone = alone().await;
    let (server, _) = start_server(ServerOptions {
        handshake_timeout: LONG,
        ..limits()
    });
    let held = Held::begin(&server).await;
    let mut all: Vec<TcpStream> = Vec::new();
    for _ in 0..1_000 {
        let mut socket = tcp(&server).await;
        let head = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(15_000));
        socket.write_all(head.as_bytes()).await.unwrap();
        all.push(socket);
    }
    held.is_charged(&server, 12 * MIB).await;
    drop(all);
    held.is_free(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incomplete_messages() {
    let _alone = alone().await;
    let (server, _) = start_server(limits());
    for (first, length, sent) in [
        (TEXT, 64 << 10, 60 << 10),
        (TEXT, MIB, MIB - 1),
        (TEXT, 4 * MIB, 4 * MIB - 1),
        // Nothing is allocated for bytes that are announced and have not arrived.
        (TEXT, 100 * MIB, 150_000),
        (BINARY, 100 * MIB, 150_000),
        (TEXT_FRAGMENT, 100 * MIB, MIB),
    ] {
        let held = Held::begin(&server).await;
        let mut all = Vec::new();
        for _ in 0..(24 * MIB / sent) {
            let mut raw = Raw::connect(&server).await;
            raw.write(&header(first, length)).await;
            raw.write(&vec![b'x'; sent]).await;
            all.push(raw);
        }
        held.is_charged(&server, 16 * MIB).await;
        drop(all);
        held.is_free(&server).await;
    }
    // In fragments, and byte by byte.
    let held = Held::begin(&server).await;
    let mut all = Vec::new();
    for _ in 0..8 {
        let mut raw = Raw::connect(&server).await;
        raw.write(&frame(TEXT_FRAGMENT, vec![b'x'; MIB])).await;
        raw.write(&frame(MORE, vec![b'x'; MIB])).await;
        raw.write(&header(MORE, 100_000)).await;
        for _ in 0..32 {
            raw.write(&vec![b'x'; 3_000]).await;
        }
        all.push(raw);
    }
    held.is_charged(&server, 16 * MIB).await;
    drop(all);
    held.is_free(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_queued_for_receivers() {
    let _alone = alone().await;
    let (server, _) = start_server(limits());
    let mut sender = Raw::register(&server, "sender").await;
    let all = deaf(&server, 10).await;
    fill(&mut sender, &server, 10).await;
    for (length, count) in [
        (40, 300_000),
        (3_000, 8_000),
        (20_000, 1_200),
        (400_000, 60),
    ] {
        let held = Held::begin(&server).await;
        let before = server.stats().messages_out;
        for n in 0..count {
            sender
                .write(&frame(
                    TEXT,
                    numbered_send(n, &format!("\"a{}\"", n % 10), length),
                ))
                .await;
        }
        until("all is routed", || {
            server.stats().messages_out - before == count as u64
        })
        .await;
        held.is_charged(&server, 20 * MIB).await;
    }
    drop(all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_queued_for_many_receivers() {
    let _alone = alone().await;
    let (server, _) = start_server(limits());
    let mut sender = Raw::register(&server, "sender").await;
    let all = deaf(&server, 60).await;
    fill(&mut sender, &server, 60).await;
    let dest: Vec<_> = (0..60).map(|n| format!("\"a{n}\"")).collect();
    let dest = format!("[{}]", dest.join(","));
    // Small and copied, shared, and both by turns; many times to one.
    for (lengths, count) in [
        ([40, 40], 6_000),
        ([5_000, 5_000], 4_000),
        ([5_000, 40], 4_000),
    ] {
        let held = Held::begin(&server).await;
        let before = server.stats().messages_out;
        for n in 0..count {
            sender
                .write(&frame(TEXT, numbered_send(n, &dest, lengths[n % 2])))
                .await;
        }
        until("all is routed", || {
            server.stats().messages_out - before == 60 * count as u64
        })
        .await;
        held.is_charged(&server, 16 * MIB).await;
    }
    let held = Held::begin(&server).await;
    let dest = format!("[{}\"a1\"]", r#""a0","#.repeat(65_535));
    for n in 0..8 {
        sender.send(&numbered_send(n, &dest, 300)).await;
    }
    sender.send(&numbered_send(0, r#""sender""#, 1)).await;
    sender.receive().await;
    held.is_charged(&server, 16 * MIB).await;
    drop(all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_requests() {
    let _alone = alone().await;
    let (server, _) = start_server(limits());
    let mut asker = Raw::register(&server, "asker").await;
    let mut asker_2 = Raw::connect(&server).await;
    asker_2
        .send(r#"{"action":"register","id":"asker 2","protocol":2}"#)
        .await;
    asker_2.receive().await;
    let mut all = Vec::new();
    for n in 0..20 {
        let mut raw = Raw::connect(&server).await;
        let version = 1 + n % 2;
        let register = format!(r#"{{"action":"register","id":"r{n}","protocol":{version}}}"#);
        raw.send(&register).await;
        raw.receive().await;
        all.push(drain(raw));
    }
    let many: Vec<_> = (0..20).map(|n| format!("\"r{n}\"")).collect();
    let many = format!("[{}]", many.join(","));
    let long = "k".repeat(2_000);
    for (dest, ack, count) in [
        (r#""r0""#, "", 40_000),
        (r#""r1""#, "", 40_000),
        (many.as_str(), "", 10_000),
        (r#""r0""#, long.as_str(), 8_000),
    ] {
        for asker in [&mut asker, &mut asker_2] {
            let held = Held::begin(&server).await;
            let before = server.stats().pending;
            for n in 0..count {
                let ack = format!("{n:08}{ack}");
                let ask = format!(r#"{{"action":"send","message":0,"dest":{dest},"ack":"{ack}"}}"#);
                asker.write(&frame(TEXT, ask)).await;
            }
            until("all is asked", || server.stats().pending == before + count).await;
            held.is_charged(&server, 8 * MIB).await;
            // All of them end, and leave nothing behind.
            asker.send(r#"{"action":"unregister"}"#).await;
            asker.receive().await;
            held.is_free(&server).await;
            asker
                .send(r#"{"action":"register","id":"asker","protocol":2}"#)
                .await;
            asker.receive().await;
        }
    }
}

/// Two connections that had a rush of requests and then fall silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answered_requests() {
    const RUSH: usize = 131_000;
    let _alone = alone().await;
    let (server, _) = start_server(limits());
    let mut pairs = Vec::new();
    for n in 0..4 {
        let asker = drain(Raw::register(&server, &format!("asker {n}")).await);
        let responder = drain(Raw::register(&server, &format!("r{n}")).await);
        pairs.push((asker, responder));
    }
    let held = Held::begin(&server).await;
    for (n, (asker, responder)) in pairs.iter_mut().enumerate() {
        let before = server.stats().messages_out;
        for k in 0..RUSH {
            let ask = format!(r#"{{"action":"send","message":0,"dest":"r{n}","ack":"{n} {k}"}}"#);
            asker.write_all(&frame(TEXT, ask)).await.unwrap();
        }
        until("all is asked", || server.stats().pending == RUSH).await;
        for k in 0..RUSH {
            let answer = format!(r#"{{"action":"answer","message":0,"ack":"{n} {k}"}}"#);
            responder.write_all(&frame(TEXT, answer)).await.unwrap();
        }
        until("all is answered", || {
            server.stats().messages_out - before == 2 * RUSH as u64
        })
        .await;
    }
    held.is_free(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_answers_and_pongs() {
    let _alone = alone().await;
    let (server, _) = start_server(limits());
    let mut all = deaf(&server, 10).await;
    let mut sender = Raw::register(&server, "sender").await;
    fill(&mut sender, &server, 10).await;
    let held = Held::begin(&server).await;
    for raw in &mut all {
        for _ in 0..1_000 {
            raw.write(&frame(PING, [b'p'; 125])).await;
        }
    }
    // Pongs are dropped where enough waits: nothing grows.
    held.is_free(&server).await;
    for (n, raw) in all.iter_mut().enumerate() {
        for k in 0..300 {
            let ask = format!(r#"{{"action":"send","message":0,"dest":"sender","ack":"{n} {k}"}}"#);
            raw.write(&frame(TEXT, ask)).await;
        }
    }
    let held = Held::begin(&server).await;
    let before = server.stats().messages_out;
    let filling = "x".repeat(8_000);
    let mut answered = 0;
    for n in 0..10 {
        for k in 0..300 {
            let answer = format!(r#"{{"action":"answer","message":"{filling}","ack":"{n} {k}"}}"#);
            sender.write(&frame(TEXT, answer)).await;
            answered += 1;
        }
    }
    until("all is answered", || {
        server.stats().messages_out - before >= answered
    })
    .await;
    held.is_charged(&server, 16 * MIB).await;
    drop(all);
}

/// Counts the bytes that come, and reads at most so many a second.
fn count(raw: Raw, pace: usize) -> (tokio::net::tcp::OwnedWriteHalf, Arc<AtomicUsize>) {
    let (read, write) = raw.split();
    let (mut socket, count) = (read.0.into_inner(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        let mut scratch = vec![0; 256 << 10];
        while let Ok(length @ 1..) = socket.read(&mut scratch).await {
            counted.fetch_add(length, Relaxed);
            if pace < usize::MAX {
                sleep(Duration::from_secs_f64(length as f64 / pace as f64)).await;
            }
        }
    });
    (write, count)
}

/// A stranger lists few receivers very often. The receivers read: none of them is to blame, and the
/// stranger waits before more copies exist than memory allows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_that_read_are_not_closed_because_of_a_flooding_sender() {
    const RECEIVERS: usize = 16;
    const ENTRIES: usize = 40_000;
    const LIMIT: usize = 32 * MIB;
    let _alone = alone().await;
    let server = bind(ServerOptions {
        max_memory: LIMIT,
        ..options()
    })
    .unwrap();
    let canary = Canary::start(&server).await;
    let mut all = Vec::new();
    for n in 0..RECEIVERS {
        all.push(count(
            Raw::register(&server, &format!("a{n}")).await,
            usize::MAX,
        ));
    }
    let mut stranger = drain(Raw::connect(&server).await);
    for length in [40, 1_500, 3_000, 6_000] {
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let came = |all: &[(_, Arc<AtomicUsize>)]| -> usize {
            all.iter().map(|(_, count)| count.load(Relaxed)).sum()
        };
        let came_before = came(&all);
        let dest: Vec<_> = (0..ENTRIES)
            .map(|n| format!("\"a{}\"", n % RECEIVERS))
            .collect();
        let text = numbered_send(7, &format!("[{}]", dest.join(",")), length);
        stranger.write_all(&frame(TEXT, text)).await.unwrap();
        until("all has come", || {
            came(&all) - came_before > ENTRIES * length
        })
        .await;
        let peak = MEMORY.peak_usage().saturating_sub(before);
        println!("{length}: peak {peak}");
        assert!(peak < LIMIT + 32 * MIB, "{peak}");
    }
    assert_eq!((server.stats().evicted, server.stats().slow), (0, 0));
    canary.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_slower_than_its_sender_gets_all_large_messages() {
    const MESSAGES: usize = 5;
    const LENGTH: usize = 20 * MIB;
    let _alone = alone().await;
    let server = bind(ServerOptions {
        max_memory: 32 * MIB,
        ..options()
    })
    .unwrap();
    let canary = Canary::start(&server).await;
    let (_write, came) = count(Raw::register(&server, "a").await, 40 * MIB);
    let mut sender = drain(Raw::register(&server, "sender").await);
    for n in 0..MESSAGES {
        let message = frame(TEXT, numbered_send(n, r#""a""#, LENGTH));
        sender.write_all(&message).await.unwrap();
    }
    until("all has come", || came.load(Relaxed) > MESSAGES * LENGTH).await;
    assert_eq!((server.stats().evicted, server.stats().slow), (0, 0));
    canary.finish().await;
}

/// Those who read go on; the one who does not is ended, and all that waited for it is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_receiver_that_does_not_read_is_closed() {
    let _alone = alone().await;
    let (server, log) = start_server(ServerOptions {
        max_memory: 16 * MIB,
        max_backpressure: 64 * MIB,
        slow_consumer_timeout: LONG,
        ..options()
    });
    let mut all = Vec::new();
    for n in 0..4 {
        all.push(count(
            Raw::register(&server, &format!("a{n}")).await,
            usize::MAX,
        ));
    }
    let mut deaf = Raw::register(&server, "deaf").await;
    let mut sender = drain(Raw::register(&server, "sender").await);
    let dest = r#"["a0","a1","deaf","a2","a3"]"#;
    for n in 0..800 {
        let message = frame(TEXT, numbered_send(n, dest, 64 << 10));
        sender.write_all(&message).await.unwrap();
    }
    until("all has come", || {
        let all = all.iter().map(|(_, count)| count.load(Relaxed));
        all.min().unwrap() > 800 * (64 << 10)
    })
    .await;
    assert_eq!(log.count(r#"slow Some("deaf") Memory"#), 1);
    assert_eq!(server.stats().evicted, 1);
    assert_eq!(deaf.close_code().await, 1013);
}

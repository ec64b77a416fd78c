//! Backpressure: a connection that does not read pauses its senders, then is closed; other connections
//! are not affected (rule 17).

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncRead, AsyncWriteExt},
    task::{JoinHandle, JoinSet},
};
use wsmsgbroker::ServerOptions;

use crate::support::{
    LONG, backpressure,
    canary::Canary,
    options,
    raw::{CLOSE, PING, PONG, Raw, TEXT, code, frame, number, numbered_send},
    start_server, until,
};

/// Bytes of a message, and messages of a flood: more than the buffers of two sockets take.
const LENGTH: usize = 64 << 10;
const FLOOD: usize = 768;

/// Sends a flood of numbered messages, then `last`. Ends when all is written.
fn flood(
    mut socket: impl AsyncWriteExt + Unpin + Send + 'static,
    dest: &str,
    last: &str,
) -> JoinHandle<()> {
    let (dest, last) = (dest.to_owned(), last.to_owned());
    tokio::spawn(async move {
        for n in 0..FLOOD {
            let message = frame(TEXT, numbered_send(n, &dest, LENGTH));
            if socket.write_all(&message).await.is_err() {
                return;
            }
        }
        // A flooder that has been closed cannot say more.
        let _ = socket.write_all(&frame(TEXT, last)).await;
        // Held open: its end is not part of the flood.
        std::future::pending().await
    })
}

/// Reads numbered messages as long as they come in order; their number, and what came then.
async fn read_in_order<S: AsyncRead + Unpin>(raw: &mut Raw<S>) -> (usize, Option<(u8, Vec<u8>)>) {
    let mut count = 0;
    loop {
        match raw.next().await {
            Some((TEXT, message)) if message.len() > LENGTH => {
                assert_eq!(number(&message), count);
                count += 1;
            }
            other => return (count, other),
        }
    }
}

/// Reads a whole flood, and what is sent behind it.
async fn read_flood<S: AsyncRead + Unpin>(raw: &mut Raw<S>, last: &str) {
    let (count, end) = read_in_order(raw).await;
    let end = end.map(|(first, text)| (first, String::from_utf8(text).unwrap()));
    assert_eq!((count, end), (FLOOD, Some((TEXT, last.to_owned()))));
}

const DONE: &str = r#"{"action":"send","message":"done","dest":"done"}"#;
const IS_DONE: &str = r#"{"action":"message","message":"done"}"#;

/// Rules 17.1, 17.4 and 15.6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_never_reads_pauses_its_senders_until_it_is_closed() {
    let (server, log) = start_server(backpressure(256 << 10, Duration::from_millis(200)));
    let canary = Canary::start(&server).await;
    let mut deaf = Raw::register(&server, "deaf").await;
    let mut done = Raw::register(&server, "done").await;
    let sender = Raw::connect(&server).await;
    let _flood = flood(sender.split().1, r#""deaf""#, DONE);
    assert_eq!(done.receive().await, IS_DONE);
    assert_eq!(log.count(r#"slow Some("deaf") Closed"#), 1);
    assert_eq!(log.count("unregistered deaf"), 1);
    assert_eq!(server.stats().slow, 1);
    // Held: most of the flood was read only when the deaf one was gone.
    assert!(log.count("unknown deaf") > FLOOD / 4);
    // It gets a piece from the beginning, then the code. What waited is thrown away.
    let (count, end) = read_in_order(&mut deaf).await;
    assert!(count <= FLOOD - log.count("unknown deaf"), "{count}");
    let (first, payload) = end.expect("a close frame");
    assert_eq!((first, code(&payload)), (CLOSE, 1013));
    deaf.ended().await;
    canary.finish().await;
}

/// Rule 17.4: also when what the reader has in part is more than half the mark.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_paused_within_a_large_message_continues_when_the_receiver_is_closed() {
    let (server, log) = start_server(backpressure(1024, Duration::from_millis(200)));
    let mut deaf = Raw::register(&server, "deaf").await;
    let mut done = Raw::register(&server, "done").await;
    let mut sender = Raw::connect(&server).await;
    for n in 0..48 {
        sender.send(&numbered_send(n, r#""deaf""#, 1 << 20)).await;
    }
    sender.send(DONE).await;
    assert_eq!(done.receive().await, IS_DONE);
    assert_eq!(log.count(r#"slow Some("deaf") Closed"#), 1);
    assert_eq!(deaf.close_code().await, 1013);
}

/// Rule 17.4: the time is that of senders who wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_disconnects_while_paused_stops_waiting() {
    let patience = Duration::from_secs(2);
    let (server, log) = start_server(backpressure(1024, patience));
    let mut deaf = Raw::register(&server, "deaf").await;
    let (read, write) = Raw::register(&server, "sender").await.split();
    let flood = flood(write, r#""deaf""#, "");
    let (mut before, mut since) = (0, Instant::now());
    until("the sender waits", || {
        let now = server.stats().messages_out;
        if now > std::mem::replace(&mut before, now) {
            since = Instant::now();
        }
        since.elapsed() > Duration::from_millis(100)
    })
    .await;
    // The connection is not read while it waits, so its reset is detected by the next write to it.
    read.0.get_ref().as_ref().set_zero_linger().unwrap();
    flood.abort();
    drop((read, flood.await));
    let other = Raw::register(&server, "other").await;
    until("the sender is gone", || {
        let poke = frame(TEXT, r#"{"action":"send","message":0,"dest":"sender"}"#);
        let _ = other.0.get_ref().try_write(&poke);
        log.count("unregistered sender") == 1
    })
    .await;
    assert!(since.elapsed() < patience, "it waited too long");
    tokio::time::sleep(2 * patience).await;
    assert_eq!(server.stats().slow, 0);
    server.close();
    let (count, end) = read_in_order(&mut deaf).await;
    let (first, payload) = end.unwrap();
    assert_eq!((count > 0, first, code(&payload)), (true, CLOSE, 1001));
}

/// Rules 17.1 and 16.2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_reads_before_the_timeout_loses_nothing() {
    let (server, log) = start_server(backpressure(1024, LONG));
    let late = Raw::register(&server, "late").await;
    let sender = Raw::connect(&server).await;
    let _flood = flood(
        sender.split().1,
        r#""late""#,
        r#"{"action":"send","message":0,"dest":"late"}"#,
    );
    // It reads when the first messages have come as far as they can.
    until("something is sent", || server.stats().messages_out > 2).await;
    let (mut late, _write) = late.split();
    read_flood(&mut late, r#"{"action":"message","message":0}"#).await;
    assert_eq!(log.count("unknown late"), 0);
    assert_eq!(server.stats().slow, 0);
}

/// Rule 17.4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_reads_slowly_but_steadily_is_not_closed() {
    let patience = Duration::from_secs(2);
    let (server, _) = start_server(backpressure(256 << 10, patience));
    let (mut slow, _write) = Raw::register(&server, "slow").await.split();
    let sender = Raw::connect(&server).await;
    let _flood = flood(sender.split().1, r#""slow""#, DONE);
    let start = Instant::now();
    // Longer in all than the slow-consumer timeout, but 2 MiB are read in a fraction of that.
    while start.elapsed() < patience * 3 / 2 {
        let (first, message) = slow.next().await.unwrap();
        assert_eq!((first, message.len() > LENGTH), (TEXT, true));
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    assert_eq!(server.stats().slow, 0);
    assert!(
        server.stats().messages_out < FLOOD as u64,
        "it was held all the time"
    );
}

/// Rule 17.2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_larger_than_the_high_water_mark_is_queued() {
    let (server, _) = start_server(backpressure(1024, LONG));
    let mut a = Raw::register(&server, "a").await;
    for n in 0..3 {
        a.send(&numbered_send(n, r#""a""#, 4 << 20)).await;
        let (_, message) = a.next().await.unwrap();
        assert_eq!((number(&message), message.len() > 4 << 20), (n, true));
    }
}

/// Rules 17.4 and 17.6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_that_flood_each_other_without_reading_do_not_block_the_broker() {
    let (server, log) = start_server(backpressure(256 << 10, Duration::from_millis(200)));
    let canary = Canary::start(&server).await;
    let mut done = Raw::register(&server, "done").await;
    let (a_read, a) = Raw::register(&server, "a").await.split();
    let (b_read, b) = Raw::register(&server, "b").await.split();
    let floods = [flood(a, r#""b""#, DONE), flood(b, r#""a""#, DONE)];
    // One of them at least is closed; if the other is not, it comes to its end.
    until("one is closed", || server.stats().slow > 0).await;
    let survived = async {
        let message = done.receive().await;
        assert!(message.contains(r#""message":"done""#), "{message}");
    };
    tokio::select! {
        () = survived => {}
        () = until("both are closed", || server.stats().slow == 2) => {}
    }
    assert!(log.count("unregistered a") + log.count("unregistered b") > 0);
    canary.finish().await;
    drop((floods, a_read, b_read));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_that_flood_each_other_and_read_late_lose_nothing() {
    let (server, log) = start_server(backpressure(256 << 10, LONG));
    let (mut a_read, a) = Raw::register(&server, "a").await.split();
    let (mut b_read, b) = Raw::register(&server, "b").await.split();
    let last = |dest| format!(r#"{{"action":"send","message":0,"dest":"{dest}"}}"#);
    let _a = flood(a, r#""b""#, &last("b"));
    let _b = flood(b, r#""a""#, &last("a"));
    until("both have begun", || server.stats().messages_out > 64).await;
    read_flood(
        &mut a_read,
        r#"{"action":"message","message":0,"from":"b"}"#,
    )
    .await;
    read_flood(
        &mut b_read,
        r#"{"action":"message","message":0,"from":"a"}"#,
    )
    .await;
    assert_eq!(log.count("unregistered a"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_floods_itself_without_reading_is_closed() {
    let (server, log) = start_server(backpressure(256 << 10, Duration::from_millis(200)));
    let canary = Canary::start(&server).await;
    let (mut read, write) = Raw::register(&server, "self").await.split();
    let _flood = flood(write, r#""self""#, DONE);
    log.wait_for(r#"slow Some("self") Closed"#).await;
    assert_eq!(read.close_code().await, 1013);
    canary.finish().await;
}

/// Rule 17.10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_registers_repeatedly_without_reading_is_closed() {
    let (server, _) = start_server(backpressure(256 << 10, Duration::from_millis(200)));
    let canary = Canary::start(&server).await;
    let (mut read, mut write) = Raw::connect(&server).await.split();
    let flood = tokio::spawn(async move {
        let id = "x".repeat(8_000);
        for n in 0.. {
            let register = format!(r#"{{"action":"register","id":"{n} {id}"}}"#);
            if write.write_all(&frame(TEXT, register)).await.is_err() {
                return;
            }
        }
    });
    until("it is closed", || server.stats().slow == 1).await;
    assert_eq!(read.close_code().await, 1013);
    flood.abort();
    canary.finish().await;
}

/// Rule 17.10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_registers_repeatedly_and_reads_late_gets_all_responses() {
    const PAIRS: usize = 50_000;
    let (server, log) = start_server(backpressure(1024, LONG));
    let (mut read, mut write) = Raw::connect(&server).await.split();
    let flood = tokio::spawn(async move {
        let pair = [
            r#"{"action":"register","id":7}"#,
            r#"{"action":"unregister"}"#,
        ];
        let pairs = pair.map(|text| frame(TEXT, text)).concat().repeat(PAIRS);
        write.write_all(&pairs).await.unwrap();
        write
    });
    // It is held: more than the buffers of two sockets take is under way.
    until("it has begun", || log.count("registered 7") > 2).await;
    for _ in 0..PAIRS {
        assert_eq!(read.receive().await, r#"{"action":"registered","id":"7"}"#);
        let next = read.receive().await;
        assert_eq!(next, r#"{"action":"unregistered","id":"7"}"#);
    }
    flood.await.unwrap();
    assert_eq!(server.stats().slow, 0);
}

/// Rule 17.3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_multicast_waits_for_its_slowest_receiver_and_reaches_all_in_order() {
    let (server, _) = start_server(backpressure(256 << 10, LONG));
    let mut slow = Raw::register(&server, "slow").await;
    let mut quick = Raw::register(&server, "quick").await;
    let sender = Raw::connect(&server).await;
    let last = r#"{"action":"send","message":0,"dest":["slow","quick"]}"#;
    let _flood = flood(sender.split().1, r#"["slow","quick"]"#, last);
    let (go, gone) = tokio::sync::oneshot::channel();
    let reader = tokio::spawn(async move {
        // The quick one gets a part, and then has to wait.
        for n in 0..8 {
            let (_, message) = quick.next().await.unwrap();
            assert_eq!(number(&message), n);
        }
        go.send(()).unwrap();
        let mut count = 8;
        while let Some((TEXT, message)) = quick.next().await {
            if message.len() < LENGTH {
                break;
            }
            assert_eq!(number(&message), count);
            count += 1;
        }
        count
    });
    gone.await.unwrap();
    read_flood(&mut slow, r#"{"action":"message","message":0}"#).await;
    assert_eq!(reader.await.unwrap(), FLOOD);
}

/// Reads a message per interval, until the connection ends. Returns the close code.
fn crawl(mut raw: Raw, interval: Duration) -> JoinHandle<u16> {
    tokio::spawn(async move {
        let mut code = 1006;
        while let Some((kind, payload)) = raw.next().await {
            if kind == CLOSE {
                code = crate::support::raw::code(&payload);
            }
            tokio::time::sleep(interval).await;
        }
        code
    })
}

const SLOW: Duration = Duration::from_millis(20);

/// Sends messages of `length` bytes to each `dest` in turn, until the receiver "slow" is closed, which reads
/// all the time but slowly. Meanwhile `fast` is read at `interval`.
async fn delay_others(
    mark: usize,
    length: usize,
    dests: &'static [&'static str],
    interval: Duration,
) {
    let (server, log) = start_server(backpressure(mark, Duration::from_secs(2)));
    let fast = crawl(Raw::register(&server, "fast").await, interval);
    let slow = crawl(Raw::register(&server, "slow").await, SLOW);
    // Its queue is never nearly empty.
    let other = crawl(Raw::register(&server, "other").await, SLOW / 2);
    let (_read, mut sender) = Raw::register(&server, "sender").await.split();
    let frames = dests
        .iter()
        .map(|dest| frame(TEXT, numbered_send(0, dest, length)));
    let frames: Vec<_> = frames.collect();
    let flood = tokio::spawn(async move {
        for frame in frames.iter().cycle() {
            if sender.write_all(frame).await.is_err() {
                return;
            }
        }
    });
    log.wait_for(r#"slow Some("slow") Closed"#).await;
    flood.abort();
    fast.abort();
    other.abort();
    assert_eq!(slow.await.unwrap(), 1013);
    assert_eq!(log.count(r#"slow Some("fast") Closed"#), 0);
}

/// Rule 17.11. It reads all the time, and never lets anybody wait for long: but others get no more than it
/// takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_delays_others_repeatedly_is_closed() {
    let mut cases = JoinSet::new();
    for dests in [
        &[r#"["fast","slow"]"#][..],
        &[r#""slow""#, r#""fast""#],
        // Others than the one before are delayed.
        &[r#""fast""#, r#""other""#, r#""slow""#],
        &[r#"["slow","other"]"#, r#""fast""#],
        &[r#""slow""#, r#"["fast","other"]"#],
    ] {
        cases.spawn(delay_others(256 << 10, 16 << 10, dests, Duration::ZERO));
    }
    // A few messages between two waits.
    let dests = &[r#""slow""#, r#""fast""#];
    cases.spawn(delay_others(64 << 10, 16 << 10, dests, Duration::ZERO));
    cases.join_all().await;
}

/// Rule 17.11. Whenever the sender begins to wait, the others have enough to read for a while: the burst is
/// larger than what sockets take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_delays_others_after_a_burst_is_closed() {
    const READS: Duration = Duration::from_millis(6);
    let mut cases = JoinSet::new();
    for dests in [
        &[r#"["fast","slow"]"#][..],
        &[r#""slow""#, r#""fast""#],
        &[r#""fast""#, r#""other""#, r#""slow""#],
    ] {
        cases.spawn(delay_others(16 << 20, 64 << 10, dests, READS));
    }
    cases.join_all().await;
}

/// Rule 17.11. Its sender talked to others before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_receiver_that_delays_nobody_is_not_closed() {
    let (server, _) = start_server(backpressure(4 << 20, Duration::from_secs(3)));
    let _idle = Raw::register(&server, "idle").await;
    let mut slow = Raw::register(&server, "slow").await;
    let (_read, mut sender) = Raw::register(&server, "sender").await.split();
    for n in 0..16 {
        let dest = [r#""idle""#, r#""slow""#][n % 2];
        let message = frame(TEXT, numbered_send(n, dest, 16));
        sender.write_all(&message).await.unwrap();
    }
    let flood = tokio::spawn(async move {
        loop {
            let message = frame(TEXT, numbered_send(0, r#""slow""#, 64 << 10));
            if sender.write_all(&message).await.is_err() {
                return;
            }
        }
    });
    // About 3 MiB per second: fast enough for the timeout.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        assert_eq!(slow.next().await.unwrap().0, TEXT);
        tokio::time::sleep(SLOW).await;
    }
    assert_eq!(server.stats().slow, 0);
    flood.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_multicast_continues_without_a_closed_receiver() {
    // Long enough for the quick one on a busy machine.
    let (server, log) = start_server(backpressure(256 << 10, Duration::from_secs(1)));
    let _deaf = Raw::register(&server, "deaf").await;
    let mut quick = Raw::register(&server, "quick").await;
    let sender = Raw::connect(&server).await;
    let last = r#"{"action":"send","message":0,"dest":["quick"]}"#;
    let _flood = flood(sender.split().1, r#"["deaf","quick"]"#, last);
    read_flood(&mut quick, r#"{"action":"message","message":0}"#).await;
    assert_eq!(log.count(r#"slow Some("deaf") Closed"#), 1);
    assert_eq!(log.count("unknown quick"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_pings_without_reading_affects_no_other() {
    let (server, _) = start_server(ServerOptions {
        max_control_frames: 1 << 24,
        ..options()
    });
    let canary = Canary::start(&server).await;
    let mut raw = Raw::connect(&server).await;
    let pings = frame(PING, [7; 125]).repeat(8 << 10);
    for _ in 0..32 {
        raw.write(&pings).await;
    }
    raw.send(r#"{"action":"register","id":"a"}"#).await;
    until("it is registered", || {
        server.ids().iter().any(|id| **id == *"a")
    })
    .await;
    let mut pongs = 0;
    let registered = loop {
        match raw.next().await.unwrap() {
            (PONG, payload) => assert_eq!(payload, [7; 125]),
            (_, text) => break text,
        }
        pongs += 1;
    };
    assert_eq!(registered, br#"{"action":"registered","id":"a"}"#);
    assert!((1..=32 * (8 << 10)).contains(&pongs));
    canary.finish().await;
}

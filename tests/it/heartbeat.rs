//! Heartbeats: a silent connection gets a ping, and is closed if it does not answer (rule 21).

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use wsmsgbroker::{Client, ClientEvent, ClientListener, ClientOptions, ServerOptions};

use crate::support::{
    LONG, Log,
    canary::Canary,
    options, port,
    raw::{PING, PONG, Raw, TEXT, frame, number, numbered_send},
    start_server, until,
};

const SHORT: Duration = Duration::from_millis(100);

fn beating() -> ServerOptions {
    ServerOptions {
        ping_interval: SHORT,
        ping_timeout: SHORT,
        ..options()
    }
}

/// Rules 21.1 and 21.2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_answer_a_ping_is_closed() {
    let (server, log) = start_server(beating());
    let canary = Canary::start(&server).await;
    let mut alive = Raw::register(&server, "alive").await;
    let mut dead = Raw::register(&server, "dead").await;
    // A dozen pings: many times the life of the other.
    for _ in 0..12 {
        assert_eq!(alive.next().await.unwrap(), (PING, vec![]));
        alive.write(&frame(PONG, "")).await;
    }
    log.wait_for("unregistered dead").await;
    assert_eq!(dead.next().await.unwrap(), (PING, vec![]));
    assert_eq!(dead.close_code().await, 1006);
    until("it is counted", || server.stats().dead == 1).await;
    assert_eq!(log.count("unregistered alive"), 0);
    canary.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_sends_is_not_pinged() {
    let (server, _) = start_server(ServerOptions {
        ping_interval: Duration::from_secs(1),
        ..beating()
    });
    let mut peer = Raw::register(&server, "a").await;
    let end = tokio::time::Instant::now() + Duration::from_millis(3_500);
    while tokio::time::Instant::now() < end {
        peer.send(r#"{"action":"send","message":1,"dest":"a"}"#)
            .await;
        let expected = r#"{"action":"message","message":1,"from":"a"}"#;
        assert_eq!(peer.receive().await, expected, "a ping would be another");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_sends_but_never_reads_is_dead_even_without_waiting_senders() {
    let (server, log) = start_server(ServerOptions {
        slow_consumer_timeout: LONG,
        ..beating()
    });
    let canary = Canary::start(&server).await;
    let deaf = Raw::register(&server, "deaf").await;
    let mut sender = Raw::register(&server, "sender").await;
    // More than the buffers of its socket take, less than its mark.
    for n in 0..120 {
        sender.send(&numbered_send(n, r#""deaf""#, 100_000)).await;
    }
    let (_read, mut write) = deaf.split();
    let talk = tokio::spawn(async move {
        let ping = frame(PING, "I am here");
        while write.write_all(&ping).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    });
    log.wait_for("unregistered deaf").await;
    until("it is counted", || server.stats().dead >= 1).await;
    talk.await.unwrap();
    canary.finish().await;
}

/// Rule 21.3: a sender paused by backpressure is not read, so its heartbeat does not time out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_paused_by_backpressure_is_not_dead() {
    let (server, log) = start_server(ServerOptions {
        max_backpressure: 8 << 20,
        slow_consumer_timeout: LONG,
        // A kernel that has had its fill wakes a writer after a megabyte or more.
        ping_interval: Duration::from_secs(2),
        ping_timeout: Duration::from_secs(2),
        ..options()
    });
    let mut slow = Raw::register(&server, "slow").await;
    let (mut pongs, mut held) = Raw::register(&server, "held").await.split();
    let count = 250;
    let sender = tokio::spawn(async move {
        for n in 0..count {
            let message = frame(TEXT, numbered_send(n, r#""slow""#, 100_000));
            held.write_all(&message).await.unwrap();
        }
        held
    });
    let mut received = 0;
    while received < count {
        let (kind, message) = slow.next().await.unwrap();
        if kind == PING {
            slow.write(&frame(PONG, "")).await;
            continue;
        }
        assert_eq!(number(&message), received);
        received += 1;
        // Its sender is held for several intervals, and comes to its end then.
        if received < 60 {
            tokio::time::sleep(SHORT).await;
        }
    }
    let _held = sender.await.unwrap();
    assert_eq!(log.count("unregistered held"), 0);
    // Reading resumes, and a ping is sent.
    assert_eq!(pongs.next().await.unwrap().0, PING);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_ping_interval_no_pings_are_sent() {
    let (server, _) = start_server(ServerOptions {
        ping_interval: Duration::ZERO,
        ping_timeout: Duration::from_millis(1),
        ..options()
    });
    let mut a = Raw::register(&server, "a").await;
    tokio::time::sleep(SHORT * 3).await;
    a.send(r#"{"action":"send","message":1,"dest":"a"}"#).await;
    assert_eq!(
        a.receive().await,
        r#"{"action":"message","message":1,"from":"a"}"#
    );
    assert_eq!(server.stats().dead, 0);
}

/// A client with a log of its events.
fn client(port: u16, ping_interval: Duration) -> (Client, Log) {
    let log = Log::default();
    let events = log.clone();
    let options = ClientOptions {
        host: "127.0.0.1".into(),
        port,
        id: Some("\"c\"".into()),
        ping_interval,
        ping_timeout: SHORT,
        ..ClientOptions::default()
    };
    let runtime = tokio::runtime::Handle::current();
    (
        Client::connect(options, Events(events), &runtime).unwrap(),
        log,
    )
}

struct Events(Log);

impl ClientListener for Events {
    fn event(&self, event: ClientEvent<'_>) {
        self.0.push(match event {
            ClientEvent::Registered { .. } => "Registered".to_owned(),
            ClientEvent::Closed { code, .. } => format!("Closed({code:?})"),
            event => format!("{event:?}"),
        });
    }
}

/// Rule 21.4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_a_silent_server_closes_with_1006() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (_client, log) = client(port, SHORT);
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(socket.read_u8().await.unwrap());
    }
    let request = String::from_utf8(request).unwrap();
    let key = request
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
        .unwrap();
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    socket.write_all(answer.as_bytes()).await.unwrap();
    log.wait_for("Closed(Some(1006))").await;
    // It had asked: after its registration there is a masked, empty ping.
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes).await;
    assert_eq!(bytes[bytes.len() - 6..][..2], [PING, 0x80]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_of_client_and_server_keep_both_alive() {
    let (server, log) = start_server(beating());
    let (client, events) = client(port(&server), SHORT);
    log.wait_for("registered c").await;
    tokio::time::sleep(SHORT * 10).await;
    client.unregister().unwrap();
    client.flush();
    log.wait_for("unregistered c").await;
    assert_eq!(events.count("Closed(Some(1006))"), 0);
    assert_eq!(server.stats().dead, 0);
}

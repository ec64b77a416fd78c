//! The Rust client, where no conversation of the specification applies: failed connections, full queues,
//! readers that pause.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Handle,
};
use wsmsgbroker::{Client, ClientEvent, ClientListener, ClientOptions, Error, ServerOptions};

use crate::support::{
    options, port,
    raw::{Raw, numbered_send},
    scripted_server::{accept, client_frame, server_frame},
    start_server, until,
};

/// Events of a client, and whether it continues reading.
#[derive(Default)]
struct ClientLog {
    lines: Mutex<Vec<String>>,
    messages: AtomicUsize,
    /// `batch_end` says stop.
    enough: AtomicBool,
    /// How often it has said so.
    stops: AtomicUsize,
}

impl ClientLog {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|l| *l == line).count()
    }

    async fn wait_for(&self, line: &str) {
        until(line, || self.count(line) > 0).await;
    }
}

struct Listener(Arc<ClientLog>);

impl ClientListener for Listener {
    fn event(&self, event: ClientEvent<'_>) {
        let line = match event {
            ClientEvent::Message { .. } => {
                self.0.messages.fetch_add(1, SeqCst);
                return;
            }
            ClientEvent::Registered { .. } => "Registered".to_owned(),
            ClientEvent::Error(error) => format!("error {}", error.code()),
            ClientEvent::Closed { code, .. } => format!("closed {code:?}"),
            other => format!("{other:?}"),
        };
        self.0.lines.lock().unwrap().push(line);
    }

    fn batch_end(&self) -> bool {
        let enough = self.0.enough.load(SeqCst);
        self.0.stops.fetch_add(usize::from(enough), SeqCst);
        !enough
    }
}

fn connect(options: ClientOptions) -> (Client, Arc<ClientLog>) {
    let told = Arc::new(ClientLog::default());
    let client = Client::connect(options, Listener(told.clone()), &Handle::current());
    (client.unwrap(), told)
}

fn to_port(port: u16) -> ClientOptions {
    ClientOptions {
        host: "127.0.0.1".into(),
        port,
        id: Some("\"a\"".into()),
        ..ClientOptions::default()
    }
}

/// A played server, and options of a client that connects to it.
async fn listen() -> (TcpListener, ClientOptions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, to_port(port))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connecting_to_a_closed_port_is_refused() {
    let (listener, options) = listen().await;
    drop(listener);
    let (client, told) = connect(options);
    told.wait_for("closed Some(1006)").await;
    assert_eq!(told.lines(), ["error ECONNREFUSED", "closed Some(1006)"]);
    assert!(matches!(client.send("1", "\"b\"", ""), Err(Error::NotOpen)));
    assert!(matches!(client.unregister(), Err(Error::NotOpen)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connecting_to_a_silent_server_times_out() {
    let (listener, options) = listen().await;
    let (_client, told) = connect(ClientOptions {
        connect_timeout: Duration::from_millis(50),
        ..options
    });
    let _socket = listener.accept().await.unwrap();
    told.wait_for("closed Some(1006)").await;
    assert_eq!(told.lines(), ["error ETIMEDOUT", "closed Some(1006)"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_while_connecting_takes_no_longer_than_any_close() {
    let (listener, options) = listen().await;
    let (client, told) = connect(ClientOptions {
        connect_timeout: Duration::from_secs(3600),
        close_timeout: Duration::from_millis(50),
        ..options
    });
    let _socket = listener.accept().await.unwrap();
    client.close();
    told.wait_for("closed None").await;
    assert_eq!(told.lines(), ["closed None"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_handshake_response_is_an_error() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..],
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switch",
        b"\0\0\0\0",
    ] {
        let (listener, options) = listen().await;
        let (_client, told) = connect(options);
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(answer).await.unwrap();
        socket.shutdown().await.unwrap();
        told.wait_for("closed Some(1006)").await;
        let lines = told.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("error "), "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_in_the_segment_of_the_handshake_is_received() {
    let (listener, options) = listen().await;
    let (_client, told) = connect(options);
    let registered = server_frame(r#"{"action":"registered","id":"a"}"#);
    let _socket = accept(&listener, &registered).await;
    told.wait_for("Registered").await;
    assert_eq!(told.lines(), ["Open", "Registered"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_rejects_messages_and_loses_no_accepted_one() {
    let (listener, options) = listen().await;
    let (client, told) = connect(ClientOptions {
        max_queued: 1_000,
        ..options
    });
    let text = format!("\"{}\"", "x".repeat(100));
    let mut taken = 0;
    let refusal = loop {
        match client.send(&text, "\"b\"", "") {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refusal.code(), "ERR_WSMB_MAX_QUEUED");
    assert!((3..10).contains(&taken), "{taken}");
    client.send("1", "\"b\"", "").expect("room for a small one");
    let mut socket = accept(&listener, b"").await;
    client_frame(&mut socket).await;
    for _ in 0..taken {
        assert!(client_frame(&mut socket).await.len() > 100);
    }
    assert_eq!(
        client_frame(&mut socket).await,
        br#"{"action":"send","message":1,"dest":"b"}"#
    );
    told.wait_for("Open").await;
    until("there is room again", || client.waiting() == 0).await;
    client.send(&text, "\"b\"", "").unwrap();
    client.flush();
    assert!(client_frame(&mut socket).await.len() > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drained_is_emitted_after_sending_beyond_the_high_water_mark() {
    let (listener, options) = listen().await;
    let (client, told) = connect(options);
    let mark = ClientOptions::default().high_water_mark;
    let mut socket = accept(&listener, b"").await;
    client_frame(&mut socket).await;
    told.wait_for("Open").await;
    for round in 1..=3 {
        let text = format!("\"{}\"", "x".repeat(64 << 10));
        let mut sent = 0;
        loop {
            client.send(&text, "\"b\"", "").unwrap();
            sent += 1;
            if client.flush() >= mark {
                break;
            }
        }
        assert_eq!(told.count("Drain"), round - 1);
        for _ in 0..sent {
            client_frame(&mut socket).await;
        }
        until("drain", || told.count("Drain") == round).await;
        assert_eq!(client.waiting(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_client_emits_no_events_until_it_resumes() {
    let (server, _) = start_server(ServerOptions {
        // The client is slow on purpose.
        slow_consumer_timeout: Duration::from_secs(3600),
        ..options()
    });
    let (client, told) = connect(to_port(port(&server)));
    told.wait_for("Registered").await;
    told.enough.store(true, SeqCst);
    let (_read, mut write) = Raw::connect(&server).await.split();
    // More than sockets and the server hold, and each more than a turn.
    let (count, length) = (512, 128 << 10);
    let sender = tokio::spawn(async move {
        for n in 0..count {
            let message = numbered_send(n, r#""a""#, length);
            let frame = crate::support::raw::frame(crate::support::raw::TEXT, message);
            write.write_all(&frame).await.unwrap();
        }
        write
    });
    until("the listener has asked for a pause", || {
        told.stops.load(SeqCst) > 0
    })
    .await;
    until("the server is stuck", || server.stats().messages_out > 100).await;
    let heard = told.messages.load(SeqCst);
    assert!(heard < 3, "{heard}");
    assert!(!sender.is_finished());
    // One turn at a time while the listener asks for a pause; a turn may end within a message.
    let resumed = || {
        client.resume();
        told.messages.load(SeqCst) > heard
    };
    until("another message", resumed).await;
    assert!(told.messages.load(SeqCst) < count);
    told.enough.store(false, SeqCst);
    client.resume();
    until("all is told", || told.messages.load(SeqCst) == count).await;
    let _write = sender.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_times_out_if_the_server_does_not_answer() {
    let (listener, options) = listen().await;
    let (client, told) = connect(ClientOptions {
        close_timeout: Duration::from_millis(50),
        ..options
    });
    let mut socket = accept(&listener, b"").await;
    told.wait_for("Open").await;
    client.close();
    client.close();
    told.wait_for("closed Some(1006)").await;
    assert_eq!(told.lines(), ["Open", "closed Some(1006)"]);
    client_frame(&mut socket).await;
    let close = client_frame(&mut socket).await;
    assert_eq!(close, 1000_u16.to_be_bytes());
    assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_closed_or_destroyed_while_it_connects_ends() {
    let (listener, options) = listen().await;
    let (client, told) = connect(options.clone());
    client.close();
    drop(listener.accept().await.unwrap());
    until("its end", || told.lines().len() == 2).await;
    assert_eq!(told.lines(), ["error ECONNRESET", "closed Some(1006)"]);

    let (client, told) = connect(options);
    let (mut socket, _) = listener.accept().await.unwrap();
    client.destroy();
    until("its end", || !told.lines().is_empty()).await;
    assert!(told.lines().last().unwrap().starts_with("closed"));
    // The connection is gone, after the request at most.
    while socket.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_continues_without_its_handles() {
    let (server, log) = start_server(options());
    let (client, told) = connect(to_port(port(&server)));
    told.wait_for("Registered").await;
    drop(client.clone());
    drop(client);
    let mut other = Raw::connect(&server).await;
    other
        .send(r#"{"action":"send","message":1,"dest":"a"}"#)
        .await;
    until("it is told", || told.messages.load(SeqCst) == 1).await;
    assert_eq!(log.count("unregistered a"), 0);
    server.close();
    told.wait_for("closed Some(1001)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_options_are_refused_at_once() {
    for options in [
        ClientOptions {
            high_water_mark: 0,
            ..ClientOptions::default()
        },
        ClientOptions {
            connect_timeout: Duration::ZERO,
            ..ClientOptions::default()
        },
    ] {
        let told = Listener(Arc::default());
        let error = Client::connect(options, told, &Handle::current()).unwrap_err();
        assert_eq!(error.code(), "ERR_WSMB_OPTION");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_written_before_the_close_frame_to_a_slow_server() {
    let (listener, options) = listen().await;
    let (client, told) = connect(ClientOptions {
        close_timeout: Duration::from_secs(3),
        ..options
    });
    let mut socket = accept(&listener, b"").await;
    client_frame(&mut socket).await;
    told.wait_for("Open").await;
    let text = format!("\"{}\"", "x".repeat(1 << 20));
    for _ in 0..40 {
        client.send(&text, "\"b\"", "").unwrap();
    }
    client.close();
    // All of it takes longer than `close_timeout`; each part takes much less, on a busy machine too.
    for _ in 0..40 {
        assert!(client_frame(&mut socket).await.len() > 1 << 20);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client_frame(&mut socket).await, 1000u16.to_be_bytes());
    socket.write_all(&[0x88, 2, 3, 0xe8]).await.unwrap();
    drop(socket);
    told.wait_for("closed Some(1000)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pongs_for_a_server_that_does_not_read_are_bounded() {
    let (listener, options) = listen().await;
    let (client, told) = connect(options);
    let mut socket = accept(&listener, b"").await;
    let ping = [&[0x89, 125][..], &[7; 125]].concat();
    let pings = ping.repeat(1000);
    for _ in 0..200 {
        socket.write_all(&pings).await.unwrap();
    }
    socket
        .write_all(&server_frame(r#"{"action":"registered"}"#))
        .await
        .unwrap();
    told.wait_for("Registered").await;
    assert!(client.waiting() < 1 << 20, "{}", client.waiting());
}

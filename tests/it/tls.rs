//! The broker over TLS: the behavior it shares with plain connections, and the options that only TLS has.

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::HandshakeKind};
use tokio_tungstenite::accept_async;
use wsmsgbroker::{Listen, Server, ServerOptions};

use crate::support::{
    LONG, PATIENCE, bind,
    canary::Canary,
    client_log, port,
    raw::{CLOSE, PING, PONG, REQUEST, Raw, TEXT, frame, number, numbered_send},
    start_server, tcp,
    tls::{Authority, BOTH, acceptor, connect, connector, peer, secured, try_connect},
    until,
};

/// An open WebSocket over TLS, as bytes.
async fn open(server: &Server, connector: &TlsConnector) -> Raw<TlsStream<TcpStream>> {
    Raw::open(connect(server, connector).await).await
}

async fn register(
    server: &Server,
    connector: &TlsConnector,
    id: &str,
) -> Raw<TlsStream<TcpStream>> {
    let mut raw = open(server, connector).await;
    raw.send(&format!(r#"{{"action":"register","id":"{id}"}}"#))
        .await;
    raw.receive().await;
    raw
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_communicate_over_both_tls_versions() {
    let authority = Authority::new("ca");
    let (server, _) = start_server(authority.server());
    for version in BOTH {
        let connector = connector(&authority, &[version], None);
        let (a, b) = (
            peer(&server, &connector).await,
            peer(&server, &connector).await,
        );
        let spoken = a.0.get_ref().get_ref().1.protocol_version();
        assert_eq!(spoken, Some(version.version));
        Canary::between(a, b).await.finish().await;
    }
    assert_eq!(server.stats().accepted, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_connect_by_name_and_by_address() {
    let authority = Authority::new("ca");
    let identity = authority.issue_for(&["localhost", "127.0.0.1", "::1"]);
    let (server, _) = start_server(secured(&identity));
    let options = |id| client_log::to_port(port(&server), id, Some(authority.client()));
    let (a, heard) = client_log::registered(options("a")).await;
    let by_address = wsmsgbroker::ClientOptions {
        host: "127.0.0.1".into(),
        ..options("b")
    };
    let (b, _) = client_log::registered(by_address).await;
    b.send("1", r#""a""#, "").unwrap();
    b.flush();
    heard.wait_for(r#"message from "b": 1"#).await;
    a.close();
    assert_eq!(heard.end().await.last().unwrap(), "closed Some(1000)");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_may_use_tls() {
    let authority = Authority::new("ca");
    let path = std::env::temp_dir().join(format!("wsmb-tls-{}.sock", std::process::id()));
    let server = bind(ServerOptions {
        listen: Listen::Unix(path.clone()),
        ..authority.server()
    })
    .unwrap();
    let socket = tokio::net::UnixStream::connect(&path).await.unwrap();
    let connector = connector(&authority, BOTH, None);
    let mut raw = Raw::open(try_connect(socket, &connector).await.unwrap()).await;
    raw.send(r#"{"action":"register","id":"a"}"#).await;
    assert_eq!(raw.receive().await, r#"{"action":"registered","id":"a"}"#);
    raw.ended_by_us().await;
    drop(server);
}

/// Ciphertext that is not written yet is kept, however little the socket accepts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_to_a_slow_reader_arrives_complete_and_in_order() {
    const LENGTH: usize = 100_000;
    const COUNT: usize = 500;
    let authority = Authority::new("ca");
    let (server, _) = start_server(ServerOptions {
        slow_consumer_timeout: LONG,
        ..authority.server()
    });
    for version in BOTH {
        let connector = connector(&authority, &[version], None);
        let mut late = register(&server, &connector, "late").await;
        let before = server.stats().messages_out;
        let mut sender = open(&server, &connector).await;
        let task = tokio::spawn(async move {
            for n in 0..COUNT {
                // Of many lengths, for last records of many lengths.
                let message = numbered_send(n, r#""late""#, LENGTH + n);
                sender.write(&frame(TEXT, message)).await;
            }
            sender
        });
        // It reads when its socket is full.
        until("its outbox fills", || {
            server.stats().messages_out > before + 100
        })
        .await;
        for n in 0..COUNT {
            let (first, message) = late.next().await.unwrap();
            assert_eq!((first, number(&message)), (TEXT, n));
            let around = r#"{"action":"message","message":""}"#.len();
            assert_eq!(message.len(), LENGTH + n + around);
        }
        task.await.unwrap().ended_by_us().await;
        late.ended_by_us().await;
    }
    assert_eq!(server.stats().slow, 0);
}

/// Sent one by one until a socket is full: ciphertext is then all that waits, with nothing queued
/// behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_bytes_for_a_full_socket_are_written_without_a_further_send() {
    let authority = Authority::new("ca");
    let identity = authority.issue();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let options = client_log::to_port(port, "a", Some(authority.client()));
    let (client, heard) = client_log::connect(options).unwrap();
    let socket = listener.accept().await.unwrap().0;
    let socket = acceptor(&identity).accept(socket).await.unwrap();
    let mut socket = accept_async(socket).await.unwrap();
    heard.wait_for("open").await;
    let mut next = async || {
        let message = timeout(PATIENCE, socket.next()).await;
        message.expect("a message in time").unwrap().unwrap().len()
    };
    let register = r#"{"action":"register","id":"a"}"#.len();
    assert_eq!(next().await, register);
    let message = format!("\"{}\"", "x".repeat(10_000));
    let mut sent = 0;
    while client.waiting() == 0 {
        client.send(&message, r#""b""#, "").unwrap();
        client.flush();
        sent += 1;
    }
    client.want_drain();
    for _ in 0..sent {
        assert!(next().await > 10_000);
    }
    heard.wait_for("Drain").await;
    assert_eq!(client.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_write_to_one_connection_and_every_sender_keeps_its_order() {
    const SENDERS: usize = 8;
    const COUNT: usize = 400;
    let authority = Authority::new("ca");
    let (server, _) = start_server(ServerOptions {
        slow_consumer_timeout: LONG,
        ..authority.server()
    });
    let connector = connector(&authority, BOTH, None);
    let mut reader = register(&server, &connector, "reader").await;
    let options = client_log::to_port(port(&server), "many", Some(authority.client()));
    let (many, _) = client_log::registered(options).await;
    let mut tasks = Vec::new();
    for sender in 0..SENDERS {
        let mut raw = open(&server, &connector).await;
        let client = many.clone();
        tasks.push(tokio::task::spawn(async move {
            for n in 0..COUNT {
                // Some through connections of their own, some from many threads through one.
                let text = format!(r#"[{sender},{n},"{}"]"#, "x".repeat(n % 7 * 1000));
                if sender % 2 == 0 {
                    client.send(&text, r#""reader""#, "").unwrap();
                    client.flush();
                    if n % 20 == 0 {
                        tokio::task::yield_now().await;
                    }
                } else {
                    let action = r#"{"action":"send","dest":"reader","message":"#;
                    raw.send(&format!("{action}{text}}}")).await;
                }
            }
            raw
        }));
    }
    let mut next = [0; SENDERS];
    for _ in 0..SENDERS * COUNT {
        let text = reader.receive().await;
        let rest = text.split_once('[').unwrap().1;
        let mut numbers = rest.split(',').map(|number| number.parse::<usize>());
        let (Some(Ok(sender)), Some(Ok(n))) = (numbers.next(), numbers.next()) else {
            panic!("{text}");
        };
        assert_eq!(n, next[sender], "sender {sender}");
        next[sender] += 1;
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// Reads to the end of the stream, which must be a proper one: with a close_notify.
async fn properly_ended(raw: &mut Raw<TlsStream<TcpStream>>) {
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, raw.0.read_to_end(&mut rest)).await;
    end.expect("an end in time").unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_with_a_close_frame_and_a_close_notify() {
    let authority = Authority::new("ca");
    let (server, log) = start_server(authority.server());
    let connector = connector(&authority, BOTH, None);
    // It answers our close frame.
    let mut a = register(&server, &connector, "a").await;
    a.write(&frame(CLOSE, 1000_u16.to_be_bytes())).await;
    assert_eq!(a.close_code().await, 1000);
    properly_ended(&mut a).await;
    // A violation.
    let mut b = register(&server, &connector, "b").await;
    b.write(&frame(0x83, "")).await;
    assert_eq!(b.close_code().await, 1002);
    properly_ended(&mut b).await;
    // A refusal.
    let mut c = Raw(BufReader::new(connect(&server, &connector).await));
    let request = REQUEST.replacen("GET / ", "GET /nowhere ", 1);
    c.write(request.as_bytes()).await;
    let answer = c.head().await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let mut body = Vec::new();
    c.0.read_to_end(&mut body).await.unwrap();
    assert_eq!(body, b"Not Found");
    // Its own end, with much on the way before it.
    let mut d = register(&server, &connector, "d").await;
    let mut sender = open(&server, &connector).await;
    sender.send(&numbered_send(7, r#""d""#, 9 << 20)).await;
    until("it is on its way", || server.stats().messages_out > 0).await;
    server.close();
    let (first, message) = d.next().await.unwrap();
    assert_eq!((first, number(&message)), (TEXT, 7));
    assert_eq!(d.close_code().await, 1001);
    properly_ended(&mut d).await;
    assert_eq!(log.count("unregistered d"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_ends_with_a_close_frame_and_a_close_notify() {
    let authority = Authority::new("ca");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let options = client_log::to_port(port, "a", Some(authority.client()));
    let (client, heard) = client_log::connect(options).unwrap();
    let socket = listener.accept().await.unwrap().0;
    let identity = authority.issue();
    let socket = acceptor(&identity).accept(socket).await.unwrap();
    let mut socket = accept_async(socket).await.unwrap();
    heard.wait_for("open").await;
    client.close();
    let mut closed = false;
    // The stream of the WebSocket ends with the echo; what is below it is read by hand.
    while let Some(message) = socket.next().await {
        closed |= message.unwrap().is_close();
        if closed {
            break;
        }
    }
    socket.flush().await.unwrap();
    let mut stream = socket.into_inner();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(closed && rest.is_empty());
    assert_eq!(heard.end().await.last().unwrap(), "closed Some(1000)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_or_altered_record_closes_only_its_connection() {
    let authority = Authority::new("ca");
    let (server, log) = start_server(authority.server());
    let connector = connector(&authority, BOTH, None);
    let canary = Canary::between(
        peer(&server, &connector).await,
        peer(&server, &connector).await,
    )
    .await;
    let cut = register(&server, &connector, "cut").await;
    let (mut socket, _) = cut.0.into_inner().into_inner();
    socket.shutdown().await.unwrap();
    log.wait_for("unregistered cut").await;
    let said = register(&server, &connector, "said").await;
    let mut stream = said.0.into_inner();
    stream.shutdown().await.unwrap();
    log.wait_for("unregistered said").await;
    let broken = register(&server, &connector, "broken").await;
    let mut stream = broken.0.into_inner();
    // A well-formed record that is not encrypted.
    let record = [&[23, 3, 3, 0, 32], &[0; 32][..]].concat();
    stream.get_mut().0.write_all(&record).await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    log.wait_for("unregistered broken").await;
    canary.finish().await;
    until("they are gone", || server.stats().registered == 0).await;
}

/// Rule 20.6. Connections that do nothing fill the memory; each holds less than a share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_memory_is_short_no_tls_handshake_begins() {
    let authority = Authority::new("ca");
    let (server, _) = start_server(ServerOptions {
        max_memory: 1 << 20,
        ..authority.server()
    });
    let connector = connector(&authority, BOTH, None);
    let let_in = async || {
        let stream = try_connect(tcp(&server).await, &connector).await.ok()?;
        let mut raw = Raw(BufReader::new(stream));
        raw.write(REQUEST.as_bytes()).await;
        raw.head().await.starts_with("HTTP/1.1 101 ").then_some(raw)
    };
    let mut idle = Vec::new();
    while let Some(raw) = let_in().await {
        idle.push(raw);
    }
    assert!(idle.len() > 20, "{}", idle.len());
    let refused = server.stats().refused;
    let mut late = tcp(&server).await;
    assert_eq!(late.read(&mut [0]).await.unwrap(), 0);
    let stats = server.stats();
    assert_eq!((stats.refused, stats.evicted), (refused + 1, 0));
    idle.truncate(10);
    let again = async { while let_in().await.is_none() {} };
    timeout(PATIENCE, again).await.expect("room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_updates_are_handled() {
    let authority = Authority::new("ca");
    let (server, _) = start_server(authority.server());
    let connector = connector(&authority, &BOTH[..1], None);
    let mut a = register(&server, &connector, "a").await;
    for n in 0..20 {
        let connection = a.0.get_mut().get_mut().1;
        connection.refresh_traffic_keys().unwrap();
        a.send(&format!(r#"{{"action":"send","message":{n},"dest":"a"}}"#))
            .await;
        let expected = format!(r#"{{"action":"message","message":{n},"from":"a"}}"#);
        assert_eq!(a.receive().await, expected);
    }
    a.write(&frame(PING, "x")).await;
    assert_eq!(a.next().await, Some((PONG, b"x".to_vec())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_resumed_and_alpn_selects_http() {
    let authority = Authority::new("ca");
    let (server, _) = start_server(authority.server());
    for version in BOTH {
        let connector = connector(&authority, &[version], None);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let offer = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            let name = "localhost".try_into().unwrap();
            let stream = connector.with_alpn(offer).connect(name, tcp(&server).await);
            let raw = Raw::open(stream.await.unwrap()).await;
            let connection = raw.0.get_ref().get_ref().1;
            assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
            kinds.push(connection.handshake_kind().unwrap());
            raw.ended_by_us().await;
        }
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
    }
}

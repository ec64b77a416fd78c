//! Shutdown of a server: its port is free at once, connections are closed with a code, and all tasks end.

use std::time::{Duration, Instant};

use tokio::{io::AsyncWriteExt, time::timeout};
use wsmsgbroker::{Listen, Server, ServerOptions};

use crate::support::{
    PATIENCE, Peer, bind, options, port,
    raw::{CLOSE, Raw, TEXT, frame, numbered_send},
    start_server, tcp, until,
};

/// Waits until the server is closed.
async fn closed(server: &Server) {
    timeout(PATIENCE, server.closed()).await.expect("its end");
}

fn on_port(port: u16) -> ServerOptions {
    ServerOptions {
        listen: Listen::Tcp {
            host: "127.0.0.1".into(),
            port,
        },
        ..options()
    }
}

/// Rule 15.5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_port_is_free_when_close_returns_and_peers_get_a_close_frame() {
    let (mut server, log) = start_server(options());
    let port = port(&server);
    for round in 0..20 {
        let mut a = Peer::register(&server, "a").await;
        let mut b = Peer::connect(&server).await;
        let former = server;
        former.close();
        // In the same moment, before anything else may run.
        server = bind(on_port(port)).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(a.close_code().await, 1001);
        assert_eq!(b.close_code().await, 1001);
        drop((a, b));
        closed(&former).await;
        assert_eq!(former.stats().connections, 0);
        assert_eq!(former.ids().len(), 0);
    }
    assert_eq!(log.count("unregistered a"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_an_error_with_its_code() {
    let (server, _) = start_server(options());
    let error = bind(on_port(port(&server))).unwrap_err();
    assert_eq!(error.code(), "EADDRINUSE");
    drop(Peer::register(&server, "a").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_twice_or_dropping_closes_the_server() {
    let (server, _) = start_server(options());
    let port = port(&server);
    let mut a = Peer::register(&server, "a").await;
    server.close();
    server.close();
    let end = server.closed();
    drop(server);
    assert_eq!(a.close_code().await, 1001);
    drop(a);
    timeout(PATIENCE, end).await.unwrap();
    let server = bind(on_port(port)).unwrap();
    let mut a = Peer::register(&server, "a").await;
    let end = server.closed();
    drop(server);
    assert_eq!(a.close_code().await, 1001);
    drop(a);
    timeout(PATIENCE, end).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_connections_closes_at_once() {
    // Hours, so that none of these times is what ends it.
    let long = Duration::from_secs(3600);
    let (server, _) = start_server(ServerOptions {
        close_timeout: long,
        handshake_timeout: long,
        ..options()
    });
    // But for one whose handshake has not come far.
    let mut half = tcp(&server).await;
    half.write_all(b"GET / HT").await.unwrap();
    server.close();
    closed(&server).await;
    Raw(tokio::io::BufReader::new(half)).ended().await;
}

/// Rule 15.7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_do_not_answer_a_close_frame_are_closed_on_timeout() {
    let (server, _) = start_server(ServerOptions {
        close_timeout: Duration::from_millis(100),
        ..options()
    });
    let mut silent = Raw::register(&server, "silent").await;
    let mut flooding = Raw::register(&server, "flooding").await;
    let flood = tokio::spawn(async move {
        let message = frame(TEXT, numbered_send(0, r#""flooding""#, 64 << 10));
        while flooding.0.write_all(&message).await.is_ok() {}
    });
    until("it floods", || server.stats().messages_out > 100).await;
    let start = Instant::now();
    server.close();
    closed(&server).await;
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(silent.close_code().await, 1001);
    timeout(PATIENCE, flood).await.unwrap().unwrap();
}

/// Rule 15.5: the close frame is behind what waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_messages_arrive_before_the_close_frame() {
    let (server, _) = start_server(options());
    let mut b = Raw::register(&server, "b").await;
    let mut a = Raw::register(&server, "a").await;
    let length = 15 << 20;
    a.send(&numbered_send(7, r#"["b","b"]"#, length)).await;
    until("all is queued", || server.stats().messages_out == 2).await;
    server.close();
    assert_eq!(a.close_code().await, 1001);
    for _ in 0..2 {
        let (_, message) = b.next().await.unwrap();
        assert!(message.len() > length);
    }
    assert_eq!(b.close_code().await, 1001);
    drop((a, b));
    closed(&server).await;
}

/// Rule 15.7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actions_after_a_close_frame_are_ignored() {
    let (server, log) = start_server(options());
    let mut b = Peer::register(&server, "b").await;
    let mut a = Raw::register(&server, "a").await;
    let mut bytes = frame(TEXT, r#"{"action":"send","message":"before","dest":"b"}"#);
    bytes.extend(frame(CLOSE, 1000_u16.to_be_bytes()));
    bytes.extend(frame(
        TEXT,
        r#"{"action":"send","message":"behind","dest":"b"}"#,
    ));
    bytes.extend(frame(TEXT, r#"{"action":"register","id":"zombie"}"#));
    a.write(&bytes).await;
    assert_eq!(a.close_code().await, 1000);
    a.ended().await;
    assert_eq!(
        b.receive().await,
        r#"{"action":"message","message":"before","from":"a"}"#
    );
    drop(a);
    until("it has ended", || server.stats().connections == 1).await;
    b.send(r#"{"action":"send","message":"sentinel","dest":"b"}"#)
        .await;
    assert_eq!(
        b.receive().await,
        r#"{"action":"message","message":"sentinel","from":"b"}"#
    );
    assert_eq!(log.count("registered zombie"), 0);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_serves_and_its_file_is_removed_when_close_returns() {
    use tokio::net::UnixStream;
    use wsmsgbroker::Address;

    let directory = std::env::temp_dir();
    let path = directory.join(format!("wsmsgbroker-{}.sock", std::process::id()));
    let on_path = || ServerOptions {
        listen: Listen::Unix(path.clone()),
        ..options()
    };
    let (server, log) = start_server(on_path());
    assert_eq!(*server.address(), Address::Unix(path.clone()));
    let mut a = Raw::open(UnixStream::connect(&path).await.unwrap()).await;
    a.send(r#"{"action":"register","id":"a"}"#).await;
    assert_eq!(a.receive().await, r#"{"action":"registered","id":"a"}"#);
    a.send(&numbered_send(1, r#""a""#, 4 << 20)).await;
    assert!(a.receive().await.len() > 4 << 20);
    let error = bind(on_path()).unwrap_err();
    assert_eq!(error.code(), "EADDRINUSE");
    server.close();
    assert!(!path.exists());
    let next = bind(on_path()).unwrap();
    assert_eq!(a.close_code().await, 1001);
    drop(a);
    closed(&server).await;
    assert_eq!(log.count("unregistered a"), 1);
    let _b = Raw::open(UnixStream::connect(&path).await.unwrap()).await;
    drop(next);
    assert!(!path.exists());
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inherited_tcp_socket_outlives_the_server() {
    use wsmsgbroker::{Address, InheritedSocket};

    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    for round in 0..3 {
        let copy = held.try_clone().unwrap();
        let server = bind(ServerOptions {
            listen: Listen::Inherited(InheritedSocket::new(copy).unwrap()),
            ..options()
        });
        let server = server.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(*server.address(), Address::Tcp(address));
        let mut a = Peer::register(&server, "a").await;
        server.close();
        assert_eq!(a.close_code().await, 1001);
        closed(&server).await;
        // The holder accepts what the server does not.
        let _client = std::net::TcpStream::connect(address).unwrap();
        until("a connection", || held.accept().is_ok()).await;
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inherited_unix_socket_and_its_file_outlive_the_server() {
    use tokio::net::UnixStream;
    use wsmsgbroker::{Address, InheritedSocket};

    let name = format!("wsmsgbroker-inherited-{}.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    let held = std::os::unix::net::UnixListener::bind(&path).unwrap();
    for _ in 0..2 {
        let copy = held.try_clone().unwrap();
        let server = bind(ServerOptions {
            listen: Listen::Inherited(InheritedSocket::new(copy).unwrap()),
            ..options()
        })
        .unwrap();
        assert_eq!(*server.address(), Address::Unix(path.clone()));
        let _a = Raw::open(UnixStream::connect(&path).await.unwrap()).await;
        drop(server);
        assert!(path.exists());
    }
    std::fs::remove_file(&path).unwrap();
}

#[cfg(unix)]
#[test]
fn an_inherited_socket_has_no_options_of_an_address() {
    use wsmsgbroker::InheritedSocket;

    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = Listen::Inherited(InheritedSocket::new(socket).unwrap());
    for (changed, name) in [
        (
            ServerOptions {
                reuse_port: true,
                ..options()
            },
            "reusePort",
        ),
        (
            ServerOptions {
                socket_mode: Some(0o660),
                ..options()
            },
            "socketMode",
        ),
    ] {
        let listen = listen.clone();
        let error = ServerOptions { listen, ..changed }.validate().unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Rule 15.9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_server_completes_requests_and_accepts_no_new_peers() {
    let (server, _) = start_server(options());
    let port = port(&server);
    let mut asker = Peer::register(&server, "asker").await;
    let mut responder = Peer::register(&server, "responder").await;
    asker
        .send(r#"{"action":"send","message":1,"dest":"responder","ack":"k"}"#)
        .await;
    responder.receive().await;
    let drained = server.drain(PATIENCE);
    // The port is free, the conversation goes on.
    let next = bind(on_port(port)).unwrap();
    let drained = tokio::spawn(drained);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!drained.is_finished());
    responder
        .send(r#"{"action":"answer","ack":"k","message":2}"#)
        .await;
    assert_eq!(
        asker.receive().await,
        r#"{"action":"answer","ack":"k","from":"responder","message":2}"#
    );
    timeout(PATIENCE, drained).await.unwrap().unwrap();
    server.close();
    assert_eq!(asker.close_code().await, 1001);
    drop((asker, responder));
    closed(&server).await;
    drop(next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_ends_even_with_unanswered_requests() {
    let (server, _) = start_server(options());
    let mut a = Peer::register(&server, "a").await;
    a.send(r#"{"action":"send","message":1,"dest":"a","ack":"k"}"#)
        .await;
    a.receive().await;
    let start = Instant::now();
    server.drain(Duration::from_millis(200)).await;
    assert!(start.elapsed() >= Duration::from_millis(200));
    // An idle server drains at once.
    let (idle, _) = start_server(options());
    let _peer = Peer::register(&idle, "a").await;
    timeout(PATIENCE, idle.drain(Duration::from_secs(3600)))
        .await
        .unwrap();
}

/// Rule 31.3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_unregistered_after_goaway_answers_under_its_former_id() {
    let (server, _) = start_server(options());
    let mut x = Peer::register_2(&server, "x").await;
    let mut asker = Peer::register(&server, "asker").await;
    asker
        .send(r#"{"action":"send","message":1,"dest":"x","ack":7}"#)
        .await;
    assert!(x.receive().await.contains(r#""message":1"#));
    let draining = tokio::spawn(server.drain(Duration::from_secs(30)));
    assert!(x.receive().await.contains("goaway"));
    x.send(r#"{"action":"unregister","id":"x"}"#).await;
    assert!(x.receive().await.contains("unregistered"));
    x.send(r#"{"action":"answer","message":2,"ack":7}"#).await;
    let answer = r#"{"action":"answer","ack":7,"from":"x","message":2}"#;
    asker.expect(answer).await;
    // Its messages have no `from`.
    x.send(r#"{"action":"send","message":3,"dest":"asker"}"#)
        .await;
    asker.expect(r#"{"action":"message","message":3}"#).await;
    draining.abort();
}

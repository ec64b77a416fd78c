//! Sockets that an HTTP server of the embedder has accepted: their requests are answered, and bytes behind the
//! requests are not lost.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use wsmsgbroker::{
    AdoptedSocket, AdoptedUpgrade, Authentication, ConnectionInfo, Listen, Server, ServerOptions,
    auth::{Credentials, Decision, Denied, Grant},
};

use crate::support::{
    bind, options,
    raw::{CLOSE, TEXT, frame},
    start_server, until,
};

const HEAD: &str = "GET /any?q=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), 9);

fn nowhere() -> ServerOptions {
    ServerOptions {
        listen: Listen::Nowhere,
        close_timeout: std::time::Duration::from_millis(200),
        ..options()
    }
}

/// Two ends of a connection: that of the peer, and that of the HTTP server.
async fn connection() -> (TcpStream, std::net::TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    (peer, accepted.into_std().unwrap())
}

fn upgrade(head: &str, behind: &[u8]) -> AdoptedUpgrade {
    AdoptedUpgrade {
        bytes: [head.as_bytes(), behind].concat(),
        info: ConnectionInfo {
            remote_address: Some(CLIENT.ip()),
            remote_port: Some(CLIENT.port()),
            secure: true,
        },
        context: Some(r#"{"user":"a"}"#.into()),
    }
}

async fn adopt(server: &Server, upgrade: AdoptedUpgrade) -> TcpStream {
    let (peer, socket) = connection().await;
    server.adopt(AdoptedSocket::Tcp(socket), upgrade).unwrap();
    peer
}

/// Reads until the text has come.
async fn read_until(peer: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    loop {
        let found = String::from_utf8_lossy(&all).into_owned();
        if found.contains(text) || peer.read_buf(&mut all).await.unwrap() == 0 {
            return found;
        }
    }
}

#[tokio::test]
async fn a_request_with_frames_behind_it_is_served_whatever_its_path() {
    let hook = |credentials: Credentials| -> Decision {
        let is_meant = credentials.context.as_deref() == Some(r#"{"user":"a"}"#)
            && credentials.remote_address == "203.0.113.7"
            && credentials.secure
            && &*credentials.url == "/any?q=1";
        let decision = match is_meant {
            true => Ok(Grant::new(credentials.id)),
            false => Err(Denied::Unauthorized("not meant".into())),
        };
        Box::pin(async { decision })
    };
    let server = bind(ServerOptions {
        authentication: Authentication::Hook(
            std::sync::Arc::new(hook),
            std::time::Duration::from_secs(5),
        ),
        ..nowhere()
    })
    .unwrap();
    let behind = frame(TEXT, r#"{"action":"register","id":"a"}"#);
    let mut peer = adopt(&server, upgrade(HEAD, &behind)).await;
    let answer = read_until(&mut peer, "registered").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(server.has("a"));
    peer.write_all(&frame(
        TEXT,
        r#"{"action":"send","message":"later","dest":"a"}"#,
    ))
    .await
    .unwrap();
    read_until(&mut peer, "later").await;
    assert_eq!(server.stats().handed_over, 1);
}

#[tokio::test]
async fn other_rules_of_requests_hold() {
    let server = bind(nowhere()).unwrap();
    for (head, status) in [
        (HEAD.replace("13\r\n", "7\r\n"), "400"),
        (HEAD.replace("Host: a\r\n", ""), "400"),
        (HEAD.replace("Upgrade\r\n", "close\r\n"), "426"),
        (
            HEAD.replace("Host", &format!("X: {}\r\nHost", "x".repeat(70_000))),
            "431",
        ),
    ] {
        let mut peer = adopt(&server, upgrade(&head, b"")).await;
        let answer = read_until(&mut peer, "\r\n\r\n").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    until("all are gone", || server.stats().memory == 0).await;
    assert_eq!((server.stats().accepted, server.stats().refused), (0, 4));
}

#[tokio::test]
async fn requests_that_the_embedder_has_refused_are_counted_and_reported() {
    let (server, log) = start_server(nowhere());
    let info = upgrade(HEAD, b"").info;
    for status in [Some(401), Some(404), Some(599), None] {
        server.report_refused(info, status);
    }
    let statuses = ["401", "404", "400", "dropped"];
    let lines = statuses.map(|status| format!("refused handshake {status}"));
    assert_eq!(log.lines(), lines);
    let stats = server.stats();
    assert_eq!(stats.refused, 4);
    for status in statuses {
        assert!(stats.refused_by.0.contains(&(status, 1)), "{status}");
    }
}

#[tokio::test]
async fn closing_the_server_closes_the_sockets() {
    let server = bind(nowhere()).unwrap();
    let mut peer = adopt(&server, upgrade(HEAD, b"")).await;
    read_until(&mut peer, "\r\n\r\n").await;
    let closed = server.closed();
    drop(server);
    let mut close = [0; 4];
    peer.read_exact(&mut close).await.unwrap();
    assert_eq!(close[0], 0x88);
    // 1001: going away.
    peer.write_all(&frame(CLOSE, &close[2..])).await.unwrap();
    closed.await;
}

//! The HTTP request that opens a connection: accepted however it is split, or refused with a status
//! (rule 14).

use std::{sync::Arc, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use wsmsgbroker::{
    Authentication, Server, ServerOptions,
    auth::{Credentials, Decision, Grant},
};

use crate::support::{
    Peer, options,
    raw::{REQUEST, Raw, TEXT, frame},
    start_server, tcp, until,
};

/// Sends bytes on a connection of their own; the status of the answer, after which the server
/// has ended the connection.
async fn status(server: &Server, request: &[u8]) -> u16 {
    let mut raw = Raw(BufReader::new(tcp(server).await));
    // A server that has read enough may refuse the rest.
    let _ = raw.0.write_all(request).await;
    status_of(&mut raw).await
}

/// The status of the answer that refuses, after which the server has ended the connection.
async fn status_of(raw: &mut Raw) -> u16 {
    let head = raw.head().await;
    let status = head
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    let status = status.and_then(|digits| digits.parse().ok());
    assert!(head.contains("Connection: close\r\n"), "{head}");
    raw.ended().await;
    status.unwrap_or_else(|| panic!("{head}"))
}

/// Rule 14.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_single_bytes_followed_by_a_frame_is_accepted() {
    let (server, _) = start_server(options());
    let mut socket = tcp(&server).await;
    socket.set_nodelay(true).unwrap();
    let (head, last) = REQUEST.split_at(REQUEST.len() - 1);
    for byte in head.as_bytes().chunks(1) {
        socket.write_all(byte).await.unwrap();
        // Lets the server read what is there.
        tokio::task::yield_now().await;
    }
    let mut segment = last.as_bytes().to_vec();
    segment.extend(frame(TEXT, r#"{"action":"register","id":"a"}"#));
    // And the beginning of another one, whose rest comes later.
    let echo = frame(TEXT, r#"{"action":"send","message":1,"dest":"a"}"#);
    segment.extend(&echo[..9]);
    socket.write_all(&segment).await.unwrap();
    let mut raw = Raw(BufReader::new(socket));
    assert!(raw.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(raw.receive().await, r#"{"action":"registered","id":"a"}"#);
    raw.write(&echo[9..]).await;
    assert_eq!(
        raw.receive().await,
        r#"{"action":"message","message":1,"from":"a"}"#
    );
}

/// Rule 14.5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incomplete_request_is_refused_on_timeout() {
    let (server, log) = start_server(ServerOptions {
        // Long enough for one that is through, on a busy machine.
        handshake_timeout: Duration::from_millis(400),
        ..options()
    });
    let half = &REQUEST.as_bytes()[..REQUEST.len() - 2];
    let statuses = tokio::join!(
        status(&server, b""),
        status(&server, b"G"),
        status(&server, half)
    );
    assert_eq!(statuses, (408, 408, 408));
    // Time that is used up does not end who is through.
    let mut a = Peer::register(&server, "a").await;
    assert_eq!(status(&server, b"GET").await, 408);
    a.send(r#"{"action":"unregister"}"#).await;
    assert_eq!(a.receive().await, r#"{"action":"unregistered","id":"a"}"#);
    assert_eq!(log.count("connection"), 1);
    assert_eq!(server.stats().refused, 4);
}

/// Rule 14.6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_beyond_the_limits_is_refused() {
    let (server, _) = start_server(options());
    let (line, rest) = REQUEST.split_at(REQUEST.find("\r\n").unwrap() + 2);
    let many = format!("{line}{}{rest}", "a: b\r\n".repeat(2000));
    let below_the_size = format!("{line}{}{rest}", "a: b\r\n".repeat(100));
    let long = format!("{line}Cookie: {}\r\n{rest}", "x".repeat(20_000));
    let endless = format!("{line}Cookie: {}", "x".repeat(4 << 20));
    for bomb in [many, below_the_size, long, endless] {
        assert_eq!(status(&server, bomb.as_bytes()).await, 431);
    }
    let fits = format!("{line}Cookie: {}\r\n{rest}", "x".repeat(16_000));
    assert_eq!(status_101(&server, &fits).await, 101);
    let accepted = || server.stats().accepted == 1;
    until("it is counted", accepted).await;
    assert_eq!(server.stats().refused, 4);
}

/// The status of a request that is served, or not.
async fn status_101(server: &Server, request: &str) -> u16 {
    let mut raw = Raw(BufReader::new(tcp(server).await));
    raw.write(request.as_bytes()).await;
    raw.head().await[9..12].parse().unwrap()
}

/// Rules 14.2 to 14.4, 14.7 and 14.9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_no_websocket_upgrade_is_refused() {
    let (server, log) = start_server(ServerOptions {
        path: "foo".into(),
        ..options()
    });
    let request = REQUEST.replacen("GET / ", "GET /foo ", 1);
    for (from, to, expected) in [
        ("/foo", "/foo", 101),
        ("/foo", "/foo?a=/b", 101),
        ("Version: 13", "Version: 8", 101),
        (
            "Connection: Upgrade",
            "Connection: keep-alive\r\nConnection: Upgrade",
            101,
        ),
        (
            "Connection: Upgrade",
            "Connection: keep-alive, upgrade",
            101,
        ),
        ("/foo", "/", 404),
        ("/foo", "/foo/", 404),
        ("/foo", "/FOO", 404),
        ("Upgrade: websocket\r\nConnection: Upgrade\r\n", "", 426),
        ("Connection: Upgrade", "Connection: close", 426),
        ("Version: 13", "Version: 12", 400),
        ("Upgrade: websocket", "Upgrade: h2c", 400),
        ("GET", "POST", 405),
        ("GET", "HEAD", 405),
        ("dGhlIHNhbXBsZSBub25jZQ==", "bm90IGxvbmcgZW5vdWdo", 400),
        ("Sec-WebSocket-Key", "X-Key", 400),
        ("GET /foo HTTP/1.1", "\0\u{1}\u{2}", 400),
        ("GET /foo HTTP/1.1", "hello", 400),
        // Rule 14.3: whatever the method and the path.
        (
            "GET /foo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket",
            "POST /bar HTTP/1.1\r\nHost: localhost",
            426,
        ),
    ] {
        let request = request.replacen(from, to, 1);
        let found = match expected {
            101 => status_101(&server, &request).await,
            _ => status(&server, request.as_bytes()).await,
        };
        assert_eq!(found, expected, "{to:?} for {from:?}");
    }
    until("five are accepted", || log.count("connection") == 5).await;
}

/// Rules 14.11 to 14.13: a proxy that parses the head differently finds no second request in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ambiguous_head_is_refused_at_once() {
    // Nothing here is refused because its time is up.
    let (server, _) = start_server(ServerOptions {
        handshake_timeout: Duration::from_secs(3600),
        ..options()
    });
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let twice = |line: &str| format!("{line}\r\n{line}");
    let (two_hosts, two_keys) = (twice("Host: localhost"), twice(key));
    let two_versions = twice("Sec-WebSocket-Version: 13");
    for (from, to, expected) in [
        ("HTTP/1.1", "HTTP/1.0", 400),
        ("HTTP/1.1", "HTTP/2.0", 400),
        ("HTTP/1.1", "HTTP/1.1\nA: b", 400),
        ("HTTP/1.1\r\n", "HTTP/1.1\n", 400),
        ("Host: localhost\r\n", "Host: localhost\n", 400),
        ("Host: localhost", "Host: local\rhost", 400),
        ("Host: localhost", "Host: localhost\r\n folded", 400),
        ("Host: localhost", "Host: localhost\r\n\tfolded", 400),
        ("Host: localhost", " Host: localhost", 400),
        ("Host:", "Host :", 400),
        ("Host:", "Host\t:", 400),
        ("Host: localhost", "Host: local\0host", 400),
        ("Host: localhost", "Host: localhost\r\nA: \u{1}", 400),
        ("Host: localhost", "Host: localhost\r\n\u{e9}: a", 400),
        ("Host: localhost", "Host: localhost\r\nA: \u{e9}", 101),
        ("Host: localhost", &two_hosts, 400),
        ("Host: localhost", "Host: a, b", 400),
        ("Host: localhost", "Host: a/b", 400),
        ("Host: localhost", "Host:", 101),
        ("Host: localhost\r\n", "", 400),
        ("Host", "Content-Length: 5\r\nHost", 400),
        ("Host", "Content-Length: +0\r\nHost", 400),
        ("Host", "Content-Length: 0\r\nHost", 101),
        (
            "Host",
            "Content-Length: 0\r\nContent-Length: 1\r\nHost",
            400,
        ),
        ("Host", "Transfer-Encoding: chunked\r\nHost", 400),
        ("Host", "Transfer-Encoding: identity\r\nHost", 400),
        (key, &two_keys, 400),
        ("Sec-WebSocket-Version: 13", &two_versions, 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j.Q==", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "====================Zg==", 400),
        // That of RFC 6455, 1.3.
        ("dGhlIHNhbXBsZSBub25jZQ==", "AQIDBAUGBwgJCgsMDQ4PEC==", 101),
        ("websocket", "websocket\u{a0}", 400),
        ("GET /", "get /", 405),
        ("GET /", "\r\nGET /", 101),
        ("GET /", "\r\n\r\nGET /", 400),
        ("GET /", "\nGET /", 400),
        ("GET /", " GET /", 400),
        ("GET /", "GET  /", 400),
        ("GET /", "GET /\u{e9}", 400),
        ("GET /", "GET *", 400),
        ("GET /", "GET //", 404),
        ("GET /", "GET http://localhost/", 101),
        ("GET /", "GET ws://localhost:80/", 101),
        ("GET /", "GET http://localhost/other", 404),
        ("GET /", "GET http://user@localhost/", 400),
        ("GET /", "GET ftp://localhost/", 400),
    ] {
        let request = REQUEST.replacen(from, to, 1);
        let found = match expected {
            101 => status_101(&server, &request).await,
            _ => status(&server, request.as_bytes()).await,
        };
        assert_eq!(found, expected, "{to:?} for {from:?}");
    }
    // These never come to an end.
    for bytes in [
        REQUEST.replace('\r', ""),
        REQUEST.replace('\n', ""),
        "\r\n\r\n".into(),
        "GET /\r\n".into(),
        "\u{16}\u{3}\u{1}".into(),
    ] {
        assert_eq!(status(&server, bytes.as_bytes()).await, 400, "{bytes:?}");
    }
}

/// Rule 14.13: the host of a whole URL is the one that a page must come from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_as_target_determines_the_host() {
    let hook = |_: Credentials| -> Decision { Box::pin(async { Ok(Grant::new("one")) }) };
    let (server, _) = start_server(ServerOptions {
        authentication: Authentication::Hook(Arc::new(hook), Duration::from_secs(10)),
        ..options()
    });
    let url = REQUEST.replacen("GET /", "GET http://a.example/", 1);
    for (origin, expected) in [("http://a.example", 101), ("http://localhost", 403)] {
        let request = url.replacen("Host", &format!("Origin: {origin}\r\nHost"), 1);
        assert_eq!(status_101(&server, &request).await, expected, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_disconnects_during_the_handshake_leaves_no_resources() {
    let (server, log) = start_server(options());
    for end in [0, 1, REQUEST.len() - 1] {
        tcp(&server)
            .await
            .write_all(&REQUEST.as_bytes()[..end])
            .await
            .unwrap();
    }
    drop(Peer::register(&server, "a").await);
    log.wait_for("unregistered a").await;
    until("nobody there", || server.stats().connections == 0).await;
    assert_eq!(server.stats().accepted, 1);
}

/// Rule 14.8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_beyond_the_limit_is_refused_until_another_ends() {
    let (server, _) = start_server(ServerOptions {
        max_connections: 2,
        ..options()
    });
    // Begun before there were too many, as a crowd that comes at once.
    let mut late = Raw(BufReader::new(tcp(&server).await));
    late.write(&REQUEST.as_bytes()[..20]).await;
    let a = Peer::register(&server, "a").await;
    let b = Peer::register(&server, "b").await;
    assert_eq!(status(&server, REQUEST.as_bytes()).await, 503);
    late.write(&REQUEST.as_bytes()[20..]).await;
    assert_eq!(status_of(&mut late).await, 503);
    drop(a);
    until("one has ended", || server.stats().connections == 1).await;
    let _c = Peer::register(&server, "c").await;
    assert_eq!(status(&server, REQUEST.as_bytes()).await, 503);
    assert_eq!((server.stats().refused, server.stats().accepted), (3, 3));
    drop(b);
}

/// Rule 14.10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extensions_are_declined_and_the_first_subprotocol_is_accepted() {
    let (server, _) = start_server(options());
    let mut raw = Raw(BufReader::new(tcp(&server).await));
    let offers = "Sec-WebSocket-Extensions: permessage-deflate\r\n\
        Sec-WebSocket-Protocol: one, two\r\nSec-WebSocket-Key";
    raw.write(REQUEST.replacen("Sec-WebSocket-Key", offers, 1).as_bytes())
        .await;
    let head = raw.head().await;
    assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert!(head.contains("Sec-WebSocket-Protocol: one\r\n"), "{head}");
    assert!(!head.contains("Extensions"), "{head}");
}

/// Rule 14.15. A peer that sends nothing makes room for others, though its time is not up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_limit_the_oldest_incomplete_handshake_is_closed() {
    let many = ServerOptions {
        max_connections: 10_000,
        // A handshake may hold something, and all of them a part of this.
        max_memory: 1 << 20,
        ..options()
    };
    let few = ServerOptions {
        max_connections: 1,
        ..options()
    };
    for (options, ended) in [(many, 37), (few, 36)] {
        let (server, _) = start_server(ServerOptions {
            handshake_timeout: Duration::from_secs(3600),
            ..options
        });
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(tcp(&server).await);
        }
        // One that is dropped at once may try again.
        let came = async {
            loop {
                let mut raw = Raw(BufReader::new(tcp(&server).await));
                let _ = raw.0.write_all(REQUEST.as_bytes()).await;
                let mut first = [0; 12];
                if raw.0.read_exact(&mut first).await.is_ok() {
                    assert_eq!(&first, b"HTTP/1.1 101");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let came = tokio::time::timeout(crate::support::PATIENCE, came).await;
        came.expect("a place");
        // Those that were too many, or have made room.
        until("the others are gone", || server.stats().refused >= ended).await;
        drop(silent);
    }
}

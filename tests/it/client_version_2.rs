//! The Rust client with protocol version 2: the frames it writes and the events it emits (rule 32).

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use wsmsgbroker::{Client, ClientOptions, ServerOptions};

use crate::support::{
    Peer,
    client_log::{ClientLog, connect, registered, to_port},
    options, port,
    raw::{Raw, TEXT, frame, numbered_send},
    scripted_server::{accept, client_frame, server_frame},
    start_server, until,
};

/// A client of this version, its played server, and what it has told since it was open.
async fn played(protocol: u8) -> (Client, BufReader<TcpStream>, ClientLog) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (client, events) = connect(ClientOptions {
        host: "127.0.0.1".into(),
        protocol,
        ..to_port(port, "a", None)
    })
    .unwrap();
    let socket = accept(&listener, b"").await;
    events.wait_for("open").await;
    (client, socket, events)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_requests_version_2_and_sends_actions_unchanged() {
    let (client, mut socket, _) = played(2).await;
    let register = br#"{"action":"register","id":"a","protocol":2}"#;
    assert_eq!(client_frame(&mut socket).await, register);
    client.register(Some("t")).unwrap();
    let text = r#"{"action":"send", "message":1,"dest":["b"],"ref":7}"#;
    client.push_action(text).unwrap();
    client.flush();
    let register = br#"{"action":"register","id":"a","token":"t","protocol":2}"#;
    assert_eq!(client_frame(&mut socket).await, register);
    assert_eq!(client_frame(&mut socket).await, text.as_bytes());
    client.close();
    assert!(client.push_action(text).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_versions_1_and_2_can_be_requested() {
    for protocol in [0, 3, 255] {
        let error = connect(ClientOptions {
            protocol,
            ..ClientOptions::default()
        });
        assert_eq!(error.unwrap_err().code(), "ERR_WSMB_OPTION");
    }
}

/// Frames of version 2, what a client of it tells of them, and one of version 1.
const FRAMES: [(&str, &str, &str); 20] = [
    (
        r#"{"action":"registered","id":"a"}"#,
        "registered",
        "registered",
    ),
    (
        r#"{"action":"registered","id":"a","protocol":2}"#,
        "registered in version 2",
        "registered",
    ),
    (
        r#"{"action":"unregistered","id":"a","code":"REPLACED"}"#,
        r#"unregistered "a" "REPLACED""#,
        r#"unregistered "a""#,
    ),
    (
        r#"{"action":"answer","ack":"k","from":"b","error":{ }}"#,
        r#"refusal of "k" by "b": { }"#,
        r#"answer to "k""#,
    ),
    (
        r#"{"error":0,"action":"answer","ack":"k"}"#,
        r#"answer to "k""#,
        r#"answer to "k""#,
    ),
    (
        r#"{"action":"receipt","ref":1.0,"delivered":["b"],"failed":{"c":"SLOW"}}"#,
        r#"receipt 1.0: ["b"] {"c":"SLOW"}"#,
        "refused ERR_WSMB_ACTION",
    ),
    (
        r#"{"action":"receipt","ref":2}"#,
        "receipt 2: [] {}",
        "refused ERR_WSMB_ACTION",
    ),
    (
        r#"{"action":"receipt"}"#,
        "refused ERR_WSMB_MEMBER",
        "refused ERR_WSMB_ACTION",
    ),
    (
        r#"{"action":"failed","ack":"k","dest":"b","code":"GONE"}"#,
        r#"failed "k": "b" "GONE""#,
        "refused ERR_WSMB_ACTION",
    ),
    (
        r#"{"action":"failed","ack":"k","dest":"b"}"#,
        "refused ERR_WSMB_MEMBER",
        "refused ERR_WSMB_ACTION",
    ),
    (
        r#"{"action":"error","code":"E","message":"m","ref":1,"ack":"k"}"#,
        r#"error "E" "m" Some("1") Some("\"k\"")"#,
        "refused ERR_WSMB_ACTION",
    ),
    (
        r#"{"action":"error","code":"E"}"#,
        r#"error "E" "" None None"#,
        "refused ERR_WSMB_ACTION",
    ),
    (
        r#"{"action":"error"}"#,
        "refused ERR_WSMB_MEMBER",
        "refused ERR_WSMB_ACTION",
    ),
    (
        r#"{"action":"cancel","ack":"k"}"#,
        r#"cancel "k""#,
        "refused ERR_WSMB_ACTION",
    ),
    (
        r#"{"action":"cancel"}"#,
        "refused ERR_WSMB_MEMBER",
        "refused ERR_WSMB_ACTION",
    ),
    (
        r#"{"action":"goaway","within":500}"#,
        "goaway 500",
        "refused ERR_WSMB_ACTION",
    ),
    (
        r#"{"action":"goaway"}"#,
        "refused ERR_WSMB_MEMBER",
        "refused ERR_WSMB_ACTION",
    ),
    (
        r#"{"action":"later"}"#,
        "refused ERR_WSMB_ACTION",
        "refused ERR_WSMB_ACTION",
    ),
    ("[]", "refused ERR_WSMB_ACTION", "refused ERR_WSMB_ACTION"),
    ("{", "refused ERR_WSMB_JSON", "refused ERR_WSMB_JSON"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actions_of_version_2_are_events_only_for_clients_of_version_2() {
    for protocol in [1, 2] {
        let (_client, mut socket, events) = played(protocol).await;
        for (text, _, _) in FRAMES {
            socket.write_all(&server_frame(text)).await.unwrap();
        }
        // A close frame with a reason.
        let close = [&[0x88, 5], &1001_u16.to_be_bytes()[..], b"bye"].concat();
        socket.write_all(&close).await.unwrap();
        socket.shutdown().await.unwrap();
        let end = events.end().await;
        let expected = FRAMES.map(|(_, new, old)| if protocol == 2 { new } else { old });
        assert_eq!(end[1..end.len() - 1], expected);
        assert_eq!(end[end.len() - 1], "closed Some(1001) bye");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_accepts_version_2() {
    let (server, _) = start_server(options());
    let mut b = Peer::register_2(&server, "b").await;
    let (client, events) = connect(ClientOptions {
        protocol: 2,
        ..to_port(port(&server), "a", None)
    })
    .unwrap();
    events.wait_for("registered in version 2").await;
    client
        .push_action(r#"{"action":"send","message":1,"dest":["b","x"],"ack":"k","ref":1}"#)
        .unwrap();
    client.flush();
    events
        .wait_for(r#"receipt 1: ["b"] {"x":"UNKNOWN_ID"}"#)
        .await;
    events.wait_for(r#"failed "k": "x" "UNKNOWN_ID""#).await;
    b.expect(r#"{"action":"message","message":1,"ack":"k","from":"a"}"#)
        .await;
    b.send(r#"{"action":"answer","ack":"k","error":"no"}"#)
        .await;
    events.wait_for(r#"refusal of "k" by "b": "no""#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_client_reads_nothing_until_it_resumes_or_closes() {
    for lets_go in [true, false] {
        let (server, _) = start_server(ServerOptions {
            // The client is slow on purpose.
            slow_consumer_timeout: Duration::from_secs(3600),
            max_backpressure: 1 << 20,
            ..options()
        });
        let (client, events) = registered(to_port(port(&server), "a", None)).await;
        client.hold(true);
        let (_read, mut write) = Raw::connect(&server).await.split();
        // More than sockets and the server hold, and each more than a turn.
        let (count, length) = (160, 128 << 10);
        let sender = tokio::spawn(async move {
            for n in 0..count {
                let send = frame(TEXT, numbered_send(n, r#""a""#, length));
                write.write_all(&send).await.unwrap();
            }
            write
        });
        until("the server is stuck", || server.stats().messages_out > 16).await;
        // What a turn had taken when it was held.
        assert!(events.count("message") < 3);
        assert!(!sender.is_finished());
        client.hold(true);
        client.resume();
        if lets_go {
            client.hold(false);
            until("all is told", || events.count("message") == count).await;
            sender.await.unwrap();
        } else {
            client.close();
            let end = events.end().await;
            assert_eq!(end.last().unwrap(), "closed Some(1000)");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_client_sends_heartbeats() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (client, events) = connect(ClientOptions {
        host: "127.0.0.1".into(),
        ping_interval: Duration::from_millis(10),
        ..to_port(port, "a", None)
    })
    .unwrap();
    let mut socket = accept(&listener, b"").await;
    events.wait_for("open").await;
    client.hold(true);
    client_frame(&mut socket).await;
    // Unsolicited pongs; a ping may come first.
    let mut pongs = 0;
    while pongs < 3 {
        let opcode = socket.fill_buf().await.unwrap()[0];
        assert!(client_frame(&mut socket).await.is_empty());
        pongs += u32::from(opcode == 0x8a);
    }
    client.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_client_detects_the_end_of_the_connection_when_it_writes() {
    let (client, socket, events) = played(2).await;
    client.hold(true);
    // What has come is not read: the connection is reset.
    drop(socket);
    until("the end", || {
        let _ = client.push_action("{}");
        client.flush();
        events.lines().iter().any(|line| line.starts_with("closed"))
    })
    .await;
}

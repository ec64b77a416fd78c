//! The server's own participant: a client within the process (rule 22.11).

use std::{sync::Arc, thread, time::Duration};

use tokio::{
    io::BufReader,
    runtime::{Builder, Handle},
    time::timeout,
};
use wsmsgbroker::{
    Authentication, Client, ClientEvent, ClientListener, ClientOptions, Error, Listen, RateLimit,
    Server, ServerEvent, ServerOptions, SlowConsumer,
    auth::{Credentials, Decision, Denied, JwtKey, JwtOptions},
};

use crate::support::{
    Log, PATIENCE, Peer,
    client_log::ClientLog,
    options,
    raw::{REQUEST, Raw, TEXT, frame, number, numbered_send},
    start_server, tcp,
    tls::{Authority, secured},
    until,
};

fn named(id: &str) -> ClientOptions {
    ClientOptions {
        id: Some(format!("\"{id}\"")),
        ..ClientOptions::default()
    }
}

/// A participant that is registered.
async fn join(server: &Server, id: &str) -> (Client, ClientLog) {
    let events = ClientLog::default();
    let client = server
        .join(named(id), events.clone(), &Handle::current())
        .unwrap();
    events.wait_for("registered").await;
    (client, events)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_participant_exchanges_messages_and_is_not_counted_as_a_connection() {
    let (server, log) = start_server(options());
    let (participant, events) = join(&server, "server").await;
    assert_eq!(server.stats().accepted, 0);
    let mut peer = Peer::register(&server, "a").await;
    peer.send(r#"{"action":"send","message":1,"dest":"server"}"#)
        .await;
    events.wait_for(r#"message from "a": 1"#).await;
    participant.send("2", r#"["a"]"#, r#""k""#).unwrap();
    participant.flush();
    assert_eq!(
        peer.receive().await,
        r#"{"action":"message","message":2,"ack":"k","from":"server"}"#
    );
    peer.send(r#"{"action":"answer","ack":"k","message":3}"#)
        .await;
    events.wait_for("answer to").await;
    // As large as any message may be, in both directions.
    let large = format!("\"{}\"", "x".repeat(8 << 20));
    participant.send(&large, r#"["a","server"]"#, "").unwrap();
    participant.flush();
    assert!(peer.receive().await.len() > 8 << 20);
    events.wait_for(r#"message from "server""#).await;
    let stats = server.stats();
    assert_eq!((stats.connections, stats.accepted), (1, 1));
    assert_eq!(stats.registered, 2);
    assert_eq!(log.count("connection"), 1);
    assert_eq!(log.count("registered server"), 1);
    participant.close();
    assert!(events.end().await.contains(&"closed Some(1000)".to_owned()));
    until("the id is free", || !server.has("server")).await;
    assert_eq!(server.stats().connections, 1);
    assert_eq!(log.count("unregistered server"), 1);
}

/// Messages and answers that a bounded participant received.
#[derive(Clone, Default)]
struct Bounded(Arc<std::sync::Mutex<Vec<String>>>);

impl ClientListener for Bounded {
    fn event(&self, event: ClientEvent<'_>) {
        let line = match event {
            ClientEvent::Message { message, .. } => format!("message {}", message.unwrap_or("?")),
            ClientEvent::MessageTooLarge { ack, from, size } => {
                format!("message of {size} from {from:?}, ack {ack:?}")
            }
            ClientEvent::AnswerTooLarge { ack, size, .. } => format!("answer {ack:?} of {size}"),
            _ => return,
        };
        self.0.lock().unwrap().push(line);
    }

    fn accepts(&self, text: &str) -> bool {
        text != "666"
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_participant_gets_no_message_above_its_size_limit() {
    let (server, _log) = start_server(options());
    let listener = Bounded::default();
    let options = ClientOptions {
        max_message: 10,
        protocol: 2,
        ..named("server")
    };
    let participant = server
        .join(options, listener.clone(), &Handle::current())
        .unwrap();
    until("it is there", || server.has("server")).await;
    let mut peer = Peer::register(&server, "a").await;
    for message in [r#""12345678""#, r#""123456789""#, "666", "1"] {
        peer.send(&format!(
            r#"{{"action":"send","message":{message},"dest":"server"}}"#
        ))
        .await;
    }
    participant.send("2", r#"["a"]"#, r#""k""#).unwrap();
    participant.flush();
    peer.receive().await;
    peer.send(r#"{"action":"answer","ack":"k","message":[1,2,3,4,5,6]}"#)
        .await;
    let lines = || listener.0.lock().unwrap().clone();
    until("the answer", || lines().len() == 5).await;
    let expected = [
        r#"message "12345678""#,
        r#"message of 11 from Some("\"a\""), ack None"#,
        r#"message of 3 from Some("\"a\""), ack None"#,
        "message 1",
        r#"answer Some("\"k\"") of 13"#,
    ];
    assert_eq!(lines(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_participant_may_register_any_id_and_keeps_it() {
    let (server, log) = start_server(options());
    let mut first = Peer::register(&server, "server").await;
    let (participant, events) = join(&server, "server").await;
    let mut second = Peer::connect(&server).await;
    second.send(r#"{"action":"register","id":"server"}"#).await;
    assert_eq!(second.close_code().await, 4409);
    first.send(r#"{"action":"register","id":"server"}"#).await;
    assert_eq!(first.close_code().await, 4409);
    assert_eq!(log.count(r#"denied Some("server") 4409"#), 2);
    // It is still connected and receives messages.
    let mut peer = Peer::register(&server, "a").await;
    peer.send(r#"{"action":"send","message":1,"dest":"server"}"#)
        .await;
    events.wait_for(r#"message from "a": 1"#).await;
    // Another of the server's own is no stranger.
    let (next, _) = join(&server, "server").await;
    participant.close();
    events.end().await;
    assert!(server.has("server"));
    next.close();
    until("the id is free", || !server.has("server")).await;
    drop(Peer::register(&server, "server").await);
}

/// Whether it is in, and others are not.
async fn joins(what: &str, options: ServerOptions) {
    let (server, log) = start_server(options);
    let events = ClientLog::default();
    let participant = server
        .join(named("server"), events.clone(), &Handle::current())
        .unwrap();
    participant.send("1", r#""server""#, "").unwrap();
    participant.flush();
    events.wait_for(r#"message from "server": 1"#).await;
    assert_eq!(events.count("error"), 0, "{what}");
    assert_eq!(log.lines(), ["registered server"], "{what}");
    server.close();
    assert_eq!(
        events.end().await.last().unwrap(),
        "closed Some(1001) server is closing"
    );
    timeout(PATIENCE, server.closed()).await.expect(what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_participant_joins_any_server() {
    let authority = Authority::new("authority");
    joins("TLS", secured(&authority.issue())).await;
    let secret = JwtKey::Secret(vec![7; 32]);
    let tokens = ServerOptions {
        authentication: Authentication::Jwt(JwtOptions::new(secret)),
        ..options()
    };
    joins("tokens", tokens).await;
    let refuses = |_: Credentials| -> Decision {
        Box::pin(std::future::ready(Err(Denied::Unauthorized("no".into()))))
    };
    let hook = ServerOptions {
        authentication: Authentication::Hook(Arc::new(refuses), PATIENCE),
        ..options()
    };
    joins("a hook", hook).await;
    #[cfg(unix)]
    {
        let name = format!("wsmsgbroker-participant-{}.sock", std::process::id());
        let unix = ServerOptions {
            listen: Listen::Unix(std::env::temp_dir().join(name)),
            ..options()
        };
        joins("a Unix socket", unix).await;
    }
}

/// How a further peer is refused.
async fn refusal(server: &Server) -> String {
    let mut raw = Raw(BufReader::new(tcp(server).await));
    raw.write(REQUEST.as_bytes()).await;
    raw.head().await[..12].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_participant_joins_a_full_server_without_using_a_connection() {
    let (server, _) = start_server(ServerOptions {
        max_connections: 1,
        ..options()
    });
    let (first, events) = join(&server, "first").await;
    let peer = Peer::register(&server, "a").await;
    let (_second, _) = join(&server, "second").await;
    assert_eq!(server.stats().connections, 1);
    assert_eq!(refusal(&server).await, "HTTP/1.1 503");
    // Nor does its end make room for two.
    first.close();
    events.end().await;
    until("it has left", || !server.has("first")).await;
    assert_eq!(refusal(&server).await, "HTTP/1.1 503");
    drop(peer);
    until("there is room", || server.stats().connections == 0).await;
    Peer::register(&server, "b").await;
}

/// Reads nothing once it is registered.
struct Deaf(ClientLog);

impl ClientListener for Deaf {
    fn event(&self, event: ClientEvent<'_>) {
        self.0.event(event);
    }

    fn batch_end(&self) -> bool {
        self.0.count("registered") == 0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_participant_is_not_authenticated() {
    let beat = Duration::from_millis(20);
    let (server, log) = start_server(ServerOptions {
        ping_interval: beat,
        ping_timeout: beat,
        register_timeout: Some(beat),
        max_control_frames: 1,
        max_protocol_errors: Some(1),
        rate_limit: Some(RateLimit {
            messages: 2,
            bytes: 1024,
        }),
        ..options()
    });
    let events = ClientLog::default();
    let runtime = Handle::current();
    let _deaf = server
        .join(named("deaf"), Deaf(events.clone()), &runtime)
        .unwrap();
    events.wait_for("registered").await;
    let heard = ClientLog::default();
    let pinging = ClientOptions {
        ping_interval: beat,
        ping_timeout: beat,
        ..named("busy")
    };
    let busy = server.join(pinging, heard.clone(), &runtime).unwrap();
    for n in 0..10 {
        busy.send(&n.to_string(), r#""busy""#, "").unwrap();
        busy.send("1", "", "").unwrap();
    }
    busy.unregister().unwrap();
    busy.flush();
    heard.wait_for(r#"message from "busy": 9"#).await;
    // Each of these is given less time than those had.
    for _ in 0..5 {
        let mut silent = Raw::connect(&server).await;
        silent.ended().await;
    }
    let stats = server.stats();
    assert_eq!(stats.throttled, 0);
    assert_eq!(stats.errors, 10);
    assert_eq!(stats.dead + stats.unregistered, 5);
    busy.register(None).unwrap();
    busy.flush();
    until("it is there again", || log.count("registered busy") == 2).await;
    assert!(server.has("deaf"));
    assert_eq!((events.count("closed"), heard.count("closed")), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_closed_has_no_participants() {
    let (server, log) = start_server(options());
    let (participant, events) = join(&server, "server").await;
    let runtime = Handle::current();
    let zero = ClientOptions {
        max_payload: 0,
        ..named("other")
    };
    let refused = server
        .join(zero, ClientLog::default(), &runtime)
        .unwrap_err();
    assert_eq!(refused.code(), "ERR_WSMB_OPTION");
    server.close();
    let refused = server.join(named("late"), ClientLog::default(), &runtime);
    assert!(matches!(refused, Err(Error::NotOpen)));
    assert_eq!(
        events.end().await.last().unwrap(),
        "closed Some(1001) server is closing"
    );
    timeout(PATIENCE, server.closed()).await.unwrap();
    assert!(matches!(
        participant.send("1", "\"a\"", ""),
        Err(Error::NotOpen)
    ));
    assert_eq!(log.lines(), ["registered server", "unregistered server"]);
    drop(server);
}

/// Rules 15.9 and 31.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_participant_gets_goaway_and_does_not_delay_the_drain() {
    let (server, _) = start_server(options());
    let events = ClientLog::default();
    let options = ClientOptions {
        protocol: 2,
        ..named("server")
    };
    let runtime = Handle::current();
    let participant = server.join(options, events.clone(), &runtime).unwrap();
    events.wait_for("registered in version 2").await;
    let peer = Peer::register_2(&server, "a").await;
    let within = Duration::from_secs(3600);
    let mut drained = tokio::spawn(server.drain(within));
    events.wait_for("goaway 3600000").await;
    // A peer that got `goaway` is connected.
    let moment = Duration::from_millis(100);
    assert!(timeout(moment, &mut drained).await.is_err());
    drop(peer);
    timeout(PATIENCE, drained).await.unwrap().unwrap();
    // It has stayed all the while.
    assert!(server.has("server"));
    participant.close();
    events.end().await;
}

/// Its end with the server is a task of the server's, whose threads need not be those of the client.
#[test]
fn server_and_participant_may_use_different_runtimes() {
    let runtime = |name| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).thread_name(name).enable_all();
        builder.build().unwrap()
    };
    let (serving, joining) = (runtime("serving"), runtime("joining"));
    let log = Log::default();
    let listener = {
        let log = log.clone();
        move |_: ServerEvent<'_>| log.push(thread::current().name().unwrap_or("?").to_owned())
    };
    let server = Server::bind(options(), listener, serving.handle()).unwrap();
    let events = ClientLog::default();
    let client = server
        .join(named("server"), events.clone(), joining.handle())
        .unwrap();
    joining.block_on(events.wait_for("registered"));
    assert_eq!(log.lines(), ["serving"]);
    drop(serving);
    let end = joining.block_on(events.end());
    assert_eq!(end.last().unwrap(), "closed Some(1006)");
    assert!(matches!(client.unregister(), Err(Error::NotOpen)));
    let refused = server.join(named("late"), ClientLog::default(), joining.handle());
    assert!(matches!(refused, Err(Error::Io { .. })));
}

/// Rule 22.12. It does not read for longer than any other connection may: what it has no room for is dropped, and
/// it is there when it reads again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_participant_is_never_closed_as_slow_and_keeps_its_id() {
    const FLOOD: usize = 512;
    for slow_consumer in [
        SlowConsumer::Pushback,
        SlowConsumer::Close,
        SlowConsumer::Drop,
    ] {
        let (server, log) = start_server(ServerOptions {
            slow_consumer,
            slow_consumer_timeout: Duration::from_millis(200),
            max_backpressure: 1 << 20,
            ..options()
        });
        let (participant, events) = join(&server, "server").await;
        participant.hold(true);
        let mut sender = Raw::register(&server, "sender").await;
        for n in 0..FLOOD {
            sender
                .send(&numbered_send(n, r#""server""#, 64 << 10))
                .await;
        }
        // It no longer delays its senders.
        sender.send(&numbered_send(7, r#""sender""#, 9)).await;
        assert_eq!(number(&sender.next().await.unwrap().1), 7);
        let dropped = server.stats().dropped;
        assert!(dropped > 0, "{slow_consumer:?}");
        assert_eq!(server.stats().slow, 0);
        assert!(log.lines().iter().any(|line| line.ends_with("Dropping")));
        let mut thief = Peer::connect(&server).await;
        thief.send(r#"{"action":"register","id":"server"}"#).await;
        assert_eq!(thief.close_code().await, 4409);
        participant.hold(false);
        let kept = FLOOD - dropped as usize;
        until("what was kept has come", || {
            events.count("message from \"sender\"") == kept
        })
        .await;
        // Sends and receives as before.
        participant.send("1", r#"["sender"]"#, "").unwrap();
        participant.flush();
        assert!(sender.receive().await.contains(r#""from":"server""#));
        sender
            .send(r#"{"action":"send","message":"behind","dest":"server"}"#)
            .await;
        events.wait_for(r#"message from "sender": "behind""#).await;
    }
}

/// Nor are answers that it does not read a reason, nor that memory is short.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_answers_nor_short_memory_close_a_participant() {
    const REQUESTS: usize = 600;
    for max_memory in [1 << 30, 16 << 20] {
        let (server, _) = start_server(ServerOptions {
            slow_consumer_timeout: Duration::from_millis(200),
            max_backpressure: 1 << 20,
            max_memory,
            ..options()
        });
        let (participant, _) = join(&server, "server").await;
        let mut responder = Raw::register(&server, "responder").await;
        for n in 0..REQUESTS {
            let ack = format!("\"{n}\"");
            participant.send("0", r#"["responder"]"#, &ack).unwrap();
        }
        participant.flush();
        for _ in 0..REQUESTS {
            responder.next().await.unwrap();
        }
        participant.hold(true);
        let filling = "x".repeat(64 << 10);
        for n in 0..REQUESTS {
            let answer = format!(r#"{{"action":"answer","ack":"{n}","message":"{filling}"}}"#);
            responder.write(&frame(TEXT, answer)).await;
        }
        responder.send(&numbered_send(7, r#""responder""#, 9)).await;
        assert_eq!(number(&responder.next().await.unwrap().1), 7);
        assert!(server.stats().dropped > 0 || max_memory < 1 << 30);
        assert!(server.has("server"));
        assert_eq!((server.stats().slow, server.stats().evicted), (0, 0));
        participant.hold(false);
        participant.send("1", r#"["responder"]"#, "").unwrap();
        participant.flush();
        assert!(responder.receive().await.contains(r#""from":"server""#));
        until("memory is free", || server.stats().memory < 1 << 20).await;
    }
}

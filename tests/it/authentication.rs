//! Authentication: the embedder's decision on who may register, and the grant that comes with it
//! (rule 22).

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use tokio_tungstenite::tungstenite::Message;
use wsmsgbroker::{
    Authentication, Client, ClientEvent, ClientListener, ClientOptions, Server, ServerOptions,
    auth::{Authenticate, Credentials, Decision, Denied, Grant},
};

use crate::support::{
    Log, Peer, options, port,
    raw::{BINARY, PING, PONG, REQUEST, Raw, TEXT, frame},
    start_server, tcp, until,
};

/// A hook that accepts a password for any id; other tokens select the other cases.
#[derive(Clone, Default)]
struct Guard {
    asked: Arc<Mutex<Vec<Credentials>>>,
}

impl Authenticate for Guard {
    fn authenticate(&self, credentials: Credentials) -> Decision {
        let token = credentials.token.clone().unwrap_or_default();
        self.asked.lock().unwrap().push(credentials);
        Box::pin(async move {
            // Delayed, so that another registration could overtake it.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let (word, rest) = token.split_once(' ').unwrap_or((&token, ""));
            match word {
                "password" => Ok(Grant::new(rest)),
                "short" => {
                    let life = Duration::from_millis(rest.parse().unwrap());
                    Ok(Grant {
                        expires: Some(SystemTime::now() + life),
                        ..Grant::new("")
                    })
                }
                "limited" => Ok(Grant {
                    send: Some(rest.split(',').collect()),
                    ..Grant::new("")
                }),
                "forbidden" => Err(Denied::Forbidden("not you".into())),
                "never" => std::future::pending().await,
                _ => Err(Denied::Unauthorized("who are you?".into())),
            }
        })
    }
}

const LIMIT: Duration = Duration::from_secs(30);

fn guarded(limit: Duration) -> (ServerOptions, Guard) {
    let guard = Guard::default();
    let options = ServerOptions {
        authentication: Authentication::Hook(Arc::new(guard.clone()), limit),
        ..options()
    };
    (options, guard)
}

fn start() -> (Server, Log) {
    start_server(guarded(LIMIT).0)
}

fn register(id: &str, token: &str) -> String {
    format!(r#"{{"action":"register","id":"{id}","token":"{token}"}}"#)
}

async fn registered(server: &Server, id: &str, token: &str) -> Peer {
    let mut peer = Peer::connect(server).await;
    renew(&mut peer, id, token).await;
    peer
}

async fn renew(peer: &mut Peer, id: &str, token: &str) {
    peer.send(&register(id, token)).await;
    let expected = format!(r#"{{"action":"registered","id":"{id}"}}"#);
    assert_eq!(peer.receive().await, expected);
}

/// The code and reason with which the server closes; nothing but that may come.
async fn refusal(peer: &mut Peer) -> (u16, String) {
    match peer.next().await {
        Some(Message::Close(Some(frame))) => (frame.code.into(), frame.reason.to_string()),
        other => panic!("{other:?}"),
    }
}

/// Rules 22.2 and 22.3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_clients_are_registered_and_others_get_the_reason() {
    let (server, log) = start();
    let mut a = registered(&server, "a", "password").await;
    for (token, code, reason) in [
        ("\"guess\"", 4401, "who are you?"),
        ("42", 4401, "who are you?"),
        ("null", 4401, "who are you?"),
        ("\"forbidden\"", 4403, "not you"),
        (
            "\"password \\u0000b\"",
            4403,
            "the principal begins with NUL",
        ),
    ] {
        let mut peer = Peer::connect(&server).await;
        peer.send(&format!(
            r#"{{"action":"register","token":{token},"id":"b"}}"#
        ))
        .await;
        assert_eq!(refusal(&mut peer).await, (code, reason.to_owned()));
        log.wait_for(&format!(r#"denied Some("b") {code}"#)).await;
    }
    assert_eq!(server.stats().denied, 5);
    a.send(r#"{"action":"send","message":1,"dest":"a"}"#).await;
    assert_eq!(
        a.receive().await,
        r#"{"action":"message","message":1,"from":"a"}"#
    );
    assert_eq!(log.count("registered b"), 0);
}

/// Rule 22.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_can_only_register_before_it_is_authenticated() {
    let (server, log) = start();
    let mut a = registered(&server, "a", "password").await;
    for text in [
        r#"{"action":"send","message":1,"dest":"a"}"#,
        r#"{"action":"answer","message":1,"ack":"k"}"#,
        r#"{"action":"unregister"}"#,
        r#"{"action":"no such"}"#,
        "no JSON",
    ] {
        let mut peer = Peer::connect(&server).await;
        peer.send(text).await;
        assert_eq!(refusal(&mut peer).await.0, 4401, "{text}");
    }
    let mut binary = Raw::connect(&server).await;
    binary.write(&frame(BINARY, "x")).await;
    assert_eq!(binary.close_code().await, 4401);
    // A ping is none of it.
    let mut ping = Raw::connect(&server).await;
    ping.write(&frame(PING, "x")).await;
    assert_eq!(ping.next().await, Some((PONG, b"x".to_vec())));
    // Nor after it has given up its id.
    let mut former = registered(&server, "former", "password").await;
    former.send(r#"{"action":"unregister"}"#).await;
    former
        .send(r#"{"action":"send","message":1,"dest":"a"}"#)
        .await;
    assert_eq!(
        former.receive().await,
        r#"{"action":"unregistered","id":"former"}"#
    );
    assert_eq!(refusal(&mut former).await.0, 4401);
    // Nothing of all that reached anybody.
    a.send(r#"{"action":"send","message":2,"dest":"a"}"#).await;
    assert_eq!(
        a.receive().await,
        r#"{"action":"message","message":2,"from":"a"}"#
    );
    assert!(!log.lines().iter().any(|line| line.starts_with("refused")));
}

/// Rule 22.5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actions_after_a_register_are_executed_once_it_has_succeeded() {
    let (server, _) = start();
    let mut raw = Raw::connect(&server).await;
    let send = r#"{"action":"send","message":1,"dest":"a"}"#;
    // In one segment.
    let both = [
        frame(TEXT, register("a", "password")),
        frame(TEXT, send),
        frame(TEXT, register("b", "password")),
        frame(TEXT, r#"{"action":"send","message":2,"dest":"b"}"#),
    ];
    raw.write(&both.concat()).await;
    for expected in [
        r#"{"action":"registered","id":"a"}"#,
        r#"{"action":"message","message":1,"from":"a"}"#,
        r#"{"action":"registered","id":"b"}"#,
        r#"{"action":"message","message":2,"from":"b"}"#,
    ] {
        assert_eq!(raw.receive().await, expected);
    }
    let mut refused = Raw::connect(&server).await;
    let both = [frame(TEXT, register("c", "guess")), frame(TEXT, send)];
    refused.write(&both.concat()).await;
    assert_eq!(refused.close_code().await, 4401);
}

/// Rule 22.4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_taken_over_by_its_principal_only() {
    let (server, log) = start();
    let mut first = registered(&server, "a", "password one").await;
    let mut other = Peer::connect(&server).await;
    other.send(&register("a", "password two")).await;
    assert_eq!(refusal(&mut other).await.0, 4409);
    first
        .send(r#"{"action":"send","message":1,"dest":"a"}"#)
        .await;
    assert_eq!(
        first.receive().await,
        r#"{"action":"message","message":1,"from":"a"}"#
    );
    let mut second = registered(&server, "a", "password one").await;
    first
        .send(r#"{"action":"send","message":2,"dest":"a"}"#)
        .await;
    assert_eq!(
        second.receive().await,
        r#"{"action":"message","message":2}"#
    );
    // Free again, it is anybody's.
    drop((first, second));
    log.wait_for("unregistered a").await;
    registered(&server, "a", "password two").await;
}

/// Rule 22.6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_expires_unless_it_is_renewed() {
    let (server, _) = start();
    let mut short = registered(&server, "short", "short 100").await;
    let mut renewed = registered(&server, "renewed", "short 300").await;
    renew(&mut renewed, "renewed", "password").await;
    assert_eq!(refusal(&mut short).await, (4401, "expired".to_owned()));
    tokio::time::sleep(Duration::from_millis(400)).await;
    renewed
        .send(r#"{"action":"send","message":1,"dest":"renewed"}"#)
        .await;
    assert_eq!(
        renewed.receive().await,
        r#"{"action":"message","message":1,"from":"renewed"}"#
    );
    // A renewal that fails is a registration that fails.
    renewed.send(&register("renewed", "guess")).await;
    assert_eq!(refusal(&mut renewed).await.0, 4401);
    // What had ended before it was granted, ends at once.
    let mut late = registered(&server, "late", "short 0").await;
    assert_eq!(refusal(&mut late).await.0, 4401);
}

/// Rule 22.10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_limited_to_some_receivers_may_answer_any_asker() {
    let (server, log) = start();
    let mut limited = registered(&server, "limited", "limited friend-*,one").await;
    let mut friend = registered(&server, "friend-1", "password").await;
    for dest in [
        r#""other""#,
        r#"["friend-1","other"]"#,
        r#""friend""#,
        "[1]",
    ] {
        let send = format!(r#"{{"action":"send","message":0,"dest":{dest}}}"#);
        limited.send(&send).await;
    }
    limited
        .send(r#"{"action":"send","message":1,"dest":["friend-1","one"]}"#)
        .await;
    assert_eq!(
        friend.receive().await,
        r#"{"action":"message","message":1,"from":"limited"}"#
    );
    assert_eq!(log.count("refused ERR_WSMB_FORBIDDEN"), 4);
    // It is not even told who exists.
    assert_eq!(
        log.lines()
            .iter()
            .filter(|line| line.starts_with("unknown"))
            .count(),
        1
    );
    let mut other = registered(&server, "other", "password").await;
    other
        .send(r#"{"action":"send","message":2,"dest":"limited","ack":"k"}"#)
        .await;
    limited.receive().await;
    limited
        .send(r#"{"action":"answer","message":3,"ack":"k"}"#)
        .await;
    assert_eq!(
        other.receive().await,
        r#"{"action":"answer","ack":"k","from":"limited","message":3}"#
    );
}

/// Rule 22.7, and that a question without an answer has an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_and_decision_have_timeouts() {
    let short = Duration::from_millis(100);
    let (options, _) = guarded(short);
    let (server, _) = start_server(ServerOptions {
        register_timeout: Some(Duration::from_millis(300)),
        ..options
    });
    let mut silent = Peer::connect(&server).await;
    let mut undecided = Peer::connect(&server).await;
    undecided.send(&register("a", "never")).await;
    let mut known = registered(&server, "known", "password").await;
    assert_eq!(refusal(&mut undecided).await.0, 4401);
    assert_eq!(refusal(&mut silent).await.0, 1008);
    assert_eq!((server.stats().unregistered, server.stats().denied), (1, 1));
    known.send(r#"{"action":"unregister"}"#).await;
    known.receive().await;
    assert_eq!(refusal(&mut known).await.0, 1008);
}

/// Rule 22.6: asking for another grant puts no end off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_expires_while_its_renewal_is_undecided() {
    let (server, _) = start();
    let mut peer = registered(&server, "a", "short 300").await;
    peer.send(&register("a", "never")).await;
    assert_eq!(refusal(&mut peer).await, (4401, "expired".into()));
}

/// Only so many are judged at one time: who is being closed takes no place among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_is_dropped_when_its_connection_closes() {
    struct OnDrop(Arc<AtomicBool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let seen = dropped.clone();
    let hook = move |credentials: Credentials| -> Decision {
        if credentials.token.as_deref() == Some("short") {
            let expires = Some(SystemTime::now() + Duration::from_millis(200));
            return Box::pin(std::future::ready(Ok(Grant {
                expires,
                ..Grant::new("a")
            })));
        }
        let undecided = OnDrop(seen.clone());
        Box::pin(async move {
            let _undecided = undecided;
            std::future::pending().await
        })
    };
    let (server, _) = start_server(ServerOptions {
        authentication: Authentication::Hook(Arc::new(hook), 100 * LIMIT),
        close_timeout: 100 * LIMIT,
        ..options()
    });
    // It does not answer the close frame.
    let mut raw = Raw::connect(&server).await;
    raw.send(&register("a", "short")).await;
    raw.receive().await;
    raw.send(&register("a", "other")).await;
    until("the decision is dropped", || dropped.load(SeqCst)).await;
    assert_eq!(server.stats().connections, 1);
    assert_eq!(raw.close_code().await, 4401);
}

/// Rule 20.6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_count_as_memory_until_the_decision() {
    let (server, _) = start();
    let cookie = "c".repeat(10 << 10);
    let request = REQUEST.replace("Host:", &format!("Cookie: {cookie}\r\nHost:"));
    let mut raw = Raw(tokio::io::BufReader::new(tcp(&server).await));
    raw.write(request.as_bytes()).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 101 "));
    until("the cookie is counted", || {
        server.stats().memory > cookie.len()
    })
    .await;
    let token = format!("never {}", "t".repeat(50 << 10));
    raw.send(&register("a", &token)).await;
    until("the token is counted", || {
        server.stats().memory > cookie.len() + token.len()
    })
    .await;
    drop(raw);
}

/// A register timeout of zero is none, also with authentication.
#[tokio::test]
async fn the_register_timeout_can_be_disabled() {
    let (server, _) = start_server(ServerOptions {
        register_timeout: Some(Duration::ZERO),
        ping_interval: Duration::ZERO,
        ..guarded(LIMIT).0
    });
    tokio::time::pause();
    let mut late = Peer::connect(&server).await;
    tokio::time::advance(Duration::from_secs(86_400)).await;
    tokio::time::resume();
    renew(&mut late, "a", "password").await;
}

/// As 1.7.2 has it, and with a limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_authentication_the_register_timeout_is_as_configured() {
    let (server, _) = start_server(ServerOptions {
        register_timeout: Some(Duration::from_millis(100)),
        ..options()
    });
    let mut registered = Peer::register(&server, "a").await;
    let mut silent = Peer::connect(&server).await;
    assert_eq!(refusal(&mut silent).await.0, 1008);
    registered
        .send(r#"{"action":"send","message":1,"dest":"a"}"#)
        .await;
    registered.receive().await;
}

/// Rule 22.8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_input_of_an_unregistered_client_is_limited() {
    let (server, _) = start();
    let mut stranger = Raw::connect(&server).await;
    stranger
        .write(&crate::support::raw::header(TEXT, (64 << 10) + 1))
        .await;
    assert_eq!(stranger.close_code().await, 1009);
    let mut known = registered(&server, "a", "password").await;
    let text = "x".repeat(1 << 20);
    known
        .send(&format!(
            r#"{{"action":"send","message":"{text}","dest":"a"}}"#
        ))
        .await;
    assert!(known.receive().await.contains(&text));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hook_gets_the_data_of_the_handshake() {
    let (options, guard) = guarded(LIMIT);
    let (server, _) = start_server(options);
    let socket = tcp(&server).await;
    let mut raw = Raw(tokio::io::BufReader::new(socket));
    let head = REQUEST.replace(
        "Host: localhost",
        "Host: localhost\r\nX-Key: a\r\nx-key:  b ",
    );
    raw.write(head.as_bytes()).await;
    raw.head().await;
    raw.send(&register("a", "password\\n\\u00e9")).await;
    until("it is asked", || !guard.asked.lock().unwrap().is_empty()).await;
    let credentials = guard.asked.lock().unwrap()[0].clone();
    assert_eq!(*credentials.id, *"a");
    assert_eq!(credentials.token.as_deref(), Some("password\né"));
    assert_eq!(credentials.remote_address, "127.0.0.1");
    assert!(!credentials.secure);
    let values: Vec<_> = credentials
        .headers
        .iter()
        .filter(|(name, _)| name == "x-key")
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(values, ["a", "b"]);
}

/// Rule 22.2: a token of a registered client is no longer than one that fits into a first registration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_token_reaches_no_hook() {
    let (options, guard) = guarded(LIMIT);
    let (server, log) = start_server(options);
    let asked = || guard.asked.lock().unwrap().len();
    let most = 64 << 10;
    for (length, calls) in [(most, 1), (most + 1, 0), (90 << 20, 0)] {
        let mut a = registered(&server, "a", "password").await;
        let before = asked();
        a.send(&register("a", &"x".repeat(length))).await;
        let reason = ["token: too long", "who are you?"][calls];
        assert_eq!(refusal(&mut a).await, (4401, reason.to_owned()));
        assert_eq!(asked(), before + calls);
        log.wait_for(r#"denied Some("a") 4401"#).await;
    }
    // A value that is not a string counts as none.
    let mut a = registered(&server, "a", "password").await;
    let token = format!("[{}0]", "0,".repeat(most));
    a.send(&format!(
        r#"{{"action":"register","id":"a","token":{token}}}"#
    ))
    .await;
    assert_eq!(refusal(&mut a).await.1, "who are you?");
}

/// Where clients are authenticated, a hundred errors in a minute are enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_authentication_errors_are_limited() {
    let (server, _) = start();
    let mut a = registered(&server, "a", "password").await;
    for _ in 0..100 {
        a.send("no JSON").await;
    }
    renew(&mut a, "a", "password").await;
    a.send("no JSON").await;
    assert_eq!(a.close_code().await, 1008);
}

/// Rule 22.9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_from_other_origins_are_not_accepted() {
    let ask = async |server: &Server, origin: &str| -> String {
        let mut raw = Raw(tokio::io::BufReader::new(tcp(server).await));
        let head = REQUEST.replace(
            "Host: localhost",
            &format!("Host: broker.test:9000\r\nOrigin: {origin}"),
        );
        raw.write(head.as_bytes()).await;
        raw.head().await[9..12].to_owned()
    };
    let (authenticated, _) = start();
    let (listed, _) = start_server(ServerOptions {
        allowed_origins: Some(vec!["https://page.test".into()]),
        ..options()
    });
    let (open, _) = start_server(options());
    for (origin, expected) in [
        ("http://broker.test:9000", ["101", "403", "101"]),
        ("https://page.test", ["403", "101", "101"]),
        ("https://page.test.evil.test", ["403", "403", "101"]),
        ("null", ["403", "403", "101"]),
        ("\u{e9}", ["403", "403", "101"]),
    ] {
        let found = [
            ask(&authenticated, origin).await,
            ask(&listed, origin).await,
            ask(&open, origin).await,
        ];
        assert_eq!(found, expected, "{origin}");
    }
    // Who sends none is no page.
    Peer::register(&listed, "a").await;
    assert_eq!(listed.stats().refused, 4);
}

/// A client, and a log of its events.
fn client(server: &Server, id: &str, token: &str) -> (Client, Log) {
    struct Events(Log);
    impl ClientListener for Events {
        fn event(&self, event: ClientEvent<'_>) {
            self.0.push(match event {
                ClientEvent::Error(error) => format!("error {}", error.code()),
                ClientEvent::Registered { .. } => "Registered".to_owned(),
                ClientEvent::Closed { code, .. } => format!("Closed({code:?})"),
                event => format!("{event:?}"),
            });
        }
    }
    let log = Log::default();
    let options = ClientOptions {
        host: "127.0.0.1".into(),
        port: port(server),
        id: Some(format!("\"{id}\"")),
        token: Some(token.into()),
        headers: vec![("X-Key".into(), "value".into())],
        ..ClientOptions::default()
    };
    let runtime = tokio::runtime::Handle::current();
    let client = Client::connect(options, Events(log.clone()), &runtime).unwrap();
    (client, log)
}

/// Rule 19.11.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_sends_its_token_and_gets_the_reason_of_a_denial() {
    let (options, guard) = guarded(LIMIT);
    let (server, _) = start_server(options);
    let (known, log) = client(&server, "known", "password \"one\"\n");
    log.wait_for("Registered").await;
    let asked = guard.asked.lock().unwrap()[0].clone();
    assert_eq!(asked.token.as_deref(), Some("password \"one\"\n"));
    let header = ("x-key".to_owned(), "value".to_owned());
    assert!(asked.headers.contains(&header));
    known.register(Some("password \"one\"\n")).unwrap();
    known.flush();
    until("it is registered again", || log.count("Registered") == 2).await;
    for (id, token, code, event) in [
        ("a", "guess", 4401, "error ERR_WSMB_UNAUTHORIZED"),
        ("a", "forbidden", 4403, "error ERR_WSMB_FORBIDDEN"),
        ("known", "password", 4409, "error ERR_WSMB_CONFLICT"),
    ] {
        let (_client, log) = client(&server, id, token);
        log.wait_for(&format!("Closed(Some({code}))")).await;
        assert_eq!(
            log.lines(),
            ["Open", event, &format!("Closed(Some({code}))")]
        );
    }
}

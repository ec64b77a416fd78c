//! The ids of a server: listing them, and disconnecting one (rule 15.10).

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Message;
use wsmsgbroker::{
    Authentication, ServerOptions,
    auth::{Credentials, Decision, Grant},
};

use crate::support::{
    Peer,
    client_log::{registered, to_port},
    options, port,
    raw::{Raw, code, numbered_send},
    start_server, until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_free_when_disconnect_returns() {
    let (server, log) = start_server(options());
    for round in 1..=20 {
        let mut a = Peer::register(&server, "a").await;
        assert!(server.has("a") && !server.has("b"));
        assert!(server.disconnect("a", 4000, "enough").unwrap());
        assert!(!server.has("a"), "round {round}");
        assert_eq!(server.ids().len(), 0);
        assert!(!server.disconnect("a", 4000, "enough").unwrap());
        // The next connection owns the id, and keeps it when the former one ends.
        let mut next = Peer::register(&server, "a").await;
        let Some(Message::Close(Some(frame))) = a.next().await else {
            panic!("no close frame");
        };
        assert_eq!((frame.code.into(), frame.reason.as_str()), (4000, "enough"));
        drop(a);
        until("it has ended", || server.stats().connections == 1).await;
        assert!(server.has("a"));
        assert!(server.disconnect("a", 1000, "").unwrap());
        assert_eq!(next.close_code().await, 1000);
        drop(next);
        until("all have ended", || server.stats().connections == 0).await;
        assert_eq!(log.count("registered a"), 2 * round);
        assert_eq!(log.count("unregistered a"), 2 * round);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_messages_precede_the_close_frame_and_none_follow() {
    let (server, _) = start_server(options());
    let mut b = Raw::register(&server, "b").await;
    let mut a = Raw::register(&server, "a").await;
    let length = 15 << 20;
    a.send(&numbered_send(7, r#"["b","b"]"#, length)).await;
    until("all is queued", || server.stats().messages_out == 2).await;
    let reason = "é".repeat(61) + ".";
    assert!(server.disconnect("b", 3000, &reason).unwrap());
    a.send(&numbered_send(8, r#"["b","a"]"#, 1)).await;
    assert!(a.receive().await.contains("8 "));
    for _ in 0..2 {
        let (_, message) = b.next().await.unwrap();
        assert!(message.len() > length);
    }
    let (_, close) = b.next().await.unwrap();
    assert_eq!(code(&close), 3000);
    assert_eq!(&close[2..], reason.as_bytes());
    b.ended().await;
    assert_eq!(server.stats().unknown_ids, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_or_non_reading_connection_can_be_disconnected() {
    let (server, _) = start_server(ServerOptions {
        max_backpressure: 1 << 20,
        // So long that it is not what ends them.
        slow_consumer_timeout: Duration::from_secs(3600),
        close_timeout: Duration::from_millis(50),
        ..options()
    });
    let mut deaf = Raw::register(&server, "deaf").await;
    let mut sender = Raw::register(&server, "sender").await;
    let mut other = Raw::register(&server, "other").await;
    for number in 0..2 {
        sender
            .send(&numbered_send(number, r#""deaf""#, 16 << 20))
            .await;
    }
    sender.send(&numbered_send(2, r#""sender""#, 1)).await;
    until("it waits", || server.stats().messages_in == 5).await;
    assert!(server.disconnect("sender", 4000, "").unwrap());
    assert_eq!(sender.close_code().await, 4000);
    assert!(server.disconnect("deaf", 4000, "").unwrap());
    other.send(&numbered_send(3, r#""other""#, 1)).await;
    assert!(other.receive().await.contains("3 "));
    drop(sender);
    until("both are cut off", || server.stats().connections == 1).await;
    deaf.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_a_disconnected_client_ends() {
    let (server, _) = start_server(options());
    let _b = Peer::register(&server, "b").await;
    let mut a = Peer::register(&server, "a").await;
    a.send(r#"{"action":"send","message":1,"dest":"b","ack":"k"}"#)
        .await;
    until("it is asked", || server.stats().pending == 1).await;
    assert!(server.disconnect("b", 1000, "").unwrap());
    until("it has ended", || server.stats().pending == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_the_close_code_and_policy_codes_are_denials() {
    let (server, _) = start_server(options());
    let (_client, told) = registered(to_port(port(&server), "a", None)).await;
    assert!(server.disconnect("a", 4403, "no more").unwrap());
    let end = told.end().await;
    assert_eq!(
        end[end.len() - 2..],
        ["error ERR_WSMB_FORBIDDEN", "closed Some(4403) no more"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_close_code_or_reason_is_refused() {
    let (server, _) = start_server(options());
    let _a = Peer::register(&server, "a").await;
    for code in [0, 999, 1001, 1005, 1006, 1013, 2999, 5000, u16::MAX] {
        let error = server.disconnect("a", code, "").unwrap_err();
        assert_eq!(error.code(), "ERR_WSMB_OPTION", "{code}");
    }
    let error = server.disconnect("a", 1000, &"x".repeat(124)).unwrap_err();
    assert_eq!(error.code(), "ERR_WSMB_OPTION");
    assert!(server.has("a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_server_has_no_connections() {
    let (server, _) = start_server(options());
    let a = Peer::register(&server, "a").await;
    server.close();
    drop(a);
    server.closed().await;
    assert!(!server.has("a") && server.ids().is_empty());
    assert!(!server.disconnect("a", 1000, "").unwrap());
}

/// Grants every id to the principal before its hyphen. For ids with `slow`, adds a permit to `asked` and waits
/// for one of `told`.
fn by_prefix(asked: &Arc<Semaphore>, told: &Arc<Semaphore>) -> ServerOptions {
    let (asked, told) = (asked.clone(), told.clone());
    let hook = move |Credentials { id, .. }: Credentials| -> Decision {
        let (asked, told) = (asked.clone(), told.clone());
        Box::pin(async move {
            if id.contains("slow") {
                asked.add_permits(1);
                let _ = told.acquire().await;
            }
            Ok(Grant::new(id.split('-').next().unwrap_or_default()))
        })
    };
    ServerOptions {
        authentication: Authentication::Hook(Arc::new(hook), Duration::from_secs(20)),
        ..options()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_connections_of_a_principal_are_closed_in_any_state() {
    let (asked, told) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (server, log) = start_server(by_prefix(&asked, &told));
    let mut other = Peer::register(&server, "b-1").await;
    let mut replaced = Peer::register(&server, "a-1").await;
    let mut owner = Peer::register(&server, "a-1").await;
    let mut second = Peer::register(&server, "a-2").await;
    let mut without = Peer::register(&server, "a-3").await;
    without.send(r#"{"action":"unregister"}"#).await;
    without
        .expect(r#"{"action":"unregistered","id":"a-3"}"#)
        .await;
    let mut renewing = Peer::register(&server, "a-4").await;
    renewing
        .send(r#"{"action":"register","id":"a-slow"}"#)
        .await;
    let mut registering = Peer::connect(&server).await;
    registering
        .send(r#"{"action":"register","id":"a-slow"}"#)
        .await;
    until("both are asked about", || asked.available_permits() == 2).await;
    // The replaced connection can still send.
    replaced
        .send(r#"{"action":"send","message":1,"dest":"b-1"}"#)
        .await;
    other.expect(r#"{"action":"message","message":1}"#).await;
    assert!(server.disconnect_principal("a-1", 4000, "enough").unwrap());
    assert_eq!(&*server.ids(), ["b-1".into()]);
    told.add_permits(2);
    for peer in [
        &mut replaced,
        &mut owner,
        &mut second,
        &mut without,
        &mut renewing,
        &mut registering,
    ] {
        assert_eq!(peer.close_code().await, 4000);
    }
    assert_eq!(&*server.ids(), ["b-1".into()]);
    other
        .send(r#"{"action":"send","message":2,"dest":"b-1"}"#)
        .await;
    other
        .expect(r#"{"action":"message","message":2,"from":"b-1"}"#)
        .await;
    for id in ["a-1", "a-2", "a-3", "a-4"] {
        assert_eq!(log.count(&format!("unregistered {id}")), 1, "{id}");
    }
    // Nothing keeps it from coming back.
    let _again = Peer::register(&server, "a-1").await;
    let _slow = Peer::register(&server, "a-slow").await;
    assert!(!server.disconnect_principal("c", 1000, "").unwrap());
    server.disconnect_principal("c", 5, "").unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_principals_all_former_owners_of_the_id_are_closed() {
    let (server, _) = start_server(options());
    let mut replaced = Peer::register(&server, "a").await;
    let mut owner = Peer::register(&server, "a").await;
    let other = Peer::register(&server, "a").await;
    let _other = other.registered("b").await;
    assert!(server.disconnect_principal("a", 1000, "").unwrap());
    for peer in [&mut replaced, &mut owner] {
        assert_eq!(peer.close_code().await, 1000);
    }
    assert_eq!(&*server.ids(), ["b".into()]);
    until("one is left", || server.stats().connections == 1).await;
}

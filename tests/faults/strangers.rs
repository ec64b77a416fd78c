//! Connections from web pages of other origins, and from peers that guess tokens.

use tokio::io::BufReader;

use crate::{
    case::{count, crowd, endure},
    support::{
        raw::{REQUEST, Raw},
        tcp,
    },
};

/// Those who are at it at the same time.
const AT_ONCE: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_from_other_origins_are_refused() {
    let origins = [
        "https://evil.example",
        "http://example.org",
        "https://example.org.evil.example",
        "https://example.org:444",
        "https://sub.example.org",
        "https://example.org/",
        "https://evil.example, https://example.org",
        "null",
        "*",
        "",
    ];
    endure(
        "allowed_origin=https://example.org",
        count(1_000, 100_000),
        async |broker, count| {
            let before = broker.counters();
            crowd(count, AT_ONCE, async |n| {
                let origin = format!("\r\nOrigin: {}\r\n", origins[n % origins.len()]);
                let mut raw = Raw(BufReader::new(tcp(broker).await));
                raw.write(REQUEST.replacen("\r\n", &origin, 1).as_bytes())
                    .await;
                let head = raw.head().await;
                assert!(head.starts_with("HTTP/1.1 403 "), "{origin}: {head}");
                raw.ended().await;
            })
            .await;
            let after = broker.counters();
            assert_eq!(after.get("accepted"), before.get("accepted"));
            assert_eq!(after.get("refused") - before.get("refused"), count as u64);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessed_tokens_are_refused_without_side_effects() {
    endure(
        "authenticate=password",
        count(1_000, 100_000),
        async |broker, count| {
            let before = broker.counters();
            let mut owner = Raw::connect(broker).await;
            owner
                .send(r#"{"action":"register","id":"id","token":"password"}"#)
                .await;
            assert_eq!(
                owner.receive().await,
                r#"{"action":"registered","id":"id"}"#
            );
            crowd(count, AT_ONCE, async |n| {
                let (text, code) = match n % 5 {
                    0 => (
                        format!(r#"{{"action":"register","id":"id","token":"{n}"}}"#),
                        4401,
                    ),
                    1 => (r#"{"action":"register","id":"id"}"#.into(), 4401),
                    2 => (r#"{"action":"send","message":1,"dest":"id"}"#.into(), 4401),
                    3 => ("no JSON".into(), 4401),
                    // It knows a password, but is somebody else.
                    _ => (
                        r#"{"action":"register","id":"id","token":"password of another"}"#.into(),
                        4409,
                    ),
                };
                let mut raw = Raw::connect(broker).await;
                raw.send(&text).await;
                assert_eq!(raw.close_code().await, code, "{text}");
                raw.ended().await;
            })
            .await;
            let denied = broker.counters().get("denied") - before.get("denied");
            assert_eq!(denied, count as u64);
            // Nothing has come, and it is still its id.
            owner
                .send(r#"{"action":"send","message":2,"dest":"id"}"#)
                .await;
            assert_eq!(
                owner.receive().await,
                r#"{"action":"message","message":2,"from":"id"}"#
            );
            owner.ended_by_us().await;
        },
    )
    .await;
}

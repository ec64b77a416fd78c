//! Handshake requests that never end, are too large, or are abandoned.

use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};

use crate::{
    case::{MIB, count, crowd, endure},
    support::{
        Peer,
        raw::{REQUEST, Raw},
        tcp, until,
    },
};

/// Those who are at it at the same time.
const AT_ONCE: usize = 32;

/// A thousand at once, a byte a second each, for as long as they are let.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshakes_time_out_and_block_no_other_client() {
    let options = format!("handshake_timeout={}", count(4_000, 10_000));
    endure(&options, 1_000, async |broker, count| {
        let before = broker.count("refused");
        let slow = crowd(count, count, async |_| {
            let (read, mut write) = tcp(broker).await.into_split();
            let mut answer = Raw(BufReader::new(read));
            let drip = async {
                for byte in REQUEST.as_bytes().chunks(1) {
                    if write.write_all(byte).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                panic!("it was given too much time");
            };
            let head = tokio::select! {
                head = answer.head() => head,
                () = drip => String::new(),
            };
            assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
        });
        let honest = async {
            until("all are there", || broker.descriptors() > count).await;
            Peer::register(broker, "honest").await;
        };
        tokio::join!(slow, honest);
        assert_eq!(broker.count("refused") - before, count as u64);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_headers_are_refused_in_little_memory() {
    let (line, rest) = REQUEST.split_once("\r\n").unwrap();
    let with = |headers: &str| format!("{line}\r\n{headers}\r\n{rest}");
    let bombs = [
        ("431", with("a: b\r\n".repeat(100_000).trim_end())),
        ("431", with("a: b\r\n".repeat(100).trim_end())),
        ("431", with(&format!("Cookie: {}", "x".repeat(4 << 20)))),
        ("431", with(&format!("{}: x", "x".repeat(4 << 20)))),
        ("431", format!("GET /{}", "x".repeat(4 << 20))),
        ("431", "x".repeat(4 << 20)),
        ("400", "\r\n".repeat(64 << 10).replace('\r', "")),
        ("400", "\0".repeat(4 << 20)),
        ("400", with("a: \0")),
        ("400", with(": x")),
        ("400", with("no colon")),
        ("400", with(" folded: x")),
        ("400", "\r\n\r\n".repeat(1_000)),
    ];
    endure("", count(260, 26_000), async |broker, count| {
        let before = broker.forget_the_peak();
        crowd(count, AT_ONCE, async |n| {
            let (status, bomb) = &bombs[n % bombs.len()];
            let mut raw = Raw(BufReader::new(tcp(broker).await));
            // The broker has had enough of it before its end.
            let _ = raw.0.write_all(bomb.as_bytes()).await;
            let head = raw.head().await;
            let start = &bomb[..bomb.len().min(200)];
            assert_eq!(&head[9..12], *status, "{start:?}");
            raw.ended().await;
        })
        .await;
        // 16 KiB each, and what a buffer needs to grow to that.
        let cost = broker.count("peak") - before;
        assert!(cost < 3 * MIB, "{cost}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_handshakes_leave_no_resources() {
    endure("", count(2_000, 100_000), async |broker, count| {
        let before = broker.counters();
        crowd(count, AT_ONCE, async |n| {
            let mut socket = tcp(broker).await;
            let end = n % REQUEST.len();
            socket.write_all(&REQUEST.as_bytes()[..end]).await.unwrap();
            if n % 2 == 0 {
                // Ends with a reset.
                socket.set_zero_linger().unwrap();
            }
        })
        .await;
        let after = broker.counters();
        assert_eq!(after.get("accepted"), before.get("accepted"));
        assert_eq!(after.get("refused"), before.get("refused"));
    })
    .await;
}

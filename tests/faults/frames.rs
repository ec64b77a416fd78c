//! Bytes that are not WebSocket frames, or too many of them.

use tokio::io::{AsyncWriteExt, BufReader};

use crate::{
    case::{MIB, count, crowd, endure},
    support::{
        random::Random,
        raw::{
            CLOSE, LAST, MORE, PING, PONG, REQUEST, Raw, TEXT, TEXT_FRAGMENT, code, frame, header,
        },
        tcp, until,
        violations::{MAX_PAYLOAD, violations},
    },
};

/// Those who are at it at the same time.
const AT_ONCE: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_violation_closes_its_connection_with_the_right_code() {
    let violations = violations();
    let options = format!("max_payload={MAX_PAYLOAD}");
    endure(&options, count(2_000, 100_000), async |broker, count| {
        crowd(count, AT_ONCE, async |n| {
            let (what, code, bytes) = &violations[n % violations.len()];
            let mut raw = Raw::register(broker, &format!("culprit {n}")).await;
            raw.write(bytes).await;
            assert_eq!(raw.close_code().await, *code, "{what}");
            raw.ended().await;
        })
        .await;
        assert_eq!(broker.count("replaced"), 0);
    })
    .await;
}

/// A conversation with some of its bits flipped. It ends with a close code of the protocol, or without any
/// close frame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_frames_end_with_a_valid_close_code_or_none() {
    let conversation = [
        frame(TEXT, r#"{"action":"register","id":"culprit"}"#),
        frame(
            TEXT_FRAGMENT,
            r#"{"action":"send","message":{"a":"\u00e9"},"#,
        ),
        frame(PING, "ping"),
        frame(LAST, r#""dest":["culprit","nobody"],"ack":"k"}"#),
        frame(TEXT, r#"{"action":"answer","ack":"k","message":null}"#),
        frame(TEXT, format!(r#"{{"action":"{}"}}"#, "x".repeat(300))),
        frame(TEXT, r#"{"action":"unregister"}"#),
    ]
    .concat();
    endure("", count(5_000, 500_000), async |broker, count| {
        crowd(count, AT_ONCE, async |n| {
            let mut random = Random::new(n as u64 + 1);
            let mut bytes = conversation.clone();
            for _ in 0..=random.below(8) {
                let place = random.below(bytes.len());
                bytes[place] ^= 1 << random.below(8);
            }
            let mut raw = Raw::connect(broker).await;
            // The broker may have had enough of it before its end.
            let _ = raw.0.write_all(&bytes).await;
            let _ = raw.0.get_mut().shutdown().await;
            let code = raw.close_code().await;
            // 1006: it could not see what was wrong before there was no more.
            assert!([1002, 1006, 1007, 1009].contains(&code), "{code}");
        })
        .await;
    })
    .await;
}

/// A million bytes in as many fragments, where that many are allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_in_tiny_fragments_takes_memory_of_its_length() {
    let options = "max_fragments=16777216";
    endure(options, count(100_000, 1_000_000), async |broker, count| {
        let before = broker.forget_the_peak();
        let mut raw = Raw::register(broker, "culprit").await;
        let start = r#"{"action":"send","dest":"culprit","message":""#;
        raw.write(&frame(TEXT_FRAGMENT, start)).await;
        let fragments = [frame(MORE, "x"), frame(MORE, "")].concat().repeat(1_000);
        for _ in 0..count / 1_000 {
            raw.write(&fragments).await;
        }
        raw.write(&frame(LAST, "\"}")).await;
        let (_, message) = raw.next().await.unwrap();
        assert_eq!(message.iter().filter(|byte| **byte == b'x').count(), count);
        let cost = broker.count("peak") - before;
        assert!(cost < MIB + 8 * count as u64, "{cost}");
        raw.ended_by_us().await;
    })
    .await;
}

/// With the default of 16,384.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_fragments_are_closed() {
    endure("", count(1_000_000, 10_000_000), async |broker, count| {
        let before = broker.forget_the_peak();
        let (mut read, mut write) = Raw::connect(broker).await.split();
        let flood = async {
            write.write_all(&frame(TEXT_FRAGMENT, "x")).await.unwrap();
            let fragments = frame(MORE, "x").repeat(1_000);
            for _ in 0..count / 1_000 {
                // The server closes before all fragments are written.
                if write.write_all(&fragments).await.is_err() {
                    break;
                }
            }
        };
        let end = async {
            assert_eq!(read.close_code().await, 1008);
            read.ended().await;
        };
        tokio::join!(flood, end);
        let cost = broker.count("peak") - before;
        assert!(cost < MIB, "{cost}");
    })
    .await;
}

/// Memory is charged for received bytes, not for the length announced in a header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incomplete_messages_take_memory_of_the_bytes_received_until_timeout() {
    const SENT: usize = 256 << 10;
    let options = "register_timeout=4000";
    endure(options, count(60, 300), async |broker, count| {
        broker.forget_the_peak();
        let before = broker.most_resident();
        let mut culprits = Vec::new();
        for n in 0..count {
            let mut raw = Raw::connect(broker).await;
            let bytes = match n % 3 {
                // As much as may be announced.
                0 => [header(TEXT, 100 << 20), vec![b'x'; SENT]].concat(),
                1 => frame(TEXT_FRAGMENT, vec![b'x'; SENT]),
                _ => [frame(TEXT_FRAGMENT, "x"), frame(MORE, "x").repeat(10_000)].concat(),
            };
            raw.write(&bytes).await;
            // All of it has been read when this is answered, where there may be a ping.
            if n % 3 > 0 {
                raw.write(&frame(PING, "read")).await;
                assert_eq!(raw.next().await, Some((PONG, b"read".to_vec())));
            }
            culprits.push(raw);
        }
        let cost = broker.most_resident() - before;
        // A buffer that grows is copied into one of twice the size.
        let most = 8 * MIB + 3 * (SENT * count) as u64;
        assert!(cost < most, "{cost}");
        for mut raw in culprits {
            assert_eq!(raw.close_code().await, 1008);
            raw.ended().await;
        }
    })
    .await;
}

/// The largest holder is closed first; the others end by timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incomplete_messages_beyond_max_memory_are_closed() {
    const SENT: usize = 1 << 20;
    const MEMORY: usize = 16 << 20;
    let options = format!("max_memory={MEMORY} register_timeout=5000");
    endure(&options, count(60, 500), async |broker, count| {
        broker.forget_the_peak();
        let (before, evicted) = (broker.most_resident(), broker.count("evicted"));
        crowd(count, count, async |_| {
            // The handshake itself may find that there is no memory left.
            let socket = tcp(broker).await;
            let (read, mut write) = socket.into_split();
            let mut read = Raw(BufReader::new(read));
            write.write_all(REQUEST.as_bytes()).await.unwrap();
            if read.head().await.starts_with("HTTP/1.1 503 ") {
                return;
            }
            let part = [header(TEXT, 2 * SENT), vec![b'x'; SENT]].concat();
            let flood = async {
                // No more of it is read when it is ended.
                let _ = write.write_all(&part).await;
            };
            let end = async {
                let code = read.close_code().await;
                assert!([1008, 1013].contains(&code), "{code}");
            };
            tokio::join!(flood, end);
        })
        .await;
        if count * SENT > 2 * MEMORY {
            assert!(broker.count("evicted") > evicted);
        }
        let cost = broker.most_resident() - before;
        // A buffer reserves room for the whole message once its header has arrived. Pages touched for a closed
        // connection are not reused for new ones, and the allocator keeps them for a while.
        let most = (2 * MEMORY).max(count * SENT / 4);
        assert!(cost < most as u64, "{cost}");
    })
    .await;
}

const ANY_PINGS: &str = "max_control_frames=16777216";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_pings_are_answered_one_by_one() {
    endure(
        ANY_PINGS,
        count(200_000, 10_000_000),
        async |broker, count| {
            let raw = Raw::connect(broker).await;
            let (mut read, mut write) = raw.split();
            let writer = async {
                let pings = frame(PING, [7; 125]).repeat(100);
                for _ in 0..count.div_ceil(100) {
                    write.write_all(&pings).await.unwrap();
                }
                let end = frame(CLOSE, 1000_u16.to_be_bytes());
                write.write_all(&end).await.unwrap();
            };
            let reader = async {
                let mut pongs = 0;
                loop {
                    match read.next().await {
                        Some((PONG, payload)) => assert_eq!(payload, [7; 125]),
                        Some((_, payload)) => break assert_eq!(code(&payload), 1000),
                        None => panic!("no end"),
                    }
                    pongs += 1;
                }
                // Those are dropped that would wait for a peer that reads late.
                assert!((1..=count.next_multiple_of(100)).contains(&pongs));
            };
            tokio::join!(writer, reader);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_of_a_peer_that_does_not_read_take_no_memory() {
    endure(
        ANY_PINGS,
        count(200_000, 10_000_000),
        async |broker, count| {
            let before = broker.forget_the_peak();
            let mut raw = Raw::connect(broker).await;
            let pings = frame(PING, [7; 125]).repeat(100);
            for _ in 0..count.div_ceil(100) {
                raw.write(&pings).await;
            }
            // Carried out behind all of them.
            raw.send(r#"{"action":"register","id":"culprit"}"#).await;
            until("it is registered", || broker.count("registered") == 3).await;
            let cost = broker.count("peak") - before;
            assert!(cost < MIB, "{cost}");
            loop {
                match raw.next().await.unwrap() {
                    (PONG, payload) => assert_eq!(payload, [7; 125]),
                    (_, text) => break assert!(text.starts_with(br#"{"action":"registered""#)),
                }
            }
            raw.ended_by_us().await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsolicited_pongs_are_ignored() {
    endure(
        ANY_PINGS,
        count(200_000, 10_000_000),
        async |broker, count| {
            let before = broker.forget_the_peak();
            let mut raw = Raw::register(broker, "culprit").await;
            let pongs = [frame(PONG, [7; 125]), frame(PONG, "")].concat().repeat(50);
            for _ in 0..count.div_ceil(100) {
                raw.write(&pongs).await;
            }
            raw.send(r#"{"action":"unregister"}"#).await;
            let next = raw.receive().await;
            assert_eq!(next, r#"{"action":"unregistered","id":"culprit"}"#);
            let cost = broker.count("peak") - before;
            assert!(cost < MIB, "{cost}");
            raw.ended_by_us().await;
        },
    )
    .await;
}

/// With the default of 100 a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_pings_and_pongs_are_closed() {
    endure("", count(200, 10_000), async |broker, count| {
        crowd(count, AT_ONCE, async |n| {
            let (mut read, mut write) = Raw::connect(broker).await.split();
            let flood = async {
                let controls = frame([PING, PONG][n % 2], [7; 125]).repeat(100);
                for _ in 0..100 {
                    if write.write_all(&controls).await.is_err() {
                        break;
                    }
                }
            };
            let end = async {
                assert_eq!(read.close_code().await, 1008);
                read.ended().await;
            };
            tokio::join!(flood, end);
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_frames_of_any_excessive_length_are_violations() {
    endure("", count(400, 40_000), async |broker, count| {
        crowd(count, AT_ONCE, async |n| {
            let kind = [PING, PONG, CLOSE][n % 3];
            let length = [126, 1_000, 65_536, 1 << 20, 1 << 40, usize::MAX][n / 3 % 6];
            let mut raw = Raw::connect(broker).await;
            raw.write(&header(kind, length)).await;
            assert_eq!(raw.close_code().await, 1002, "{kind} of {length}");
            raw.ended().await;
        })
        .await;
    })
    .await;
}

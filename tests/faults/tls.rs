//! Plain bytes where TLS is expected, and TLS handshakes that are abandoned.

use std::time::Duration;

use rustls::{ClientConnection, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    broker::Broker,
    case::{MIB, count, crowd, endure},
    support::{
        PATIENCE,
        raw::{REQUEST, TEXT, frame},
        tcp,
        tls::{Authority, connect, self_signed, try_connect},
    },
};

/// Those who are at it at the same time.
const AT_ONCE: usize = 32;

/// Types of TLS records.
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    [&[kind, 3, 3], &length[..], payload].concat()
}

/// The first flight of an honest client.
fn hello(broker: &Broker) -> Vec<u8> {
    let config = broker.trust().connector().config().clone();
    let name = ServerName::try_from("localhost").unwrap();
    let mut bytes = Vec::new();
    ClientConnection::new(config, name)
        .unwrap()
        .write_tls(&mut bytes)
        .unwrap();
    bytes
}

/// A `ClientHello` of TLS 1.1, which offers one cipher of its time.
fn old_hello() -> Vec<u8> {
    let body = [&[3, 2][..], &[7; 32], &[0], &[0, 2, 0, 0x2f], &[1, 0]].concat();
    let length = (body.len() as u32).to_be_bytes();
    record(HANDSHAKE, &[&[1], &length[1..], &body].concat())
}

/// Waits for the end of the connection: before it at most one thing is said, and that is an alert.
async fn is_refused(socket: &mut TcpStream, what: &str) {
    let mut bytes = Vec::new();
    // It may end by a reset.
    let end = timeout(PATIENCE, socket.read_to_end(&mut bytes)).await;
    assert!(end.is_ok(), "{what}: no end");
    let is_alert = matches!(*bytes, [ALERT, 3, 3, 0, 2, _, _]);
    assert!(is_alert || bytes.is_empty(), "{what}: {bytes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_is_refused_by_a_tls_alert() {
    let wrong = [
        ("plain HTTP", REQUEST.as_bytes().to_vec()),
        (
            "noise",
            (0..2_000_u32).map(|n| (n * n % 251) as u8).collect(),
        ),
        (
            "a record too long",
            [&[HANDSHAKE, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat(),
        ),
        ("a record of an unknown type", record(99, b"x")),
        ("an empty record", record(HANDSHAKE, b"")),
        ("data first", record(DATA, &[7; 100])),
        (
            "a handshake message of 16 MiB",
            record(HANDSHAKE, &[1, 0xff, 0xff, 0xff]).repeat(64),
        ),
        (
            "another message first",
            record(HANDSHAKE, &[16, 0, 0, 1, 0]),
        ),
        ("SSL 2", vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10]),
        ("TLS 1.1", old_hello()),
        (
            "ciphers changed again and again",
            record(CHANGE_CIPHER_SPEC, &[1]).repeat(1_000),
        ),
        (
            "warnings without end",
            record(ALERT, &[1, 90]).repeat(1_000),
        ),
    ];
    endure(
        "tls=server",
        count(1_200, 100_000),
        async |broker, count| {
            let before = broker.forget_the_peak();
            let accepted = broker.count("accepted");
            crowd(count, AT_ONCE, async |n| {
                let (what, bytes) = &wrong[n % wrong.len()];
                let mut socket = tcp(broker).await;
                // The broker has had enough of some before their end.
                let _ = socket.write_all(bytes).await;
                is_refused(&mut socket, what).await;
            })
            .await;
            assert_eq!(broker.count("accepted"), accepted);
            let cost = broker.count("peak") - before;
            assert!(cost < 4 * MIB, "{cost}");
        },
    )
    .await;
}

/// Honest in every byte, but never done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_tls_handshakes_time_out() {
    let options = format!("tls=server handshake_timeout={}", count(2_000, 10_000));
    endure(&options, count(200, 1_000), async |broker, count| {
        let (before, hello) = (broker.count("refused"), hello(broker));
        crowd(count, count, async |n| {
            // Half of them stop; the others drip.
            let (mut read, mut write) = tcp(broker).await.into_split();
            let drip = async {
                for byte in hello.chunks(1) {
                    if n % 2 == 0 || write.write_all(byte).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                std::future::pending().await
            };
            let mut bytes = Vec::new();
            tokio::select! {
                // Cut off, with an alert or without.
                end = timeout(PATIENCE, read.read_to_end(&mut bytes)) => assert!(end.is_ok()),
                () = drip => {}
            }
        })
        .await;
        assert_eq!(broker.count("refused") - before, count as u64);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_connections_aborted_at_any_point_leave_no_resources() {
    endure(
        "tls=server",
        count(1_200, 100_000),
        async |broker, count| {
            let connector = broker.trust().connector();
            let hello = hello(broker);
            crowd(count, AT_ONCE, async |n| {
                if n % 6 == 0 {
                    let mut socket = tcp(broker).await;
                    return socket.write_all(&hello[..n % hello.len()]).await.unwrap();
                }
                let mut stream = connect(broker, &connector).await;
                match n % 6 {
                    1 => {}
                    // Bytes that are not encrypted.
                    2 => {
                        let (mut socket, _) = stream.into_inner();
                        socket.write_all(&record(DATA, &[7; 100])).await.unwrap();
                        let mut rest = Vec::new();
                        // What is left of the handshake, and an alert that only the session could read.
                        let end = timeout(PATIENCE, socket.read_to_end(&mut rest)).await;
                        assert!(end.is_ok());
                    }
                    3 => {
                        let half = &REQUEST.as_bytes()[..n % REQUEST.len()];
                        stream.write_all(half).await.unwrap();
                    }
                    4 => {
                        stream.write_all(REQUEST.as_bytes()).await.unwrap();
                        let register = format!(r#"{{"action":"register","id":"{n}"}}"#);
                        stream.write_all(&frame(TEXT, register)).await.unwrap();
                        stream.flush().await.unwrap();
                        // Resets the connection, without an alert.
                        stream.into_inner().0.set_zero_linger().unwrap();
                    }
                    _ => stream.shutdown().await.unwrap(),
                }
            })
            .await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_valid_certificate_is_refused_if_one_is_required() {
    let strangers = [
        None,
        Some(self_signed()),
        Some(Authority::new("other").issue()),
    ];
    endure("tls=both", count(300, 10_000), async |broker, count| {
        let accepted = broker.count("accepted");
        crowd(count, AT_ONCE, async |n| {
            let own = strangers[n % strangers.len()].as_ref();
            let connector = broker.trust().connector_with(own);
            // A client of TLS 1.3 learns of it only when it reads.
            let end = async {
                let mut stream = try_connect(tcp(broker).await, &connector).await?;
                stream.write_all(REQUEST.as_bytes()).await?;
                stream.read_u8().await
            };
            let end = timeout(PATIENCE, end).await.expect("an end");
            assert!(end.is_err(), "it was let in");
        })
        .await;
        assert_eq!(broker.count("accepted"), accepted);
    })
    .await;
}

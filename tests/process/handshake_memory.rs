//! Memory held for a peer before it is a WebSocket, and for records of TLS, is charged.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::TlsConnector;
use wsmsgbroker::{Server, ServerOptions};

use crate::{
    MEMORY, alone,
    support::{
        bind, options,
        raw::REQUEST,
        tcp,
        tls::{Authority, BOTH, client_hello, connect, connector},
        until,
    },
};

const PEERS: usize = 100;
/// Bytes that a peer itself and the runtime take, and what a charge is coarser than.
const SLACK: usize = 2 << 10;

/// Bytes that a peer sends before it stops.
struct Stage {
    what: &'static str,
    /// Over TLS, once its handshake is done.
    sealed: Option<Vec<u8>>,
    /// As it is.
    bytes: Vec<u8>,
}

/// A record of TLS that announces this length, and has this much of it.
fn record(kind: u8, length: u16, body: &[u8]) -> Vec<u8> {
    let [high, low] = length.to_be_bytes();
    [&[kind, 3, 3, high, low][..], body].concat()
}

impl Stage {
    async fn reach(&self, server: &Server, connector: &TlsConnector) -> TcpStream {
        let mut socket = match &self.sealed {
            None => tcp(server).await,
            Some(sealed) => {
                let mut stream = connect(server, connector).await;
                stream.write_all(sealed).await.unwrap();
                stream.flush().await.unwrap();
                stream.into_inner().0
            }
        };
        socket.write_all(&self.bytes).await.unwrap();
        socket
    }

    async fn peers(&self, server: &Server, connector: &TlsConnector) -> Vec<TcpStream> {
        let before = server.stats().memory;
        let mut peers = Vec::with_capacity(PEERS);
        for _ in 0..PEERS {
            peers.push(self.reach(server, connector).await);
        }
        // All that there is to read has been read when nothing changes any more.
        let mut last = 0;
        until("it holds still", || {
            std::thread::sleep(Duration::from_millis(100));
            let now = MEMORY.current_usage();
            std::mem::replace(&mut last, now) == now && server.stats().memory > before
        })
        .await;
        peers
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_each_handshake_stage_is_charged() {
    let _alone = alone().await;
    let hello = client_hello().await;
    let head = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(16_000)).into_bytes();
    let message = [&[1, 0, 0xff, 0xf0][..], &[7; 15_000]].concat();
    let part = record(23, 0x4000, &[7; 16_000]);
    let over_tls = |what, sealed: &[u8], bytes: &[u8]| Stage {
        what,
        sealed: Some(sealed.to_vec()),
        bytes: bytes.to_vec(),
    };
    let as_it_is = |what, bytes: &[u8]| Stage {
        what,
        sealed: None,
        bytes: bytes.to_vec(),
    };
    let plain = [
        as_it_is("nothing", b""),
        as_it_is("half a head", &REQUEST.as_bytes()[..50]),
        as_it_is("a long head", &head),
    ];
    let secure = [
        as_it_is("nothing over TLS", b""),
        as_it_is("half a hello", &hello[..hello.len() / 2]),
        as_it_is("a hello", &hello),
        as_it_is("a long message", &record(22, 15_004, &message)),
        as_it_is("a long record", &record(22, 0x4000, &message)),
        over_tls("no head", b"", b""),
        over_tls("a long head over TLS", &head, b""),
        over_tls("no head, and half a record", b"", &part),
        over_tls("a WebSocket", REQUEST.as_bytes(), b""),
        over_tls("a WebSocket, and half a record", REQUEST.as_bytes(), &part),
    ];
    let authority = Authority::new("ca");
    let connector = connector(&authority, BOTH, None);
    let all = plain.iter().map(|stage| (stage, options()));
    for (stage, options) in all.chain(secure.iter().map(|stage| (stage, authority.server()))) {
        let server = bind(ServerOptions {
            handshake_timeout: Duration::from_secs(3600),
            ping_interval: Duration::ZERO,
            ..options
        })
        .unwrap();
        // Buffers that are kept for reuse are there after this.
        drop(stage.peers(&server, &connector).await);
        until("nothing is held", || server.stats().memory == 0).await;
        let before = MEMORY.current_usage();
        let peers = stage.peers(&server, &connector).await;
        let held = MEMORY.current_usage().saturating_sub(before) / PEERS;
        let charged = server.stats().memory / PEERS;
        println!("{}: {held} held, {charged} charged", stage.what);
        assert!(held < charged + SLACK, "{}", stage.what);
        assert!(charged < 2 * held + (16 << 10), "{}", stage.what);
        drop(peers);
    }
}

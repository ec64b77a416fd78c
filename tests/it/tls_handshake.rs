//! TLS handshakes that fail: they affect no other connection and never fall back to plain text. And
//! certificates that are replaced while connections are open.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::pki_types::CertificateDer;
use wsmsgbroker::{ClientOptions, Server, ServerOptions};

use crate::support::{
    canary::Canary,
    client_log, options, port,
    raw::{REQUEST, Raw},
    start_server, tcp,
    tls::{Authority, BOTH, client_hello, connect, connector, peer, tls_of},
    until,
};

/// The first byte of a record that is an alert.
const ALERT: u8 = 21;

/// Sends bytes on a connection of their own; what the server says to them until it ends it.
async fn answer(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut socket = tcp(server).await;
    // A server that has read enough may refuse the rest.
    let _ = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(crate::support::PATIENCE, socket.read_to_end(&mut answer));
    // Reset or not.
    let _ = read.await.expect("an end");
    answer
}

/// True for nothing, or for alerts alone.
fn is_alert(answer: &[u8]) -> bool {
    match answer {
        [] => true,
        [ALERT, 3, _, high, low, rest @ ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            length <= rest.len() && is_alert(&rest[length..])
        }
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_gets_a_tls_alert_or_no_answer() {
    let authority = Authority::new("ca");
    let (server, log) = start_server(authority.server());
    let hello = client_hello().await;
    let mut longer = hello.clone();
    longer[3..5].copy_from_slice(&0xffff_u16.to_be_bytes());
    let mut wrong = hello.clone();
    wrong[5] = 99;
    let refused: &[(&str, &[u8])] = &[
        ("an HTTP request", REQUEST.as_bytes()),
        ("a plain one", b"GET / HTTP/1.0\r\n\r\n"),
        ("zeroes", &[0; 1000]),
        ("noise", &[0xa5; 100_000]),
        ("a record that is too long", &longer),
        ("an unknown message", &wrong),
        ("an alert", &[ALERT, 3, 3, 0, 2, 2, 40]),
        ("data before any key", &[23, 3, 3, 0, 4, 1, 2, 3, 4]),
    ];
    for (what, bytes) in refused {
        let answer = answer(&server, bytes).await;
        assert!(is_alert(&answer), "{what}: {answer:?}");
    }
    let count = refused.len() as u64;
    until("all are counted", || server.stats().refused == count).await;
    assert_eq!(log.lines(), vec!["refused handshake tls"; refused.len()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_in_single_bytes_is_accepted_and_an_incomplete_one_leaves_no_resources() {
    let authority = Authority::new("ca");
    let (server, _) = start_server(authority.server());
    let hello = client_hello().await;
    for end in [1, 4, 5, 6, 100, hello.len() - 1] {
        tcp(&server).await.write_all(&hello[..end]).await.unwrap();
    }
    let mut socket = tcp(&server).await;
    socket.set_nodelay(true).unwrap();
    for byte in hello.chunks(1) {
        socket.write_all(byte).await.unwrap();
        tokio::task::yield_now().await;
    }
    // A server's hello: a handshake record.
    assert_eq!(socket.read_u8().await.unwrap(), 22);
    drop(socket);
    let connector = connector(&authority, BOTH, None);
    drop(peer(&server, &connector).await.registered("a").await);
    until("nobody there", || server.stats().connections == 0).await;
    assert_eq!((server.stats().accepted, server.stats().refused), (1, 0));
}

/// Rule 14.14.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_too_long_tls_handshake_is_closed_before_it_is_complete() {
    let authority = Authority::new("ca");
    let (server, _) = start_server(ServerOptions {
        handshake_timeout: Duration::from_secs(3600),
        ..authority.server()
    });
    // A message of nearly 64 KiB, in records of 8.
    let mut bytes = Vec::new();
    for _ in 0..3 {
        bytes.extend([22, 3, 1, 0x20, 0, 1, 0, 0xff, 0xf0]);
        bytes.resize(bytes.len() + 0x2000 - 4, 7);
    }
    assert!(is_alert(&answer(&server, &bytes).await));
    until("it is counted", || server.stats().refused == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incomplete_tls_handshake_times_out() {
    let authority = Authority::new("ca");
    let (server, _) = start_server(ServerOptions {
        handshake_timeout: Duration::from_millis(300),
        ..authority.server()
    });
    let hello = client_hello().await;
    for part in [&b""[..], &hello[..50]] {
        let answer = answer(&server, part).await;
        assert!(is_alert(&answer), "{answer:?}");
    }
    // Through with TLS, but not with HTTP: that is answered over TLS.
    let connector = connector(&authority, BOTH, None);
    let mut raw = Raw(tokio::io::BufReader::new(
        connect(&server, &connector).await,
    ));
    raw.write(&REQUEST.as_bytes()[..20]).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 408 "));
    until("all are counted", || server.stats().refused == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_half_open_handshakes_do_not_affect_other_connections() {
    let authority = Authority::new("ca");
    let (server, _) = start_server(ServerOptions {
        // As many as there are places beside those for handshakes.
        max_connections: 200,
        ..authority.server()
    });
    let connector = connector(&authority, BOTH, None);
    let canary = Canary::between(
        peer(&server, &connector).await,
        peer(&server, &connector).await,
    )
    .await;
    let hello = client_hello().await;
    let mut open = Vec::new();
    for n in 0..200 {
        let mut socket = tcp(&server).await;
        // Nothing, a part, or all of a first message; then silence.
        let length = [0, 1, 5, hello.len() / 2, hello.len()][n % 5];
        socket.write_all(&hello[..length]).await.unwrap();
        open.push(socket);
    }
    let late = peer(&server, &connector).await.registered("late").await;
    assert_eq!(server.stats().accepted, 3);
    drop(open);
    canary.finish().await;
    drop(late);
    until("nobody there", || server.stats().connections == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_client_sends_no_plain_text_and_a_plain_client_is_refused() {
    let authority = Authority::new("ca");
    let (plain, _) = start_server(ServerOptions {
        handshake_timeout: Duration::from_millis(300),
        ..options()
    });
    let failed = ["error ERR_WSMB_TLS", "closed Some(1006)"];
    let tls = Some(authority.client());
    let (_client, heard) =
        client_log::connect(client_log::to_port(port(&plain), "a", tls.clone())).unwrap();
    assert_eq!(heard.end().await, failed);
    assert_eq!(plain.stats().accepted, 0);
    // A client's first bytes are a handshake record; without a response it sends no more.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_client, heard) = client_log::connect(ClientOptions {
        connect_timeout: Duration::from_millis(500),
        ..client_log::to_port(silent.local_addr().unwrap().port(), "a", tls.clone())
    })
    .unwrap();
    let mut said = Vec::new();
    let mut socket = silent.accept().await.unwrap().0;
    socket.read_to_end(&mut said).await.unwrap();
    let length = usize::from(u16::from_be_bytes([said[3], said[4]]));
    assert_eq!((said[0], said.len()), (22, 5 + length));
    assert_eq!(heard.end().await, ["error ETIMEDOUT", failed[1]]);
    // One that hangs up.
    let hangs_up = client_log::to_port(silent.local_addr().unwrap().port(), "a", tls);
    let (_client, heard) = client_log::connect(hangs_up).unwrap();
    drop(silent.accept().await.unwrap());
    assert_eq!(heard.end().await, failed);
    let (server, _) = start_server(authority.server());
    let (_client, heard) =
        client_log::connect(client_log::to_port(port(&server), "a", None)).unwrap();
    let lines = heard.end().await;
    assert!(lines[0].starts_with("error "), "{lines:?}");
    assert_eq!(lines[1..], ["closed Some(1006)"]);
    assert_eq!(server.stats().accepted, 0);
}

/// The certificate that a server shows.
async fn shown(server: &Server, authority: &Authority) -> CertificateDer<'static> {
    // A connector of its own: a resumed session shows none.
    let stream = connect(server, &connector(authority, BOTH, None)).await;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    shown.into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_used_for_new_connections_and_old_ones_stay_open() {
    let authority = Authority::new("ca");
    let identities = [(); 4].map(|()| authority.issue());
    let (server, _) = start_server(crate::support::tls::secured(&identities[0]));
    let connector = connector(&authority, BOTH, None);
    let canary = Canary::between(
        peer(&server, &connector).await,
        peer(&server, &connector).await,
    )
    .await;
    for identity in &identities {
        server.set_tls(tls_of(identity)).unwrap();
        assert_eq!(shown(&server, &authority).await, identity.chain()[0]);
        // A session of the former certificate is not resumed.
        drop(peer(&server, &connector).await.registered("new").await);
    }
    // What cannot be used changes nothing.
    let mut mixed = tls_of(&identities[0]);
    mixed.key = (&*identities[1].key).into();
    let expired = authority.issue_from_to(2001, 2002);
    let mut unjudged = tls_of(&identities[0]);
    unjudged.request_cert = true;
    for wrong in [mixed, tls_of(&expired), unjudged] {
        assert_eq!(server.set_tls(wrong).unwrap_err().code(), "ERR_WSMB_TLS");
        assert_eq!(shown(&server, &authority).await, identities[3].chain()[0]);
    }
    canary.finish().await;
    let (plain, _) = start_server(options());
    let error = plain.set_tls(tls_of(&identities[0])).unwrap_err();
    assert_eq!(error.code(), "ERR_WSMB_TLS");
}

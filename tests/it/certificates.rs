//! Certificates and keys: unusable ones are refused at startup, and a peer whose certificate is not
//! trusted cannot connect.

use rcgen::{KeyPair, PKCS_ED25519};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use tokio::{io::AsyncReadExt, net::TcpListener};
use wsmsgbroker::{
    Client, ClientEvent, ClientListener, ClientOptions, Error, Pem, Server, ServerOptions,
    TlsClientOptions, TlsServerOptions, TlsVersion,
};

use crate::support::{
    bind, client_log, port,
    raw::Raw,
    start_server, tcp,
    tls::{
        Authority, BOTH, Identity, acceptor, acceptor_with, connect, connector, secured,
        self_signed, tls_of, try_connect,
    },
    until,
};

const FAILED: [&str; 2] = ["error ERR_WSMB_TLS", "closed Some(1006)"];

/// The option that is named, by an error that has the right code.
#[track_caller]
fn named(error: &Error) -> &'static str {
    assert_eq!(error.code(), "ERR_WSMB_TLS", "{error}");
    match error {
        Error::Tls { option, .. } => option,
        error => panic!("{error:?}"),
    }
}

#[track_caller]
fn refused(tls: TlsServerOptions) -> &'static str {
    named(
        &bind(ServerOptions {
            tls: Some(tls),
            ..crate::support::options()
        })
        .unwrap_err(),
    )
}

/// A base64 text that is no certificate, nor a key.
fn nonsense(kind: &str) -> Pem {
    format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n").into()
}

#[tokio::test]
async fn a_server_refuses_unusable_tls_options_by_name() {
    let authority = Authority::new("ca");
    let good = authority.issue();
    let other = authority.issue();
    let new = |cert: &str, key: &str| TlsServerOptions::new(cert, key);
    let nowhere = "/nowhere/at/all.pem";
    let unended = &good.cert[..good.cert.len() / 2];
    for (option, tls) in [
        ("tls.cert", new(nowhere, &good.key)),
        ("tls.cert", new("", &good.key)),
        ("tls.cert", new(&good.key, &good.key)),
        ("tls.cert", new(unended, &good.key)),
        (
            "tls.cert",
            TlsServerOptions {
                cert: nonsense("CERTIFICATE"),
                ..tls_of(&good)
            },
        ),
        ("tls.cert", tls_of(&authority.issue_from_to(2001, 2002))),
        ("tls.cert", tls_of(&authority.issue_from_to(3001, 3002))),
        ("tls.key", new(&good.cert, nowhere)),
        ("tls.key", new(&good.cert, &good.cert)),
        (
            "tls.key",
            TlsServerOptions {
                key: nonsense("PRIVATE KEY"),
                ..tls_of(&good)
            },
        ),
        (
            "tls.key",
            TlsServerOptions {
                key: nonsense("ENCRYPTED PRIVATE KEY"),
                ..tls_of(&good)
            },
        ),
        ("tls.key", new(&good.cert, &other.key)),
        (
            "tls.ca",
            TlsServerOptions {
                request_cert: true,
                ..tls_of(&good)
            },
        ),
        (
            "tls.ca",
            TlsServerOptions {
                ca: Some(vec![nowhere.into()]),
                ..tls_of(&good)
            },
        ),
        (
            "tls.ca",
            TlsServerOptions {
                ca: Some(vec![nonsense("CERTIFICATE")]),
                ..tls_of(&good)
            },
        ),
    ] {
        assert_eq!(refused(tls.clone()), option, "{tls:?}");
    }
}

#[tokio::test]
async fn a_client_refuses_unusable_tls_options_by_name() {
    let authority = Authority::new("ca");
    let good = authority.issue();
    let other = authority.issue();
    let (cert, key) = (Some(Pem::from(&*good.cert)), Some(Pem::from(&*good.key)));
    let default = TlsClientOptions::default;
    for (option, tls) in [
        (
            "tls.ca",
            TlsClientOptions {
                ca: Some(vec!["/nowhere/at/all.pem".into()]),
                ..default()
            },
        ),
        (
            "tls.key",
            TlsClientOptions {
                cert: cert.clone(),
                ..default()
            },
        ),
        ("tls.cert", TlsClientOptions { key, ..default() }),
        (
            "tls.key",
            TlsClientOptions {
                cert,
                key: Some(other.key.into()),
                ..default()
            },
        ),
        (
            "tls.servername",
            TlsClientOptions {
                servername: Some("no name".into()),
                ..default()
            },
        ),
    ] {
        let error = client_log::connect(client_log::to_port(1, "a", Some(tls))).unwrap_err();
        assert_eq!(named(&error), option);
    }
}

/// A key for tests alone: ring makes none of its kind.
const RSA_KEY: &str = include_str!("../support/rsa.pem");
/// Where a key begins within PKCS#8, which has the same length before it for all of its kind.
const EC_AT: usize = 29;
const RSA_AT: usize = 26;

/// A key without its PKCS#8 wrapper: in SEC1 or PKCS#1.
fn unwrapped(kind: &str, at: usize, key: &str) -> String {
    let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).unwrap();
    pem::encode(&pem::Pem::new(kind, &key.secret_pkcs8_der()[at..]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_all_common_key_formats_are_read() {
    let folder = std::env::temp_dir().join(format!("wsmb-pem-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let authority = Authority::new("ca");
    let ecdsa = authority.issue();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, &ecdsa.cert).unwrap();
    std::fs::write(&key, &ecdsa.key).unwrap();
    let rsa = authority.issue_to(KeyPair::from_pem(RSA_KEY).unwrap());
    let ed25519 = authority.issue_to(KeyPair::generate_for(&PKCS_ED25519).unwrap());
    let (sec1, pkcs1) = (
        unwrapped("EC PRIVATE KEY", EC_AT, &ecdsa.key),
        unwrapped("RSA PRIVATE KEY", RSA_AT, &rsa.key),
    );
    // Both in one file, as some tools write them.
    let both = [&*ecdsa.key, &*ecdsa.cert].concat();
    for tls in [
        TlsServerOptions::new(cert.to_str().unwrap(), Pem::File(key)),
        tls_of(&rsa),
        tls_of(&ed25519),
        TlsServerOptions::new(&*ecdsa.cert, sec1),
        TlsServerOptions::new(&*rsa.cert, pkcs1),
        TlsServerOptions::new(&*both, &*both),
    ] {
        let server = bind(ServerOptions {
            tls: Some(tls),
            ..crate::support::options()
        })
        .unwrap();
        client_log::registered(client_log::to_port(
            port(&server),
            "a",
            Some(authority.client()),
        ))
        .await;
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// Events of a client that connects to a fake server with this certificate.
async fn meets(identity: &Identity, tls: TlsClientOptions) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (client, heard) = client_log::connect(client_log::to_port(port, "a", Some(tls))).unwrap();
    let socket = listener.accept().await.unwrap().0;
    if let Ok(stream) = acceptor(identity).accept(socket).await {
        let _ = tokio_tungstenite::accept_async(stream).await;
    }
    until("it is open or not", || !heard.lines().is_empty()).await;
    client.destroy();
    heard.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_refuses_unknown_authorities_expired_certificates_and_wrong_names() {
    let authority = Authority::new("ca");
    let trusting = authority.client();
    let careless = TlsClientOptions {
        reject_unauthorized: false,
        ..TlsClientOptions::default()
    };
    assert_eq!(meets(&authority.issue(), trusting.clone()).await[0], "open");
    for foreign in [
        Authority::new("other").issue(),
        // Of the same name, but not of the same key.
        Authority::new("ca").issue(),
        self_signed(),
        authority.issue_from_to(2001, 2002),
        authority.issue_from_to(3001, 3002),
        authority.issue_for(&["example.org", "127.0.0.1"]),
    ] {
        assert_eq!(meets(&foreign, trusting.clone()).await, FAILED);
        // Nor is any of them known to the world.
        assert_eq!(meets(&foreign, TlsClientOptions::default()).await, FAILED);
        assert_eq!(meets(&foreign, careless.clone()).await[0], "open");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servername_is_verified_and_a_self_signed_certificate_can_be_trusted() {
    let authority = Authority::new("ca");
    let elsewhere = authority.issue_for(&["example.org"]);
    let named = TlsClientOptions {
        servername: Some("example.org".into()),
        ..authority.client()
    };
    assert_eq!(meets(&elsewhere, named.clone()).await[0], "open");
    assert_eq!(meets(&authority.issue(), named).await, FAILED);
    let own = self_signed();
    let pinned = TlsClientOptions {
        ca: Some(vec![(&*own.cert).into()]),
        ..TlsClientOptions::default()
    };
    assert_eq!(meets(&own, pinned).await[0], "open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_without_its_key_is_refused() {
    let authority = Authority::new("ca");
    let (shown, own) = (authority.issue(), authority.issue());
    let thief = acceptor_with(&shown, &own);
    for tls in [
        authority.client(),
        TlsClientOptions {
            reject_unauthorized: false,
            ..TlsClientOptions::default()
        },
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (_client, heard) =
            client_log::connect(client_log::to_port(port, "a", Some(tls))).unwrap();
        let socket = listener.accept().await.unwrap().0;
        assert!(thief.accept(socket).await.is_err());
        assert_eq!(heard.end().await, FAILED);
    }
}

/// Forwards the reason of a disconnect.
struct Reason(std::sync::mpsc::Sender<String>);

impl ClientListener for Reason {
    fn event(&self, event: ClientEvent<'_>) {
        if let ClientEvent::Error(error) = event {
            let _ = self.0.send(error.to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reason_of_a_tls_failure_is_reported() {
    let (server, _) = start_server(Authority::new("ca").server());
    let (sender, reasons) = std::sync::mpsc::channel();
    let options = client_log::to_port(port(&server), "a", Some(Authority::new("other").client()));
    let runtime = tokio::runtime::Handle::current();
    Client::connect(options, Reason(sender), &runtime).unwrap();
    let reason =
        tokio::task::spawn_blocking(move || reasons.recv_timeout(crate::support::PATIENCE));
    let reason = reason.await.unwrap().unwrap();
    assert!(
        reason.contains("an authority that is not trusted: set \"tls.ca\""),
        "{reason}"
    );
    until("the server counts it", || server.stats().refused == 1).await;
}

fn known_as(identity: &Identity, authority: &Authority, min_version: TlsVersion) -> ClientOptions {
    // The port is set by the caller.
    client_log::to_port(
        0,
        "a",
        Some(TlsClientOptions {
            cert: Some((&*identity.cert).into()),
            key: Some((&*identity.key).into()),
            min_version,
            ..authority.client()
        }),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_required_client_certificate_must_be_signed_by_the_authority() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let (server, log) = start_server(ServerOptions {
        tls: Some(TlsServerOptions {
            ca: Some(vec![clients.pem().into()]),
            request_cert: true,
            ..tls_of(&servers.issue())
        }),
        ..crate::support::options()
    });
    let at = |options| ClientOptions {
        port: port(&server),
        ..options
    };
    for min in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let (client, heard) =
            client_log::registered(at(known_as(&clients.issue(), &servers, min))).await;
        client.close();
        heard.end().await;
    }
    let accepted = server.stats().accepted;
    assert_eq!(accepted, 2);
    let foreign = Authority::new("clients").issue();
    let expired = clients.issue_from_to(2001, 2002);
    // Without one, with a foreign one: refused, and told why.
    let mut count = 0;
    for version in BOTH {
        for own in [None, Some(&foreign), Some(&servers.issue()), Some(&expired)] {
            count += 1;
            let connector = connector(&servers, &[version], own);
            let error = match try_connect(tcp(&server).await, &connector).await {
                // TLS 1.3: the client is through before it is judged.
                Ok(mut stream) => stream.read_u8().await.unwrap_err(),
                Err(error) => error,
            };
            assert!(error.to_string().contains("fatal alert"), "{error}");
            until("it is counted", || server.stats().refused == count).await;
        }
    }
    for options in [
        client_log::to_port(0, "a", Some(servers.client())),
        known_as(&foreign, &servers, TlsVersion::Tls12),
    ] {
        let (_client, heard) = client_log::connect(at(options)).unwrap();
        assert_eq!(heard.end().await, FAILED);
    }
    assert_eq!(server.stats().accepted, accepted);
    assert_eq!(log.count("connection"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_side_accepts_a_tls_version_below_the_minimum() {
    let authority = Authority::new("ca");
    let (server, _) = start_server(ServerOptions {
        tls: Some(TlsServerOptions {
            min_version: TlsVersion::Tls13,
            ..tls_of(&authority.issue())
        }),
        ..crate::support::options()
    });
    let [new, old] = [&BOTH[..1], &BOTH[1..]].map(|only| connector(&authority, only, None));
    let error = try_connect(tcp(&server).await, &old).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    Raw::open(connect(&server, &new).await)
        .await
        .ended_by_us()
        .await;
    until("it is counted", || server.stats().refused == 1).await;
    let (server, _): (Server, _) = start_server(secured(&authority.issue()));
    Raw::open(connect(&server, &old).await)
        .await
        .ended_by_us()
        .await;
}

#[test]
fn debug_output_contains_no_key() {
    let options = secured(&self_signed());
    assert!(!format!("{options:?}").contains("BEGIN"), "{options:?}");
}

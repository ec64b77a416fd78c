//! The broker over TLS: all that it does without, and what only TLS has.

mod support;

use std::time::Duration;

use support::{
    canary::Canary,
    raw::{Raw, TEXT, frame, number, numbered_send},
    start_server,
    tls::{Authority, BOTH, connect, connector, peer},
    until,
};
use wsmsgbroker::ServerOptions;

/// Longer than a test takes: what happens does not happen because this time is up.
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_talk_over_either_version_of_tls() {
    let authority = Authority::new("ca");
    let (server, _) = start_server(authority.server());
    for version in BOTH {
        let connector = connector(&authority, &[version], None);
        let (a, b) = (
            peer(&server, &connector).await,
            peer(&server, &connector).await,
        );
        assert_eq!(
            a.0.get_ref().get_ref().1.protocol_version(),
            Some(version.version)
        );
        Canary::between(a, b).await.finish().await;
    }
    assert_eq!(server.stats().accepted, 4);
}

/// What is encrypted but not written is not forgotten, however little the socket takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_to_a_slow_reader_arrives_complete_and_in_order() {
    const LENGTH: usize = 100_000;
    const COUNT: usize = 500;
    let authority = Authority::new("ca");
    let (server, _) = start_server(ServerOptions {
        slow_consumer_timeout: LONG,
        ..authority.server()
    });
    for version in BOTH {
        let connector = connector(&authority, &[version], None);
        let mut late = Raw::open(connect(&server, &connector).await).await;
        late.send(r#"{"action":"register","id":"late"}"#).await;
        late.receive().await;
        let before = server.stats().messages_out;
        let mut sender = Raw::open(connect(&server, &connector).await).await;
        let task = tokio::spawn(async move {
            for n in 0..COUNT {
                // All lengths of the last record of a message.
                let message = numbered_send(n, r#""late""#, LENGTH + n);
                sender.write(&frame(TEXT, message)).await;
            }
            sender
        });
        // It reads when its socket is full.
        until("its outbox fills", || {
            server.stats().messages_out > before + 100
        })
        .await;
        for n in 0..COUNT {
            let (first, message) = late.next().await.unwrap();
            assert_eq!((first, number(&message)), (TEXT, n));
            assert_eq!(message.len(), numbered_send(n, "", LENGTH + n).len() - 5);
        }
        task.await.unwrap().ended_by_us().await;
        late.ended_by_us().await;
    }
    assert_eq!(server.stats().slow, 0);
}

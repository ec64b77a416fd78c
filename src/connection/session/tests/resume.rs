//! Sessions that continue on connections which are lost again and again.

use super::world::{Client, ENOUGH, World, member};
use crate::options::ServerOptions;

const KIB: usize = 1 << 10;

/// Rule 40.4.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_every_few_messages_makes_progress() {
    const LIMIT: usize = 256 * KIB;
    for each in [KIB, 40 * KIB, 100 * KIB] {
        let mut client = Client::begin(ServerOptions {
            max_session_buffer: LIMIT,
            ..ServerOptions::default()
        });
        let (_, peer) = client.world.connect(ENOUGH);
        peer.register("b", "");
        let pad = "x".repeat(each);
        let mut sent = 0;
        let mut send = |world: &mut World, bytes: usize| {
            for _ in 0..bytes / (each + KIB) {
                peer.send(&format!(
                    r#"{{"action":"send","message":"{sent} {pad}","dest":"a"}}"#
                ));
                sent += 1;
            }
            world.settle();
            sent
        };
        // Not confirmed, and as much while the client is away.
        send(&mut client.world, LIMIT);
        client.cut();
        let sent = send(&mut client.world, LIMIT);
        let mut connections = 0;
        while client.received.len() < sent {
            client.resume(ENOUGH);
            let before = client.received.len();
            client.read(each + KIB);
            assert!(
                client.received.len() > before,
                "{each}: no progress after {before}"
            );
            client.cut();
            connections += 1;
        }
        assert!(connections > 2);
        let message = |text| member(text, "message").unwrap();
        let numbers = (client.received.iter()).map(|text| message(text).split(' ').next().unwrap());
        let expected: Vec<_> = (0..sent).map(|number| number.to_string()).collect();
        assert_eq!(numbers.collect::<Vec<_>>(), expected);
        let stats = client.world.server.stats();
        assert_eq!((stats.sessions, stats.sessions_resumed), (1, connections));
    }
}

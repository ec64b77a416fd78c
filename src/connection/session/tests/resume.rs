//! Sessions that continue on connections which are lost again and again.

use super::world::{Ends, World, member, session};
use crate::options::ServerOptions;

const ENOUGH: usize = 1 << 30;
const KIB: usize = 1 << 10;

/// The client of a session.
struct Client {
    world: World,
    ends: Ends,
    token: String,
    /// The messages received.
    received: Vec<String>,
    /// Number of actions received.
    count: u64,
}

impl Client {
    /// A client with a session that keeps this many bytes.
    fn begin(max_session_buffer: usize) -> Self {
        let mut world = World::new(ServerOptions {
            max_session_buffer,
            ..ServerOptions::default()
        });
        let (_, ends) = world.connect(ENOUGH);
        ends.register("a", &session(None));
        world.settle();
        let mut client = Self {
            world,
            ends,
            token: String::new(),
            received: Vec::new(),
            count: 0,
        };
        client.read(ENOUGH);
        client
    }

    fn read(&mut self, bytes: usize) {
        let Self {
            token,
            received,
            count,
            ..
        } = self;
        self.ends.read(bytes, |text| match member(text, "action") {
            Some("registered") => {
                assert!(
                    token.is_empty() || text.contains(r#""resumed":true"#),
                    "{text}"
                );
                *token = member(text, "token").unwrap().to_owned();
            }
            Some("received") => {}
            _ => {
                *count += 1;
                received.extend(member(text, "message").map(str::to_owned));
            }
        });
    }

    fn cut(&mut self) {
        self.ends.cut();
        self.world.settle();
    }

    fn resume(&mut self) {
        let (_, ends) = self.world.connect(ENOUGH);
        ends.register("a", &session(Some((&self.token, self.count))));
        self.ends = ends;
        self.world.settle();
    }
}

/// Rule 40.4.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_every_few_messages_makes_progress() {
    const LIMIT: usize = 256 * KIB;
    for each in [KIB, 40 * KIB, 100 * KIB] {
        let mut client = Client::begin(LIMIT);
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
            client.resume();
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
        let numbers = client
            .received
            .iter()
            .map(|text| text.split(' ').next().unwrap());
        let expected: Vec<_> = (0..sent).map(|number| number.to_string()).collect();
        assert_eq!(numbers.collect::<Vec<_>>(), expected);
        let stats = client.world.server.stats();
        assert_eq!((stats.sessions, stats.sessions_resumed), (1, connections));
    }
}

//! Concurrency tests of kept topics: a subscriber gets messages from the log while others publish, and then from them.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::runtime::{Builder, Runtime};

use super::{below, explore, together, wait};
use crate::{
    broker::handle::Handle,
    connection::{Connection, Progress},
    options::{KeepRule, ServerOptions},
    protocol,
    server::Server,
    transport::socket::{WriteHalf, pipe::Pipe},
};

const PUBLISHERS: u64 = 2;
/// Messages of each publisher, and before there is a subscriber.
const MESSAGES: u64 = 3;
const ALL: u64 = (PUBLISHERS + 1) * MESSAGES;
const ENOUGH: usize = 1 << 20;

/// A close frame with code 1000, and a zero mask.
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

type Task = Box<dyn FnOnce() + Send>;

/// A server, and a runtime without timers.
struct World {
    server: Server,
    runtime: Runtime,
}

/// A connection that is polled by the test, and its peer's ends.
struct Peer {
    handle: Arc<Handle>,
    connection: Option<Pin<Box<Connection>>>,
    input: Arc<Pipe>,
    output: Arc<Pipe>,
    /// Bytes of an incomplete frame.
    bytes: Vec<u8>,
}

impl World {
    /// A server with a kept topic, whose outboxes are full after a few messages.
    fn new() -> Arc<Self> {
        let options = ServerOptions {
            ping_interval: Duration::ZERO,
            register_timeout: Some(Duration::ZERO),
            max_backpressure: 1024,
            keep: vec![KeepRule::new("room.>")],
            ..ServerOptions::default()
        };
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let server = Server::unreachable(options, runtime.handle());
        Arc::new(Self { server, runtime })
    }

    /// A registered peer, whose socket accepts `room` bytes before some are read.
    fn connect(&self, id: &str, room: usize) -> Peer {
        let (input, output) = (Pipe::new(ENOUGH), Pipe::new(room));
        let (handle, connection) = self.server.connection(&input, &output);
        let peer = Peer {
            handle,
            connection: Some(Box::pin(connection)),
            input,
            output,
            bytes: Vec::new(),
        };
        peer.send(&format!(
            r#"{{"action":"register","id":"{id}","protocol":2}}"#
        ));
        peer
    }
}

impl Peer {
    fn send(&self, text: &str) {
        let mut frame = vec![0x81, 0x80 | 126];
        frame.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.put(&frame);
    }

    fn put(&self, bytes: &[u8]) {
        let socket = WriteHalf::Pipe(self.input.clone());
        assert_eq!(socket.try_write(bytes).unwrap(), bytes.len());
    }

    /// Sends messages to topics in turn.
    fn publish(&self) {
        let pad = "x".repeat(below(400));
        for number in 0..MESSAGES {
            let topic = format!(r#"{{"topic":"room.{}"}}"#, number % 2);
            self.send(&format!(
                r#"{{"action":"send","message":"{pad}","dest":{topic}}}"#
            ));
        }
    }

    /// The task of its connection, which runs until the peer closes it.
    fn task(&mut self) -> Task {
        let mut connection = self.connection.take().unwrap();
        Box::new(
            move || {
                while !matches!(wait(|cx| connection.as_mut().poll(cx)), Progress::Ended) {}
            },
        )
    }

    /// Reads some bytes, and calls `on_text` for each complete text.
    fn read(&mut self, mut on_text: impl FnMut(&str)) {
        let most = 1 + below(1000);
        let more = wait(|cx| self.output.poll_read(most, cx));
        assert!(!more.is_empty(), "the connection was closed");
        self.bytes.extend(more);
        let mut whole = 0;
        for (payload, frame) in protocol::Frames(&self.bytes) {
            whole += frame.len();
            on_text(str::from_utf8(payload).unwrap());
        }
        self.bytes.drain(..whole);
    }

    fn close(&self) {
        self.put(&CLOSE);
        for pipe in [&self.input, &self.output] {
            WriteHalf::Pipe(pipe.clone()).shutdown(std::net::Shutdown::Both);
        }
    }
}

fn offset(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once(r#","offset":"#)?;
    rest.split([',', '}']).next()?.parse().ok()
}

/// Runs publishers and a subscriber. `overlaps`: it has two subscriptions, one of which it ends in the middle.
fn run(overlaps: bool) {
    let world = World::new();
    // The threads of shuttle run on one system thread, so all are on the runtime.
    let _entered = world.runtime.enter();
    let noop = &mut std::task::Context::from_waker(std::task::Waker::noop());
    let mut publishers: Vec<_> = (0..PUBLISHERS)
        .map(|number| world.connect(&format!("p{number}"), ENOUGH))
        .collect();
    publishers[0].publish();
    for publisher in &mut publishers {
        let connection = publisher.connection.as_mut().unwrap();
        assert!(connection.as_mut().poll(noop).is_pending());
    }
    let mut subscriber = world.connect("subscriber", 1 + below(1500));
    subscriber.send(r#"{"action":"subscribe","topic":"room.>","last":100}"#);
    if overlaps && below(2) == 0 {
        subscriber.send(r#"{"action":"subscribe","topic":"room.0","last":100}"#);
    }
    let mut tasks: Vec<Task> = vec![subscriber.task()];
    for mut publisher in publishers {
        let task = publisher.task();
        tasks.push(Box::new(move || {
            publisher.publish();
            publisher.close();
            task();
        }));
    }
    let handle = subscriber.handle.clone();
    tasks.push(Box::new(move || {
        let mut newest = 0;
        let mut reads = 0;
        while newest < ALL {
            subscriber.read(|text| {
                if !text.starts_with(r#"{"action":"message""#) {
                    assert!(!text.contains("gap"), "{text}");
                    return;
                }
                let offset = offset(text).unwrap();
                // A subscription that joins a replay may repeat messages, and never leaves one out.
                let is_next = offset == newest + 1 || (overlaps && offset <= newest);
                assert!(is_next, "offset {offset} behind {newest}");
                newest = newest.max(offset);
            });
            reads += 1;
            if overlaps && newest < ALL {
                match (reads, below(3)) {
                    (1..6, 0) => {
                        subscriber.send(r#"{"action":"subscribe","topic":"room.0","last":3}"#);
                    }
                    (2..6, 1) => {
                        subscriber.send(r#"{"action":"unsubscribe","topic":"room.0"}"#);
                    }
                    _ => {}
                }
            }
        }
        subscriber.close();
    }));
    together(tasks);
    assert_eq!(world.server.stats().subscriptions, 0);
    assert!(!handle.owns_its_id());
}

#[test]
fn a_replay_hands_over_to_publishers_without_loss_or_repetition() {
    explore(|| run(false));
}

#[test]
fn overlapping_replays_hand_over_to_publishers_without_loss() {
    explore(|| run(true));
}

//! Concurrency tests of a session: senders write to it while it loses its socket and continues on another.

use std::{net::Shutdown, pin::Pin, sync::Arc, time::Duration};

use tokio::runtime::{Builder, Runtime};

use super::{below, explore, together, wait};
use crate::{
    broker::handle::Handle,
    connection::{Connection, Progress},
    options::ServerOptions,
    protocol,
    server::Server,
    transport::{
        outbox::Pushed,
        socket::{WriteHalf, pipe::Pipe},
    },
};

const SENDERS: usize = 2;
const MESSAGES: usize = 3;
/// Maximum number of times that the connection is lost.
const LOSSES: usize = 2;
const ENOUGH: usize = 1 << 20;

/// A close frame with code 1000, and a zero mask.
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

type Task = Box<dyn FnOnce() + Send>;

/// A server, and a runtime without timers.
struct World {
    server: Server,
    runtime: Runtime,
}

/// The peer's ends of a socket.
struct Ends {
    input: Arc<Pipe>,
    output: Arc<Pipe>,
}

/// The client of a session.
struct Peer {
    world: Arc<World>,
    ends: Ends,
    /// Bytes of an incomplete frame.
    bytes: Vec<u8>,
    /// Messages received, as `(sender, number)`.
    messages: Vec<(usize, usize)>,
    /// The last `registered`, until it is taken.
    registered: Option<String>,
}

impl World {
    fn new() -> Arc<Self> {
        let options = ServerOptions {
            ping_interval: Duration::ZERO,
            register_timeout: Some(Duration::ZERO),
            session_timeout: Duration::from_secs(300),
            ..ServerOptions::default()
        };
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let server = Server::unreachable(options, runtime.handle());
        Arc::new(Self { server, runtime })
    }

    /// A connection that registers with this session. `room`: bytes that its socket accepts before some are read.
    fn connect(&self, room: usize, session: &str) -> (Arc<Handle>, Pin<Box<Connection>>, Ends) {
        let (input, output) = (Pipe::new(ENOUGH), Pipe::new(room));
        let (handle, connection) = self.server.connection(&input, &output);
        let text = format!(
            r#"{{"action":"register","id":"a","protocol":2,"session":{{"timeout":9000{session}}}}}"#
        );
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
        frame.extend(text.as_bytes());
        let ends = Ends { input, output };
        ends.put(&frame);
        (handle, Box::pin(connection), ends)
    }
}

impl Ends {
    fn put(&self, bytes: &[u8]) {
        let socket = WriteHalf::Pipe(self.input.clone());
        assert_eq!(socket.try_write(bytes).unwrap(), bytes.len());
    }

    fn shutdown(&self) {
        for pipe in [&self.input, &self.output] {
            WriteHalf::Pipe(pipe.clone()).shutdown(Shutdown::Both);
        }
    }
}

impl Peer {
    /// Reads some bytes. False at the end of the stream.
    fn read(&mut self) -> bool {
        let most = 1 + below(200);
        let more = wait(|cx| self.ends.output.poll_read(most, cx));
        self.bytes.extend(&more);
        let mut whole = 0;
        for (payload, frame) in protocol::Frames(&self.bytes) {
            whole += frame.len();
            let text = str::from_utf8(payload).unwrap();
            if text.starts_with('{') {
                self.registered = Some(text.to_owned());
            } else {
                let (sender, number) = text.split_once(' ').unwrap();
                let message = (sender.parse().unwrap(), number.parse().unwrap());
                self.messages.push(message);
            }
        }
        self.bytes.drain(..whole);
        !more.is_empty()
    }

    fn registered(&mut self) -> String {
        loop {
            if let Some(registered) = self.registered.take() {
                return registered;
            }
            assert!(self.read(), "the connection was closed");
        }
    }

    /// Continues the session on another connection. The broker may not know that the former one is lost.
    fn resume(&mut self, token: &str) {
        if below(2) == 0 {
            self.ends.shutdown();
        }
        self.bytes.clear();
        let count = self.messages.len();
        let session = format!(r#","token":"{token}","count":{count}"#);
        let (_, mut connection, ends) = self.world.connect(1 + below(100), &session);
        // As the server does.
        match wait(|cx| connection.as_mut().poll(cx)) {
            Progress::HandsOver(session, next) => session.hand_over(next),
            _ => panic!("no session was found"),
        }
        drop(connection);
        self.ends = ends;
        assert!(self.registered().contains(r#""resumed":true,"count":0}"#));
    }

    /// Reads all messages over several connections, and ends the session.
    fn run(mut self, token: &str) {
        for _ in 0..below(LOSSES + 1) {
            for _ in 0..below(4) {
                if self.messages.len() < SENDERS * MESSAGES {
                    self.read();
                }
            }
            self.resume(token);
        }
        while self.messages.len() < SENDERS * MESSAGES {
            assert!(self.read(), "the connection was closed");
        }
        for sender in 0..SENDERS {
            let numbers = self.messages.iter().filter(|(by, _)| *by == sender);
            let numbers: Vec<_> = numbers.map(|(_, number)| *number).collect();
            assert_eq!(numbers, Vec::from_iter(0..MESSAGES), "sender {sender}");
        }
        self.ends.put(&CLOSE);
        self.ends.shutdown();
    }
}

/// Sends messages, and flushes after some of them.
fn send(sender: usize, handle: &Handle) {
    let mut flush_due = false;
    for number in 0..MESSAGES {
        let pushed = handle.outbox.push(&[&format!("{sender} {number}")]);
        assert_ne!(pushed, Pushed::Closed);
        flush_due |= pushed == Pushed::NeedsFlush;
        if flush_due && below(2) == 0 {
            handle.flush();
            flush_due = false;
        }
    }
    if flush_due {
        handle.flush();
    }
}

#[test]
fn a_session_loses_and_repeats_nothing_on_other_sockets() {
    explore(|| {
        let world = World::new();
        // The threads of shuttle run on one system thread, so all are on the runtime.
        let _entered = world.runtime.enter();
        let (handle, mut connection, ends) = world.connect(300, "");
        let noop = &mut std::task::Context::from_waker(std::task::Waker::noop());
        assert!(connection.as_mut().poll(noop).is_pending());
        let mut peer = Peer {
            world: world.clone(),
            ends,
            bytes: Vec::new(),
            messages: Vec::new(),
            registered: None,
        };
        let registered = peer.registered();
        let token = registered.split('"').nth(13).unwrap().to_owned();
        let mut tasks: Vec<Task> =
            vec![
                Box::new(move || {
                    while !matches!(wait(|cx| connection.as_mut().poll(cx)), Progress::Ended) {}
                }),
                Box::new(move || peer.run(&token)),
            ];
        tasks.extend((0..SENDERS).map(|sender| -> Task {
            let handle = handle.clone();
            Box::new(move || send(sender, &handle))
        }));
        together(tasks);
        assert_eq!(handle.outbox.waiting(), 0);
        assert_eq!(world.server.stats().sessions, 0);
    });
}

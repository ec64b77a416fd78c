//! Connections whose sockets are in memory, and which a test polls itself, in one thread.

use std::{
    net::Shutdown,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::runtime::Handle as Runtime;

use crate::{
    broker::{Broker, handle::Handle},
    connection::{Connection, Progress},
    options::ServerOptions,
    protocol,
    server::Server,
    transport::socket::{WriteHalf, pipe::Pipe},
};

/// Bytes that are as good as unlimited.
pub(super) const ENOUGH: usize = 1 << 30;
/// Time for which a session outlives its socket.
pub(super) const TIMEOUT: Duration = Duration::from_secs(9);

/// Set when the task of a connection is woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

struct Task {
    connection: Pin<Box<Connection>>,
    woken: Arc<Woken>,
    waker: Waker,
}

/// A server, and the tasks of its connections.
pub(super) struct World {
    pub(super) server: Server,
    tasks: Vec<Task>,
}

/// The peer's ends of a socket.
pub(super) struct Ends {
    input: Arc<Pipe>,
    output: Arc<Pipe>,
    /// Bytes of an incomplete frame.
    bytes: Vec<u8>,
}

impl World {
    pub(super) fn new(options: ServerOptions) -> Self {
        let options = ServerOptions {
            ping_interval: Duration::ZERO,
            register_timeout: Some(Duration::ZERO),
            session_timeout: TIMEOUT,
            ..options
        };
        Self {
            server: Server::unreachable(options, &Runtime::current()),
            tasks: Vec::new(),
        }
    }

    /// A connection whose socket accepts `room` bytes before some are read.
    pub(super) fn connect(&mut self, room: usize) -> (Arc<Handle>, Ends) {
        let (input, output) = (Pipe::new(usize::MAX), Pipe::new(room));
        let (handle, connection) = self.server.connection(&input, &output);
        let woken = Arc::new(Woken(true.into()));
        self.tasks.push(Task {
            connection: Box::pin(connection),
            waker: woken.clone().into(),
            woken,
        });
        let bytes = Vec::new();
        (
            handle,
            Ends {
                input,
                output,
                bytes,
            },
        )
    }

    /// Number of connections and sessions.
    pub(super) fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// The broker, while there is a connection.
    pub(super) fn broker(&self) -> Arc<Broker> {
        self.tasks[0].connection.broker.clone()
    }

    /// Polls a task if it was woken, as the server does.
    pub(super) fn poll(&mut self, place: usize) -> bool {
        let task = &mut self.tasks[place];
        if !task.woken.0.swap(false, Relaxed) {
            return false;
        }
        let progress = task
            .connection
            .as_mut()
            .poll(&mut Context::from_waker(&task.waker));
        match progress {
            Poll::Pending => return true,
            Poll::Ready(Progress::Suspended | Progress::Resumed(_)) => {
                task.woken.0.store(true, Relaxed);
                return true;
            }
            Poll::Ready(Progress::HandsOver(session, next)) => session.hand_over(next),
            Poll::Ready(Progress::Ended) => {}
        }
        self.tasks.swap_remove(place);
        true
    }

    /// Polls all tasks until none is woken.
    pub(super) fn settle(&mut self) {
        let mut polls = 0;
        let mut place = 0;
        let mut quiet = 0;
        while quiet < self.tasks.len() {
            place = (place + 1) % self.tasks.len();
            quiet = if self.poll(place) { 0 } else { quiet + 1 };
            place = place.min(self.tasks.len().saturating_sub(1));
            polls += 1;
            assert!(polls < 1_000_000, "a task wakes itself forever");
        }
    }
}

impl Ends {
    /// Sends a text frame. The socket may be closed.
    pub(super) fn send(&self, text: &str) {
        let mut frame = vec![0x81];
        match u16::try_from(text.len()) {
            Ok(length) if length < 126 => frame.push(0x80 | text.len() as u8),
            Ok(length) => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend((text.len() as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.put(&frame);
    }

    /// Sends a close frame with code 1000.
    pub(super) fn send_close(&self) {
        self.put(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
    }

    fn put(&self, bytes: &[u8]) {
        let _ = WriteHalf::Pipe(self.input.clone()).try_write(bytes);
    }

    pub(super) fn register(&self, id: &str, session: &str) {
        self.send(&format!(
            r#"{{"action":"register","id":"{id}","protocol":2{session}}}"#
        ));
    }

    /// Reads at most `most` bytes. Calls `on_text` for each complete text. Returns the number of bytes.
    pub(super) fn read(&mut self, most: usize, mut on_text: impl FnMut(&str)) -> usize {
        let noop = &mut Context::from_waker(Waker::noop());
        let before = self.bytes.len();
        if let Poll::Ready(bytes) = self.output.poll_read(most, noop) {
            self.bytes.extend(bytes);
        }
        let read = self.bytes.len() - before;
        let mut whole = 0;
        for (payload, frame) in protocol::Frames(&self.bytes) {
            whole += frame.len();
            if frame[0] == 0x81 {
                on_text(str::from_utf8(payload).unwrap());
            }
        }
        self.bytes.drain(..whole);
        read
    }

    /// Loses the bytes that the broker has not read.
    pub(super) fn lose_input(&self) {
        self.input.clear();
    }

    /// Ends the connection without a close frame.
    pub(super) fn cut(&self) {
        for pipe in [&self.input, &self.output] {
            WriteHalf::Pipe(pipe.clone()).shutdown(Shutdown::Both);
        }
    }
}

/// The client of a session.
pub(super) struct Client {
    pub(super) world: World,
    pub(super) ends: Ends,
    token: String,
    /// The messages received.
    pub(super) received: Vec<String>,
    /// Number of actions received in the session.
    count: u64,
}

impl Client {
    /// The client `a`, with a session.
    pub(super) fn begin(options: ServerOptions) -> Self {
        let mut world = World::new(options);
        let (_, ends) = world.connect(ENOUGH);
        let mut client = Self {
            world,
            ends,
            token: String::new(),
            received: Vec::new(),
            count: 0,
        };
        client.start();
        client
    }

    /// Begins a session, on a socket that accepts `room` bytes before some are read.
    pub(super) fn register(&mut self, room: usize) {
        (_, self.ends) = self.world.connect(room);
        self.start();
    }

    fn start(&mut self) {
        self.ends.register("a", &session(None));
        self.count = 0;
        self.token.clear();
        while self.token.is_empty() {
            self.world.settle();
            self.read(ENOUGH);
        }
    }

    /// Reads at most so many bytes.
    pub(super) fn read(&mut self, bytes: usize) {
        let (token, received, count) = (&mut self.token, &mut self.received, &mut self.count);
        (self.ends).read(bytes, |text| match member(text, "action") {
            Some("registered") => {
                assert!(
                    token.is_empty() || text.contains(r#""resumed":true"#),
                    "{text}"
                );
                *token = member(text, "token").unwrap().to_owned();
            }
            Some("received") => {}
            action => {
                *count += 1;
                if action == Some("message") {
                    received.push(text.to_owned());
                }
            }
        });
    }

    /// Loses the connection.
    pub(super) fn cut(&mut self) {
        self.ends.cut();
        self.world.settle();
    }

    /// Continues the session on another connection, whose socket accepts `room` bytes before some are read.
    pub(super) fn resume(&mut self, room: usize) {
        let (_, ends) = self.world.connect(room);
        ends.register("a", &session(Some((&self.token, self.count))));
        self.ends = ends;
        self.world.settle();
    }
}

/// The member `session` of a `register` that begins a session, or continues one after `count` actions.
pub(super) fn session(since: Option<(&str, u64)>) -> String {
    let since = since.map(|(token, count)| format!(r#","token":"{token}","count":{count}"#));
    let timeout = TIMEOUT.as_millis();
    let since = since.unwrap_or_default();
    format!(r#","session":{{"timeout":{timeout}{since}}}"#)
}

/// The value of a text or number in a frame.
pub(super) fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = text.split_once(&format!("\"{name}\":"))?;
    match value.strip_prefix('"') {
        Some(value) => value.split('"').next(),
        None => value.split([',', '}']).next(),
    }
}

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
    broker::handle::Handle,
    connection::{Connection, Progress},
    options::ServerOptions,
    protocol,
    server::Server,
    transport::socket::{WriteHalf, pipe::Pipe},
};

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

    fn put(&self, bytes: &[u8]) {
        let _ = WriteHalf::Pipe(self.input.clone()).try_write(bytes);
    }

    pub(super) fn register(&self, id: &str, session: &str) {
        self.send(&format!(
            r#"{{"action":"register","id":"{id}","protocol":2{session}}}"#
        ));
    }

    /// Reads at most `most` bytes. Calls `on_text` for each complete text.
    pub(super) fn read(&mut self, most: usize, mut on_text: impl FnMut(&str)) {
        let noop = &mut Context::from_waker(Waker::noop());
        if let Poll::Ready(bytes) = self.output.poll_read(most, noop) {
            self.bytes.extend(bytes);
        }
        let mut whole = 0;
        for (payload, frame) in protocol::Frames(&self.bytes) {
            whole += frame.len();
            if frame[0] == 0x81 {
                on_text(str::from_utf8(payload).unwrap());
            }
        }
        self.bytes.drain(..whole);
    }

    /// Ends the connection without a close frame.
    pub(super) fn cut(&self) {
        for pipe in [&self.input, &self.output] {
            WriteHalf::Pipe(pipe.clone()).shutdown(Shutdown::Both);
        }
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

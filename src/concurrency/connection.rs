//! Concurrency tests of whole connections: the task is woken for every event, at any point of a turn.
//!
//! No timer of tokio runs here, so a lost wake-up is not hidden by a timer.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::runtime::{Builder, Runtime};

use super::{below, explore, together, wait};
use crate::{
    auth::{Authentication, Credentials, Decision, Grant},
    broker::handle::{Close, Handle},
    connection::Connection,
    options::ServerOptions,
    server::Server,
    sync::Mutex,
    transport::socket::{WriteHalf, pipe::Pipe},
};

/// Maximum messages before the tested one, which may thus be at any point of a turn.
const BEFORE: usize = 6;
const ENOUGH: usize = 1 << 20;

type Task = Box<dyn FnOnce() + Send>;

/// An authentication hook that grants all registrations once `answer` is called.
#[derive(Clone, Default)]
struct Embedder(Arc<Mutex<(bool, Option<Waker>)>>);

impl Embedder {
    fn options(&self) -> ServerOptions {
        let embedder = self.clone();
        let hook = move |_: Credentials| -> Decision {
            let embedder = embedder.clone();
            Box::pin(std::future::poll_fn(move |cx| embedder.poll(cx)))
        };
        ServerOptions {
            authentication: Authentication::Hook(Arc::new(hook), Duration::from_secs(10)),
            ..options()
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Result<Grant, crate::auth::Denied>> {
        let mut state = self.0.lock();
        if state.0 {
            return Poll::Ready(Ok(Grant::new("one")));
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }

    fn answer(&self) {
        let mut state = self.0.lock();
        state.0 = true;
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }
}

/// A server, and a runtime without timers.
struct World {
    server: Server,
    runtime: Runtime,
}

/// One connection, and the peer's ends of its socket.
struct Line {
    input: Arc<Pipe>,
    output: Arc<Pipe>,
    handle: Arc<Handle>,
    connection: Option<Pin<Box<Connection>>>,
}

fn options() -> ServerOptions {
    ServerOptions {
        ping_interval: Duration::ZERO,
        register_timeout: Some(Duration::ZERO),
        max_backpressure: 1024,
        ..ServerOptions::default()
    }
}

impl World {
    fn new(options: ServerOptions) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let server = Server::unreachable(options, runtime.handle());
        Self { server, runtime }
    }

    /// Creates a connection. `room`: bytes that its socket accepts before some are read.
    fn line(&self, room: usize) -> Line {
        let (input, output) = (Pipe::new(ENOUGH), Pipe::new(room));
        let (handle, connection) = self.server.connection(&input, &output);
        Line {
            input,
            output,
            handle,
            connection: Some(Box::pin(connection)),
        }
    }

    /// Runs a connection's task to its end.
    fn task(&self, line: &mut Line) -> Task {
        let mut connection = line.connection.take().unwrap();
        Box::new(move || wait(|cx| connection.as_mut().poll(cx).map(drop)))
    }
}

impl Line {
    /// Writes some messages to an unknown id, then `text`.
    fn write(&self, text: &str) {
        let nowhere = frame(r#"{"action":"send","message":1,"dest":"nobody"}"#);
        let mut bytes = nowhere.repeat(below(BEFORE));
        bytes.extend(frame(text));
        self.put(&bytes);
    }

    fn put(&self, bytes: &[u8]) {
        let socket = WriteHalf::Pipe(self.input.clone());
        assert_eq!(socket.try_write(bytes).unwrap(), bytes.len());
    }

    /// Reads until `text` has been received `times` times, then closes.
    fn until(&self, text: &'static str, times: usize) -> Task {
        let (input, output) = (self.input.clone(), self.output.clone());
        Box::new(move || {
            let mut bytes = Vec::new();
            let found = |bytes: &[u8]| {
                let windows = bytes.windows(text.len());
                windows.filter(|it| *it == text.as_bytes()).count()
            };
            while found(&bytes) < times {
                let more = wait(|cx| output.poll_read(1 + below(200), cx));
                assert!(!more.is_empty(), "{}", String::from_utf8_lossy(&bytes));
                bytes.extend(more);
            }
            WriteHalf::Pipe(input).shutdown(std::net::Shutdown::Both);
        })
    }
}

/// A short text in a masked frame with a zero mask.
fn frame(text: &str) -> Vec<u8> {
    let mut bytes = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
    bytes.extend(text.as_bytes());
    bytes
}

const REGISTER: &str = r#"{"action":"register","id":"a"}"#;

#[test]
fn a_connection_continues_when_its_registration_is_granted() {
    explore(|| {
        let embedder = Embedder::default();
        let world = World::new(embedder.options());
        let _entered = world.runtime.enter();
        let mut line = world.line(ENOUGH);
        // Before its first registration a connection may only register; later registrations are granted as
        // well.
        line.put(&frame(REGISTER).repeat(1 + below(BEFORE)));
        line.put(&frame(r#"{"action":"send","message":"last","dest":"a"}"#));
        let answer = Box::new(move || embedder.answer());
        let tasks: Vec<Task> = vec![world.task(&mut line), line.until("last", 1), answer];
        together(tasks);
    });
}

#[test]
fn a_connection_that_renews_at_the_end_of_a_turn_continues() {
    explore(|| {
        let embedder = Embedder::default();
        let world = World::new(embedder.options());
        let _entered = world.runtime.enter();
        let mut line = world.line(ENOUGH);
        line.put(&frame(REGISTER));
        line.write(REGISTER);
        line.write(r#"{"action":"send","message":"last","dest":"a"}"#);
        let answer = Box::new(move || embedder.answer());
        let tasks: Vec<Task> = vec![world.task(&mut line), line.until("last", 1), answer];
        together(tasks);
    });
}

#[test]
fn a_connection_closes_on_request_whatever_it_waits_for() {
    explore(|| {
        let embedder = Embedder::default();
        let world = World::new(embedder.options());
        let _entered = world.runtime.enter();
        let mut line = world.line(ENOUGH);
        line.put(&frame(REGISTER));
        let handle = line.handle.clone();
        let close: Task = Box::new(move || {
            handle.request_close(Close::Requested {
                code: 4000,
                reason: "enough".into(),
            });
        });
        let tasks: Vec<Task> = vec![world.task(&mut line), line.until("enough", 1), close];
        together(tasks);
    });
}

#[test]
fn a_sender_to_a_full_receiver_at_the_end_of_a_turn_continues() {
    explore(|| {
        let world = World::new(options());
        // The threads of shuttle run on one system thread, so all are on the runtime.
        let _entered = world.runtime.enter();
        let (mut sender, mut receiver) = (world.line(ENOUGH), world.line(50));
        receiver.put(&frame(REGISTER));
        let message = "x".repeat(60);
        let times = 1500 / message.len();
        let send = format!(r#"{{"action":"send","message":"{message}","dest":"a"}}"#);
        // The receiver is registered before the first message is sent.
        let noop = &mut Context::from_waker(Waker::noop());
        let first = receiver.connection.as_mut().unwrap().as_mut().poll(noop);
        assert!(first.is_pending());
        sender.put(&frame(&send).repeat(times));
        sender.write(r#"{"action":"register","id":"b"}"#);
        together(vec![
            world.task(&mut sender),
            world.task(&mut receiver),
            sender.until(r#""id":"b""#, 1),
            receiver.until(r#""message":"x"#, times),
        ]);
    });
}

//! The interface of the broker for the micro benchmarks: bytes in, counts out.
//!
//! This file is a module of the broker (feature `bench`) and can therefore use its private parts.
//! The interface is small, so that the code behind it may change while the benchmarks and their
//! counts remain comparable.

use std::{
    future::Future,
    hash::BuildHasher,
    hint::black_box,
    io::IoSlice,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

use foldhash::quality::{FixedState, FoldHasher};
use tokio::runtime::{Builder, Runtime};
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::{
    Listen, Server, ServerEvent, ServerOptions,
    broker::handle::Handle,
    connection::Connection,
    protocol::{self, ClientAction},
    transport::{
        framing::{self, Bounds, Input, Mask, Reader},
        outbox::Outbox,
        socket::{ReadHalf, WriteHalf, pipe::Pipe},
    },
};

/// The id of the sender as JSON.
const FROM: Option<&str> = Some(r#""sender""#);
/// Default limits for decoding.
const MAX_DEST: usize = 65_536;
const MAX_ID_LENGTH: usize = 8 << 10;
/// First key for handles that belong to no connection.
const FIRST_KEY: u64 = 1 << 32;

/// A socket that accepts all bytes.
fn pipe() -> Arc<Pipe> {
    Pipe::new(usize::MAX)
}

fn put(pipe: &Arc<Pipe>, bytes: &[u8]) {
    let socket = WriteHalf::Pipe(pipe.clone());
    let written = socket.try_write_vectored(&[IoSlice::new(bytes)]);
    assert_eq!(written.ok(), Some(bytes.len()));
}

fn reader(socket: &Arc<Pipe>) -> Reader {
    let options = ServerOptions::default();
    let bounds = Bounds {
        payload: options.max_payload,
        fragments: options.max_fragments,
    };
    let socket = ReadHalf::Pipe(socket.clone());
    Reader::new(Role::Server, socket, Vec::new(), bounds)
}

/// Decodes an action of a client with all its members. Returns false if it is invalid.
pub fn decode(text: &str) -> bool {
    match protocol::decode_client_action(text) {
        Ok(ClientAction::Send { dest, .. }) => {
            black_box(protocol::decode_dest(dest, MAX_DEST, MAX_ID_LENGTH)).is_ok()
        }
        Ok(ClientAction::Register { id, .. }) => {
            black_box(protocol::decode_id(id, MAX_ID_LENGTH)).is_ok()
        }
        Ok(ClientAction::Answer { ack, .. }) => !black_box(protocol::ack_key(ack)).is_empty(),
        Ok(
            ClientAction::Unregister
            | ClientAction::Cancel { .. }
            | ClientAction::Subscription(_)
            | ClientAction::Received(_),
        ) => true,
        Err(_) => false,
    }
}

/// Appends the frame of a message to a receiver. Returns the number of bytes in `out`.
pub fn encode(message: &str, out: &mut Vec<u8>) -> usize {
    let pieces = protocol::message(message, None, FROM);
    let length = pieces.iter().map(|piece| piece.len()).sum();
    framing::encode_text(&pieces, length, Mask::None, out);
    out.len()
}

/// A reader of frames.
pub struct Wire {
    socket: Arc<Pipe>,
    reader: Reader,
}

impl Wire {
    /// Creates a reader.
    pub fn new() -> Self {
        let socket = pipe();
        let reader = reader(&socket);
        Self { socket, reader }
    }

    /// Reads frames. Returns the number of messages.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        put(&self.socket, bytes);
        let cx = &mut Context::from_waker(Waker::noop());
        let mut messages = 0;
        let mut input = Input::borrow();
        while let Poll::Ready(message) = self.reader.poll_message(cx, &mut input) {
            black_box(message).expect("frames in order");
            messages += 1;
        }
        self.reader.keep(&mut input);
        input.give_back();
        messages
    }
}

impl Default for Wire {
    fn default() -> Self {
        Self::new()
    }
}

/// The outbox of one receiver.
pub struct Queue {
    outbox: Outbox,
    pipe: Arc<Pipe>,
    socket: WriteHalf,
}

impl Queue {
    /// Creates an empty outbox.
    pub fn new() -> Self {
        let pipe = pipe();
        Self {
            outbox: Outbox::new(usize::MAX, Mask::None, None),
            socket: WriteHalf::Pipe(pipe.clone()),
            pipe,
        }
    }

    /// Queues a message.
    pub fn push(&self, message: &str) {
        let _ = self.outbox.push(&protocol::message(message, None, FROM));
    }

    /// Writes the queued messages. Returns the number of bytes.
    pub fn flush(&self) -> usize {
        let _ = self.outbox.flush(&self.socket);
        self.pipe.clear()
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self::new()
    }
}

/// A connection with a socket in memory, whose task is run manually.
struct Line {
    socket: Arc<Pipe>,
    connection: Pin<Box<Connection>>,
    woken: Arc<Woken>,
    waker: Waker,
}

/// True if the task must run.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// The whole path of a message, from received bytes to written bytes.
pub struct Switch {
    /// The connection of `sender`, and the owner of the first id.
    lines: [Line; 2],
    server: Server,
    /// All written bytes, of any receiver.
    written: Arc<Pipe>,
    runtime: Runtime,
}

impl Switch {
    /// The connection with the id `sender`.
    pub const SENDER: usize = 0;
    /// The connection with the id `id(0)`.
    pub const RECEIVER: usize = 1;

    /// Creates a broker with `count` registered ids and a sender.
    pub fn with_ids(count: usize) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let options = ServerOptions {
            // No client connects to it.
            listen: Listen::Tcp {
                host: "127.0.0.1".to_owned(),
                port: 0,
            },
            ..ServerOptions::default()
        };
        let silent = |_: ServerEvent<'_>| {};
        let server = Server::bind(options, silent, runtime.handle()).expect("a server");
        let written = pipe();
        let entered = runtime.enter();
        let lines = [0, 1].map(|key| {
            let socket = pipe();
            let handle = handle(&server, key, &written);
            let reader = reader(&socket);
            let connection = Connection::new(server.broker().clone(), handle, reader, None);
            let woken = Arc::new(Woken(AtomicBool::new(true)));
            Line {
                socket,
                connection: Box::pin(connection),
                waker: woken.clone().into(),
                woken,
            }
        });
        drop(entered);
        for (number, key) in (1..count).zip(FIRST_KEY..) {
            let (id, handle) = (id(number).into(), handle(&server, key, &written));
            let registry = &server.broker().registry;
            registry.register(&id, &handle, |_| {}).expect("a free id");
        }
        Self {
            lines,
            server,
            written,
            runtime,
        }
    }

    /// True if the id has an owner.
    pub fn find(&self, id: &str) -> bool {
        self.server.broker().registry.find(id).is_some()
    }

    /// Processes bytes received on a connection. Returns the number of written bytes.
    pub fn feed(&mut self, line: usize, bytes: &[u8]) -> usize {
        let _entered = self.runtime.enter();
        let line = &mut self.lines[line];
        put(&line.socket, bytes);
        let cx = &mut Context::from_waker(&line.waker);
        // A turn has a budget and may end early.
        while line.woken.0.swap(false, Relaxed) {
            let polled = line.connection.as_mut().poll(cx);
            assert!(polled.is_pending(), "the connection has ended");
        }
        self.written.clear()
    }
}

/// The id with this number of [`Switch::with_ids`].
pub fn id(number: usize) -> String {
    format!("receiver-{number}")
}

fn handle(server: &Server, key: u64, written: &Arc<Pipe>) -> Arc<Handle> {
    let broker = server.broker();
    let (socket, mark) = (
        WriteHalf::Pipe(written.clone()),
        broker.options.max_backpressure,
    );
    Arc::new(Handle::new(key, socket, mark, broker.memory.clone()))
}

/// Replaces random seeds, which would determine the number of collisions: each hasher has another
/// seed, but the same in every run.
#[derive(Debug, Clone)]
pub(crate) struct NumberedState(FixedState);

impl Default for NumberedState {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(FixedState::with_seed(NEXT.fetch_add(1, Relaxed)))
    }
}

impl BuildHasher for NumberedState {
    type Hasher = FoldHasher<'static>;

    #[inline]
    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}

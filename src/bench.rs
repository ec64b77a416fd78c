//! A door to routing without sockets, for `benches/ids`: the steps of `connection/routing.rs`, of which
//! each is the real one.

use std::sync::Arc;

use crate::{
    handle::Handle,
    memory::Memory,
    options::ServerOptions,
    outbox::Pushed,
    protocol::{self, ClientAction, Dest},
    router::Router,
    socket::{WriteHalf, pipe::Pipe},
};

/// Bytes of an outbox, and of the socket behind it: more than is ever sent before it is taken.
const ROOM: usize = 1 << 20;

/// Registered ids, each with an outbox and a socket in memory.
#[derive(Debug)]
pub struct Switchboard {
    router: Router,
    ends: Vec<(Arc<Handle>, Arc<Pipe>)>,
}

impl Switchboard {
    /// Registers these ids, a connection each.
    pub fn new(ids: impl Iterator<Item = String>) -> Self {
        let memory = Arc::new(Memory::new(usize::MAX));
        let router = Router::new(&ServerOptions::default(), memory.clone());
        let register = |(key, id): (u64, String)| {
            let pipe = Pipe::new(ROOM);
            let socket = WriteHalf::Pipe(pipe.clone());
            let handle = Arc::new(Handle::new(key, socket, ROOM, memory.clone()));
            let registered = router.register(&id.into(), &handle, |_| {});
            registered.expect("nobody has a principal");
            (handle, pipe)
        };
        let ends = (0..).zip(ids).map(register).collect();
        Self { router, ends }
    }

    /// Carries out a `send` to one id: decodes it, finds the receiver, encodes the message into its
    /// outbox. `from` is JSON. False if it was not delivered.
    pub fn route(&self, text: &str, from: &str) -> bool {
        let Ok(ClientAction::Send { message, dest, ack }) = protocol::decode_client_action(text)
        else {
            return false;
        };
        let Ok(Dest::One(id)) = protocol::decode_dest(dest, 1) else {
            return false;
        };
        let Some(receiver) = self.router.find(&id) else {
            return false;
        };
        if receiver.outbox.is_full() {
            return false;
        }
        let frame = protocol::message(message, ack, Some(from));
        receiver.outbox.push(&frame) != Pushed::Closed
    }

    /// What has been sent to the `n`th id since this was last asked: the bytes that its peer reads.
    pub fn take(&self, n: usize) -> Vec<u8> {
        let (handle, pipe) = &self.ends[n];
        handle.flush();
        pipe.take()
    }
}

//! Attaches a WebSocket to a broker: starts the task of its connection.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::ingress::SocketPermit;
use crate::{
    broker::{Broker, handle::Handle},
    connection::{Connection, Peer},
    transport::{
        framing::{Bounds, Reader},
        socket::ReadHalf,
    },
};

/// Starts the task of a connection. `read`: its read half, and bytes already read from it. `held`: dropped
/// when the connection has ended.
pub(super) fn attach(
    broker: &Arc<Broker>,
    handle: Arc<Handle>,
    (read, early): (ReadHalf, Vec<u8>),
    peer: Option<Peer>,
    held: (watch::Receiver<bool>, Option<SocketPermit>),
) {
    let reader = reader(broker, read, early);
    broker.add_connection(&handle);
    let connection = Connection::new(broker.clone(), handle, reader, peer);
    tokio::spawn(async move {
        connection.await;
        // The server counts as closed when the last of these is dropped.
        drop(held);
    });
}

/// A reader for the frames of a peer, with the limits of the broker.
pub(super) fn reader(broker: &Broker, read: ReadHalf, early: Vec<u8>) -> Reader {
    let bounds = Bounds {
        payload: broker.options.max_payload,
        fragments: broker.options.max_fragments,
    };
    Reader::new(Role::Server, read, early, bounds)
}

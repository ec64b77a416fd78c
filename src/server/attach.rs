//! Attaches a WebSocket to a broker: starts the task of its connection.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::ingress::SocketPermit;
use crate::{
    auth::Peer,
    broker::{Broker, handle::Handle},
    connection::{Connection, Progress},
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
    let mut connection = Connection::new(broker.clone(), handle, reader, peer);
    tokio::spawn(async move {
        // The server counts as closed when the last of these is dropped.
        let (closing, mut permit) = held;
        loop {
            match (&mut connection).await {
                Progress::Ended => break,
                Progress::Suspended => permit = None,
                Progress::Resumed(next) => {
                    permit = next.and_then(|permit| permit.downcast().ok().map(|permit| *permit));
                }
                Progress::HandsOver(session, mut next) => {
                    next.permit = permit.take().map(|permit| Box::new(permit) as _);
                    session.hand_over(next);
                    break;
                }
            }
        }
        drop(connection);
        drop((closing, permit));
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

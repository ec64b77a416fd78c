//! Test servers whose peers have sockets in memory.

use std::sync::Arc;

use tokio::runtime::Handle as Runtime;

use super::{Server, attach};
#[cfg(test)]
use crate::connection::Connection;
use crate::{
    auth::Peer,
    broker::handle::Handle,
    cluster::{self, BusEvent, Cluster},
    event::ServerEvent,
    options::{Listen, ServerOptions},
    transport::socket::{ReadHalf, WriteHalf, pipe::Pipe},
};

impl Server {
    /// A server for peers in memory.
    pub(crate) fn unreachable(options: ServerOptions, runtime: &Runtime) -> Self {
        Self::bind(here(options), |_: ServerEvent<'_>| {}, runtime).unwrap()
    }

    /// A server for peers in memory, in a cluster of one broker.
    pub(crate) fn unreachable_in_cluster(options: ServerOptions, runtime: &Runtime) -> Self {
        Self::unreachable_beside(cluster::tests::alone(runtime), options, runtime)
    }

    /// A server for peers in memory, in this cluster.
    pub(crate) fn unreachable_beside(
        cluster: Arc<Cluster>,
        options: ServerOptions,
        runtime: &Runtime,
    ) -> Self {
        let (_, events) = tokio::sync::mpsc::channel(1);
        Self::unreachable_in((cluster, events), options, runtime)
    }

    /// A server for peers in memory, in this cluster with these events of its bus.
    pub(crate) fn unreachable_in(
        joined: (Arc<Cluster>, tokio::sync::mpsc::Receiver<BusEvent>),
        options: ServerOptions,
        runtime: &Runtime,
    ) -> Self {
        let join = |_: &ServerOptions, _: &Runtime| Ok(Some(joined));
        Self::bind_in(join, here(options), |_: ServerEvent<'_>| {}, runtime).unwrap()
    }

    /// Serves a peer as if its handshake were complete.
    pub(crate) fn serve_piped(&self, input: &Arc<Pipe>, output: &Arc<Pipe>) -> Arc<Handle> {
        let socket = WriteHalf::Pipe(output.clone()).into_replaceable();
        let handle = Arc::new(self.broker.new_handle(socket));
        let read = (ReadHalf::Pipe(input.clone()), Vec::new());
        let held = (self.broker.closing(), None);
        let peer = Some(Peer::default());
        attach::attach(&self.broker, handle.clone(), read, peer, held);
        handle
    }

    /// A connection for a test that polls it itself.
    #[cfg(test)]
    pub(crate) fn connection(
        &self,
        input: &Arc<Pipe>,
        output: &Arc<Pipe>,
    ) -> (Arc<Handle>, Connection) {
        let socket = WriteHalf::Pipe(output.clone()).into_replaceable();
        let handle = Arc::new(self.broker.new_handle(socket));
        let reader = attach::reader(&self.broker, ReadHalf::Pipe(input.clone()), Vec::new());
        let peer = Some(Peer::default());
        let connection = Connection::new(self.broker.clone(), handle.clone(), reader, peer);
        (handle, connection)
    }
}

fn here(options: ServerOptions) -> ServerOptions {
    ServerOptions {
        listen: Listen::Tcp {
            host: "127.0.0.1".into(),
            port: 0,
        },
        ..options
    }
}

//! The server's own participant: a client within the process.

use std::{io, sync::Arc, time::Duration};

use tokio::runtime::Handle as Runtime;

use super::{Server, attach::attach};
use crate::{
    client::Client,
    error::{Error, Result},
    event::ClientListener,
    options::ClientOptions,
    transport::socket::pair::pair,
};

impl Server {
    /// Connects a client of this server within the process, independent of its address, TLS and
    /// `max_connections`. `options` apply as for any client, except host, port, path, headers, token and
    /// TLS.
    ///
    /// The client may register any id, and no other client can take that over. It is not counted in
    /// `Stats::connections`, and no `Connection` event is emitted. Authentication, register timeout,
    /// heartbeat, rate limit and the limit of refused actions do not apply. It is closed when the server
    /// closes, but not when it is slow: messages that exceed its outbox are dropped.
    ///
    /// Errors: `InvalidOption`; `NotOpen` once the server is closed; `Io`.
    pub fn join(
        &self,
        options: ClientOptions,
        listener: impl ClientListener,
        runtime: &Runtime,
    ) -> Result<Client> {
        let Self { broker, .. } = self;
        let closing = broker.closing();
        if *closing.borrow() {
            return Err(Error::NotOpen);
        }
        let options = ClientOptions {
            tls: None,
            // There is no network in between that could fail silently.
            ping_interval: Duration::ZERO,
            ..options
        };
        let (near, far) = pair().map_err(failed)?;
        let entered = self.runtime.enter();
        let (read, write) = far.into_halves().map_err(failed)?;
        drop(entered);
        let entered = runtime.enter();
        let socket = near.into_halves().map_err(failed)?;
        drop(entered);
        let client = Client::over(socket, options, listener, runtime)?;
        let _entered = self.runtime.enter();
        let handle = Arc::new(broker.new_handle(write).of_participant());
        attach(broker, handle, (read, Vec::new()), None, (closing, None));
        Ok(client)
    }
}

fn failed(source: io::Error) -> Error {
    Error::Io {
        syscall: "socketpair",
        target: None,
        source,
    }
}

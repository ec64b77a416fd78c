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
    /// A client of this server that needs no way to it: wherever the server listens, whoever it
    /// lets in, and however many are there. `options` say what they say of any client, but for host,
    /// port, path, headers, token and TLS.
    ///
    /// It may have any id, and no peer takes that over. It is no connection of `Stats`, and no
    /// `Connection` event. What a server asks of strangers it does not ask here: authentication, a
    /// registration in time, a heartbeat, a rate, a number of refused actions. It is closed when the
    /// server closes, and not when it does not read: what it has no room for is dropped then.
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
            // In between there is nothing that could die silently.
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

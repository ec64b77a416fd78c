//! Sockets that an HTTP server of Node.js hands over: by their descriptor, or by a bridge that JavaScript serves.

use std::{net::IpAddr, sync::Arc};

use napi::bindgen_prelude::Buffer;
use napi_derive::napi;

use super::{
    convert::{self, Result},
    server::NativeServer,
};
use crate::{AdoptedUpgrade, Bridge, BridgeOutput, ConnectionInfo, Error};

/// An upgrade request that Node.js has read.
#[napi(object)]
pub struct NativeUpgrade {
    /// The head of the request, and all bytes that have arrived behind it.
    pub bytes: Buffer,
    pub remote_address: Option<String>,
    pub remote_port: Option<u16>,
    pub secure: bool,
    /// Facts about the client, as JSON text.
    pub context: Option<String>,
}

impl From<NativeUpgrade> for AdoptedUpgrade {
    fn from(js: NativeUpgrade) -> Self {
        Self {
            bytes: js.bytes.to_vec(),
            info: connection_info(js.remote_address, js.remote_port, js.secure),
            context: js.context.map(Into::into),
        }
    }
}

/// The client of a request, as Node.js describes it.
fn connection_info(address: Option<String>, port: Option<u16>, secure: bool) -> ConnectionInfo {
    // A zone (`fe80::1%eth0`) is no part of the address.
    let address = address.as_deref().unwrap_or_default();
    let address = address.split('%').next().unwrap_or_default();
    let address: Option<IpAddr> = address.parse().ok();
    ConnectionInfo {
        remote_address: address.map(|address| address.to_canonical()),
        remote_port: port,
        secure,
    }
}

#[napi]
impl NativeServer {
    /// Takes over a socket by a copy of its descriptor. The caller closes its own descriptor afterwards, and
    /// reads nothing more from it. `is_unix`: a Unix socket, not one of TCP.
    #[cfg(unix)]
    #[napi]
    pub fn adopt(&self, descriptor: i32, is_unix: bool, upgrade: NativeUpgrade) -> Result<()> {
        use std::os::fd::{BorrowedFd, OwnedFd};

        use crate::AdoptedSocket;

        let invalid = || io_error("dup", std::io::Error::from_raw_os_error(9));
        if descriptor < 0 {
            return Err(invalid());
        }
        // SAFETY: the descriptor is open as long as the socket of JavaScript, which is not closed during this
        // call.
        let socket = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let copy: OwnedFd = socket
            .try_clone_to_owned()
            .map_err(|error| io_error("dup", error))?;
        let socket = match is_unix {
            true => AdoptedSocket::Unix(copy.into()),
            false => AdoptedSocket::Tcp(copy.into()),
        };
        match &*self.shared.server.lock() {
            Some(server) => server.adopt(socket, upgrade.into()).map_err(convert::error),
            None => Err(convert::error(Error::NotOpen)),
        }
    }

    /// Counts and reports an upgrade request that JavaScript has refused. `status`: the HTTP status of the response; none if
    /// the socket was closed without one. Nothing after `close`.
    #[napi]
    pub fn report_refused(
        &self,
        remote_address: Option<String>,
        remote_port: Option<u16>,
        secure: bool,
        status: Option<u16>,
    ) {
        if let Some(server) = &*self.shared.server.lock() {
            let info = connection_info(remote_address, remote_port, secure);
            server.report_refused(info, status);
        }
    }

    /// Creates a bridge: JavaScript reads and writes the socket. `number`: the number of the bridge in events.
    #[napi]
    pub fn bridge(&self, number: u32, upgrade: NativeUpgrade) -> Result<NativeBridge> {
        let shared = self.shared.clone();
        let notify = move |event| shared.bridge(number, event);
        let bridge = match &*self.shared.server.lock() {
            Some(server) => server.bridge(upgrade.into(), notify),
            None => Err(Error::NotOpen),
        };
        bridge.map(NativeBridge).map_err(convert::error)
    }
}

#[cfg(unix)]
fn io_error(syscall: &'static str, source: std::io::Error) -> napi::Error<String> {
    convert::error(Error::Io {
        syscall,
        target: None,
        source,
    })
}

/// One end of a bridge.
#[napi]
pub struct NativeBridge(Arc<Bridge>);

#[napi]
impl NativeBridge {
    /// Adds received bytes. False if JavaScript must stop reading until `BridgeResume`.
    #[napi]
    pub fn push(&self, bytes: Buffer) -> bool {
        self.0.push(&bytes)
    }

    /// The peer sends no more.
    #[napi]
    pub fn end(&self) {
        self.0.end();
    }

    /// The socket is lost.
    #[napi]
    pub fn lose(&self) {
        self.0.lose();
    }

    /// Takes the bytes to send. Null: none for now; an empty buffer: no more will follow.
    #[napi]
    pub fn take(&self) -> Option<Buffer> {
        match self.0.take() {
            BridgeOutput::Bytes(bytes) => Some(bytes.into()),
            BridgeOutput::End => Some(Vec::new().into()),
            BridgeOutput::Nothing => None,
        }
    }

    /// Confirms that bytes were written.
    #[napi]
    pub fn written(&self, bytes: u32) {
        self.0.written(bytes as usize);
    }
}

//! Notifications for systemd (`sd_notify`), for the command line: Node.js has no Unix datagrams.

use std::{
    io,
    os::unix::net::{SocketAddr, UnixDatagram},
    time::Duration,
};

use napi_derive::napi;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    convert::{self, Result},
    server::NativeServer,
};
use crate::Error;

/// Time to wait until systemd has read earlier notifications.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Tells systemd that the process is alive.
const KEEP_ALIVE: &str = "WATCHDOG=1";

/// Sends a notification. `address`: `NOTIFY_SOCKET`.
#[napi]
pub(crate) fn notify_systemd(address: String, message: String) -> Result<()> {
    let sent = socket().and_then(|socket| {
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        send(&socket, &address, &message)
    });
    sent.map_err(|source| {
        convert::error(Error::Io {
            syscall: "notify",
            target: Some(address),
            source,
        })
    })
}

#[napi]
impl NativeServer {
    /// Sends keep-alive notifications from the threads of the server, in this interval in milliseconds, as long as they
    /// run. JavaScript has no part in it.
    #[napi]
    pub fn keep_alive(&self, address: String, every: f64) {
        let Some(runtime) = &self.runtime else { return };
        let every = convert::millis(every).max(Duration::from_millis(1));
        runtime.spawn(async move {
            let mut interval = interval(every);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                // Never waits. If it fails, the next one may be in time.
                let _ = socket().and_then(|socket| {
                    socket.set_nonblocking(true)?;
                    send(&socket, &address, KEEP_ALIVE)
                });
            }
        });
    }
}

/// A new socket each time: that of systemd may be replaced.
fn socket() -> io::Result<UnixDatagram> {
    UnixDatagram::unbound()
}

fn send(socket: &UnixDatagram, address: &str, message: &str) -> io::Result<()> {
    let address = parse(address)?;
    socket.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// The address of a path, or of a name that is not a file (`@name`, Linux only).
fn parse(address: &str) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = address.strip_prefix('@') {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(address)
}

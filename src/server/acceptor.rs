//! The listening socket: bound at once, so that its address is known, or why there is none.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    task::{Context, Poll},
};

use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

use super::Address;
use crate::{
    error::{Error, Result},
    options::Listen,
    transport::socket::Socket,
};

/// Connections the system may hold for us before we accept them; Node's own number.
const BACKLOG: i32 = 511;

/// Listens as long as it lives: dropped, it has freed its port.
#[derive(Debug)]
pub(super) enum ListeningSocket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener, PathBuf),
}

impl ListeningSocket {
    pub(super) fn bind(listen: &Listen) -> Result<(Self, Address)> {
        match listen {
            Listen::Tcp { host, port } => {
                let target = format!("{host}:{port}");
                let addresses = match host.parse() {
                    Ok(ip) => vec![SocketAddr::new(ip, *port)],
                    Err(_) => (host.as_str(), *port)
                        .to_socket_addrs()
                        .map_err(|error| Error::io("getaddrinfo", host, error))?
                        .collect(),
                };
                let first = addresses.first().copied();
                let address = first.unwrap_or((Ipv4Addr::UNSPECIFIED, *port).into());
                let listener = listen_tcp(address).map_err(|e| Error::io("listen", target, e))?;
                let address = listener.local_addr().unwrap_or(address);
                Ok((Self::Tcp(listener), Address::Tcp(address)))
            }
            #[cfg(unix)]
            Listen::Unix(path) => {
                let listener = UnixListener::bind(path)
                    .map_err(|error| Error::io("listen", path.display(), error))?;
                Ok((
                    Self::Unix(listener, path.clone()),
                    Address::Unix(path.clone()),
                ))
            }
            #[cfg(not(unix))]
            Listen::Unix(path) => Err(Error::io(
                "listen",
                path.display(),
                io::ErrorKind::Unsupported.into(),
            )),
        }
    }

    /// The next connection.
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Socket>> {
        match self {
            Self::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(socket, _)| Socket::Tcp(socket)),
            #[cfg(unix)]
            Self::Unix(listener, _) => listener
                .poll_accept(cx)
                .map_ok(|(socket, _)| Socket::Unix(socket)),
        }
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // On Unix this lets a port be bound again while old connections linger; on Windows it would
    // let two servers have one port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

#[cfg(unix)]
impl Drop for ListeningSocket {
    fn drop(&mut self) {
        // A process that is just being forked holds every descriptor until it is another program:
        // closing alone would leave the port listening, and taken, until then.
        match self {
            Self::Tcp(listener) => shut_down(&*listener),
            Self::Unix(listener, path) => {
                shut_down(&*listener);
                // Gone already, or not ours to remove: nothing that a closing server could mend.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Ends the listening itself, whoever else holds the socket.
#[cfg(unix)]
fn shut_down(listener: &impl std::os::fd::AsFd) {
    // Where a system refuses this for a socket that listens, closing it has to do.
    let _ = socket2::SockRef::from(listener).shutdown(std::net::Shutdown::Both);
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn frees_its_port_though_a_process_that_is_being_forked_holds_the_socket() {
        let listen = |port| Listen::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
        };
        let (first, address) = ListeningSocket::bind(&listen(0)).unwrap();
        let (ListeningSocket::Tcp(listener), Address::Tcp(address)) = (&first, address) else {
            unreachable!("asked for TCP");
        };
        let held = listener.as_fd().try_clone_to_owned().unwrap();
        drop(first);
        let (_second, again) = ListeningSocket::bind(&listen(address.port())).unwrap();
        assert!(matches!(again, Address::Tcp(again) if again == address));
        drop(held);
    }
}

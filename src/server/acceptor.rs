//! Listening socket, bound synchronously so that its address or the error is known at once.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs},
    task::{Context, Poll},
};

use tokio::net::TcpListener;
#[cfg(unix)]
use {
    super::unix_socket::UnixSocket,
    crate::options::InheritedSocket,
    socket2::SockRef,
    std::path::{Path, PathBuf},
    tokio::net::UnixListener,
};

use super::Address;
use crate::{
    error::{Error, Result},
    options::Listen,
    transport::socket::Socket,
};

/// Maximum connections that the system queues before they are accepted; Node's default.
const BACKLOG: i32 = 511;

/// A listening socket. Dropping it frees its port, or removes its Unix socket. An inherited one stays as it is: other
/// processes go on using it.
#[derive(Debug)]
pub(super) enum ListeningSocket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixSocket),
    #[cfg(unix)]
    InheritedTcp(TcpListener),
    #[cfg(unix)]
    InheritedUnix(UnixListener),
}

impl ListeningSocket {
    /// None if the server listens nowhere. `reuse_port`: share a TCP port with other sockets that do so. `mode`: the
    /// permissions of a Unix socket.
    pub(super) fn bind(
        listen: &Listen,
        reuse_port: bool,
        mode: Option<u32>,
    ) -> Result<(Option<Self>, Address)> {
        let (socket, address) = match listen {
            Listen::Nowhere => return Ok((None, Address::Nowhere)),
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
                let listener = listen_tcp(address, reuse_port);
                let listener = listener.map_err(|e| Error::io("listen", target, e))?;
                let address = listener.local_addr().unwrap_or(address);
                (Self::Tcp(listener), Address::Tcp(address))
            }
            #[cfg(unix)]
            Listen::Unix(path) => {
                let socket = UnixSocket::bind(path, mode)
                    .map_err(|error| Error::io("listen", path.display(), error))?;
                (Self::Unix(socket), Address::Unix(path.clone()))
            }
            #[cfg(unix)]
            Listen::Inherited(socket) => {
                let inherited = Self::inherit(socket);
                inherited.map_err(|error| Error::io("listen", "inherited socket", error))?
            }
            #[cfg(not(unix))]
            Listen::Unix(path) => {
                let unsupported = io::ErrorKind::Unsupported.into();
                return Err(Error::io("listen", path.display(), unsupported));
            }
        };
        Ok((Some(socket), address))
    }

    #[cfg(unix)]
    fn inherit(socket: &InheritedSocket) -> io::Result<(Self, Address)> {
        let (socket, is_unix) = socket.duplicate()?;
        if is_unix {
            let listener = UnixListener::from_std(socket.into())?;
            let address = Address::Unix(path_of(&listener)?);
            return Ok((Self::InheritedUnix(listener), address));
        }
        let listener = TcpListener::from_std(socket.into())?;
        let address = Address::Tcp(listener.local_addr()?);
        Ok((Self::InheritedTcp(listener), address))
    }

    /// Accepts the next connection.
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Socket>> {
        let tcp = |listener: &TcpListener, cx: &mut Context<'_>| {
            let accepted = listener.poll_accept(cx);
            accepted.map_ok(|(socket, _)| Socket::Tcp(socket))
        };
        #[cfg(unix)]
        let unix = |listener: &UnixListener, cx: &mut Context<'_>| {
            let accepted = listener.poll_accept(cx);
            accepted.map_ok(|(socket, _)| Socket::Unix(socket))
        };
        match self {
            Self::Tcp(listener) => tcp(listener, cx),
            #[cfg(unix)]
            Self::Unix(socket) => unix(&socket.listener, cx),
            #[cfg(unix)]
            Self::InheritedTcp(listener) => tcp(listener, cx),
            #[cfg(unix)]
            Self::InheritedUnix(listener) => unix(listener, cx),
        }
    }
}

/// The path of a Unix socket. A name that is not a file (Linux) begins with `@`, as in the configuration of systemd.
#[cfg(unix)]
fn path_of(listener: &UnixListener) -> io::Result<PathBuf> {
    let address = SockRef::from(listener).local_addr()?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(name) = address.as_abstract_namespace() {
        return Ok(format!("@{}", String::from_utf8_lossy(name)).into());
    }
    Ok(address.as_pathname().unwrap_or(Path::new("")).to_owned())
}

#[cfg_attr(
    not(any(target_os = "linux", target_os = "macos")),
    allow(unused_variables)
)]
fn listen_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // On Unix this allows binding a port again while old connections linger. On Windows it would allow two
    // servers on one port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    // `ServerOptions::validate` refuses it on other systems.
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

#[cfg(unix)]
impl Drop for ListeningSocket {
    fn drop(&mut self) {
        // A child process that is being forked holds copies of all descriptors until it calls `exec`:
        // closing this descriptor alone would keep the port bound until then.
        match self {
            Self::Tcp(listener) => shut_down(&*listener),
            Self::Unix(socket) => {
                shut_down(&socket.listener);
                socket.remove_file();
            }
            Self::InheritedTcp(_) | Self::InheritedUnix(_) => {}
        }
    }
}

/// Stops listening, even if copies of the descriptor exist.
#[cfg(unix)]
fn shut_down(listener: &impl std::os::fd::AsFd) {
    // Some systems refuse this for a listening socket; closing it is enough there.
    let _ = SockRef::from(listener).shutdown(std::net::Shutdown::Both);
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn dropping_frees_the_port_even_if_a_copy_of_the_descriptor_is_open() {
        let listen = |port| Listen::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
        };
        let (first, address) = ListeningSocket::bind(&listen(0), false, None).unwrap();
        let (Some(ListeningSocket::Tcp(listener)), Address::Tcp(address)) = (&first, address)
        else {
            unreachable!("asked for TCP");
        };
        let held = listener.as_fd().try_clone_to_owned().unwrap();
        drop(first);
        let (_second, again) = ListeningSocket::bind(&listen(address.port()), false, None).unwrap();
        assert!(matches!(again, Address::Tcp(again) if again == address));
        drop(held);
    }

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[tokio::test]
    async fn sockets_share_a_port_if_all_of_them_reuse_it() {
        let bind = |port, reuse_port| {
            let host = "127.0.0.1".to_owned();
            ListeningSocket::bind(&Listen::Tcp { host, port }, reuse_port, None)
        };
        let (_first, Address::Tcp(address)) = bind(0, true).unwrap() else {
            unreachable!("asked for TCP");
        };
        let _second = bind(address.port(), true).unwrap();
        assert_eq!(
            bind(address.port(), false).unwrap_err().code(),
            "EADDRINUSE"
        );
    }
}

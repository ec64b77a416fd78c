//! The option of a listening socket that another process has opened.

use std::{io, os::fd::OwnedFd, sync::Arc};

use socket2::{Domain, SockRef, Type};

use crate::error::{Error, Result};

/// A listening socket that the embedder has been given, for example by systemd. Other processes may hold it, too: a
/// server that closes does not end it.
#[derive(Debug, Clone)]
pub struct InheritedSocket(Arc<OwnedFd>);

impl InheritedSocket {
    /// Makes the socket close-on-exec and non-blocking; the latter applies to all processes that hold it.
    ///
    /// Errors: `InvalidOption` if it is not a listening TCP or Unix socket; `Io`.
    pub fn new(socket: impl Into<OwnedFd>) -> Result<Self> {
        let socket = socket.into();
        if let Some(reason) = unusable(&SockRef::from(&socket)) {
            let reason = format!("{reason}, expected a listening TCP or Unix socket");
            return Err(Error::InvalidOption { name: "fd", reason });
        }
        let own = SockRef::from(&socket);
        own.set_cloexec(true)
            .and_then(|()| own.set_nonblocking(true))
            .map_err(|error| Error::io("fcntl", "inherited socket", error))?;
        Ok(Self(Arc::new(socket)))
    }

    /// True if only programs of this machine can connect.
    pub(super) fn is_local(&self) -> bool {
        let address = SockRef::from(&self.0).local_addr();
        address.is_ok_and(|address| match address.as_socket() {
            Some(address) => address.ip().is_loopback(),
            None => true,
        })
    }

    /// Another descriptor of the socket, and whether it is a Unix socket.
    pub(crate) fn duplicate(&self) -> io::Result<(OwnedFd, bool)> {
        let is_unix = SockRef::from(&self.0).local_addr()?.is_unix();
        Ok((self.0.try_clone()?, is_unix))
    }
}

/// Equal if they share a descriptor.
impl PartialEq for InheritedSocket {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for InheritedSocket {}

/// The reason why no connections can be accepted from a descriptor.
fn unusable(socket: &SockRef<'_>) -> Option<&'static str> {
    let Ok(kind) = socket.r#type() else {
        return Some("is not a socket");
    };
    let domain = socket.local_addr().map(|address| address.domain());
    match domain {
        Ok(Domain::IPV4 | Domain::IPV6 | Domain::UNIX) if kind == Type::STREAM => {}
        _ => return Some("is another kind of socket"),
    }
    // macOS does not report it.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    if !socket.is_listener().unwrap_or(false) {
        return Some("does not listen");
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        net::{TcpListener, TcpStream, UdpSocket},
    };

    use super::*;

    fn refusal(socket: impl Into<OwnedFd>) -> String {
        InheritedSocket::new(socket).unwrap_err().to_string()
    }

    #[test]
    fn a_descriptor_that_cannot_accept_connections_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let expected = ", expected a listening TCP or Unix socket";
        for (error, reason) in [
            (refusal(File::open("/dev/null").unwrap()), "is not a socket"),
            (
                refusal(UdpSocket::bind("127.0.0.1:0").unwrap()),
                "is another kind of socket",
            ),
            (
                refusal(std::os::unix::net::UnixDatagram::unbound().unwrap()),
                "is another kind of socket",
            ),
            #[cfg(target_os = "linux")]
            (refusal(connected), "does not listen"),
        ] {
            assert_eq!(error, format!("option \"fd\" {reason}{expected}"));
        }
        InheritedSocket::new(listener).unwrap();
    }

    #[test]
    fn it_is_equal_to_its_clones_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = InheritedSocket::new(listener.try_clone().unwrap()).unwrap();
        let second = InheritedSocket::new(listener).unwrap();
        assert_eq!(first, first.clone());
        assert_ne!(first, second);
    }
}

//! A connection within the process: a pair of sockets, each usable on its own runtime.

use std::io;
#[cfg(any(not(unix), test))]
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use super::{ReadHalf, Socket, WriteHalf};

#[cfg(unix)]
type PairStream = std::os::unix::net::UnixStream;
#[cfg(not(unix))]
type PairStream = TcpStream;

/// One end of a pair, not yet on a runtime.
pub(crate) struct End(PairStream);

/// Creates two connected ends that no other process can reach.
pub(crate) fn pair() -> io::Result<(End, End)> {
    #[cfg(unix)]
    let (one, other) = PairStream::pair()?;
    #[cfg(not(unix))]
    let (one, other) = tcp_pair()?;
    one.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    Ok((End(one), End(other)))
}

impl End {
    /// Splits the end into halves on the current runtime.
    pub(crate) fn into_halves(self) -> io::Result<(ReadHalf, WriteHalf)> {
        #[cfg(unix)]
        let socket = Socket::Unix(tokio::net::UnixStream::from_std(self.0)?);
        #[cfg(not(unix))]
        let socket = Socket::Tcp(tokio::net::TcpStream::from_std(self.0)?);
        Ok(socket.into_halves())
    }
}

/// Creates a pair over the loopback interface, for systems without socket pairs.
#[cfg(any(not(unix), test))]
fn tcp_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let other = accept_from(&listener, &one)?;
    Ok((one, other))
}

/// Accepts the other end of `one`; connections of other processes are closed.
#[cfg(any(not(unix), test))]
fn accept_from(listener: &TcpListener, one: &TcpStream) -> io::Result<TcpStream> {
    let ours = one.local_addr()?;
    loop {
        // Terminates: the connection of `one` is already in the accept queue.
        let (other, address) = listener.accept()?;
        if address == ours {
            return Ok(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_tcp_pair_never_includes_a_foreign_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut stranger = TcpStream::connect(address).unwrap();
        let mut one = TcpStream::connect(address).unwrap();
        let mut other = accept_from(&listener, &one).unwrap();
        assert_eq!(stranger.read(&mut [0]).unwrap(), 0, "turned away");
        one.write_all(b"a").unwrap();
        other.write_all(b"b").unwrap();
        let mut bytes = [0; 2];
        one.read_exact(&mut bytes[..1]).unwrap();
        other.read_exact(&mut bytes[1..]).unwrap();
        assert_eq!(&bytes, b"ba");
        tcp_pair().unwrap();
    }
}

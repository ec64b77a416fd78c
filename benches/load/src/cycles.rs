//! Connection cycles: connect, register, close, and again.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::arguments::{Arguments, Target};
use crate::failure::Result;
use crate::frame::{self, CLOSE};
use crate::hello::Hello;
use crate::os;
use crate::progress::Progress;
use crate::protocol::Role;

/// A close frame with code 1000.
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

/// Closed connections occupy their port for a minute, so one source address would run out of ports.
const SOURCES: u64 = 200;

enum State {
    /// The bytes to write once connected.
    Connecting(Vec<u8>),
    Greeting,
    Closing,
}

struct Cycle {
    socket: TcpStream,
    hello: Hello,
    state: State,
    /// Bytes read after the registration.
    rest: Vec<u8>,
}

impl Cycle {
    fn begin(target: &Target, number: u64) -> Result<Self> {
        let (hello, request) = Hello::new(target, &format!("c{number}"), Role::Member);
        Ok(Cycle {
            socket: connect(target.address, number)?,
            hello,
            state: State::Connecting(request),
            rest: Vec::new(),
        })
    }

    /// Continues as far as possible. Returns true once the broker has closed the connection.
    fn advance(&mut self) -> Result<bool> {
        if let State::Connecting(request) = &self.state {
            match self.socket.write(request) {
                Ok(length) if length == request.len() => self.state = State::Greeting,
                Ok(_) => return Err("a new socket takes no request".into()),
                Err(error) if is_early(&error) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        let mut chunk = [0; 4096];
        loop {
            let length = match self.socket.read(&mut chunk) {
                Ok(0) if matches!(self.state, State::Closing) => return Ok(true),
                Ok(0) => return Err("the broker closed a connection too early".into()),
                Ok(length) => length,
                Err(error) if is_early(&error) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            if self.hear(&chunk[..length])? {
                return Ok(true);
            }
            // A short read has emptied the socket. The next event signals more.
            if length < chunk.len() {
                return Ok(false);
            }
        }
    }

    fn hear(&mut self, bytes: &[u8]) -> Result<bool> {
        if matches!(self.state, State::Closing) {
            self.rest.extend_from_slice(bytes);
            while let Some(frame) = frame::decode(&self.rest)? {
                if frame.opcode == CLOSE {
                    return Ok(true);
                }
                self.rest.drain(..frame.length);
            }
            return Ok(false);
        }
        let mut reply = self.hello.hear(bytes)?;
        if self.hello.is_done() {
            reply = frame::encode(CLOSE, &NORMAL).0;
            self.state = State::Closing;
        }
        self.socket.write_all(&reply)?;
        Ok(false)
    }
}

fn is_early(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::NotConnected | ErrorKind::Interrupted
    )
}

fn connect(address: SocketAddr, number: u64) -> Result<TcpStream> {
    // Each write follows the answer to the previous one, so Nagle's algorithm causes no delay.
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if address.is_ipv4() {
        let host = 2 + (number % SOURCES) as u8;
        let source = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0);
        socket.bind(&source.into())?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error.into()),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let target = arguments.target()?;
    let count = arguments.number("connections", 32_usize)?.max(1);
    let duration = Duration::from_secs_f64(arguments.number("seconds", 3.0_f64)?);
    if target.tls.is_some() {
        return Err("cycles are without TLS".into());
    }

    os::raise_file_limit();
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut number = 0;
    let mut begin = |poll: &Poll, slot: usize| -> Result<Option<Cycle>> {
        let mut cycle = Cycle::begin(&target, number)?;
        number += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut cycle.socket, Token(slot), interest)?;
        Ok(Some(cycle))
    };

    let mut progress = Progress::start(Duration::ZERO);
    let mut cycles = Vec::with_capacity(count);
    for slot in 0..count {
        cycles.push(begin(&poll, slot)?);
    }
    let mut open = count;
    while open > 0 {
        match poll.poll(&mut events, Some(Duration::from_millis(100))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        let mut done = 0;
        for event in &events {
            let slot = event.token().0;
            let Some(cycle) = &mut cycles[slot] else {
                continue;
            };
            if !cycle.advance()? {
                continue;
            }
            done += 1;
            // This closes the previous socket.
            cycles[slot] = if progress.elapsed() < duration {
                begin(&poll, slot)?
            } else {
                open -= 1;
                None
            };
        }
        progress.note(done, || open as u64)?;
    }
    let figures = progress.stop();
    println!(r#"{{"mode":"cycles","connections":{count},{figures}}}"#);
    Ok(())
}

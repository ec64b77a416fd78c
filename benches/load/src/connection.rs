//! A registered client: blocks while it connects and registers, and never blocks afterwards.

use std::io::{self, ErrorKind, Read, Write};
use std::thread;
use std::time::Duration;

use mio::{Interest, Registry, Token};

use crate::arguments::Target;
use crate::failure::Result;
use crate::frame::{self, CLOSE, PING, PONG, TEXT};
use crate::hello::Hello;
use crate::message::Batch;
use crate::nats;
use crate::protocol::{Protocol, Role};
use crate::stream::Stream;

/// Timeout of the handshake and the registration.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections opened at a time.
const OPENERS: usize = 16;

/// Maximum bytes of one read; a multiple of the expected frames.
pub(crate) const READ_BUFFER: usize = 256 * 1024;

/// A socket with the bytes of an incomplete frame and the bytes that are not written yet.
pub(crate) struct Connection {
    stream: Stream<mio::net::TcpStream>,
    protocol: Protocol,
    partial: Vec<u8>,
    nats: nats::Stream,
    unsent: Vec<u8>,
    replies: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(target: &Target, id: &str, role: Role) -> Result<Self> {
        let mut stream = Stream::connect(target, CONNECT_TIMEOUT)?;
        let (mut hello, request) = Hello::new(target, id, role);
        stream.write_all(&request)?;
        let mut chunk = [0; 2048];
        while !hello.is_done() {
            match stream.read(&mut chunk)? {
                0 => return Err("the broker closed a connection during the handshake".into()),
                length => stream.write_all(&hello.hear(&chunk[..length])?)?,
            }
        }
        Ok(Connection {
            stream: stream.into_nonblocking()?,
            protocol: target.protocol,
            partial: hello.into_rest(),
            nats: nats::Stream::default(),
            unsent: Vec::new(),
            replies: Vec::new(),
        })
    }

    /// Opens all connections, distributed among the targets, several at a time, because each waits
    /// for its broker. Handshakes block, so this needs threads, which end before the measurement
    /// starts.
    pub(crate) fn open_all(targets: &[Target], ids: &[String], role: Role) -> Result<Vec<Self>> {
        let open = |dealt: &[(&String, &Target)]| -> Result<Vec<Self>> {
            let one = |&(id, target): &(&String, &Target)| Self::open(target, id, role);
            dealt.iter().map(one).collect()
        };
        let dealt: Vec<_> = ids.iter().zip(targets.iter().cycle()).collect();
        let opened: Vec<Result<Vec<Self>>> = thread::scope(|scope| {
            let share = dealt.len().div_ceil(OPENERS).max(1);
            let openers = dealt
                .chunks(share)
                .map(|dealt| scope.spawn(move || open(dealt)));
            let openers: Vec<_> = openers.collect();
            let joined = openers.into_iter().map(|opener| opener.join());
            joined
                .map(|opened| opened.unwrap_or_else(|_| Err("an opener has panicked".into())))
                .collect()
        });
        let mut connections = Vec::with_capacity(ids.len());
        for opened in opened {
            connections.append(&mut opened?);
        }
        Ok(connections)
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: usize) -> Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        Ok(registry.register(self.stream.socket(), Token(token), interest)?)
    }

    /// Reads everything available and passes each text on. Replies to pings are kept until `flush`.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        mut on_text: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        loop {
            let kept = self.partial.len();
            buffer[..kept].copy_from_slice(&self.partial);
            let end = match self.stream.read(&mut buffer[kept..]) {
                Ok(0) => return Err("the broker closed a connection".into()),
                Ok(length) => kept + length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let used = if self.protocol.is_nats() {
                let replies = &mut self.replies;
                self.nats.read(&buffer[..end], replies, &mut on_text)?
            } else {
                self.unpack(&buffer[..end], &mut on_text)?
            };
            self.partial.clear();
            self.partial.extend_from_slice(&buffer[used..end]);
            // A short read has emptied the socket. Later bytes cause a new event of epoll, so
            // another read is not needed.
            if end < buffer.len() {
                return Ok(());
            }
        }
    }

    /// Passes the text of each frame on. Returns the length of the frames.
    fn unpack(
        &mut self,
        bytes: &[u8],
        on_text: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<usize> {
        let mut rest = bytes;
        while let Some(frame) = frame::decode(rest)? {
            rest = &rest[frame.length..];
            match frame.opcode {
                TEXT if self.protocol == Protocol::SocketIo && frame.payload == b"2" => {
                    self.replies.extend(frame::encode(TEXT, b"3").0);
                }
                TEXT => on_text(frame.payload)?,
                PING => self.replies.extend(frame::encode(PONG, frame.payload).0),
                PONG => {}
                CLOSE => return Err("the broker sent a close frame".into()),
                opcode => return Err(format!("unexpected opcode {opcode}").into()),
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Writes the pending part of a batch. Returns false if the socket does not accept all of it.
    pub(crate) fn write(&mut self, batch: &mut Batch) -> Result<bool> {
        while !batch.pending().is_empty() {
            match write_some(&mut self.stream, batch.pending())? {
                0 => return Ok(false),
                length => batch.consume(length),
            }
        }
        Ok(true)
    }

    /// Writes whole frames. Bytes that the socket does not accept are kept until `flush`.
    pub(crate) fn send(&mut self, frames: &[u8]) -> Result<()> {
        self.unsent.extend_from_slice(frames);
        self.flush()
    }

    /// Continues writing, including replies to pings. Must not be called in the middle of a batch.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.unsent.append(&mut self.replies);
        while !self.unsent.is_empty() {
            match write_some(&mut self.stream, &self.unsent)? {
                0 => break,
                length => drop(self.unsent.drain(..length)),
            }
        }
        match self.stream.flush() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            other => Ok(other?),
        }
    }

    /// Whether `flush` has left bytes, which a batch must wait for.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }
}

pub(crate) fn unexpected(id: &str, payload: &[u8]) -> crate::failure::Failure {
    let text = String::from_utf8_lossy(&payload[..payload.len().min(160)]).into_owned();
    format!("{id} received a text it does not expect: {text}").into()
}

fn write_some(stream: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match stream.write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

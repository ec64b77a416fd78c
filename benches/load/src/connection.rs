//! One registered client: connects and registers while it may block, then never blocks again.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use mio::{Interest, Registry, Token};

use crate::arguments::Target;
use crate::failure::Result;
use crate::frame::{self, CLOSE, PING, PONG, TEXT};
use crate::message::Batch;
use crate::stream::Stream;

/// How long the handshake and the registration may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One read of the kernel brings at most this much; a multiple of the frames that are expected.
pub(crate) const READ_BUFFER: usize = 256 * 1024;

/// The example key of RFC 6455 with its answer: no hash is needed to check the handshake.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A socket with what was read of an incomplete frame and what could not be written yet.
pub(crate) struct Connection {
    stream: Stream<mio::net::TcpStream>,
    partial: Vec<u8>,
    unsent: Vec<u8>,
    pongs: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(target: &Target, id: &str) -> Result<Self> {
        let mut stream = Stream::connect(target, CONNECT_TIMEOUT)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
            target.path, target.host
        );
        stream.write_all(request.as_bytes())?;
        let mut bytes = Vec::new();
        let head = read_until(&mut stream, &mut bytes, |bytes| {
            Ok(bytes
                .windows(4)
                .position(|end| end == b"\r\n\r\n")
                .map(|at| at + 4))
        })?;
        let answer = String::from_utf8_lossy(&bytes[..head]).into_owned();
        if !answer.starts_with("HTTP/1.1 101 ") || !answer.contains(ACCEPT) {
            return Err(format!("handshake refused: {answer}").into());
        }
        bytes.drain(..head);

        let register = match &target.token {
            Some(token) => format!(r#"{{"action":"register","id":"{id}","token":"{token}"}}"#),
            None => format!(r#"{{"action":"register","id":"{id}"}}"#),
        };
        stream.write_all(&frame::encode(TEXT, register.as_bytes()).0)?;
        let registered = format!(r#"{{"action":"registered","id":"{id}"}}"#);
        let length = read_until(&mut stream, &mut bytes, |bytes| {
            match frame::decode(bytes)? {
                None => Ok(None),
                Some(frame) if frame.payload == registered.as_bytes() => Ok(Some(frame.length)),
                Some(frame) => Err(unexpected(id, frame.payload)),
            }
        })?;
        bytes.drain(..length);

        Ok(Connection {
            stream: stream.into_nonblocking()?,
            partial: bytes,
            unsent: Vec::new(),
            pongs: Vec::new(),
        })
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: usize) -> Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        Ok(registry.register(self.stream.socket(), Token(token), interest)?)
    }

    /// Reads all there is and hands over each text; pings are kept until `flush`.
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
            let mut rest = &buffer[..end];
            while let Some(frame) = frame::decode(rest)? {
                rest = &rest[frame.length..];
                match frame.opcode {
                    TEXT => on_text(frame.payload)?,
                    PING => self.pongs.extend(frame::encode(PONG, frame.payload).0),
                    PONG => {}
                    CLOSE => return Err("the broker sent a close frame".into()),
                    opcode => return Err(format!("unexpected opcode {opcode}").into()),
                }
            }
            self.partial.clear();
            self.partial.extend_from_slice(rest);
            // A short read has emptied the socket: what comes later is a new edge for epoll, and
            // the read that would say so is spared.
            if end < buffer.len() {
                return Ok(());
            }
        }
    }

    /// Writes what is pending of a batch; false when the socket would not take all of it.
    pub(crate) fn write(&mut self, batch: &mut Batch) -> Result<bool> {
        while !batch.pending().is_empty() {
            match write_some(&mut self.stream, batch.pending())? {
                0 => return Ok(false),
                length => batch.consume(length),
            }
        }
        Ok(true)
    }

    /// Writes whole frames; what the socket does not take waits for `flush`.
    pub(crate) fn send(&mut self, frames: &[u8]) -> Result<()> {
        self.unsent.extend_from_slice(frames);
        self.flush()
    }

    /// Goes on writing, pongs included. Not to be called in the middle of a batch.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.unsent.append(&mut self.pongs);
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

    /// Whether `flush` has left something over; a batch must wait for it.
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

/// Reads, blocking, until `find` tells the length of what was waited for.
fn read_until(
    stream: &mut impl Read,
    bytes: &mut Vec<u8>,
    find: impl Fn(&[u8]) -> Result<Option<usize>>,
) -> Result<usize> {
    let mut chunk = [0; 1024];
    loop {
        if let Some(length) = find(bytes)? {
            return Ok(length);
        }
        match stream.read(&mut chunk)? {
            0 => return Err("the broker closed a connection during the handshake".into()),
            length => bytes.extend_from_slice(&chunk[..length]),
        }
    }
}

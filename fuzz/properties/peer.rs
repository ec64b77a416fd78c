//! A peer at the other end of a real socket: it writes given bytes, and reads with a limit.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use tokio::task::yield_now;

use crate::protocol;

/// A request that is accepted, and how it is answered.
pub(super) const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ACCEPTED: &[u8] = b"HTTP/1.1 101 ";

/// Longer than anything takes that waits for no timeout.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Turns without news after which time is left to others.
const BUSY: usize = 64;

/// First bytes of frames that the server sends.
pub(super) const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PONG: u8 = 0x8a;

/// First byte and payload.
type Frame<'a> = (u8, &'a [u8]);

/// One end of a socket. It never blocks: bytes that the server does not accept are dropped.
pub(super) struct Peer {
    socket: UnixStream,
    /// The bytes it wrote last, and may write again.
    pub(super) last: Vec<u8>,
    received: Vec<u8>,
    has_ended: bool,
}

impl Peer {
    pub(super) fn connect(path: &Path) -> Option<Self> {
        let socket = UnixStream::connect(path).ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Self {
            socket,
            last: Vec::new(),
            received: Vec::new(),
            has_ended: false,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        // Full, or ended by the server: a peer that does not care.
        let _ = self.socket.write(bytes);
    }

    pub(super) fn write_last(&mut self) {
        let last = std::mem::take(&mut self.last);
        self.write(&last);
        self.last = last;
    }

    pub(super) fn send(&mut self, text: &str) {
        self.write(&frame(TEXT, text.as_bytes()));
    }

    pub(super) fn end(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// Reads what is there; false if that is nothing.
    pub(super) fn read(&mut self) -> bool {
        let mut chunk = [0; 2 << 10];
        match self.socket.read(&mut chunk) {
            Ok(length @ 1..) => {
                self.received.extend_from_slice(&chunk[..length]);
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            _ => {
                self.has_ended = true;
                false
            }
        }
    }

    /// Waits for this text, and forgets what it has received.
    pub(super) async fn hears(&mut self, text: &str) {
        let expected = [&[TEXT, text.len() as u8], text.as_bytes()].concat();
        let mut wait = Wait::default();
        let is_it = |part: &[u8]| part == expected;
        while !self.received.windows(expected.len()).any(is_it) {
            if !self.read() {
                let told = || format!("{text} after {:?}", self.received.escape_ascii());
                wait.turn(told).await;
            }
        }
        self.received.clear();
    }

    /// The frames that it has received.
    fn frames(&self) -> Vec<Frame<'_>> {
        let mut rest = &self.received[..];
        if rest.starts_with(b"HTTP/") {
            let end = rest.windows(4).position(|four| four == b"\r\n\r\n");
            let end = end.expect("a whole head") + 4;
            if !rest.starts_with(ACCEPTED) {
                return Vec::new();
            }
            rest = &rest[end..];
        }
        let mut frames = Vec::new();
        while let Some((frame, more)) = split_frame(rest) {
            frames.push(frame);
            rest = more;
        }
        let is_whole = rest.is_empty() || self.has_ended;
        assert!(is_whole, "in part: {}", rest.escape_ascii());
        frames
    }

    /// The server writes nothing that is not in its contract, and nothing behind a close frame.
    pub(super) fn has_read_sense(&self) {
        let frames = self.frames();
        for (n, (first, payload)) in frames.iter().enumerate() {
            match *first {
                TEXT => {
                    let text = std::str::from_utf8(payload).expect("UTF-8");
                    let action = protocol::decode_server_action(text, 2);
                    assert!(action.is_ok(), "{text}");
                }
                PONG => assert!(payload.len() <= 125),
                CLOSE => assert_eq!(n, frames.len() - 1, "{frames:?}"),
                _ => panic!("{frames:?}"),
            }
        }
    }

    pub(super) fn closed_with(&self) -> Option<u16> {
        match self.frames().last() {
            Some((CLOSE, [high, low, ..])) => Some(u16::from_be_bytes([*high, *low])),
            _ => None,
        }
    }
}

/// A wait that ends in a panic if it takes too long.
pub(super) struct Wait {
    until: Instant,
    turns: usize,
}

impl Default for Wait {
    fn default() -> Self {
        Self {
            until: Instant::now() + PATIENCE,
            turns: 0,
        }
    }
}

impl Wait {
    pub(super) async fn turn(&mut self, still: impl Fn() -> String) {
        self.turns += 1;
        if self.turns < BUSY {
            return yield_now().await;
        }
        assert!(Instant::now() < self.until, "still {}", still());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A frame of a client, masked with zeros, of up to 64 KiB.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(u16::MAX.into())];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// The first frame of a server, and the rest.
fn split_frame(bytes: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        126 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (u16::from_be_bytes(*length).into(), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk::<8>()?;
            (u64::from_be_bytes(*length) as usize, rest)
        }
        length => (usize::from(*length), rest),
    };
    let (payload, rest) = rest.split_at_checked(length)?;
    Some(((*first, payload), rest))
}

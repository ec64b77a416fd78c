//! The read buffer of a thread, used by the connection that is being polled.

use std::{
    cell::Cell,
    io,
    ops::Range,
    pin::Pin,
    str::Utf8Error,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::Role;

use super::encode::apply_mask;
use crate::transport::socket::ReadHalf;

/// Bytes read from a socket at once, and the longest frame that is read in place. Small in fuzzing, so that
/// generated frames exceed it.
pub(super) const SIZE: usize = if cfg!(feature = "fuzzing") {
    256
} else {
    64 << 10
};

/// Bytes read at once with an allowance.
const READ_CHUNK: usize = 16 << 10;

/// First byte of an unfragmented text frame: final, no extensions, opcode text.
const WHOLE_TEXT: u8 = 0x81;
const MASKED: u8 = 0x80;
/// Length value that announces two further bytes of length.
const TWO_BYTES: u8 = 126;

thread_local! {
    static SPARE: Cell<Option<Input>> = const { Cell::new(None) };
}

/// Bytes of one connection that are read but not yet consumed.
#[derive(Debug)]
pub(crate) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// The frame at the front of the buffer.
pub(super) enum Next {
    /// A complete text frame.
    Text(FrameRange),
    /// An incomplete text frame, or no byte.
    Partial,
    /// Any other frame, or one that does not fit.
    Other,
}

/// The mask key of a text frame, and the range of its payload in the buffer.
pub(super) struct FrameRange {
    key: Option<[u8; 4]>,
    payload: Range<usize>,
}

impl Input {
    /// Takes the thread's buffer, or a new one; it is empty.
    pub(crate) fn borrow() -> Self {
        SPARE.take().unwrap_or_else(|| Self {
            buffer: vec![0; SIZE],
            start: 0,
            end: 0,
        })
    }

    /// Returns the buffer to the thread for reuse.
    pub(crate) fn give_back(self) {
        if self.buffer.len() == SIZE && self.is_empty() {
            SPARE.set(Some(self));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Fills it with the bytes that a connection has kept.
    pub(super) fn put(&mut self, rest: Vec<u8>) {
        if rest.len() > self.buffer.len() {
            self.buffer.resize(rest.len(), 0);
        }
        self.buffer[..rest.len()].copy_from_slice(&rest);
        (self.start, self.end) = (0, rest.len());
    }

    /// Takes all remaining bytes.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.buffer[self.start..self.end].to_vec();
        (self.start, self.end) = (0, 0);
        rest
    }

    /// Returns at most `most` bytes at the front.
    pub(super) fn peek(&self, most: usize) -> &[u8] {
        &self.buffer[self.start..][..most.min(self.len())]
    }

    /// Consumes bytes at the front. At least as many must be present.
    pub(super) fn consume(&mut self, length: usize) {
        self.start += length;
    }

    /// Appends bytes read from the socket; there must be room. Returns how many.
    pub(super) fn fill(
        &mut self,
        socket: &mut ReadHalf,
        allowance: &mut Option<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        // With a small allowance these bytes may stay for many turns, and are copied in each.
        let most = match allowance {
            Some(_) => READ_CHUNK.min(self.buffer.len() - self.end),
            None => self.buffer.len() - self.end,
        };
        let room = &mut self.buffer[self.end..self.end + most];
        let read = poll_read(socket, room, allowance, cx);
        if let Poll::Ready(Ok(length)) = &read {
            self.end += length;
        }
        read
    }

    /// Inspects the frame at the front. `role`: of this side; `limit`: the maximum bytes of a text.
    pub(super) fn next_frame(&self, role: Role, limit: usize) -> Next {
        let bytes = &self.buffer[self.start..self.end];
        let (first, second) = match bytes {
            [] | [WHOLE_TEXT] => return Next::Partial,
            [first, second, ..] => (*first, *second),
            [_] => return Next::Other,
        };
        let mask = match role {
            Role::Server => MASKED,
            Role::Client => 0,
        };
        if first != WHOLE_TEXT || second & MASKED != mask {
            return Next::Other;
        }
        let (length, mut header): (usize, usize) = match second & !MASKED {
            TWO_BYTES => match bytes {
                // Rare: a length that would fit into one byte.
                [_, _, high, low, ..] => match u16::from_be_bytes([*high, *low]) {
                    0..126 => return Next::Other,
                    length => (length.into(), 4),
                },
                _ => return Next::Partial,
            },
            127 => return Next::Other,
            length => (length.into(), 2),
        };
        let key = match role {
            Role::Server => match bytes[header..].first_chunk::<4>() {
                Some(key) => {
                    header += 4;
                    Some(*key)
                }
                None if length > limit => return Next::Other,
                None => return Next::Partial,
            },
            Role::Client => None,
        };
        let whole = header + length;
        if length > limit || whole > self.buffer.len() {
            return Next::Other;
        }
        if whole > bytes.len() {
            return Next::Partial;
        }
        let payload = self.start + header..self.start + whole;
        Next::Text(FrameRange { key, payload })
    }

    /// Consumes the text at the front.
    ///
    /// Errors: it is not UTF-8.
    pub(super) fn take_text(&mut self, place: FrameRange) -> Result<&str, Utf8Error> {
        let FrameRange { key, payload } = place;
        self.start = payload.end;
        let payload = &mut self.buffer[payload];
        apply_mask(key, payload);
        match simdutf8::basic::from_utf8(payload) {
            Ok(text) => Ok(text),
            // Only std reports the position of the error.
            Err(_) => std::str::from_utf8(payload),
        }
    }
}

/// Reads the bytes that have arrived, within the allowance; pending if there are none, or none are allowed.
fn poll_read(
    socket: &mut ReadHalf,
    buf: &mut [u8],
    allowance: &mut Option<usize>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let most = allowance.unwrap_or(usize::MAX).min(buf.len());
    if most == 0 {
        return Poll::Pending;
    }
    let mut buf = ReadBuf::new(&mut buf[..most]);
    Pin::new(socket).poll_read(cx, &mut buf).map_ok(|()| {
        let length = buf.filled().len();
        if let Some(allowance) = allowance {
            *allowance -= length;
        }
        length
    })
}

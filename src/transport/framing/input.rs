//! What a thread has read for the connection whose turn it is.

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

use super::{READ_CHUNK, encode::apply_mask};
use crate::transport::socket::ReadHalf;

/// Bytes asked of a socket at once, and the longest frame that is read where it lies. Short where
/// the fuzzer makes up the frames: they are to go beyond it, too.
const SIZE: usize = if cfg!(feature = "fuzzing") {
    256
} else {
    64 << 10
};

/// The first byte of a text in one frame: final, no extension, text.
const WHOLE_TEXT: u8 = 0x81;
const MASKED: u8 = 0x80;
/// The length that says: two bytes of length follow.
const TWO_BYTES: u8 = 126;

thread_local! {
    static SPARE: Cell<Option<Input>> = const { Cell::new(None) };
}

/// Bytes of one connection, read and not yet taken.
#[derive(Debug)]
pub(crate) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// What lies at the front.
pub(super) enum Next {
    /// A whole frame with a text.
    Text(FrameRange),
    /// The beginning of such a frame, or nothing.
    ResponderDone,
    /// Anything else, or what does not fit.
    Other,
}

/// Where the frame of a text lies.
pub(super) struct FrameRange {
    key: Option<[u8; 4]>,
    payload: Range<usize>,
}

impl Input {
    /// The thread's, or a new one; empty.
    pub(crate) fn borrow() -> Self {
        SPARE.take().unwrap_or_else(|| Self {
            buffer: vec![0; SIZE],
            start: 0,
            end: 0,
        })
    }

    /// Gives it back to the thread.
    pub(crate) fn give_back(self) {
        if self.buffer.len() == SIZE && self.is_empty() {
            SPARE.set(Some(self));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn size(&self) -> usize {
        self.buffer.len()
    }

    /// Puts what a connection has kept into it.
    pub(super) fn put(&mut self, rest: Vec<u8>) {
        if rest.len() > self.buffer.len() {
            self.buffer.resize(rest.len(), 0);
        }
        self.buffer[..rest.len()].copy_from_slice(&rest);
        (self.start, self.end) = (0, rest.len());
    }

    /// Takes all that is left.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.buffer[self.start..self.end].to_vec();
        (self.start, self.end) = (0, 0);
        rest
    }

    /// At most so many of the bytes at the front.
    pub(super) fn peek(&self, most: usize) -> &[u8] {
        &self.buffer[self.start..self.end.min(self.start + most)]
    }

    /// Takes as many bytes as there is room for. There must be as many.
    pub(super) fn take_bytes(&mut self, room: &mut [u8]) {
        let end = self.start + room.len();
        room.copy_from_slice(&self.buffer[self.start..end]);
        self.start = end;
    }

    /// Reads more behind what is there, for which there must be room; how many bytes.
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
        // Who is allowed little may leave what comes with it for many turns, copied in each.
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

    /// Looks at the frame in front. `role`: our own; `limit`: the bytes that a text may have.
    pub(super) fn next_frame(&self, role: Role, limit: usize) -> Next {
        let bytes = &self.buffer[self.start..self.end];
        let (first, second) = match bytes {
            [] | [WHOLE_TEXT] => return Next::ResponderDone,
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
                // What could have been said in one byte is not looked at here.
                [_, _, high, low, ..] => match u16::from_be_bytes([*high, *low]) {
                    0..126 => return Next::Other,
                    length => (length.into(), 4),
                },
                _ => return Next::ResponderDone,
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
                None => return Next::ResponderDone,
            },
            Role::Client => None,
        };
        let whole = header + length;
        if length > limit || whole > self.buffer.len() {
            return Next::Other;
        }
        if whole > bytes.len() {
            return Next::ResponderDone;
        }
        let payload = self.start + header..self.start + whole;
        Next::Text(FrameRange { key, payload })
    }

    /// Takes the text in front.
    ///
    /// Errors: it is not UTF-8.
    pub(super) fn take_text(&mut self, place: FrameRange) -> Result<&str, Utf8Error> {
        let FrameRange { key, payload } = place;
        self.start = payload.end;
        let payload = &mut self.buffer[payload];
        apply_mask(key, payload);
        match simdutf8::basic::from_utf8(payload) {
            Ok(text) => Ok(text),
            // Only std says where.
            Err(_) => std::str::from_utf8(payload),
        }
    }
}

/// Reads what has come, as much as is allowed; pending, too, if that is nothing.
pub(super) fn poll_read(
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

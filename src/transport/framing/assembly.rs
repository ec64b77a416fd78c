//! Assembles a message that is not a whole text in the input: a larger frame, or fragments.

use std::{
    future::Future,
    io,
    pin::pin,
    task::{Context, Poll},
};

use bytes::BufMut;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::tungstenite::{self, Message, protocol::frame::FrameHeader};

use super::{encode::apply_mask, input::SIZE};
use crate::transport::socket::ReadHalf;

/// Bytes reserved for a message of which less has arrived.
const FIRST: usize = 16 << 10;

/// An incomplete message. Its buffer grows with the bytes received, whatever length a frame announces: a
/// header of 14 bytes must not reserve the maximum payload.
pub(super) struct Assembly {
    is_text: bool,
    /// The payload of the message so far. The payload of the current frame is still masked.
    payload: Vec<u8>,
    /// Bytes at the beginning of a text that are valid UTF-8.
    valid: usize,
    /// The number of its frames so far.
    pub(super) fragments: usize,
    /// The frame that is being received; none between fragments.
    frame: Option<Frame>,
}

struct Frame {
    key: Option<[u8; 4]>,
    /// The range of its payload in the message.
    start: usize,
    end: usize,
    is_final: bool,
}

impl Assembly {
    pub(super) fn new(is_text: bool) -> Self {
        Self {
            is_text,
            payload: Vec::new(),
            valid: 0,
            fragments: 0,
            frame: None,
        }
    }

    /// Starts the next frame. `length`: of its payload.
    pub(super) fn start_frame(&mut self, header: &FrameHeader, length: usize) {
        self.fragments += 1;
        let start = self.payload.len();
        self.frame = Some(Frame {
            key: header.mask,
            start,
            end: start + length,
            is_final: header.is_final,
        });
    }

    /// Bytes received.
    pub(super) fn len(&self) -> usize {
        self.payload.len()
    }

    /// Bytes of memory held.
    pub(super) fn held(&self) -> usize {
        self.payload.capacity()
    }

    /// Bytes of the current frame still to come; none between fragments.
    pub(super) fn left(&self) -> Option<usize> {
        let frame = self.frame.as_ref()?;
        Some(frame.end - self.payload.len())
    }

    /// Makes room for at least `least` bytes of the current frame.
    fn reserve(&mut self, least: usize) {
        let Some(frame) = &self.frame else { return };
        let length = self.payload.len();
        if self.payload.capacity() - length < least {
            let more = (frame.end - length).min(length.max(FIRST)).max(least);
            match frame.is_final {
                true => self.payload.reserve_exact(more),
                // More fragments follow.
                false => self.payload.reserve(more),
            }
        }
    }

    /// Appends bytes of the current frame.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.payload.extend_from_slice(bytes);
    }

    /// Appends bytes of the current frame read from the socket. Returns how many. Pending: there are none, or
    /// none are allowed.
    pub(super) fn fill(
        &mut self,
        socket: &mut ReadHalf,
        allowance: &mut Option<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.reserve(1);
        let room = self.payload.capacity() - self.payload.len();
        let most = room.min(self.left().unwrap_or(0)).min(SIZE);
        let most = allowance.unwrap_or(usize::MAX).min(most);
        if most == 0 {
            return Poll::Pending;
        }
        let mut room = (&mut self.payload).limit(most);
        let read = pin!(socket.read_buf(&mut room)).poll(cx);
        if let (Poll::Ready(Ok(length)), Some(allowance)) = (&read, allowance) {
            *allowance -= length;
        }
        read
    }

    /// Ends the current frame, of which no byte is left. Returns the message if it is complete.
    ///
    /// Errors: a text is not UTF-8.
    pub(super) fn end_frame(&mut self) -> Result<Option<Message>, tungstenite::Error> {
        let Some(frame) = self.frame.take() else {
            return Ok(None);
        };
        apply_mask(frame.key, &mut self.payload[frame.start..]);
        if frame.is_final {
            let mut payload = std::mem::take(&mut self.payload);
            payload.shrink_to_fit();
            return Ok(Some(match self.is_text {
                true => Message::text(String::from_utf8(payload)?),
                false => Message::binary(payload),
            }));
        }
        if self.is_text {
            match std::str::from_utf8(&self.payload[self.valid..]) {
                Ok(text) => self.valid += text.len(),
                // The next fragment continues the last character.
                Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

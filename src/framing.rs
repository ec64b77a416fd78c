//! Bytes to WebSocket messages, and messages to bytes.
//!
//! tungstenite does the framing. Its protocol object owns a read buffer, so that thousands of
//! idle connections would each pay for one: here a connection has such an object only while a
//! message is in part with it. At a frame boundary it goes back to the thread, which serves its
//! next connection with it; one that has grown is dropped instead.

mod scan;

use std::{
    cell::Cell,
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_tungstenite::tungstenite::{
    self, Message,
    error::ProtocolError,
    protocol::{
        Role, WebSocketConfig, WebSocketContext,
        frame::{
            FrameHeader,
            coding::{CloseCode, Control, Data, OpCode},
        },
    },
};

use crate::socket::ReadHalf;
use scan::Breach;
pub(crate) use scan::FrameScan;

/// Bytes asked of a socket at once. 4 KiB were as fast one message at a time, 16 KiB are faster
/// when they come in numbers, more gained nothing.
const READ_CHUNK: usize = 16 << 10;
/// A frame beyond this size has made its reader's buffer too big to keep.
const KEEP_UP_TO: u64 = 64 << 10;

/// Pongs are dropped while this many bytes wait for a peer that pings but does not read.
pub(crate) const PONG_LIMIT: usize = 64 << 10;

/// What a peer may send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of a message.
    pub(crate) payload: usize,
    /// Fragments of a message.
    pub(crate) fragments: usize,
}

/// Why nothing more is read from a peer.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The connection is lost.
    Lost,
    /// It broke the rules.
    Rules {
        /// The close code that says how.
        code: u16,
        /// The same in words.
        text: String,
    },
}

/// Reads the messages of one peer.
pub(crate) struct Reader {
    socket: ReadHalf,
    scan: FrameScan,
    /// Present while a message is in part with it.
    context: Option<Box<WebSocketContext>>,
    role: Role,
    bounds: Bounds,
    /// Bytes that may be read until this is set anew; none: as many as come.
    allowance: Option<usize>,
    /// Something has been read since this was last asked.
    heard: bool,
    /// What tungstenite answers by itself: pongs, and the echo of a close frame.
    replies: Vec<u8>,
}

thread_local! {
    /// A protocol object at a frame boundary, with nothing of anybody in it.
    static SPARE: Cell<Option<(Role, Box<WebSocketContext>)>> = const { Cell::new(None) };
}

impl Reader {
    /// `role`: our own. `early`: what came behind the handshake.
    pub(crate) fn new(role: Role, socket: ReadHalf, mut early: Vec<u8>, bounds: Bounds) -> Self {
        let mut scan = FrameScan::new(bounds.fragments);
        let context = (!early.is_empty()).then(|| {
            early.truncate(scan.feed(&early));
            let config = Some(config(bounds));
            Box::new(WebSocketContext::from_partially_read(early, role, config))
        });
        Self {
            socket,
            scan,
            context,
            role,
            bounds,
            allowance: None,
            heard: false,
            replies: Vec::new(),
        }
    }

    /// Changes the bytes that a message may have.
    pub(crate) fn set_max_payload(&mut self, max_payload: usize) {
        self.bounds.payload = max_payload;
        if let Some(context) = &mut self.context {
            context.set_config(|config| limit(config, max_payload));
        }
    }

    /// Reads so many bytes at most until this is called again; then it pretends that nothing
    /// comes, and nobody is woken when something does.
    pub(crate) fn set_allowance(&mut self, bytes: Option<usize>) {
        self.allowance = bytes;
    }

    /// What is left of that.
    pub(crate) fn allowance(&self) -> Option<usize> {
        self.allowance
    }

    /// True if anything has been read since this was last asked.
    pub(crate) fn has_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Bytes that have come of a message that is not whole.
    pub(crate) fn part(&self) -> usize {
        self.scan.part
    }

    /// Bytes of memory that it holds for them.
    pub(crate) fn held(&self) -> usize {
        match self.context {
            Some(_) => READ_CHUNK + self.scan.part,
            None => 0,
        }
    }

    /// The next message. Pending: nothing more has come, the task is woken when it does.
    pub(crate) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Broken>> {
        let (role, bounds) = (self.role, self.bounds);
        let context = self.context.get_or_insert_with(|| match SPARE.take() {
            Some((spare, mut context)) if spare == role => {
                context.set_config(|config| limit(config, bounds.payload));
                context
            }
            _ => Box::new(WebSocketContext::new(role, Some(config(bounds)))),
        });
        let mut stream = Stream {
            socket: &mut self.socket,
            scan: &mut self.scan,
            replies: &mut self.replies,
            allowance: &mut self.allowance,
            heard: &mut self.heard,
            cx,
        };
        match context.read(&mut stream) {
            Ok(message) => {
                if message.is_close() {
                    // Brings out the echo; its `ConnectionClosed` is what we know already.
                    let _ = context.flush(&mut stream);
                }
                Poll::Ready(Ok(message))
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                // One that has seen a close frame serves nobody else.
                if self.scan.at_boundary()
                    && context.can_write()
                    && let Some(context) = self.context.take()
                    && std::mem::take(&mut self.scan.largest) <= KEEP_UP_TO
                {
                    SPARE.set(Some((role, context)));
                }
                Poll::Pending
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::QuotaExceeded => {
                Poll::Ready(Err(match self.scan.breach {
                    None => Broken::Lost,
                    Some(Breach::LongControl) => Broken::Rules {
                        code: CloseCode::Protocol.into(),
                        text: ProtocolError::ControlFrameTooBig.to_string(),
                    },
                    Some(Breach::Fragments) => Broken::Rules {
                        code: CloseCode::Policy.into(),
                        text: format!("a message in more than {} fragments", bounds.fragments),
                    },
                }))
            }
            Err(error) => Poll::Ready(Err(match violation(&error) {
                Some(code) => Broken::Rules {
                    code,
                    text: error.to_string(),
                },
                None => Broken::Lost,
            })),
        }
    }

    /// What is to be sent back by the rules of the WebSocket protocol.
    pub(crate) fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// Reads and throws away; how many bytes. For a peer that is not listened to any more.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.context = None;
        let mut scratch = [0; 4 << 10];
        let mut buf = ReadBuf::new(&mut scratch);
        Pin::new(self.socket.socket())
            .poll_read(cx, &mut buf)
            .map_ok(|()| buf.filled().len())
    }
}

fn config(bounds: Bounds) -> WebSocketConfig {
    let mut config = WebSocketConfig::default()
        .read_buffer_size(READ_CHUNK)
        .write_buffer_size(0);
    limit(&mut config, bounds.payload);
    config
}

fn limit(config: &mut WebSocketConfig, max_payload: usize) {
    config.max_message_size = Some(max_payload);
    config.max_frame_size = Some(max_payload);
}

/// The socket as tungstenite wants to see it, for the length of one poll.
struct Stream<'a, 'b> {
    socket: &'a mut ReadHalf,
    scan: &'a mut FrameScan,
    replies: &'a mut Vec<u8>,
    allowance: &'a mut Option<usize>,
    heard: &'a mut bool,
    cx: &'a mut Context<'b>,
}

impl Read for Stream<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // Told when more is asked for: what came before is in tungstenite's hands, and whole.
        if self.scan.breach.is_some() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let most = self.allowance.unwrap_or(usize::MAX).min(buf.len());
        if most == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut buf = ReadBuf::new(&mut buf[..most]);
        match Pin::new(&mut *self.socket).poll_read(self.cx, &mut buf) {
            Poll::Ready(Ok(())) => {
                let bytes = buf.filled();
                *self.heard |= !bytes.is_empty();
                if let Some(allowance) = self.allowance {
                    *allowance -= bytes.len();
                }
                match self.scan.feed(bytes) {
                    0 if self.scan.breach.is_some() => Err(io::ErrorKind::QuotaExceeded.into()),
                    readable => Ok(readable),
                }
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Stream<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.replies.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether payloads are masked: by clients they are, by servers not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mask {
    None,
    Random,
}

/// Bytes of a frame with a payload of `length` bytes.
pub(crate) fn frame_size(length: usize, mask: Mask) -> usize {
    let header = match length {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    };
    header + length + if mask == Mask::Random { 4 } else { 0 }
}

/// Appends a text frame whose payload, of `length` bytes, is given in pieces.
pub(crate) fn encode_text(pieces: &[&str], length: usize, mask: Mask, out: &mut Vec<u8>) {
    let key = header(OpCode::Data(Data::Text), length, mask, out);
    let start = out.len();
    for piece in pieces {
        out.extend_from_slice(piece.as_bytes());
    }
    apply_mask(key, &mut out[start..]);
}

/// A close frame. A `code` of none makes an empty one.
pub(crate) fn close_frame(code: Option<u16>, reason: &str, mask: Mask) -> Vec<u8> {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
    }
    let mut frame = Vec::with_capacity(frame_size(payload.len(), mask));
    let key = header(
        OpCode::Control(Control::Close),
        payload.len(),
        mask,
        &mut frame,
    );
    apply_mask(key, &mut payload);
    frame.extend_from_slice(&payload);
    frame
}

/// An empty ping.
pub(crate) fn ping(mask: Mask) -> Vec<u8> {
    let mut frame = Vec::new();
    header(OpCode::Control(Control::Ping), 0, mask, &mut frame);
    frame
}

fn header(opcode: OpCode, length: usize, mask: Mask, out: &mut Vec<u8>) -> Option<[u8; 4]> {
    let mask = (mask == Mask::Random).then(rand::random);
    let header = FrameHeader {
        opcode,
        mask,
        ..FrameHeader::default()
    };
    // Writing to memory does not fail.
    let _ = header.format(length as u64, out);
    mask
}

fn apply_mask(key: Option<[u8; 4]>, payload: &mut [u8]) {
    let Some(key) = key else { return };
    let (words, rest) = payload.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// The close code for what a peer did wrong; none where the connection was simply lost.
pub(crate) fn violation(error: &tungstenite::Error) -> Option<u16> {
    use tungstenite::{Error, error::ProtocolError};
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(CloseCode::Protocol.into()),
        Error::Capacity(_) => Some(CloseCode::Size.into()),
        Error::Utf8(_) => Some(CloseCode::Invalid.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn frames_are_as_long_as_announced_and_masking_is_undone_by_masking() {
        for length in [0, 5, 125, 126, 65_535, 65_536] {
            let text = "y".repeat(length);
            for mask in [Mask::None, Mask::Random] {
                let mut out = Vec::new();
                encode_text(&[&text], length, mask, &mut out);
                assert_eq!(out.len(), frame_size(length, mask));
                let mut cursor = Cursor::new(&out);
                let (header, announced) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
                assert_eq!(announced, length as u64);
                let start = cursor.position() as usize;
                apply_mask(header.mask, &mut out[start..]);
                assert_eq!(&out[start..], text.as_bytes());
            }
        }
    }
}

//! Bytes to WebSocket messages, and messages to bytes.
//!
//! tungstenite does the framing. Its protocol object owns a read buffer, so that thousands of
//! idle connections would each pay for one: here a connection has such an object only while a
//! message is in part with it. At a frame boundary it goes back to the thread, which serves its
//! next connection with it; one that has grown is dropped instead.

use std::{
    cell::Cell,
    io::{self, Cursor, Read, Write},
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

/// Bytes asked of a socket at once. 4 KiB were as fast one message at a time, 16 KiB are faster
/// when they come in numbers, more gained nothing.
const READ_CHUNK: usize = 16 << 10;
/// A frame beyond this size has made its reader's buffer too big to keep.
const KEEP_UP_TO: u64 = 64 << 10;

/// Pongs are dropped while this many bytes wait for a peer that pings but does not read.
pub(crate) const PONG_LIMIT: usize = 64 << 10;
/// The longest frame header: two bytes, eight of length, four of mask.
const MAX_HEADER: usize = 14;

/// The longest payload of a control frame (RFC 6455, 5.5).
const MAX_CONTROL: u64 = 125;

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

/// What a frame header says that tungstenite would not mind, or not at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breach {
    /// A control frame has more payload than it may have.
    LongControl,
    /// A message has more fragments than it may have.
    Fragments,
}

/// Follows the frame headers in the bytes that are read, to know what tungstenite does not tell:
/// whether a message is in part with it, and of how many fragments.
pub(crate) struct FrameScan {
    /// Bytes of the current frame's payload that are still to come.
    payload: u64,
    /// A header that has come in part.
    header: [u8; MAX_HEADER],
    header_length: usize,
    /// A message's last fragment is still to come.
    unfinished: bool,
    /// The frames of that message so far, and how many it may have.
    fragments: usize,
    max_fragments: usize,
    /// From here on nothing is looked at.
    breach: Option<Breach>,
    /// Bytes since the last boundary.
    part: usize,
    /// The largest frame since this was last asked.
    largest: u64,
}

impl FrameScan {
    /// `max_fragments`: what one message may have.
    pub(crate) fn new(max_fragments: usize) -> Self {
        Self {
            payload: 0,
            header: [0; MAX_HEADER],
            header_length: 0,
            unfinished: false,
            fragments: 0,
            max_fragments,
            breach: None,
            part: 0,
            largest: 0,
        }
    }

    pub(crate) fn at_boundary(&self) -> bool {
        self.payload == 0 && self.header_length == 0 && !self.unfinished
    }

    /// Follows more bytes. How many of them tungstenite may see: all, unless there is a breach
    /// among them; then what comes before the frame that is one.
    pub(crate) fn feed(&mut self, all: &[u8]) -> usize {
        let mut bytes = all;
        loop {
            let skip = self.payload.min(bytes.len() as u64);
            self.payload -= skip;
            self.part += skip as usize;
            bytes = &bytes[skip as usize..];
            if self.at_boundary() {
                self.part = 0;
            }
            if bytes.is_empty() {
                return all.len();
            }
            let before = self.header_length;
            let taken = bytes.len().min(self.header.len() - before);
            self.header[before..before + taken].copy_from_slice(&bytes[..taken]);
            let known = &self.header[..before + taken];
            let mut cursor = Cursor::new(known);
            match FrameHeader::parse(&mut cursor) {
                Ok(Some((header, length))) => {
                    self.payload = length;
                    match header.opcode {
                        OpCode::Data(_) => {
                            self.unfinished = !header.is_final;
                            self.fragments += 1;
                            if self.fragments > self.max_fragments {
                                self.breach = Some(Breach::Fragments);
                            } else if header.is_final {
                                self.fragments = 0;
                            }
                        }
                        OpCode::Control(_) if length > MAX_CONTROL => {
                            self.breach = Some(Breach::LongControl);
                        }
                        OpCode::Control(_) => {}
                    }
                    if self.breach.is_some() {
                        self.unfinished = true;
                        return all.len() - bytes.len();
                    }
                    self.largest = self.largest.max(length);
                    self.header_length = 0;
                    self.part += cursor.position() as usize - before;
                    bytes = &bytes[cursor.position() as usize - before..];
                }
                Ok(None) if known.len() < self.header.len() => {
                    self.header_length = known.len();
                    self.part += taken;
                    return all.len();
                }
                // tungstenite sees the same header and ends the connection for it.
                _ => {
                    self.unfinished = true;
                    return all.len();
                }
            }
        }
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
    use super::*;

    /// A masked text frame, or a fragment of one.
    fn frame(fin: bool, opcode: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![if fin { 0x80 | opcode } else { opcode }];
        match length {
            0..126 => bytes.push(0x80 | length as u8),
            126..65_536 => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        bytes.resize(bytes.len() + length, b'x');
        bytes
    }

    #[test]
    fn the_scan_knows_a_frame_boundary_however_the_bytes_are_cut() {
        let mut bytes = Vec::new();
        for length in [0, 1, 125, 126, 70_000] {
            bytes.extend(frame(true, 1, length));
        }
        let mut boundaries = 0;
        for step in [1, 2, 3, 7, 4096, bytes.len()] {
            let mut scan = FrameScan::new(1);
            for part in bytes.chunks(step) {
                scan.feed(part);
                boundaries += usize::from(scan.at_boundary());
            }
            assert!(scan.at_boundary(), "step {step}");
            assert_eq!(scan.largest, 70_000);
        }
        assert!(boundaries >= 5 + 6, "{boundaries}");
    }

    #[test]
    fn a_fragment_is_no_boundary_but_a_ping_between_fragments_does_not_end_it() {
        let mut scan = FrameScan::new(2);
        scan.feed(&frame(false, 1, 10));
        assert!(!scan.at_boundary());
        scan.feed(&frame(true, 9, 4));
        assert!(!scan.at_boundary());
        scan.feed(&frame(true, 0, 10));
        assert!(scan.at_boundary());
    }

    #[test]
    fn what_comes_before_a_fragment_too_many_or_a_control_frame_too_long_may_be_read() {
        let whole = frame(true, 1, 5);
        for (bad, breach) in [
            (
                [frame(false, 1, 3), frame(false, 0, 3), frame(true, 0, 3)],
                Breach::Fragments,
            ),
            (
                [frame(false, 1, 3), frame(true, 9, 5), frame(true, 9, 126)],
                Breach::LongControl,
            ),
        ] {
            let readable = [&whole[..], &bad[0], &bad[1]].concat();
            let all = [&readable[..], &bad[2], &whole].concat();
            let mut scan = FrameScan::new(2);
            assert_eq!(scan.feed(&all), readable.len());
            assert_eq!(scan.breach, Some(breach));
            assert!(!scan.at_boundary());
        }
    }

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

//! WebSocket framing: decodes bytes to messages, and encodes messages to frames.
//!
//! Nearly every message is a text in a single frame: it is unmasked and read in place, in the [`Input`] of
//! the thread. Everything else goes through tungstenite, frame by frame: fragments, control frames, frames
//! larger than the input, and protocol violations, so that only tungstenite decides about them. Its protocol
//! object owns a buffer, which would be expensive for thousands of idle connections: a connection has such an
//! object only while it holds part of a message, and each thread keeps one for reuse.

mod encode;
mod input;
mod scan;

use std::{
    cell::Cell,
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_tungstenite::tungstenite::{
    self, Message,
    error::ProtocolError,
    protocol::{Role, WebSocketConfig, WebSocketContext, frame::coding::CloseCode},
};

use crate::transport::socket::ReadHalf;
pub(crate) use encode::{Mask, append_text, close_frame, encode_text, frame_size, ping, pong};
pub(crate) use input::Input;
use input::Next;
use scan::Breach;
pub(crate) use scan::FrameScan;

/// Bytes that tungstenite reads at once.
const READ_CHUNK: usize = 16 << 10;
/// Bytes of the largest frame after which a protocol object is reused: a larger one has grown its buffer.
const KEEP_UP_TO: u64 = 64 << 10;
/// Bytes of a partial frame from which tungstenite collects it, if the peer sends it slowly: tungstenite
/// appends, whereas the input would be copied for each received byte.
const TRICKLE: usize = 4 << 10;

/// Bytes queued from which pongs are dropped, for a peer that pings but does not read.
pub(crate) const PONG_LIMIT: usize = 64 << 10;

/// Limits of the messages that a peer may send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes per message.
    pub(crate) payload: usize,
    /// Fragments per message.
    pub(crate) fragments: usize,
}

/// A message received from a peer.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// A text, in the buffer into which it was read.
    Text(&'a str),
    /// Any other message, or a text received in several fragments.
    Message(Message),
}

/// The reason why reading from a peer has ended.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The connection is lost.
    Lost,
    /// The peer violated the protocol or a limit.
    Rules {
        /// The close code of the violation.
        code: u16,
        /// The description of the violation.
        text: String,
    },
}

/// Reads the messages of one peer.
pub(crate) struct Reader {
    socket: ReadHalf,
    /// Bytes read but not consumed when the last turn ended.
    rest: Vec<u8>,
    /// `rest` is the beginning of a single frame.
    partial: bool,
    /// Bytes that were already in the input when this turn began.
    resumed: usize,
    /// Follows the frame headers of the bytes passed to tungstenite.
    scan: FrameScan,
    /// Tungstenite's protocol object, present while it holds part of a message.
    context: Option<Box<WebSocketContext>>,
    role: Role,
    bounds: Bounds,
    /// Bytes that may still be read until this is set again; none: no limit.
    allowance: Option<usize>,
    /// Something was read since `has_heard` was last called.
    heard: bool,
    /// Bytes that tungstenite replies by itself: pongs, and the echo of a close frame.
    replies: Vec<u8>,
}

thread_local! {
    /// A protocol object at a frame boundary, without data of any connection.
    static SPARE: Cell<Option<(Role, Box<WebSocketContext>)>> = const { Cell::new(None) };
}

impl Reader {
    /// Creates a reader. `role`: of this side. `early`: bytes received behind the handshake.
    pub(crate) fn new(role: Role, socket: ReadHalf, early: Vec<u8>, bounds: Bounds) -> Self {
        Self {
            socket,
            rest: early,
            partial: false,
            resumed: 0,
            scan: FrameScan::new(bounds.fragments),
            context: None,
            role,
            bounds,
            allowance: None,
            heard: false,
            replies: Vec::new(),
        }
    }

    /// Changes the maximum bytes of a message.
    pub(crate) fn set_max_payload(&mut self, max_payload: usize) {
        self.bounds.payload = max_payload;
        if let Some(context) = &mut self.context {
            context.set_config(|config| limit(config, max_payload));
        }
    }

    /// Limits the bytes that are read until the next call. Once they are used up, `poll_message` is pending
    /// and wakes no task when bytes arrive.
    pub(crate) fn set_allowance(&mut self, bytes: Option<usize>) {
        self.allowance = bytes;
    }

    /// Bytes left of the allowance.
    pub(crate) fn allowance(&self) -> Option<usize> {
        self.allowance
    }

    /// True if anything was read since the last call.
    pub(crate) fn has_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Bytes received of an incomplete message.
    pub(crate) fn part(&self) -> usize {
        let rest = if self.partial { self.rest.len() } else { 0 };
        self.scan.part + rest
    }

    /// Bytes of memory that the socket holds and charges beyond what it needs when idle.
    pub(crate) fn held_by_socket(&self) -> usize {
        self.socket.held()
    }

    /// Bytes of memory held between turns.
    pub(crate) fn held(&self) -> usize {
        self.rest.capacity()
            + self.socket.unread()
            + match self.context {
                Some(_) => READ_CHUNK + self.scan.held(),
                None => 0,
            }
    }

    /// Returns the next message. Pending: nothing more has arrived; the task is woken when it does.
    ///
    /// `input`: the thread's. [`Reader::keep`] empties it at the end of the turn.
    pub(crate) fn poll_message<'a>(
        &mut self,
        cx: &mut Context<'_>,
        input: &'a mut Input,
    ) -> Poll<Result<Incoming<'a>, Broken>> {
        if !self.rest.is_empty() {
            self.resumed = self.rest.len();
            input.put(std::mem::take(&mut self.rest));
        }
        self.partial = false;
        while self.context.is_none() {
            match input.next_frame(self.role, self.bounds.payload) {
                Next::Text(place) => {
                    self.resumed = 0;
                    return Poll::Ready(match input.take_text(place) {
                        Ok(text) => Ok(Incoming::Text(text)),
                        Err(error) => Err(broken(&error.into())),
                    });
                }
                Next::Other => self.context = Some(self.borrow_context()),
                Next::Partial => {
                    let filled = input.fill(&mut self.socket, &mut self.allowance, cx);
                    self.partial = filled.is_pending();
                    match ready!(filled) {
                        Ok(1..) => self.heard = true,
                        Ok(0) | Err(_) => return Poll::Ready(Err(Broken::Lost)),
                    }
                }
            }
        }
        self.poll_tungstenite(cx, input).map_ok(Incoming::Message)
    }

    /// Ends a turn: moves the bytes left in the input to this reader.
    pub(crate) fn keep(&mut self, input: &mut Input) {
        // If nothing was read in this turn, the input is empty.
        if input.is_empty() {
            return;
        }
        self.rest = input.take_rest();
        let length = self.rest.len();
        if self.partial && length >= TRICKLE && length < self.resumed + self.resumed / 4 {
            self.context = Some(self.borrow_context());
        }
        self.resumed = 0;
    }

    fn borrow_context(&self) -> Box<WebSocketContext> {
        match SPARE.take() {
            Some((spare, mut context)) if spare == self.role => {
                context.set_config(|config| limit(config, self.bounds.payload));
                context
            }
            _ => {
                let config = WebSocketConfig::default()
                    .read_buffer_size(READ_CHUNK)
                    .write_buffer_size(0);
                let mut context = WebSocketContext::new(self.role, Some(config));
                context.set_config(|config| limit(config, self.bounds.payload));
                Box::new(context)
            }
        }
    }

    /// Reads the next message through tungstenite, which gets one frame at a time and no byte of the next.
    fn poll_tungstenite(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut Input,
    ) -> Poll<Result<Message, Broken>> {
        let Some(mut context) = self.context.take() else {
            return Poll::Pending;
        };
        let mut stream = FrameStream {
            reader: self,
            input,
            cx,
        };
        let result = context.read(&mut stream);
        // The flush writes a pong or the echo of a close frame. Its `ConnectionClosed` needs no handling.
        if matches!(result, Ok(Message::Ping(_) | Message::Close(_))) {
            let _ = context.flush(&mut stream);
        }
        // A protocol object that has seen a close frame cannot be reused.
        if result.is_err() || !self.scan.at_boundary() || !context.can_write() {
            self.context = Some(context);
        } else if std::mem::take(&mut self.scan.largest) <= KEEP_UP_TO {
            SPARE.set(Some((self.role, context)));
        }
        Poll::Ready(match result {
            Ok(message) => Ok(message),
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Poll::Pending;
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::QuotaExceeded => {
                Err(match self.scan.breach {
                    None => Broken::Lost,
                    Some(Breach::LongControl) => broken(&ProtocolError::ControlFrameTooBig.into()),
                    Some(Breach::Fragments) => Broken::Rules {
                        code: CloseCode::Policy.into(),
                        text: format!("a message in more than {} fragments", self.bounds.fragments),
                    },
                })
            }
            Err(error) => Err(broken(&error)),
        })
    }

    /// Takes the bytes that the WebSocket protocol requires as a reply.
    pub(crate) fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// Reads and discards bytes of a peer whose messages are no longer handled. Returns how many.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.context = None;
        self.rest = Vec::new();
        let mut scratch = [0; 4 << 10];
        let mut buf = ReadBuf::new(&mut scratch);
        Pin::new(self.socket.socket())
            .poll_read(cx, &mut buf)
            .map_ok(|()| buf.filled().len())
    }
}

fn limit(config: &mut WebSocketConfig, max_payload: usize) {
    config.max_message_size = Some(max_payload);
    config.max_frame_size = Some(max_payload);
}

/// The stream that tungstenite reads from and writes to, for one poll.
struct FrameStream<'a, 'b> {
    reader: &'a mut Reader,
    input: &'a mut Input,
    cx: &'a mut Context<'b>,
}

impl Read for FrameStream<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Reader {
            socket,
            scan,
            allowance,
            heard,
            ..
        } = self.reader;
        // Checked only when more is requested: everything before was complete.
        if scan.breach.is_some() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        if self.input.is_empty() {
            // A payload longer than the input is read directly, past the input.
            let filled = match scan.payload_left() > self.input.size() {
                true => {
                    let most = scan.payload_left().min(buf.len());
                    let read = input::poll_read(socket, &mut buf[..most], allowance, self.cx);
                    read.map_ok(|length| scan.feed(&buf[..length]))
                }
                false => self.input.fill(socket, allowance, self.cx),
            };
            let direct = self.input.is_empty();
            match filled {
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
                Poll::Ready(Ok(length)) => {
                    *heard |= length > 0;
                    if direct {
                        return Ok(length);
                    }
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        match scan.feed(self.input.peek(buf.len())) {
            0 => Err(io::ErrorKind::QuotaExceeded.into()),
            length => {
                self.input.take_bytes(&mut buf[..length]);
                Ok(length)
            }
        }
    }
}

impl Write for FrameStream<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.reader.replies.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Classifies an error of tungstenite: a violation, or else a lost connection.
fn broken(error: &tungstenite::Error) -> Broken {
    match violation(error) {
        Some(code) => Broken::Rules {
            code,
            text: error.to_string(),
        },
        None => Broken::Lost,
    }
}

/// The close code of a protocol violation; none if the connection was lost.
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

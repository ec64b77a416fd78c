//! WebSocket framing: decodes bytes to messages, and encodes messages to frames.
//!
//! Nearly every message is a text in a single frame: it is unmasked and read in place, in the [`Input`] of
//! the thread. Larger frames and fragments are collected in an [`Assembly`], which a connection has only
//! while it holds part of a message. A frame that violates the protocol or a limit is rejected as soon as its
//! header has arrived.

mod assembly;
mod encode;
mod input;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Cursor},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_tungstenite::tungstenite::{
    self, Message, Utf8Bytes,
    error::{CapacityError, ProtocolError},
    protocol::{
        CloseFrame, Role,
        frame::{
            FrameHeader,
            coding::{CloseCode, Control, Data, OpCode},
        },
    },
};

use crate::transport::socket::ReadHalf;
use assembly::Assembly;
pub(crate) use encode::{
    Mask, append_text, close_frame, encode_text, frame_size, payload_of, ping, pong,
};
pub(crate) use input::Input;
use input::Next;

/// Bytes of the longest frame header: two, eight of length, four of mask.
const MAX_HEADER: usize = 14;
/// Bytes of the longest payload of a control frame (RFC 6455, 5.5).
const MAX_CONTROL: usize = 125;
/// Bytes of a partial frame from which it is assembled, if the peer sends it slowly: an assembly appends,
/// whereas the input would be copied for each received byte.
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
    /// Any other message, or a text that was assembled.
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

impl From<tungstenite::Error> for Broken {
    fn from(error: tungstenite::Error) -> Self {
        match violation(&error) {
            Some(code) => Self::Rules {
                code,
                text: error.to_string(),
            },
            None => Self::Lost,
        }
    }
}

impl From<ProtocolError> for Broken {
    fn from(error: ProtocolError) -> Self {
        tungstenite::Error::from(error).into()
    }
}

/// The beginning of a frame that is not read in place.
enum Start {
    /// The header of a data frame, or of a control frame with its payload, is incomplete.
    Partial,
    /// A data frame, whose payload follows.
    Data,
    /// A complete control frame.
    Control(Message),
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
    /// The message that is being assembled.
    message: Option<Assembly>,
    /// A close frame was received.
    closed: bool,
    role: Role,
    bounds: Bounds,
    /// Bytes that may still be read until this is set again; none: no limit.
    allowance: Option<usize>,
    /// Something was read since `has_heard` was last called.
    heard: bool,
    /// Bytes of automatic replies: pongs, and the echo of a close frame.
    replies: Vec<u8>,
}

impl Reader {
    /// Creates a reader. `role`: of this side. `early`: bytes received behind the handshake.
    pub(crate) fn new(role: Role, socket: ReadHalf, early: Vec<u8>, bounds: Bounds) -> Self {
        Self {
            socket,
            rest: early,
            partial: false,
            resumed: 0,
            message: None,
            closed: false,
            role,
            bounds,
            allowance: None,
            heard: false,
            replies: Vec::new(),
        }
    }

    /// A reader without a socket: nothing is ever read.
    pub(crate) fn closed() -> Self {
        let bounds = Bounds {
            payload: 0,
            fragments: 0,
        };
        Self::new(Role::Server, ReadHalf::None, Vec::new(), bounds)
    }

    /// Changes the maximum bytes of a message.
    pub(crate) fn set_max_payload(&mut self, max_payload: usize) {
        self.bounds.payload = max_payload;
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
        self.message.as_ref().map_or(0, Assembly::len) + rest
    }

    /// Bytes of memory that the socket holds and charges beyond what it needs when idle.
    pub(crate) fn held_by_socket(&self) -> usize {
        self.socket.held()
    }

    /// Bytes of memory held between turns.
    pub(crate) fn held(&self) -> usize {
        self.rest.capacity()
            + self.socket.unread()
            + self.message.as_ref().map_or(0, Assembly::held)
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
        loop {
            if let Some(message) = &mut self.message
                && let Some(left) = message.left()
            {
                if left == 0 {
                    if let Some(whole) = message.end_frame()? {
                        self.message = None;
                        return Poll::Ready(Ok(Incoming::Message(whole)));
                    }
                } else if !input.is_empty() {
                    let bytes = input.peek(left);
                    message.append(bytes);
                    let length = bytes.len();
                    input.consume(length);
                } else {
                    let filled = message.fill(&mut self.socket, &mut self.allowance, cx);
                    self.on_read(ready!(filled))?;
                }
                continue;
            }
            let next = match self.message.is_some() || self.closed {
                true => Next::Other,
                false => input.next_frame(self.role, self.bounds.payload),
            };
            match next {
                Next::Text(place) => {
                    self.resumed = 0;
                    return Poll::Ready(match input.take_text(place) {
                        Ok(text) => Ok(Incoming::Text(text)),
                        Err(error) => Err(tungstenite::Error::from(error).into()),
                    });
                }
                Next::Partial => {}
                Next::Other => match self.start_frame(input)? {
                    Start::Partial => {}
                    Start::Data => continue,
                    Start::Control(message) => return Poll::Ready(Ok(Incoming::Message(message))),
                },
            }
            let filled = input.fill(&mut self.socket, &mut self.allowance, cx);
            self.partial = filled.is_pending();
            self.on_read(ready!(filled))?;
        }
    }

    /// Handles the result of a read from the socket.
    fn on_read(&mut self, read: io::Result<usize>) -> Result<(), Broken> {
        match read {
            Ok(1..) => {
                self.heard = true;
                Ok(())
            }
            Ok(0) | Err(_) => Err(Broken::Lost),
        }
    }

    /// Ends a turn: moves the bytes left in the input to this reader.
    pub(crate) fn keep(&mut self, input: &mut Input) {
        // If nothing was read in this turn, the input is empty.
        if input.is_empty() {
            return;
        }
        let length = input.len();
        if self.partial && length >= TRICKLE && length < self.resumed + self.resumed / 4 {
            // The header of a partial text was already checked.
            let _ = self.start_frame(input);
        }
        self.rest = input.take_rest();
        self.resumed = 0;
    }

    /// Starts the frame at the front of the input.
    fn start_frame(&mut self, input: &mut Input) -> Result<Start, Broken> {
        let bytes = input.peek(MAX_HEADER + MAX_CONTROL);
        let mut cursor = Cursor::new(bytes);
        let Some((header, length)) = FrameHeader::parse(&mut cursor)? else {
            return Ok(Start::Partial);
        };
        self.check(&header, length)?;
        // Both are within the limits.
        let (start, length) = (cursor.position() as usize, length as usize);
        match header.opcode {
            OpCode::Data(kind) => {
                let new = || Assembly::new(kind == Data::Text);
                let message = self.message.get_or_insert_with(new);
                message.start_frame(&header, length);
                input.consume(start);
                Ok(Start::Data)
            }
            OpCode::Control(kind) => {
                let Some(payload) = bytes.get(start..start + length) else {
                    return Ok(Start::Partial);
                };
                let mut payload = payload.to_vec();
                input.consume(start + length);
                encode::apply_mask(header.mask, &mut payload);
                Ok(Start::Control(self.on_control(kind, payload)?))
            }
        }
    }

    /// Checks a frame header against the protocol and the limits, in the order of tungstenite.
    fn check(&self, header: &FrameHeader, length: u64) -> Result<(), Broken> {
        let is_control = matches!(header.opcode, OpCode::Control(_));
        if is_control && length > MAX_CONTROL as u64 {
            return Err(ProtocolError::ControlFrameTooBig.into());
        }
        self.check_size(length)?;
        let is_masked = header.mask.is_some();
        if !is_masked && self.role == Role::Server {
            return Err(ProtocolError::UnmaskedFrameFromClient.into());
        }
        if self.closed {
            return Err(ProtocolError::ReceivedAfterClosing.into());
        }
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(ProtocolError::NonZeroReservedBits.into());
        }
        if is_masked && self.role == Role::Client {
            return Err(ProtocolError::MaskedFrameFromServer.into());
        }
        let (received, fragments) = match (header.opcode, &self.message) {
            (OpCode::Control(_), _) => {
                return match header.is_final {
                    true => Ok(()),
                    false => Err(ProtocolError::FragmentedControlFrame.into()),
                };
            }
            (OpCode::Data(Data::Continue), None) => {
                return Err(ProtocolError::UnexpectedContinueFrame.into());
            }
            (OpCode::Data(Data::Continue), Some(message)) => (message.len(), message.fragments),
            (OpCode::Data(kind), Some(_)) => {
                return Err(ProtocolError::ExpectedFragment(kind).into());
            }
            (OpCode::Data(_), None) => (0, 0),
        };
        if fragments == self.bounds.fragments {
            return Err(Broken::Rules {
                code: CloseCode::Policy.into(),
                text: format!("a message in more than {fragments} fragments"),
            });
        }
        self.check_size(received as u64 + length)
    }

    /// Checks the length of a frame or message.
    fn check_size(&self, length: u64) -> Result<(), Broken> {
        let max_size = self.bounds.payload;
        if length <= max_size as u64 {
            return Ok(());
        }
        let size = length.try_into().unwrap_or(usize::MAX);
        let error = CapacityError::MessageTooLong { size, max_size };
        Err(tungstenite::Error::from(error).into())
    }

    /// Handles a control frame, and queues the reply that the protocol requires.
    fn on_control(&mut self, kind: Control, payload: Vec<u8>) -> Result<Message, Broken> {
        let mask = match self.role {
            Role::Server => Mask::None,
            Role::Client => Mask::Random,
        };
        Ok(match kind {
            Control::Ping => {
                self.replies.extend(pong(&payload, mask));
                Message::Ping(payload.into())
            }
            Control::Close => {
                let close = close_reason(&payload)?;
                self.closed = true;
                let (code, reason) = match &close {
                    Some(close) => (Some(close.code.into()), close.reason.as_str()),
                    None => (None, ""),
                };
                self.replies.extend(close_frame(code, reason, mask));
                Message::Close(close)
            }
            // The header was rejected if the opcode is reserved.
            Control::Pong | Control::Reserved(_) => Message::Pong(payload.into()),
        })
    }

    /// Takes the bytes that the WebSocket protocol requires as a reply.
    pub(crate) fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// Reads and discards bytes of a peer whose messages are no longer handled. Returns how many.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.message = None;
        self.rest = Vec::new();
        let mut scratch = [0; 4 << 10];
        let mut buf = ReadBuf::new(&mut scratch);
        Pin::new(self.socket.socket())
            .poll_read(cx, &mut buf)
            .map_ok(|()| buf.filled().len())
    }
}

/// Decodes the payload of a close frame. A code that may not be sent counts as a protocol violation.
fn close_reason(payload: &[u8]) -> Result<Option<CloseFrame>, tungstenite::Error> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(ProtocolError::InvalidCloseSequence.into()),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    let (code, reason) = (CloseCode::from(code), std::str::from_utf8(reason)?);
    Ok(Some(match code.is_allowed() {
        true => CloseFrame {
            code,
            reason: reason.into(),
        },
        false => CloseFrame {
            code: CloseCode::Protocol,
            reason: Utf8Bytes::from_static("Protocol violation"),
        },
    }))
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

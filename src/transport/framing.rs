//! Bytes to WebSocket messages, and messages to bytes.
//!
//! Nearly all that comes are texts in one frame each: such a frame is unmasked and read where it
//! lies, in the [`Input`] of the thread. All else goes through tungstenite, frame by frame:
//! fragments, control frames, what is larger than the input, and whatever breaks the rules, so
//! that it alone judges. Its protocol object owns a buffer, and thousands of idle connections
//! would each pay for one: a connection has such an object only while a message is in part with
//! it, and a thread keeps one for its next connection in need.

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

/// Bytes that tungstenite asks for at once.
const READ_CHUNK: usize = 16 << 10;
/// A frame beyond this size has made its reader's buffer too big to keep.
const KEEP_UP_TO: u64 = 64 << 10;
/// A frame of which this much has come, by and by, is collected by tungstenite: it appends what
/// comes, where the input would be copied for every byte of a peer that trickles.
const TRICKLE: usize = 4 << 10;

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

/// What a peer has sent.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// A text, where it was read.
    Text(&'a str),
    /// Anything else, and texts that came in parts.
    Message(Message),
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
    /// What was read but not taken when its turn ended.
    rest: Vec<u8>,
    /// It is the beginning of a frame, and nothing else.
    partial: bool,
    /// How much of what is in the input was there when the turn began.
    resumed: usize,
    /// Of what goes to tungstenite.
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
        let rest = if self.partial { self.rest.len() } else { 0 };
        self.scan.part + rest
    }

    /// Bytes of memory that its socket holds and charges, beyond what that takes at rest.
    pub(crate) fn held_by_socket(&self) -> usize {
        self.socket.held()
    }

    /// Bytes of memory that it holds between turns.
    pub(crate) fn held(&self) -> usize {
        self.rest.capacity()
            + self.socket.unread()
            + match self.context {
                Some(_) => READ_CHUNK + self.scan.held(),
                None => 0,
            }
    }

    /// The next message. Pending: nothing more has come, the task is woken when it does.
    ///
    /// `input`: the thread's. When the turn ends, [`Reader::keep`] leaves nothing in it.
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
                Next::ResponderDone => {
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

    /// Ends a turn: keeps what is left in the input.
    pub(crate) fn keep(&mut self, input: &mut Input) {
        // A turn in which nothing was asked for has put nothing into it.
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

    /// The same by tungstenite, which is given one frame and nothing of the next.
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
        // Brings out a pong, or the echo of a close frame; its `ConnectionClosed` is no news.
        if matches!(result, Ok(Message::Ping(_) | Message::Close(_))) {
            let _ = context.flush(&mut stream);
        }
        // One that has seen a close frame serves nobody else.
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

    /// What is to be sent back by the rules of the WebSocket protocol.
    pub(crate) fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// Reads and throws away; how many bytes. For a peer that is not listened to any more.
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

/// The peer as tungstenite wants to see it, for the length of one poll.
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
        // Told when more is asked for: what came before is in tungstenite's hands, and whole.
        if scan.breach.is_some() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        if self.input.is_empty() {
            // What is only payload for longer than the input need not go through it.
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

/// What a violation comes to; the connection is lost if it is none.
fn broken(error: &tungstenite::Error) -> Broken {
    match violation(error) {
        Some(code) => Broken::Rules {
            code,
            text: error.to_string(),
        },
        None => Broken::Lost,
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

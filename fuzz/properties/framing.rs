//! Any bytes from a socket, cut anywhere: our reader reads what tungstenite alone reads in one
//! piece, and holds no more than twice what has come; and what we write reads back as it was.

use std::{
    future::poll_fn,
    io::{self, Read, Write},
    ops::Range,
    task::Poll,
};

use tokio::{net::UnixStream, task::yield_now};
use tokio_tungstenite::tungstenite::{
    Error, Message,
    error::{CapacityError, ProtocolError},
    protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext},
};

use super::{cuts, runtime};
use crate::{
    protocol,
    transport::{
        framing::{self, Bounds, Broken, Incoming, Input, Mask, Reader},
        socket::Socket,
    },
};

/// The limit on a message, by the input: exceeded by the shortest, by some, and by none.
const MAX_PAYLOAD: [usize; 4] = [8, 130, 1 << 10, 1 << 20];
/// The end of a connection that was not closed for a violation.
const LOST: &str = "lost";
/// Bytes that a reader reserves for a message of which little has come.
const RESERVED: usize = 16 << 10;
/// How an error begins that is about UTF-8; in fragments the rest differs.
const UTF_8: &str = "UTF-8 encoding error";
/// The longest payload of a control frame.
const MAX_CONTROL: u128 = 125;
/// The longest reason of a close frame: that less the code.
const MAX_REASON: usize = 123;

/// Result of reading: messages, the error that ended it, if any, and the replies.
#[derive(Debug, Default, PartialEq)]
struct Notification {
    messages: Vec<Message>,
    error: Option<String>,
    replies: Vec<u8>,
}

/// The first byte has the role, the limit, and whether the first bytes come with the handshake;
/// the second says how the rest is cut; the rest is what the peer sends.
pub fn framing(input: &[u8]) {
    let [settings, cut, bytes @ ..] = input else {
        return;
    };
    let role = match settings & 1 {
        0 => Role::Server,
        _ => Role::Client,
    };
    let max_payload = MAX_PAYLOAD[usize::from(settings >> 1 & 3)];
    let is_early = settings & 8 != 0;

    let mut expected = as_tungstenite_reads_it(bytes, role, max_payload);
    let mut ours = runtime(in_pieces(bytes, *cut, is_early, role, max_payload));
    for read in [&mut expected, &mut ours] {
        if role == Role::Client {
            // Masked with another key each time; they are as long.
            read.replies.fill(0);
        }
        if let Some(error) = read.error.as_mut().filter(|error| error.starts_with(UTF_8)) {
            error.truncate(UTF_8.len());
        }
    }
    assert_eq!(ours, expected);
    round_trip(&String::from_utf8_lossy(bytes), usize::from(*cut));
}

/// The frame whose header ends what can be read: the rest of it has not come, or it is refused.
struct Last {
    header: Range<usize>,
    /// Bytes of its payload.
    length: u128,
    /// Bytes of the fragments that it continues, if it does.
    continues: Option<u128>,
    long_control: bool,
}

/// For each number of bytes whether no message is in part among them; and the last frame, unless it
/// is complete and in order.
fn naive_boundaries(bytes: &[u8]) -> (Vec<bool>, Option<Last>) {
    let mut known = vec![false; bytes.len() + 1];
    known[0] = true;
    let mut at = 0;
    // Bytes of the fragments of a message.
    let mut message = None;
    loop {
        let byte = |n: usize| bytes.get(at + n).copied();
        let (Some(first), Some(second)) = (byte(0), byte(1)) else {
            return (known, None);
        };
        let extra = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & 0x80 != 0 { 4 } else { 0 };
        let Some(header) = bytes.get(at..at + 2 + extra + mask) else {
            return (known, None);
        };
        let length = match extra {
            0 => u128::from(second & 0x7f),
            _ => header[2..2 + extra]
                .iter()
                .fold(0, |sum, byte| sum << 8 | u128::from(*byte)),
        };
        let opcode = first & 0x0f;
        let long_control = matches!(opcode, 8..=10) && length > MAX_CONTROL;
        let end = (at + header.len()) as u128 + length;
        if long_control || matches!(opcode, 3..=7 | 11..=15) || end > bytes.len() as u128 {
            let header = at..at + header.len();
            return (
                known,
                Some(Last {
                    header,
                    length,
                    continues: message.filter(|_| opcode == 0),
                    long_control,
                }),
            );
        }
        if opcode < 8 {
            let whole = message.unwrap_or(0) + length;
            message = (first & 0x80 == 0).then_some(whole);
        }
        at = end as usize;
        known[at] = message.is_none();
    }
}

/// Reads with tungstenite alone. Differs in a frame that is refused once its header has arrived: tungstenite reads the
/// whole frame before.
fn as_tungstenite_reads_it(bytes: &[u8], role: Role, max_payload: usize) -> Notification {
    let mut read = in_one_piece(bytes, role, max_payload);
    let (_, Some(last)) = naive_boundaries(bytes) else {
        return read;
    };
    let before = &bytes[..last.header.start];
    if last.long_control {
        read = in_one_piece(before, role, max_payload);
    }
    if read.error.is_some() || read.messages.last().is_some_and(Message::is_close) {
        return read;
    }
    if last.long_control {
        read.error = Some(Error::from(ProtocolError::ControlFrameTooBig).to_string());
        return read;
    }
    // This frame without its payload.
    let header = &bytes[last.header];
    let key = match header[1] & 0x80 {
        0 => &[],
        _ => &header[header.len() - 4..],
    };
    let empty = [before, &[header[0], header[1] & 0x80], key].concat();
    let error = in_one_piece(&empty, role, max_payload).error;
    read.error = error.filter(|error| !error.starts_with(UTF_8));
    let whole = last.continues.unwrap_or(0) + last.length;
    if read.error.is_none() && whole > max_payload as u128 {
        let error = CapacityError::MessageTooLong {
            size: usize::try_from(whole).unwrap_or(usize::MAX),
            max_size: max_payload,
        };
        read.error = Some(Error::from(error).to_string());
    }
    read
}

/// All at once, by tungstenite alone.
fn in_one_piece(bytes: &[u8], role: Role, max_payload: usize) -> Notification {
    let config = WebSocketConfig::default()
        .max_message_size(Some(max_payload))
        .max_frame_size(Some(max_payload))
        .write_buffer_size(0);
    let mut context = WebSocketContext::new(role, Some(config));
    let mut stream = Memory {
        unread: bytes,
        written: Vec::new(),
    };
    let mut read = Notification::default();
    loop {
        match context.read(&mut stream) {
            Ok(message) => {
                let is_close = message.is_close();
                read.messages.push(message);
                if is_close {
                    let _ = context.flush(&mut stream);
                    break;
                }
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => {
                let rules = framing::violation(&error).is_some();
                read.error = Some(if rules {
                    error.to_string()
                } else {
                    LOST.into()
                });
                break;
            }
        }
    }
    read.replies = stream.written;
    read
}

/// Piece by piece from a socket, by our reader.
async fn in_pieces(
    bytes: &[u8],
    cut: u8,
    is_early: bool,
    role: Role,
    max_payload: usize,
) -> Notification {
    let mut pieces = cuts(bytes, cut);
    let early = is_early.then(|| pieces.next()).flatten();
    let early = early.unwrap_or_default().to_vec();
    let mut sent = early.len();
    let (mut reader, peer) = reader(role, early, max_payload);
    let mut read = Notification::default();
    let (known, _) = naive_boundaries(bytes);
    loop {
        // The runtime polls the socket before the reader does.
        yield_now().await;
        loop {
            let polled = poll(&mut reader).await;
            read.replies.extend(reader.take_replies());
            match polled {
                Poll::Pending => break,
                Poll::Ready(Ok(message)) => {
                    let is_close = message.is_close();
                    read.messages.push(message);
                    if is_close {
                        return read;
                    }
                }
                Poll::Ready(Err(error)) => {
                    read.error = Some(match error {
                        Broken::Rules { text, .. } => text,
                        Broken::Lost => LOST.into(),
                    });
                    return read;
                }
            }
        }
        let held = reader.held();
        assert!(held <= 2 * sent + RESERVED, "{held} for {sent}");
        if known[sent] {
            assert_eq!((held, reader.part()), (0, 0), "{sent} of {bytes:?}");
        }
        let Some(piece) = pieces.next() else { break };
        sent += piece.len();
        assert_eq!(peer.try_write(piece).ok(), Some(piece.len()));
    }
    // The end of the connection is no violation, wherever it comes.
    drop(peer);
    yield_now().await;
    match poll(&mut reader).await {
        Poll::Ready(Err(Broken::Lost)) => {}
        other => panic!("{other:?} at the end"),
    }
    read
}

fn reader(role: Role, early: Vec<u8>, max_payload: usize) -> (Reader, UnixStream) {
    let (ours, peer) = UnixStream::pair().expect("a pair of sockets");
    let (socket, _) = Socket::Unix(ours).into_halves();
    let bounds = Bounds {
        payload: max_payload,
        fragments: usize::MAX,
    };
    (Reader::new(role, socket, early, bounds), peer)
}

/// A turn in which nothing is read, then one of one message.
async fn poll(reader: &mut Reader) -> Poll<Result<Message, Broken>> {
    let mut input = Input::borrow();
    reader.keep(&mut input);
    let polled = poll_fn(|cx| {
        let polled = reader.poll_message(cx, &mut input);
        Poll::Ready(polled.map_ok(|incoming| match incoming {
            Incoming::Text(text) => Message::text(text),
            Incoming::Message(message) => message,
        }))
    });
    let polled = polled.await;
    reader.keep(&mut input);
    input.give_back();
    polled
}

/// A peer reads a frame as it was written.
fn round_trip(text: &str, cut: usize) {
    let (head, tail) = text.split_at(protocol::shorten(text, cut).len());
    for (role, mask) in [(Role::Client, Mask::None), (Role::Server, Mask::Random)] {
        let mut frame = Vec::new();
        framing::encode_text(&[head, "", tail], text.len(), mask, &mut frame);
        assert_eq!(frame.len(), framing::frame_size(text.len(), mask));
        let read = in_one_piece(&frame, role, text.len());
        assert_eq!(
            (read.messages, read.error),
            (vec![Message::text(text)], None)
        );

        let reason = protocol::shorten(text, MAX_REASON);
        for code in [1000, 1001, 1002, 1007, 1009, 1013] {
            let frame = framing::close_frame(Some(code), reason, mask);
            let close = CloseFrame {
                code: code.into(),
                reason: reason.into(),
            };
            let read = in_one_piece(&frame, role, usize::MAX);
            assert_eq!(read.messages, [Message::Close(Some(close))]);
        }
        let read = in_one_piece(&framing::close_frame(None, reason, mask), role, 0);
        assert_eq!(read.messages, [Message::Close(None)]);
    }
}

/// A stream that has all its bytes, and waits for more at their end.
struct Memory<'a> {
    unread: &'a [u8],
    written: Vec<u8>,
}

impl Read for Memory<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.unread {
            [] => Err(io::ErrorKind::WouldBlock.into()),
            _ => self.unread.read(buf),
        }
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

use std::{io::IoSlice, sync::Arc, task::Waker};

use super::*;
use crate::transport::socket::{WriteHalf, pipe::Pipe};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const MAX_PAYLOAD: usize = 100 * MIB;
const BOUNDS: Bounds = Bounds {
    payload: MAX_PAYLOAD,
    fragments: 4,
};
const KEY: [u8; 4] = [1, 20, 255, 7];
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const PING: u8 = 0x89;
const TEXT_FRAGMENT: u8 = 0x01;
const BINARY_FRAGMENT: u8 = 0x02;
const MORE: u8 = 0x00;
const LAST: u8 = 0x80;

/// A reader and the bytes that it reads.
struct Peer {
    role: Role,
    pipe: Arc<Pipe>,
    reader: Reader,
}

impl Peer {
    /// `role`: of the reader.
    fn new(role: Role) -> Self {
        let pipe = Pipe::new(usize::MAX);
        let reader = Reader::new(role, ReadHalf::Pipe(pipe.clone()), Vec::new(), BOUNDS);
        Self { role, pipe, reader }
    }

    fn header(&self, first: u8, length: usize) -> Vec<u8> {
        let mut header = match length {
            0..126 => vec![first, length as u8],
            126..65_536 => [&[first, 126][..], &(length as u16).to_be_bytes()].concat(),
            _ => [&[first, 127][..], &(length as u64).to_be_bytes()].concat(),
        };
        if self.role == Role::Server {
            header[1] |= 0x80;
            header.extend(KEY);
        }
        header
    }

    fn frame(&self, first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
        let mut payload = payload.as_ref().to_vec();
        let mut frame = self.header(first, payload.len());
        encode::apply_mask((self.role == Role::Server).then_some(KEY), &mut payload);
        frame.extend(payload);
        frame
    }

    /// Lets bytes arrive, and reads all messages in one turn.
    fn read(&mut self, bytes: &[u8]) -> Result<Vec<Message>, Broken> {
        let socket = WriteHalf::Pipe(self.pipe.clone());
        let written = socket.try_write_vectored(&[IoSlice::new(bytes)]);
        assert_eq!(written.ok(), Some(bytes.len()));
        self.turn()
    }

    fn turn(&mut self) -> Result<Vec<Message>, Broken> {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut input = Input::borrow();
        let mut messages = Vec::new();
        let result = loop {
            match self.reader.poll_message(cx, &mut input) {
                Poll::Ready(Ok(Incoming::Text(text))) => messages.push(Message::text(text)),
                Poll::Ready(Ok(Incoming::Message(message))) => messages.push(message),
                Poll::Ready(Err(broken)) => break Err(broken),
                Poll::Pending => break Ok(messages),
            }
        };
        self.reader.keep(&mut input);
        input.give_back();
        result
    }

    /// Reads bytes that arrive in pieces: those of the header one by one.
    fn read_in_pieces(&mut self, bytes: &[u8], length: usize) -> Vec<Message> {
        let (head, tail) = bytes.split_at(MAX_HEADER + 2);
        let mut messages = Vec::new();
        let mut received = 0;
        for piece in head.chunks(1).chain(tail.chunks(length)) {
            messages.extend(self.read(piece).unwrap());
            received += piece.len();
            let held = self.reader.held();
            assert!(held <= 2 * received + 16 * KIB, "{held} of {received}");
        }
        messages
    }

    /// Nothing is held.
    fn is_idle(&self) -> bool {
        self.reader.held() == 0 && self.reader.part() == 0
    }

    /// Reads bytes of which the last are a violation; returns its close code and description.
    fn violation(&mut self, bytes: &[u8]) -> (u16, String) {
        match self.read(bytes) {
            Err(Broken::Rules { code, text }) => (code, text),
            other => panic!("{other:?}"),
        }
    }
}

/// A text of characters of one to four bytes.
fn text(length: usize) -> String {
    let mut text = "aé€😀".repeat(length / 10);
    text.extend(std::iter::repeat_n('x', length - text.len()));
    text
}

#[test]
fn large_frames_are_read_however_they_are_cut() {
    let sizes = [64 * KIB - 8, 64 * KIB, MIB - 1, MIB, MIB + 1, 3 * MIB + 3];
    for role in [Role::Server, Role::Client] {
        for length in sizes {
            let message = text(length);
            for cut in [1_000, 64 * KIB, usize::MAX] {
                let mut peer = Peer::new(role);
                let frames = [
                    peer.frame(TEXT, &message),
                    peer.frame(BINARY, &message),
                    peer.frame(PING, "p"),
                    peer.frame(TEXT, "{}"),
                ];
                let messages = peer.read_in_pieces(&frames.concat(), cut);
                let expected = [
                    Message::text(&message),
                    Message::binary(message.clone()),
                    Message::Ping("p".into()),
                    Message::text("{}"),
                ];
                // Not `assert_eq`, which would print megabytes.
                assert!(messages == expected, "{length} in pieces of {cut}");
                assert!(peer.is_idle());
            }
        }
    }
}

#[test]
fn fragments_are_joined_wherever_they_cut_a_character() {
    for role in [Role::Server, Role::Client] {
        for length in [20, 200 * KIB, 3 * MIB] {
            let message = text(length);
            for at in 1..10 {
                let mut peer = Peer::new(role);
                let (start, rest) = message.as_bytes().split_at(at);
                let (middle, end) = rest.split_at(length / 2);
                let frames = [
                    peer.frame(TEXT_FRAGMENT, start),
                    peer.frame(MORE, middle),
                    peer.frame(PING, ""),
                    peer.frame(MORE, ""),
                    peer.frame(LAST, end),
                    peer.frame(TEXT, "{}"),
                ];
                let messages = peer.read_in_pieces(&frames.concat(), 100 * KIB);
                let expected = [
                    Message::Ping("".into()),
                    Message::text(&message),
                    Message::text("{}"),
                ];
                assert!(messages == expected, "{length} cut at {at}");
                assert!(peer.is_idle());
            }
        }
    }
}

#[test]
fn a_frame_reserves_memory_as_its_bytes_arrive() {
    for first in [TEXT, BINARY, TEXT_FRAGMENT, BINARY_FRAGMENT, MORE, LAST] {
        let mut peer = Peer::new(Role::Server);
        if matches!(first, MORE | LAST) {
            peer.read(&peer.frame(TEXT_FRAGMENT, "x")).unwrap();
        }
        let length = MAX_PAYLOAD - 1;
        assert_eq!(peer.read(&peer.header(first, length)).unwrap(), []);
        assert!(peer.reader.held() <= 16 * KIB, "{}", peer.reader.held());
        let mut received = 1;
        while received < 3 * MIB {
            peer.read(&vec![0; received]).unwrap();
            received *= 2;
            let (held, part) = (peer.reader.held(), peer.reader.part());
            assert!(part <= received && held >= part, "{held} for {part}");
            assert!(held <= 2 * received + 16 * KIB, "{held} for {received}");
        }
    }
}

#[test]
fn a_frame_with_an_invalid_header_is_rejected_before_its_payload() {
    const ANNOUNCED: usize = 50 * MIB;
    const NO_FIN: u8 = 0x7f;
    for (first, length, code, text) in [
        (TEXT | 0x40, ANNOUNCED, 1002, "Reserved bits are non-zero"),
        (0x83, ANNOUNCED, 1002, "Encountered invalid opcode: 3"),
        (
            LAST,
            ANNOUNCED,
            1002,
            "Continue frame but nothing to continue",
        ),
        (PING, 126, 1002, "Control frame too big"),
        (PING & NO_FIN, 1, 1002, "Fragmented control frame"),
        (
            TEXT,
            MAX_PAYLOAD + 1,
            1009,
            "Message too long: 104857601 > 104857600",
        ),
    ] {
        for role in [Role::Server, Role::Client] {
            let mut peer = Peer::new(role);
            let (got, description) = peer.violation(&peer.header(first, length));
            assert_eq!(got, code, "{description}");
            assert!(description.contains(text), "{description}");
            let other = match role {
                Role::Server => Role::Client,
                Role::Client => Role::Server,
            };
            let wrong_mask = Peer::new(other).header(TEXT, ANNOUNCED);
            let (got, description) = Peer::new(role).violation(&wrong_mask);
            assert_eq!(got, 1002, "{description}");
        }
    }
    // In the middle of a message.
    for (first, length, code, text) in [
        (TEXT, ANNOUNCED, 1002, "While waiting for more fragments"),
        (LAST, MAX_PAYLOAD, 1009, "104857603 > 104857600"),
    ] {
        let mut peer = Peer::new(Role::Server);
        let start = peer.frame(TEXT_FRAGMENT, "{} ");
        let (got, description) = peer.violation(&[start, peer.header(first, length)].concat());
        assert_eq!(got, code, "{description}");
        assert!(description.contains(text), "{description}");
    }
}

#[test]
fn only_real_fragments_count_against_their_limit() {
    let mut peer = Peer::new(Role::Server);
    let start = peer.frame(TEXT_FRAGMENT, text(5 * MIB));
    let more = peer.frame(MORE, text(5 * MIB));
    let whole = [&start[..], &more, &more, &peer.frame(LAST, "")].concat();
    assert_eq!(peer.read(&whole).unwrap().len(), 1);
    let (code, text) = peer.violation(&[&start[..], &more, &more, &more, &more].concat());
    assert_eq!((code, &*text), (1008, "a message in more than 4 fragments"));
}

#[test]
fn a_large_text_must_be_utf_8() {
    let mut message = text(3 * MIB).into_bytes();
    message[MIB + 5] = 0xff;
    let mut peer = Peer::new(Role::Server);
    assert_eq!(peer.violation(&peer.frame(TEXT, &message)).0, 1007);
    // A fragment before the last is checked when it is complete.
    for length in [MIB + 6, 2 * MIB] {
        let mut peer = Peer::new(Role::Server);
        let fragment = peer.frame(TEXT_FRAGMENT, &message[..length]);
        assert_eq!(peer.violation(&fragment).0, 1007);
    }
    // The last character is incomplete.
    for first in [TEXT, LAST] {
        let mut peer = Peer::new(Role::Server);
        if first == LAST {
            peer.read(&peer.frame(TEXT_FRAGMENT, text(MIB))).unwrap();
        }
        let bytes = [text(MIB).as_bytes(), b"\xf0\x9f\x98"].concat();
        assert_eq!(peer.violation(&peer.frame(first, bytes)).0, 1007);
    }
}

#[test]
fn a_large_frame_is_read_within_the_allowance() {
    let mut peer = Peer::new(Role::Server);
    peer.reader.set_allowance(Some(0));
    let message = text(MIB);
    let frame = peer.frame(TEXT, &message);
    assert_eq!(peer.read(&frame).unwrap(), []);
    let mut turns = 0;
    let messages = loop {
        peer.reader.set_allowance(Some(100_000));
        let messages = peer.turn().unwrap();
        turns += 1;
        if !messages.is_empty() {
            break messages;
        }
        assert_eq!(peer.reader.allowance(), Some(0));
        let header = frame.len() - message.len();
        assert_eq!(peer.reader.part(), turns * 100_000 - header);
    };
    assert!(messages == [Message::text(message)]);
    assert_eq!(turns, frame.len().div_ceil(100_000));
}

#[test]
fn a_text_that_arrives_slowly_is_assembled() {
    let mut peer = Peer::new(Role::Server);
    let message = text(50 * KIB);
    let frame = peer.frame(TEXT, &message);
    let (start, rest) = frame.split_at(5 * KIB);
    assert_eq!(peer.read(start).unwrap(), []);
    assert!(peer.reader.message.is_none());
    let mut messages = Vec::new();
    for (n, piece) in rest.chunks(100).enumerate() {
        messages.extend(peer.read(piece).unwrap());
        let received = (5 * KIB + (n + 1) * 100).min(frame.len());
        let is_last = received == frame.len();
        assert_eq!(peer.reader.message.is_some(), !is_last);
        assert!(peer.reader.held() <= 2 * received + 16 * KIB);
    }
    assert!(messages == [Message::text(message)]);
    assert!(peer.is_idle());
}

#[test]
fn a_frame_after_the_close_frame_is_a_violation() {
    let mut peer = Peer::new(Role::Client);
    let close = peer.frame(0x88, 1001_u16.to_be_bytes());
    assert_eq!(peer.read(&close).unwrap().len(), 1);
    let replies = peer.reader.take_replies();
    assert_eq!(replies.len(), frame_size(2, Mask::Random));
    let (code, text) = peer.violation(&peer.frame(TEXT, "{}"));
    assert_eq!(code, 1002);
    assert!(text.contains("Remote sent after having closed"), "{text}");
}

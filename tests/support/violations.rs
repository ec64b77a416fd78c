//! Violations of the WebSocket protocol, each with the close code for it.

use super::raw::{BINARY, CLOSE, LAST, MORE, PING, PONG, TEXT, TEXT_FRAGMENT, frame, header};

/// Small enough to be exceeded in a moment: the server's `max_payload` for these violations.
pub const MAX_PAYLOAD: usize = 64 << 10;

/// A frame without a mask.
fn unmasked(payload: &str) -> Vec<u8> {
    [&[TEXT, payload.len() as u8], payload.as_bytes()].concat()
}

/// Violations: description, close code, and bytes, of which none may be executed as `register`.
pub fn violations() -> Vec<(&'static str, u16, Vec<u8>)> {
    let register = r#"{"action":"register","id":"x"}"#;
    let fragment = frame(TEXT_FRAGMENT, "{");
    let big = vec![b'x'; MAX_PAYLOAD + 1];
    let half = &big[..MAX_PAYLOAD / 2 + 1];
    vec![
        ("an unmasked frame", 1002, unmasked(register)),
        ("reserved bit 1", 1002, frame(TEXT | 0x40, register)),
        ("reserved bit 2", 1002, frame(TEXT | 0x20, register)),
        ("reserved bit 3", 1002, frame(TEXT | 0x10, register)),
        ("an unknown data opcode", 1002, frame(0x83, register)),
        ("an unknown control opcode", 1002, frame(0x8b, "")),
        ("a lone continuation", 1002, frame(LAST, register)),
        ("a lone first continuation", 1002, frame(MORE, register)),
        (
            "a message within a fragmented one",
            1002,
            [fragment.clone(), frame(TEXT, register)].concat(),
        ),
        ("a fragmented ping", 1002, frame(PING & 0x7f, "")),
        ("a ping too long", 1002, frame(PING, [0; 126])),
        ("a pong too long", 1002, frame(PONG, [0; 126])),
        (
            "the header of a ping too long",
            1002,
            header(PING, MAX_PAYLOAD),
        ),
        (
            "the header of a pong longer than any message",
            1002,
            header(PONG, usize::MAX),
        ),
        (
            "the header of a close frame too long",
            1002,
            header(CLOSE, 126),
        ),
        (
            "a text in no UTF-8, and then a ping too long",
            1007,
            [frame(TEXT, b"\xff"), frame(PING, [0; 126])].concat(),
        ),
        ("a close frame of one byte", 1002, frame(CLOSE, [3])),
        (
            "a close code nobody may send",
            1002,
            frame(CLOSE, 1006_u16.to_be_bytes()),
        ),
        (
            "a close code out of range",
            1002,
            frame(CLOSE, 999_u16.to_be_bytes()),
        ),
        (
            "a close reason in no UTF-8",
            1007,
            frame(CLOSE, b"\x03\xe8\xff"),
        ),
        ("a text in no UTF-8", 1007, frame(TEXT, b"{\"a\":\"\xff\"}")),
        ("an overlong text", 1007, frame(TEXT, b"\xc0\xaf")),
        ("a surrogate in UTF-8", 1007, frame(TEXT, b"\xed\xa0\x80")),
        (
            "a text that ends within a character",
            1007,
            [frame(TEXT_FRAGMENT, "{"), frame(LAST, b"\xe2\x82")].concat(),
        ),
        (
            "a fragment in no UTF-8",
            1007,
            frame(TEXT_FRAGMENT, b"\xff"),
        ),
        ("a frame too big", 1009, frame(TEXT, &big)),
        ("a binary frame too big", 1009, frame(BINARY, &big)),
        (
            "the header of a frame too big",
            1009,
            header(TEXT, MAX_PAYLOAD + 1),
        ),
        ("a frame of 2^63 bytes", 1009, header(TEXT, 1 << 63)),
        ("a frame of 2^64 bytes", 1009, header(TEXT, usize::MAX)),
        (
            "fragments that are too big together",
            1009,
            [frame(TEXT_FRAGMENT, half), frame(MORE, half)].concat(),
        ),
    ]
}

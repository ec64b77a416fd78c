//! Encodes messages to WebSocket frames.

use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

/// Masking of payloads: `Random` for clients, `None` for servers.
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
#[inline]
pub(crate) fn encode_text(pieces: &[&str], length: usize, mask: Mask, out: &mut Vec<u8>) {
    if mask == Mask::None {
        text_header(length, out);
        for piece in pieces {
            out.extend_from_slice(piece.as_bytes());
        }
        return;
    }
    let key = header(OpCode::Data(Data::Text), length, mask, out);
    let start = out.len();
    for piece in pieces {
        out.extend_from_slice(piece.as_bytes());
    }
    apply_mask(key, &mut out[start..]);
}

/// Appends the header of an unmasked text frame (RFC 6455, 5.2). Written by hand because nearly all frames
/// are of this kind.
#[inline]
fn text_header(length: usize, out: &mut Vec<u8>) {
    const TEXT: u8 = 0x81;
    if length < 126 {
        out.extend_from_slice(&[TEXT, length as u8]);
    } else if length <= usize::from(u16::MAX) {
        let [high, low] = (length as u16).to_be_bytes();
        out.extend_from_slice(&[TEXT, 126, high, low]);
    } else {
        out.extend_from_slice(&[TEXT, 127]);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

/// Appends an unmasked text frame. Not inlined: another call of `encode_text` would change how the compiler
/// inlines the rest.
#[inline(never)]
pub(crate) fn append_text(pieces: &[&str], out: &mut Vec<u8>) {
    let length = pieces.iter().map(|piece| piece.len()).sum();
    encode_text(pieces, length, Mask::None, out);
}

/// The payload of an unmasked frame that was encoded by [`append_text`].
pub(crate) fn payload_of(frame: &[u8]) -> &[u8] {
    let header = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    frame.get(header..).unwrap_or_default()
}

/// Encodes a close frame; an empty one if `code` is none.
pub(crate) fn close_frame(code: Option<u16>, reason: &str, mask: Mask) -> Vec<u8> {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
    }
    control(Control::Close, &payload, mask)
}

/// Encodes an empty ping.
pub(crate) fn ping(mask: Mask) -> Vec<u8> {
    control(Control::Ping, &[], mask)
}

/// Encodes a pong. An empty unsolicited one shows the peer that this side is alive.
pub(crate) fn pong(payload: &[u8], mask: Mask) -> Vec<u8> {
    control(Control::Pong, payload, mask)
}

fn control(control: Control, payload: &[u8], mask: Mask) -> Vec<u8> {
    let mut frame = Vec::with_capacity(frame_size(payload.len(), mask));
    let key = header(OpCode::Control(control), payload.len(), mask, &mut frame);
    let start = frame.len();
    frame.extend_from_slice(payload);
    apply_mask(key, &mut frame[start..]);
    frame
}

fn header(opcode: OpCode, length: usize, mask: Mask, out: &mut Vec<u8>) -> Option<[u8; 4]> {
    let mask = (mask == Mask::Random).then(rand::random);
    let header = FrameHeader {
        opcode,
        mask,
        ..FrameHeader::default()
    };
    // Writing to memory cannot fail.
    let _ = header.format(length as u64, out);
    mask
}

/// Masks or unmasks a payload in place; does nothing without a key.
pub(super) fn apply_mask(key: Option<[u8; 4]>, payload: &mut [u8]) {
    let Some(key) = key else { return };
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
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

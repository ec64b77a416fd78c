//! Messages to frames.

use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

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

/// The header of a text frame that is not masked: of nearly all that is written, so that it is worth
/// to be written by hand (RFC 6455, 5.2).
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

/// The same, out of the way: a further caller of that would change what the others cost.
#[inline(never)]
pub(crate) fn append_text(pieces: &[&str], out: &mut Vec<u8>) {
    let length = pieces.iter().map(|piece| piece.len()).sum();
    encode_text(pieces, length, Mask::None, out);
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
    control(Control::Ping, mask)
}

/// An empty pong, which nobody asked for: a sign of life.
pub(crate) fn pong(mask: Mask) -> Vec<u8> {
    control(Control::Pong, mask)
}

fn control(control: Control, mask: Mask) -> Vec<u8> {
    let mut frame = Vec::new();
    header(OpCode::Control(control), 0, mask, &mut frame);
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

/// Masks a payload, or undoes that; nothing without a key.
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

//! WebSocket framing for a client with precomputed frames.

use crate::failure::Result;

/// One key for all frames: a broker unmasks them in any case, and with a constant key frames are
/// masked once, before the measurement starts.
const MASK: [u8; 4] = [0x5a, 0x3c, 0x96, 0xe1];

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xa;

/// A frame of a server, still in the read buffer.
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    /// Length of header and payload in bytes.
    pub(crate) length: usize,
}

/// A masked frame of a client, and the offset of its payload.
pub(crate) fn encode(opcode: u8, payload: &[u8]) -> (Vec<u8>, usize) {
    let mut frame = vec![FINAL | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(MASKED | length as u8),
        length @ 126..65_536 => {
            frame.push(MASKED | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(MASKED | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    let start = frame.len();
    frame.extend(payload);
    mask(&mut frame[start..], 0);
    (frame, start)
}

/// Masks bytes at `offset` of the payload.
pub(crate) fn mask(bytes: &mut [u8], offset: usize) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte ^= MASK[(offset + index) % MASK.len()];
    }
}

/// The header of a frame.
pub(crate) struct Header {
    pub(crate) opcode: u8,
    last: bool,
    /// The offset of the payload, and its length.
    pub(crate) start: usize,
    pub(crate) payload: usize,
}

/// The header at the start of `bytes`, or `None` while it is incomplete.
pub(crate) fn header(bytes: &[u8]) -> Result<Option<Header>> {
    let [first, second, ..] = *bytes else {
        return Ok(None);
    };
    if first & 0x70 != 0 || second & MASKED != 0 {
        return Err(format!("unexpected frame header {first:#04x} {second:#04x}").into());
    }
    let (start, payload): (usize, usize) = match second {
        126 => match bytes.get(2..4) {
            Some(length) => (
                4,
                usize::from(u16::from_be_bytes(length.try_into().unwrap())),
            ),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10) {
            Some(length) => (10, u64::from_be_bytes(length.try_into().unwrap()) as usize),
            None => return Ok(None),
        },
        length => (2, usize::from(length)),
    };
    Ok(Some(Header {
        opcode: first & 0x0f,
        last: first & FINAL != 0,
        start,
        payload,
    }))
}

/// The first frame in `bytes`, or `None` while it is incomplete.
pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Frame<'_>>> {
    let Some(header) = header(bytes)? else {
        return Ok(None);
    };
    if !header.last {
        return Err("unexpected fragment of a message".into());
    }
    let length = header.start.saturating_add(header.payload);
    Ok(bytes.get(header.start..length).map(|payload| Frame {
        opcode: header.opcode,
        payload,
        length,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as a server sends it, without a mask.
    fn unmasked(payload: &[u8]) -> Vec<u8> {
        let (mut frame, start) = encode(TEXT, payload);
        frame[1] &= !MASKED;
        mask(&mut frame[start..], 0);
        frame.drain(start - MASK.len()..start);
        frame
    }

    #[test]
    fn every_length_form_survives_encoding() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 70_000] {
            let payload = vec![b'x'; length];
            let bytes = unmasked(&payload);
            let frame = decode(&bytes).unwrap().unwrap();
            assert_eq!(frame.payload, payload);
            assert_eq!(frame.length, bytes.len());
            assert_eq!(frame.opcode, TEXT);
        }
    }

    #[test]
    fn an_incomplete_frame_is_no_frame_yet() {
        let bytes = unmasked(&[b'x'; 300]);
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).unwrap().is_none());
        }
    }

    #[test]
    fn masked_or_fragmented_frames_of_a_server_are_failures() {
        assert!(decode(&encode(TEXT, b"{}").0).is_err());
        assert!(decode(&[TEXT, 0]).is_err());
    }
}

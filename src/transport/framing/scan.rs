//! Tracks the frame headers in the bytes passed to tungstenite, for the facts that it does not expose.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::{FrameHeader, coding::OpCode};

/// Bytes of the longest frame header: two, eight of length, four of mask.
const MAX_HEADER: usize = 14;
/// Bytes of the longest payload of a control frame (RFC 6455, 5.5).
const MAX_CONTROL: u64 = 125;

/// A violation in a frame header that tungstenite does not detect, or only later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breach {
    /// A control frame with too long a payload.
    LongControl,
    /// A message with too many fragments.
    Fragments,
}

/// The state of the frames received so far: whether a message is incomplete, and how many fragments it has.
pub(crate) struct FrameScan {
    /// Bytes of the current frame's payload still to come.
    payload: u64,
    /// The current frame is a control frame, so it is not part of a message.
    control: bool,
    /// The part of an incomplete header that has arrived.
    header: [u8; MAX_HEADER],
    header_length: usize,
    /// The last fragment of a message is still to come.
    unfinished: bool,
    /// Frames of the current message so far, and their maximum.
    fragments: usize,
    max_fragments: usize,
    /// Once set, later bytes are not examined.
    pub(super) breach: Option<Breach>,
    /// Bytes of an incomplete message so far.
    pub(super) part: usize,
    /// Bytes of the largest payload of a frame since this was last reset.
    pub(super) largest: u64,
}

impl FrameScan {
    /// Creates the state before the first frame. `max_fragments`: per message.
    pub(crate) fn new(max_fragments: usize) -> Self {
        Self {
            payload: 0,
            control: false,
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

    /// Bytes of memory that tungstenite holds for the message: the bytes received, and between fragments the
    /// buffer into which the largest was read.
    pub(super) fn held(&self) -> usize {
        let largest = usize::try_from(self.largest).unwrap_or(usize::MAX);
        match self.fragments {
            0 | 1 => self.part,
            _ => self.part + largest.min(self.part),
        }
    }

    /// Bytes of the current frame's payload still to come.
    pub(super) fn payload_left(&self) -> usize {
        self.payload.try_into().unwrap_or(usize::MAX)
    }

    /// Follows more bytes, up to the end of the frame. Returns how many of them tungstenite may read; zero if
    /// the frame that begins with them is a violation.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> usize {
        if self.payload > 0 {
            return self.pass(bytes);
        }
        let before = self.header_length;
        let taken = bytes.len().min(self.header.len() - before);
        self.header[before..before + taken].copy_from_slice(&bytes[..taken]);
        let known = &self.header[..before + taken];
        let mut cursor = Cursor::new(known);
        match FrameHeader::parse(&mut cursor) {
            Ok(Some((header, length))) => {
                let of_header = cursor.position() as usize - before;
                self.payload = length;
                self.control = matches!(header.opcode, OpCode::Control(_));
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
                    return 0;
                }
                self.largest = self.largest.max(length);
                self.header_length = 0;
                of_header + self.pass(&bytes[of_header..])
            }
            Ok(None) if known.len() < self.header.len() => {
                self.header_length = known.len();
                taken
            }
            // Tungstenite rejects this header and closes the connection.
            _ => {
                self.unfinished = true;
                bytes.len()
            }
        }
    }

    /// Follows bytes of a payload; returns how many.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let length = self.payload_left().min(bytes.len());
        self.payload -= length as u64;
        if !self.control {
            self.part += length;
        }
        if self.at_boundary() {
            self.part = 0;
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame: a whole text, a fragment or a control frame.
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

    /// Feeds all bytes, or those before a violation; returns how many.
    fn feed(scan: &mut FrameScan, bytes: &[u8]) -> usize {
        let mut fed = 0;
        while fed < bytes.len() {
            match scan.feed(&bytes[fed..]) {
                0 => break,
                length => fed += length,
            }
        }
        fed
    }

    #[test]
    fn the_scan_stops_at_the_end_of_a_frame() {
        let (first, second) = (frame(true, 1, 5), frame(true, 9, 0));
        let all = [&first[..], &second, &first].concat();
        let mut scan = FrameScan::new(1);
        assert_eq!(scan.feed(&all), first.len());
        assert!(scan.at_boundary());
        assert_eq!(scan.feed(&all[first.len()..]), second.len());
    }

    #[test]
    fn frame_boundaries_are_found_for_any_split_of_the_bytes() {
        let mut bytes = Vec::new();
        for length in [0, 1, 125, 126, 70_000] {
            bytes.extend(frame(true, 1, length));
        }
        let mut boundaries = 0;
        for step in [1, 2, 3, 7, 4096, bytes.len()] {
            let mut scan = FrameScan::new(1);
            for part in bytes.chunks(step) {
                feed(&mut scan, part);
                boundaries += usize::from(scan.at_boundary());
            }
            assert!(scan.at_boundary(), "step {step}");
            assert_eq!(scan.largest, 70_000);
        }
        assert!(boundaries >= 5 + 6, "{boundaries}");
    }

    #[test]
    fn a_ping_between_fragments_does_not_end_the_message() {
        let mut scan = FrameScan::new(2);
        scan.feed(&frame(false, 1, 10));
        assert!(!scan.at_boundary());
        assert_eq!(scan.part, 10);
        scan.feed(&frame(true, 9, 4));
        assert!(!scan.at_boundary());
        assert_eq!(scan.part, 10, "a ping is no part of the message");
        scan.feed(&frame(true, 0, 10));
        assert!(scan.at_boundary());
        assert_eq!(scan.part, 0);
    }

    #[test]
    fn frames_before_a_violation_may_still_be_read() {
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
            assert_eq!(feed(&mut scan, &all), readable.len());
            assert_eq!(scan.breach, Some(breach));
            assert!(!scan.at_boundary());
        }
    }
}

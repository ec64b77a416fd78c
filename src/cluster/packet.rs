//! What is in one message between brokers.
//!
//! A packet is a head and then frames, as the WebSocket of a client would get them: what is for an
//! id goes into the outbox of its owner as it is, and so does what is for whoever asked. Among them
//! are frames that no client sees, which say what is to be known of those before them.

use crate::protocol;

/// The first byte: what follows, and in which version of this format.
const FRAMES: u8 = 1;
const QUESTION: u8 = 2;

/// Bytes before the frames, beside those of the id.
pub(crate) const HEAD: usize = 9;

/// What is in a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// Frames for an id; for a node itself, where the id is empty. `epoch`: the sender's.
    Frames {
        id: &'a str,
        epoch: u32,
        frames: &'a [u8],
    },
    /// May somebody with this principal have the id?
    Question {
        id: &'a str,
        principal: Option<&'a str>,
    },
}

impl<'a> Packet<'a> {
    /// None: it is of no kind that we know.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (epoch, rest) = rest.split_first_chunk::<4>()?;
        let (id, rest) = take_text(rest)?;
        match *kind {
            FRAMES => Some(Self::Frames {
                id,
                epoch: u32::from_be_bytes(*epoch),
                frames: rest,
            }),
            QUESTION => {
                let principal = match rest {
                    [] => None,
                    rest => Some(std::str::from_utf8(rest.get(1..)?).ok()?),
                };
                Some(Self::Question { id, principal })
            }
            _ => None,
        }
    }
}

/// True if what follows are frames, for which its sender wants to hear how much was taken.
pub(crate) fn has_frames(bytes: &[u8]) -> bool {
    bytes.first() == Some(&FRAMES)
}

fn take_text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    let (text, rest) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

fn head(kind: u8, epoch: u32, id: &str) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD + id.len());
    head.push(kind);
    head.extend(epoch.to_be_bytes());
    // An id has a bound far below.
    head.extend((id.len() as u32).to_be_bytes());
    head.extend(id.as_bytes());
    head
}

/// What goes before the frames for an id.
pub(crate) fn frames_head(id: &str, epoch: u32) -> Vec<u8> {
    head(FRAMES, epoch, id)
}

/// Asks whether somebody with this principal may have the id.
pub(crate) fn question(id: &str, principal: Option<&str>) -> Vec<u8> {
    let mut bytes = head(QUESTION, 0, id);
    if let Some(principal) = principal {
        bytes.push(0);
        bytes.extend(principal.as_bytes());
    }
    bytes
}

/// How much was taken of what came by a way, and who took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) node: u64,
    pub(crate) epoch: u32,
    pub(crate) bytes: u32,
    pub(crate) packets: u32,
}

impl Taken {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20);
        bytes.extend(self.node.to_be_bytes());
        bytes.extend(self.epoch.to_be_bytes());
        bytes.extend(self.bytes.to_be_bytes());
        bytes.extend(self.packets.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (node, rest) = bytes.split_first_chunk::<8>()?;
        let (epoch, rest) = rest.split_first_chunk::<4>()?;
        let (taken, rest) = rest.split_first_chunk::<4>()?;
        let (packets, _) = rest.split_first_chunk::<4>()?;
        Some(Self {
            node: u64::from_be_bytes(*node),
            epoch: u32::from_be_bytes(*epoch),
            bytes: u32::from_be_bytes(*taken),
            packets: u32::from_be_bytes(*packets),
        })
    }
}

/// Frames, one after the other: the bytes of the text of each, and all its bytes. Ends where they are
/// no frames of ours.
pub(crate) struct Frames<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (start, end) = text_of_frame(self.0)?;
        let (frame, rest) = self.0.split_at_checked(end)?;
        self.0 = rest;
        Some((&frame[start..], frame))
    }
}

/// Where the text of the first frame begins, and where it ends. They are ours: not masked.
fn text_of_frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let (start, length) = match *bytes.get(1)? {
        126 => {
            let length = bytes.get(2..4)?;
            (4, u16::from_be_bytes(length.try_into().ok()?).into())
        }
        127 => {
            let length = bytes.get(2..10)?;
            (10, u64::from_be_bytes(length.try_into().ok()?))
        }
        length => (2, length.into()),
    };
    let end = usize::try_from(length).ok()?.checked_add(start)?;
    Some((start, end))
}

/// Bytes of the frames at the beginning that are whole and, together, at most `limit` long. What
/// belongs together is not parted: a message, what is said before it, and what is asked behind it.
pub(crate) fn whole_frames(bytes: &[u8], limit: usize) -> usize {
    let (mut cut, mut length, mut opens) = (0, 0, false);
    while length <= limit {
        let Some((start, end)) = text_of_frame(&bytes[length..]) else {
            break;
        };
        let Some(text) = bytes.get(length + start..length + end) else {
            break;
        };
        if !opens && !protocol::belongs_to_last(text) {
            cut = length;
        }
        opens = protocol::belongs_to_next(text);
        length += end;
    }
    match length <= limit && length == bytes.len() {
        true => length,
        false => cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::{Mask, encode_text};

    #[test]
    fn packets_come_out_as_they_went_in() {
        let mut bytes = frames_head("a\u{0}é", 7);
        bytes.extend(b"frames");
        let expected = Packet::Frames {
            id: "a\u{0}é",
            epoch: 7,
            frames: b"frames",
        };
        assert_eq!(Packet::decode(&bytes), Some(expected));
        for principal in [None, Some(""), Some("alice")] {
            let bytes = question("a", principal);
            let expected = Packet::Question { id: "a", principal };
            assert_eq!(Packet::decode(&bytes), Some(expected));
        }
        let taken = Taken {
            node: 1 << 60,
            epoch: 2,
            bytes: 7,
            packets: 3,
        };
        assert_eq!(Taken::decode(&taken.encode()), Some(taken));
    }

    #[test]
    fn what_is_no_packet_is_none() {
        let good = frames_head("abc", 1);
        for length in 0..good.len() {
            assert_eq!(Packet::decode(&good[..length]), None);
        }
        assert_eq!(Packet::decode(&[9, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(
            Packet::decode(&[FRAMES, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]),
            None
        );
        assert_eq!(
            Packet::decode(&[FRAMES, 0, 0, 0, 0, 255, 255, 255, 255, 1]),
            None
        );
        assert_eq!(Taken::decode(&[0; 19]), None);
    }

    #[test]
    fn what_belongs_together_is_not_parted() {
        let asks = protocol::asks("1").concat();
        let settle = protocol::settle("2").concat();
        let message = protocol::message("1", None, None).concat();
        let mut bytes = Vec::new();
        let mut cuts = vec![0];
        for group in [
            &[&message][..],
            &[&asks, &message],
            &[&message, &settle],
            &[&asks, &message, &settle],
        ] {
            for text in group {
                encode_text(&[text], text.len(), Mask::None, &mut bytes);
            }
            cuts.push(bytes.len());
        }
        for limit in 0..bytes.len() + 2 {
            let expected = cuts.iter().rfind(|cut| **cut <= limit);
            assert_eq!(Some(&whole_frames(&bytes, limit)), expected, "{limit}");
        }
    }

    #[test]
    fn frames_are_cut_where_they_end() {
        let texts = ["{}".to_owned(), "x".repeat(200), "y".repeat(70_000)];
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for text in &texts {
            encode_text(&[text], text.len(), Mask::None, &mut bytes);
            ends.push(bytes.len());
        }
        let found: Vec<_> = Frames(&bytes).map(|(text, _)| text).collect();
        let expected: Vec<_> = texts.iter().map(String::as_bytes).collect();
        assert_eq!(found, expected);
        for limit in 0..ends[3] + 2 {
            let expected = ends.iter().rfind(|end| **end <= limit);
            assert_eq!(Some(&whole_frames(&bytes, limit)), expected);
        }
        // One that is cut off is none.
        assert_eq!(Frames(&bytes[..bytes.len() - 1]).count(), 2);
    }
}

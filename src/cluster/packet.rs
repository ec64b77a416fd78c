//! The format of packets between brokers.
//!
//! A packet is a head and then WebSocket frames as a client gets them: frames for an id go into the outbox of
//! its owner unchanged, and answers into that of the requester. Between them are control frames for brokers
//! (`PeerFrame`), each about the frame next to it.

use crate::protocol;

/// The first byte of a packet: its kind, and the version of its format.
const FRAMES: u8 = 1;
const QUESTION: u8 = 2;
const CREDITS: u8 = 3;
/// Frames whose sender needs credit soon.
const EAGER_FRAMES: u8 = 4;

/// Size in bytes of the head of a packet of frames, without the id.
pub(crate) const HEAD: usize = 9;

/// A decoded packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// Frames for an id; an empty id is the receiving node itself. `epoch`: that of the sender.
    Frames {
        id: &'a str,
        epoch: u32,
        frames: &'a [u8],
    },
    /// Credit for links of the receiver, from the node that consumes their packets.
    Credits {
        node: u64,
        epoch: u32,
        credits: &'a [u8],
    },
    /// Asks whether a client with this principal may have the id.
    Question {
        id: &'a str,
        principal: Option<&'a str>,
    },
}

impl<'a> Packet<'a> {
    /// Decodes a packet; none if its kind is unknown or it is malformed.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (epoch, rest) = rest.split_first_chunk::<4>()?;
        let epoch = u32::from_be_bytes(*epoch);
        if *kind == CREDITS {
            let (node, credits) = rest.split_first_chunk::<8>()?;
            let node = u64::from_be_bytes(*node);
            return Some(Self::Credits {
                node,
                epoch,
                credits,
            });
        }
        let (id, rest) = split_text(rest)?;
        match *kind {
            FRAMES | EAGER_FRAMES => Some(Self::Frames {
                id,
                epoch,
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

/// Bytes of frames in a packet for this id; none if it has no frames. Does not decode the packet.
pub(crate) fn frames_in(bytes: &[u8], id: &str) -> Option<usize> {
    let is_frames = matches!(bytes.first(), Some(&FRAMES | &EAGER_FRAMES));
    let frames = bytes.len().checked_sub(HEAD + id.len())?;
    is_frames.then_some(frames)
}

/// True if a packet is a question. Does not decode the rest.
pub(crate) fn is_question(bytes: &[u8]) -> bool {
    bytes.first() == Some(&QUESTION)
}

/// True if the sender of a packet of frames needs credit soon.
pub(crate) fn is_eager(bytes: &[u8]) -> bool {
    bytes.first() == Some(&EAGER_FRAMES)
}

/// Marks a packet of frames: its sender needs credit soon.
pub(crate) fn make_eager(packet: &mut [u8]) {
    if let Some(kind) = packet.first_mut() {
        *kind = EAGER_FRAMES;
    }
}

fn split_text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    let (text, rest) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

fn head(kind: u8, epoch: u32, id: &str) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD + id.len());
    head.push(kind);
    head.extend(epoch.to_be_bytes());
    // The length fits: ids have a far lower limit.
    head.extend((id.len() as u32).to_be_bytes());
    head.extend(id.as_bytes());
    head
}

/// Encodes the head of a packet of frames for an id.
pub(crate) fn frames_head(id: &str, epoch: u32) -> Vec<u8> {
    head(FRAMES, epoch, id)
}

/// Encodes a question whether a client with this principal may have the id.
pub(crate) fn question(id: &str, principal: Option<&str>) -> Vec<u8> {
    let mut bytes = head(QUESTION, 0, id);
    if let Some(principal) = principal {
        bytes.push(0);
        bytes.extend(principal.as_bytes());
    }
    bytes
}

/// Credit for one link: amounts since the last credit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Credit {
    /// The number of the newest packet counted here.
    pub(crate) packet: u64,
    pub(crate) arrived: Amount,
    pub(crate) consumed: Amount,
}

/// A number of packets, and the bytes of their frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) bytes: usize,
    pub(crate) packets: usize,
}

impl Amount {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.packets += 1;
    }

    /// Subtracts an amount, down to zero; returns the difference.
    pub(crate) fn subtract(&mut self, other: Self) -> Self {
        let subtracted = Self {
            bytes: other.bytes.min(self.bytes),
            packets: other.packets.min(self.packets),
        };
        self.bytes -= subtracted.bytes;
        self.packets -= subtracted.packets;
        subtracted
    }
}

impl Credit {
    /// Encoded size in bytes, with the number of the link.
    const SIZE: usize = 32;

    /// Encodes a packet with credit for these links.
    pub(crate) fn encode(node: u64, epoch: u32, credits: &[(u64, Self)]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(13 + credits.len() * Self::SIZE);
        bytes.push(CREDITS);
        bytes.extend(epoch.to_be_bytes());
        bytes.extend(node.to_be_bytes());
        for (link, credit) in credits {
            bytes.extend(link.to_be_bytes());
            bytes.extend(credit.packet.to_be_bytes());
            for Amount {
                bytes: size,
                packets,
            } in [credit.arrived, credit.consumed]
            {
                // Fits into 32 bits: the window of a link is smaller.
                bytes.extend((size as u32).to_be_bytes());
                bytes.extend((packets as u32).to_be_bytes());
            }
        }
        bytes
    }

    /// Decodes the credit of a packet, with the number of each link.
    pub(crate) fn decode(bytes: &[u8]) -> impl Iterator<Item = (u64, Self)> {
        bytes.chunks_exact(Self::SIZE).map(|chunk| {
            let long = |at| u64::from_be_bytes(std::array::from_fn(|n| chunk[at + n]));
            let short = |at| u32::from_be_bytes(std::array::from_fn(|n| chunk[at + n])) as usize;
            let amount = |at| Amount {
                bytes: short(at),
                packets: short(at + 4),
            };
            let credit = Self {
                packet: long(8),
                arrived: amount(16),
                consumed: amount(24),
            };
            (long(0), credit)
        })
    }
}

/// Credit for one link in the format of earlier versions. A consumed amount also counts as arrived. Without
/// packets it announces the broker that begins to consume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConsumedReport {
    pub(crate) node: u64,
    pub(crate) epoch: u32,
    pub(crate) amount: Amount,
}

impl ConsumedReport {
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (node, rest) = bytes.split_first_chunk::<8>()?;
        let (epoch, rest) = rest.split_first_chunk::<4>()?;
        let (consumed, rest) = rest.split_first_chunk::<4>()?;
        let (packets, _) = rest.split_first_chunk::<4>()?;
        Some(Self {
            node: u64::from_be_bytes(*node),
            epoch: u32::from_be_bytes(*epoch),
            amount: Amount {
                bytes: u32::from_be_bytes(*consumed) as usize,
                packets: u32::from_be_bytes(*packets) as usize,
            },
        })
    }
}

/// Iterates over frames: the text of each, and the whole frame. Ends at a malformed one.
pub(crate) struct Frames<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (start, end) = text_range(self.0)?;
        let (frame, rest) = self.0.split_at_checked(end)?;
        self.0 = rest;
        Some((&frame[start..], frame))
    }
}

/// The byte range of the text of the first frame. Frames between brokers are not masked.
fn text_range(bytes: &[u8]) -> Option<(usize, usize)> {
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

/// Length in bytes of the longest prefix of at most `limit` bytes that can be sent as one packet: whole frames,
/// and no message apart from the control frames about it.
pub(crate) fn whole_frames(bytes: &[u8], limit: usize) -> usize {
    let (mut cut, mut length, mut opens) = (0, 0, false);
    while length <= limit {
        let Some((start, end)) = text_range(&bytes[length..]) else {
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
    use crate::transport::framing::{Mask, encode_text};

    #[test]
    fn packets_are_decoded_as_they_were_encoded() {
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
        let amount = |bytes, packets| Amount { bytes, packets };
        let credits = [1, u64::MAX].map(|link| {
            let credit = Credit {
                packet: link - 1,
                arrived: amount(1 << 20, 7),
                consumed: amount(3, 1),
            };
            (link, credit)
        });
        let bytes = Credit::encode(1 << 60, 2, &credits);
        let Some(Packet::Credits {
            node,
            epoch,
            credits: rest,
        }) = Packet::decode(&bytes)
        else {
            panic!("no credits");
        };
        assert_eq!((node, epoch), (1 << 60, 2));
        assert_eq!(Credit::decode(rest).collect::<Vec<_>>(), credits);
        let consumed = ConsumedReport {
            node: 1,
            epoch: 2,
            amount: amount(7, 3),
        };
        let bytes = [
            [0, 0, 0, 0],
            [0, 0, 0, 1],
            [0, 0, 0, 2],
            [0, 0, 0, 7],
            [0, 0, 0, 3],
        ];
        assert_eq!(ConsumedReport::decode(bytes.as_flattened()), Some(consumed));
    }

    #[test]
    fn the_first_byte_of_a_packet_marks_it_as_eager() {
        let mut packet = frames_head("abc", 1);
        packet.extend(b"frames");
        assert_eq!(
            (frames_in(&packet, "abc"), is_eager(&packet)),
            (Some(6), false)
        );
        make_eager(&mut packet);
        assert_eq!(
            (frames_in(&packet, "abc"), is_eager(&packet)),
            (Some(6), true)
        );
        let expected = Packet::Frames {
            id: "abc",
            epoch: 1,
            frames: b"frames",
        };
        assert_eq!(Packet::decode(&packet), Some(expected));
        for other in [
            &question("a", None)[..],
            &Credit::encode(1, 1, &[]),
            b"",
            &[1],
        ] {
            assert_eq!((frames_in(other, ""), is_eager(other)), (None, false));
        }
    }

    #[test]
    fn malformed_packets_are_not_decoded() {
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
        assert_eq!(ConsumedReport::decode(&[0; 19]), None);
        assert_eq!(Packet::decode(&[CREDITS; 12]), None);
        assert_eq!(Credit::decode(&[0; Credit::SIZE - 1]).count(), 0);
    }

    #[test]
    fn a_message_is_not_split_from_its_control_frames() {
        let expect_reply = protocol::expect_reply("1").concat();
        let confirm = protocol::confirm("2").concat();
        let message = protocol::message("1", None, None).concat();
        let mut bytes = Vec::new();
        let mut cuts = vec![0];
        for group in [
            &[&message][..],
            &[&expect_reply, &message],
            &[&message, &confirm],
            &[&expect_reply, &message, &confirm],
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
        // A truncated frame is not returned.
        assert_eq!(Frames(&bytes[..bytes.len() - 1]).count(), 2);
    }
}

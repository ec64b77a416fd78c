//! The rows of the tables as bytes.
//!
//! Numbers are big-endian in keys, so that rows are in their order, and little-endian in values.

use std::sync::Arc;

use bytes::Bytes;

use super::checksum;
use crate::store::{Key, index::TopicRow, keys::KeyRow};

/// Bytes of the numbers of a message.
const MESSAGE: usize = 24;

/// The row of a log. Its key is the pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) pattern: Arc<str>,
    pub(super) number: u32,
    /// Greater offsets have not been given yet. Written before they are.
    pub(super) reserved: u64,
    /// True if the log was closed: all reserved offsets were given.
    pub(super) is_closed: bool,
    /// The newest offset that was trimmed of a topic that the log does not know any more.
    pub(super) forgotten_to: u64,
    /// Offsets up to this one do not count the messages: some were reserved and not used.
    pub(super) jumped_to: u64,
    pub(super) epoch: Arc<str>,
}

/// The row of a message.
#[derive(Debug, Clone)]
pub(super) struct MessageRow {
    pub(super) offset: u64,
    pub(super) time: u64,
    pub(super) prev: u64,
    pub(super) topic: u32,
    pub(super) frame: Bytes,
    pub(super) key: Option<Key>,
}

/// The row of a message as the file has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageRef<'a> {
    pub(super) offset: u64,
    pub(super) time: u64,
    pub(super) prev: u64,
    pub(super) topic: u32,
    checksum: u32,
    pub(super) frame: &'a [u8],
}

/// The key of a topic by its number, or of a message or an idempotency key by its offset.
pub(super) fn key(log: u32, number: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&log.to_be_bytes());
    key[4..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The number in a key.
pub(super) fn number_of(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|number| u64::from_be_bytes(*number))
}

/// Removes the first bytes.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes).map(u32::from_le_bytes)
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_le_bytes)
}

fn text(bytes: &[u8]) -> Option<Arc<str>> {
    str::from_utf8(bytes).ok().map(Arc::from)
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(64);
        value.extend(self.number.to_le_bytes());
        for number in [self.reserved, self.forgotten_to, self.jumped_to] {
            value.extend(number.to_le_bytes());
        }
        value.push(u8::from(self.is_closed));
        value.extend(self.epoch.as_bytes());
        value
    }

    pub(super) fn decode(pattern: &[u8], mut value: &[u8]) -> Option<Self> {
        let value = &mut value;
        Some(Self {
            pattern: text(pattern)?,
            number: take_u32(value)?,
            reserved: take_u64(value)?,
            forgotten_to: take_u64(value)?,
            jumped_to: take_u64(value)?,
            is_closed: take(value)? == [1],
            epoch: text(value)?,
        })
    }
}

pub(super) fn encode_topic(row: &TopicRow) -> Vec<u8> {
    let mut value = Vec::with_capacity(16 + row.name.len());
    value.extend(row.last.to_le_bytes());
    value.extend(row.trimmed_to.to_le_bytes());
    value.extend(row.name.as_bytes());
    value
}

pub(super) fn decode_topic(key: &[u8], mut value: &[u8]) -> Option<TopicRow> {
    let value = &mut value;
    Some(TopicRow {
        number: u32::try_from(number_of(key)?).ok()?,
        last: take_u64(value)?,
        trimmed_to: take_u64(value)?,
        name: text(value)?,
    })
}

pub(super) fn encode_key(time: u64, key: &Key) -> [u8; 24] {
    let mut value = [0; 24];
    value[..8].copy_from_slice(&time.to_le_bytes());
    value[8..].copy_from_slice(&key.0);
    value
}

pub(super) fn decode_key(key: &[u8], mut value: &[u8]) -> Option<KeyRow> {
    let value = &mut value;
    Some(KeyRow {
        offset: number_of(key)?,
        time: take_u64(value)?,
        key: Key(take(value)?),
    })
}

impl MessageRow {
    /// Writes the value of the row into a buffer, in place of its content.
    pub(super) fn encode(&self, log: u32, value: &mut Vec<u8>) {
        let numbers = [self.offset, self.time, self.prev, self.topic.into()];
        let checksum = checksum::of(log, numbers, &self.frame);
        value.clear();
        value.reserve(MESSAGE + self.frame.len());
        value.extend(self.time.to_le_bytes());
        value.extend(self.prev.to_le_bytes());
        value.extend(self.topic.to_le_bytes());
        value.extend(checksum.to_le_bytes());
        value.extend(&*self.frame);
    }
}

impl<'a> MessageRef<'a> {
    pub(super) fn decode(key: &[u8], mut value: &'a [u8]) -> Option<Self> {
        Some(Self {
            offset: number_of(key)?,
            time: take_u64(&mut value)?,
            prev: take_u64(&mut value)?,
            topic: take_u32(&mut value)?,
            checksum: take_u32(&mut value)?,
            frame: value,
        })
    }

    /// False if the row is not as it was written.
    pub(super) fn is_intact(&self, log: u32) -> bool {
        let numbers = [self.offset, self.time, self.prev, self.topic.into()];
        self.checksum == checksum::of(log, numbers, self.frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written_and_short_ones_are_none() {
        let head = Head {
            pattern: "room.>".into(),
            number: 7,
            reserved: 1 << 40,
            is_closed: true,
            forgotten_to: 3,
            jumped_to: 4,
            epoch: "abc".into(),
        };
        let value = head.encode();
        assert_eq!(Head::decode(b"room.>", &value), Some(head));
        assert_eq!(Head::decode(b"room.>", &value[..20]), None);
        let topic = TopicRow {
            number: 9,
            last: 5,
            trimmed_to: 2,
            name: "room.7".into(),
        };
        let value = encode_topic(&topic);
        assert_eq!(decode_topic(&key(1, 9), &value), Some(topic));
        assert_eq!(decode_topic(b"", &value), None);
        let row = KeyRow {
            offset: 300,
            time: 5,
            key: Key([3; 16]),
        };
        let value = encode_key(row.time, &row.key);
        assert_eq!(decode_key(&key(1, 300), &value), Some(row));
        assert_eq!(decode_key(&key(1, 300), &value[1..]), None);
    }

    #[test]
    fn a_message_is_intact_unless_a_byte_changes_or_it_is_elsewhere() {
        let row = MessageRow {
            offset: 300,
            time: 5,
            prev: 2,
            topic: 1,
            frame: Bytes::from_static(b"frame"),
            key: None,
        };
        let mut value = b"old".to_vec();
        row.encode(4, &mut value);
        let is_intact = |log, offset, value: &[u8]| {
            MessageRef::decode(&key(log, offset), value)
                .unwrap()
                .is_intact(log)
        };
        assert!(is_intact(4, 300, &value));
        assert!(!is_intact(5, 300, &value) && !is_intact(4, 301, &value));
        for place in 0..value.len() {
            value[place] ^= 4;
            assert!(!is_intact(4, 300, &value), "{place}");
            value[place] ^= 4;
        }
        assert!(MessageRef::decode(&key(4, 300), &value[..MESSAGE - 1]).is_none());
        assert!(key(1, 255) < key(1, 256) && key(1, u64::MAX) < key(2, 0));
    }
}

//! The idempotency keys of a log: by which repetitions of recent messages are recognized.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use foldhash::quality::RandomState;
use hashbrown::HashMap;

use super::Key;

/// Milliseconds for which a key is recognized.
pub(super) const WINDOW: u64 = 120_000;
/// Maximum number of keys of a log.
pub(super) const MAX_KEYS: usize = if cfg!(test) { 64 } else { 65_536 };
/// Bytes of memory that are charged for a key: its entries, with as many unused ones.
const MEMORY: usize = 112;

/// A key, and the message that was appended with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyRow {
    pub(super) offset: u64,
    /// Milliseconds since 1970.
    pub(super) time: u64,
    pub(super) key: Key,
}

/// The keys of a log.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// In the order of their offsets.
    rows: VecDeque<KeyRow>,
    offsets: HashMap<Key, u64, RandomState>,
}

impl Keys {
    /// Bytes of memory of all keys.
    pub(super) fn memory(&self) -> usize {
        self.rows.len() * MEMORY
    }

    /// Adds the key of the newest message.
    pub(super) fn add(&mut self, row: KeyRow) {
        self.offsets.insert(row.key, row.offset);
        self.rows.push_back(row);
    }

    /// The offset of the message that was appended with this key.
    pub(super) fn find(&self, key: &Key) -> Option<u64> {
        let offset = *self.offsets.get(key)?;
        let place = self.rows.partition_point(|row| row.offset < offset);
        let row = self.rows.get(place)?;
        (!is_old(row, now())).then_some(offset)
    }

    /// Forgets the keys that are too old or too many. Returns the offset up to which keys are forgotten.
    pub(super) fn forget(&mut self, now: u64) -> Option<u64> {
        let mut forgotten = None;
        while let Some(row) = self.rows.front().copied() {
            if self.rows.len() <= MAX_KEYS && !is_old(&row, now) {
                break;
            }
            self.rows.pop_front();
            self.forget_row(&row);
            forgotten = Some(row.offset);
        }
        if self.rows.capacity() > 1024 && self.rows.len() < self.rows.capacity() / 4 {
            self.rows.shrink_to(self.rows.len() * 2);
            self.offsets.shrink_to(self.rows.len() * 2);
        }
        forgotten
    }

    /// Forgets the keys of messages from this offset on: they could not be stored.
    pub(super) fn remove_from(&mut self, offset: u64) {
        while let Some(row) = self.rows.back().copied() {
            if row.offset < offset {
                break;
            }
            self.rows.pop_back();
            self.forget_row(&row);
        }
    }

    fn forget_row(&mut self, row: &KeyRow) {
        // A newer message may have the same key.
        if self.offsets.get(&row.key) == Some(&row.offset) {
            self.offsets.remove(&row.key);
        }
    }
}

fn is_old(row: &KeyRow, now: u64) -> bool {
    now.saturating_sub(row.time) > WINDOW
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(offset: u64, time: u64, key: u8) -> KeyRow {
        let key = Key([key; 16]);
        KeyRow { offset, time, key }
    }

    #[test]
    fn a_key_is_found_within_its_window_and_while_it_is_one_of_the_newest() {
        let (now, mut keys) = (now(), Keys::default());
        keys.add(row(3, now - 2 * WINDOW, 1));
        keys.add(row(5, now, 2));
        assert_eq!(keys.find(&Key([1; 16])), None);
        assert_eq!(keys.find(&Key([2; 16])), Some(5));
        assert_eq!(keys.forget(now), Some(3));
        assert_eq!(keys.forget(now), None);
        assert_eq!(keys.memory(), MEMORY);
        for number in 0..MAX_KEYS {
            keys.add(row(6 + number as u64, now, 3 + number as u8));
        }
        assert_eq!(keys.forget(now), Some(5));
        assert_eq!(keys.find(&Key([2; 16])), None);
        assert_eq!(keys.find(&Key([3; 16])), Some(6));
    }

    #[test]
    fn the_newest_message_with_a_key_counts() {
        let (now, mut keys) = (now(), Keys::default());
        keys.add(row(1, now - 2 * WINDOW, 1));
        keys.add(row(2, now, 1));
        assert_eq!(keys.forget(now), Some(1));
        assert_eq!(keys.find(&Key([1; 16])), Some(2));
        keys.add(row(3, now, 2));
        keys.remove_from(3);
        assert_eq!(keys.find(&Key([2; 16])), None);
        keys.remove_from(2);
        assert_eq!(keys.find(&Key([1; 16])), None);
        assert_eq!(keys.memory(), 0);
    }
}

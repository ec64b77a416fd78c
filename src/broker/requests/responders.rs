//! Responders: the connections that may answer a request.

use std::sync::Arc;

use crate::broker::handle::Handle;

/// Bit in the key of a responder whose part has ended. Keys are sequential and never reach it.
const ENDED: u64 = 1 << 63;

/// Responders of one request.
#[derive(Debug)]
pub(super) struct Responders {
    /// Keys of all responders; a prefix is sorted. Sorting at each insertion would be quadratic, and so
    /// would removal: ended ones stay.
    keys: Vec<u64>,
    /// Length of the sorted prefix of `keys`.
    sorted: u32,
    /// Number of responders that may still answer.
    left: u32,
    /// Responders with further data; a prefix is sorted. Empty if asker and responders speak version 1.
    known: Vec<NotifiedResponder>,
    sorted_known: u32,
}

#[derive(Debug)]
pub(super) struct NotifiedResponder {
    pub(super) key: u64,
    /// For its cancellation; present if it speaks version 2.
    pub(super) handle: Option<Arc<Handle>>,
    /// Id that was asked, for the failure sent to the asker; present if the asker speaks version 2.
    pub(super) id: Option<Arc<str>>,
}

impl NotifiedResponder {
    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        /// The two counters of an `Arc`.
        const COUNTERS: usize = 16;
        size_of::<Self>() + self.id.as_ref().map_or(0, |id| COUNTERS + id.len())
    }
}

/// Maximum length of the unsorted rest: this many, or this fraction of the sorted prefix if that is more.
const UNSORTED: usize = 16;
const PART: usize = 16;

/// Index of the item with this key.
fn find_in<T>(items: &[T], sorted: u32, key: u64, key_of: impl Fn(&T) -> u64) -> Option<usize> {
    // Most requests have few responders: the unsorted rest is searched first.
    let (sorted, rest) = items.split_at(sorted as usize);
    match rest.iter().position(|item| key_of(item) == key) {
        Some(at) => Some(sorted.len() + at),
        None => sorted.binary_search_by_key(&key, key_of).ok(),
    }
}

/// Sorts the items if the unsorted rest is too long.
fn sort<T>(items: &mut [T], sorted: &mut u32, key_of: impl Fn(&T) -> u64) {
    let before = *sorted as usize;
    if items.len() - before > UNSORTED.max(before / PART) {
        items.sort_unstable_by_key(key_of);
        // There are never so many responders that the cast truncates.
        *sorted = items.len() as u32;
    }
}

impl Responders {
    pub(super) fn with_capacity(count: usize) -> Self {
        Self {
            keys: Vec::with_capacity(count),
            sorted: 0,
            left: 0,
            known: Vec::new(),
            sorted_known: 0,
        }
    }

    /// Number of responders that may still answer.
    pub(super) fn len(&self) -> usize {
        self.left as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left == 0
    }

    pub(super) fn has_known(&self) -> bool {
        !self.known.is_empty()
    }

    fn find(&self, key: u64) -> Option<usize> {
        find_in(&self.keys, self.sorted, key, |other| other & !ENDED)
    }

    fn find_known(&self, key: u64) -> Option<usize> {
        find_in(&self.known, self.sorted_known, key, |known| known.key)
    }

    /// True for a responder, even if its part has ended.
    pub(super) fn has(&self, key: u64) -> bool {
        self.find(key).is_some()
    }

    /// True for a responder that may still answer.
    pub(super) fn contains(&self, key: u64) -> bool {
        self.find(key).is_some_and(|at| self.keys[at] == key)
    }

    /// Adds a responder that is not in the list. To be followed by [`sort`](Self::sort).
    pub(super) fn push(&mut self, key: u64, known: Option<NotifiedResponder>) {
        self.keys.push(key);
        self.left += 1;
        self.known.extend(known);
    }

    pub(super) fn sort(&mut self) {
        sort(&mut self.keys, &mut self.sorted, |key| key & !ENDED);
        sort(&mut self.known, &mut self.sorted_known, |known| known.key);
    }

    /// Further data of a responder.
    pub(super) fn get(&self, key: u64) -> Option<&NotifiedResponder> {
        self.find_known(key).map(|at| &self.known[at])
    }

    /// True for a responder that may still answer and was asked as this id.
    pub(super) fn was_asked_as(&self, key: u64, id: &str) -> bool {
        let known = self.get(key).and_then(|known| known.id.as_deref());
        known == Some(id) && self.contains(key)
    }

    /// Responders that were asked as this id, as far as that is recorded.
    pub(super) fn asked_as(&self, id: &str) -> Vec<(u64, Option<Arc<Handle>>)> {
        let those = self
            .known
            .iter()
            .filter(|known| known.id.as_deref() == Some(id));
        those
            .map(|known| (known.key, known.handle.clone()))
            .collect()
    }

    /// Ends a responder's part; false if it has none.
    pub(super) fn end(&mut self, key: u64) -> bool {
        self.forget(key);
        match self.find(key) {
            Some(at) if self.keys[at] == key => {
                self.keys[at] |= ENDED;
                self.left -= 1;
                true
            }
            _ => false,
        }
    }

    /// Removes a responder that may be asked again; false if it has no part.
    pub(super) fn remove(&mut self, key: u64) -> bool {
        let has_ended = self.end(key);
        if has_ended {
            if let Some(at) = self.find(key) {
                self.keys.remove(at);
                self.sorted -= u32::from(at < self.sorted as usize);
            }
            if let Some(at) = self.find_known(key) {
                self.known.remove(at);
                self.sorted_known -= u32::from(at < self.sorted_known as usize);
            }
        }
        has_ended
    }

    /// Drops the further data of a responder.
    pub(super) fn forget(&mut self, key: u64) {
        if let Some(at) = self.find_known(key) {
            let known = &mut self.known[at];
            (known.handle, known.id) = (None, None);
        }
    }

    /// All further data.
    pub(super) fn into_known(self) -> Vec<NotifiedResponder> {
        self.known
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> Vec<u64> {
        let keys = self.keys.iter().copied();
        let mut keys: Vec<_> = keys.filter(|key| key & ENDED == 0).collect();
        keys.sort_unstable();
        keys
    }
}

//! Who may answer a request.

use std::sync::Arc;

use crate::broker::handle::Handle;

/// Marks the key of one whose part has ended. Keys are given one after the other, and never come to
/// this.
const ENDED: u64 = 1 << 63;

/// The connections that may answer a request.
#[derive(Debug)]
pub(super) struct Responders {
    /// Their keys, the first of them in order: sorting them at each that is added would cost the more
    /// the more there are. So would taking them out: those whose part has ended stay.
    keys: Vec<u64>,
    /// How many are in order.
    sorted: u32,
    /// How many of them may answer still.
    left: u32,
    /// Those of whom more must be known, in order as well: nobody, where all speak version 1.
    known: Vec<NotifiedResponder>,
    sorted_known: u32,
}

#[derive(Debug)]
pub(super) struct NotifiedResponder {
    pub(super) key: u64,
    /// To be told that nobody awaits its answer any more: it speaks version 2.
    pub(super) handle: Option<Arc<Handle>>,
    /// The id by which the request was delivered: who asked is told what became of it.
    pub(super) id: Option<Arc<str>>,
}

impl NotifiedResponder {
    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        /// An allocation's two counters.
        const COUNTERS: usize = 16;
        size_of::<Self>() + self.id.as_ref().map_or(0, |id| COUNTERS + id.len())
    }
}

/// So many need not be in order, or this part of them, if that is more.
const UNSORTED: usize = 16;
const PART: usize = 16;

/// The place of the one with this key, where so many are in order.
fn find_in<T>(items: &[T], sorted: u32, key: u64, key_of: impl Fn(&T) -> u64) -> Option<usize> {
    // Most requests have few, or one.
    let (sorted, rest) = items.split_at(sorted as usize);
    match rest.iter().position(|item| key_of(item) == key) {
        Some(at) => Some(sorted.len() + at),
        None => sorted.binary_search_by_key(&key, key_of).ok(),
    }
}

/// Brings them in order, if there are too many that are not.
fn sort<T>(items: &mut [T], sorted: &mut u32, key_of: impl Fn(&T) -> u64) {
    let before = *sorted as usize;
    if items.len() - before > UNSORTED.max(before / PART) {
        items.sort_unstable_by_key(key_of);
        // Nobody knows of so many.
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

    /// How many may answer still.
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

    /// True for one that was asked, whether its part has ended or not.
    pub(super) fn has(&self, key: u64) -> bool {
        self.find(key).is_some()
    }

    /// True for one that may answer.
    pub(super) fn contains(&self, key: u64) -> bool {
        self.find(key).is_some_and(|at| self.keys[at] == key)
    }

    /// Adds one that is not there yet. To be followed by [`sort`](Self::sort).
    pub(super) fn push(&mut self, key: u64, known: Option<NotifiedResponder>) {
        self.keys.push(key);
        self.left += 1;
        self.known.extend(known);
    }

    pub(super) fn sort(&mut self) {
        sort(&mut self.keys, &mut self.sorted, |key| key & !ENDED);
        sort(&mut self.known, &mut self.sorted_known, |known| known.key);
    }

    /// What is known of this one.
    pub(super) fn get(&self, key: u64) -> Option<&NotifiedResponder> {
        self.find_known(key).map(|at| &self.known[at])
    }

    /// True for one that may answer, and was asked as this id.
    pub(super) fn was_asked_as(&self, key: u64, id: &str) -> bool {
        let known = self.get(key).and_then(|known| known.id.as_deref());
        known == Some(id) && self.contains(key)
    }

    /// Those that were asked as this id, where that is known.
    pub(super) fn asked_as(&self, id: &str) -> Vec<(u64, Option<Arc<Handle>>)> {
        let those = self
            .known
            .iter()
            .filter(|known| known.id.as_deref() == Some(id));
        those
            .map(|known| (known.key, known.handle.clone()))
            .collect()
    }

    /// Ends the part of one; false if it has none.
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

    /// Takes one out that may be asked again; false if it has no part.
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

    /// Knows no more of one than that it is there.
    pub(super) fn forget(&mut self, key: u64) {
        if let Some(at) = self.find_known(key) {
            let known = &mut self.known[at];
            (known.handle, known.id) = (None, None);
        }
    }

    /// Those of whom more is known.
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

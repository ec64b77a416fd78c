//! Who may answer a request.

use std::sync::Arc;

use crate::handle::Handle;

/// Marks the key of one whose part has ended. Keys are given one after the other, and never come to
/// this.
const ENDED: u64 = 1 << 63;

/// The connections that may answer a request.
#[derive(Debug)]
pub(super) struct Responders {
    /// Their keys, in order. Those whose part has ended stay: taking them out one by one would cost
    /// the more the more there are.
    keys: Vec<u64>,
    /// How many of them may answer still.
    left: usize,
    /// Those of whom more must be known, in the same order: nobody, where all speak version 1.
    known: Vec<Known>,
}

#[derive(Debug)]
pub(super) struct Known {
    pub(super) key: u64,
    /// To be told that nobody awaits its answer any more: it speaks version 2.
    pub(super) handle: Option<Arc<Handle>>,
    /// The id by which the request was delivered: who asked is told what became of it.
    pub(super) id: Option<Arc<str>>,
}

impl Known {
    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        /// An allocation's two counters.
        const COUNTERS: usize = 16;
        size_of::<Self>() + self.id.as_ref().map_or(0, |id| COUNTERS + id.len())
    }
}

impl Responders {
    pub(super) fn with_capacity(count: usize) -> Self {
        Self {
            keys: Vec::with_capacity(count),
            left: 0,
            known: Vec::new(),
        }
    }

    /// How many may answer still.
    pub(super) fn len(&self) -> usize {
        self.left
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left == 0
    }

    pub(super) fn has_known(&self) -> bool {
        !self.known.is_empty()
    }

    fn find(&self, key: u64) -> Option<usize> {
        let found = self.keys.binary_search_by_key(&key, |other| other & !ENDED);
        found.ok()
    }

    fn find_known(&self, key: u64) -> Option<usize> {
        let found = self.known.binary_search_by_key(&key, |known| known.key);
        found.ok()
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
    pub(super) fn push(&mut self, key: u64, known: Option<Known>) {
        self.keys.push(key);
        self.left += 1;
        self.known.extend(known);
    }

    pub(super) fn sort(&mut self) {
        if self.keys.len() > 1 {
            self.keys.sort_unstable_by_key(|key| key & !ENDED);
            self.known.sort_unstable_by_key(|known| known.key);
        }
    }

    /// What is known of this one.
    pub(super) fn get(&self, key: u64) -> Option<&Known> {
        self.find_known(key).map(|at| &self.known[at])
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
            self.find(key).map(|at| self.keys.remove(at));
            self.find_known(key).map(|at| self.known.remove(at));
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
    pub(super) fn into_known(self) -> Vec<Known> {
        self.known
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> Vec<u64> {
        let keys = self.keys.iter().copied();
        keys.filter(|key| key & ENDED == 0).collect()
    }
}

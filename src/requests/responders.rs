//! Who may answer a request.

use std::sync::Arc;

use crate::handle::Handle;

/// The connections that may answer a request.
#[derive(Debug, Default)]
pub(super) struct Responders {
    /// Their keys, in order.
    keys: Vec<u64>,
    /// Those of whom more must be known, in the same order: nobody's, where all speak version 1.
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
            known: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn has_known(&self) -> bool {
        !self.known.is_empty()
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.keys.binary_search(&key).is_ok()
    }

    /// Adds one that is not there yet. To be followed by [`sort`](Self::sort).
    pub(super) fn push(&mut self, key: u64, known: Option<Known>) {
        self.keys.push(key);
        self.known.extend(known);
    }

    pub(super) fn sort(&mut self) {
        if self.keys.len() > 1 {
            self.keys.sort_unstable();
            self.known.sort_unstable_by_key(|known| known.key);
        }
    }

    /// The id by which the request was delivered to this one, if that is known.
    pub(super) fn id(&self, key: u64) -> Option<&Arc<str>> {
        let at = self.known.binary_search_by_key(&key, |known| known.key);
        self.known[at.ok()?].id.as_ref()
    }

    /// Removes one; false if it is not there.
    pub(super) fn remove(&mut self, key: u64) -> bool {
        let at = self.keys.binary_search(&key);
        let found = at.map(|at| self.keys.remove(at)).is_ok();
        self.forget(key);
        found
    }

    /// Knows no more of one than that it is there.
    pub(super) fn forget(&mut self, key: u64) {
        if let Ok(at) = self.known.binary_search_by_key(&key, |known| known.key) {
            self.known.remove(at);
        }
    }

    /// Those of whom more is known.
    pub(super) fn into_known(self) -> Vec<Known> {
        self.known
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> &[u64] {
        &self.keys
    }
}

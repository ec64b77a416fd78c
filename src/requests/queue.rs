//! Queues in which ended requests are left behind, and swept when half of a queue has ended.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
    sync::{Arc, Weak},
    time::Instant,
};

use super::Request;

/// So many ended requests may always be left in a queue.
const SWEEP_FROM: usize = 16;

/// Counts the requests of a queue that have ended since it was swept.
#[derive(Debug, Default)]
struct Litter(usize);

impl Litter {
    /// One more has ended; true if a queue of so many is to be swept.
    fn add(&mut self, length: usize) -> bool {
        self.0 += 1;
        self.0 >= SWEEP_FROM && self.0 * 2 >= length
    }
}

fn is_ended(request: &Weak<Request>) -> bool {
    request.strong_count() == 0
}

/// The requests of a connection, oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Each with a tag, by which some are found without a look at them all.
    pub(super) items: VecDeque<(Weak<Request>, u64)>,
    litter: Litter,
}

impl Queue {
    /// Those with this tag that have not ended.
    pub(super) fn tagged(&self, tag: u64) -> Vec<Arc<Request>> {
        let tagged = self.items.iter().filter(|(_, other)| *other == tag);
        tagged
            .filter_map(|(request, _)| request.upgrade())
            .collect()
    }

    pub(super) fn push(&mut self, request: &Arc<Request>, tag: u64) {
        self.items.push_back((Arc::downgrade(request), tag));
    }

    /// One of them has ended.
    #[inline]
    pub(super) fn note_end(&mut self) {
        if self.litter.add(self.items.len()) {
            self.sweep();
        }
    }

    /// Forgets those that have ended.
    pub(super) fn sweep(&mut self) {
        self.items.retain(|(item, _)| !is_ended(item));
        self.litter = Litter::default();
        if self.items.capacity() > SWEEP_FROM.max(self.items.len()) * 4 {
            self.items.shrink_to(self.items.len() * 2);
        }
    }
}

/// The requests of a shard, by the time at which they end.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// Those that last as long as all others: each new one is the last.
    usual: VecDeque<Deadline>,
    /// Those with a time of their own.
    own: BinaryHeap<Reverse<Deadline>>,
    litter: Litter,
}

#[derive(Debug)]
struct Deadline {
    at: Instant,
    request: Weak<Request>,
}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Deadline {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Deadline {}

impl Deadlines {
    /// Adds one that ends at this time, which is its own or that of all requests.
    pub(super) fn push(&mut self, at: Instant, is_own: bool, request: &Arc<Request>) {
        let request = Arc::downgrade(request);
        if is_own {
            self.own.push(Reverse(Deadline { at, request }));
        } else {
            // That is the end, unless the time of all has been shortened meanwhile.
            let place = self.usual.partition_point(|other| other.at <= at);
            self.usual.insert(place, Deadline { at, request });
        }
    }

    /// One of them has ended.
    #[inline]
    pub(super) fn note_end(&mut self) {
        if self.litter.add(self.len()) {
            self.usual.retain(|old| !is_ended(&old.request));
            self.own.retain(|Reverse(old)| !is_ended(&old.request));
            self.litter = Litter::default();
        }
    }

    /// The next one whose time is up.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Arc<Request>> {
        // Nobody asks for the time of one that has ended.
        let is_due = |deadline: &Deadline| deadline.at <= now || is_ended(&deadline.request);
        while self.usual.front().is_some_and(is_due) {
            let request = self.usual.pop_front()?.request.upgrade();
            if request.is_some() {
                return request;
            }
        }
        while self.own.peek().is_some_and(|Reverse(own)| is_due(own)) {
            let request = self.own.pop()?.0.request.upgrade();
            if request.is_some() {
                return request;
            }
        }
        None
    }

    /// Gives memory back that was needed in a rush.
    pub(super) fn shrink(&mut self, room: usize) {
        let usual = room.max(self.usual.len() * 4);
        if self.usual.capacity() > usual * 2 {
            self.usual.shrink_to(usual);
        }
        let own = room.max(self.own.len() * 4);
        if self.own.capacity() > own * 2 {
            self.own.shrink_to(own);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.usual.len() + self.own.len()
    }
}

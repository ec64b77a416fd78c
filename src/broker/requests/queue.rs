//! Queues of requests. Entries of ended requests stay until they are swept: when a queue has doubled, and
//! once a second.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
    sync::{Arc, Weak},
    time::Instant,
};

use super::Request;

/// Minimum length at which a queue that has doubled is swept.
const SWEEP_FROM: usize = 64;

fn is_ended(request: &Weak<Request>) -> bool {
    request.strong_count() == 0
}

/// Requests of a connection, oldest first.
#[derive(Debug)]
pub(super) struct RequestQueue {
    /// Each with a tag, by which they can be filtered.
    pub(super) items: VecDeque<(Weak<Request>, u64)>,
    sweep_at: usize,
}

impl Default for RequestQueue {
    fn default() -> Self {
        Self {
            items: VecDeque::new(),
            sweep_at: SWEEP_FROM,
        }
    }
}

impl RequestQueue {
    /// Pending requests with this tag.
    pub(super) fn tagged(&self, tag: u64) -> Vec<Arc<Request>> {
        let tagged = self.items.iter().filter(|(_, other)| *other == tag);
        tagged
            .filter_map(|(request, _)| request.upgrade())
            .collect()
    }

    pub(super) fn push(&mut self, request: &Arc<Request>, tag: u64) {
        if self.items.len() >= self.sweep_at {
            self.sweep();
        }
        self.items.push_back((Arc::downgrade(request), tag));
    }

    /// Removes entries of ended requests.
    pub(super) fn sweep(&mut self) {
        self.items.retain(|(item, _)| !is_ended(item));
        self.sweep_at = (self.items.len() * 2).max(SWEEP_FROM);
        if self.items.capacity() > self.sweep_at * 2 {
            self.items.shrink_to(self.sweep_at);
        }
    }
}

/// Requests of a shard by deadline.
#[derive(Debug)]
pub(super) struct Deadlines {
    /// Requests with the general timeout: each new one is the last.
    usual: VecDeque<Deadline>,
    /// Requests with a timeout of their own.
    own: BinaryHeap<Reverse<Deadline>>,
    sweep_at: usize,
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

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            usual: VecDeque::new(),
            own: BinaryHeap::new(),
            sweep_at: SWEEP_FROM,
        }
    }
}

impl Deadlines {
    /// Adds a request. `is_own`: it has a timeout of its own.
    pub(super) fn push(&mut self, at: Instant, is_own: bool, request: &Arc<Request>) {
        if self.len() >= self.sweep_at {
            self.sweep();
        }
        let request = Arc::downgrade(request);
        if is_own {
            self.own.push(Reverse(Deadline { at, request }));
        } else {
            // This is the end of the queue, unless the general timeout was shortened.
            let place = self.usual.partition_point(|other| other.at <= at);
            self.usual.insert(place, Deadline { at, request });
        }
    }

    /// Removes entries of ended requests.
    pub(super) fn sweep(&mut self) {
        self.usual.retain(|old| !is_ended(&old.request));
        self.own.retain(|Reverse(old)| !is_ended(&old.request));
        self.sweep_at = (self.len() * 2).max(SWEEP_FROM);
    }

    /// Removes and returns the next request whose deadline has passed.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Arc<Request>> {
        // Entries of ended requests are removed on the way.
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

    /// Releases memory after a burst.
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

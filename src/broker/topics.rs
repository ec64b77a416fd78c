//! The subscriptions of a broker: which connections get a message to a topic.
//!
//! Subscribers of one topic are found in one lookup; those of patterns with wildcards in a tree of tokens, which
//! publishers skip while no such pattern exists.
//!
//! Locks: a connection's state (`Handle::subscriber`), then a shard or the tree. Under the latter nothing else is
//! locked.
//!
//! | file | contents |
//! | --- | --- |
//! | `topics` | subscribers by topic |
//! | `wildcards` | subscribers by patterns with wildcards |
//! | `subscriber` | what a connection subscribes to, and what it has lost |
//! | `publish` | pushes messages of a topic to a subscriber |

mod publish;
pub(crate) mod subscriber;
mod wildcards;

use std::{
    cmp::Reverse,
    hash::BuildHasher,
    sync::{Arc, atomic::Ordering::Acquire},
};

#[cfg(not(feature = "bench"))]
use foldhash::quality::RandomState;
use hashbrown::HashTable;

#[cfg(feature = "bench")]
use crate::bench::NumberedState as RandomState;
use crate::{
    broker::{handle::Handle, peers::Peers},
    error::ActionError,
    protocol::Slow,
    sync::{
        RwLock,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, Release},
        },
    },
    topic,
};
pub(crate) use publish::Publication;
use wildcards::Tree;

/// Shards of the table: more than threads, to avoid lock contention.
const SHARDS: usize = 16;

/// A connection that gets the messages of a topic.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber {
    pub(crate) handle: Arc<Handle>,
    pub(crate) slow: Slow,
}

/// All subscriptions of a broker.
#[derive(Debug)]
pub(crate) struct Topics {
    shards: [RwLock<HashTable<Topic>>; SHARDS],
    wildcards: RwLock<Tree>,
    /// Number of distinct patterns with wildcards.
    patterns: AtomicUsize,
    /// Number of all subscriptions.
    count: AtomicUsize,
    /// Counts changes: while it has not changed, subscribers that were found are still all.
    version: AtomicU64,
    hasher: RandomState,
    /// The other brokers, if this one is in a cluster.
    peers: Option<Arc<dyn Peers>>,
}

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    subscribers: Subscribers,
}

/// The subscribers of one pattern.
#[derive(Debug, Default)]
struct Subscribers(HashTable<Subscriber>);

impl Subscribers {
    fn hash(hasher: &RandomState, handle: &Arc<Handle>) -> u64 {
        // The address, so that no connection is read when the table grows.
        hasher.hash_one(Arc::as_ptr(handle) as usize)
    }

    /// Adds a subscriber, or changes its treatment when it is slow.
    fn set(&mut self, hasher: &RandomState, subscriber: Subscriber) {
        let hash = Self::hash(hasher, &subscriber.handle);
        let is_it = |one: &Subscriber| Arc::ptr_eq(&one.handle, &subscriber.handle);
        match self.0.find_mut(hash, is_it) {
            Some(known) => known.slow = subscriber.slow,
            None => {
                let hash_of = |one: &Subscriber| Self::hash(hasher, &one.handle);
                self.0.insert_unique(hash, subscriber, hash_of);
            }
        }
    }

    fn remove(&mut self, hasher: &RandomState, handle: &Arc<Handle>) {
        let hash = Self::hash(hasher, handle);
        if let Ok(entry) = (self.0).find_entry(hash, |one| Arc::ptr_eq(&one.handle, handle)) {
            entry.remove();
        }
        if self.0.capacity() > 64 && self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to_fit(|one| Self::hash(hasher, &one.handle));
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn collect(&self, found: &mut Vec<Subscriber>) {
        found.extend(self.0.iter().cloned());
    }
}

impl Topics {
    pub(crate) fn new(peers: Option<Arc<dyn Peers>>) -> Self {
        Self {
            shards: Default::default(),
            wildcards: RwLock::default(),
            patterns: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            version: AtomicU64::new(0),
            hasher: RandomState::default(),
            peers,
        }
    }

    /// Number of subscriptions.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Number of distinct patterns with wildcards.
    pub(crate) fn patterns(&self) -> usize {
        self.patterns.load(Relaxed)
    }

    /// Number of topics that are subscribed to by their names.
    pub(crate) fn topics(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    /// Counts changes of the subscriptions.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// Uses bits of the hash that the tables of the shards do not use (they use the lowest and the highest).
    fn shard(&self, hash: u64) -> &RwLock<HashTable<Topic>> {
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// Subscribes a connection, or changes its subscription. `max_patterns`: maximum number of distinct patterns
    /// with wildcards. `is_new`: the connection has no subscription to this pattern.
    ///
    /// Errors: `TooManyPatterns`.
    fn add(
        &self,
        pattern: &Arc<str>,
        subscriber: Subscriber,
        is_new: bool,
        max_patterns: usize,
    ) -> Result<(), ActionError> {
        let hasher = &self.hasher;
        if topic::has_wildcards(pattern) {
            let mut tree = self.wildcards.write();
            if tree.count() >= max_patterns && !tree.has(pattern) {
                return Err(ActionError::TooManyPatterns(max_patterns));
            }
            let count = tree.count();
            tree.set(pattern, subscriber, hasher);
            self.patterns.store(tree.count(), Relaxed);
            self.version.fetch_add(1, Release);
            if tree.count() > count {
                self.announce(pattern);
            }
        } else {
            let hash = hasher.hash_one(&**pattern);
            let mut shard = self.shard(hash).write();
            let is_it = |one: &Topic| one.name == *pattern;
            match shard.find_mut(hash, is_it) {
                Some(topic) => topic.subscribers.set(hasher, subscriber),
                None => {
                    let mut subscribers = Subscribers::default();
                    subscribers.set(hasher, subscriber);
                    let name = pattern.clone();
                    let topic = Topic { name, subscribers };
                    shard.insert_unique(hash, topic, |one| hasher.hash_one(&*one.name));
                    self.announce(pattern);
                }
            }
            self.version.fetch_add(1, Release);
        }
        self.count.fetch_add(usize::from(is_new), Relaxed);
        Ok(())
    }

    /// Ends the subscription of a connection to this pattern, which exists.
    fn remove(&self, pattern: &Arc<str>, handle: &Arc<Handle>) {
        let hasher = &self.hasher;
        if topic::has_wildcards(pattern) {
            let mut tree = self.wildcards.write();
            let count = tree.count();
            tree.remove(pattern, handle, hasher);
            self.patterns.store(tree.count(), Relaxed);
            self.version.fetch_add(1, Release);
            if tree.count() < count {
                self.announce(pattern);
            }
        } else {
            let hash = hasher.hash_one(&**pattern);
            let mut shard = self.shard(hash).write();
            if let Ok(mut entry) = shard.find_entry(hash, |one| one.name == *pattern) {
                let subscribers = &mut entry.get_mut().subscribers;
                subscribers.remove(hasher, handle);
                if subscribers.is_empty() {
                    entry.remove();
                    self.announce(pattern);
                }
            }
            if shard.capacity() > 1024 && shard.len() < shard.capacity() / 4 {
                shard.shrink_to_fit(|one| hasher.hash_one(&*one.name));
            }
            self.version.fetch_add(1, Release);
        }
        self.count.fetch_sub(1, Relaxed);
    }

    /// Tells the other brokers that a pattern has got its first subscriber, or has lost its last. Under the lock of
    /// the change.
    fn announce(&self, pattern: &Arc<str>) {
        if let Some(peers) = &self.peers {
            peers.pattern_changed(pattern);
        }
    }

    /// True if a pattern has subscribers.
    pub(crate) fn has(&self, pattern: &str) -> bool {
        if topic::has_wildcards(pattern) {
            return self.wildcards.read().has(pattern);
        }
        let hash = self.hasher.hash_one(pattern);
        let shard = self.shard(hash).read();
        shard.find(hash, |one| *one.name == *pattern).is_some()
    }

    /// Number of patterns that match a topic and have subscribers.
    pub(crate) fn patterns_of(&self, topic: &str) -> usize {
        let wildcards = match self.patterns() {
            0 => 0,
            _ => self.wildcards.read().count_of(topic),
        };
        wildcards + usize::from(self.has(topic))
    }

    /// The name of a topic that is subscribed to, to share it.
    fn name_of(&self, pattern: &str) -> Arc<str> {
        let hash = self.hasher.hash_one(pattern);
        let shard = self.shard(hash).read();
        let known = shard.find(hash, |one| *one.name == *pattern);
        known.map_or_else(|| pattern.into(), |topic| topic.name.clone())
    }

    /// Finds the subscribers of a topic. Each connection is found once, with the subscription that promises the
    /// most.
    pub(crate) fn find(&self, topic: &str, found: &mut Vec<Subscriber>) {
        found.clear();
        let hash = self.hasher.hash_one(topic);
        if let Some(topic) = (self.shard(hash).read()).find(hash, |one| *one.name == *topic) {
            topic.subscribers.collect(found);
        }
        if self.patterns() == 0 {
            return;
        }
        let exact = found.len();
        self.wildcards.read().collect(topic, found);
        if found.len() > exact && found.len() > 1 {
            found.sort_unstable_by_key(|one| (one.handle.key, Reverse(one.slow)));
            found.dedup_by_key(|one| one.handle.key);
        }
    }
}

#[cfg(test)]
mod tests;

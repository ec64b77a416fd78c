//! The subscriptions of a broker: which connections get a message to a topic.
//!
//! Subscribers of one topic are found in one lookup; those of patterns with wildcards in a tree of tokens, which
//! publishers skip while no such pattern exists.
//!
//! Locks: a connection's state (`Handle::subscriber`), then a shard or the tree. Under the latter only outboxes are
//! locked.
//!
//! | file | contents |
//! | --- | --- |
//! | `topics` | subscribers by topic |
//! | `wildcards` | a tree of patterns with wildcards |
//! | `subscriber` | what a connection subscribes to, and what it has lost |
//! | `groups` | groups of workers, of which one gets a message |
//! | `jobs` | delivers the messages of groups to members |
//! | `request` | a request while its receivers at other brokers are looked for |
//! | `publish` | pushes messages of a topic to a subscriber |
//! | `replay` | subscriptions that get kept messages from a log, until they have caught up |
//! | `listing` | the topics with the most subscribers |

pub(crate) mod groups;
mod jobs;
mod listing;
mod publish;
pub(crate) mod replay;
pub(crate) mod request;
pub(crate) mod subscriber;
pub(crate) mod wildcards;

use std::{
    cmp::Reverse,
    hash::BuildHasher,
    sync::{Arc, atomic::Ordering::Acquire},
};

#[cfg(not(feature = "bench"))]
use foldhash::quality::RandomState;
use hashbrown::{HashTable, hash_table::Entry};

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
use groups::Group;
pub(crate) use publish::Publication;
use wildcards::{Tree, Value};

/// Shards of the table: more than threads, to avoid lock contention.
const SHARDS: usize = 16;

/// A connection that gets the messages of a topic.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber {
    pub(crate) handle: Arc<Handle>,
    pub(crate) slow: Slow,
    /// True while it gets the messages from the log instead: see `replay`. Only of kept topics.
    pub(crate) is_held: bool,
    /// True if it gets messages from the log when it has no room for them. Only of kept topics.
    pub(crate) recovers: bool,
}

/// All subscriptions of a broker.
#[derive(Debug)]
pub(crate) struct Topics {
    shards: [RwLock<HashTable<Topic>>; SHARDS],
    wildcards: RwLock<Tree<Subscribers>>,
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
struct Subscribers {
    each: HashTable<Subscriber>,
    /// Groups of workers, of which one member gets a message.
    groups: Vec<Arc<Group>>,
}

/// The receivers of a message to a topic.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Connections that get it, each once.
    pub(crate) subscribers: Vec<Subscriber>,
    /// Groups of which one member gets it.
    pub(crate) groups: Vec<Arc<Group>>,
}

impl Found {
    pub(crate) fn clear(&mut self) {
        self.subscribers.clear();
        self.groups.clear();
    }
}

impl Subscribers {
    fn hash(hasher: &RandomState, handle: &Arc<Handle>) -> u64 {
        // The address, so that no connection is read when the table grows.
        hasher.hash_one(Arc::as_ptr(handle) as usize)
    }

    /// Adds a subscriber, or changes its treatment when it is slow.
    fn set(&mut self, hasher: &RandomState, subscriber: Subscriber) {
        let hash = Self::hash(hasher, &subscriber.handle);
        let is_it = |one: &Subscriber| Arc::ptr_eq(&one.handle, &subscriber.handle);
        match self.each.find_mut(hash, is_it) {
            Some(known) => {
                let recovers = known.recovers || subscriber.recovers;
                *known = Subscriber {
                    recovers,
                    ..subscriber
                };
            }
            None => {
                let hash_of = |one: &Subscriber| Self::hash(hasher, &one.handle);
                self.each.insert_unique(hash, subscriber, hash_of);
            }
        }
    }

    fn remove(&mut self, hasher: &RandomState, handle: &Arc<Handle>) {
        let hash = Self::hash(hasher, handle);
        let is_it = |one: &Subscriber| Arc::ptr_eq(&one.handle, handle);
        if let Ok(entry) = self.each.find_entry(hash, is_it) {
            entry.remove();
        }
        if self.each.capacity() > 64 && self.each.len() < self.each.capacity() / 4 {
            (self.each).shrink_to_fit(|one| Self::hash(hasher, &one.handle));
        }
    }

    /// Lets a subscriber get the messages from the log, or no longer.
    fn hold(&mut self, hasher: &RandomState, handle: &Arc<Handle>, is_held: bool) {
        let hash = Self::hash(hasher, handle);
        if let Some(known) = self
            .each
            .find_mut(hash, |one| Arc::ptr_eq(&one.handle, handle))
        {
            known.is_held = is_held;
        }
    }

    /// True if a subscriber gets messages from the log when it has no room for them.
    fn recovers(&self, hasher: &RandomState, handle: &Arc<Handle>) -> bool {
        let hash = Self::hash(hasher, handle);
        let found = self.each.find(hash, |one| Arc::ptr_eq(&one.handle, handle));
        found.is_some_and(|one| one.recovers)
    }

    /// The group of this name, which is created if there is none.
    fn group(&mut self, pattern: &Arc<str>, name: &str) -> Arc<Group> {
        let known = self.groups.iter().find(|group| *group.name == *name);
        known.cloned().unwrap_or_else(|| {
            let group = Group::new(pattern, name);
            self.groups.push(group.clone());
            group
        })
    }

    /// Whether it has subscribers without a group, and its number of groups: other brokers send what these need.
    fn demand(&self) -> (bool, usize) {
        (!self.each.is_empty(), self.groups.len())
    }

    fn collect(&self, found: &mut Found) {
        found.subscribers.extend(self.each.iter().cloned());
        found.groups.extend(self.groups.iter().cloned());
    }
}

impl Value for Subscribers {
    fn is_empty(&self) -> bool {
        self.each.is_empty() && self.groups.is_empty()
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

    /// Changes the subscribers of a pattern. `max_patterns`: maximum number of distinct patterns with wildcards.
    ///
    /// Errors: `TooManyPatterns`; nothing has changed then.
    fn change<T>(
        &self,
        pattern: &Arc<str>,
        max_patterns: usize,
        change: impl FnOnce(&mut Subscribers, &RandomState) -> T,
    ) -> Result<T, ActionError> {
        let hasher = &self.hasher;
        let mut has_changed = false;
        let change = |subscribers: &mut Subscribers, hasher: &RandomState| {
            let before = subscribers.demand();
            let result = change(subscribers, hasher);
            has_changed = before != subscribers.demand();
            result
        };
        let result;
        if topic::has_wildcards(pattern) {
            let mut tree = self.wildcards.write();
            if tree.count() >= max_patterns && !tree.has(pattern) {
                return Err(ActionError::TooManyPatterns(max_patterns));
            }
            result = tree.change(pattern, |subscribers| change(subscribers, hasher));
            self.patterns.store(tree.count(), Relaxed);
            self.changed(pattern, has_changed);
        } else {
            let hash = hasher.hash_one(&**pattern);
            let mut shard = self.shard(hash).write();
            let is_it = |one: &Topic| one.name == *pattern;
            let hash_of = |one: &Topic| hasher.hash_one(&*one.name);
            match shard.entry(hash, is_it, hash_of) {
                Entry::Occupied(mut entry) => {
                    let subscribers = &mut entry.get_mut().subscribers;
                    result = change(subscribers, hasher);
                    if subscribers.is_empty() {
                        entry.remove();
                    }
                }
                Entry::Vacant(entry) => {
                    let mut subscribers = Subscribers::default();
                    result = change(&mut subscribers, hasher);
                    if !subscribers.is_empty() {
                        let name = pattern.clone();
                        entry.insert(Topic { name, subscribers });
                    }
                }
            }
            if shard.capacity() > 1024 && shard.len() < shard.capacity() / 4 {
                shard.shrink_to_fit(hash_of);
            }
            self.changed(pattern, has_changed);
        }
        Ok(result)
    }

    /// Counts a change. `has_new_demand`: it has got its first subscriber or group, or has lost its last. Under the
    /// lock of the change.
    fn changed(&self, pattern: &Arc<str>, has_new_demand: bool) {
        self.version.fetch_add(1, Release);
        if has_new_demand {
            self.announce(pattern);
        }
    }

    fn announce(&self, pattern: &Arc<str>) {
        if let Some(peers) = &self.peers {
            peers.pattern_changed(pattern);
        }
    }

    /// Calls a function with the subscribers of a pattern, if it has some.
    fn with<T>(&self, pattern: &str, read: impl FnOnce(&Subscribers) -> T) -> Option<T> {
        if topic::has_wildcards(pattern) {
            return self.wildcards.read().get(pattern).map(read);
        }
        let hash = self.hasher.hash_one(pattern);
        let shard = self.shard(hash).read();
        let found = shard.find(hash, |one| *one.name == *pattern);
        found.map(|topic| read(&topic.subscribers))
    }

    /// True if a pattern has subscribers without a group; and the groups of the pattern.
    pub(crate) fn demand(&self, pattern: &str) -> (bool, Vec<Arc<Group>>) {
        let demand = self.with(pattern, |subscribers| {
            (!subscribers.each.is_empty(), subscribers.groups.clone())
        });
        demand.unwrap_or_default()
    }

    /// The group of this pattern and name, if it has members here.
    pub(crate) fn group(&self, pattern: &str, name: &str) -> Option<Arc<Group>> {
        let group = self.with(pattern, |subscribers| {
            let mut groups = subscribers.groups.iter();
            groups.find(|group| *group.name == *name).cloned()
        });
        group.flatten()
    }

    /// The name of a topic that is subscribed to, to share it.
    fn name_of(&self, pattern: &str) -> Arc<str> {
        let hash = self.hasher.hash_one(pattern);
        let shard = self.shard(hash).read();
        let known = shard.find(hash, |one| *one.name == *pattern);
        known.map_or_else(|| pattern.into(), |topic| topic.name.clone())
    }

    /// The ids of the connections that get messages to a topic, members of groups included: sorted, each once.
    pub(crate) fn ids_of(&self, topic: &str) -> Vec<Arc<str>> {
        let mut found = Found::default();
        self.find(topic, &mut found);
        let members = found.groups.iter().flat_map(|group| group.members());
        let handles = found.subscribers.into_iter().map(|one| one.handle);
        let id_of = |handle: Arc<Handle>| match handle.owns_its_id() {
            true => handle.last_id.lock().clone(),
            false => None,
        };
        let mut ids: Vec<_> = handles.chain(members).filter_map(id_of).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Finds the receivers of a message to a topic. Each connection is found once, with the subscription that promises
    /// the most.
    pub(crate) fn find(&self, topic: &str, found: &mut Found) {
        found.clear();
        let hash = self.hasher.hash_one(topic);
        if let Some(topic) = (self.shard(hash).read()).find(hash, |one| *one.name == *topic) {
            topic.subscribers.collect(found);
        }
        if self.patterns() == 0 {
            return;
        }
        let exact = found.subscribers.len();
        self.wildcards.read().collect(topic, found);
        let subscribers = &mut found.subscribers;
        if subscribers.len() > exact && subscribers.len() > 1 {
            subscribers
                .sort_unstable_by_key(|one| (one.handle.key, Reverse((one.is_held, one.slow))));
            subscribers.dedup_by_key(|one| one.handle.key);
        }
    }
}

#[cfg(test)]
mod tests;

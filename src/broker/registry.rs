//! Registry: the owner of each id.
//!
//! Synchronous, and without a clock: `now` is an argument. The newest registration owns the id; only the
//! owner can end it.
//!
//! Locks: a shard stays locked while its change is announced, so announcements come in the order of the
//! changes. Under it only the locks of outboxes and of the listener are taken.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::Arc,
    time::{Duration, Instant},
};

#[cfg(not(feature = "bench"))]
use foldhash::quality::RandomState;
use hashbrown::{HashTable, hash_table::Entry};

#[cfg(feature = "bench")]
use crate::bench::NumberedState as RandomState;

use crate::{
    broker::{handle::Handle, requests::Requests},
    memory::Memory,
    options::ServerOptions,
    sync::{
        Mutex, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Shards of the table: more than threads, to avoid lock contention.
const SHARDS: usize = 32;
/// An id whose connection is closed as slow twice within this time is penalized.
const STRIKE_WINDOW: Duration = Duration::from_secs(60);
/// Duration of the penalty: a full outbox of that id is closed at once.
const STRICT_FOR: Duration = Duration::from_secs(600);
/// Maximum number of ids with strikes.
const MAX_STRIKES: usize = 4096;

/// The id belongs to a connection of another principal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conflict;

/// An id is hashed once, for the shard and for the place in it.
type IdTable = HashTable<Registration>;

#[derive(Debug)]
struct Registration {
    id: Arc<str>,
    owner: Arc<Handle>,
}

/// All ids of a broker, and its requests.
#[derive(Debug)]
pub(crate) struct Registry {
    shards: [RwLock<IdTable>; SHARDS],
    hasher: RandomState,
    /// Next registration number; numbers are unique.
    numbers: AtomicU64,
    pub(crate) requests: Requests,
    /// Strikes by the hash of an id, because ids may be long. The hash is seeded, so collisions cannot be
    /// forced.
    strikes: Mutex<HashMap<u64, Strikes, RandomState>>,
}

#[derive(Debug)]
struct Strikes {
    last: Instant,
    /// End of the penalty, set by a second strike within the window.
    strict_until: Option<Instant>,
}

impl Strikes {
    fn are_recent(&self, now: Instant) -> bool {
        now.duration_since(self.last) < STRIKE_WINDOW
    }

    fn are_penalized(&self, now: Instant) -> bool {
        self.strict_until.is_some_and(|until| now < until)
    }
}

impl Registry {
    pub(crate) fn new(options: &ServerOptions, memory: Arc<Memory>) -> Self {
        Self {
            shards: Default::default(),
            hasher: RandomState::default(),
            numbers: AtomicU64::new(1),
            requests: Requests::new(options.ack_timeout, options.max_pending_acks, memory),
            strikes: Mutex::default(),
        }
    }

    fn hash(&self, id: &str) -> u64 {
        self.hasher.hash_one(id)
    }

    /// Uses bits of the hash that the tables of the shards do not use (they use the lowest and the
    /// highest).
    fn shard(&self, hash: u64) -> &RwLock<IdTable> {
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// Owner of an id.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Handle>> {
        self.find_registration(id).map(|(owner, _)| owner)
    }

    /// Owner of an id, and the number of its registration.
    pub(crate) fn find_registration(&self, id: &str) -> Option<(Arc<Handle>, u64)> {
        let hash = self.hash(id);
        let shard = self.shard(hash).read();
        let found = shard.find(hash, |registration| *registration.id == *id)?;
        Some((found.owner.clone(), found.owner.registration()))
    }

    /// Number of registered ids.
    pub(crate) fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    /// All registered ids, in no order.
    pub(crate) fn ids(&self) -> Vec<Arc<str>> {
        self.shards
            .iter()
            .flat_map(|shard| {
                let shard = shard.read();
                shard.iter().map(|each| each.id.clone()).collect::<Vec<_>>()
            })
            .collect()
    }

    /// At most `max` registrations whose ids begin with `prefix`, in no order.
    pub(crate) fn find_by_prefix(&self, prefix: &str, max: usize) -> Vec<(Arc<str>, Arc<Handle>)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.read();
            let matching = shard.iter().filter(|each| each.id.starts_with(prefix));
            let matching = matching.take(max - found.len());
            found.extend(matching.map(|each| (each.id.clone(), each.owner.clone())));
        }
        found
    }

    /// Makes `handle` the owner of `id`. `announce` runs before anyone can send to the new owner; its
    /// argument is the former owner and the number of that registration, if there was one.
    ///
    /// Errors: `Conflict` if the id belongs to a connection of another principal.
    pub(crate) fn register(
        &self,
        id: &Arc<str>,
        handle: &Arc<Handle>,
        announce: impl FnOnce(Option<(&Arc<Handle>, u64)>),
    ) -> Result<(), Conflict> {
        let hash = self.hash(id);
        let mut shard = self.shard(hash).write();
        let is_it = |registration: &Registration| registration.id == *id;
        let former = match shard.entry(hash, is_it, |each| self.hash(&each.id)) {
            Entry::Occupied(mut entry) => {
                let owner = &mut entry.get_mut().owner;
                if !owner.yields_to(handle) {
                    return Err(Conflict);
                }
                let former = std::mem::replace(owner, handle.clone());
                let registration = former.registration();
                former.set_registration(0);
                Some((former, registration))
            }
            Entry::Vacant(entry) => {
                entry.insert(Registration {
                    id: id.clone(),
                    owner: handle.clone(),
                });
                None
            }
        };
        handle.set_registration(self.numbers.fetch_add(1, Relaxed));
        announce((former.as_ref()).map(|(former, registration)| (former, *registration)));
        Ok(())
    }

    /// Frees `id` if it is owned by the registration with this number, and calls `announce`. Returns the former
    /// owner.
    pub(crate) fn end_registration(
        &self,
        id: &str,
        number: u64,
        announce: impl FnOnce(),
    ) -> Option<Arc<Handle>> {
        let hash = self.hash(id);
        let mut shard = self.shard(hash).write();
        let is_it = |each: &Registration| *each.id == *id && each.owner.registration() == number;
        let entry = shard.find_entry(hash, is_it).ok()?;
        let (Registration { owner, .. }, _) = entry.remove();
        owner.set_registration(0);
        announce();
        Some(owner)
    }

    /// Records that the owner of this id was closed as slow.
    pub(crate) fn strike(&self, id: &str, now: Instant) {
        let hash = self.hash(id);
        let mut strikes = self.strikes.lock();
        if let Some(strike) = strikes.get_mut(&hash) {
            if strike.are_recent(now) {
                strike.strict_until = Some(now + STRICT_FOR);
            }
            strike.last = now;
            return;
        }
        if strikes.len() >= MAX_STRIKES {
            strikes.retain(|_, strike| strike.are_recent(now) || strike.are_penalized(now));
        }
        if strikes.len() < MAX_STRIKES {
            let first = Strikes {
                last: now,
                strict_until: None,
            };
            strikes.insert(hash, first);
        }
    }

    /// True while the id is penalized: its connection is closed without `slow_consumer_timeout`.
    pub(crate) fn is_penalized(&self, id: &str, now: Instant) -> bool {
        let hash = self.hash(id);
        let strikes = self.strikes.lock();
        strikes
            .get(&hash)
            .is_some_and(|strike| strike.are_penalized(now))
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::socket::pipe::Pipe;
    use std::cell::Cell;

    fn registry() -> Registry {
        Registry::new(&ServerOptions::default(), memory())
    }

    fn memory() -> Arc<Memory> {
        Arc::new(Memory::new(usize::MAX))
    }

    fn handle(key: u64) -> Arc<Handle> {
        Arc::new(Handle::new(key, Pipe::full(), 1024, memory()))
    }

    fn register(registry: &Registry, id: &str, handle: &Arc<Handle>) {
        registry.register(&id.into(), handle, |_| {}).unwrap();
    }

    #[test]
    fn the_newest_registration_owns_the_id_and_only_its_end_frees_it() {
        let (registry, first, second) = (registry(), handle(1), handle(2));
        register(&registry, "a", &first);
        register(&registry, "a", &second);
        assert!(!first.owns_its_id() && second.owns_its_id());
        registry.end_registration("a", first.registration(), || panic!("not the owner"));
        assert_eq!(registry.find("a").unwrap().key, 2);
        let announced = Cell::new(false);
        registry.end_registration("a", second.registration(), || announced.set(true));
        assert!(announced.get() && registry.find("a").is_none());
        assert_eq!(registry.count(), 0);
    }

    #[test]
    fn strikes_are_kept_for_a_limited_number_of_ids() {
        let (registry, now) = (registry(), Instant::now());
        let strike = |n: usize, now| registry.strike(&n.to_string(), now);
        for n in 0..2 * MAX_STRIKES {
            strike(n, now);
        }
        assert_eq!(registry.strikes.lock().len(), MAX_STRIKES);
        // Strikes older than the window are evicted.
        strike(MAX_STRIKES, now + STRIKE_WINDOW);
        assert_eq!(registry.strikes.lock().len(), 1);
    }

    #[test]
    fn an_id_slow_twice_within_a_minute_is_penalized_for_ten() {
        let (registry, now) = (registry(), Instant::now());
        registry.strike("a", now);
        assert!(!registry.is_penalized("a", now));
        registry.strike("a", now + Duration::from_secs(59));
        assert!(registry.is_penalized("a", now + Duration::from_secs(60)));
        assert!(!registry.is_penalized("a", now + Duration::from_secs(660)));
        registry.strike("a", now + Duration::from_secs(3600));
        assert!(!registry.is_penalized("a", now + Duration::from_secs(3601)));
    }
}

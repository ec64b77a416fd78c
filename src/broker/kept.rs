//! Kept topics: the rules of a broker, and the log of each.
//!
//! A message is appended to the log of its rule and delivered to the subscribers under one lock, [`Rule::order`]. So the
//! offsets that a connection gets rise, and a subscription that begins under the lock gets all messages behind an offset.
//!
//! Locks: `Rule::order`, then the state of a connection (`Handle::subscriber`), a shard or the tree of topics, an outbox.

mod permits;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    error::{Error, Result},
    memory::Memory,
    options::{KeepRule, ServerOptions, StoreSync},
    store::{
        Bounds, Log, LogStats, Overflow,
        disk::{DiskStore, OnFailure, Settings},
        memory::MemoryLog,
    },
    sync::{Mutex, atomic::AtomicU64},
    topic,
};
pub(crate) use permits::{Permit, Permits};
use tokio::task::spawn_blocking;

/// Time for which a store collects messages if receipts do not wait for the disk.
const UNWAITED_DELAY: Duration = Duration::from_secs(1);

/// All rules of a broker.
#[derive(Debug)]
pub(crate) struct KeptTopics {
    rules: Box<[Arc<Rule>]>,
    /// The store of the rules with `disk`.
    store: Option<Arc<DiskStore>>,
    /// The replays that read.
    pub(crate) permits: Arc<Permits>,
    /// Replays begun so far.
    pub(crate) replays: AtomicU64,
}

/// A rule, and the log of its messages.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) pattern: Arc<str>,
    pub(crate) log: Box<dyn Log>,
    /// Locked while a message is appended and delivered, and while a subscription begins or catches up.
    pub(crate) order: Mutex<()>,
}

impl KeptTopics {
    /// Opens the store, if there is one. `on_failure` is called once if it fails later.
    ///
    /// Errors: `Store`.
    pub(crate) fn open(
        options: &ServerOptions,
        memory: &Arc<Memory>,
        on_failure: OnFailure,
    ) -> Result<Self> {
        let on_disk = options.keep.iter().filter(|rule| rule.disk);
        let on_disk: Vec<_> = on_disk
            .map(|rule| (&*rule.topic, bounds_of(rule)))
            .collect();
        let (store, logs) = match &options.store {
            Some(store) => {
                let (delay, waits) = match store.sync {
                    StoreSync::Batch => (Duration::ZERO, true),
                    StoreSync::Every(delay) => (delay, true),
                    StoreSync::Never => (UNWAITED_DELAY, false),
                };
                let settings = Settings {
                    delay,
                    waits,
                    max_bytes: store.max_bytes,
                };
                DiskStore::open(&store.path, &on_disk, settings, memory, on_failure)
                    .map(|(store, logs)| (Some(Arc::new(store)), logs))
                    .map_err(|error| Error::Store(error.0.to_string()))?
            }
            None => (None, Vec::new()),
        };
        let mut logs = logs.into_iter();
        let rule = |rule: &KeepRule| {
            let log: Box<dyn Log> = match rule.disk.then(|| logs.next()).flatten() {
                Some(log) => Box::new(log),
                None => Box::new(MemoryLog::new(&rule.topic, bounds_of(rule), memory)),
            };
            Arc::new(Rule {
                pattern: (&*rule.topic).into(),
                log,
                order: Mutex::new(()),
            })
        };
        Ok(Self {
            rules: options.keep.iter().map(rule).collect(),
            store,
            permits: Arc::default(),
            replays: AtomicU64::new(0),
        })
    }

    /// Writes what is to be stored, and closes the store. No message may be appended any more.
    pub(crate) fn close(&self) -> impl Future<Output = ()> + Send + 'static {
        let store = self.store.clone();
        async move {
            if let Some(store) = store {
                // It fails only if the runtime is being shut down: the store is closed when dropped.
                let _ = spawn_blocking(move || store.close()).await;
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rule of a topic, if it is kept.
    pub(crate) fn rule_of(&self, topic: &str) -> Option<&Arc<Rule>> {
        self.rules
            .iter()
            .find(|rule| topic::covers(&rule.pattern, topic))
    }

    /// The rule of all topics of a pattern. None if some of them are not kept, or by another rule.
    pub(crate) fn rule_of_pattern(&self, pattern: &str) -> Option<&Arc<Rule>> {
        let mut rules = self.rules.iter();
        let first = rules.find(|rule| topic::intersects(&rule.pattern, pattern))?;
        topic::covers(&first.pattern, pattern).then_some(first)
    }

    /// True if a rule limits the age of messages.
    pub(crate) fn expires(&self, options: &ServerOptions) -> bool {
        options.keep.iter().any(|rule| rule.age.is_some())
    }

    /// Removes messages that are too old.
    pub(crate) fn expire(&self) {
        let now = now();
        self.rules.iter().for_each(|rule| rule.log.expire(now));
    }

    /// Frees about this many bytes, of each log in memory in proportion to what it holds. Returns the bytes freed.
    pub(crate) fn release(&self, bytes: usize) -> usize {
        let held = |rule: &Arc<Rule>| rule.log.releasable();
        let total: usize = self.rules.iter().map(held).sum();
        if total == 0 || bytes == 0 {
            return 0;
        }
        let part = |rule: &Arc<Rule>| (bytes as u128 * held(rule) as u128).div_ceil(total as u128);
        let release = |rule: &Arc<Rule>| rule.log.release(part(rule) as usize);
        self.rules.iter().map(release).sum()
    }

    /// Numbers of all logs together.
    pub(crate) fn stats(&self) -> LogStats {
        let add = |sum: LogStats, one: LogStats| LogStats {
            messages: sum.messages + one.messages,
            topics: sum.topics + one.topics,
            bytes: sum.bytes + one.bytes,
            trimmed: sum.trimmed + one.trimmed,
        };
        let each = self.rules.iter().map(|rule| rule.log.stats());
        each.fold(LogStats::default(), add)
    }
}

fn bounds_of(rule: &KeepRule) -> Bounds {
    Bounds {
        messages: rule.messages,
        age: rule.age.map(millis),
        bytes: rule.bytes,
        topic_bytes: usize::MAX,
        overflow: Overflow::Trim,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(patterns: &[&str]) -> KeptTopics {
        let options = ServerOptions {
            keep: patterns.iter().copied().map(KeepRule::new).collect(),
            ..ServerOptions::default()
        };
        KeptTopics::open(
            &options,
            &Arc::new(Memory::new(usize::MAX)),
            Box::new(|_| ()),
        )
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let kept = kept(&["room.private.*", "room.>", "news"]);
        let rule_of = |topic| kept.rule_of(topic).map(|rule| rule.pattern.to_string());
        assert_eq!(rule_of("room.private.7").as_deref(), Some("room.private.*"));
        assert_eq!(rule_of("room.7").as_deref(), Some("room.>"));
        assert_eq!(rule_of("news").as_deref(), Some("news"));
        assert_eq!(rule_of("other"), None);
    }

    #[test]
    fn a_pattern_has_a_rule_if_all_its_topics_have_the_same() {
        let kept = kept(&["room.private.*", "room.>", "news"]);
        let rule_of = |topic| {
            kept.rule_of_pattern(topic)
                .map(|rule| rule.pattern.to_string())
        };
        assert_eq!(rule_of("room.private.*").as_deref(), Some("room.private.*"));
        assert_eq!(rule_of("room.*").as_deref(), Some("room.>"));
        assert_eq!(rule_of("room.*.a.>").as_deref(), Some("room.>"));
        for pattern in ["room.>", "room.*.*", "*", ">", "news.*", "other"] {
            assert_eq!(rule_of(pattern), None, "{pattern}");
        }
    }
}

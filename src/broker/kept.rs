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
    task::Waker,
    time::{Duration, SystemTime},
};

use super::mailboxes::{self, Mailboxes};
use crate::{
    error::{Error, Result},
    memory::Memory,
    options::{KeepRule, MailboxRule, ServerOptions, StoreOptions, StoreSync},
    store::{
        Bounds, Log, LogStats, Overflow,
        disk::{DiskStore, OnFailure, Settings, StoreStats},
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
    /// Opens the store, if there is one, and the logs of kept topics and of mailboxes. `on_failure` is called once if the
    /// store fails later.
    ///
    /// Errors: `Store`.
    pub(crate) fn open(
        options: &ServerOptions,
        memory: &Arc<Memory>,
        on_failure: OnFailure,
    ) -> Result<(Self, Arc<Mailboxes>)> {
        let topics = options.keep.iter().map(|rule| LogRule {
            name: rule.topic.clone(),
            bounds: bounds_of(rule),
            disk: rule.disk,
        });
        let mailboxes = options.mailboxes.iter().map(|rule| LogRule {
            // No topic has a space.
            name: format!("mailbox {}", rule.mailbox),
            bounds: mailbox_bounds(rule),
            disk: rule.disk,
        });
        let rules: Vec<_> = topics.chain(mailboxes).collect();
        let (store, logs) = open_logs(&rules, options.store.as_ref(), memory, on_failure)?;
        let mut logs = logs.into_iter();
        let kept = options.keep.iter().zip(logs.by_ref());
        let kept = kept.map(|(rule, log)| {
            Arc::new(Rule {
                pattern: (&*rule.topic).into(),
                log,
                order: Mutex::new(()),
            })
        });
        let kept = Self {
            rules: kept.collect(),
            store,
            permits: Arc::default(),
            replays: AtomicU64::new(0),
        };
        let mailboxes = options.mailboxes.iter().zip(logs);
        let mailboxes = mailboxes.map(|(rule, log)| mailboxes::Rule::new(rule, log));
        Ok((kept, Mailboxes::new(mailboxes.collect())))
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

    /// True while so many messages wait for the disk that their senders should wait.
    pub(crate) fn is_store_busy(&self) -> bool {
        self.store.as_ref().is_some_and(|store| store.is_busy())
    }

    /// True if the store is not busy. Otherwise the waker of the connection with this key is called once it is not.
    pub(crate) fn await_store(&self, key: u64, waker: &Waker) -> bool {
        (self.store.as_ref()).is_none_or(|store| store.await_room(key, waker))
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

    /// Numbers of the store; all zero without one.
    pub(crate) fn store_stats(&self) -> StoreStats {
        let stats = self.store.as_ref().map(|store| store.stats());
        stats.unwrap_or_default()
    }

    /// Numbers of all logs together.
    pub(crate) fn stats(&self) -> LogStats {
        let each = self.rules.iter().map(|rule| rule.log.stats());
        each.fold(LogStats::default(), LogStats::plus)
    }
}

/// A log that is to be opened.
struct LogRule {
    /// Unique among the logs.
    name: String,
    bounds: Bounds,
    disk: bool,
}

/// The logs of all rules, in their order.
type Logs = Vec<Box<dyn Log>>;

/// Opens the store, if there is one, and a log for each rule.
fn open_logs(
    rules: &[LogRule],
    store: Option<&StoreOptions>,
    memory: &Arc<Memory>,
    on_failure: OnFailure,
) -> Result<(Option<Arc<DiskStore>>, Logs)> {
    let on_disk = rules.iter().filter(|rule| rule.disk);
    let on_disk: Vec<_> = on_disk.map(|rule| (&*rule.name, rule.bounds)).collect();
    let (store, on_disk) = match store {
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
    let mut on_disk = on_disk.into_iter();
    let log = |rule: &LogRule| -> Box<dyn Log> {
        match rule.disk.then(|| on_disk.next()).flatten() {
            Some(log) => Box::new(log),
            None => Box::new(MemoryLog::new(&rule.name, rule.bounds, memory)),
        }
    };
    Ok((store, rules.iter().map(log).collect()))
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

fn mailbox_bounds(rule: &MailboxRule) -> Bounds {
    Bounds {
        messages: rule.messages,
        topic_bytes: rule.bytes,
        age: rule.age.map(millis),
        bytes: rule.total_bytes,
        overflow: Overflow::Refuse,
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
        .0
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

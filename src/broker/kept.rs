//! Kept topics: the rules of a broker, and the log of each.
//!
//! A message is appended to the log of its rule and delivered to the subscribers under one lock, [`Rule::order`]. So the
//! offsets that a connection gets rise, and a subscription that begins under the lock gets all messages behind an offset.
//!
//! Locks: `Rule::order`, then the state of a connection (`Handle::subscriber`), a shard or the tree of topics, an outbox.

mod permits;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    memory::Memory,
    options::{KeepRule, ServerOptions},
    store::{Bounds, Log, LogStats, memory::MemoryLog},
    sync::{Mutex, atomic::AtomicU64},
    topic,
};
pub(crate) use permits::{Permit, Permits};

/// All rules of a broker.
#[derive(Debug)]
pub(crate) struct KeptTopics {
    rules: Box<[Arc<Rule>]>,
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
    pub(crate) fn new(options: &ServerOptions, memory: &Arc<Memory>) -> Self {
        let rule = |rule: &KeepRule| {
            let bounds = Bounds {
                messages: rule.messages,
                age: rule.age.map(millis),
                bytes: rule.bytes,
            };
            Arc::new(Rule {
                pattern: (&*rule.topic).into(),
                log: Box::new(MemoryLog::new(&rule.topic, bounds, memory)),
                order: Mutex::new(()),
            })
        };
        Self {
            rules: options.keep.iter().map(rule).collect(),
            permits: Arc::default(),
            replays: AtomicU64::new(0),
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

    /// Frees about this many bytes, of each log in proportion to what it holds. Returns the bytes freed.
    pub(crate) fn release(&self, bytes: usize) -> usize {
        let held = |rule: &Arc<Rule>| rule.log.stats().bytes as usize;
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
        KeptTopics::new(&options, &Arc::new(Memory::new(usize::MAX)))
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

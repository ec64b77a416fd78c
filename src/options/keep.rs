//! The option `keep`: the topics whose messages are kept.

use std::time::Duration;

use super::{FOREVER, Number};
use crate::{
    error::{Error, Result},
    topic,
};

/// Maximum number of rules.
const MAX_RULES: usize = 64;
/// Maximum number of messages of a topic.
const MAX_MESSAGES: usize = 1 << 24;
/// Minimum bytes of the messages of a rule.
const LEAST_BYTES: usize = 4 << 10;

/// A rule of the topics whose messages are kept. Of several rules that match a topic, the first one counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepRule {
    /// The topics: a topic, or a pattern with wildcards.
    pub topic: String,
    /// Maximum number of messages of each topic; older ones are trimmed. Default 100.
    pub messages: usize,
    /// Maximum age of a message; older ones are trimmed. Default: no limit.
    pub age: Option<Duration>,
    /// Maximum bytes of the messages of all topics of the rule together; the oldest ones are trimmed. About 200 bytes count
    /// for each message besides its frame. Default 64 MiB.
    pub bytes: usize,
    /// The messages are kept on the disk, in the store. Default: in memory.
    pub disk: bool,
}

impl KeepRule {
    /// A rule with the default limits.
    pub fn new(topic: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            messages: 100,
            age: None,
            bytes: 64 << 20,
            disk: false,
        }
    }
}

/// Checks that there is a store if a rule needs one.
pub(super) fn validate_disk(rules: &[KeepRule], has_store: bool) -> Result<()> {
    match rules.iter().any(|rule| rule.disk) && !has_store {
        true => Err(Error::InvalidOption {
            name: "keep.disk",
            reason: "needs option \"store\"".to_owned(),
        }),
        false => Ok(()),
    }
}

/// Checks the rules. `has_cluster`: the server is in a cluster.
pub(super) fn validate(rules: &[KeepRule], has_cluster: bool) -> Result<()> {
    let invalid = |name, reason: String| Err(Error::InvalidOption { name, reason });
    if rules.len() > MAX_RULES {
        let reason = format!("has {} rules, expected at most {MAX_RULES}", rules.len());
        return invalid("keep", reason);
    }
    if has_cluster && !rules.is_empty() {
        let reason =
            "cannot be combined with \"nats\": each broker would number messages differently";
        return invalid("keep", reason.to_owned());
    }
    for (place, rule) in rules.iter().enumerate() {
        let topic = &rule.topic;
        if !topic::is_pattern(topic) {
            let reason =
                format!("is {topic:?}, expected a topic or a pattern, not beginning with \"$\"");
            return invalid("keep.topic", reason);
        }
        let mut before = rules[..place].iter();
        if let Some(former) = before.find(|one| topic::covers(&one.topic, topic)) {
            let reason = format!(
                "is {topic:?}, whose topics all match the earlier rule {:?}: put it before that",
                former.topic
            );
            return invalid("keep.topic", reason);
        }
        rule.messages.check("keep.messages", 1..=MAX_MESSAGES)?;
        rule.bytes.check("keep.bytes", LEAST_BYTES..=usize::MAX)?;
        if let Some(age) = rule.age {
            age.check("keep.age", Duration::from_millis(1)..=FOREVER)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(rules: &[KeepRule], has_cluster: bool) -> Option<&'static str> {
        match validate(rules, has_cluster) {
            Err(Error::InvalidOption { name, .. }) => Some(name),
            _ => None,
        }
    }

    #[test]
    fn a_rule_on_the_disk_needs_a_store() {
        let mut rule = KeepRule::new("a");
        assert!(validate_disk(&[rule.clone()], false).is_ok());
        rule.disk = true;
        assert!(validate_disk(&[rule.clone()], false).is_err());
        assert!(validate_disk(&[rule], true).is_ok());
    }

    #[test]
    fn a_rule_needs_a_pattern_that_no_earlier_rule_covers_and_bounds_in_range() {
        let rule = KeepRule::new;
        assert_eq!(
            name_of(&[rule("room.7"), rule("room.*"), rule(">")], false),
            None
        );
        assert_eq!(name_of(&[], true), None);
        assert_eq!(name_of(&[rule("a")], true), Some("keep"));
        assert_eq!(name_of(&vec![rule("a"); 65], false), Some("keep"));
        for topic in ["", "$sys", "a..b", "a b", ">.a", "a*"] {
            assert_eq!(
                name_of(&[rule(topic)], false),
                Some("keep.topic"),
                "{topic}"
            );
        }
        for [first, second] in [["a", "a"], ["room.*", "room.7"], [">", "a.*"]] {
            let rules = [rule(first), rule(second)];
            assert_eq!(name_of(&rules, false), Some("keep.topic"), "{second}");
        }
        let with = |change: fn(&mut KeepRule)| {
            let mut one = rule("a");
            change(&mut one);
            name_of(&[one], false)
        };
        assert_eq!(with(|rule| rule.messages = 0), Some("keep.messages"));
        assert_eq!(
            with(|rule| rule.messages = MAX_MESSAGES + 1),
            Some("keep.messages")
        );
        assert_eq!(with(|rule| rule.bytes = 1), Some("keep.bytes"));
        assert_eq!(
            with(|rule| rule.age = Some(Duration::ZERO)),
            Some("keep.age")
        );
    }
}

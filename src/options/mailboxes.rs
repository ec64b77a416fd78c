//! The option `mailboxes`: the ids whose messages wait for them.

use std::time::Duration;

use super::{FOREVER, Number};
use crate::{
    error::{Error, Result},
    topic,
};

/// Maximum number of rules.
const MAX_RULES: usize = 64;
/// Maximum number of messages of a mailbox.
const MAX_MESSAGES: usize = 1 << 24;
/// Minimum bytes of a mailbox.
const LEAST_BYTES: usize = 4 << 10;

/// A rule of mailboxes. Of several rules that match a name, the first one counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxRule {
    /// The names of the mailboxes: a name, or the beginning of names and `*`. `*` alone means all. The mailbox of a client
    /// has its id as name.
    pub mailbox: String,
    /// The topics whose messages go into the mailbox, too: a topic, or a pattern with wildcards. Needs a rule of one
    /// mailbox. Default: none.
    pub topic: Option<String>,
    /// Maximum number of messages of each mailbox; further ones are refused. Default 1,000.
    pub messages: usize,
    /// Maximum bytes of the messages of each mailbox; further ones are refused. Default 1 MiB.
    pub bytes: usize,
    /// Maximum bytes of the messages of all mailboxes of the rule together; further ones are refused. About 200 bytes
    /// count for each message besides its frame. Default 64 MiB.
    pub total_bytes: usize,
    /// Maximum age of a message; older ones are removed. Default: no limit.
    pub age: Option<Duration>,
    /// The messages are kept on the disk, in the store. Default: in memory.
    pub disk: bool,
    /// How often a message is delivered at most, if no receiver acknowledges it. Zero: no limit. Default 0.
    pub max_deliver: u32,
    /// The topic that gets a message which was delivered so often. Default: it is removed.
    pub dead_letters: Option<String>,
}

impl MailboxRule {
    /// A rule with the default limits.
    pub fn new(mailbox: impl Into<String>) -> Self {
        Self {
            mailbox: mailbox.into(),
            topic: None,
            messages: 1000,
            bytes: 1 << 20,
            total_bytes: 64 << 20,
            age: None,
            disk: false,
            max_deliver: 0,
            dead_letters: None,
        }
    }

    /// True if it is the rule of the mailbox with this name, unless an earlier one is.
    pub(crate) fn matches(&self, name: &str) -> bool {
        matches(&self.mailbox, name)
    }
}

/// True if a name matches a pattern: a name, or the beginning of names and `*`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => name == pattern,
    }
}

/// Checks the rules. `has_cluster`: the server is in a cluster.
pub(super) fn validate(rules: &[MailboxRule], has_cluster: bool, has_store: bool) -> Result<()> {
    let invalid = |name, reason: String| Err(Error::InvalidOption { name, reason });
    if rules.len() > MAX_RULES {
        let reason = format!("has {} rules, expected at most {MAX_RULES}", rules.len());
        return invalid("mailboxes", reason);
    }
    if has_cluster && !rules.is_empty() {
        let reason =
            "cannot be combined with \"nats\": each broker would have mailboxes of its own";
        return invalid("mailboxes", reason.to_owned());
    }
    for (place, rule) in rules.iter().enumerate() {
        let pattern = &rule.mailbox;
        if pattern.is_empty() || pattern.contains(char::is_control) {
            let reason = format!("is {pattern:?}, expected a name, or a beginning and \"*\"");
            return invalid("mailboxes.mailbox", reason);
        }
        let covers = |one: &&MailboxRule| one.mailbox == *pattern || one.covers(pattern);
        if let Some(former) = rules[..place].iter().find(covers) {
            let reason = format!(
                "is {pattern:?}, whose names all match the earlier rule {:?}: put it before that",
                former.mailbox
            );
            return invalid("mailboxes.mailbox", reason);
        }
        if rule.disk && !has_store {
            return invalid("mailboxes.disk", "needs option \"store\"".to_owned());
        }
        if let Some(topic) = rule.topic.as_deref() {
            if !topic::is_pattern(topic) {
                return invalid(
                    "mailboxes.topic",
                    format!("is {topic:?}, expected a topic or a pattern"),
                );
            }
            if pattern.ends_with('*') {
                let reason = format!("needs the name of one mailbox, not {pattern:?}");
                return invalid("mailboxes.topic", reason);
            }
        }
        (rule.messages).check("mailboxes.messages", 1..=MAX_MESSAGES)?;
        rule.bytes
            .check("mailboxes.bytes", LEAST_BYTES..=usize::MAX)?;
        (rule.total_bytes).check("mailboxes.totalBytes", LEAST_BYTES..=usize::MAX)?;
        if let Some(age) = rule.age {
            age.check("mailboxes.age", Duration::from_millis(1)..=FOREVER)?;
        }
        if let Some(topic) = rule.dead_letters.as_deref()
            && !topic::is_topic(topic)
        {
            return invalid(
                "mailboxes.deadLetters",
                format!("is {topic:?}, expected a topic"),
            );
        }
    }
    Ok(())
}

impl MailboxRule {
    /// True if all names of a pattern match.
    fn covers(&self, pattern: &str) -> bool {
        let begin = pattern.strip_suffix('*').unwrap_or(pattern);
        self.mailbox.ends_with('*') && matches(&self.mailbox, begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_matches_a_name_or_a_beginning() {
        let matches = |pattern: &str, name: &str| MailboxRule::new(pattern).matches(name);
        assert!(matches("ann", "ann"));
        assert!(!matches("ann", "anna"));
        assert!(matches("device-*", "device-7"));
        assert!(!matches("device-*", "7"));
        assert!(matches("*", "anything"));
    }

    #[test]
    fn a_rule_needs_a_name_that_no_earlier_rule_covers_and_bounds_in_range() {
        let name_of = |rules: &[MailboxRule], has_cluster| match validate(rules, has_cluster, false)
        {
            Err(Error::InvalidOption { name, .. }) => Some(name),
            _ => None,
        };
        let rule = MailboxRule::new;
        assert_eq!(name_of(&[rule("ann"), rule("a*"), rule("*")], false), None);
        assert_eq!(name_of(&[], true), None);
        assert_eq!(name_of(&[rule("a")], true), Some("mailboxes"));
        assert_eq!(name_of(&vec![rule("a"); 65], false), Some("mailboxes"));
        for name in ["", "a\nb"] {
            assert_eq!(
                name_of(&[rule(name)], false),
                Some("mailboxes.mailbox"),
                "{name}"
            );
        }
        for [first, second] in [["a", "a"], ["a*", "ab"], ["*", "a*"], ["a*", "ab*"]] {
            let rules = [rule(first), rule(second)];
            assert_eq!(
                name_of(&rules, false),
                Some("mailboxes.mailbox"),
                "{second}"
            );
        }
        let with = |change: fn(&mut MailboxRule)| {
            let mut one = rule("a");
            change(&mut one);
            name_of(&[one], false)
        };
        assert_eq!(with(|rule| rule.messages = 0), Some("mailboxes.messages"));
        assert_eq!(with(|rule| rule.bytes = 1), Some("mailboxes.bytes"));
        assert_eq!(
            with(|rule| rule.total_bytes = 1),
            Some("mailboxes.totalBytes")
        );
        assert_eq!(with(|rule| rule.disk = true), Some("mailboxes.disk"));
        assert_eq!(
            with(|rule| rule.age = Some(Duration::ZERO)),
            Some("mailboxes.age")
        );
        assert_eq!(
            with(|rule| rule.topic = Some("a..b".to_owned())),
            Some("mailboxes.topic")
        );
        let of_all = MailboxRule {
            topic: Some("a.>".to_owned()),
            ..rule("a*")
        };
        assert_eq!(name_of(&[of_all], false), Some("mailboxes.topic"));
        assert_eq!(
            with(|rule| rule.dead_letters = Some("a.*".to_owned())),
            Some("mailboxes.deadLetters")
        );
    }
}

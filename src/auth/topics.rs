//! Patterns over topics.

use crate::topic::{self, covers};

/// Stands for the own id of a client, if that is a valid token.
const OWN_ID: &str = "{id}";

/// A list of patterns over topics: `*` stands for one token, a last `>` for one or more, and `{id}` for the id of the
/// client. A subscription must be covered by one of them: `room.*` does not allow `room.>`. An empty list allows
/// nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicPatterns(Box<[Box<str>]>);

impl TopicPatterns {
    /// True if one of the patterns covers a topic or a pattern, for the client with this id.
    pub fn allows(&self, other: &str, id: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.contains(OWN_ID) {
            false => covers(pattern, other),
            // An id that is not a token stands for nothing, so that it cannot be a wildcard.
            true => topic::is_token(id) && covers(&with_id(pattern, id), other),
        })
    }
}

impl<S: Into<Box<str>>> FromIterator<S> for TopicPatterns {
    fn from_iter<I: IntoIterator<Item = S>>(patterns: I) -> Self {
        Self(patterns.into_iter().map(Into::into).collect())
    }
}

/// The pattern with the id in place of each token `{id}`.
fn with_id(pattern: &str, id: &str) -> String {
    let tokens = pattern.split('.').map(|token| match token {
        OWN_ID => id,
        token => token,
    });
    tokens.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_must_be_covered() {
        let patterns = TopicPatterns::from_iter(["room.*", "news.>"]);
        for other in ["room.7", "room.*", "news.eu", "news.*", "news.eu.>"] {
            assert!(patterns.allows(other, "ann"), "{other}");
        }
        for other in ["room", "room.>", "room.a.b", ">", "*", "*.7", "news"] {
            assert!(!patterns.allows(other, "ann"), "{other}");
        }
        assert!(!TopicPatterns::default().allows("a", "ann"));
    }

    #[test]
    fn the_own_id_stands_for_a_valid_token_only() {
        let patterns = TopicPatterns::from_iter(["user.{id}.>"]);
        assert!(patterns.allows("user.ann.inbox", "ann"));
        assert!(!patterns.allows("user.bob.inbox", "ann"));
        assert!(!patterns.allows("user.{id}.inbox", "ann"));
        for id in ["*", ">", "a.b", "", "a b", "a\n"] {
            assert!(!patterns.allows("user.bob.inbox", id), "{id}");
            assert!(!patterns.allows(&format!("user.{id}.inbox"), id), "{id}");
        }
    }
}

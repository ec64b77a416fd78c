//! Globs over ids.

/// A list of globs: `*` matches any sequence of characters, even an empty one; any other character matches
/// itself.
///
/// There is no escape: an id that contains a `*` is matched by the `*` of a pattern. Matching takes time
/// linear in the id and the pattern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns(Box<[Box<str>]>);

impl Patterns {
    /// True if one of the patterns matches the whole id. An empty list allows no id.
    pub fn allows(&self, id: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, id))
    }
}

impl<S: Into<Box<str>>> FromIterator<S> for Patterns {
    fn from_iter<I: IntoIterator<Item = S>>(patterns: I) -> Self {
        Self(patterns.into_iter().map(Into::into).collect())
    }
}

/// True if the pattern matches the whole id.
pub(super) fn matches(pattern: &str, id: &str) -> bool {
    let Some((prefix, rest)) = pattern.split_once('*') else {
        return pattern == id;
    };
    let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
    let inner = id
        .strip_prefix(prefix)
        .and_then(|id| id.strip_suffix(suffix));
    let Some(mut inner) = inner else {
        return false;
    };
    // The leftmost match of a part leaves the most room for the next ones, so no backtracking is needed.
    for part in middle.split('*') {
        let Some((_, rest)) = inner.split_once(part) else {
            return false;
        };
        inner = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All texts over an alphabet, up to a length.
    fn texts(alphabet: &str, length: usize) -> Vec<String> {
        let mut texts = vec![String::new()];
        let mut from = 0;
        for _ in 0..length {
            let to = texts.len();
            for at in from..to {
                for c in alphabet.chars() {
                    texts.push(format!("{}{c}", texts[at]));
                }
            }
            from = to;
        }
        texts
    }

    /// A naive implementation of matching.
    fn means(pattern: &str, id: &str) -> bool {
        let mut rest = pattern.chars();
        match rest.next() {
            None => id.is_empty(),
            Some('*') => {
                let ends = id.char_indices().map(|(at, _)| at).chain([id.len()]);
                ends.into_iter().any(|at| means(rest.as_str(), &id[at..]))
            }
            Some(c) => id
                .strip_prefix(c)
                .is_some_and(|id| means(rest.as_str(), id)),
        }
    }

    #[test]
    fn every_short_pattern_agrees_with_a_naive_implementation() {
        for pattern in texts("aß*", 6) {
            for id in texts("aß", 6) {
                assert_eq!(
                    matches(&pattern, &id),
                    means(&pattern, &id),
                    "{pattern} {id}"
                );
            }
        }
    }

    #[test]
    fn only_the_star_is_a_wildcard() {
        for literal in ["a.c", "a?c", "[abc]", "a\\*", "{a,b}", "a+", "^a$"] {
            assert!(matches(literal, &literal.replace('*', "x")), "{literal}");
            assert!(
                !matches(literal, "abc") && !matches(literal, "a"),
                "{literal}"
            );
        }
        assert!(matches("a*c", "a*c"), "a star in an id is matched by one");
    }

    #[test]
    fn a_list_allows_an_id_that_one_of_its_patterns_matches() {
        let patterns = Patterns::from_iter(["room-*", "alice"]);
        assert!(patterns.allows("room-") && patterns.allows("room-1") && patterns.allows("alice"));
        assert!(!patterns.allows("alice2") && !patterns.allows("Room-1") && !patterns.allows(""));
        assert!(!Patterns::from_iter([""; 0]).allows(""));
        assert!(Patterns::from_iter(["*"]).allows(""));
    }

    /// With backtracking this test would practically never end.
    #[test]
    fn matching_many_stars_terminates() {
        let pattern = "*a".repeat(4_096) + "*b";
        assert!(!matches(&pattern, &"a".repeat(65_536)));
        assert!(matches(&pattern, &("a".repeat(65_536) + "b")));
    }
}

//! The grammar of topics, and of the patterns that subscribe to them. The cited rules are those of `spec/protocol.md`.

/// Maximum bytes, and maximum tokens, of a topic or a pattern.
pub(crate) const MAX_BYTES: usize = 255;
pub(crate) const MAX_TOKENS: usize = 16;

/// The tokens that a pattern may have in addition to those of topics: any one token, and any rest.
pub(crate) const ONE: &str = "*";
pub(crate) const REST: &str = ">";

/// True for a topic: 1 to 16 tokens, joined by dots (rule 34.1).
pub(crate) fn is_topic(text: &str) -> bool {
    is_well_formed(text) && text.split('.').all(is_token)
}

/// True for a pattern: a topic whose tokens may be `*`, and the last one `>` (rule 34.2).
pub(crate) fn is_pattern(text: &str) -> bool {
    let before = match text.strip_suffix(REST) {
        Some("") => return true,
        Some(before) => before.strip_suffix('.').unwrap_or(text),
        None => text,
    };
    is_well_formed(text)
        && before
            .split('.')
            .all(|token| token == ONE || is_token(token))
}

/// True for the name of a group: one token (rule 38.1).
pub(crate) fn is_group(text: &str) -> bool {
    text.len() <= MAX_BYTES && is_token(text)
}

/// True if a pattern matches more than the topic of the same text.
pub(crate) fn has_wildcards(pattern: &str) -> bool {
    pattern.split('.').any(|token| matches!(token, ONE | REST))
}

/// True if a pattern matches each topic that `other`, a topic or a pattern, stands for.
pub(crate) fn covers(pattern: &str, other: &str) -> bool {
    let mut others = other.split('.');
    for token in pattern.split('.') {
        match (token, others.next()) {
            (_, None) => return false,
            (REST, Some(_)) => return true,
            (ONE, Some(REST)) => return false,
            (ONE, Some(_)) => {}
            (token, Some(other)) if token != other => return false,
            _ => {}
        }
    }
    others.next().is_none()
}

/// True if a topic exists that both patterns match.
pub(crate) fn intersects(one: &str, other: &str) -> bool {
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(REST), Some(_)) | (Some(_), Some(REST)) => return true,
            (Some(ONE), Some(_)) | (Some(_), Some(ONE)) => {}
            (Some(one), Some(other)) if one != other => return false,
            _ => {}
        }
    }
}

/// Topics that begin with `$` are reserved for the broker.
fn is_well_formed(text: &str) -> bool {
    text.len() <= MAX_BYTES && !text.starts_with('$') && text.split('.').count() <= MAX_TOKENS
}

/// True for a token of a topic.
pub(crate) fn is_token(token: &str) -> bool {
    !token.is_empty()
        && !token.contains(|c: char| matches!(c, '.' | '*' | '>' | ' ') || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_have_tokens_of_any_characters_but_those_with_a_meaning() {
        for text in [
            "a",
            "room.7",
            "room:42",
            "a.b.c",
            "ä.€.😀",
            "a$",
            "a.$b",
            "\"",
            "-",
        ] {
            assert!(
                is_topic(text) && is_pattern(text) && !has_wildcards(text),
                "{text}"
            );
        }
        let long = "a".repeat(MAX_BYTES);
        let many = ["a"; MAX_TOKENS].join(".");
        assert!(is_topic(&long) && is_topic(&many));
        let (longer, more) = (format!("{long}a"), format!("{many}.a"));
        for text in [
            "", ".", "a.", ".a", "a..b", "a b", "a\n", "a\u{7f}", "a\u{85}", "$a", "$", &longer,
            &more,
        ] {
            assert!(!is_topic(text) && !is_pattern(text), "{text:?}");
        }
        for text in ["*", ">", "a.*", "*.a", "a*", "a.>", "*.>", "a.*.>"] {
            assert!(!is_topic(text), "{text}");
        }
    }

    #[test]
    fn a_wildcard_is_a_whole_token_and_the_rest_comes_last() {
        for text in ["*", ">", "a.*", "*.a", "*.*", "a.>", "*.>", "a.*.b.>"] {
            assert!(is_pattern(text) && has_wildcards(text), "{text}");
        }
        for text in [
            "a*", "*a.b", "**", ">.a", "a.>.b", "a>", ">>", "a.b>", "*.", "$a.*", ".>", "a..>",
        ] {
            assert!(!is_pattern(text), "{text}");
        }
    }

    #[test]
    fn a_pattern_covers_what_it_matches_and_no_more() {
        for (pattern, other) in [
            ("a", "a"),
            ("*", "a"),
            ("*", "*"),
            (">", "a.b.c"),
            (">", "*.>"),
            (">", ">"),
            ("a.*", "a.b"),
            ("a.>", "a.*"),
            ("a.>", "a.b.>"),
            ("*.b", "a.b"),
        ] {
            assert!(covers(pattern, other), "{pattern} {other}");
        }
        for (pattern, other) in [
            ("a", "b"),
            ("a", "*"),
            ("a", "a.b"),
            ("a.b", "a"),
            ("*", ">"),
            ("*", "a.b"),
            ("a.*", "a.>"),
            ("a.*", "a"),
            ("a.>", "a"),
            ("a.>", ">"),
            ("*.b", "*.*"),
        ] {
            assert!(!covers(pattern, other), "{pattern} {other}");
        }
    }

    /// All texts of up to three tokens of an alphabet.
    fn texts(alphabet: &[&str]) -> Vec<String> {
        let mut texts: Vec<String> = alphabet.iter().map(ToString::to_string).collect();
        for _ in 0..2 {
            let longer = texts
                .iter()
                .flat_map(|text| alphabet.iter().map(move |token| format!("{text}.{token}")));
            let longer: Vec<_> = longer.collect();
            texts.extend(longer);
        }
        texts.sort();
        texts.dedup();
        texts
    }

    #[test]
    fn patterns_intersect_exactly_if_a_topic_matches_both() {
        let topics = texts(&["a", "b"]);
        let mut patterns = texts(&["a", "b", "*", ">"]);
        patterns.retain(|pattern| is_pattern(pattern));
        for one in &patterns {
            for other in &patterns {
                let is_both = |topic: &String| covers(one, topic) && covers(other, topic);
                // Topics of more tokens than these are matched by a rest only.
                assert_eq!(
                    intersects(one, other),
                    topics.iter().any(is_both),
                    "{one} {other}"
                );
            }
        }
    }

    #[test]
    fn a_pattern_covers_another_exactly_if_it_matches_all_its_topics() {
        let topics = texts(&["a", "b", "c"]);
        let mut patterns = texts(&["a", "b", "*", ">"]);
        patterns.retain(|pattern| is_pattern(pattern));
        for pattern in &patterns {
            for other in &patterns {
                let all = (topics.iter().filter(|topic| covers(other, topic)))
                    .all(|topic| covers(pattern, topic));
                // Topics of three tokens cannot tell a rest from a last token.
                let is_deep = |text: &str| text.split('.').count() == 3;
                if is_deep(pattern) && is_deep(other) {
                    continue;
                }
                assert_eq!(covers(pattern, other), all, "{pattern} {other}");
            }
        }
    }
}

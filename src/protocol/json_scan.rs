//! Splits plain JSON: finds the members of an object, or the items of an array, in one pass over the bytes.
//!
//! Any text accepted here is valid JSON, and is split exactly as `serde_json` does it. Other texts are left
//! to `serde_json`: with an escape in a name, with deep nesting, or invalid. The fuzzer compares both with a
//! naive parser.

/// Maximum levels of nesting in a member.
const DEEPEST: u32 = 64;

/// Calls `each` with the name, in quotes, and the value of every member, in order. False if the object is not
/// plain: the members passed until then must be ignored.
pub(super) fn members<'a>(text: &'a str, each: impl FnMut(&'a str, &'a str)) -> bool {
    object(text, each).is_some()
}

/// Calls `each` with every item of an array until it returns false. False if the array is not plain.
pub(super) fn items<'a>(text: &'a str, each: impl FnMut(&'a str) -> bool) -> bool {
    array(text, each).is_some()
}

/// A position in a text, to parse it piece by piece.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Skips `expected`, if it comes next.
    #[inline]
    pub(super) fn skip(&mut self, expected: &str) -> bool {
        let comes = self.text.as_bytes()[self.at..].starts_with(expected.as_bytes());
        if comes {
            self.at += expected.len();
        }
        comes
    }

    /// Skips a plain value and returns it; none if none comes next.
    pub(super) fn value(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.at = value(self.text.as_bytes(), start)?;
        Some(&self.text[start..self.at])
    }

    /// True if `expected` is the whole rest.
    pub(super) fn ends(&self, expected: &str) -> bool {
        self.text.as_bytes()[self.at..] == *expected.as_bytes()
    }
}

// In the functions below, `at` is a position in the text. They return the position behind the skipped text;
// `None` means that the text is not plain.

fn object<'a>(text: &'a str, mut each: impl FnMut(&'a str, &'a str)) -> Option<()> {
    let bytes = text.as_bytes();
    let mut at = space(bytes, expect(b'{', bytes, space(bytes, 0))?);
    if bytes.get(at) == Some(&b'}') {
        return end(bytes, at + 1);
    }
    loop {
        let quote = special(bytes, expect(b'"', bytes, at)?)?;
        let name_end = expect(b'"', bytes, quote)?;
        let name = &text[at..name_end];
        let start = space(bytes, expect(b':', bytes, space(bytes, name_end))?);
        at = value(bytes, start)?;
        each(name, &text[start..at]);
        at = space(bytes, at);
        match bytes.get(at)? {
            b',' => at = space(bytes, at + 1),
            b'}' => return end(bytes, at + 1),
            _ => return None,
        }
    }
}

fn array<'a>(text: &'a str, mut each: impl FnMut(&'a str) -> bool) -> Option<()> {
    let bytes = text.as_bytes();
    let mut at = space(bytes, expect(b'[', bytes, space(bytes, 0))?);
    if bytes.get(at) == Some(&b']') {
        return end(bytes, at + 1);
    }
    loop {
        let start = at;
        at = value(bytes, start)?;
        if !each(&text[start..at]) {
            return Some(());
        }
        at = space(bytes, at);
        match bytes.get(at)? {
            b',' => at = space(bytes, at + 1),
            b']' => return end(bytes, at + 1),
            _ => return None,
        }
    }
}

/// Checks that only whitespace follows.
fn end(bytes: &[u8], at: usize) -> Option<()> {
    (space(bytes, at) == bytes.len()).then_some(())
}

/// Skips a required byte.
fn expect(byte: u8, bytes: &[u8], at: usize) -> Option<usize> {
    (*bytes.get(at)? == byte).then_some(at + 1)
}

/// Skips whitespace.
#[inline]
fn space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\t' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Skips a value.
#[inline]
fn value(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'{' | b'[' => nested(bytes, at),
        _ => scalar(bytes, at),
    }
}

/// Skips a string, a number or a literal.
#[inline]
fn scalar(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => string(bytes, at + 1),
        b'-' | b'0'..=b'9' => number(bytes, at),
        b't' => literal(b"true", bytes, at),
        b'f' => literal(b"false", bytes, at),
        b'n' => literal(b"null", bytes, at),
        _ => None,
    }
}

fn literal(word: &[u8], bytes: &[u8], at: usize) -> Option<usize> {
    bytes[at..].starts_with(word).then_some(at + word.len())
}

/// Skips an array or an object.
fn nested(bytes: &[u8], mut at: usize) -> Option<usize> {
    // A bit per level, the innermost lowest; set for an object.
    let (mut objects, mut depth) = (0_u64, 0);
    loop {
        // A value begins here.
        let opened = match bytes.get(at)? {
            b'{' => Some(1),
            b'[' => Some(0),
            _ => None,
        };
        if let Some(is_object) = opened {
            if depth == DEEPEST {
                return None;
            }
            objects = objects << 1 | is_object;
            depth += 1;
            at = space(bytes, at + 1);
            if *bytes.get(at)? != closing(objects) {
                if is_object == 1 {
                    at = name(bytes, at)?;
                }
                continue;
            }
        } else {
            at = space(bytes, scalar(bytes, at)?);
        }
        // A value has ended here, or a container is empty.
        while *bytes.get(at)? == closing(objects) {
            objects >>= 1;
            depth -= 1;
            if depth == 0 {
                return Some(at + 1);
            }
            at = space(bytes, at + 1);
        }
        at = space(bytes, expect(b',', bytes, at)?);
        if objects & 1 == 1 {
            at = name(bytes, at)?;
        }
    }
}

fn closing(objects: u64) -> u8 {
    match objects & 1 {
        1 => b'}',
        _ => b']',
    }
}

/// Skips a name and its colon.
fn name(bytes: &[u8], at: usize) -> Option<usize> {
    let end = string(bytes, expect(b'"', bytes, at)?)?;
    Some(space(bytes, expect(b':', bytes, space(bytes, end))?))
}

#[inline]
fn number(bytes: &[u8], mut at: usize) -> Option<usize> {
    at += usize::from(bytes[at] == b'-');
    at = match bytes.get(at)? {
        b'0' => at + 1,
        _ => digits(bytes, at)?,
    };
    if bytes.get(at) == Some(&b'.') {
        at = digits(bytes, at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        at = digits(bytes, at)?;
    }
    Some(at)
}

/// Skips one or more digits.
fn digits(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while let Some(b'0'..=b'9') = bytes.get(at) {
        at += 1;
    }
    (at > start).then_some(at)
}

/// Skips the rest of a string, behind its opening quote.
#[inline]
fn string(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at = special(bytes, at)?;
        match bytes[at] {
            b'"' => return Some(at + 1),
            b'\\' => at = escape(bytes, at + 1)?,
            _ => return None,
        }
    }
}

/// Skips an escape, behind its backslash.
fn escape(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 1),
        b'u' => {
            let digits = bytes.get(at + 1..at + 5)?;
            digits.iter().all(u8::is_ascii_hexdigit).then_some(at + 5)
        }
        _ => None,
    }
}

fn is_special(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

/// Words of 8 bytes that are searched one by one, before a string counts as long.
const WORDS: usize = 6;
/// Bytes of a long string that are searched at once.
const LONG: usize = 4 << 10;

/// The position of the next quote, backslash or control character.
fn special(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let (words, tail) = rest.as_chunks::<8>();
    for (place, word) in words.iter().take(WORDS).enumerate() {
        if let Some(found) = special_of(u64::from_le_bytes(*word)) {
            return Some(at + place * 8 + found);
        }
    }
    if words.len() <= WORDS {
        let place = tail.iter().position(|byte| is_special(*byte))?;
        return Some(at + words.len() * 8 + place);
    }
    let mut at = at + WORDS * 8;
    // Searched in pieces: a control character, which ends the search, may be far before the next backslash.
    loop {
        let piece = &bytes[at..bytes.len().min(at + LONG)];
        let found = memchr::memchr2(b'"', b'\\', piece);
        let piece = &piece[..found.unwrap_or(piece.len())];
        if piece
            .iter()
            .fold(false, |found, byte| found | (*byte < b' '))
        {
            let place = piece.iter().position(|byte| *byte < b' ')?;
            return Some(at + place);
        }
        at += piece.len();
        if found.is_some() {
            return Some(at);
        }
        if at == bytes.len() {
            return None;
        }
    }
}

/// The index of the first special byte in a word, from the lowest byte up.
fn special_of(word: u64) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // The high bit is set in each byte that is less than `n`. Bytes above such a byte may be false positives:
    // only the lowest is reliable.
    let less = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGHS;
    let is = |byte: u8| less(word ^ (ONES * u64::from(byte)), 1);
    let found = less(word, b' '.into()) | is(b'"') | is(b'\\');
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn members_of(text: &str) -> Option<Vec<(&str, &str)>> {
        let mut found = Vec::new();
        members(text, |name, value| found.push((name, value))).then_some(found)
    }

    #[test]
    fn the_next_special_byte_is_found_at_any_position() {
        for length in 0..300 {
            for byte in [b'"', b'\\', 0, 0x1f] {
                let mut bytes = vec![b'x'; length];
                bytes.extend([byte, b'"', 0x7f, 0x80, 0xff]);
                assert_eq!(special(&bytes, 0), Some(length));
            }
            let harmless = [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xa2, 0xdc, 0xff];
            let bytes: Vec<_> = harmless.iter().cycle().take(length).copied().collect();
            assert_eq!(special(&bytes, 0), None, "{length}");
        }
    }

    #[test]
    fn a_plain_object_is_split_into_its_members() {
        let values = [
            "0",
            "-0",
            "-1.5e+10",
            "12E-3",
            "true",
            "false",
            "null",
            r#""""#,
            r#""\u00e4\"\\/""#,
            "[]",
            "{}",
            "[ ]",
            "{ }",
            "[1,[2,[3]],{}]",
            r#"{"a":{"b":[{}]},"a":1}"#,
            r#"[ 1 , { "x" : [ ] } , "]" ]"#,
        ];
        for value in values {
            for text in [
                format!(r#"{{"a":{value}}}"#),
                format!(r#"{{"a":{value},"a":{value},"b":"c"}}"#),
                format!(" {{ \"a\"\t:\r\n{value} , \"b\" : \"c\" }} "),
            ] {
                let found = members_of(&text).unwrap_or_else(|| panic!("{text}"));
                assert_eq!(found[0], (r#""a""#, value));
                if found.len() > 1 {
                    assert_eq!(found[found.len() - 1], (r#""b""#, r#""c""#));
                }
            }
        }
        assert_eq!(members_of("{}"), Some(Vec::new()));
    }

    #[test]
    fn a_plain_array_is_split_into_items_until_the_callback_stops() {
        let text = r#" [ "a" ,[1,{"b":2}],3 , null ] "#;
        let mut found = Vec::new();
        assert!(items(text, |item| {
            found.push(item);
            found.len() < 9
        }));
        assert_eq!(found, [r#""a""#, r#"[1,{"b":2}]"#, "3", "null"]);
        assert!(items(text, |_| {
            found.pop();
            found.len() > 2
        }));
        assert_eq!(found.len(), 2);
        for text in ["", "[", "[1", "[1,]", "[1 2]", "[1]]", "{}", "1"] {
            assert!(!items(text, |_| true), "{text}");
        }
    }

    #[test]
    fn invalid_json_is_never_plain() {
        let values = [
            "",
            "01",
            "1.",
            ".5",
            "1e",
            "1e+",
            "-",
            "+1",
            "tru",
            "nul",
            "True",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12",
            "\"\n\"",
            "[",
            "]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "[}",
            "{]",
            "[{]}",
            "1 2",
            "'a'",
        ];
        for value in values {
            let text = format!(r#"{{"a":{value}}}"#);
            assert!(serde_json::from_str::<&RawValue>(&text).is_err(), "{text}");
            assert_eq!(members_of(&text), None, "{text}");
        }
        for text in [
            "",
            "{",
            "}",
            "[]",
            "1",
            "{}}",
            "{} x",
            "{\"a\":1",
            "{,}",
            "{\"a\" 1}",
        ] {
            assert_eq!(members_of(text), None, "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_not_plain() {
        let nest = |levels| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            format!(r#"{{"a":{open}{close}}}"#)
        };
        assert!(members_of(&nest(64)).is_some());
        assert!(members_of(&nest(65)).is_none());
    }
}

//! What a JSON text takes of the JavaScript heap once it is parsed.
//!
//! The process ends when V8 has no memory left, and three bytes of JSON (`{},`) may take 64 of its
//! heap. A text that could fill a large part of it is therefore not parsed.

use memchr::memchr2;

/// Of an object or an array: the object itself, its first members, and what the parser holds for it.
const NESTED: usize = 120;
/// Of a member of an object: its place, and a name or a shape that no other object has.
const MEMBER: usize = 160;
/// Of an item: its place, and a number.
const ITEM: usize = 24;
/// Of a string, beside its characters.
const STRING: usize = 24;
/// No text takes more than this for each of its bytes: the worst is `[` alone.
const MOST_PER_BYTE: usize = NESTED + 4;

/// True if this JSON text takes at most so many bytes of the heap, by an estimate that is rather too
/// high.
pub(super) fn fits_heap(text: &str, heap: usize) -> bool {
    text.len().saturating_mul(MOST_PER_BYTE) <= heap || estimate(text) <= heap
}

/// Bytes of the heap, at most: the text itself, and what it becomes.
fn estimate(text: &str) -> usize {
    // Two bytes a character where they are not all Latin: for the text, and for its strings.
    let per_byte = if text.is_ascii() { 2 } else { 4 };
    let bytes = text.as_bytes();
    let (mut heap, mut at) = (text.len().saturating_mul(per_byte), 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        heap = heap.saturating_add(match byte {
            b'{' | b'[' => NESTED,
            b':' => MEMBER,
            b',' => ITEM,
            b'"' => {
                at = string_end(bytes, at);
                STRING
            }
            _ => 0,
        });
    }
    heap
}

/// Behind the string whose first character is here.
fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if bytes[at - 1] == b'"' {
            return at;
        }
        // Behind what is escaped.
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structure_counts_and_what_is_in_strings_does_not() {
        let objects = format!("[{}{{}}]", "{},".repeat(1000));
        assert!(estimate(&objects) > 1000 * NESTED);
        let string = format!("\"{}\\\"{}\"", "{},".repeat(500), "[[\\\\".repeat(500));
        assert!(
            estimate(&string) < 3 * string.len(),
            "{}",
            estimate(&string)
        );
        assert_eq!(estimate("[1,\"a\"]"), 2 * 7 + NESTED + ITEM + STRING);
    }

    #[test]
    fn no_text_takes_more_than_the_most() {
        for text in ["[[]]", "{},{}", "{\"\":{\"\":0}}", "\"é\"", "[[[[[[[["] {
            assert!(estimate(text) <= text.len() * MOST_PER_BYTE, "{text}");
            assert!(fits_heap(text, estimate(text)) && !fits_heap(text, estimate(text) - 1));
        }
    }

    #[test]
    fn a_string_that_does_not_end_is_one() {
        for text in ["\"", "\"\\", "\"a\\\""] {
            assert_eq!(estimate(text), 2 * text.len() + STRING);
        }
    }
}

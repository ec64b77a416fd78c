//! Estimates how much of the JavaScript heap a JSON text takes once it is parsed.
//!
//! V8 ends the process when its heap is full, and three bytes of JSON (`{},`) may take 64 bytes of heap. A
//! text that could fill a large part of the heap is therefore not parsed.

use memchr::memchr2;

/// Bytes of an object or an array: the object itself, its first members, and the parser's bookkeeping.
const NESTED: usize = 120;
/// Bytes of a member of an object: its slot, and a name or a shape that no other object shares.
const MEMBER: usize = 160;
/// Bytes of an item of an array: its slot, and a number.
const ITEM: usize = 24;
/// Bytes of a string without its characters.
const STRING: usize = 24;
/// Maximum heap per byte of JSON text: a text of `[` alone takes the most.
const MOST_PER_BYTE: usize = NESTED + 4;

/// True if this JSON text takes at most `heap` bytes of the heap. The estimate is an upper bound.
pub(super) fn fits_heap(text: &str, heap: usize) -> bool {
    text.len().saturating_mul(MOST_PER_BYTE) <= heap || estimate(text) <= heap
}

/// Upper bound of the heap that a text and its parsed value take.
pub(super) fn estimate(text: &str) -> usize {
    // V8 stores two bytes per character unless all are Latin-1: in the text, and in its strings.
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

/// The position after the end of the string whose first character is at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if bytes[at - 1] == b'"' {
            return at;
        }
        // Skip the escaped character.
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structure_counts_and_string_contents_do_not() {
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
    fn no_text_exceeds_the_maximum() {
        for text in ["[[]]", "{},{}", "{\"\":{\"\":0}}", "\"é\"", "[[[[[[[["] {
            assert!(estimate(text) <= text.len() * MOST_PER_BYTE, "{text}");
            assert!(fits_heap(text, estimate(text)) && !fits_heap(text, estimate(text) - 1));
        }
    }

    #[test]
    fn an_unterminated_string_counts_as_a_string() {
        for text in ["\"", "\"\\", "\"a\\\""] {
            assert_eq!(estimate(text), 2 * text.len() + STRING);
        }
    }
}

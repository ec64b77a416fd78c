//! The payloads: JSON texts of a fixed length with a sequence number that is patched in place.

use crate::failure::Result;
use crate::frame::{self, TEXT};

const DIGITS: usize = 12;

/// Where counting starts: twelve digits without a leading zero, so that the number is valid JSON,
/// exact in a double and of the same length for ever.
const FIRST: &[u8; DIGITS] = b"100000000000";

const FILLER: &str = "the quick brown fox jumps over the lazy dog ";

/// A number that counts upward in ASCII; cheaper than formatting it for every message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sequence([u8; DIGITS]);

impl Sequence {
    pub(crate) fn new() -> Self {
        Sequence(*FIRST)
    }

    pub(crate) fn advance(&mut self) {
        for digit in self.0.iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
    }
}

/// The JSON value that is sent: an object of exactly `size` bytes.
pub(crate) fn value(size: usize) -> Result<String> {
    let first = str::from_utf8(FIRST).expect("digits");
    let empty = format!(r#"{{"n":{first},"text":""}}"#);
    let room = size
        .checked_sub(empty.len())
        .ok_or(format!("--size must be at least {}", empty.len()))?;
    let text: String = FILLER.chars().cycle().take(room).collect();
    Ok(format!(r#"{{"n":{first},"text":"{text}"}}"#))
}

/// An ack of the 20 characters that clients use; no two pairs and no two requests share one.
pub(crate) fn ack(pair: usize) -> String {
    let first = str::from_utf8(FIRST).expect("digits");
    format!("ask{pair:05}{first}")
}

/// A text as it is expected to arrive.
pub(crate) struct Expected {
    text: Vec<u8>,
    places: Vec<usize>,
}

impl Expected {
    pub(crate) fn new(text: &str) -> Self {
        Expected {
            text: text.into(),
            places: places(text),
        }
    }

    /// Compares all of it, and says what differs: the number alone, or the rest as well.
    pub(crate) fn check(&mut self, sequence: &Sequence, actual: &[u8]) -> Result<()> {
        for &place in &self.places {
            self.text[place..place + DIGITS].copy_from_slice(&sequence.0);
        }
        if actual == self.text {
            return Ok(());
        }
        let number = self.places.last().and_then(|&p| actual.get(p..p + DIGITS));
        let wanted = str::from_utf8(&sequence.0).expect("digits");
        Err(match number.map(String::from_utf8_lossy) {
            Some(number) if actual.len() == self.text.len() && number != wanted => format!(
                "lost, repeated or out of order: expected number {wanted}, received {number}"
            ),
            _ => format!(
                "wrong content: expected {} bytes {}, received {} bytes {}",
                self.text.len(),
                excerpt(&self.text),
                actual.len(),
                excerpt(actual)
            ),
        }
        .into())
    }
}

/// Masked copies of one frame, one behind the other, written in one go: no byte of the payload
/// but the number is touched once the clock runs.
pub(crate) struct Batch {
    frames: Vec<u8>,
    stride: usize,
    start: usize,
    places: Vec<usize>,
    written: usize,
    end: usize,
}

impl Batch {
    /// As many copies as fit into `bytes`, at least one and at most `copies`.
    pub(crate) fn new(text: &str, copies: usize, bytes: usize) -> Self {
        let (frame, start) = frame::encode(TEXT, text.as_bytes());
        Batch {
            frames: frame.repeat((bytes / frame.len()).clamp(1, copies)),
            stride: frame.len(),
            start,
            places: places(text),
            written: 0,
            end: 0,
        }
    }

    pub(crate) fn copies(&self) -> usize {
        self.frames.len() / self.stride
    }

    /// Numbers the first `count` copies, counting `sequence` upward, and makes them pending.
    pub(crate) fn fill(&mut self, count: usize, sequence: &mut Sequence) {
        for frame in self.frames.chunks_exact_mut(self.stride).take(count) {
            for &place in &self.places {
                let digits = &mut frame[self.start + place..][..DIGITS];
                digits.copy_from_slice(&sequence.0);
                frame::mask(digits, place);
            }
            sequence.advance();
        }
        self.written = 0;
        self.end = count * self.stride;
    }

    pub(crate) fn pending(&self) -> &[u8] {
        &self.frames[self.written..self.end]
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.written += bytes;
    }
}

fn places(text: &str) -> Vec<usize> {
    let first = str::from_utf8(FIRST).expect("digits");
    text.match_indices(first).map(|(place, _)| place).collect()
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(160)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_the_size_that_was_asked_for() {
        for size in [28, 100, 1024, 16_384] {
            assert_eq!(value(size).unwrap().len(), size);
        }
        assert!(value(27).is_err());
    }

    #[test]
    fn a_sequence_carries() {
        let mut sequence = Sequence::new();
        for _ in 0..1000 {
            sequence.advance();
        }
        assert_eq!(&sequence.0, b"100000001000");
    }

    #[test]
    fn a_batch_holds_consecutive_numbers_under_the_mask() {
        let text = value(100).unwrap();
        let mut batch = Batch::new(&text, 3, 1 << 20);
        let mut sent = Sequence::new();
        batch.fill(2, &mut sent);
        assert_eq!(batch.copies(), 3);
        assert_eq!(batch.pending().len(), 2 * batch.stride);

        let mut expected = Expected::new(&text);
        let mut received = Sequence::new();
        for frame in batch.pending().chunks(batch.stride) {
            let mut payload = frame[batch.start..].to_vec();
            frame::mask(&mut payload, 0);
            expected.check(&received, &payload).unwrap();
            received.advance();
        }
        assert!(sent == received);
    }

    #[test]
    fn loss_and_alteration_are_told_apart() {
        let text = value(100).unwrap();
        let mut expected = Expected::new(&text);
        let mut second = Sequence::new();
        second.advance();

        let lost = expected.check(&second, text.as_bytes()).unwrap_err();
        assert!(lost.to_string().starts_with("lost"));
        let altered = expected.check(&second, b"{}").unwrap_err();
        assert!(altered.to_string().starts_with("wrong content"));
    }
}

//! Payloads: JSON texts of a fixed length with a sequence number that is patched in place.

use crate::failure::Result;
use crate::frame;

const DIGITS: usize = 12;

/// The first number: twelve digits without a leading zero, so that the number is valid JSON, exact
/// in a double and of constant length.
pub(crate) const FIRST: &str = "100000000000";

const FILLER: &str = "the quick brown fox jumps over the lazy dog ";

/// A number that counts upward in ASCII, which is cheaper than formatting it for every message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sequence([u8; DIGITS]);

impl Sequence {
    pub(crate) fn new() -> Self {
        Sequence(FIRST.as_bytes().try_into().expect("twelve digits"))
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

/// The JSON value to send: an object of exactly `size` bytes.
pub(crate) fn value(size: usize) -> Result<String> {
    let empty = format!(r#"{{"n":{FIRST},"text":""}}"#);
    let room = size
        .checked_sub(empty.len())
        .ok_or(format!("--size must be at least {}", empty.len()))?;
    let text: String = FILLER.chars().cycle().take(room).collect();
    Ok(format!(r#"{{"n":{FIRST},"text":"{text}"}}"#))
}

/// A text with a placeholder for its number, as sent or as expected.
pub(crate) struct Template {
    text: Vec<u8>,
    places: Vec<usize>,
}

impl Template {
    pub(crate) fn new(text: &str) -> Self {
        Template {
            text: text.into(),
            places: places(text),
        }
    }

    pub(crate) fn numbered(&mut self, sequence: &Sequence) -> &[u8] {
        for &place in &self.places {
            self.text[place..place + DIGITS].copy_from_slice(&sequence.0);
        }
        &self.text
    }

    /// Compares the whole text. The error shows whether the number or the rest differs.
    pub(crate) fn check(&mut self, sequence: &Sequence, actual: &[u8]) -> Result<()> {
        if actual == self.numbered(sequence) {
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

/// Masked copies of one text in sequence, sent in one write. Only the numbers change during the
/// measurement.
pub(crate) struct Batch {
    frames: Vec<u8>,
    /// The length of a frame, the offset of its payload, and the length of a text.
    frame: usize,
    start: usize,
    text: usize,
    /// Number of texts in a frame.
    together: usize,
    places: Vec<usize>,
    written: usize,
    end: usize,
}

impl Batch {
    /// Frames of `together` copies: as many as fit into `bytes`, at least one, and at most enough
    /// for `copies`.
    pub(crate) fn new(
        opcode: u8,
        text: &str,
        together: usize,
        copies: usize,
        bytes: usize,
    ) -> Self {
        let (frame, start) = frame::encode(opcode, text.repeat(together).as_bytes());
        let most = (copies / together).max(1);
        Batch {
            frames: frame.repeat((bytes / frame.len()).clamp(1, most)),
            frame: frame.len(),
            start,
            text: text.len(),
            together,
            places: places(text),
            written: 0,
            end: 0,
        }
    }

    /// How many of `wanted` copies can be sent at once in whole frames.
    pub(crate) fn fitting(&self, wanted: usize) -> usize {
        let frames = self.frames.len() / self.frame;
        (wanted / self.together).min(frames) * self.together
    }

    /// Numbers the first `count` copies, which fill whole frames, by counting `sequence` upward,
    /// and makes them pending.
    pub(crate) fn fill(&mut self, count: usize, sequence: &mut Sequence) {
        let frames = count / self.together;
        for frame in self.frames.chunks_exact_mut(self.frame).take(frames) {
            for text in (0..self.together).map(|index| index * self.text) {
                for place in self.places.iter().map(|place| text + place) {
                    let digits = &mut frame[self.start + place..][..DIGITS];
                    digits.copy_from_slice(&sequence.0);
                    frame::mask(digits, place);
                }
                sequence.advance();
            }
        }
        self.written = 0;
        self.end = frames * self.frame;
    }

    pub(crate) fn pending(&self) -> &[u8] {
        &self.frames[self.written..self.end]
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.written += bytes;
    }
}

fn places(text: &str) -> Vec<usize> {
    text.match_indices(FIRST).map(|(place, _)| place).collect()
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(160)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::TEXT;

    #[test]
    fn a_value_has_the_requested_size() {
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
        let text = value(101).unwrap();
        for together in [1, 3] {
            let mut batch = Batch::new(TEXT, &text, together, 9, 1 << 20);
            let mut sent = Sequence::new();
            assert_eq!(batch.fitting(100), 9);
            assert_eq!(batch.fitting(7), 7 / together * together);
            batch.fill(6, &mut sent);
            assert_eq!(batch.pending().len(), 6 / together * batch.frame);

            let mut expected = Template::new(&text);
            let mut received = Sequence::new();
            for frame in batch.pending().chunks(batch.frame) {
                let mut payload = frame[batch.start..].to_vec();
                frame::mask(&mut payload, 0);
                for text in payload.chunks(batch.text) {
                    expected.check(&received, text).unwrap();
                    received.advance();
                }
            }
            assert!(sent == received);
        }
    }

    #[test]
    fn loss_and_alteration_are_distinguished() {
        let text = value(100).unwrap();
        let mut expected = Template::new(&text);
        let mut second = Sequence::new();
        second.advance();

        let lost = expected.check(&second, text.as_bytes()).unwrap_err();
        assert!(lost.to_string().starts_with("lost"));
        let altered = expected.check(&second, b"{}").unwrap_err();
        assert!(altered.to_string().starts_with("wrong content"));
    }
}

//! Frames of a session that were written, but that its peer has not confirmed: they are written again if the
//! session continues on another socket.
//!
//! Only actions are counted, and not those that belong to one socket: `registered` and `received`.

use std::collections::VecDeque;

use super::queue::{CHUNK, Chunk};
use crate::protocol;

/// First byte of an unfragmented text frame.
const TEXT: u8 = 0x81;

/// Written frames, oldest first, up to a limit: beyond it the oldest are dropped.
#[derive(Debug)]
pub(super) struct Kept {
    /// Chunks of whole frames, each with its number of counted frames.
    chunks: VecDeque<(Chunk, u64)>,
    bytes: usize,
    own: usize,
    /// Maximum of `bytes`, without `extra`.
    limit: usize,
    /// Further bytes, while frames that are written again are not confirmed.
    extra: usize,
    /// Counted frames before these. Negative while frames that precede the session are queued.
    before: i64,
}

impl Kept {
    /// Starts to keep frames, behind the `queued` ones.
    pub(super) fn new<'a>(limit: usize, queued: impl Iterator<Item = &'a [u8]>) -> Box<Self> {
        let before: u64 = queued.map(count_frames).sum();
        Box::new(Self {
            chunks: VecDeque::new(),
            bytes: 0,
            own: 0,
            limit,
            extra: 0,
            before: -before.cast_signed(),
        })
    }

    /// Bytes of memory held.
    pub(super) fn own(&self) -> usize {
        self.own
    }

    /// Adds a chunk that was written.
    pub(super) fn add(&mut self, chunk: Chunk) {
        let count = count_frames(chunk.bytes());
        self.bytes += chunk.bytes().len();
        self.own += chunk.own();
        self.chunks.push_back((chunk, count));
        while self.bytes > self.limit + self.extra {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((chunk, count)) = self.chunks.pop_front() {
            self.bytes -= chunk.bytes().len();
            self.own -= chunk.own();
            self.before += count.cast_signed();
        }
    }

    /// Drops the chunks whose frames the peer has received: `count` in all.
    pub(super) fn confirm(&mut self, count: u64) {
        while let Some((chunk, frames)) = self.chunks.front()
            && self.before + frames.cast_signed() <= count.cast_signed()
        {
            self.extra = self.extra.saturating_sub(chunk.bytes().len());
            self.drop_oldest();
        }
    }

    /// Returns `first` and, behind it, the frames from the `count`th on: those kept, and the `queued` ones. They are in
    /// chunks of limited size, which are kept one by one as they are written. None if some frames are missing, or if the
    /// session has not had so many.
    pub(super) fn rewind<'a>(
        &'a self,
        count: u64,
        queued: impl Iterator<Item = &'a [u8]>,
        first: Vec<u8>,
    ) -> Option<VecDeque<Chunk>> {
        let count = i64::try_from(count).ok()?;
        let mut number = self.before;
        if number > count {
            return None;
        }
        let mut chunks = VecDeque::new();
        let mut out = first;
        let kept = self.chunks.iter().map(|(chunk, _)| chunk.bytes());
        for frame in kept.chain(queued).flat_map(frames) {
            if is_counted(frame) {
                number += 1;
                if number > count {
                    if out.len() + frame.whole.len() > CHUNK {
                        chunks.push_back(full_chunk(&mut out));
                    }
                    out.extend_from_slice(frame.whole);
                }
            }
        }
        chunks.push_back(full_chunk(&mut out));
        (number >= count).then_some(chunks)
    }

    /// Starts again behind the `count`th frame, with so many bytes to be written again. If the connection is lost before
    /// their peer has received them, it can continue once more: the limit is that of written and waiting frames together.
    pub(super) fn restart(&mut self, count: u64, again: usize) {
        (self.bytes, self.own) = (0, 0);
        (self.chunks, self.before) = (VecDeque::new(), count.cast_signed());
        self.extra = again.saturating_sub(self.limit).min(self.limit);
    }

    /// True if the peer may continue after `count` frames.
    pub(super) fn has(&self, count: u64) -> bool {
        i64::try_from(count).is_ok_and(|count| self.before <= count)
    }
}

/// Turns a buffer into a chunk without unused memory.
fn full_chunk(buffer: &mut Vec<u8>) -> Chunk {
    buffer.shrink_to_fit();
    Chunk::Own(std::mem::take(buffer))
}

/// A frame, and its payload.
#[derive(Clone, Copy)]
struct Frame<'a> {
    whole: &'a [u8],
    payload: &'a [u8],
}

/// The unmasked frames of a chunk.
fn frames(bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let frames = protocol::Frames(bytes);
    frames.map(|(payload, whole)| Frame { whole, payload })
}

/// True for an action that does not belong to one socket.
fn is_counted(frame: Frame<'_>) -> bool {
    frame.whole.first() == Some(&TEXT)
        && !frame.payload.starts_with(br#"{"action":"received""#)
        && !frame.payload.starts_with(br#"{"action":"registered""#)
}

fn count_frames(bytes: &[u8]) -> u64 {
    frames(bytes).filter(|frame| is_counted(*frame)).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::framing::{Mask, append_text, ping};

    fn encoded(texts: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for text in texts {
            append_text(&[text], &mut out);
        }
        out
    }

    fn texts(bytes: &[u8]) -> Vec<&str> {
        protocol::Frames(bytes)
            .map(|(payload, _)| str::from_utf8(payload).unwrap())
            .collect()
    }

    #[test]
    fn frames_behind_the_count_are_written_again_without_those_of_one_socket() {
        let before = encoded(&["before"]);
        let mut kept = Kept::new(1000, [&before[..]].into_iter());
        kept.add(Chunk::Own(before));
        let mut chunk = encoded(&[
            r#"{"action":"registered"}"#,
            "1",
            r#"{"action":"received"}"#,
        ]);
        chunk.extend(ping(Mask::None));
        chunk.extend(encoded(&["2"]));
        kept.add(Chunk::Own(chunk));
        kept.add(Chunk::Own(encoded(&["3"])));
        let queued = encoded(&["4"]);
        assert!(
            kept.rewind(5, [&queued[..]].into_iter(), Vec::new())
                .is_none()
        );
        let first = encoded(&["first"]);
        let chunks = kept.rewind(1, [&queued[..]].into_iter(), first).unwrap();
        kept.restart(1, 0);
        assert_eq!(chunks.len(), 1);
        assert_eq!(texts(chunks[0].bytes()), ["first", "2", "3", "4"]);
        assert!(kept.has(1) && !kept.has(0));
        assert_eq!((kept.bytes, kept.own), (0, 0));
    }

    #[test]
    fn confirmed_chunks_and_those_beyond_the_limit_are_dropped() {
        let mut kept = Kept::new(10, std::iter::empty());
        for text in ["one", "two"] {
            kept.add(Chunk::Own(encoded(&[text])));
        }
        kept.confirm(0);
        assert!(kept.has(0));
        kept.confirm(1);
        assert!(!kept.has(0) && kept.has(1));
        kept.add(Chunk::Own(encoded(&["three"])));
        assert!(!kept.has(1) && kept.has(2));
        kept.confirm(u64::MAX >> 1);
        assert_eq!((kept.chunks.len(), kept.bytes, kept.own), (0, 0, 0));
    }

    #[test]
    fn frames_written_again_are_in_chunks_of_limited_size() {
        let mut kept = Kept::new(usize::MAX >> 1, std::iter::empty());
        let long = "x".repeat(CHUNK / 2);
        kept.add(Chunk::Own(encoded(&["1", "2", &long, &long])));
        let large = encoded(&["3", &"x".repeat(2 * CHUNK), "4"]);
        let chunks = kept
            .rewind(1, [&large[..]].into_iter(), Vec::new())
            .unwrap();
        let lengths = chunks.iter().map(|chunk| {
            let texts = texts(chunk.bytes());
            texts.iter().map(|text| text.len()).collect::<Vec<_>>()
        });
        assert_eq!(
            lengths.collect::<Vec<_>>(),
            [
                vec![1, CHUNK / 2],
                vec![CHUNK / 2, 1],
                vec![2 * CHUNK],
                vec![1],
            ]
        );
        let is_trimmed = |chunk: &Chunk| matches!(chunk, Chunk::Own(buffer) if buffer.capacity() == buffer.len());
        assert!(chunks.iter().all(is_trimmed));
    }

    #[test]
    fn frames_written_again_are_kept_up_to_twice_the_limit_until_they_are_confirmed() {
        let four = || Chunk::Own(encoded(&["four"]));
        let mut kept = Kept::new(12, std::iter::empty());
        kept.restart(0, 18);
        (0..3).for_each(|_| kept.add(four()));
        assert!(kept.has(0));
        kept.confirm(1);
        kept.add(four());
        // The limit holds again.
        assert!(!kept.has(1) && kept.has(2));
        kept.restart(0, 1000);
        (0..4).for_each(|_| kept.add(four()));
        assert!(kept.has(0));
        kept.add(four());
        assert!(!kept.has(0));
    }
}

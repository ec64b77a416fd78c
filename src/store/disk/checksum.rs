//! The checksum of the row of a message. The file has checksums of its pages, which are verified only after a crash.

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The checksum of a row. Each step can be undone, so that a row with one damaged word has another one, but for its last
/// step to 32 bits.
pub(super) fn of(log: u32, numbers: [u64; 4], frame: &[u8]) -> u32 {
    let add = |hash: u64, word: u64| (hash ^ word).wrapping_mul(FACTOR).rotate_left(29);
    let mut hash = add(u64::from(log), frame.len() as u64);
    for number in numbers {
        hash = add(hash, number);
    }
    let (words, rest) = frame.as_chunks::<8>();
    for word in words {
        hash = add(hash, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    hash = add(hash, u64::from_le_bytes(last));
    hash = add(hash, hash >> 32);
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_counts_and_the_value_never_changes() {
        let frame = b"a frame whose length is no multiple of eight";
        let numbers = [17, 1_700_000_000_000, 12, 3];
        let whole = of(1, numbers, frame);
        assert_eq!(whole, VALUE);
        for bit in 0..8 * frame.len() {
            let mut other = frame.to_vec();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(of(1, numbers, &other), whole, "{bit}");
        }
        for place in 0..4 {
            let mut other = numbers;
            other[place] += 1;
            assert_ne!(of(1, other, frame), whole);
        }
        assert_ne!(of(2, numbers, frame), whole);
        assert_ne!(of(1, numbers, &frame[..43]), whole);
        assert_ne!(of(1, numbers, b""), of(1, numbers, b"\0"));
    }

    /// Files have it.
    const VALUE: u32 = 4_120_118_736;
}

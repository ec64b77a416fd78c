//! A histogram of latencies with buckets of constant relative width, similar to HdrHistogram.

/// Buckets per power of two: the error of a value is below one percent.
const STEPS: u64 = 128;
const STEPS_LOG2: u32 = STEPS.ilog2();

/// Counts of values in the unit of the caller.
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    maximum: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Histogram {
            buckets: vec![0; index(u64::MAX) + 1],
            count: 0,
            maximum: 0,
        }
    }

    pub(crate) fn record(&mut self, value: u64) {
        self.buckets[index(value)] += 1;
        self.count += 1;
        self.maximum = self.maximum.max(value);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn maximum(&self) -> u64 {
        self.maximum
    }

    /// The value that `share` (0 to 1) of all values do not exceed, with the precision of a bucket.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper(index).min(self.maximum);
            }
        }
        self.maximum
    }
}

/// Values below `2 * STEPS` have a bucket each. Above, the leading bits select it.
fn index(value: u64) -> usize {
    let shift = (u64::BITS - (value | STEPS).leading_zeros()) - STEPS_LOG2 - 1;
    (u64::from(shift) * STEPS + (value >> shift)) as usize
}

/// The largest value of a bucket.
fn upper(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * STEPS {
        return index;
    }
    let shift = index / STEPS - 1;
    let value = u128::from(index % STEPS + STEPS + 1) << shift;
    (value - 1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_narrower_than_one_percent() {
        for value in [0, 1, 127, 128, 255, 256, 257, 1_000, 123_456_789, u64::MAX] {
            let upper = upper(index(value));
            assert!(upper >= value, "{upper} < {value}");
            assert!((upper - value) as f64 <= value as f64 / 100.0);
        }
    }

    #[test]
    fn quantiles_of_a_thousand_values() {
        let mut histogram = Histogram::new();
        (1..=1000).for_each(|value| histogram.record(value * 1000));
        assert!((500_000..505_000).contains(&histogram.quantile(0.5)));
        assert!((990_000..999_000).contains(&histogram.quantile(0.99)));
        assert_eq!(histogram.quantile(1.0), 1_000_000);
    }
}

//! Counters by the value of a label, and histograms of times. Recording takes no lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// One counter for each of `N` values of a label.
#[derive(Debug)]
pub(crate) struct Counters<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Counters<N> {
    /// Counts the value at this index.
    pub(crate) fn add(&self, index: usize) {
        if let Some(counter) = self.0.get(index) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// The counters with the values of their label.
    pub(crate) fn snapshot(&self, names: &[&'static str; N]) -> ByLabel {
        let counts = self.0.iter().map(|counter| counter.load(Relaxed));
        ByLabel(names.iter().copied().zip(counts).collect())
    }
}

/// Counters by the value of a label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByLabel(pub Vec<(&'static str, u64)>);

impl ByLabel {
    /// The counter for this value of the label; zero if there is none.
    pub fn get(&self, value: &str) -> u64 {
        let found = self.0.iter().find(|(name, _)| *name == value);
        found.map_or(0, |(_, count)| *count)
    }

    /// The sum of all counters.
    pub fn sum(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }
}

/// Upper bounds of the buckets of a histogram: 10 µs to 10 s.
pub const BOUNDS: [Duration; 17] = [
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(10),
];

/// `BOUNDS` in nanoseconds.
const NANOS: [u64; BOUNDS.len()] = {
    let mut nanos = [0; BOUNDS.len()];
    let mut at = 0;
    while at < nanos.len() {
        nanos[at] = BOUNDS[at].as_nanos() as u64;
        at += 1;
    }
    nanos
};

/// The number of buckets: one for each bound, and one for longer times.
const BUCKETS: usize = BOUNDS.len() + 1;

/// A histogram of times.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    /// Sum of all times, in nanoseconds.
    nanos: AtomicU64,
}

impl Histogram {
    /// Records a time.
    pub(crate) fn record(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = NANOS.partition_point(|bound| *bound < nanos);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Times {
        Times {
            buckets: self.buckets.each_ref().map(|count| count.load(Relaxed)),
            sum: Duration::from_nanos(self.nanos.load(Relaxed)),
        }
    }
}

/// A snapshot of a histogram of times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// How many times were at most each of [`BOUNDS`], and above the bound before it; at the end, how many were longer.
    pub buckets: [u64; BUCKETS],
    /// The sum of all times.
    pub sum: Duration,
}

impl Times {
    /// How many times were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_belongs_to_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for micros in [0, 10, 11, 2500, 10_000_000, 10_000_001] {
            histogram.record(Duration::from_micros(micros));
        }
        let times = histogram.snapshot();
        assert_eq!(times.count(), 6);
        assert_eq!(times.buckets[..2], [2, 1]);
        assert_eq!(times.buckets[7], 1);
        assert_eq!(times.buckets[16..], [1, 1]);
        assert_eq!(times.sum, Duration::from_micros(20_002_522));
    }

    #[test]
    fn bounds_ascend() {
        assert!(BOUNDS.is_sorted_by(|a, b| a < b));
    }
}

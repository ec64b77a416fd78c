//! How long a slow receiver may delay the other receivers of its senders: a token bucket of time.

use std::time::{Duration, Instant};

/// A receiver that takes so many bytes a second is not slow, however fast it is sent to.
const FAST: u64 = 8 << 20;
/// The bucket fills at this part of the clock's pace: 5 s in a minute.
const REFILL: u32 = 12;

/// The delay that a receiver has caused. Time in which it read fast does not count.
#[derive(Debug, Default)]
pub(super) struct DelayBudget {
    /// Since when it delays others, and the bytes that it had taken by then.
    since: Option<(Instant, u64)>,
    /// When the bucket is full again; none if it is.
    full_at: Option<Instant>,
}

impl DelayBudget {
    /// Others are delayed from now on.
    pub(super) fn start(&mut self, now: Instant, drained: u64) {
        self.since.get_or_insert((now, drained));
    }

    pub(super) fn is_running(&self) -> bool {
        self.since.is_some()
    }

    /// Nobody is delayed any more.
    pub(super) fn stop(&mut self, now: Instant, drained: u64) {
        if self.since.is_none() {
            return;
        }
        let debt = self.debt(now, drained);
        self.since = None;
        self.full_at = (!debt.is_zero()).then(|| now + debt);
    }

    /// Time until the bucket would be full if the delay ended now.
    fn debt(&self, now: Instant, drained: u64) -> Duration {
        let former = (self.full_at).map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let Some((since, before)) = self.since else {
            return former;
        };
        let read = Duration::from_secs_f64((drained - before) as f64 / FAST as f64);
        let counted = now.duration_since(since).saturating_sub(read);
        former + counted * REFILL
    }

    /// How much longer others may be delayed, of `capacity` at once.
    pub(super) fn left(&self, now: Instant, drained: u64, capacity: Duration) -> Duration {
        let most = capacity.saturating_mul(REFILL);
        most.saturating_sub(self.debt(now, drained)) / REFILL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Duration = Duration::from_secs(5);
    const MIB: u64 = 1 << 20;

    /// Seconds until the budget of a receiver is used up that takes `rate` of the `offered` bytes a
    /// second, holds its senders from `mark` bytes on and lets go of them at half of that.
    fn lasts(rate: u64, offered: u64, mark: u64) -> Option<u64> {
        const STEP: Duration = Duration::from_millis(1);
        let start = Instant::now();
        let (mut budget, mut waiting, mut drained) = (DelayBudget::default(), 0, 0);
        for step in 0..600_000 {
            let now = start + STEP * step;
            let taken = (rate / 1000).min(waiting);
            (waiting, drained) = (waiting - taken, drained + taken);
            if budget.is_running() && waiting <= mark / 2 {
                budget.stop(now, drained);
            }
            if !budget.is_running() {
                waiting += offered / 1000;
                if waiting >= mark {
                    budget.start(now, drained);
                }
            }
            if budget.left(now, drained, CAPACITY).is_zero() {
                return Some(now.duration_since(start).as_secs());
            }
        }
        None
    }

    #[test]
    fn a_receiver_that_reads_slowly_is_given_so_much_time_and_no_more() {
        for mark in [64 << 10, 16 * MIB] {
            // Filled after mark / (offered - rate), then held for 5 s at most.
            assert!(
                lasts(MIB, 4 * MIB, mark).is_some_and(|seconds| seconds <= 15),
                "{mark}"
            );
            assert!(
                lasts(0, 4 * MIB, mark).is_some_and(|seconds| seconds <= 10),
                "{mark}"
            );
            // Three quarters of what is offered: within minutes.
            assert!(
                lasts(3 * MIB, 4 * MIB, mark).is_some_and(|seconds| seconds <= 120),
                "{mark}"
            );
        }
    }

    #[test]
    fn a_receiver_that_is_fast_or_keeps_up_has_all_the_time() {
        for mark in [64 << 10, 16 * MIB] {
            assert_eq!(lasts(9 * MIB, 1000 * MIB, mark), None);
            assert_eq!(lasts(MIB, MIB, mark), None);
            // A delay of 7 s in two minutes, one of 3 s each minute.
            assert_eq!(lasts(39 * MIB / 10, 4 * MIB, mark), None);
        }
    }

    #[test]
    fn the_bucket_fills_by_five_seconds_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut budget = DelayBudget::default();
        budget.start(at(0), 0);
        assert_eq!(budget.left(at(2), 0, CAPACITY), Duration::from_secs(3));
        // 16 MiB are two seconds of fast reading.
        assert_eq!(
            budget.left(at(6), 16 * MIB, CAPACITY),
            Duration::from_secs(1)
        );
        budget.stop(at(6), 16 * MIB);
        assert_eq!(
            budget.left(at(30), 16 * MIB, CAPACITY),
            Duration::from_secs(3)
        );
        assert_eq!(budget.left(at(54), 16 * MIB, CAPACITY), CAPACITY);
        assert_eq!(
            budget.left(at(500), 16 * MIB, Duration::MAX),
            Duration::MAX / REFILL
        );
    }
}

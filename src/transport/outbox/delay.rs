//! The delay budget of a slow receiver: a token bucket of the time for which it may delay other receivers of
//! the same senders.

use std::time::{Duration, Instant};

/// Bytes per second from which a receiver counts as fast, whatever the rate at which it is sent to.
const FAST: u64 = 8 << 20;
/// The bucket refills at this fraction of real time: 5 s per minute.
const REFILL: u32 = 12;

/// The delay that a receiver has caused. Time in which it read fast is not counted.
#[derive(Debug, Default)]
pub(super) struct DelayBudget {
    /// The start of the current delay, and the bytes drained by then.
    since: Option<(Instant, u64)>,
    /// The time at which the bucket is full again; none if it is full.
    full_at: Option<Instant>,
}

impl DelayBudget {
    /// Starts a delay, unless one is running.
    pub(super) fn start(&mut self, now: Instant, drained: u64) {
        self.since.get_or_insert((now, drained));
    }

    pub(super) fn is_running(&self) -> bool {
        self.since.is_some()
    }

    /// Ends the current delay.
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

    /// The time for which others may still be delayed, of at most `capacity` in one go.
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

    /// Seconds until the budget is used up, for a receiver that reads `rate` of `offered` bytes per second:
    /// its senders wait from `mark` bytes on, and are woken at half of it.
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
    fn a_slow_receiver_uses_up_its_delay_budget() {
        for mark in [64 << 10, 16 * MIB] {
            // Filled after mark / (offered - rate), then delayed for 5 s at most.
            assert!(
                lasts(MIB, 4 * MIB, mark).is_some_and(|seconds| seconds <= 15),
                "{mark}"
            );
            assert!(
                lasts(0, 4 * MIB, mark).is_some_and(|seconds| seconds <= 10),
                "{mark}"
            );
            // Reading three quarters of the offered bytes: used up within minutes.
            assert!(
                lasts(3 * MIB, 4 * MIB, mark).is_some_and(|seconds| seconds <= 120),
                "{mark}"
            );
        }
    }

    #[test]
    fn a_fast_receiver_never_uses_up_its_delay_budget() {
        for mark in [64 << 10, 16 * MIB] {
            assert_eq!(lasts(9 * MIB, 1000 * MIB, mark), None);
            assert_eq!(lasts(MIB, MIB, mark), None);
            // A delay of 7 s in two minutes, then one of 3 s each minute.
            assert_eq!(lasts(39 * MIB / 10, 4 * MIB, mark), None);
        }
    }

    #[test]
    fn the_bucket_refills_by_five_seconds_per_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut budget = DelayBudget::default();
        budget.start(at(0), 0);
        assert_eq!(budget.left(at(2), 0, CAPACITY), Duration::from_secs(3));
        // 16 MiB take two seconds at the fast rate.
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

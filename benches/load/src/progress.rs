//! The clock of a run: times of arrivals, and detection of stalls.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::failure::Result;
use crate::os;

/// The run fails if nothing arrives for this time while messages are in flight.
pub(crate) const STALL: Duration = Duration::from_secs(10);

/// Time to wait for unexpected messages after the last expected one.
pub(crate) const LINGER: Duration = Duration::from_millis(50);

pub(crate) struct Progress {
    start: Instant,
    /// Milliseconds of the wall clock, which other processes share.
    started_at: u128,
    cpu: f64,
    last: Instant,
    messages: u64,
    /// The longest time without an arrival.
    gap: Duration,
    /// Arrivals per slice of time, unless the slice is zero.
    slice: Duration,
    slices: Vec<u64>,
}

impl Progress {
    pub(crate) fn start(slice: Duration) -> Self {
        let start = Instant::now();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Progress {
            start,
            started_at: since_epoch.unwrap_or_default().as_millis(),
            cpu: os::cpu_seconds(),
            last: start,
            messages: 0,
            gap: Duration::ZERO,
            slice,
            slices: Vec::new(),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Records the arrivals of a turn. Fails if there were none for too long.
    pub(crate) fn note(&mut self, arrived: u64, under_way: impl Fn() -> u64) -> Result<()> {
        let now = Instant::now();
        if arrived == 0 {
            if now - self.last > STALL {
                let lost = under_way();
                return Err(format!("{lost} messages did not arrive within {STALL:?}").into());
            }
            return Ok(());
        }
        self.gap = self.gap.max(now - self.last);
        self.last = now;
        self.messages += arrived;
        if !self.slice.is_zero() {
            let slice = ((now - self.start).as_nanos() / self.slice.as_nanos()) as usize;
            self.slices.resize(self.slices.len().max(slice + 1), 0);
            self.slices[slice] += arrived;
        }
        Ok(())
    }

    /// The figures from the start to the last arrival, as members of a JSON object.
    pub(crate) fn stop(self) -> String {
        let seconds = (self.last - self.start).as_secs_f64();
        let cpu = os::cpu_seconds() - self.cpu;
        let mut figures = format!(
            r#""messages":{},"seconds":{seconds:.6},"messages_per_second":{:.1},"longest_gap_ms":{:.3},"cpu_seconds":{cpu:.6},"saturation":{:.4}"#,
            self.messages,
            self.messages as f64 / seconds,
            self.gap.as_secs_f64() * 1e3,
            cpu / seconds,
        );
        if !self.slice.is_zero() {
            let (started_at, slices) = (self.started_at, self.slices);
            figures += &format!(r#","started_at_ms":{started_at},"slices":{slices:?}"#);
        }
        figures
    }
}

//! A point in time of four bytes, for queues that exist once per connection.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the first use, modulo 49 days.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Millis(u32);

impl Millis {
    pub(super) fn now() -> Self {
        Self(START.elapsed().as_millis() as u32)
    }

    /// The time since then, if less than 49 days.
    pub(super) fn elapsed(self) -> Duration {
        Duration::from_millis(Self::now().0.wrapping_sub(self.0).into())
    }
}

//! Finds out whether a peer is still there, and whether it reads.
//!
//! Once in an interval: if nothing has come from the peer, or what was written for it is still
//! not taken, it is sent a ping, and has the timeout to show that it lives. No ping is sent to one
//! that talks and reads, and no clock is touched for a message.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::transport::outbox::OutboxState;

/// The clock of one connection.
pub(crate) struct Heartbeat {
    interval: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    /// A ping is under way.
    pinged: bool,
    /// Bytes the peer had taken at the last beat, if more were waiting for it.
    waited: Option<u64>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Nothing.
    Rest,
    /// Send a ping.
    Ping,
    /// End the connection: its peer is gone, or deaf.
    Dead,
}

impl Heartbeat {
    /// None if `interval` is zero.
    pub(crate) fn new(interval: Duration, timeout: Duration) -> Option<Self> {
        (!interval.is_zero()).then(|| Self {
            interval,
            timeout,
            timer: Box::pin(sleep(interval)),
            pinged: false,
            waited: None,
        })
    }

    /// Ready when it is time for a beat.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().poll(cx)
    }

    /// One beat. `heard`: whether anything has come from the peer since the last one; none if it
    /// was not listened to, for then the clock stands still.
    pub(crate) fn beat(&mut self, heard: Option<bool>, outbox: OutboxState) -> Beat {
        let (beat, next) = self.judge(heard, outbox);
        self.pinged = beat == Beat::Ping;
        self.timer.as_mut().reset(Instant::now() + next);
        beat
    }

    fn judge(&mut self, heard: Option<bool>, outbox: OutboxState) -> (Beat, Duration) {
        let waits = (!outbox.empty).then_some(outbox.drained);
        // Not one byte of what waits was taken since the last beat.
        let stuck = waits.is_some() && waits == self.waited;
        // Some of what waited then was taken: as good as an answer, and the ping may still wait
        // behind the rest.
        let took = self.waited.is_some_and(|before| outbox.drained > before);
        self.waited = waits;
        let Some(heard) = heard else {
            return (Beat::Rest, self.interval);
        };
        let lives = (heard || took) && !stuck;
        match self.pinged {
            true if !lives => (Beat::Dead, self.interval),
            // One interval from ping to ping.
            true => (Beat::Rest, self.interval.saturating_sub(self.timeout)),
            false if heard && waits.is_none() => (Beat::Rest, self.interval),
            false => (Beat::Ping, self.timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(25);
    const TIMEOUT: Duration = Duration::from_secs(20);

    fn outbox(waiting: usize, drained: u64) -> OutboxState {
        OutboxState {
            blocked: waiting > 0,
            empty: waiting == 0,
            closed: false,
            pressed: false,
            delays: false,
            drained,
            held: waiting,
        }
    }

    fn beats(script: &[(Option<bool>, OutboxState)]) -> Vec<(Beat, u64)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        let mut heartbeat = Heartbeat::new(INTERVAL, TIMEOUT).unwrap();
        script
            .iter()
            .map(|(heard, state)| {
                let (beat, next) = heartbeat.judge(*heard, *state);
                heartbeat.pinged = beat == Beat::Ping;
                (beat, next.as_secs())
            })
            .collect()
    }

    #[test]
    fn who_talks_and_reads_is_not_pinged() {
        let idle = outbox(0, 0);
        assert_eq!(beats(&[(Some(true), idle); 2]), [(Beat::Rest, 25); 2]);
    }

    #[test]
    fn who_is_silent_is_pinged_and_lives_if_it_answers() {
        let idle = outbox(0, 0);
        assert_eq!(
            beats(&[(Some(false), idle), (Some(true), idle), (Some(false), idle)]),
            [(Beat::Ping, 20), (Beat::Rest, 5), (Beat::Ping, 20)]
        );
    }

    #[test]
    fn who_does_not_answer_is_dead() {
        let idle = outbox(0, 0);
        assert_eq!(
            beats(&[(Some(false), idle), (Some(false), idle)]),
            [(Beat::Ping, 20), (Beat::Dead, 25)]
        );
    }

    #[test]
    fn who_talks_but_takes_nothing_is_dead_and_who_takes_a_little_lives() {
        assert_eq!(
            beats(&[(Some(true), outbox(9, 4)), (Some(true), outbox(9, 4))]),
            [(Beat::Ping, 20), (Beat::Dead, 25)]
        );
        for heard in [Some(true), Some(false)] {
            assert_eq!(
                beats(&[(heard, outbox(9, 4)), (heard, outbox(9, 5))]),
                [(Beat::Ping, 20), (Beat::Rest, 5)]
            );
        }
    }

    #[test]
    fn the_clock_of_one_that_is_not_listened_to_stands_still() {
        let idle = outbox(0, 0);
        assert_eq!(
            beats(&[(Some(false), idle), (None, idle), (Some(false), idle)]),
            [(Beat::Ping, 20), (Beat::Rest, 25), (Beat::Ping, 20)]
        );
    }
}

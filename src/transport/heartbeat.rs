//! The heartbeat of a connection: detects a peer that is dead, or that does not read.
//!
//! Once per interval: if nothing was received from the peer, or bytes are still queued for it, a ping is sent
//! and the peer must show activity within the timeout. A peer that sends and reads gets no pings. Handling a
//! message reads no clock.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::transport::outbox::OutboxState;

/// The heartbeat timer of one connection.
pub(crate) struct Heartbeat {
    interval: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    /// A ping was sent at the last beat.
    pinged: bool,
    /// `OutboxState::drained` at the last beat, if bytes were queued then.
    waited: Option<u64>,
}

/// The action due after a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beat {
    Rest,
    /// Send a ping.
    Ping,
    /// Close the connection: its peer is dead, or does not read.
    Dead,
}

impl Heartbeat {
    /// Creates a heartbeat; none if `interval` is zero.
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

    /// Evaluates one beat and sets the timer for the next. `heard`: whether anything was received since the
    /// last beat; none if reading was paused, in which case no timeout counts.
    pub(crate) fn beat(&mut self, heard: Option<bool>, outbox: OutboxState) -> Beat {
        let (beat, next) = self.evaluate(heard, outbox);
        self.pinged = beat == Beat::Ping;
        self.timer.as_mut().reset(Instant::now() + next);
        beat
    }

    fn evaluate(&mut self, heard: Option<bool>, outbox: OutboxState) -> (Beat, Duration) {
        let waits = (!outbox.empty).then_some(outbox.drained);
        // Bytes are queued, and the socket has taken none since the last beat.
        let stuck = waits.is_some() && waits == self.waited;
        // The socket has taken some of the bytes queued at the last beat. That counts as activity: the ping
        // may still be queued behind the rest.
        let took = self.waited.is_some_and(|before| outbox.drained > before);
        self.waited = waits;
        let Some(heard) = heard else {
            return (Beat::Rest, self.interval);
        };
        let lives = (heard || took) && !stuck;
        match self.pinged {
            true if !lives => (Beat::Dead, self.interval),
            // The time left up to one interval after the ping.
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
            suspended: false,
            writing: false,
            backpressure: false,
            delays: false,
            drained,
            memory: waiting,
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
                let (beat, next) = heartbeat.evaluate(*heard, *state);
                heartbeat.pinged = beat == Beat::Ping;
                (beat, next.as_secs())
            })
            .collect()
    }

    #[test]
    fn a_peer_that_sends_and_reads_is_not_pinged() {
        let idle = outbox(0, 0);
        assert_eq!(beats(&[(Some(true), idle); 2]), [(Beat::Rest, 25); 2]);
    }

    #[test]
    fn a_silent_peer_is_pinged_and_stays_connected_if_it_answers() {
        let idle = outbox(0, 0);
        assert_eq!(
            beats(&[(Some(false), idle), (Some(true), idle), (Some(false), idle)]),
            [(Beat::Ping, 20), (Beat::Rest, 5), (Beat::Ping, 20)]
        );
    }

    #[test]
    fn a_peer_that_does_not_answer_is_dead() {
        let idle = outbox(0, 0);
        assert_eq!(
            beats(&[(Some(false), idle), (Some(false), idle)]),
            [(Beat::Ping, 20), (Beat::Dead, 25)]
        );
    }

    #[test]
    fn a_peer_that_never_reads_is_dead_and_one_that_reads_a_little_is_not() {
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
    fn no_timeout_counts_while_reading_is_paused() {
        let idle = outbox(0, 0);
        assert_eq!(
            beats(&[(Some(false), idle), (None, idle), (Some(false), idle)]),
            [(Beat::Ping, 20), (Beat::Rest, 25), (Beat::Ping, 20)]
        );
    }
}

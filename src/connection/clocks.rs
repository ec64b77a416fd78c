//! Timers of a connection: heartbeat, deadlines, slow-consumer timers, rate limit.

use std::{
    future::Future,
    pin::Pin,
    sync::{OnceLock, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::time::{Sleep, sleep};

use super::Connection;
use crate::{
    auth::Denied,
    broker::handle::Close,
    metrics::CloseReason,
    options::RateLimit,
    transport::{
        framing::{self, Mask},
        heartbeat::Beat,
    },
};

/// Bytes written after which the slow-consumer timer restarts.
const PROGRESS: u64 = 2 << 20;
/// Minimum remaining delay budget for which a timer is started.
const DELAY_STEP: Duration = Duration::from_millis(10);
/// Minimum pause of a throttled connection: fewer and larger steps.
const THROTTLE_STEP: Duration = Duration::from_millis(10);

/// Renewals of one connection per second without delay. Further ones are slowed down to this rate.
const RENEWALS: u32 = 10;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Rate limit: two token buckets, for messages and bytes.
pub(super) struct Rate {
    limit: RateLimit,
    messages: f64,
    bytes: f64,
    /// Allowance in bytes given to the reader last.
    given: usize,
    filled: Instant,
    timer: Pin<Box<Sleep>>,
    throttled: bool,
}

impl Rate {
    pub(super) fn new(limit: RateLimit, now: Instant) -> Self {
        Self {
            limit,
            messages: limit.messages as f64,
            bytes: limit.bytes as f64,
            given: 0,
            filled: now,
            timer: Box::pin(sleep(Duration::ZERO)),
            throttled: false,
        }
    }

    /// Refills the buckets. Their capacity is the rate of one second.
    fn fill(&mut self, now: Instant) {
        let seconds = now.duration_since(self.filled).as_secs_f64();
        self.filled = now;
        let (messages, bytes) = (self.limit.messages as f64, self.limit.bytes as f64);
        self.messages = (self.messages + seconds * messages).min(messages);
        self.bytes = (self.bytes + seconds * bytes).min(bytes);
    }

    /// Time until both buckets have a token; none if they have.
    fn empty_for(&self) -> Option<Duration> {
        let (messages, bytes) = (self.limit.messages as f64, self.limit.bytes as f64);
        let missing = ((1.0 - self.messages) / messages).max((1.0 - self.bytes) / bytes);
        (missing > 0.0).then(|| Duration::from_secs_f64(missing).max(THROTTLE_STEP))
    }
}

/// Event counter of a fixed time window. Small, because each connection has several.
#[derive(Default)]
pub(super) struct Window {
    /// Start of the window, in milliseconds.
    start: u32,
    /// Zero if no window has started.
    count: u32,
}

impl Window {
    /// Counts an event. Returns the number of events in the window.
    fn count(&mut self, length: Duration, now: Instant) -> u32 {
        let now = millis(now);
        // The milliseconds wrap around after 49 days.
        if u128::from(now.wrapping_sub(self.start)) >= length.as_millis() {
            (self.start, self.count) = (now, 0);
        }
        if self.count == 0 {
            self.start = now;
        }
        self.count = self.count.saturating_add(1);
        self.count
    }

    /// Counts a renewal. Returns its delay, which is not zero beyond [`RENEWALS`] in a second.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        match self.count(SECOND, now) > RENEWALS {
            true => SECOND / RENEWALS,
            false => Duration::ZERO,
        }
    }
}

/// Milliseconds since the first call in this process.
fn millis(now: Instant) -> u32 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let first = FIRST.get_or_init(Instant::now);
    now.saturating_duration_since(*first).as_millis() as u32
}

impl Connection {
    /// Ready when the peer is dead.
    pub(super) fn poll_clocks(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.closing {
            // The close timeout uses `timer` and is polled in `poll_closing`.
            return Poll::Pending;
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            match self.access.is_granted() {
                true => {
                    let id = self.id.clone();
                    self.deny(id.as_deref(), Denied::Unauthorized("expired".into()));
                }
                false => self.close(&Close::NotRegistered),
            }
            return Poll::Pending;
        }
        self.poll_patience(cx);
        self.poll_heartbeat(cx)
    }

    /// Closes this connection as slow if its senders have waited too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) {
        let state = self.handle.outbox.state();
        if !state.backpressure {
            (self.timer, self.delay_timer) = (None, None);
            return;
        }
        let patience: Duration = self.broker.options.slow_consumer_timeout;
        if self.timer.is_none() || state.drained >= self.progress + PROGRESS {
            self.progress = state.drained;
            self.timer = Some(Box::pin(sleep(patience)));
        }
        let timer = self.timer.as_mut();
        let is_up = timer.is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
        if is_up || state.delays && self.poll_delay(patience, cx).is_ready() {
            self.is_slow();
        }
    }

    /// Ready when this connection has used up its budget for delaying others.
    #[cold]
    fn poll_delay(&mut self, patience: Duration, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let left = self.handle.outbox.delay_left(patience);
            if left < DELAY_STEP {
                return Poll::Ready(());
            }
            let timer = (self.delay_timer).get_or_insert_with(|| Box::pin(sleep(left)));
            ready!(timer.as_mut().poll(cx));
            // The bucket may have been refilled a little.
            self.delay_timer = None;
        }
    }

    /// Handles a slow consumer: closes the connection. The server's own participant drops messages instead.
    fn is_slow(&mut self) {
        match self.handle.participant {
            false => self.close(&Close::Slow),
            true => self.handle.outbox.shed(),
        }
    }

    fn poll_heartbeat(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(heartbeat) = &mut self.heartbeat
            && heartbeat.poll(cx).is_ready()
        {
            let listens = !self.is_paused(cx);
            let heard = self.reader.has_heard();
            let state = self.handle.outbox.state();
            let beat = self
                .heartbeat
                .as_mut()
                .map(|heartbeat| heartbeat.beat(listens.then_some(heard), state));
            match beat {
                None | Some(Beat::Rest) => {}
                Some(Beat::Ping) => {
                    self.confirm_received();
                    self.handle.outbox.push_control(&framing::ping(Mask::None));
                    self.handle.flush();
                }
                Some(Beat::Dead) => {
                    self.ends(CloseReason::Dead, None);
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    /// Takes a token for a message that was read.
    pub(super) fn on_message(&mut self) {
        if let Some(rate) = &mut self.rate {
            rate.messages -= 1.0;
        }
    }

    /// Limits another reader by what is left of the allowance of the former one.
    pub(super) fn limit_reader(&mut self) {
        let given = self.rate.as_ref().map(|rate| rate.given);
        self.reader.set_allowance(given);
    }

    /// True if the rate limit is reached; the task is woken when it may read again.
    pub(super) fn is_throttled(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(rate) = &mut self.rate else {
            return false;
        };
        let left = self.reader.allowance().unwrap_or(rate.given);
        rate.bytes -= (rate.given - left) as f64;
        rate.fill(Instant::now());
        let wait = rate.empty_for();
        rate.given = match wait {
            None => rate.bytes as usize,
            Some(_) => 0,
        };
        self.reader.set_allowance(Some(rate.given));
        let Some(wait) = wait else {
            rate.throttled = false;
            return false;
        };
        if !rate.throttled || rate.timer.is_elapsed() {
            let now = tokio::time::Instant::now();
            rate.timer.as_mut().reset(now + wait);
        }
        if !rate.throttled {
            rate.throttled = true;
            self.broker.metrics.throttled.fetch_add(1, Relaxed);
        }
        if rate.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        true
    }

    /// Counts a ping or a pong, and closes the connection if there are too many.
    pub(super) fn control_frame(&mut self) {
        let count = self.controls.count(SECOND, Instant::now());
        if count > self.broker.options.max_control_frames {
            self.close(&Close::TooMany("too many control frames"));
        }
    }

    /// Counts a refused action, and closes the connection if there are too many.
    pub(super) fn count_refusal(&mut self) {
        let limit = self.broker.options.effective_protocol_errors();
        if limit > 0
            && !self.handle.participant
            && self.refusals.count(MINUTE, Instant::now()) > limit
        {
            self.close(&Close::TooMany("too many errors"));
        }
    }
}

//! What a connection does because of the time: heartbeat, deadlines, patience, and the pace at
//! which it may send.

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
    options::RateLimit,
    transport::{
        framing::{self, Mask},
        heartbeat::Beat,
    },
};

/// A slow reader's clock starts again whenever it has taken this many bytes.
const PROGRESS: u64 = 2 << 20;
/// Others are delayed for no shorter time than this.
const DELAY_STEP: Duration = Duration::from_millis(10);
/// A throttled connection is read again after this time at the earliest: in fewer, larger steps.
const THROTTLE_STEP: Duration = Duration::from_millis(10);

/// Renewals of one connection in a second. Further ones are slowed down to this pace.
const RENEWALS: u32 = 10;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// How much may be sent now: two buckets that fill with time.
pub(super) struct Rate {
    limit: RateLimit,
    messages: f64,
    bytes: f64,
    /// The bytes that the reader was allowed last.
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

    /// Fills the buckets, with a second's worth at most.
    fn fill(&mut self, now: Instant) {
        let seconds = now.duration_since(self.filled).as_secs_f64();
        self.filled = now;
        let (messages, bytes) = (self.limit.messages as f64, self.limit.bytes as f64);
        self.messages = (self.messages + seconds * messages).min(messages);
        self.bytes = (self.bytes + seconds * bytes).min(bytes);
    }

    /// How long it takes until there is something in both buckets; none if there is.
    fn empty_for(&self) -> Option<Duration> {
        let (messages, bytes) = (self.limit.messages as f64, self.limit.bytes as f64);
        let missing = ((1.0 - self.messages) / messages).max((1.0 - self.bytes) / bytes);
        (missing > 0.0).then(|| Duration::from_secs_f64(missing).max(THROTTLE_STEP))
    }
}

/// Counts what happens in a stretch of time, for a limit on it. Small: each connection has some.
#[derive(Default)]
pub(super) struct Window {
    /// When the stretch began, in milliseconds.
    start: u32,
    /// Zero if none has begun.
    count: u32,
}

impl Window {
    /// One more; how many that makes since the stretch began.
    fn count(&mut self, length: Duration, now: Instant) -> u32 {
        let now = millis(now);
        // The number of milliseconds goes round once in 49 days.
        if u128::from(now.wrapping_sub(self.start)) >= length.as_millis() {
            (self.start, self.count) = (now, 0);
        }
        if self.count == 0 {
            self.start = now;
        }
        self.count = self.count.saturating_add(1);
        self.count
    }

    /// Notes a renewal; how long it is to wait, if there were many in this second.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        match self.count(SECOND, now) > RENEWALS {
            true => SECOND / RENEWALS,
            false => Duration::ZERO,
        }
    }
}

/// The milliseconds since this process first asked.
fn millis(now: Instant) -> u32 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let first = FIRST.get_or_init(Instant::now);
    now.saturating_duration_since(*first).as_millis() as u32
}

impl Connection {
    /// Ready when the peer is dead.
    pub(super) fn poll_clocks(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.closing {
            // The end of closing has its time in the timer of patience.
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

    /// Ends the time of those who wait when they have waited too long for this connection.
    fn poll_patience(&mut self, cx: &mut Context<'_>) {
        let state = self.handle.outbox.state();
        if !state.pressed {
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

    /// Ready when this connection has delayed others for too long.
    #[cold]
    fn poll_delay(&mut self, patience: Duration, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let left = self.handle.outbox.delay_left(patience);
            if left < DELAY_STEP {
                return Poll::Ready(());
            }
            let timer = (self.delay_timer).get_or_insert_with(|| Box::pin(sleep(left)));
            ready!(timer.as_mut().poll(cx));
            // The bucket has filled a little meanwhile.
            self.delay_timer = None;
        }
    }

    /// Others have waited long enough for this connection: it is closed. The server's own participant
    /// keeps its id, and loses messages.
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
                    self.handle.outbox.push_control(&framing::ping(Mask::None));
                    self.handle.flush();
                }
                Some(Beat::Dead) => {
                    self.broker.metrics.dead.fetch_add(1, Relaxed);
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    /// A message has been read.
    pub(super) fn took_message(&mut self) {
        if let Some(rate) = &mut self.rate {
            rate.messages -= 1.0;
        }
    }

    /// True if the peer has sent all that it may for now; the task is woken when it may go on.
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

    /// The peer has sent a ping or a pong.
    pub(super) fn control_frame(&mut self) {
        let count = self.controls.count(SECOND, Instant::now());
        if count > self.broker.options.max_control_frames {
            self.close(&Close::TooMany("too many control frames"));
        }
    }

    /// One of its actions was refused.
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

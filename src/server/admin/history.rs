//! History of the metrics: a point for each of the last 300 seconds and of the last 360 minutes. Its size does not
//! depend on the number of connections.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::metrics::{BOUNDS, Stats, Times};

/// Number of points of a second.
const SECONDS: usize = 300;
/// Number of points of a minute.
const MINUTES: usize = 360;
/// Length of a minute, in seconds.
const MINUTE: u64 = 60;
/// Samples without any change after which the broker counts as idle.
const QUIET: u32 = 2;
/// Seconds between samples of an idle broker, unless the dashboard is open: a timer may wake the thread several times.
const QUIET_STEP: u64 = 6;

/// How a figure follows from the metrics.
enum Figure {
    /// A current value. Of a minute, the maximum.
    Gauge(fn(&Stats) -> f64),
    /// The growth of a counter per second.
    Rate(fn(&Stats) -> u64),
    /// A quantile of the times that were recorded since the previous point.
    Quantile(fn(&Stats) -> &Times, f64),
}
use Figure::{Gauge, Quantile, Rate};

/// The figures of a point, with the names that they have in the API.
#[rustfmt::skip]
const FIGURES: [(&str, Figure); 20] = [
    ("connections", Gauge(|s| s.connections as f64)),
    ("ids", Gauge(|s| s.registered as f64)),
    ("pending", Gauge(|s| s.pending as f64)),
    ("memory", Gauge(|s| s.memory as f64)),
    ("sendersHeld", Gauge(|s| s.senders_held as f64)),
    ("outboxBytes", Gauge(|s| s.outbox_bytes as f64)),
    ("hostLag", Gauge(|s| s.host.map_or(0.0, |host| host.lag.as_secs_f64()))),
    ("messagesIn", Rate(|s| s.messages_in)),
    ("messagesOut", Rate(|s| s.messages_out)),
    ("bytesIn", Rate(|s| s.received_bytes)),
    ("bytesOut", Rate(|s| s.sent_bytes)),
    ("opened", Rate(|s| s.accepted)),
    ("closed", Rate(|s| s.closed.sum())),
    ("refused", Rate(|s| s.refused)),
    ("requests", Rate(|s| s.requests.sum())),
    ("errors", Rate(|s| s.errors)),
    ("routingP50", Quantile(|s| &s.routing, 0.5)),
    ("routingP99", Quantile(|s| &s.routing, 0.99)),
    ("requestP50", Quantile(|s| &s.request_duration, 0.5)),
    ("requestP99", Quantile(|s| &s.request_duration, 0.99)),
];

/// The values of all figures; NaN if there is none.
type Values = [f64; FIGURES.len()];

/// The values of a second or of a minute.
struct Point {
    /// The second since the start at which it ends.
    second: u64,
    values: Values,
}

/// A snapshot of the metrics, and when it was taken.
struct Sample {
    at: Instant,
    second: u64,
    stats: Stats,
}

/// The history of a broker.
pub(super) struct History {
    started: Instant,
    last: Sample,
    /// The sample at which the current minute began.
    minute: Sample,
    /// Maximum of each figure in the current minute.
    maxima: Values,
    seconds: VecDeque<Point>,
    minutes: VecDeque<Point>,
    /// The second in which each error was counted last, in the order of `errors`.
    seen: Vec<Option<u64>>,
    /// Number of samples in a row without any change.
    quiet: u32,
}

impl History {
    /// A history that begins now.
    pub(super) fn new(now: Instant, stats: Stats) -> Self {
        let sample = |stats| Sample {
            at: now,
            second: 0,
            stats,
        };
        Self {
            started: now,
            seen: vec![None; errors(&stats).count()],
            minute: sample(stats.clone()),
            last: sample(stats),
            maxima: [f64::NAN; FIGURES.len()],
            seconds: VecDeque::with_capacity(SECONDS),
            minutes: VecDeque::with_capacity(MINUTES),
            quiet: 0,
        }
    }

    /// When the next sample is due: at the next full second, later if the broker is idle.
    pub(super) fn next_due(&self) -> Instant {
        let step = if self.quiet < QUIET { 1 } else { QUIET_STEP };
        self.started + Duration::from_secs(self.last.second + step)
    }

    /// True if a second has passed since the last sample.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.second_of(now) > self.last.second
    }

    fn second_of(&self, now: Instant) -> u64 {
        now.duration_since(self.started).as_secs()
    }

    /// The metrics of the last sample.
    pub(super) fn latest(&self) -> &Stats {
        &self.last.stats
    }

    /// The time since the start.
    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Adds a sample: a point for each second since the previous one. All of them have the same values.
    pub(super) fn add(&mut self, now: Instant, stats: Stats) {
        let second = self.second_of(now);
        if second <= self.last.second {
            return;
        }
        let is_same = stats == self.last.stats;
        self.quiet = if is_same { self.quiet + 1 } else { 0 };
        let counts = errors(&self.last.stats).zip(errors(&stats));
        for (seen, (before, after)) in self.seen.iter_mut().zip(counts) {
            if after.2 > before.2 {
                *seen = Some(second);
            }
        }
        let sample = Sample {
            at: now,
            second,
            stats,
        };
        let values = values(&self.last, &sample);
        let oldest = second.saturating_sub(SECONDS as u64);
        for second in self.last.second.max(oldest) + 1..=second {
            push(&mut self.seconds, SECONDS, Point { second, values });
        }
        for (maximum, value) in self.maxima.iter_mut().zip(values) {
            *maximum = maximum.max(value);
        }
        if second / MINUTE > self.minute.second / MINUTE {
            self.end_minute(&sample);
        }
        self.last = sample;
    }

    /// Adds the point of the minute that has ended.
    fn end_minute(&mut self, sample: &Sample) {
        let mut values = values(&self.minute, sample);
        for ((value, maximum), (_, figure)) in values.iter_mut().zip(self.maxima).zip(&FIGURES) {
            if let Gauge(_) = figure {
                *value = maximum;
            }
        }
        let second = sample.second / MINUTE * MINUTE;
        push(&mut self.minutes, MINUTES, Point { second, values });
        self.maxima = [f64::NAN; FIGURES.len()];
        self.minute = Sample {
            at: sample.at,
            second: sample.second,
            stats: sample.stats.clone(),
        };
    }

    /// The points behind this second: the names of the figures, and a row for each point that begins with its second.
    pub(super) fn to_json(&self, since: u64) -> Value {
        let rows = |points: &VecDeque<Point>| -> Vec<Value> {
            let newer = points.iter().filter(|point| point.second > since);
            newer.map(Point::to_json).collect()
        };
        json!({
            "figures": FIGURES.each_ref().map(|(name, _)| *name),
            "last": self.last.second,
            "seconds": rows(&self.seconds),
            "minutes": rows(&self.minutes),
        })
    }

    /// The errors that were counted: kind, code, count, and the seconds since the newest one; null if it was not counted
    /// since the history began.
    pub(super) fn errors_to_json(&self) -> Value {
        let counts = errors(&self.last.stats).zip(&self.seen);
        counts
            .filter(|((_, _, count), _)| *count > 0)
            .map(|((kind, code, count), seen)| {
                let ago = seen.map(|seen| self.last.second - seen);
                json!({ "kind": kind, "code": code, "count": count, "ago": ago })
            })
            .collect()
    }
}

/// All counters of errors: kind, code and count, always in the same order.
fn errors(stats: &Stats) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    let kinds = [
        ("action", stats.errors_by.clone()),
        ("handshake", stats.refused_by.clone()),
        ("message", stats.undelivered_by()),
    ];
    kinds.into_iter().flat_map(|(kind, counts)| {
        let counts = counts.0.into_iter();
        counts.map(move |(code, count)| (kind, code, count))
    })
}

impl Point {
    fn to_json(&self) -> Value {
        let values = self.values.iter().map(|value| number(*value));
        std::iter::once(json!(self.second)).chain(values).collect()
    }
}

fn push(points: &mut VecDeque<Point>, max: usize, point: Point) {
    if points.len() == max {
        points.pop_front();
    }
    points.push_back(point);
}

/// The figures of the time between two samples.
fn values(before: &Sample, after: &Sample) -> Values {
    let elapsed = after.at.duration_since(before.at).as_secs_f64();
    FIGURES.each_ref().map(|(_, figure)| match figure {
        Gauge(value) => value(&after.stats),
        Rate(count) => count(&after.stats).saturating_sub(count(&before.stats)) as f64 / elapsed,
        Quantile(times, part) => quantile(times(&before.stats), times(&after.stats), *part),
    })
}

/// The quantile, in seconds, of the times that were recorded between two snapshots, interpolated within its bucket.
/// NaN if there were none.
fn quantile(before: &Times, after: &Times, part: f64) -> f64 {
    let mut counts = after.buckets;
    for (count, old) in counts.iter_mut().zip(before.buckets) {
        *count = count.saturating_sub(old);
    }
    let wanted = counts.iter().sum::<u64>() as f64 * part;
    let mut below = 0.0;
    let mut lower = 0.0;
    for (count, bound) in counts.iter().zip(BOUNDS) {
        let (count, upper) = (*count as f64, bound.as_secs_f64());
        if count > 0.0 && below + count >= wanted {
            return lower + (upper - lower) * (wanted - below) / count;
        }
        below += count;
        lower = upper;
    }
    // Longer than the last bound.
    if wanted > 0.0 { lower } else { f64::NAN }
}

/// A number with four significant digits, as JSON; null for NaN.
fn number(value: f64) -> Value {
    if value.is_nan() {
        return Value::Null;
    }
    if value.fract() == 0.0 {
        return json!(value as u64);
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    let scale = 10_f64.powi(digits.clamp(0, 9));
    json!((value * scale).round() / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ByLabel;

    fn index(name: &str) -> usize {
        FIGURES.iter().position(|(each, _)| *each == name).unwrap()
    }

    fn value(points: &VecDeque<Point>, name: &str) -> f64 {
        points.back().unwrap().values[index(name)]
    }

    fn messages(count: u64) -> Stats {
        Stats {
            messages_in: count,
            ..Stats::default()
        }
    }

    #[test]
    fn a_rate_is_the_growth_per_second_also_over_a_pause() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut history = History::new(start, messages(0));
        history.add(after(1), messages(10));
        assert_eq!(value(&history.seconds, "messagesIn"), 10.0);
        history.add(after(1), messages(1000));
        assert_eq!(history.seconds.len(), 1);
        history.add(after(5), messages(50));
        assert_eq!(history.seconds.len(), 5);
        let rates: Vec<_> = history
            .seconds
            .iter()
            .map(|it| it.values[index("messagesIn")])
            .collect();
        assert_eq!(rates, [10.0; 5]);
    }

    #[test]
    fn rings_are_bounded_also_after_a_long_pause() {
        let start = Instant::now();
        let mut history = History::new(start, messages(0));
        history.add(start + Duration::from_secs(1_000_000), messages(1));
        assert_eq!(history.seconds.len(), SECONDS);
        assert_eq!(history.seconds.back().unwrap().second, 1_000_000);
        for second in 1_000_001..1_000_001 + 400 * MINUTE {
            history.add(start + Duration::from_secs(second), messages(1));
        }
        assert_eq!(history.seconds.len(), SECONDS);
        assert_eq!(history.minutes.len(), MINUTES);
        let size = size_of::<Point>() * (SECONDS + MINUTES);
        assert!(size < 200_000, "{size}");
    }

    #[test]
    fn a_minute_has_the_maximum_of_gauges_and_the_mean_of_rates() {
        let start = Instant::now();
        let mut history = History::new(start, messages(0));
        for second in 1..=60 {
            let stats = Stats {
                senders_held: usize::from(second == 7) * 3,
                ..messages(second * 2)
            };
            history.add(start + Duration::from_secs(second), stats);
        }
        assert_eq!(history.minutes.len(), 1);
        assert_eq!(history.minutes[0].second, 60);
        assert_eq!(value(&history.minutes, "sendersHeld"), 3.0);
        assert_eq!(value(&history.minutes, "messagesIn"), 2.0);
        assert!(value(&history.minutes, "routingP99").is_nan());
    }

    #[test]
    fn an_idle_broker_is_sampled_less_often() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut history = History::new(start, messages(0));
        history.add(after(1), messages(0));
        assert_eq!(history.next_due(), after(2));
        history.add(after(2), messages(0));
        assert_eq!(history.next_due(), after(8));
        history.add(after(8), messages(1));
        assert_eq!(history.next_due(), after(9));
    }

    #[test]
    fn a_quantile_is_interpolated_within_its_bucket() {
        let mut times = Times::default();
        let before = times;
        assert!(quantile(&before, &times, 0.5).is_nan());
        // 100 times of more than 10 µs and at most 25 µs.
        times.buckets[1] = 100;
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}");
        close(quantile(&before, &times, 0.5), 17.5e-6);
        close(quantile(&before, &times, 0.99), 24.85e-6);
        // Only times since the first snapshot count.
        let before = times;
        times.buckets[17] = 1;
        close(quantile(&before, &times, 0.5), 10.0);
    }

    #[test]
    fn numbers_are_short() {
        let text = |value| number(value).to_string();
        assert_eq!(text(f64::NAN), "null");
        assert_eq!(text(1e12), "1000000000000");
        assert_eq!(text(1234.5678), "1235.0");
        assert_eq!(text(0.000_123_456), "0.0001235");
    }

    #[test]
    fn only_newer_points_are_sent_and_errors_have_their_age() {
        let start = Instant::now();
        let refusing = |count| Stats {
            errors_by: ByLabel(vec![("INVALID_JSON", count), ("OTHER", 0)]),
            ..Stats::default()
        };
        let mut history = History::new(start, refusing(0));
        for second in 1..=5 {
            history.add(start + Duration::from_secs(second), refusing(second.min(2)));
        }
        assert_eq!(history.to_json(3)["seconds"].as_array().unwrap().len(), 2);
        assert_eq!(history.to_json(0)["seconds"].as_array().unwrap().len(), 5);
        let expected = json!([{ "kind": "action", "code": "INVALID_JSON", "count": 2, "ago": 3 }]);
        assert_eq!(history.errors_to_json(), expected);
    }
}

//! What it costs to route a message of 100 bytes: `wsmsgbroker-ids IDS SECONDS`.
//!
//! From the text of a `send` to the frame in its receiver's outbox: decode, find, encode, enqueue. Once to
//! any of the ids, once to 16 of them. Every frame is compared with the one that is expected.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use wsmsgbroker::bench::Switchboard;

/// Messages that a connection reads in one turn, before it writes what it has routed.
const TURN: usize = 128;
/// Ids that get all of it, the second time.
const HOT: usize = 16;
const SIZE: usize = 100;
const FROM: &str = "\"sender\"";

/// Sends to some of the ids, and looks at what comes.
struct Traffic {
    board: Switchboard,
    ids: usize,
    message: String,
    random: u64,
}

impl Traffic {
    fn new(ids: usize) -> Self {
        let rest = SIZE - r#"{"n":1000000000,"text":""}"#.len();
        Self {
            board: Switchboard::new((0..ids).map(id)),
            ids,
            message: format!(r#"{{"n":1000000000,"text":"{}"}}"#, "x".repeat(rest)),
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// A number below `end`, by xorshift: fast, and each run has the same.
    fn below(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 32) as usize * end) >> 32
    }

    /// Nanoseconds of a message to one of `span` ids that lie `step` apart: the median of all turns, as
    /// other programs on the machine interrupt some.
    fn cost(&mut self, span: usize, step: usize, time: Duration) -> Result<f64, String> {
        let mut turns = Vec::new();
        let end = Instant::now() + time;
        while Instant::now() < end {
            let receivers: Vec<_> = (0..TURN).map(|_| self.below(span) * step).collect();
            let sent = receivers.iter().map(|n| self.send(*n)).collect::<Vec<_>>();
            // Reading and writing are sockets' work, and not timed.
            let start = Instant::now();
            let delivered = sent.iter().filter(|text| self.board.route(text, FROM));
            let delivered = delivered.count();
            turns.push(start.elapsed());
            if delivered != TURN {
                return Err(format!("{delivered} of {TURN} messages were delivered"));
            }
            self.check(receivers)?;
        }
        turns.sort_unstable();
        let median = turns.get(turns.len() / 2).ok_or("no time for a turn")?;
        Ok(median.as_nanos() as f64 / TURN as f64)
    }

    fn send(&self, n: usize) -> String {
        let (dest, message) = (id(n), &self.message);
        format!(r#"{{"action":"send","message":{message},"dest":"{dest}"}}"#)
    }

    /// Each receiver has as many frames as it was sent, and nothing else.
    fn check(&self, mut receivers: Vec<usize>) -> Result<(), String> {
        let message = &self.message;
        let text = format!(r#"{{"action":"message","message":{message},"from":{FROM}}}"#);
        let header = [
            0x81,
            126,
            0,
            u8::try_from(text.len()).expect("a short text"),
        ];
        let frame = [&header[..], text.as_bytes()].concat();
        receivers.sort_unstable();
        for same in receivers.chunk_by(|a, b| a == b) {
            if self.board.take(same[0]) != frame.repeat(same.len()) {
                return Err(format!("{} was not sent what is meant for it", id(same[0])));
            }
        }
        Ok(())
    }
}

/// As long as ids often are, and all of one length.
fn id(n: usize) -> String {
    format!("device-{n:08}")
}

fn run() -> Result<(), String> {
    let mut words = std::env::args().skip(1);
    let ids = words.next().and_then(|word| word.parse().ok());
    let seconds = words.next().and_then(|word| word.parse().ok());
    let (Some(ids @ 1..), Some(seconds)) = (ids, seconds) else {
        return Err("usage: wsmsgbroker-ids IDS SECONDS".into());
    };
    let time = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    let mut traffic = Traffic::new(ids);
    let hot = HOT.min(ids);
    traffic.cost(ids, 1, time / 2)?; // warm
    let any = traffic.cost(traffic.ids, 1, time)?;
    traffic.cost(hot, ids / hot, time / 2)?;
    let hot = traffic.cost(hot, ids / hot, time)?;
    println!(r#"{{"ids":{ids},"any_ns":{any:.1},"hot_ns":{hot:.1}}}"#);
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

//! Measures the time to route a message of 100 bytes: `wsmsgbroker-ids IDS SECONDS`.
//!
//! It covers the whole path without the kernel, from the frame of a `send` to the frame for its
//! receiver, in batches of 128 messages. Messages are sent to any of the ids first, and then to 16
//! of them.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use wsmsgbroker::bench::{Switch, id};

/// Messages that a connection reads in one turn before it writes.
const TURN: usize = 128;
/// Ids that receive all messages of the second run.
const HOT: usize = 16;
const SIZE: usize = 100;
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// A sender to some of the ids.
struct Traffic {
    switch: Switch,
    message: String,
    /// Bytes of a message as received.
    received: usize,
    random: u64,
}

impl Traffic {
    fn new(ids: usize) -> Self {
        let rest = SIZE - r#"{"n":1000000000,"text":""}"#.len();
        let message = format!(r#"{{"n":1000000000,"text":"{}"}}"#, "x".repeat(rest));
        let text = format!(r#"{{"action":"message","message":{message},"from":"sender"}}"#);
        let mut switch = Switch::with_ids(ids);
        for (line, id) in [(Switch::SENDER, "sender"), (Switch::RECEIVER, &id(0))] {
            let text = format!(r#"{{"action":"register","id":"{id}"}}"#);
            switch.feed(line, &frame(&text));
        }
        Self {
            switch,
            message,
            received: 4 + text.len(),
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// A number below `end` by xorshift: fast, and equal in every run.
    fn below(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 32) as usize * end) >> 32
    }

    /// Nanoseconds per message to one of `span` ids at a distance of `step`: the median of all
    /// turns, because other programs interrupt some of them.
    fn cost(&mut self, span: usize, step: usize, time: Duration) -> Result<f64, String> {
        let mut turns = Vec::new();
        let end = Instant::now() + time;
        while Instant::now() < end {
            let mut frames = Vec::new();
            for _ in 0..TURN {
                let (dest, message) = (id(self.below(span) * step), &self.message);
                let text = format!(r#"{{"action":"send","message":{message},"dest":"{dest}"}}"#);
                frames.extend(frame(&text));
            }
            let start = Instant::now();
            let written = self.switch.feed(Switch::SENDER, &frames);
            turns.push(start.elapsed());
            let expected = TURN * self.received;
            if written != expected {
                return Err(format!("{written} bytes were written, not {expected}"));
            }
        }
        turns.sort_unstable();
        let median = turns.get(turns.len() / 2).ok_or("no time for a turn")?;
        Ok(median.as_nanos() as f64 / TURN as f64)
    }
}

/// A frame of a client with a text that fits into 64 KiB.
fn frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short text");
    let mut frame = vec![0x81];
    match length {
        0..126 => frame.push(0x80 | length as u8),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend(MASK);
    let masked = text.bytes().zip(MASK.into_iter().cycle());
    frame.extend(masked.map(|(byte, mask)| byte ^ mask));
    frame
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
    traffic.cost(ids, 1, time / 2)?; // warm-up
    let any = traffic.cost(ids, 1, time)?;
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

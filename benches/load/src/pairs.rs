//! Pipelined flow: senders `s0`, `s1`, ... each to a receiver `r0`, `r1`, ...
//!
//! A credit window bounds what is under way: both ends live in this process, so a sender knows
//! what its receiver has got, and no message of the protocol is spent on flow control.

use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::arguments::{Arguments, Target};
use crate::connection::{Connection, READ_BUFFER, unexpected};
use crate::failure::Result;
use crate::message::{self, Batch, Expected, Sequence};
use crate::os;

/// One write hands at most this much to the kernel.
const WRITE_BUFFER: usize = 256 * 1024;

/// The run has failed if nothing arrives for so long while something is under way.
const STALL: Duration = Duration::from_secs(10);

/// How long to listen after the last expected message for one that should not come.
const LINGER: Duration = Duration::from_millis(100);

struct Pair {
    index: usize,
    sender: Connection,
    receiver: Connection,
    batch: Batch,
    next: Sequence,
    expected: Expected,
    awaited: Sequence,
    sent: u64,
    received: u64,
}

impl Pair {
    fn open(target: &Target, index: usize, value: &str, window: usize) -> Result<Self> {
        let (from, to) = (format!("s{index}"), format!("r{index}"));
        let send = format!(r#"{{"action":"send","message":{value},"dest":"{to}"}}"#);
        let message = format!(r#"{{"action":"message","message":{value},"from":"{from}"}}"#);
        Ok(Pair {
            index,
            receiver: Connection::open(target, &to)?,
            sender: Connection::open(target, &from)?,
            batch: Batch::new(&send, window, WRITE_BUFFER),
            next: Sequence::new(),
            expected: Expected::new(&message),
            awaited: Sequence::new(),
            sent: 0,
            received: 0,
        })
    }

    /// Sends what the window allows. Less than a quarter of it is not worth a write: the flow
    /// would decay into writes of one message, and the generator would be what is measured.
    fn send(&mut self, window: usize, stopping: bool) -> Result<()> {
        loop {
            if !self.sender.write(&mut self.batch)? {
                return Ok(());
            }
            self.sender.flush()?;
            let credit = window - (self.sent - self.received) as usize;
            if stopping || self.sender.is_blocked() || credit < window.div_ceil(4) {
                return Ok(());
            }
            let count = credit.min(self.batch.copies());
            self.batch.fill(count, &mut self.next);
            self.sent += count as u64;
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<()> {
        let Pair {
            index,
            receiver,
            expected,
            awaited,
            sent,
            received,
            ..
        } = self;
        receiver.read(buffer, |payload| {
            if received == sent {
                return Err(format!("pair {index}: a message arrived twice").into());
            }
            expected
                .check(awaited, payload)
                .map_err(|failure| format!("pair {index}: {failure}"))?;
            awaited.advance();
            *received += 1;
            Ok(())
        })?;
        receiver.flush()
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let target = arguments.target()?;
    let pairs = arguments.number("pairs", 8_usize)?.max(1);
    let size = arguments.number("size", 100_usize)?;
    let window = arguments.number("window", 256_usize)?.max(1);
    let duration = Duration::from_secs_f64(arguments.number("seconds", 3.0_f64)?);

    os::raise_file_limit();
    let value = message::value(size)?;
    let mut flow = Flow::open(&target, pairs, &value, window)?;

    let cpu = os::cpu_seconds();
    let start = Instant::now();
    let mut last = start;
    loop {
        let stopping = start.elapsed() >= duration;
        for pair in &mut flow.pairs {
            pair.send(window, stopping)?;
        }
        if stopping && flow.is_drained() {
            break;
        }
        if flow.turn(Duration::from_millis(100))? {
            last = Instant::now();
        } else if last.elapsed() > STALL {
            let lost: u64 = flow
                .pairs
                .iter()
                .map(|pair| pair.sent - pair.received)
                .sum();
            return Err(format!("{lost} messages did not arrive within {STALL:?}").into());
        }
    }
    let seconds = (last - start).as_secs_f64();
    let cpu = os::cpu_seconds() - cpu;
    flow.linger()?;

    let messages: u64 = flow.pairs.iter().map(|pair| pair.received).sum();
    println!(
        r#"{{"mode":"pairs","pairs":{pairs},"size":{size},"window":{window},"messages":{messages},"seconds":{seconds:.6},"messages_per_second":{:.1},"cpu_seconds":{cpu:.6},"saturation":{:.4}}}"#,
        messages as f64 / seconds,
        cpu / seconds
    );
    Ok(())
}

struct Flow {
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    pairs: Vec<Pair>,
}

impl Flow {
    fn open(target: &Target, pairs: usize, value: &str, window: usize) -> Result<Self> {
        let poll = Poll::new()?;
        let pairs = (0..pairs)
            .map(|index| {
                let mut pair = Pair::open(target, index, value, window)?;
                pair.sender.register(poll.registry(), 2 * index)?;
                pair.receiver.register(poll.registry(), 2 * index + 1)?;
                Ok(pair)
            })
            .collect::<Result<_>>()?;
        Ok(Flow {
            poll,
            events: Events::with_capacity(1024),
            buffer: vec![0; READ_BUFFER.max(4 * value.len())],
            pairs,
        })
    }

    /// Waits for the sockets once; true if messages have arrived.
    fn turn(&mut self, timeout: Duration) -> Result<bool> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(false),
            other => other?,
        }
        let mut progress = false;
        for event in &self.events {
            // That a socket can be written to again needs no note: every pair is tried each turn.
            if !event.is_readable() {
                continue;
            }
            let pair = &mut self.pairs[event.token().0 / 2];
            if event.token().0 % 2 == 0 {
                let id = format!("s{}", pair.index);
                let refuse = |payload: &[u8]| Err(unexpected(&id, payload));
                pair.sender.read(&mut self.buffer, refuse)?;
            } else {
                let before = pair.received;
                pair.receive(&mut self.buffer)?;
                progress |= pair.received > before;
            }
        }
        Ok(progress)
    }

    fn is_drained(&self) -> bool {
        self.pairs.iter().all(|pair| pair.sent == pair.received)
    }

    fn linger(&mut self) -> Result<()> {
        let end = Instant::now() + LINGER;
        while let Some(rest) = end.checked_duration_since(Instant::now()) {
            self.turn(rest)?;
        }
        Ok(())
    }
}

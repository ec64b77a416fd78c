//! Pipelined flow: senders `s0`, `s1`, ... each with a receiver `r0`, `r1`, ...
//!
//! A credit window limits the messages in flight. Both ends are in this process, so a sender knows
//! how many messages its receiver has, and flow control needs no messages.

use std::slice;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::arguments::{Arguments, Target};
use crate::connection::{Connection, READ_BUFFER, unexpected};
use crate::failure::Result;
use crate::message::{self, Batch, Sequence, Template};
use crate::os;
use crate::progress::{LINGER, Progress};
use crate::protocol::{Protocol, Role};

/// Maximum bytes of one write.
const WRITE_BUFFER: usize = 256 * 1024;

/// The minimum part of a window for a write. Otherwise the flow would degrade to writes of one
/// message, and the generator would limit the measurement.
pub(crate) fn worthwhile(window: usize) -> usize {
    window.div_ceil(4)
}

fn sender_id(index: usize) -> String {
    format!("s{index}")
}

fn receiver_id(index: usize) -> String {
    format!("r{index}")
}

struct Pair {
    index: usize,
    sender: Connection,
    receiver: Connection,
    batch: Batch,
    next: Sequence,
    expected: Template,
    awaited: Sequence,
    sent: u64,
    received: u64,
}

impl Pair {
    fn new(
        protocol: Protocol,
        index: usize,
        (sender, receiver): (Connection, Connection),
        value: &str,
        window: usize,
    ) -> Self {
        let message = protocol.message(value, &sender_id(index), &receiver_id(index));
        let together = protocol.together(message.sent.len(), worthwhile(window));
        Pair {
            index,
            sender,
            receiver,
            batch: Batch::new(
                protocol.opcode(),
                &message.sent,
                together,
                window,
                WRITE_BUFFER,
            ),
            next: Sequence::new(),
            expected: Template::new(&message.arrives),
            awaited: Sequence::new(),
            sent: 0,
            received: 0,
        }
    }

    /// Sends as much as the window allows, if it is enough for a write.
    fn send(&mut self, window: usize) -> Result<()> {
        loop {
            if !self.sender.write(&mut self.batch)? {
                return Ok(());
            }
            self.sender.flush()?;
            let credit = window - (self.sent - self.received) as usize;
            let count = self.batch.fitting(credit);
            if self.sender.is_blocked() || credit < worthwhile(window) || count == 0 {
                return Ok(());
            }
            self.batch.fill(count, &mut self.next);
            self.sent += count as u64;
        }
    }

    /// Completes a partial write only.
    fn finish(&mut self) -> Result<()> {
        if self.sender.write(&mut self.batch)? {
            self.sender.flush()?;
        }
        Ok(())
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
    let (target, receivers) = (arguments.target()?, arguments.receivers()?);
    let pairs = arguments.number("pairs", 8_usize)?.max(1);
    let size = arguments.number("size", 100_usize)?;
    let window = arguments.number("window", 256_usize)?.max(1);
    let duration = Duration::from_secs_f64(arguments.number("seconds", 3.0_f64)?);
    let slice = Duration::from_millis(arguments.number("slice", 0)?);

    os::raise_file_limit();
    let value = message::value(size)?;
    let mut flow = Flow::open(&target, &receivers, pairs, &value, window)?;

    let mut progress = Progress::start(slice);
    for pair in &mut flow.pairs {
        pair.send(window)?;
    }
    loop {
        let stopping = progress.elapsed() >= duration;
        if stopping && flow.under_way() == 0 {
            break;
        }
        let arrived = flow.turn(stopping, Duration::from_millis(100))?;
        progress.note(arrived, || flow.under_way())?;
    }
    let figures = progress.stop();
    flow.linger()?;
    println!(r#"{{"mode":"pairs","pairs":{pairs},"size":{size},"window":{window},{figures}}}"#);
    Ok(())
}

struct Flow {
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    window: usize,
    pairs: Vec<Pair>,
}

impl Flow {
    fn open(
        target: &Target,
        receivers: &[Target],
        pairs: usize,
        value: &str,
        window: usize,
    ) -> Result<Self> {
        let poll = Poll::new()?;
        let open = |targets: &[Target], id: fn(usize) -> String| {
            let ids: Vec<String> = (0..pairs).map(id).collect();
            Connection::open_all(targets, &ids, Role::Member)
        };
        let receivers = open(receivers, receiver_id)?;
        let connections = open(slice::from_ref(target), sender_id)?
            .into_iter()
            .zip(receivers);
        let pairs = connections.enumerate().map(|(index, mut pair)| {
            pair.0.register(poll.registry(), 2 * index)?;
            pair.1.register(poll.registry(), 2 * index + 1)?;
            Ok(Pair::new(target.protocol, index, pair, value, window))
        });
        let pairs = pairs.collect::<Result<_>>()?;
        Ok(Flow {
            poll,
            events: Events::with_capacity(1024),
            buffer: vec![0; READ_BUFFER.max(4 * value.len())],
            window,
            pairs,
        })
    }

    /// Waits for socket events once and continues the affected pairs. Returns the number of
    /// messages that have arrived.
    fn turn(&mut self, stopping: bool, timeout: Duration) -> Result<u64> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(0),
            other => other?,
        }
        let mut arrived = 0;
        for event in &self.events {
            let pair = &mut self.pairs[event.token().0 / 2];
            let before = pair.received;
            if event.token().0 % 2 == 1 {
                if event.is_readable() {
                    pair.receive(&mut self.buffer)?;
                }
            } else if event.is_readable() {
                let id = sender_id(pair.index);
                let refuse = |payload: &[u8]| Err(unexpected(&id, payload));
                pair.sender.read(&mut self.buffer, refuse)?;
            }
            arrived += pair.received - before;
            if stopping {
                pair.finish()?;
            } else {
                pair.send(self.window)?;
            }
        }
        Ok(arrived)
    }

    fn under_way(&self) -> u64 {
        self.pairs
            .iter()
            .map(|pair| pair.sent - pair.received)
            .sum()
    }

    fn linger(&mut self) -> Result<()> {
        let end = Instant::now() + LINGER;
        while let Some(rest) = end.checked_duration_since(Instant::now()) {
            self.turn(true, rest)?;
        }
        Ok(())
    }
}

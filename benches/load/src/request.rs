//! Requests: each asker waits for its answer before it sends the next request.

use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::arguments::{Arguments, Target};
use crate::connection::{Connection, READ_BUFFER};
use crate::failure::Result;
use crate::frame;
use crate::histogram::Histogram;
use crate::message::{self, Batch, Sequence, Template};
use crate::os;
use crate::progress::STALL;
use crate::protocol::{Protocol, Role};

struct Pair {
    protocol: Protocol,
    asker: Connection,
    responder: Connection,
    request: Batch,
    message: Template,
    answer: Template,
    answered: Template,
    /// The number of the request in flight, from which its ack is made.
    current: Sequence,
    /// The number that the responder expects next, to detect duplicate requests.
    awaited: Sequence,
    asked_at: Instant,
    waiting: bool,
}

impl Pair {
    fn open(target: &Target, responders: &[Target], index: usize, value: &str) -> Result<Self> {
        let (from, to) = (format!("s{index}"), format!("r{index}"));
        let protocol = target.protocol;
        let (request, answer) = protocol.request(value, &from, &to, index);
        Ok(Pair {
            protocol,
            responder: Connection::open(&responders[index % responders.len()], &to, Role::Member)?,
            asker: Connection::open(target, &from, Role::Asker)?,
            request: Batch::new(protocol.opcode(), &request.sent, 1, 1, 0),
            message: Template::new(&request.arrives),
            answer: Template::new(&answer.sent),
            answered: Template::new(&answer.arrives),
            current: Sequence::new(),
            awaited: Sequence::new(),
            asked_at: Instant::now(),
            waiting: false,
        })
    }

    fn ask(&mut self) -> Result<()> {
        // `fill` increments the sequence, but `current` must stay: the answer will contain it.
        self.request.fill(1, &mut self.current.clone());
        self.waiting = true;
        self.asked_at = Instant::now();
        self.asker.send(self.request.pending())
    }

    fn respond(&mut self, buffer: &mut [u8]) -> Result<()> {
        let Pair {
            protocol,
            responder,
            message,
            answer,
            awaited,
            ..
        } = self;
        let mut replies = Vec::new();
        responder.read(buffer, |payload| {
            if !replies.is_empty() {
                return Err("a request arrived twice".into());
            }
            let (mut reply, request) = protocol.split_ack(payload)?;
            message.check(awaited, request)?;
            reply.extend_from_slice(answer.numbered(awaited));
            replies = frame::encode(protocol.opcode(), &reply).0;
            awaited.advance();
            Ok(())
        })?;
        responder.send(&replies)
    }

    /// Returns true once the answer has arrived.
    fn hear(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut heard = false;
        self.asker.read(buffer, |payload| {
            if !self.waiting || heard {
                return Err("an answer arrived twice".into());
            }
            heard = true;
            self.answered.check(&self.current, payload)
        })?;
        self.asker.flush()?;
        if heard {
            self.waiting = false;
            self.current.advance();
        }
        Ok(heard)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (target, responders) = (arguments.target()?, arguments.receivers()?);
    let count = arguments.number("pairs", 1_usize)?.max(1);
    let size = arguments.number("size", 100_usize)?;
    let duration = Duration::from_secs_f64(arguments.number("seconds", 3.0_f64)?);

    os::raise_file_limit();
    let value = message::value(size)?;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; READ_BUFFER.max(4 * size)];
    let mut pairs = Vec::with_capacity(count);
    for index in 0..count {
        let mut pair = Pair::open(&target, &responders, index, &value)?;
        pair.asker.register(poll.registry(), 2 * index)?;
        pair.responder.register(poll.registry(), 2 * index + 1)?;
        pairs.push(pair);
    }

    let mut latencies = Histogram::new();
    let cpu = os::cpu_seconds();
    let start = Instant::now();
    let mut last = start;
    for pair in &mut pairs {
        pair.ask()?;
    }
    while pairs.iter().any(|pair| pair.waiting) {
        match poll.poll(&mut events, Some(Duration::from_millis(100))) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            let pair = &mut pairs[event.token().0 / 2];
            if event.token().0 % 2 == 1 {
                pair.respond(&mut buffer)?;
            } else if pair.hear(&mut buffer)? {
                last = Instant::now();
                latencies.record((last - pair.asked_at).as_nanos() as u64);
                if last - start < duration {
                    pair.ask()?;
                }
            }
        }
        if last.elapsed() > STALL {
            return Err(format!("no answer arrived within {STALL:?}").into());
        }
    }
    let seconds = (last - start).as_secs_f64();
    let cpu = os::cpu_seconds() - cpu;
    let micros = |nanos: u64| nanos as f64 / 1e3;
    println!(
        r#"{{"mode":"request","pairs":{count},"size":{size},"messages":{},"seconds":{seconds:.6},"messages_per_second":{:.1},"p50_us":{:.1},"p99_us":{:.1},"p999_us":{:.1},"max_us":{:.1},"cpu_seconds":{cpu:.6},"saturation":{:.4}}}"#,
        latencies.count(),
        latencies.count() as f64 / seconds,
        micros(latencies.quantile(0.5)),
        micros(latencies.quantile(0.99)),
        micros(latencies.quantile(0.999)),
        micros(latencies.maximum()),
        cpu / seconds
    );
    Ok(())
}

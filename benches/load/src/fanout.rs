//! One sender and many receivers that all receive every message.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::arguments::Arguments;
use crate::connection::{Connection, READ_BUFFER, unexpected};
use crate::failure::Result;
use crate::message::{self, Batch, Sequence, Template};
use crate::os;
use crate::pairs::worthwhile;
use crate::progress::{LINGER, Progress};
use crate::protocol::Role;

const WRITE_BUFFER: usize = 256 * 1024;
const FROM: &str = "sender";

struct Receiver {
    connection: Connection,
    awaited: Sequence,
    received: u64,
}

/// The window counts messages, which are in flight until the last receiver has them.
struct Fanout {
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    window: usize,
    sender: Connection,
    batch: Batch,
    next: Sequence,
    expected: Template,
    receivers: Vec<Receiver>,
    /// For each message in flight, oldest first, the number of receivers that do not have it yet.
    missing: VecDeque<usize>,
    /// Messages that all receivers have received.
    done: u64,
}

impl Fanout {
    fn open(arguments: &Arguments) -> Result<Self> {
        let (target, targets) = (arguments.target()?, arguments.receivers()?);
        let count = arguments.number("receivers", 100_usize)?.max(1);
        let window = arguments.number("window", 16_usize)?.max(1);
        let value = message::value(arguments.number("size", 100_usize)?)?;
        let poll = Poll::new()?;
        let ids: Vec<String> = (0..count).map(|index| format!("r{index}")).collect();
        let mut receivers = Vec::with_capacity(count);
        for mut connection in Connection::open_all(&targets, &ids, Role::Listener)? {
            connection.register(poll.registry(), receivers.len())?;
            receivers.push(Receiver {
                connection,
                awaited: Sequence::new(),
                received: 0,
            });
        }
        if targets.iter().all(|one| one.address != target.address) {
            // A subscription is known to other brokers within a second.
            thread::sleep(Duration::from_secs(1));
        }
        let mut sender = Connection::open(&target, FROM, Role::Member)?;
        sender.register(poll.registry(), count)?;
        let protocol = target.protocol;
        let message = protocol.broadcast(&value, FROM, &ids);
        let together = protocol.together(message.sent.len(), worthwhile(window));
        let opcode = protocol.opcode();
        Ok(Fanout {
            poll,
            events: Events::with_capacity(1024),
            buffer: vec![0; READ_BUFFER.max(4 * value.len())],
            window,
            sender,
            batch: Batch::new(opcode, &message.sent, together, window, WRITE_BUFFER),
            next: Sequence::new(),
            expected: Template::new(&message.arrives),
            receivers,
            missing: VecDeque::with_capacity(window),
            done: 0,
        })
    }

    fn send(&mut self, stopping: bool) -> Result<()> {
        loop {
            if !self.sender.write(&mut self.batch)? {
                return Ok(());
            }
            self.sender.flush()?;
            let credit = self.window - self.missing.len();
            let count = self.batch.fitting(credit);
            let enough = credit >= worthwhile(self.window) && count > 0;
            if stopping || self.sender.is_blocked() || !enough {
                return Ok(());
            }
            self.batch.fill(count, &mut self.next);
            let all = self.receivers.len();
            self.missing.resize(self.missing.len() + count, all);
        }
    }

    fn receive(&mut self, index: usize) -> Result<()> {
        let Fanout {
            receivers,
            expected,
            missing,
            done,
            buffer,
            ..
        } = self;
        let Receiver {
            connection,
            awaited,
            received,
        } = &mut receivers[index];
        connection.read(buffer, |payload| {
            // How far this receiver is ahead of the slowest.
            let ahead = (*received - *done) as usize;
            let Some(left) = missing.get_mut(ahead) else {
                return Err(format!("receiver {index}: a message arrived twice").into());
            };
            expected
                .check(awaited, payload)
                .map_err(|failure| format!("receiver {index}: {failure}"))?;
            awaited.advance();
            *received += 1;
            *left -= 1;
            while missing.front() == Some(&0) {
                missing.pop_front();
                *done += 1;
            }
            Ok(())
        })?;
        connection.flush()
    }

    /// Waits for socket events once. Returns the number of messages that have arrived.
    fn turn(&mut self, stopping: bool, timeout: Duration) -> Result<u64> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(0),
            other => other?,
        }
        let readable = self.events.iter().filter(|event| event.is_readable());
        let tokens: Vec<usize> = readable.map(|event| event.token().0).collect();
        let mut arrived = 0;
        for token in tokens {
            if token == self.receivers.len() {
                let refuse = |payload: &[u8]| Err(unexpected(FROM, payload));
                self.sender.read(&mut self.buffer, refuse)?;
                continue;
            }
            let before = self.receivers[token].received;
            self.receive(token)?;
            arrived += self.receivers[token].received - before;
        }
        self.send(stopping)?;
        Ok(arrived)
    }

    fn under_way(&self) -> u64 {
        self.missing.iter().sum::<usize>() as u64
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let duration = Duration::from_secs_f64(arguments.number("seconds", 3.0_f64)?);
    os::raise_file_limit();
    let mut fanout = Fanout::open(arguments)?;

    let mut progress = Progress::start(Duration::ZERO);
    fanout.send(false)?;
    loop {
        let stopping = progress.elapsed() >= duration;
        if stopping && fanout.missing.is_empty() {
            break;
        }
        let arrived = fanout.turn(stopping, Duration::from_millis(100))?;
        progress.note(arrived, || fanout.under_way())?;
    }
    let figures = progress.stop();
    let end = Instant::now() + LINGER;
    while let Some(rest) = end.checked_duration_since(Instant::now()) {
        fanout.turn(true, rest)?;
    }
    let receivers = fanout.receivers.len();
    println!(r#"{{"mode":"fanout","receivers":{receivers},{figures}}}"#);
    Ok(())
}

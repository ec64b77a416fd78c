//! A flood at full speed to a receiver that reads nothing, until standard input ends.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::arguments::Arguments;
use crate::connection::{Connection, READ_BUFFER, unexpected};
use crate::failure::Result;
use crate::held::{self, HOLD};
use crate::message::{self, Batch, Sequence};
use crate::os;
use crate::protocol::Role;

/// Bytes of one write.
const WRITE_BUFFER: usize = 64 * 1024;

/// Prints a line when the flood starts, and its figures at the end.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let target = arguments.target()?;
    let value = message::value(arguments.number("size", 4096_usize)?)?;
    // The receiver never reads.
    let _deaf = Connection::open(&target, "deaf", Role::Member)?;
    let mut sender = Connection::open(&target, "flooder", Role::Member)?;
    let sent = target.protocol.message(&value, "flooder", "deaf").sent;
    let copies = (WRITE_BUFFER / sent.len()).max(1);
    let together = target.protocol.together(sent.len(), copies);
    let mut batch = Batch::new(
        target.protocol.opcode(),
        &sent,
        together,
        copies,
        WRITE_BUFFER,
    );
    let copies = batch.fitting(copies);

    let mut poll = Poll::new()?;
    sender.register(poll.registry(), 0)?;
    held::wake_at_end_of_input(poll.registry(), Token(1))?;
    println!(r#"{{"mode":"flood"}}"#);

    let (mut events, mut buffer) = (Events::with_capacity(8), vec![0; READ_BUFFER]);
    let (mut sequence, mut messages) = (Sequence::new(), 0_u64);
    let cpu = os::cpu_seconds();
    let start = Instant::now();
    let (mut taken, mut hold) = (start, Duration::ZERO);
    while start.elapsed() < HOLD {
        let blocked = !sender.write(&mut batch)?;
        if !blocked {
            sender.flush()?;
            hold = hold.max(taken.elapsed());
            taken = Instant::now();
            batch.fill(copies, &mut sequence);
            messages += copies as u64;
        }
        let timeout = Duration::from_millis(if blocked { 100 } else { 0 });
        match poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            if event.token() == Token(1) {
                let seconds = start.elapsed().as_secs_f64();
                println!(
                    r#"{{"mode":"flood","messages":{messages},"seconds":{seconds:.6},"longest_hold_ms":{:.3},"cpu_seconds":{:.6}}}"#,
                    hold.max(taken.elapsed()).as_secs_f64() * 1e3,
                    os::cpu_seconds() - cpu,
                );
                return Ok(());
            }
            if event.is_readable() {
                let refuse = |payload: &[u8]| Err(unexpected("flooder", payload));
                sender.read(&mut buffer, refuse)?;
            }
        }
    }
    Err(format!("standard input is still open after {HOLD:?}").into())
}

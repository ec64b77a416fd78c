//! Registered connections that only stay open, so that the broker's memory can be looked at.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::arguments::Arguments;
use crate::connection::{Connection, READ_BUFFER, unexpected};
use crate::failure::Result;
use crate::held::{self, HOLD};
use crate::os;
use crate::protocol::Role;

/// Prints its line when all are registered, then holds them until standard input ends.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let target = arguments.target()?;
    let count = arguments.number("connections", 5000_usize)?;

    os::raise_file_limit();
    let mut poll = Poll::new()?;
    let start = Instant::now();
    let mut connections = Vec::with_capacity(count);
    for index in 0..count {
        let mut connection = Connection::open(&target, &format!("i{index}"), Role::Member)?;
        connection.register(poll.registry(), index)?;
        connections.push(connection);
    }
    println!(
        r#"{{"mode":"idle","connections":{count},"seconds":{:.6}}}"#,
        start.elapsed().as_secs_f64()
    );

    held::wake_at_end_of_input(poll.registry(), Token(count))?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; READ_BUFFER];
    while start.elapsed() < HOLD {
        match poll.poll(&mut events, Some(Duration::from_secs(1))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            let Some(connection) = connections.get_mut(event.token().0) else {
                return Ok(());
            };
            let id = event.token().0;
            connection.read(&mut buffer, |payload| {
                Err(unexpected(&format!("i{id}"), payload))
            })?;
            connection.flush()?;
        }
    }
    Err(format!("standard input is still open after {HOLD:?}").into())
}

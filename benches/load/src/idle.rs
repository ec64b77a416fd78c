//! Registered connections that stay open, so that the memory of the broker can be measured.

use std::io::ErrorKind;
use std::slice;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::arguments::Arguments;
use crate::connection::{Connection, READ_BUFFER, unexpected};
use crate::failure::Result;
use crate::held::{self, HOLD};
use crate::os;
use crate::protocol::Role;

/// Prints its line when all are registered, and keeps them open until standard input ends.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let target = arguments.target()?;
    let count = arguments.number("connections", 5000_usize)?;

    os::raise_file_limit();
    let mut poll = Poll::new()?;
    let start = Instant::now();
    let ids: Vec<String> = (0..count).map(|index| format!("i{index}")).collect();
    let mut connections = Connection::open_all(slice::from_ref(&target), &ids, Role::Member)?;
    for (index, connection) in connections.iter_mut().enumerate() {
        connection.register(poll.registry(), index)?;
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

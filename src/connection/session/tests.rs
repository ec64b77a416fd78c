//! Sessions whose sockets are in memory.

mod model;
mod replay;
mod resume;
mod world;

use std::{net::Shutdown, time::Duration};

use tokio::{runtime::Handle as Runtime, task::yield_now};

use crate::{
    options::ServerOptions,
    server::Server,
    transport::socket::{WriteHalf, pipe::Pipe},
};

/// A masked frame with a zero mask.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut bytes = vec![first, 0x80 | length, 0, 0, 0, 0];
    bytes.extend(payload);
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_close_frame_ends_the_session_although_a_write_fails_first() {
    let options = ServerOptions {
        session_timeout: Duration::from_secs(300),
        ..ServerOptions::default()
    };
    let server = Server::unreachable(options, &Runtime::current());
    let (input, output) = (Pipe::new(usize::MAX), Pipe::new(usize::MAX));
    let handle = server.serve_piped(&input, &output);
    let [input, output] = [input, output].map(WriteHalf::Pipe);
    let register = br#"{"action":"register","id":"a","protocol":2,"session":{"timeout":9000}}"#;
    input.try_write(&frame(0x81, register)).unwrap();
    while server.stats().sessions == 0 {
        yield_now().await;
    }
    // Its task finds both at once: nothing awaits in between.
    input.try_write(&frame(0x88, &[0x03, 0xe8])).unwrap();
    input.shutdown(Shutdown::Both);
    output.shutdown(Shutdown::Both);
    handle.write(|outbox| outbox.push(&["1"]));
    assert!(handle.outbox.state().suspended);
    let mut stats = server.stats();
    while stats.sessions > stats.sessions_suspended {
        yield_now().await;
        stats = server.stats();
    }
    assert_eq!(stats.sessions, 0);
}

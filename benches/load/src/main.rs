//! Load for a broker, in the protocol of wsmsgbroker or of a rival.
//!
//! One thread drives every socket, so that the generator uses little processor time of a machine
//! that it shares with the broker. Frames are built and masked beforehand; only a sequence number
//! is patched into each. Every received byte is compared with the expected one: the process exits
//! with a non-zero status at the first lost, reordered, repeated or altered message.
//!
//! `pairs` measures a pipelined flow, `request` the latency of requests, `fanout` messages to many
//! receivers, `cycles` the rate of connection cycles. `idle` only keeps connections open, and
//! `flood` floods a receiver that reads nothing, until standard input ends. Each prints its figures
//! as one line of JSON.

mod arguments;
mod connection;
mod cycles;
mod failure;
mod fanout;
mod flood;
mod frame;
mod held;
mod hello;
mod histogram;
mod idle;
mod message;
mod nats;
mod os;
mod pairs;
mod progress;
mod protocol;
mod request;
mod stream;
mod tls;

use std::process::ExitCode;

use arguments::Arguments;
use failure::Result;

const USAGE: &str = "usage: wsmsgbroker-load MODE --url ws://127.0.0.1:PORT/PATH, with the options of the mode
  pairs   [--pairs 8] [--size 100] [--seconds 3] [--window 256] [--slice MILLISECONDS] [ELSEWHERE]
  request [--pairs 1] [--size 100] [--seconds 3] [ELSEWHERE]
  fanout  [--receivers 100] [--size 100] [--seconds 3] [--window 16]
  cycles  [--connections 32] [--seconds 3]
  idle    [--connections 5000]
  flood   [--size 4096]
and for all [--protocol wsmb|nats|nats-framed|socketio], [--token TOKEN], to register with, and with a
wss:// URL --ca PEM, whom to trust. ELSEWHERE is --to URL,URL: where those connect who receive, dealt
out among these brokers. They are known to all when they are registered.";

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let mode = words.next().unwrap_or_default();
    let arguments = Arguments::parse(words)?;
    match mode.as_str() {
        "pairs" => pairs::run(&arguments),
        "request" => request::run(&arguments),
        "fanout" => fanout::run(&arguments),
        "cycles" => cycles::run(&arguments),
        "idle" => idle::run(&arguments),
        "flood" => flood::run(&arguments),
        _ => Err(USAGE.into()),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

//! Load for a broker that speaks the protocol of wsmsgbroker: register, send, answer.
//!
//! One thread drives every socket, so that the generator costs as little as it can on a machine
//! it shares with the broker. Frames are built and masked beforehand; only a sequence number is
//! patched into each. All that arrives is compared byte for byte with what was expected: the
//! process ends with a non-zero status at the first lost, reordered, repeated or altered message.
//!
//! `pairs` measures a pipelined flow, `request` the latency of request and answer, and `idle` only
//! holds connections open. Each prints one line of JSON on standard output.

mod arguments;
mod connection;
mod failure;
mod frame;
mod histogram;
mod idle;
mod message;
mod os;
mod pairs;
mod request;
mod stream;
mod tls;

use std::process::ExitCode;

use arguments::Arguments;
use failure::Result;

const USAGE: &str = "usage:
  wsmsgbroker-load pairs   --url ws://127.0.0.1:PORT/PATH [--pairs 8] [--size 100] [--seconds 3] [--window 256]
  wsmsgbroker-load request --url ws://127.0.0.1:PORT/PATH [--pairs 1] [--size 100] [--seconds 3]
  wsmsgbroker-load idle    --url ws://127.0.0.1:PORT/PATH [--connections 5000]
each also takes [--token TOKEN], to register with, and with a wss:// URL needs --ca PEM, whom to trust";

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let mode = words.next().unwrap_or_default();
    let arguments = Arguments::parse(words)?;
    match mode.as_str() {
        "pairs" => pairs::run(&arguments),
        "request" => request::run(&arguments),
        "idle" => idle::run(&arguments),
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

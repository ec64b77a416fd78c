//! A program of its own because it starts itself again as brokers and as clients, whose processes are
//! measured, killed, or run in a network namespace.
//!
//! Faults over real sockets: in each case a canary exchanges numbered messages and loses none, the peer at
//! fault gets the one error or close code of its fault, and afterwards the broker holds and uses no more
//! than before, and ends when asked to.
//!
//! Faults over real sockets: in each case a canary exchanges numbered messages and loses none, the peer at
//! fault gets the one error or close code of its fault, and afterwards the broker holds and uses no more
//! than before, and ends when asked to.
//!
//! Faults over real sockets: in each case a canary exchanges numbered messages and loses none, the peer at
//! fault gets the one error or close code of its fault, and afterwards the broker holds and uses no more
//! than before, and ends when asked to.
//!
//! The counts are those that show the fact within seconds; `WSMB_FAULTS=full` takes the large ones.

#![cfg(target_os = "linux")]

mod acks;
mod broker;
mod case;
mod connections;
mod death;
mod fanout;
mod files;
mod frames;
mod handshakes;
mod ids;
mod json;
mod network;
mod process;
mod ring;
mod slow;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod trust;

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

// No tests of their own: what the processes are that the tests start.

#[test]
#[ignore = "other tests run it, in a process of its own"]
fn a_broker() {
    broker::serve();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "other tests run it, in a process of its own"]
async fn some_clients() {
    ring::turn().await;
}

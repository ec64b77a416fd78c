//! Faults over real sockets. In each case a pair of peers exchanges numbered messages throughout
//! and misses none, who does wrong gets the one error or close code that says so, and afterwards
//! the broker, a process of its own, holds and uses no more than before, and ends when asked to.
//!
//! The counts are those that show the fact within seconds; `WSMB_FAULTS=full` takes the large ones.

#![cfg(target_os = "linux")]

mod acks;
mod broker;
mod case;
mod churn;
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

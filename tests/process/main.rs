//! A program of its own because these tests measure their whole process: every byte that it
//! allocates, and every panic of any of its threads. They run one after the other.

mod charges;
mod handshake_memory;
mod memory;
mod random_peers;
#[path = "../support/mod.rs"]
mod support;

use peak_alloc::PeakAlloc;
use tokio::sync::{Mutex, MutexGuard};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Waits until no other test of this process runs; the guard is held to the end of the test.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

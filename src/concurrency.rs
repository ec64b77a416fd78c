//! Concurrency tests with [`shuttle`]: explore thread interleavings of connections, outbox, registry and
//! requests.
//!
//! Shuttle runs the threads of a test one at a time, and decides at each lock and atomic which one continues:
//! at random, and by priorities that change a few times (PCT), which finds defects that need a rare
//! interleaving. A thread that is never woken is reported as a deadlock. A failure prints its schedule, and
//! the seed that reproduces it, `WSMB_SEED`. `WSMB_SCHEDULES` sets the number of schedules of each kind.

mod connection;
mod kept;
mod outbox;
mod registry;
mod requests;
mod sessions;
mod topics;

use std::{
    env,
    str::FromStr,
    sync::Arc,
    task::{Context, Poll},
};

use shuttle::{
    Config, Runner,
    rand::Rng,
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
    thread,
};

use crate::{broker::handle::Handle, memory::Memory, transport::socket::WriteHalf};

const SCHEDULES: usize = 1_000;
/// Number of priority changes in a schedule: most defects need fewer.
const DEPTH: usize = 3;
/// Bytes of a thread's stack: enough for a debug build.
const STACK: usize = 256 << 10;

/// Runs a test under many schedules.
fn explore(test: impl Fn() + Send + Sync + 'static) {
    let test = Arc::new(test);
    let (seed, schedules) = (number("WSMB_SEED", 1), number("WSMB_SCHEDULES", SCHEDULES));
    println!("WSMB_SEED={seed} WSMB_SCHEDULES={schedules}");
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = Config::new();
        config.stack_size = STACK;
        let test = test.clone();
        Runner::new(scheduler, config).run(move || test());
    };
    run(Box::new(RandomScheduler::new_from_seed(seed, schedules)));
    run(Box::new(PctScheduler::new_from_seed(
        seed, DEPTH, schedules,
    )));
}

fn number<T: FromStr>(name: &str, default: T) -> T {
    env::var(name).map_or(default, |text| match text.parse() {
        Ok(number) => number,
        Err(_) => panic!("{name} expects a number, got {text}"),
    })
}

/// A random number below `end`, determined by the schedule.
fn below(end: usize) -> usize {
    shuttle::rand::thread_rng().gen_range(0..end)
}

/// Polls until ready, and sleeps in between.
fn wait<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    shuttle::future::block_on(std::future::poll_fn(poll))
}

/// Runs each task in a thread of its own; returns their results when all have ended.
fn together<T: Send + 'static>(tasks: Vec<Box<dyn FnOnce() -> T + Send>>) -> Vec<T> {
    let threads: Vec<_> = tasks.into_iter().map(thread::spawn).collect();
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
}

fn memory() -> Arc<Memory> {
    Arc::new(Memory::new(usize::MAX))
}

fn handle(key: u64, socket: WriteHalf, mark: usize, memory: &Arc<Memory>) -> Arc<Handle> {
    Arc::new(Handle::new(key, socket, mark, memory.clone()))
}

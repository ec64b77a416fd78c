//! Connections, outbox, router and requests under thousands of orders of their steps, by [`shuttle`].
//!
//! Shuttle runs the threads of a test one at a time and decides at each lock and atomic who goes
//! on: at random, and by priorities that change a few times (PCT), which finds what needs a rare
//! order. A thread that is never woken is a deadlock, and found as such. A failure prints its
//! schedule, and the seed with which it comes again: `WSMB_SEED`. `WSMB_SCHEDULES` says how many
//! schedules of either kind are tried.

mod connection;
mod outbox;
mod registry;
mod requests;

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
/// How often priorities change in one schedule: most defects need fewer changes than this.
const DEPTH: usize = 3;
/// What a thread of a debug build needs, with room to spare.
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

/// A number below `end`, chosen with the schedule.
fn below(end: usize) -> usize {
    shuttle::rand::thread_rng().gen_range(0..end)
}

/// Polls until ready, asleep in between.
fn wait<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    shuttle::future::block_on(std::future::poll_fn(poll))
}

/// Starts a thread for each task, and returns what they came to when all have ended.
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

//! The frame of every case: the state before a fault, a canary beside it, and the checks afterwards.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    broker::Broker,
    support::{comes_true, until},
};

/// Held by the case whose turn it is: each needs the processors for itself.
pub(crate) async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

pub(crate) const MIB: u64 = 1 << 20;
/// Bytes allocated that a case may leave behind: buffers that threads keep for reuse.
const SLACK: u64 = MIB;
/// Bytes of memory that a case may leave with the process: what the allocator keeps for its next
/// use differs from run to run.
const RESIDENT_SLACK: u64 = 8 * MIB;
/// How often a fault is endured again, until it takes no more memory than the last time.
const AGAIN: usize = 4;
/// During a fault that takes longer than this, the canary must exchange messages.
const SILENCE: Duration = Duration::from_secs(1);
/// A broker is at rest when it uses less than 2 % of a processor for this long ...
const REST: Duration = Duration::from_millis(500);
/// ... and is so soon after a fault has ended.
const REST_WITHIN: Duration = Duration::from_secs(2);

/// `full` where the environment asks for it, else `usual`.
pub(crate) fn count(usual: usize, full: usize) -> usize {
    match std::env::var("WSMB_FAULTS") {
        Ok(size) if size == "full" => full,
        _ => usual,
    }
}

/// Lets a broker endure a fault: a little of it first, then as much as `count` says, with a canary
/// beside it; then waits until nothing is left of it.
pub(crate) async fn endure(options: &str, count: usize, fault: impl AsyncFn(&Broker, usize)) {
    let _turn = turn().await;
    let broker = Broker::start(options);
    // What is done for the first time may cost something for good.
    beside_a_canary(&broker, fault(&broker, count.div_ceil(10))).await;
    let before = Holdings::of(&broker);
    let start = Instant::now();
    beside_a_canary(&broker, fault(&broker, count)).await;
    let took = start.elapsed();
    let mut after = before.are_back(&broker).await;
    // The allocator keeps what it may use again, more of it some times than others: what is lost
    // is lost every time.
    let mut most = before.resident + RESIDENT_SLACK;
    for _ in 0..AGAIN {
        if after.resident <= most {
            break;
        }
        most = after.resident + RESIDENT_SLACK;
        beside_a_canary(&broker, fault(&broker, count)).await;
        after = after.are_back(&broker).await;
    }
    assert!(after.resident <= most, "{most} became {after:?}");
    at_rest(&broker).await;
    assert_eq!(broker.count("panics"), 0);
    broker.stop();
    println!("{count} in {took:.1?}; {before:?} became {after:?}");
}

/// Runs a fault beside a canary; returns when both have ended, and no table holds
/// anything of either.
async fn beside_a_canary(broker: &Broker, fault: impl Future<Output = ()>) {
    let canary = broker.canary().await;
    let (exchanged, start) = (canary.exchanged(), Instant::now());
    fault.await;
    let in_time = canary.exchanged() > exchanged || start.elapsed() < SILENCE;
    assert!(in_time, "the canary exchanged no message");
    canary.finish().await;
    all_gone(broker).await;
}

/// Waits until no table holds anything.
pub(crate) async fn all_gone(broker: &Broker) {
    until("the tables are empty", || {
        let counters = broker.counters();
        ["connections", "registered", "pending", "memory"]
            .iter()
            .all(|table| counters.get(table) == 0)
    })
    .await;
}

/// Lets many do the same, so many at a time; each has a number.
pub(crate) async fn crowd(count: usize, at_once: usize, one: impl AsyncFn(usize)) {
    stream::iter(0..count)
        .for_each_concurrent(at_once, |n| one(n))
        .await;
}

/// System resources of a broker.
#[derive(Debug)]
struct Holdings {
    allocated: u64,
    resident: u64,
    descriptors: usize,
}

impl Holdings {
    fn of(broker: &Broker) -> Self {
        Self {
            allocated: broker.count("allocated"),
            resident: broker.resident(),
            descriptors: broker.descriptors(),
        }
    }

    /// Waits until the broker holds no more than these, but for memory that its allocator keeps;
    /// what it holds then.
    async fn are_back(&self, broker: &Broker) -> Self {
        let back = || {
            let now = Self::of(broker);
            now.allocated <= self.allocated + SLACK && now.descriptors <= self.descriptors
        };
        let back = comes_true(back).await;
        let now = Self::of(broker);
        assert!(back, "{self:?} became {now:?}");
        now
    }
}

/// Waits until a broker does nothing.
pub(crate) async fn at_rest(broker: &Broker) {
    let start = Instant::now();
    loop {
        let used = broker.used();
        tokio::time::sleep(REST).await;
        let used = broker.used() - used;
        // Its clock ticks every 10 ms.
        if used <= REST / 50 {
            return;
        }
        assert!(
            start.elapsed() < REST_WITHIN,
            "it uses {used:?} in {REST:?}"
        );
    }
}

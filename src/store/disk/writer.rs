//! The thread that writes a store: one transaction for all that was appended meanwhile.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Shared, callbacks::Callbacks, file::Changes};
use crate::store::{StoreError, Stored};

/// The part of the duration of the last commit for which the writer waits for as many messages as that had.
const GATHER_PART: u32 = 4;
/// The part of those messages from which it does not wait.
const FEW: usize = 4;
/// Maximum time for which it waits.
const MAX_GATHER: Duration = Duration::from_millis(5);

/// The last transaction.
#[derive(Debug, Default)]
struct Last {
    messages: usize,
    duration: Duration,
}

/// Writes what is appended until the store is closed or fails.
pub(super) fn run(shared: &Arc<Shared>, mut callbacks: Callbacks) {
    let mut last = Last::default();
    loop {
        let is_last = wait(shared, &last);
        if shared.has_failed() {
            callbacks.finish();
            return;
        }
        let all: Vec<_> = shared.logs.iter().map(|log| log.changes(is_last)).collect();
        let has_more = all.iter().any(|(_, has_more)| *has_more);
        let all: Vec<Changes> = all.into_iter().map(|(changes, _)| changes).collect();
        // A panic of the library is a failure as any other.
        let commit = || shared.file.commit(&all);
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(commit))
            .unwrap_or_else(|_| Err(StoreError("the store panicked".into())));
        let messages = all.iter().map(|changes| changes.appended.len()).sum();
        if messages > 0 {
            let duration = began.elapsed();
            shared.writes.record(duration);
            last = Last { messages, duration };
        }
        if let Err(error) = result {
            callbacks.finish();
            shared.fail(error);
            return;
        }
        let mut ready = Vec::new();
        for (log, changes) in shared.logs.iter().zip(&all) {
            let written = log.on_written(changes, &mut ready);
            shared.remove_queued(written);
        }
        callbacks.call(ready, Ok(Stored::Disk), shared.has_messages());
        if is_last {
            callbacks.finish();
            return;
        }
        if has_more {
            shared.wake();
        }
    }
}

/// Waits until there is something to write, and as long as it may wait. True if the store is being closed.
fn wait(shared: &Shared, last: &Last) -> bool {
    let mut queue = shared.queue.lock();
    while !queue.has_changes && !queue.is_closing {
        let Some(at) = queue.removals_at else {
            shared.changed.wait(&mut queue);
            continue;
        };
        if shared.changed.wait_until(&mut queue, at).timed_out() {
            break;
        }
    }
    let delay = shared.settings.delay;
    let (wanted, time) = match delay.is_zero() {
        // A caller that has just got many receipts sends as many messages: they are written together.
        true if queue.messages < last.messages / FEW => {
            (last.messages, (last.duration / GATHER_PART).min(MAX_GATHER))
        }
        true => (0, Duration::ZERO),
        false => (usize::MAX, delay),
    };
    queue.wanted = wanted;
    let until = Instant::now() + time;
    while !queue.is_closing && !queue.is_large && queue.messages < queue.wanted {
        if shared.changed.wait_until(&mut queue, until).timed_out() {
            break;
        }
    }
    (queue.has_changes, queue.is_large) = (false, false);
    (queue.messages, queue.wanted) = (0, 0);
    queue.removals_at = None;
    queue.is_closing
}

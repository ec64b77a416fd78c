//! The thread that writes a store: one transaction for all that was appended meanwhile.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use super::{Shared, file::Changes};
use crate::store::StoreError;

/// Writes what is appended until the store is closed or fails.
pub(super) fn run(shared: &Arc<Shared>) {
    loop {
        let is_last = wait(shared);
        let all: Vec<_> = shared.logs.iter().map(|log| log.changes(is_last)).collect();
        let has_more = all.iter().any(|(_, has_more)| *has_more);
        let all: Vec<Changes> = all.into_iter().map(|(changes, _)| changes).collect();
        // A panic of the library is a failure as any other.
        let commit = || shared.file.commit(&all);
        let result = catch_unwind(AssertUnwindSafe(commit))
            .unwrap_or_else(|_| Err(StoreError("the store panicked".into())));
        if let Err(error) = result {
            shared.fail(error);
            return;
        }
        for (log, changes) in shared.logs.iter().zip(&all) {
            let written = log.on_written(changes);
            shared.remove_queued(written);
        }
        if is_last {
            return;
        }
        if has_more {
            shared.wake();
        }
    }
}

/// Waits until there is something to write, and as long as it may wait. True if the store is being closed.
fn wait(shared: &Shared) -> bool {
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
    if !delay.is_zero() {
        let until = Instant::now() + delay;
        while !queue.is_closing && !queue.is_large {
            if shared.changed.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
    }
    (queue.has_changes, queue.is_large) = (false, false);
    queue.removals_at = None;
    queue.is_closing
}

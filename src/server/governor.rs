//! Keeps a server within its memory: chooses the connection that is ended when there is too little.

use std::{collections::HashMap, sync::Arc, time::Instant};

use tokio::sync::watch;

use super::Shared;
use crate::{
    event::{ServerEvent, Slow},
    handle::{Close, Handle},
    memory,
    outbox::State,
};

/// Bytes that a connection must take in a second, or it counts as deaf.
const PROGRESS: f64 = (2 << 20) as f64 / 5.0;

/// Keeps the server within its memory until it closes.
pub(super) async fn govern(shared: Arc<Shared>, mut closing: watch::Receiver<bool>) {
    let governor = Governor {
        shared: &shared,
        since: Instant::now(),
        drained: HashMap::new(),
    };
    tokio::select! {
        () = memory::govern(&shared.memory, governor) => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

/// What is known of the connections while memory is short.
struct Governor<'a> {
    shared: &'a Shared,
    since: Instant,
    /// Bytes that each had taken when memory became short, by its key.
    drained: HashMap<u64, u64>,
}

impl Governor<'_> {
    /// True if a connection takes what waits for it.
    fn reads(&self, handle: &Handle, state: &State) -> bool {
        let before = self.drained.get(&handle.key).copied().unwrap_or(0);
        let taken = state.drained - before;
        taken as f64 >= PROGRESS * self.since.elapsed().as_secs_f64()
    }

    /// Closes a connection. The server's own participant stays, and loses what waits for it.
    fn end(&self, handle: &Handle) {
        if !handle.participant {
            return handle.request_close(Close::Memory);
        }
        handle.outbox.discard();
        let (id, why) = (None, Slow::Dropping);
        self.shared.listener.event(ServerEvent::Slow { id, why });
    }
}

impl memory::Holders for Governor<'_> {
    fn count(&self) -> usize {
        self.shared.connections.lock().len()
    }

    fn observe(&mut self) {
        let handles = self.shared.handles();
        let drained = |handle: Arc<Handle>| (handle.key, handle.outbox.state().drained);
        (self.since, self.drained) = (Instant::now(), handles.into_iter().map(drained).collect());
    }

    fn end_largest(&mut self, share: usize, spares: bool) -> bool {
        // Those that are asked already are given the time to go; whoever holds little is not the
        // one to be ended, even if there is nobody else.
        let mut handles = self.shared.handles();
        handles.retain(|handle| handle.requested_close().is_none());
        // Much is being read: that frees memory, and those who only wait for it are spared, too.
        let (mut is_freed, mut weights) = (false, Vec::with_capacity(handles.len()));
        for handle in &handles {
            let state = handle.outbox.state();
            // The buffer of a message is free when all of it has been written.
            let waiting = handle.outbox.waiting().max(state.held);
            let is_spared = spares && waiting > 0 && self.reads(handle, &state);
            is_freed |= is_spared && waiting >= share;
            weights.push(if is_spared { 0 } else { waiting });
        }
        let largest = (weights.into_iter().zip(&handles))
            .map(|(waiting, handle)| match is_freed {
                true => (waiting, handle),
                false => (waiting + handle.own_memory(), handle),
            })
            .filter(|(weight, _)| *weight >= share)
            .max_by_key(|(weight, _)| *weight);
        if let Some((_, handle)) = &largest {
            self.end(handle);
        }
        largest.is_some()
    }

    fn go_on(&self) {
        for handle in self.shared.handles() {
            handle.waker.wake();
        }
    }
}

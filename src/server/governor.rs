//! Keeps a server within its memory: chooses the connection that is ended when there is too little.

use std::{cmp::Reverse, collections::HashMap, sync::Arc, time::Instant};

use tokio::sync::watch;

use crate::{
    broker::{
        Broker,
        handle::{Close, Handle},
    },
    event::{ServerEvent, Slow},
    memory::{self, CONNECTION},
    transport::outbox::OutboxState,
};

/// Bytes that a connection must take in a second, or it counts as deaf.
const PROGRESS: f64 = (2 << 20) as f64 / 5.0;

/// Keeps the server within its memory until it closes.
pub(super) async fn govern(broker: Arc<Broker>, mut closing: watch::Receiver<bool>) {
    let governor = Governor {
        broker: &broker,
        since: Instant::now(),
        drained: HashMap::new(),
    };
    tokio::select! {
        () = memory::govern(&broker.memory, governor) => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

/// What is known of the connections while memory is short.
struct Governor<'a> {
    broker: &'a Broker,
    since: Instant,
    /// Bytes that each had taken when memory became short, by its key.
    drained: HashMap<u64, u64>,
}

impl Governor<'_> {
    /// True if a connection takes what waits for it.
    fn reads(&self, handle: &Handle, state: &OutboxState) -> bool {
        let before = self.drained.get(&handle.key).copied().unwrap_or(0);
        let taken = state.drained - before;
        taken as f64 >= PROGRESS * self.since.elapsed().as_secs_f64()
    }

    /// Those who are to blame for `least` bytes or more, and for how many. Those who take what waits for them
    /// are spared if `readers` is true; and if `others` is, those who hold memory themselves as well, while a
    /// share or more is freed that way.
    fn weigh<'h>(
        &self,
        handles: &'h [Arc<Handle>],
        least: usize,
        readers: bool,
        others: bool,
    ) -> Vec<(usize, &'h Arc<Handle>)> {
        let mut is_freed = false;
        let waiting: Vec<_> = (handles.iter())
            .map(|handle| {
                let state = handle.outbox.state();
                // The buffer of a message is free when all of it has been written.
                let waiting = handle.outbox.waiting().max(state.held);
                let is_spared = readers && waiting > 0 && self.reads(handle, &state);
                is_freed |= is_spared && waiting >= least;
                if is_spared { 0 } else { waiting }
            })
            .collect();
        let weight = |waiting: usize, handle: &Handle| match others && is_freed {
            true => waiting,
            false => waiting + handle.own_memory(),
        };
        (waiting.into_iter().zip(handles))
            .map(|(waiting, handle)| (weight(waiting, handle), handle))
            .filter(|(weight, _)| *weight >= least)
            .collect()
    }

    /// Closes a connection. The server's own participant stays, and loses what waits for it.
    fn end(&self, handle: &Handle) {
        if !handle.participant {
            return handle.request_close(Close::Memory);
        }
        handle.outbox.discard();
        let (id, why) = (None, Slow::Dropping);
        self.broker.listener.event(ServerEvent::Slow { id, why });
    }
}

impl memory::Holders for Governor<'_> {
    fn count(&self) -> usize {
        self.broker.connection_count()
    }

    fn observe(&mut self) {
        let handles = self.broker.handles();
        let drained = |handle: Arc<Handle>| (handle.key, handle.outbox.state().drained);
        (self.since, self.drained) = (Instant::now(), handles.into_iter().map(drained).collect());
    }

    fn end_largest(&mut self, share: usize, spares: bool) -> bool {
        // Those that are asked already are given the time to go.
        let mut handles = self.broker.handles();
        handles.retain(|handle| handle.requested_close().is_none());
        let mut weights = self.weigh(&handles, share, true, spares);
        if weights.is_empty() && !spares {
            // Nobody else is left: those who read go, too, and those who hold little each.
            weights = self.weigh(&handles, CONNECTION + 1, false, false);
        }
        weights.sort_unstable_by_key(|(weight, _)| Reverse(*weight));
        // As many as it takes, or others would bring new ones as fast as these go.
        let mut excess = self.broker.memory.excess();
        for (weight, handle) in &weights {
            self.end(handle);
            excess = excess.saturating_sub(*weight);
            if excess == 0 {
                break;
            }
        }
        !weights.is_empty()
    }

    fn go_on(&self) {
        for handle in self.broker.handles() {
            handle.waker.wake();
        }
    }
}

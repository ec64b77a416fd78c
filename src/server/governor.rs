//! Memory governor: closes the connections that hold most while memory is short.

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

/// Bytes per second that a connection must read to be spared: 2 MiB in 5 s.
const PROGRESS: f64 = (2 << 20) as f64 / 5.0;

/// Runs the governor until the server closes.
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

/// Progress of the connections since memory became short.
struct Governor<'a> {
    broker: &'a Broker,
    since: Instant,
    /// Bytes that each connection had read at `since`, by its key.
    drained: HashMap<u64, u64>,
}

impl Governor<'_> {
    /// True if a connection reads its outbox fast enough.
    fn reads(&self, handle: &Handle, state: &OutboxState) -> bool {
        let before = self.drained.get(&handle.key).copied().unwrap_or(0);
        let taken = state.drained - before;
        taken as f64 >= PROGRESS * self.since.elapsed().as_secs_f64()
    }

    /// Connections that hold `least` bytes or more, with their bytes. `readers`: spare those that read
    /// their outbox. `others`: count only outboxes, not other memory, while a spared reader is about to
    /// free `least` bytes or more.
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
                // The buffer of a message is freed when all of it has been written.
                let waiting = handle.outbox.waiting().max(state.memory);
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

    /// Closes a connection. The server's own participant stays, and its outbox is discarded.
    fn close(&self, handle: &Handle) {
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
        // Kept messages give way first.
        (self.broker.kept).release(self.broker.memory.excess());
    }

    fn close_largest(&mut self, share: usize, spares: bool) -> bool {
        if self.broker.kept.release(self.broker.memory.excess()) > 0 {
            return true;
        }
        // Connections that were asked to close already are given the time to do so.
        let mut handles = self.broker.handles();
        handles.retain(|handle| handle.requested_close().is_none());
        let mut weights = self.weigh(&handles, share, true, spares);
        if weights.is_empty() && !spares {
            // The last resort: readers, and connections that hold little each.
            weights = self.weigh(&handles, CONNECTION + 1, false, false);
        }
        weights.sort_unstable_by_key(|(weight, _)| Reverse(*weight));
        // Close as many as necessary: otherwise new ones could arrive as fast as these close.
        let mut excess = self.broker.memory.excess();
        for (weight, handle) in &weights {
            self.close(handle);
            excess = excess.saturating_sub(*weight);
            if excess == 0 {
                break;
            }
        }
        !weights.is_empty()
    }

    fn wake_all(&self) {
        for handle in self.broker.handles() {
            handle.waker.wake();
        }
    }
}

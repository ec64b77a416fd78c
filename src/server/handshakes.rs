//! Pending handshakes: limits their number, and ends the oldest to make room.
//!
//! A client that opens sockets and sends nothing holds memory and permits until the handshake timeout. When
//! the limit is reached, the oldest handshake is ended for the next one if it has taken longer than
//! [`HONEST`]. Until then new connections wait in the system's backlog.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

use super::ingress::{Ingress, MAX_WAITING};

/// Time granted to every handshake: enough for a slow network and a busy server.
const HONEST: Duration = Duration::from_secs(2);
/// Pending handshakes may use one of this many parts of `max_memory`.
const MEMORY_PART: usize = 8;
/// Bytes assumed for each handshake in that limit; actual use is charged separately.
const PLAIN: usize = 8 << 10;
const TLS: usize = 16 << 10;

/// Pending handshakes of a server.
#[derive(Debug)]
pub(super) struct PendingHandshakes {
    most: usize,
    under_way: Mutex<PendingList>,
    /// Notified when a handshake has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct PendingList {
    next: u64,
    /// By number, which is the order of their start: start, and the sender that ends it.
    all: BTreeMap<u64, (Instant, oneshot::Sender<()>)>,
}

/// A pending handshake, until it is dropped.
pub(super) struct PendingHandshake {
    ingress: Arc<Ingress>,
    number: u64,
    ends: oneshot::Receiver<()>,
    /// True if an older handshake was ended for it: its socket may exceed the limit by one meanwhile.
    pub(super) follows: bool,
}

impl PendingHandshakes {
    pub(super) fn new(max_connections: usize, max_memory: usize, is_secure: bool) -> Self {
        let each = if is_secure { TLS } else { PLAIN };
        let most = (max_memory / MEMORY_PART / each).max(MAX_WAITING);
        Self {
            most: most.min(max_connections.saturating_add(MAX_WAITING)),
            under_way: Mutex::default(),
            ended: Notify::new(),
        }
    }

    /// Ends the oldest handshake if it has had its time. Errors: the time it has left; none if there is no
    /// handshake.
    fn end_oldest(&self) -> Result<(), Option<Duration>> {
        let mut under_way = self.under_way.lock();
        let Some(oldest) = under_way.all.first_entry() else {
            return Err(None);
        };
        let left = HONEST.saturating_sub(oldest.get().0.elapsed());
        match left.is_zero() {
            true => {
                let (_, ends) = oldest.remove();
                // The handshake may have ended by itself.
                let _ = ends.send(());
                Ok(())
            }
            false => Err(Some(left)),
        }
    }

    /// Waits until there is room for one more.
    pub(super) async fn room(&self) {
        while self.under_way.lock().all.len() >= self.most {
            if let Err(Some(left)) = self.end_oldest() {
                // Returns early when a handshake ends.
                let _ = timeout(left, self.ended.notified()).await;
            }
        }
    }
}

impl PendingHandshake {
    /// Starts a handshake. If all sockets are in use, it ends the oldest one.
    pub(super) fn begin(ingress: &Arc<Ingress>) -> Self {
        let handshakes = &ingress.handshakes;
        let most = ingress
            .broker
            .options
            .max_connections
            .saturating_add(MAX_WAITING);
        let is_full = ingress.sockets.load(Relaxed) >= most;
        let follows = is_full && handshakes.end_oldest().is_ok();
        let (sender, ends) = oneshot::channel();
        let mut under_way = handshakes.under_way.lock();
        let number = under_way.next;
        under_way.next += 1;
        under_way.all.insert(number, (Instant::now(), sender));
        drop(under_way);
        Self {
            ingress: ingress.clone(),
            number,
            ends,
            follows,
        }
    }

    /// Resolves when this handshake is ended to make room.
    pub(super) async fn ended(&mut self) {
        let _ = (&mut self.ends).await;
    }
}

impl Drop for PendingHandshake {
    fn drop(&mut self) {
        let handshakes = &self.ingress.handshakes;
        handshakes.under_way.lock().all.remove(&self.number);
        handshakes.ended.notify_one();
    }
}

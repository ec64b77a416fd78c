//! The handshakes under way: so many at one time, and the oldest makes room.
//!
//! Whoever opens sockets and says nothing holds memory and places until the time of a handshake is up.
//! Where there are as many as there may be, the oldest of them is ended for the next one, once it has
//! had the time that an honest one takes; until then the next ones wait where the system keeps them.

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

/// What an honest handshake takes, over a slow line to a busy server.
const HONEST: Duration = Duration::from_secs(2);
/// All handshakes under way have this part of the memory,
const MEMORY_PART: usize = 8;
/// of which each is counted with this much, and charged with what it takes.
const PLAIN: usize = 8 << 10;
const TLS: usize = 16 << 10;

/// Those under way.
#[derive(Debug)]
pub(super) struct PendingHandshakes {
    most: usize,
    under_way: Mutex<PendingList>,
    /// One has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct PendingList {
    next: u64,
    /// By age: since when, and what ends them.
    all: BTreeMap<u64, (Instant, oneshot::Sender<()>)>,
}

/// One that is under way, as long as this is held.
pub(super) struct PendingHandshake {
    ingress: Arc<Ingress>,
    number: u64,
    ends: oneshot::Receiver<()>,
    /// Its socket gets the place of one that was ended for it.
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

    /// Ends the oldest one, if it has had its time. If not, how long it has still; none if there is no
    /// other.
    fn end_oldest(&self) -> Result<(), Option<Duration>> {
        let mut under_way = self.under_way.lock();
        let Some(oldest) = under_way.all.first_entry() else {
            return Err(None);
        };
        let left = HONEST.saturating_sub(oldest.get().0.elapsed());
        match left.is_zero() {
            true => {
                let (_, ends) = oldest.remove();
                // It may just have ended by itself.
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
                // Ends early when one has ended.
                let _ = timeout(left, self.ended.notified()).await;
            }
        }
    }
}

impl PendingHandshake {
    /// Begins one, in the place of the oldest where there is none for its socket.
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

    /// Resolves when it has to make room.
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

//! Limits how many unresolved remote ids each connection may look up at a time.
//!
//! NATS reports within a round trip that an id has no responders. Until then the id takes memory at this
//! broker, so a connection at its limit stops reading.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    task::Waker,
};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

/// Limit of concurrent lookups for each connection.
const MAX_LOOKUPS: usize = 1024;
/// Lookups of all connections together from which on (or while memory is short) each connection has the lower
/// limit.
const CROWDED: usize = 8 << 10;
const MIN_LOOKUPS: usize = 4;

/// All open lookups.
#[derive(Debug, Default)]
pub(super) struct LookupLimits {
    open: Mutex<OpenLookups>,
}

#[derive(Debug, Default)]
struct OpenLookups {
    total: usize,
    /// The connections with open lookups, by their keys.
    senders: HashMap<u64, Sender, RandomState>,
}

#[derive(Debug, Default)]
struct Sender {
    count: usize,
    /// The connection's waker, while it is paused at its limit.
    waker: Option<Waker>,
}

/// An open lookup. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Lookup {
    lookups: Arc<LookupLimits>,
    key: u64,
}

impl LookupLimits {
    /// Opens a lookup for the connection with this key. None if the connection is at its limit: its waker is
    /// called once it is at half of it.
    pub(super) fn open(
        self: &Arc<Self>,
        key: u64,
        is_short: bool,
        waker: &Waker,
    ) -> Option<Lookup> {
        let mut open = self.open.lock();
        let limit = match is_short || open.total >= CROWDED {
            true => MIN_LOOKUPS,
            false => MAX_LOOKUPS,
        };
        let sender = open.senders.entry(key).or_default();
        if sender.count >= limit {
            sender.waker = Some(waker.clone());
            return None;
        }
        sender.count += 1;
        open.total += 1;
        Some(Lookup {
            lookups: self.clone(),
            key,
        })
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        let woken = {
            let mut open = self.lookups.open.lock();
            open.total -= 1;
            let is_crowded = open.total >= CROWDED;
            let Entry::Occupied(mut entry) = open.senders.entry(self.key) else {
                return;
            };
            let sender = entry.get_mut();
            sender.count -= 1;
            // The limits may change in between: a connection woken too early pauses again.
            let resume_at = match is_crowded {
                true => MIN_LOOKUPS / 2,
                false => MAX_LOOKUPS / 2,
            };
            let woken = (sender.count <= resume_at)
                .then(|| sender.waker.take())
                .flatten();
            if sender.count == 0 {
                entry.remove();
            }
            woken
        };
        if let Some(waker) = woken {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_connection_pauses_at_its_limit_of_lookups_and_is_woken_at_half_of_it() {
        let lookups = Arc::<LookupLimits>::default();
        let woken = Arc::<Woken>::default();
        let waker = woken.clone().into();
        let mut open: Vec<_> = std::iter::from_fn(|| lookups.open(1, false, &waker)).collect();
        assert_eq!(open.len(), MAX_LOOKUPS);
        // Connections have separate limits.
        drop(lookups.open(2, false, &waker).expect("its own"));
        open.truncate(MAX_LOOKUPS / 2 + 1);
        assert_eq!(woken.0.load(SeqCst), 0);
        open.pop();
        assert_eq!(woken.0.load(SeqCst), 1);
        assert!(lookups.open(1, true, &waker).is_none());
        drop(open);
        assert_eq!(woken.0.load(SeqCst), 2);
        assert!(lookups.open.lock().senders.is_empty());
    }

    #[test]
    fn with_many_open_lookups_each_connection_has_the_lower_limit() {
        let lookups = Arc::<LookupLimits>::default();
        let waker = Arc::<Woken>::default().into();
        let mut open = Vec::new();
        for key in 0.. {
            let before = open.len();
            open.extend(std::iter::from_fn(|| lookups.open(key, false, &waker)));
            if open.len() - before == MIN_LOOKUPS {
                break;
            }
        }
        assert_eq!(open.len(), CROWDED + MIN_LOOKUPS);
    }
}

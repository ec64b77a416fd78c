//! The connections that were closed last, for the dashboard.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::SystemTime,
};

use parking_lot::Mutex;

use crate::{
    event::{ConnectionInfo, Traffic},
    metrics::CloseReason,
};

/// Number of connections that are kept.
const MAX: usize = 200;
/// Bytes of an id that are kept.
const MAX_ID: usize = 128;

/// A connection that has ended.
#[derive(Debug, Clone)]
pub(crate) struct Closed {
    pub(crate) at: SystemTime,
    /// Unique among all connections of the broker.
    pub(crate) key: u64,
    /// The beginning of the id that it had.
    pub(crate) id: Option<Box<str>>,
    pub(crate) info: ConnectionInfo,
    pub(crate) reason: CloseReason,
    pub(crate) code: Option<u16>,
    pub(crate) traffic: Traffic,
}

/// The connections that were closed last. Nothing is kept until `enable` is called.
#[derive(Debug, Default)]
pub(crate) struct RecentlyClosed {
    is_enabled: AtomicBool,
    closed: Mutex<VecDeque<Closed>>,
}

impl RecentlyClosed {
    pub(crate) fn enable(&self) {
        self.is_enabled.store(true, Relaxed);
    }

    /// Adds a connection that has ended.
    pub(crate) fn add(
        &self,
        key: u64,
        id: Option<&str>,
        info: ConnectionInfo,
        (reason, code): (CloseReason, Option<u16>),
        traffic: Traffic,
    ) {
        if !self.is_enabled.load(Relaxed) {
            return;
        }
        let closed = Closed {
            at: SystemTime::now(),
            key,
            id: id.map(|id| shortened(id).into()),
            info,
            reason,
            code,
            traffic,
        };
        let mut all = self.closed.lock();
        if all.len() == MAX {
            all.pop_front();
        }
        all.push_back(closed);
    }

    /// The connections, the latest first.
    pub(crate) fn newest_first(&self) -> Vec<Closed> {
        self.closed.lock().iter().rev().cloned().collect()
    }
}

/// The id, or its beginning and an ellipsis if it is long.
fn shortened(id: &str) -> String {
    const ELLIPSIS: &str = "…";
    if id.len() <= MAX_ID {
        return id.to_owned();
    }
    let mut end = MAX_ID - ELLIPSIS.len();
    while !id.is_char_boundary(end) {
        end -= 1;
    }
    [&id[..end], ELLIPSIS].concat()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn add(recent: &RecentlyClosed, id: &str) {
        let traffic = Traffic {
            open: Duration::ZERO,
            messages: 0,
            bytes_received: 0,
            bytes_sent: 0,
        };
        let end = (CloseReason::Client, None);
        recent.add(1, Some(id), ConnectionInfo::default(), end, traffic);
    }

    #[test]
    fn the_latest_are_kept_with_the_beginning_of_their_ids() {
        let recent = RecentlyClosed::default();
        add(&recent, "before");
        assert!(recent.newest_first().is_empty());
        recent.enable();
        for number in 0..300 {
            add(&recent, &number.to_string());
        }
        add(&recent, &"é".repeat(1000));
        let closed = recent.newest_first();
        assert_eq!(closed.len(), MAX);
        let id = closed[0].id.as_deref().unwrap();
        assert!(id.len() <= MAX_ID && id.ends_with("é…"), "{id}");
        assert_eq!(closed[1].id.as_deref(), Some("299"));
    }
}

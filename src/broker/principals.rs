//! Principals whose connections were all ended: registrations of theirs that were under way end, too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::handle::Close;

/// A point in the order of the calls that end principals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// The principals whose connections were all ended, for as long as a registration that was under way
/// then may take.
#[derive(Debug, Default)]
pub(crate) struct EndedPrincipals {
    count: AtomicU64,
    recent: Mutex<Vec<EndedPrincipal>>,
}

#[derive(Debug)]
struct EndedPrincipal {
    principal: Arc<str>,
    close: Close,
    moment: Moment,
    until: Instant,
}

impl EndedPrincipals {
    /// The moment of a registration that begins now.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.count.load(SeqCst))
    }

    pub(crate) fn add(&self, principal: &Arc<str>, close: &Close, under_way: Duration) {
        let now = Instant::now();
        let mut recent = self.recent.lock();
        recent.retain(|one| one.until > now && one.principal != *principal);
        recent.push(EndedPrincipal {
            principal: principal.clone(),
            close: close.clone(),
            moment: Moment(self.count.fetch_add(1, SeqCst)),
            until: now + under_way,
        });
    }

    /// How a registration that began at that moment is to end, if its principal was ended since.
    pub(crate) fn find(&self, principal: &str, since: Moment) -> Option<Close> {
        if self.now() == since {
            return None;
        }
        let recent = self.recent.lock();
        let found = recent
            .iter()
            .find(|one| *one.principal == *principal && one.moment >= since);
        found.map(|one| one.close.clone())
    }
}

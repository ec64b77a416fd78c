//! Recently closed principals: registrations of theirs that were in progress are closed as well.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::handle::Close;

/// Position in the sequence of calls to [`EndedPrincipals::add`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// Principals whose connections were all closed, kept for as long as a registration in progress may take.
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
    /// Start of a registration.
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

    /// Close reason for a registration that began at `since`, if its principal was closed after that.
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

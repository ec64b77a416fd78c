//! A limit of the replays that read from logs at the same time. Others wait, and take turns.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    task::Waker,
};

use crate::sync::Mutex;

/// Maximum number of replays that read at the same time.
const MAX_READING: usize = if cfg!(test) { 2 } else { 256 };

/// The replays that read, and the connections that wait for that.
#[derive(Debug, Default)]
pub(crate) struct Permits {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of permits that are given or granted.
    taken: usize,
    waiting: VecDeque<(u64, Waker)>,
    /// Connections that were woken because they have a permit.
    granted: HashSet<u64>,
}

/// The right to read. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Permits>);

impl Permits {
    /// A permit for the connection with this key. None if there are none left: the waker is called when it has one.
    pub(crate) fn take(self: &Arc<Self>, key: u64, waker: &Waker) -> Option<Permit> {
        let state = &mut *self.state.lock();
        if !state.granted.remove(&key) {
            if state.taken >= MAX_READING {
                match state.waiting.iter_mut().find(|(other, _)| *other == key) {
                    Some((_, known)) => known.clone_from(waker),
                    None => state.waiting.push_back((key, waker.clone())),
                }
                return None;
            }
            state.taken += 1;
        }
        Some(Permit(self.clone()))
    }

    /// Ends the wait of a connection.
    pub(crate) fn forget(&self, key: u64) {
        let state = &mut *self.state.lock();
        state.waiting.retain(|(other, _)| *other != key);
        if state.granted.remove(&key) {
            state.give_back();
        }
    }

    /// Numbers of permits that are taken, and of connections that wait.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.taken, state.waiting.len())
    }
}

impl State {
    fn give_back(&mut self) {
        match self.waiting.pop_front() {
            Some((key, waker)) => {
                self.granted.insert(key);
                waker.wake();
            }
            None => self.taken -= 1,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.state.lock().give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_wait_get_permits_in_their_order() {
        let permits = Arc::<Permits>::default();
        let take = |key| permits.take(key, Waker::noop());
        let (one, two) = (take(1), take(2));
        assert!(one.is_some() && two.is_some());
        assert!(take(3).is_none() && take(4).is_none() && take(3).is_none());
        assert_eq!(permits.counts(), (2, 2));
        drop(one);
        assert!(take(4).is_none() && take(5).is_none());
        let three = take(3);
        assert!(three.is_some());
        drop((two, three));
        assert_eq!(permits.counts(), (2, 0));
        permits.forget(4);
        assert!(take(6).is_some() && take(5).is_some());
        assert_eq!(permits.counts(), (0, 0));
    }
}

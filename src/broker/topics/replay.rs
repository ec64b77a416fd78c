//! Subscriptions that get kept messages from the log of their rule, until they have caught up with it.
//!
//! Such a subscription is held: publishers do not send it the messages that they append. The task of the connection reads
//! them from the log, at its own pace. Under the lock of the rule, when no message is left, it becomes an ordinary
//! subscription. A subscription also becomes held when it has no room for a message of its rule.
//!
//! Subscriptions of a connection whose patterns overlap are held together, and share a replay. So each of them gets its
//! messages in the order of their offsets, also those that match several.

use std::{
    mem,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{Topics, subscriber::SubscriberState};
use crate::{
    broker::{
        handle::Handle,
        kept::{KeptTopics, Rule},
    },
    error::ActionError,
    memory::Memory,
    options::ServerOptions,
    protocol::Slow,
    topic,
};

/// Bytes charged for a part of a replay.
const PART: usize = 128;

/// How a subscription gets kept messages.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Kept {
    /// From the log.
    pub(super) is_held: bool,
    /// From the log when it has no room for them.
    pub(super) recovers: bool,
}

/// The kept messages with which a subscription begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beginning {
    /// The offset behind which they are.
    pub(crate) from: u64,
    /// The connection knows that messages up to this offset may have been trimmed.
    pub(crate) told: u64,
}

/// One or several subscriptions that get messages from a log.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    pub(crate) rule: Arc<Rule>,
    pub(crate) parts: Vec<Part>,
    /// Distinguishes it from others of the same connection.
    number: u64,
}

/// A subscription of a replay.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) pattern: Arc<str>,
    /// All messages up to this offset have been sent.
    pub(crate) position: u64,
    /// The connection knows that messages up to this offset may have been trimmed.
    pub(crate) told: u64,
}

impl Replay {
    fn has(&self, pattern: &str) -> bool {
        self.parts.iter().any(|part| *part.pattern == *pattern)
    }
}

impl SubscriberState {
    fn replays(&mut self) -> &mut [Replay] {
        self.replays
            .as_deref_mut()
            .map_or(&mut [], Vec::as_mut_slice)
    }

    /// Removes the subscription to a pattern from its replay.
    pub(super) fn remove_replay(&mut self, pattern: &str) {
        let Some(replays) = &mut self.replays else {
            return;
        };
        let mut removed = 0;
        for replay in replays.iter_mut() {
            let before = replay.parts.len();
            replay.parts.retain(|part| *part.pattern != *pattern);
            removed += before - replay.parts.len();
        }
        replays.retain(|replay| !replay.parts.is_empty());
        self.drop_list();
        self.shrink(removed * PART);
    }

    fn drop_list(&mut self) {
        if self.replays().is_empty() {
            self.replays = None;
        }
    }
}

impl Topics {
    /// Subscribes a connection to a pattern of one rule, or changes its subscription. `recovers`: it gets messages from
    /// the log when it has no room for them. The lock of the rule must be held.
    ///
    /// Errors: as [`subscribe`](Self::subscribe).
    pub(crate) fn subscribe_kept(
        &self,
        handle: &Arc<Handle>,
        pattern: &str,
        (slow, recovers): (Slow, bool),
        (kept, rule): (&KeptTopics, &Arc<Rule>),
        start: Option<Beginning>,
        limits: (&ServerOptions, &Arc<Memory>),
    ) -> Result<(), ActionError> {
        let state = &mut *handle.subscriber.lock();
        let replays = state.as_mut().map_or(&mut [][..], |state| state.replays());
        let is_replayed = replays.iter().any(|replay| replay.has(pattern));
        let overlaps = |part: &Part| topic::intersects(&part.pattern, pattern);
        let joins = replays
            .iter()
            .any(|replay| replay.parts.iter().any(overlaps));
        let how = Kept {
            is_held: is_replayed,
            recovers,
        };
        self.add((handle, state), pattern, (slow, how), limits, || {})?;
        let start = match start {
            None if joins && !is_replayed => {
                let last = rule.log.last();
                Some(Beginning {
                    from: last,
                    told: last,
                })
            }
            start => start,
        };
        if let (Some(start), Some(state)) = (start, state) {
            self.begin_replay(
                (handle, state),
                pattern.into(),
                (kept, rule),
                start,
                rule.log.last(),
            );
        }
        Ok(())
    }

    /// Begins a replay of the subscription to a pattern, together with those that overlap it, which have got all messages
    /// up to `last`.
    fn begin_replay(
        &self,
        (handle, state): (&Arc<Handle>, &mut SubscriberState),
        pattern: Arc<str>,
        (kept, rule): (&KeptTopics, &Arc<Rule>),
        start: Beginning,
        last: u64,
    ) {
        let of_rule = |pattern: &str| {
            kept.rule_of_pattern(pattern)
                .is_some_and(|one| Arc::ptr_eq(one, rule))
        };
        let mut parts = vec![Part {
            pattern,
            position: start.from,
            told: start.told,
        }];
        let mut checked = 0;
        while checked < parts.len() {
            let one = parts[checked].pattern.clone();
            checked += 1;
            for other in state.patterns() {
                let is_new = |part: &Part| part.pattern != *other;
                if topic::intersects(&one, other) && parts.iter().all(is_new) && of_rule(other) {
                    parts.push(Part {
                        pattern: other.clone(),
                        position: last,
                        told: last,
                    });
                }
            }
        }
        // Those that are in a replay already go on where it is.
        let mut former = mem::take(&mut state.replays).map_or_else(Vec::new, |list| *list);
        let overlaps = |replay: &mut Replay| parts.iter().any(|part| replay.has(&part.pattern));
        let merged: Vec<_> = former.extract_if(.., overlaps).collect();
        let before: usize = merged.iter().map(|replay| replay.parts.len()).sum();
        for known in merged.into_iter().flat_map(|replay| replay.parts) {
            let place = parts.iter().position(|part| part.pattern == known.pattern);
            match place {
                // It begins anew.
                Some(0) => {}
                Some(place) => parts[place] = known,
                None => parts.push(known),
            }
        }
        for part in &parts {
            self.hold(handle, &part.pattern, true);
        }
        state.shrink(before * PART);
        state.grow(parts.len() * PART);
        former.push(Replay {
            rule: rule.clone(),
            parts,
            number: kept.replays.fetch_add(1, Relaxed) + 1,
        });
        state.replays = Some(Box::new(former));
        handle.set_has_replays(true);
    }

    /// Makes a subscription get the messages behind an offset from the log, because it has no room for the next one, which
    /// is of this topic. The lock of the rule must be held. False if none of its subscriptions of the rule recovers.
    pub(crate) fn fall_behind(
        &self,
        handle: &Arc<Handle>,
        topic: &str,
        (kept, rule): (&KeptTopics, &Arc<Rule>),
        offset: u64,
    ) -> bool {
        let state = &mut *handle.subscriber.lock();
        let Some(state) = state else {
            return false;
        };
        let recovers = |pattern: &&Arc<str>| {
            let hasher = &self.hasher;
            topic::covers(pattern, topic)
                && (self.with(pattern, |each| each.recovers(hasher, handle))) == Some(true)
        };
        let Some(pattern) = state.patterns().find(recovers).cloned() else {
            return false;
        };
        let start = Beginning {
            from: offset,
            told: offset,
        };
        self.begin_replay((handle, state), pattern, (kept, rule), start, offset);
        handle.waker.wake();
        true
    }

    fn hold(&self, handle: &Arc<Handle>, pattern: &Arc<str>, is_held: bool) {
        // Without a limit nothing fails.
        let _ = self.change(pattern, usize::MAX, |subscribers, hasher| {
            subscribers.hold(hasher, handle, is_held);
        });
    }

    /// A replay of the connection; each in turn. None if it has none.
    pub(crate) fn next_replay(handle: &Handle) -> Option<Replay> {
        let mut state = handle.subscriber.lock();
        let replays = state.as_mut().map_or(&mut [][..], |state| state.replays());
        if replays.is_empty() {
            handle.set_has_replays(false);
            return None;
        }
        replays.rotate_left(1);
        replays.last().cloned()
    }

    /// Sets the position of a replay: messages up to it are about to be sent. `told`: for each part, the offset up to which
    /// the connection knows of trimmed messages. False if the replay has ended, or has changed.
    pub(crate) fn advance(handle: &Handle, replay: &Replay, position: u64, told: &[u64]) -> bool {
        let mut state = handle.subscriber.lock();
        let replays = state.as_mut().map_or(&mut [][..], |state| state.replays());
        let known = (replays.iter_mut()).find(|known| known.number == replay.number);
        let known = known.filter(|known| known.parts.len() == replay.parts.len());
        let Some(known) = known else {
            return false;
        };
        for (part, told) in known.parts.iter_mut().zip(told) {
            part.position = part.position.max(position);
            part.told = part.told.max(*told);
        }
        true
    }

    /// Ends a replay: from now on its subscriptions get messages from publishers. The lock of the rule must be held.
    pub(crate) fn end_replay(&self, handle: &Arc<Handle>, replay: &Replay) {
        let mut state = handle.subscriber.lock();
        let Some(state) = &mut *state else {
            return;
        };
        let Some(replays) = &mut state.replays else {
            return;
        };
        let Some(place) = replays
            .iter()
            .position(|known| known.number == replay.number)
        else {
            return;
        };
        let ended = replays.swap_remove(place);
        state.drop_list();
        state.shrink(ended.parts.len() * PART);
        for part in &ended.parts {
            self.hold(handle, &part.pattern, false);
        }
    }
}

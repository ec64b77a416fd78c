//! The subscriptions of one connection, and the messages it has lost because it is slow.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use foldhash::quality::RandomState;

use super::{Subscriber, Topics};
use crate::{
    broker::handle::Handle,
    error::ActionError,
    memory::{Charge, Memory},
    options::ServerOptions,
    protocol::{self, Slow, version_2},
    topic,
};

/// Bytes charged for a subscription, besides its pattern: its entries in two tables.
const SUBSCRIPTION: usize = 64;
/// Bytes charged for each token of a pattern with wildcards.
const TOKEN: usize = 160;
/// Bytes charged for a topic of which messages were lost.
const LOSS: usize = 128;
/// Maximum number of topics with a `gap` of their own; the losses of others are in one together.
const MAX_LOSSES: usize = 256;

/// The subscriptions of a connection. Boxed in its handle: most connections have none.
#[derive(Debug)]
pub(crate) struct SubscriberState {
    patterns: HashSet<Arc<str>, RandomState>,
    losses: HashMap<Arc<str>, Loss, RandomState>,
    /// Bytes of the messages in `losses`.
    latest: usize,
    charge: Charge,
}

/// Messages of a topic that a slow subscriber did not get.
#[derive(Debug, Default)]
struct Loss {
    count: u64,
    /// The newest message, as an encoded frame, if the subscriber wants it.
    latest: Option<Bytes>,
}

impl SubscriberState {
    pub(super) fn new(memory: &Arc<Memory>) -> Box<Self> {
        Box::new(Self {
            patterns: HashSet::default(),
            losses: HashMap::default(),
            latest: 0,
            charge: Charge::new(memory, size_of::<Self>()),
        })
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        self.charge.bytes()
    }

    /// Number of lost messages of which it has not been informed.
    #[cfg(all(test, feature = "shuttle"))]
    pub(crate) fn untold(&self) -> u64 {
        self.losses.values().map(|loss| loss.count).sum()
    }

    fn grow(&mut self, bytes: usize) {
        self.charge.set(self.charge.bytes() + bytes);
    }

    fn shrink(&mut self, bytes: usize) {
        self.charge.set(self.charge.bytes() - bytes);
    }

    /// Records messages of a topic that were not sent to it. `latest`: the newest of them, if it is to be sent later.
    pub(super) fn lose(&mut self, topic: &str, count: u64, latest: Option<Bytes>, room: usize) {
        let is_known = self.losses.contains_key(topic);
        let (topic, latest) = match is_known || self.losses.len() < MAX_LOSSES {
            true => (topic, latest),
            false => (topic::REST, None),
        };
        if !self.losses.contains_key(topic) {
            self.grow(LOSS + topic.len());
            self.losses.insert(topic.into(), Loss::default());
        }
        let before = self.latest;
        let Some(loss) = self.losses.get_mut(topic) else {
            return;
        };
        loss.count += count;
        let former = match latest {
            Some(latest) if self.latest + latest.len() <= room => {
                self.latest += latest.len();
                loss.count -= 1;
                loss.latest.replace(latest)
            }
            Some(_) => loss.latest.take(),
            None => None,
        };
        if let Some(former) = former {
            self.latest -= former.len();
            loss.count += 1;
        }
        self.charge.set(self.charge.bytes() + self.latest - before);
    }

    /// Tells the connection what it has lost, and sends the newest messages that it wanted.
    pub(super) fn tell(&mut self, handle: &Handle) {
        for (topic, Loss { count, latest }) in std::mem::take(&mut self.losses) {
            self.shrink(LOSS + topic.len());
            if count > 0 {
                let (topic, lost) = (protocol::json_string(&topic), count.to_string());
                let _ = handle.outbox.push(&version_2::gap(&topic, &lost));
            }
            if let Some(latest) = latest {
                let _ = handle.outbox.push_shared(&latest);
            }
        }
        let latest = std::mem::take(&mut self.latest);
        self.shrink(latest);
    }
}

/// Bytes charged for a subscription to this pattern.
fn size_of_pattern(pattern: &str) -> usize {
    let tokens = match topic::has_wildcards(pattern) {
        true => pattern.split('.').count(),
        false => 0,
    };
    SUBSCRIPTION + pattern.len() + tokens * TOKEN
}

impl Topics {
    /// Subscribes a connection to a pattern, or changes its subscription.
    ///
    /// Errors: `NotRegistered` if it does not own an id; `TooManySubscriptions`, `TooManyPatterns`.
    pub(crate) fn subscribe(
        &self,
        handle: &Arc<Handle>,
        pattern: &str,
        slow: Slow,
        (options, memory): (&ServerOptions, &Arc<Memory>),
    ) -> Result<(), ActionError> {
        let mut state = handle.subscriber.lock();
        // Under the lock, which `leave` takes after the connection has lost its id.
        if !handle.owns_its_id() {
            return Err(ActionError::NotRegistered);
        }
        let state = state.get_or_insert_with(|| SubscriberState::new(memory));
        let known = state.patterns.get(pattern).cloned();
        let is_new = known.is_none();
        let count = state.patterns.len();
        if is_new && count >= options.max_subscriptions {
            return Err(ActionError::TooManySubscriptions(count));
        }
        let pattern = known.unwrap_or_else(|| self.name_of(pattern));
        let subscriber = Subscriber {
            handle: handle.clone(),
            slow,
        };
        self.add(&pattern, subscriber, is_new, options.max_patterns)?;
        if is_new {
            state.grow(size_of_pattern(&pattern));
            state.patterns.insert(pattern);
        }
        Ok(())
    }

    /// Ends a subscription; false if there was none.
    pub(crate) fn unsubscribe(&self, handle: &Arc<Handle>, pattern: &str) -> bool {
        let mut state = handle.subscriber.lock();
        let Some(state) = &mut *state else {
            return false;
        };
        let Some(pattern) = state.patterns.take(pattern) else {
            return false;
        };
        state.shrink(size_of_pattern(&pattern));
        self.remove(&pattern, handle);
        true
    }

    /// Ends the subscriptions of a connection that has lost or given up its id.
    pub(crate) fn leave(&self, handle: &Arc<Handle>) {
        let state = handle.subscriber.lock().take();
        for pattern in state.iter().flat_map(|state| &state.patterns) {
            self.remove(pattern, handle);
        }
        handle.set_has_losses(false);
    }

    /// Ends the subscriptions of a connection that `allows` refuses, and returns their patterns.
    pub(crate) fn retain(
        &self,
        handle: &Arc<Handle>,
        allows: impl Fn(&str) -> bool,
    ) -> Vec<Arc<str>> {
        let mut state = handle.subscriber.lock();
        let Some(state) = &mut *state else {
            return Vec::new();
        };
        let refused: Vec<_> = (state.patterns)
            .extract_if(|pattern| !allows(pattern))
            .collect();
        for pattern in &refused {
            state.shrink(size_of_pattern(pattern));
            self.remove(pattern, handle);
        }
        refused
    }
}

//! The subscriptions of one connection, and the messages it has lost because it is slow.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use foldhash::quality::RandomState;

use super::{
    Subscriber, Topics,
    groups::{Assignment, Group, Job},
    replay::{Kept, Replay},
};
use crate::{
    broker::{handle::Handle, mailboxes::mailbox::Mailbox, presence::Participation},
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
/// Bytes charged for a subscription that needs no grant, in addition.
const EXEMPT: usize = 64;
/// Bytes charged for a topic of which messages were lost.
const LOSS: usize = 128;
/// Maximum number of topics with a `gap` of their own; the losses of others are in one together.
const MAX_LOSSES: usize = 256;

/// The subscriptions of a connection. Boxed in its handle: most connections have none.
#[derive(Debug)]
pub(crate) struct SubscriberState {
    patterns: HashSet<Arc<str>, RandomState>,
    /// The groups of which it is a member.
    groups: Vec<Arc<Group>>,
    /// The mailboxes whose messages it gets.
    pub(crate) mailboxes: Vec<Arc<Mailbox>>,
    /// Presence: the topics of which its id is a member, and what it watches.
    pub(crate) participation: Participation,
    /// Those of its subscriptions that need no grant.
    exempt: HashSet<Key, RandomState>,
    losses: HashMap<Arc<str>, Loss, RandomState>,
    /// Bytes of the messages in `losses`.
    latest: usize,
    /// Its subscriptions that get messages from a log. Boxed: most connections have none.
    #[allow(clippy::box_collection)]
    pub(super) replays: Option<Box<Vec<Replay>>>,
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
    pub(crate) fn new(memory: &Arc<Memory>) -> Box<Self> {
        Box::new(Self {
            patterns: HashSet::default(),
            groups: Vec::new(),
            mailboxes: Vec::new(),
            participation: Participation::default(),
            exempt: HashSet::default(),
            losses: HashMap::default(),
            latest: 0,
            replays: None,
            charge: Charge::new(memory, size_of::<Self>()),
        })
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        self.charge.bytes() + self.participation.memory()
    }

    /// Number of subscriptions, and of subjects that it watches.
    pub(crate) fn count(&self) -> usize {
        let mailboxes = self.mailboxes.len();
        self.patterns.len() + self.groups.len() + mailboxes + self.participation.watched()
    }

    /// Adds a mailbox. `bytes`: memory that it takes.
    pub(crate) fn add_mailbox(&mut self, mailbox: Arc<Mailbox>, bytes: usize) {
        self.grow(bytes);
        self.mailboxes.push(mailbox);
    }

    /// Removes a mailbox, if it has it.
    pub(crate) fn remove_mailbox(&mut self, name: &str, bytes: usize) -> Option<Arc<Mailbox>> {
        let mut mailboxes = self.mailboxes.iter();
        let place = mailboxes.position(|one| *one.name == *name)?;
        self.shrink(bytes);
        Some(self.mailboxes.swap_remove(place))
    }

    /// A pattern that it subscribes to, to share it.
    pub(crate) fn name_of(&self, pattern: &str) -> Option<Arc<str>> {
        self.patterns.get(pattern).cloned()
    }

    fn group(&self, pattern: &str, name: &str) -> Option<Arc<Group>> {
        let mut groups = self.groups.iter();
        let is_it = |group: &&Arc<Group>| *group.pattern == *pattern && *group.name == *name;
        groups.find(is_it).cloned()
    }

    /// Number of lost messages of which it has not been informed.
    #[cfg(all(test, feature = "shuttle"))]
    pub(crate) fn untold(&self) -> u64 {
        self.losses.values().map(|loss| loss.count).sum()
    }

    pub(super) fn grow(&mut self, bytes: usize) {
        self.charge.set(self.charge.bytes() + bytes);
    }

    pub(super) fn shrink(&mut self, bytes: usize) {
        self.charge.set(self.charge.bytes() - bytes);
    }

    /// Records that a subscription needs no grant.
    fn set_exempt(&mut self, key: Key) {
        let bytes = EXEMPT + key.0.len();
        if self.exempt.insert(key) {
            self.grow(bytes);
        }
    }

    /// The patterns of its subscriptions without a group.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &Arc<str>> {
        self.patterns.iter()
    }

    /// Releases the memory of a subscription that has ended.
    fn forget(&mut self, key: &Key) {
        if key.1.is_none() {
            self.remove_replay(&key.0);
        }
        self.shrink(size_of_pattern(&key.0));
        if self.exempt.remove(key) {
            self.shrink(EXEMPT + key.0.len());
        }
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

/// The pattern of a subscription, and the name of its group.
pub(crate) type Key = (Arc<str>, Option<Arc<str>>);

/// Messages that wait in groups without members.
pub(crate) type Orphans = Vec<(Arc<Group>, Job)>;

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
        let state = &mut *handle.subscriber.lock();
        self.add(
            (handle, state),
            pattern,
            (slow, Kept::default()),
            (options, memory),
            || {},
        )
    }

    /// Subscribes a connection to a pattern on behalf of the embedder, and sends it `subscribed` before any message.
    /// Nothing is sent, and `slow` stays, if it subscribes already.
    ///
    /// Errors: as [`subscribe`](Self::subscribe).
    pub(crate) fn subscribe_unasked(
        &self,
        handle: &Arc<Handle>,
        pattern: &str,
        limits: (&ServerOptions, &Arc<Memory>),
    ) -> Result<(), ActionError> {
        let mut state = handle.subscriber.lock();
        let has = |state: &SubscriberState| state.patterns.contains(pattern);
        if !state.as_deref().is_some_and(has) {
            self.add(
                (handle, &mut state),
                pattern,
                (Slow::Drop, Kept::default()),
                limits,
                || {
                    let text = protocol::json_string(pattern);
                    let _ = handle.outbox.push(&version_2::subscribed(&text, None, ""));
                },
            )?;
        }
        if let Some(state) = &mut *state {
            state.set_exempt((pattern.into(), None));
        }
        Ok(())
    }

    /// Adds or changes a subscription. `announce` is called before the connection gets messages of it.
    pub(super) fn add(
        &self,
        (handle, state): (&Arc<Handle>, &mut Option<Box<SubscriberState>>),
        pattern: &str,
        (slow, kept): (Slow, Kept),
        (options, memory): (&ServerOptions, &Arc<Memory>),
        announce: impl FnOnce(),
    ) -> Result<(), ActionError> {
        // Under the lock of the state, which `leave` takes after the connection has lost its id.
        if !handle.owns_its_id() {
            return Err(ActionError::NotRegistered);
        }
        let state = state.get_or_insert_with(|| SubscriberState::new(memory));
        let known = state.patterns.get(pattern).cloned();
        let is_new = known.is_none();
        let count = state.count();
        if is_new && count >= options.max_subscriptions {
            return Err(ActionError::TooManySubscriptions(count));
        }
        let pattern = known.unwrap_or_else(|| self.name_of(pattern));
        let subscriber = Subscriber {
            handle: handle.clone(),
            slow,
            is_held: kept.is_held,
            recovers: kept.recovers,
        };
        self.change(&pattern, options.max_patterns, |subscribers, hasher| {
            subscribers.set(hasher, subscriber);
            announce();
        })?;
        if is_new {
            self.count.fetch_add(1, Relaxed);
            state.grow(size_of_pattern(&pattern));
            state.patterns.insert(pattern);
        }
        Ok(())
    }

    /// Makes a connection a member of a group, or changes its window. Returns the group, and messages that waited for
    /// a member.
    ///
    /// Errors: as [`subscribe`](Self::subscribe).
    pub(crate) fn join(
        &self,
        handle: &Arc<Handle>,
        pattern: &str,
        (name, window): (&str, u32),
        (options, memory): (&ServerOptions, &Arc<Memory>),
    ) -> Result<(Arc<Group>, Vec<Assignment>), ActionError> {
        let mut state = handle.subscriber.lock();
        if !handle.owns_its_id() {
            return Err(ActionError::NotRegistered);
        }
        let state = state.get_or_insert_with(|| SubscriberState::new(memory));
        let is_new = state.group(pattern, name).is_none();
        let count = state.count();
        if is_new && count >= options.max_subscriptions {
            return Err(ActionError::TooManySubscriptions(count));
        }
        let pattern = self.name_of(pattern);
        let mut assigned = Vec::new();
        let group = self.change(&pattern, options.max_patterns, |subscribers, _| {
            let group = subscribers.group(&pattern, name);
            group.set(handle, window, &mut assigned);
            group
        })?;
        if is_new {
            self.count.fetch_add(1, Relaxed);
            state.grow(size_of_pattern(&pattern));
            state.groups.push(group.clone());
        }
        Ok((group, assigned))
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
        let key = (pattern, None);
        state.forget(&key);
        self.remove(&key.0, handle);
        true
    }

    fn remove(&self, pattern: &Arc<str>, handle: &Arc<Handle>) {
        // Without a limit nothing fails.
        let _ = self.change(pattern, usize::MAX, |subscribers, hasher| {
            subscribers.remove(hasher, handle);
        });
        self.count.fetch_sub(1, Relaxed);
    }

    /// Ends the membership of a connection in a group, if it is a member. Returns the messages that wait if it was the
    /// last one.
    pub(crate) fn leave_group(&self, handle: &Arc<Handle>, pattern: &str, name: &str) -> Orphans {
        let mut state = handle.subscriber.lock();
        let Some(state) = &mut *state else {
            return Vec::new();
        };
        let is_it = |group: &Arc<Group>| *group.pattern == *pattern && *group.name == *name;
        let Some(place) = state.groups.iter().position(is_it) else {
            return Vec::new();
        };
        let group = state.groups.swap_remove(place);
        state.forget(&(group.pattern.clone(), Some(group.name.clone())));
        self.remove_member(&group, handle)
    }

    fn remove_member(&self, group: &Arc<Group>, handle: &Arc<Handle>) -> Orphans {
        let jobs = self.change(&group.pattern, usize::MAX, |subscribers, _| {
            let jobs = group.remove(handle);
            if group.is_empty() {
                subscribers.groups.retain(|one| !Arc::ptr_eq(one, group));
            }
            jobs
        });
        self.count.fetch_sub(1, Relaxed);
        let jobs = jobs.unwrap_or_default().into_iter();
        jobs.map(|job| (group.clone(), job)).collect()
    }

    /// True if a connection has this subscription, and needs no grant for it.
    pub(crate) fn is_exempt(handle: &Handle, pattern: &str, group: Option<&str>) -> bool {
        let state = handle.subscriber.lock();
        let is_known = |state: &SubscriberState| {
            !state.exempt.is_empty()
                && (state.exempt).contains(&(pattern.into(), group.map(Into::into)))
        };
        state.as_deref().is_some_and(is_known)
    }

    /// Makes a subscription of a connection one that needs no grant, if it has it.
    pub(crate) fn set_exempt(handle: &Handle, pattern: &str, group: Option<&str>) {
        if let Some(state) = &mut *handle.subscriber.lock() {
            let has = match group {
                None => state.patterns.contains(pattern),
                Some(name) => state.group(pattern, name).is_some(),
            };
            if has {
                state.set_exempt((pattern.into(), group.map(Into::into)));
            }
        }
    }

    /// The group of a connection with this pattern and name.
    pub(crate) fn group_of(handle: &Handle, pattern: &str, name: &str) -> Option<Arc<Group>> {
        handle.subscriber.lock().as_ref()?.group(pattern, name)
    }

    /// The groups of a connection.
    pub(crate) fn groups_of(handle: &Handle) -> Vec<Arc<Group>> {
        let state = handle.subscriber.lock();
        let groups = state.as_ref().map(|state| state.groups.clone());
        groups.unwrap_or_default()
    }

    /// Ends the subscriptions of a connection that has lost or given up its id. Returns messages of groups that have no
    /// member any more.
    pub(crate) fn leave(&self, handle: &Arc<Handle>) -> Orphans {
        let state = handle.subscriber.lock().take();
        handle.set_has_losses(false);
        handle.set_has_replays(false);
        let Some(state) = state else {
            return Vec::new();
        };
        for pattern in &state.patterns {
            self.remove(pattern, handle);
        }
        let groups = state.groups.iter();
        groups
            .flat_map(|group| self.remove_member(group, handle))
            .collect()
    }

    /// Ends the subscriptions of a connection that `allows` refuses, except for those that need no grant. Returns their
    /// patterns with the names of groups, and messages of groups that have no member any more.
    pub(crate) fn retain(
        &self,
        handle: &Arc<Handle>,
        allows: impl Fn(&str) -> bool,
    ) -> (Vec<Key>, Orphans) {
        let mut state = handle.subscriber.lock();
        let Some(state) = &mut *state else {
            return Default::default();
        };
        let exempt = &state.exempt;
        let is_exempt = |pattern: &Arc<str>, group: Option<&Group>| {
            let name = group.map(|group| group.name.clone());
            !exempt.is_empty() && exempt.contains(&(pattern.clone(), name))
        };
        let patterns =
            (state.patterns).extract_if(|pattern| !allows(pattern) && !is_exempt(pattern, None));
        let patterns: Vec<_> = patterns.collect();
        let is_refused = |group: &mut Arc<Group>| {
            !allows(&group.pattern) && !is_exempt(&group.pattern, Some(group))
        };
        let groups: Vec<_> = state.groups.extract_if(.., is_refused).collect();
        let mut refused = Vec::new();
        for pattern in patterns {
            let key = (pattern, None);
            state.forget(&key);
            self.remove(&key.0, handle);
            refused.push(key);
        }
        let mut jobs = Vec::new();
        for group in groups {
            let key = (group.pattern.clone(), Some(group.name.clone()));
            state.forget(&key);
            jobs.extend(self.remove_member(&group, handle));
            refused.push(key);
        }
        (refused, jobs)
    }
}

//! Command `send` to a topic: delivers a message to its subscribers.
//!
//! Consecutive messages to one topic are encoded once into a batch, which goes into the outbox of each subscriber. A
//! subscriber without room loses the batch, and gets a `gap` later; only one that asks for it makes this
//! connection wait.

use std::{mem, sync::Arc, task::Context};

use bytes::Bytes;

use super::{Connection, Turn, send::SendOptions};
use crate::{
    broker::{
        delivery::Admission,
        handle::Handle,
        peers::Unreachable,
        topics::{
            Publication,
            groups::{Dispatched, Group, GroupId, Job, JobRequest},
        },
    },
    error::ActionError,
    memory::MOST_SHARE,
    protocol::{self, ObjectDest, Slow, version_2},
    transport::{
        framing::{self, Mask},
        outbox::SHARE_FROM,
    },
};

/// Bytes copied into outboxes after which these are flushed.
const COPIES: usize = 1 << 20;

/// The outcome of a message: numbers of subscribers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) queued: usize,
    pub(super) dropped: usize,
    /// Whether it was sent to other brokers; none without a cluster.
    pub(super) elsewhere: Option<bool>,
    /// The offset of the last message, if it is kept.
    pub(super) offset: Option<u64>,
}

/// The outcome of a message for groups: their numbers.
#[derive(Debug, Default, Clone)]
pub(super) struct ByGroups {
    /// A member gets it, or it waits for one.
    pub(super) taken: usize,
    /// Too many messages wait.
    pub(super) full: usize,
    /// The groups that did not take it.
    pub(super) unserved: Vec<GroupId>,
    /// It waits in a group.
    pub(super) is_queued: bool,
}

impl Connection {
    /// Sends a message to the subscribers of a topic, or to mailboxes. If it returns a handle, nothing was sent, as in
    /// [`send`](Self::send). `dest`: an object, as JSON text.
    #[cold]
    #[inline(never)]
    pub(super) fn send_to_object(
        &mut self,
        message: &str,
        dest: &str,
        options: &SendOptions<'_>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Arc<Handle>>, ActionError> {
        if !self.handle.uses_version_2() {
            // Version 1 has ids alone.
            return Err(ActionError::InvalidDest);
        }
        let limits = &self.broker.options;
        match protocol::decode_object(dest, limits.max_dest, limits.max_id_length)? {
            ObjectDest::Topic(topic) => self.publish(message, &topic, options, cx, turn),
            ObjectDest::Mailboxes(names) => {
                self.send_to_mailboxes(message, &names, options)?;
                turn.awaits_store |= self.broker.kept.is_store_busy();
                Ok(None)
            }
        }
    }

    fn publish(
        &mut self,
        message: &str,
        topic: &str,
        options: &SendOptions<'_>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Arc<Handle>>, ActionError> {
        if !self.access.may_publish(topic, self.id.as_deref()) {
            return Err(ActionError::TopicForbidden("send to", topic.to_owned()));
        }
        self.find_subscribers(topic, turn);
        let batch = &turn.publication;
        let known = batch.found.subscribers.len();
        let frame = protocol::publication(message, options.ack, self.from(), &batch.end);
        let length = frame.iter().map(|piece| piece.len()).sum();
        let size = framing::frame_size(length, Mask::None);
        let limit = self.broker.options.max_fanout_bytes;
        if size.saturating_mul(known) > limit {
            return Err(ActionError::FanoutTooLarge(known, size, limit));
        }
        if size.saturating_mul(known) > MOST_SHARE && self.awaits_memory() {
            self.deliver(turn);
            return Ok(Some(self.handle.clone()));
        }
        if let Some(peers) = &self.broker.peers {
            let limit = peers.max_publication(topic, batch.found.groups.len());
            if size > limit {
                return Err(ActionError::ClusterPayload(size, limit));
            }
            if let Err(Unreachable::Held) = peers.may_publish(self.handle.key, cx.waker()) {
                self.deliver(turn);
                return Ok(self.broker.lookup_gate());
            }
            if turn.publication.frames.len() + size > limit {
                self.deliver_publication(turn);
            }
        }
        if turn.publication.waits
            && let Some(full) = self.find_full(cx, turn)
        {
            return Ok(Some(full));
        }
        if let Some(ack) = options.request() {
            return self.publish_request(message, ack, options, cx, turn);
        }
        let has_room = |group: &Arc<Group>| group.has_room(self.handle.key, cx.waker());
        if !turn.publication.found.groups.iter().all(has_room) {
            // The waker is called when there is room.
            self.deliver(turn);
            return Ok(Some(self.handle.clone()));
        }
        let mut unserved = Vec::new();
        let taken = match turn.publication.found.groups.is_empty() {
            true => 0,
            false => {
                let groups = self.publish_to_groups((message, self.from()), options, None, turn);
                unserved = groups.unserved;
                groups.taken
            }
        };
        let outcomes = match turn.publication.bound.is_empty() {
            true => None,
            false => {
                turn.awaits_store |= self.broker.kept.is_store_busy();
                self.put_into_bound(message, topic, options, turn)
            }
        };
        let is_unserved = !unserved.is_empty();
        if is_unserved {
            // All messages of a batch are served at the same groups.
            self.deliver_publication(turn);
            turn.publication.unserved = unserved;
        }
        let end = mem::take(&mut turn.publication.end);
        let frame = protocol::publication(message, options.ack, self.from(), &end);
        match turn.publication.rule {
            None => turn.publication.add(&frame),
            Some(_) => turn.publication.add_kept(&frame),
        }
        turn.publication.end = end;
        if !options.receipt() {
            if turn.publication.is_full() || is_unserved {
                self.deliver_publication(turn);
            }
            return Ok(None);
        }
        let mut published = self.deliver_publication(turn);
        published.queued += taken;
        match (outcomes, published.offset) {
            (Some(outcomes), _) => outcomes.set_published(published, turn),
            (None, None) => self.push_publish_receipt(options, published, turn),
            (None, Some(offset)) => self.push_kept_receipt(options, published, offset, turn),
        }
        Ok(None)
    }

    /// Publishes a message of another sender, whatever its permissions. `from`: its id as JSON.
    #[cold]
    pub(super) fn publish_from(
        &self,
        message: &str,
        from: Option<&str>,
        topic: &str,
        turn: &mut Turn,
    ) {
        self.find_subscribers(topic, turn);
        let options = SendOptions {
            ack: None,
            reply: None,
        };
        if !turn.publication.found.groups.is_empty() {
            let groups = self.publish_to_groups((message, from), &options, None, turn);
            turn.publication.unserved = groups.unserved;
        }
        let end = mem::take(&mut turn.publication.end);
        let frame = protocol::publication(message, None, from, &end);
        match turn.publication.rule {
            None => turn.publication.add(&frame),
            Some(_) => turn.publication.add_kept(&frame),
        }
        turn.publication.end = end;
        self.deliver_publication(turn);
    }

    /// Gives a message to a member of each group of the batch's topic. `request`: the request that it is.
    pub(super) fn publish_to_groups(
        &self,
        (message, from): (&str, Option<&str>),
        options: &SendOptions<'_>,
        request: Option<&JobRequest>,
        turn: &mut Turn,
    ) -> ByGroups {
        let mut result = ByGroups::default();
        let groups = mem::take(&mut turn.publication.found.groups);
        let topic = protocol::json_string(&turn.publication.topic);
        let attempt = protocol::attempt(options.reply.and_then(|reply| reply.attempt));
        for group in &groups {
            let name = protocol::json_string(&group.name);
            let end = version_2::publication_end(&topic, Some(&name), attempt);
            let frame = protocol::publication(message, options.ack, from, &end);
            let mut frames = Vec::new();
            framing::append_text(&frame, &mut frames);
            let job = Job {
                frame: self.share(&mut frames),
                request: request.cloned(),
                hops: 0,
            };
            match self.broker.dispatch(group, job, &mut turn.touched) {
                Dispatched::Sent => {
                    result.taken += 1;
                    continue;
                }
                Dispatched::Queued => {
                    result.taken += 1;
                    result.is_queued = true;
                    continue;
                }
                Dispatched::Full => result.full += 1,
                Dispatched::Empty => {}
            }
            result.unserved.push(group.id);
        }
        turn.publication.found.groups = groups;
        result
    }

    /// Makes the batch one for this topic. Its subscribers stay known while nothing has changed.
    fn find_subscribers(&self, topic: &str, turn: &mut Turn) {
        if turn.batch.receiver.is_some() {
            // Messages that were sent before arrive before. Without a receiver, the next message to an id delivers
            // this batch.
            self.deliver(turn);
            turn.batch.receiver = None;
        }
        let version = self.broker.topics.version();
        let batch = &mut turn.publication;
        if batch.topic == topic && batch.version == version {
            return;
        }
        if batch.count > 0 {
            self.deliver_publication(turn);
        }
        let batch = &mut turn.publication;
        if batch.topic != topic {
            batch.topic.clear();
            batch.topic.push_str(topic);
            batch.end = version_2::publication_end(&protocol::json_string(topic), None, 1);
            batch.rule = match self.broker.kept.is_empty() {
                true => None,
                false => self.broker.kept.rule_of(topic).cloned(),
            };
            batch.bound = match self.broker.mailboxes.is_empty() {
                true => Vec::new(),
                false => self.broker.mailboxes.bound_to(topic),
            };
        }
        batch.version = version;
        self.broker.topics.find(topic, &mut batch.found);
        let mut subscribers = batch.found.subscribers.iter();
        batch.waits = subscribers.any(|one| one.slow == Slow::Wait);
    }

    /// The first subscriber that makes this connection wait, if one has no room.
    #[cold]
    fn find_full(&mut self, cx: &Context<'_>, turn: &mut Turn) -> Option<Arc<Handle>> {
        let bytes = turn.publication.frames.len();
        let mut waiting =
            (turn.publication.found.subscribers.iter()).filter(|one| one.slow == Slow::Wait);
        if !waiting.any(|one| one.handle.outbox.is_full_with(bytes)) {
            return None;
        }
        self.deliver_publication(turn);
        for one in &turn.publication.found.subscribers {
            if one.slow != Slow::Wait {
                continue;
            }
            self.recent.note(one.handle.key);
            let id = one.handle.last_id.lock().clone().unwrap_or_default();
            let delays = || self.serves_others(&one.handle);
            if self.admit(&id, &one.handle, cx, delays) == Admission::Backpressure {
                return Some(one.handle.clone());
            }
        }
        None
    }

    /// Moves frames to memory that several outboxes can share.
    pub(super) fn share(&self, frames: &mut Vec<u8>) -> Bytes {
        self.broker.charged_bytes(mem::take(frames))
    }

    /// Sends the receipt, if one is wanted.
    pub(super) fn push_publish_receipt(
        &self,
        options: &SendOptions<'_>,
        published: Published,
        turn: &mut Turn,
    ) {
        if let Some(reference) = options.reference() {
            let (queued, dropped) = (published.queued.to_string(), published.dropped.to_string());
            let elsewhere = match published.elsewhere {
                None => "}",
                Some(true) => ",\"elsewhere\":\"sent\"}",
                Some(false) => ",\"elsewhere\":\"down\"}",
            };
            let frame = version_2::publish_receipt(reference, &queued, &dropped, elsewhere);
            turn.pushed(&self.handle, self.handle.outbox.push(&frame));
        }
    }

    /// Delivers the batch to the subscribers.
    #[inline(never)]
    pub(super) fn deliver_publication(&self, turn: &mut Turn) -> Published {
        let mut published = Published::default();
        let batch = &mut turn.publication;
        let count = mem::take(&mut batch.count);
        if count == 0 {
            return published;
        }
        if let Some(rule) = &batch.rule {
            return self.deliver_kept(&rule.clone(), count, turn);
        }
        let mut frames = mem::take(&mut batch.frames);
        let served = match self.broker.peers {
            Some(_) => batch.take_served(),
            None => Vec::new(),
        };
        let (topic, subscribers) = (
            mem::take(&mut batch.topic),
            mem::take(&mut batch.found.subscribers),
        );
        let size = frames.len();
        let is_shared = size >= SHARE_FROM && subscribers.len() > 1;
        let shared = is_shared.then(|| self.share(&mut frames));
        let publication = Publication {
            topic: &topic,
            frames: shared.as_deref().unwrap_or(&frames),
            shared: shared.as_ref(),
            count,
            last: turn.publication.last,
            served: &served,
        };
        let peers = self.broker.peers.as_ref();
        published.elsewhere = peers.map(|peers| peers.publish(&publication));
        let has_groups = !turn.publication.found.groups.is_empty();
        let is_bound = !turn.publication.bound.is_empty();
        if subscribers.is_empty() && !has_groups && !is_bound && published.elsewhere != Some(true) {
            self.broker.no_subscriber(count);
        }
        let mut copied = 0;
        for one in &subscribers {
            match self.broker.publish_to(one, &publication) {
                Some(pushed) => {
                    let is_there = turn.pushed(&one.handle, pushed);
                    turn.messages_out += if is_there { count } else { 0 };
                    published.queued += usize::from(is_there);
                }
                None => published.dropped += 1,
            }
            copied += if is_shared { 0 } else { size };
            if copied > COPIES {
                // Frames written to sockets need no more memory.
                turn.flush();
                copied = 0;
            }
        }
        frames.clear();
        let batch = &mut turn.publication;
        (batch.topic, batch.found.subscribers, batch.frames) = (topic, subscribers, frames);
        published
    }
}

//! Pushes messages of a topic to a subscriber, or records that it has lost them.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use bytes::Bytes;

use super::{Found, Subscriber, groups::GroupId};
use crate::{
    broker::{Broker, handle::Handle},
    event::{ServerEvent, Slow as SlowEvent},
    memory::{Charge, ChargedBytes},
    protocol::Slow,
    transport::outbox::{Pushed, SHARE_FROM},
};

/// Consecutive messages to one topic, encoded.
pub(crate) struct Publication<'a> {
    pub(crate) topic: &'a str,
    pub(crate) frames: &'a [u8],
    /// `frames` again, if they are shared among the subscribers instead of copied to each.
    pub(crate) shared: Option<&'a Bytes>,
    /// Number of messages.
    pub(crate) count: u32,
    /// Place of the last message in `frames`.
    pub(crate) last: usize,
    /// Groups of which a member at this broker gets the messages.
    pub(crate) served: &'a [GroupId],
}

impl Publication<'_> {
    /// Appends the messages to the outbox of a subscriber, whether it is full or not.
    pub(crate) fn push_to(&self, handle: &Handle) -> Pushed {
        let Self {
            frames,
            shared,
            count,
            ..
        } = *self;
        handle.outbox.push_batch(frames, shared, count)
    }
}

impl Handle {
    /// Records messages of a topic that are not sent to it; see `SubscriberState::lose`. False if it subscribes to
    /// nothing any more.
    pub(crate) fn lose(&self, topic: &str, count: u64, latest: Option<Bytes>, room: usize) -> bool {
        let mut state = self.subscriber.lock();
        let Some(known) = &mut *state else {
            return false;
        };
        known.lose(topic, count, latest, room);
        self.set_has_losses(true);
        true
    }

    /// Tells the connection what it has lost, if there is room in its outbox for it. False if there is none.
    pub(crate) fn settle_losses(&self) -> bool {
        if !self.has_losses() {
            return true;
        }
        if self.outbox.is_full() {
            return false;
        }
        let mut state = self.subscriber.lock();
        if let Some(state) = &mut *state {
            state.tell(self);
        }
        // Under the lock: losses that are recorded later set it again. Until then publishers wait here, so that no message
        // overtakes what is pushed.
        self.set_has_losses(false);
        self.drops_end();
        true
    }
}

impl Broker {
    /// Pushes messages of a topic to a subscriber. None if it has lost them: its outbox is full.
    pub(crate) fn publish_to(
        &self,
        subscriber: &Subscriber,
        publication: &Publication<'_>,
    ) -> Option<Pushed> {
        let handle = &subscriber.handle;
        if handle.outbox.is_full() {
            // Frames queued in this turn may have filled the outbox.
            handle.flush();
        }
        if handle.outbox.is_full() || !handle.settle_losses() {
            self.lose(subscriber, publication);
            return None;
        }
        Some(publication.push_to(handle))
    }

    /// Pushes messages of a topic that come from another broker to all subscribers here, and flushes them.
    pub(crate) fn publish_all(&self, publication: &Publication<'_>) {
        let mut found = Found::default();
        self.topics.find(publication.topic, &mut found);
        let subscribers = found.subscribers;
        let frames = publication.frames;
        let shared = (frames.len() >= SHARE_FROM && subscribers.len() > 1)
            .then(|| self.charged_bytes(frames.to_vec()));
        let publication = Publication {
            shared: shared.as_ref(),
            ..*publication
        };
        let mut sent = 0;
        for one in &subscribers {
            match self.publish_to(one, &publication) {
                Some(Pushed::Closed) | None => {}
                Some(pushed) => {
                    sent += u64::from(publication.count);
                    if pushed == Pushed::NeedsFlush {
                        one.handle.flush();
                    }
                }
            }
        }
        self.metrics.turns.messages_out.fetch_add(sent, Relaxed);
    }

    /// Records messages of a topic that all subscribers here have lost between brokers.
    #[cold]
    pub(crate) fn lose_all(&self, publication: &Publication<'_>) {
        let mut found = Found::default();
        self.topics.find(publication.topic, &mut found);
        for Subscriber { handle, .. } in &found.subscribers {
            // Also with `"slow":"latest"`: the newest message is not among them.
            if !handle.lose(publication.topic, publication.count.into(), None, 0) {
                continue;
            }
            match handle.settle_losses() {
                true => handle.flush(),
                false => Self::settle_later(handle),
            }
        }
    }

    /// Makes the task of a connection tell it what it has lost, once there is room.
    fn settle_later(handle: &Handle) {
        let _ = handle.outbox.await_empty();
        handle.waker.wake();
    }

    /// Moves frames to memory that several outboxes or groups can share.
    pub(crate) fn charged_bytes(&self, bytes: Vec<u8>) -> Bytes {
        let _charge = Charge::new(&self.memory, bytes.len());
        Bytes::from_owner(ChargedBytes { bytes, _charge })
    }

    /// Records messages that a subscriber has lost.
    #[cold]
    pub(crate) fn lose(
        &self,
        Subscriber { handle, slow, .. }: &Subscriber,
        publication: &Publication<'_>,
    ) {
        let Publication {
            topic,
            frames,
            count,
            last,
            ..
        } = *publication;
        // A copy: a part of `frames` would keep all of it in memory.
        let latest = (*slow == Slow::Latest).then(|| Bytes::copy_from_slice(&frames[last..]));
        let room = self.options.max_backpressure;
        if !handle.lose(topic, count.into(), latest, room) {
            return;
        }
        self.metrics.dropped.fetch_add(count.into(), Relaxed);
        if handle.drop_begins() {
            let id = handle.last_id.lock().clone();
            let event = ServerEvent::Slow {
                id: id.as_deref(),
                why: SlowEvent::Dropping,
            };
            self.listener.event(event);
        }
        Self::settle_later(handle);
    }

    /// The ids of subscribers, for a request.
    pub(crate) fn names_of(subscribers: &[Arc<Handle>]) -> Vec<Arc<str>> {
        let name = |handle: &Arc<Handle>| handle.last_id.lock().clone().unwrap_or_default();
        subscribers.iter().map(name).collect()
    }
}

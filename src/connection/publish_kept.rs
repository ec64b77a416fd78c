//! Delivers messages of kept topics: appends them to the log of their rule, and sends them to the subscribers.

use std::{mem, sync::Arc};

use bytes::Bytes;

use super::{Connection, Turn, publish::Published, send::SendOptions, turn::TopicBatch};
use crate::{
    broker::{
        kept::{self, Rule},
        topics::{Publication, Subscriber},
    },
    protocol::{Pieces, Slow, version_2},
    store::{Record, Stored, batch},
    transport::{
        framing,
        outbox::{Pushed, SHARE_FROM},
    },
};

/// Bytes of copies for subscribers from which they share the messages instead.
const COPIES: usize = 1 << 20;

impl TopicBatch {
    /// Adds a message that is kept: a frame without its end.
    #[cold]
    pub(super) fn add_kept(&mut self, pieces: &Pieces<'_>) {
        let [begin @ .., _] = pieces;
        for piece in begin {
            self.frames.extend_from_slice(piece.as_bytes());
        }
        self.ends.push(self.frames.len());
        self.count += 1;
    }
}

impl Connection {
    /// Delivers a batch of messages of a kept topic. `count`: their number.
    #[cold]
    pub(super) fn deliver_kept(&self, rule: &Arc<Rule>, count: u32, turn: &mut Turn) -> Published {
        // Outboxes may be full of frames that are still to be flushed. Nothing is written under the lock.
        for one in &turn.publication.found.subscribers {
            if one.handle.outbox.is_full() {
                one.handle.flush();
            }
        }
        let batch = &mut turn.publication;
        let (messages, ends) = (mem::take(&mut batch.frames), mem::take(&mut batch.ends));
        let topic = mem::take(&mut batch.topic);
        let mut frames = Vec::with_capacity(messages.len() + ends.len() * 48);
        let mut published = Published::default();
        let time = kept::now();
        let order = rule.order.lock();
        let version = self.broker.topics.version();
        if version != batch.version {
            batch.version = version;
            self.broker.topics.find(&topic, &mut batch.found);
            let mut subscribers = batch.found.subscribers.iter();
            batch.waits = subscribers.any(|one| one.slow == Slow::Wait);
        }
        let before = rule.log.last();
        let (mut start, mut last) = (0, 0);
        for end in &ends {
            let place = rule.log.next(&topic);
            let message = str::from_utf8(&messages[start..*end]).unwrap_or_default();
            let text = version_2::kept_end(&batch.end, place.offset, place.prev);
            last = frames.len();
            framing::append_text(&[message, &text], &mut frames);
            rule.log.append(Record {
                topic: &topic,
                place,
                frame: Bytes::copy_from_slice(&frames[last..]),
                time,
                key: None,
            });
            (start, published.offset) = (*end, Some(place.offset));
        }
        let subscribers = mem::take(&mut batch.found.subscribers);
        let size = frames.len();
        let is_shared = subscribers.len() > 1
            && (size >= SHARE_FROM || size.saturating_mul(subscribers.len()) > COPIES);
        let shared = is_shared.then(|| self.share(&mut frames));
        let publication = Publication {
            topic: &topic,
            frames: shared.as_deref().unwrap_or(&frames),
            shared: shared.as_ref(),
            count,
            last,
            served: &[],
        };
        for one in &subscribers {
            if one.is_held {
                published.queued += 1;
                continue;
            }
            match self.publish_kept_to(one, &publication, rule, before) {
                Some(pushed) => {
                    let is_there = turn.pushed(&one.handle, pushed);
                    turn.messages_out += if is_there { count } else { 0 };
                    published.queued += usize::from(is_there);
                }
                None => published.dropped += 1,
            }
        }
        drop(order);
        turn.awaits_store |= self.broker.kept.is_store_busy();
        let batch = &mut turn.publication;
        (batch.topic, batch.found.subscribers) = (topic, subscribers);
        (batch.frames, batch.ends) = (messages, ends);
        batch.frames.clear();
        batch.ends.clear();
        published
    }

    /// Sends messages to a subscriber. Without room it gets them from the log later; none if it loses them. `before`: the
    /// offset before the first of them.
    fn publish_kept_to(
        &self,
        one: &Subscriber,
        publication: &Publication<'_>,
        rule: &Arc<Rule>,
        before: u64,
    ) -> Option<Pushed> {
        let Subscriber { handle, slow, .. } = one;
        if !handle.outbox.is_full() && handle.settle_losses() {
            return Some(publication.push_to(handle));
        }
        let (topics, topic) = (&self.broker.topics, publication.topic);
        let kept = &self.broker.kept;
        if *slow == Slow::Drop && topics.fall_behind(handle, topic, (kept, rule), before) {
            // Its task continues once the outbox is empty.
            let _ = handle.outbox.await_empty();
            return Some(Pushed::More);
        }
        self.broker.lose(one, publication);
        None
    }

    /// Sends the receipt of a kept message, if one is wanted, once it is stored.
    #[cold]
    pub(super) fn push_kept_receipt(
        &self,
        options: &SendOptions<'_>,
        published: Published,
        offset: u64,
        turn: &mut Turn,
    ) {
        let (Some(reference), Some(rule)) = (options.reference(), &turn.publication.rule) else {
            return;
        };
        let Published {
            queued, dropped, ..
        } = published;
        let (reference, handle) = (reference.to_owned(), self.handle.clone());
        rule.log.on_stored(
            offset,
            Box::new(move |stored| {
                // A message that could not be stored was delivered all the same.
                let kept = version_2::stored_member(offset, stored.ok().map(Stored::name));
                let end = [&*kept, "}"].concat();
                let (queued, dropped) = (queued.to_string(), dropped.to_string());
                let frame = version_2::publish_receipt(&reference, &queued, &dropped, &end);
                if handle.outbox.push(&frame) == Pushed::NeedsFlush {
                    batch::at_end(move || handle.flush());
                }
            }),
        );
    }
}

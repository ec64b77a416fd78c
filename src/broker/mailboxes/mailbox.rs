//! One mailbox: its consumers, and which of them has which message.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::time::sleep_until;

use super::{Counters, Rule};
use crate::{
    broker::handle::Handle,
    protocol::version_2,
    store::{Page, Place, Query, Range},
    sync::Mutex,
    transport::{framing, outbox::Pushed},
};

/// Maximum number of messages that a consumer reads at a time, and bytes of them.
const PAGE: usize = 64;
const PAGE_BYTES: usize = 256 << 10;
/// Maximum bytes of unacknowledged messages of a consumer. It may always have one.
const WINDOW_BYTES: usize = 1 << 20;

/// A mailbox that is open: it has consumers, or had some.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) name: Arc<str>,
    /// Its name in the log.
    topic: Arc<str>,
    pub(crate) rule: Arc<Rule>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Messages up to this offset were given to a consumer, or are in `returned` or `delayed`, or are acknowledged.
    position: u64,
    consumers: Vec<Consumer>,
    /// Messages to be delivered again, with the numbers of their next attempts.
    returned: BTreeMap<u64, u32>,
    /// Messages to be delivered again later, likewise.
    delayed: BTreeMap<u64, u32>,
    /// The key of the consumer that reads from the log.
    reader: Option<u64>,
    /// True if the log may have messages behind `position`.
    has_more: bool,
}

#[derive(Debug)]
struct Consumer {
    handle: Arc<Handle>,
    /// Maximum number of messages that it has.
    window: usize,
    /// The messages that it has: bytes, and numbers of the attempts.
    has: BTreeMap<u64, (usize, u32)>,
    bytes: usize,
}

/// A query that a consumer is to make.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) query: Query,
}

/// A message for a consumer that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) offset: u64,
    pub(crate) frame: Bytes,
    /// Number of the attempt, from 1.
    pub(crate) attempt: u32,
}

/// The messages of a page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Those that the consumer has now.
    pub(crate) taken: Vec<Taken>,
    /// Those that were delivered too often. They are to be removed.
    pub(crate) dead: Vec<Taken>,
}

impl Consumer {
    fn has_room(&self) -> bool {
        self.has.len() < self.window && (self.bytes < WINDOW_BYTES)
    }

    /// Among several the one with the least is to take the next message; one that does not read is last.
    fn load(&self) -> (bool, usize) {
        (self.is_away(), self.has.len())
    }

    /// True if its peer does not read, or its session has no socket.
    fn is_away(&self) -> bool {
        self.handle.outbox.is_full() || self.handle.is_suspended()
    }

    fn take(&mut self, offset: u64, bytes: usize, attempt: u32) {
        self.bytes += bytes;
        self.has.insert(offset, (bytes, attempt));
    }

    fn put_down(&mut self, offset: u64) -> Option<u32> {
        let (bytes, attempt) = self.has.remove(&offset)?;
        self.bytes -= bytes;
        Some(attempt)
    }
}

impl State {
    fn consumer(&mut self, key: u64) -> Option<&mut Consumer> {
        self.consumers.iter_mut().find(|one| one.handle.key == key)
    }

    /// True if there is something to read.
    fn has_work(&self) -> bool {
        self.has_more || !self.returned.is_empty()
    }

    /// Wakes the consumer that should read next, if there is something to read.
    fn wake(&self) {
        if self.reader.is_none() && self.has_work() {
            let free = self.consumers.iter().filter(|one| one.has_room());
            if let Some(one) = free.min_by_key(|one| one.load()) {
                one.handle.take_mail();
            }
        }
    }
}

impl Mailbox {
    pub(super) fn new(name: &Arc<str>, topic: &str, rule: &Arc<Rule>) -> Arc<Self> {
        Arc::new(Self {
            name: name.clone(),
            topic: topic.into(),
            rule: rule.clone(),
            state: Mutex::new(State {
                has_more: true,
                ..State::default()
            }),
        })
    }

    pub(super) fn join(&self, handle: &Arc<Handle>, window: u32) {
        let mut state = self.state.lock();
        match state.consumer(handle.key) {
            Some(consumer) => consumer.window = window as usize,
            None => state.consumers.push(Consumer {
                handle: handle.clone(),
                window: window as usize,
                has: BTreeMap::new(),
                bytes: 0,
            }),
        }
        state.wake();
    }

    /// Removes a consumer. Its messages are to be delivered again. False if it is none.
    pub(super) fn leave(&self, key: u64) -> bool {
        let mut state = self.state.lock();
        let Some(place) = state.consumers.iter().position(|one| one.handle.key == key) else {
            return false;
        };
        let consumer = state.consumers.swap_remove(place);
        for (offset, (_, attempt)) in consumer.has {
            state.returned.insert(offset, attempt.saturating_add(1));
        }
        if state.reader == Some(key) {
            (state.reader, state.has_more) = (None, true);
        }
        state.wake();
        true
    }

    /// True if nothing must be remembered of it.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.consumers.is_empty() && state.returned.is_empty() && state.delayed.is_empty()
    }

    /// True if it has neither consumers nor messages.
    pub(super) fn is_abandoned(&self) -> bool {
        self.state.lock().consumers.is_empty() && self.rule.log.usage(&self.topic).messages == 0
    }

    /// Gives a message that was just stored to a consumer, or has a consumer read it. Two messages that were stored at the
    /// same time may come here in any order.
    pub(super) fn offer(&self, place: Place, frame: &Bytes) {
        let Place { offset, prev } = place;
        let state = &mut *self.state.lock();
        if offset <= state.position {
            return;
        }
        if state.has_work() || state.reader.is_some() || prev > state.position {
            state.has_more = true;
            return state.wake();
        }
        let free = state.consumers.iter_mut();
        let free = free.filter(|one| one.has_room() && !one.is_away());
        let Some(consumer) = free.min_by_key(|one| one.has.len()) else {
            state.has_more = true;
            return state.wake();
        };
        match consumer.handle.outbox.push_shared(frame) {
            Pushed::Closed => state.has_more = true,
            pushed => {
                consumer.take(offset, frame.len(), 1);
                if pushed == Pushed::NeedsFlush {
                    consumer.handle.take_mail();
                }
                state.position = offset;
            }
        }
    }

    /// Begins to read for a consumer. None if it can take no message, or there is none, or another one reads.
    pub(crate) fn begin(&self, key: u64) -> Option<Plan> {
        let state = &mut *self.state.lock();
        if state.reader.is_some() || !state.has_work() {
            return None;
        }
        let consumer = state.consumer(key)?;
        if !consumer.has_room() {
            return None;
        }
        let messages = (consumer.window - consumer.has.len()).min(PAGE);
        let bytes = (WINDOW_BYTES - consumer.bytes).min(PAGE_BYTES);
        let first = state.returned.keys().next();
        let after = first.map_or(state.position, |first| (first - 1).min(state.position));
        (state.reader, state.has_more) = (Some(key), false);
        Some(Plan {
            query: Query {
                pattern: self.topic.clone(),
                range: Range::After(after),
                messages,
                bytes,
            },
        })
    }

    /// The messages of a page that the consumer has now. `page`: none if the log cannot be read any more. Its connection puts
    /// them into its outbox, and calls [`end`](Self::end).
    pub(crate) fn take(
        &self,
        key: u64,
        query: &Query,
        page: Option<Page>,
        counters: &Counters,
    ) -> Batch {
        let mut batch = Batch::default();
        let state = &mut *self.state.lock();
        if state.reader != Some(key) {
            // It has left meanwhile.
            return batch;
        }
        let Some(page) = page else {
            return batch;
        };
        let (stored_to, former_to) = (self.rule.stored_to(), self.rule.former_to);
        let most = self.rule.options.max_deliver;
        let Range::After(after) = query.range else {
            return batch;
        };
        let mut read_to = if page.more { page.next } else { u64::MAX };
        let found: BTreeSet<u64> = page.messages.iter().map(|one| one.offset).collect();
        for message in page.messages {
            let offset = message.offset;
            let attempt = match state.returned.get(&offset) {
                Some(attempt) => *attempt,
                None if offset <= state.position => continue,
                None if offset > stored_to => {
                    read_to = offset - 1;
                    break;
                }
                None if offset <= former_to => 2,
                None => 1,
            };
            let is_dead = most > 0 && attempt > most;
            let Some(consumer) = state.consumer(key) else {
                break;
            };
            if !is_dead && !consumer.has_room() {
                read_to = offset - 1;
                state.has_more = true;
                break;
            }
            if !is_dead {
                consumer.take(offset, message.frame.len(), attempt);
            }
            let taken = Taken {
                offset,
                frame: message.frame,
                attempt,
            };
            match is_dead {
                true => batch.dead.push(taken),
                false => batch.taken.push(taken),
            }
            state.returned.remove(&offset);
            state.position = state.position.max(offset);
        }
        // Those that the log has no more.
        (state.returned)
            .retain(|offset, _| *offset <= after || *offset > read_to || found.contains(offset));
        state.has_more |= page.more;
        let again = batch.taken.iter().filter(|taken| taken.attempt > 1).count();
        counters.redelivered.fetch_add(again as u64, Relaxed);
        counters.dead.fetch_add(batch.dead.len() as u64, Relaxed);
        batch
    }

    /// Ends the read of a consumer. Messages that are stored from now on come behind those that it has read.
    pub(crate) fn end(&self, key: u64) {
        let state = &mut *self.state.lock();
        if state.reader == Some(key) {
            state.reader = None;
            state.wake();
        }
    }

    /// Removes a message: it was handled, or delivered too often.
    pub(crate) fn remove(&self, offset: u64) {
        self.rule.log.remove(&self.topic, offset);
        let state = &mut *self.state.lock();
        state.returned.remove(&offset);
        state.delayed.remove(&offset);
        for consumer in &mut state.consumers {
            consumer.put_down(offset);
        }
        state.wake();
    }

    /// A consumer gives a message back: it is to be delivered again after this time.
    pub(crate) fn give_back(self: &Arc<Self>, key: u64, offset: u64, after: Duration) {
        let state = &mut *self.state.lock();
        let attempt = state.consumer(key).and_then(|one| one.put_down(offset));
        // It may have been delivered to another one since.
        let Some(attempt) = attempt else { return };
        let attempt = attempt.saturating_add(1);
        if after.is_zero() {
            state.returned.insert(offset, attempt);
            return state.wake();
        }
        state.delayed.insert(offset, attempt);
        let (mailbox, due) = (Arc::downgrade(self), Instant::now() + after);
        // At most one task for each message that was delivered.
        tokio::spawn(async move {
            sleep_until(due.into()).await;
            if let Some(mailbox) = Weak::upgrade(&mailbox) {
                mailbox.on_due(offset);
            }
        });
        state.wake();
    }

    fn on_due(&self, offset: u64) {
        let state = &mut *self.state.lock();
        if let Some(attempt) = state.delayed.remove(&offset) {
            state.returned.insert(offset, attempt);
            state.wake();
        }
    }
}

/// The frame of a message that is delivered again.
pub(crate) fn again(frame: &Bytes, attempt: u32) -> Vec<u8> {
    let text = std::str::from_utf8(framing::payload_of(frame)).unwrap_or_default();
    let end = version_2::attempt_end(attempt);
    let mut again = Vec::with_capacity(frame.len() + end.len() + 8);
    framing::append_text(&[text.strip_suffix('}').unwrap_or(text), &end], &mut again);
    again
}

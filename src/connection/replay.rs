//! Sends kept messages to the peer: those of subscriptions that have to catch up with a log, and the answers to `history`.
//!
//! A page is read when the outbox is nearly empty, so that little is queued for a slow peer, and no publisher waits.

use std::{
    mem,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use super::{Connection, Turn};
use crate::{
    broker::{
        kept::Permit,
        topics::{
            Topics,
            replay::{Beginning, Part, Replay},
        },
    },
    error::ActionError,
    protocol::{self, HistoryQuery, RawSubscription, Start, Subscription, version_2},
    store::{Page, Query, Range, Reading, StoreError},
    transport::{framing, outbox::SHARE_FROM},
};

/// Maximum number of messages of a page, and bytes of them.
const PAGE: usize = 64;
const PAGE_BYTES: usize = 256 << 10;
/// Bytes that may be queued when a page is sent: a few responses.
const NEARLY_EMPTY: usize = 4 << 10;
/// Pages after which other tasks get their turn.
const PAGES: usize = 4;
/// Maximum number of messages of a `history`, and bytes of them.
const HISTORY: usize = 1000;
const HISTORY_BYTES: usize = 1 << 20;

/// The replay whose messages are being read.
pub(super) struct Replaying {
    /// Given back when the peer has to catch up.
    _permit: Permit,
    page: Option<(Replay, Vec<PartReading>)>,
}

/// The page of a part of a replay.
enum PartReading {
    Pending(Reading),
    Ready(Page),
}

/// A `history` that is being read.
pub(super) struct ReadingHistory {
    /// The frame up to its messages.
    begin: String,
    reading: Reading,
}

impl PartReading {
    fn page(self) -> Option<Page> {
        match self {
            Self::Ready(page) => Some(page),
            Self::Pending(_) => None,
        }
    }
}

/// Ready when all parts are read.
fn poll_all(readings: &mut [PartReading], cx: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
    let mut is_pending = false;
    for reading in readings {
        if let PartReading::Pending(pending) = reading {
            match pending.as_mut().poll(cx) {
                Poll::Pending => is_pending = true,
                Poll::Ready(Ok(page)) => *reading = PartReading::Ready(page),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }
    match is_pending {
        true => Poll::Pending,
        false => Poll::Ready(Ok(())),
    }
}

impl Connection {
    /// Begins or changes a subscription within one rule, and tells the peer its position.
    ///
    /// Errors: `NotKept` if it has a position, and its topics are not within one rule.
    pub(super) fn subscribe_plain(
        &self,
        subscription: &Subscription<'_>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let Subscription {
            pattern,
            slow,
            reference,
            start,
            ..
        } = subscription;
        let (topics, kept) = (&self.broker.topics, &self.broker.kept);
        let limits = (&self.broker.options, &self.broker.memory);
        let text = protocol::json_string(pattern);
        let Some(rule) = kept.rule_of_pattern(pattern) else {
            if start.is_some() {
                return Err(ActionError::NotKept(pattern.to_string()));
            }
            topics.subscribe(&self.handle, pattern, *slow, limits)?;
            let frame = version_2::subscribed(&text, *reference, "");
            turn.pushed(&self.handle, self.handle.outbox.push(&frame));
            return Ok(());
        };
        let order = rule.order.lock();
        let log = &rule.log;
        let last = log.last();
        let mut members = format!(",\"offset\":{last},\"epoch\":\"{}\"", log.epoch());
        let replay = match start {
            None => None,
            Some(Start::Last(count)) => {
                let count = usize::try_from(*count).unwrap_or(usize::MAX);
                let from = log.newest(pattern, count);
                let behind = log.behind(pattern, from);
                Some((from, last, behind.messages))
            }
            Some(Start::Since { offset, epoch }) => {
                let is_known = *epoch == log.epoch() && *offset <= last;
                // Nothing is known of another epoch: all messages follow.
                let from = if is_known { *offset } else { 0 };
                let behind = log.behind(pattern, from);
                match (is_known, behind.lost) {
                    (true, Some(0)) => members.push_str(",\"recovered\":true"),
                    (true, Some(lost)) => {
                        members.push_str(&format!(",\"recovered\":false,\"lost\":{lost}"));
                    }
                    _ => members.push_str(",\"recovered\":false,\"lost\":null"),
                }
                Some((from, behind.trimmed_to, behind.messages))
            }
        };
        if let Some((_, _, Some(messages))) = replay {
            members.push_str(&format!(",\"replay\":{messages}"));
        }
        let begin = replay.filter(|(_, _, messages)| *messages != Some(0));
        let begin = begin.map(|(from, told, _)| Beginning { from, told });
        let how = (*slow, start.is_some());
        topics.subscribe_kept(&self.handle, pattern, how, (kept, rule), begin, limits)?;
        // Under the lock: before the messages of publishers.
        let frame = version_2::subscribed(&text, *reference, &members);
        turn.pushed(&self.handle, self.handle.outbox.push(&frame));
        drop(order);
        // A replay begins at the end of the turn.
        Ok(())
    }

    /// Sends kept messages of subscriptions that have to catch up, as long as the peer reads them.
    #[cold]
    pub(super) fn replay(&mut self, cx: &mut Context<'_>) {
        for _ in 0..PAGES {
            let outbox = &self.handle.outbox;
            if self.closing || outbox.waiting() > NEARLY_EMPTY && !outbox.await_empty() {
                // Its task is woken once the outbox is empty.
                self.stop_replay();
                return;
            }
            let mut replaying = match self.replaying.take() {
                Some(replaying) => replaying,
                None => {
                    let permit = self.broker.kept.permits.take(self.handle.key, cx.waker());
                    self.awaits_permit = permit.is_none();
                    let Some(_permit) = permit else {
                        return;
                    };
                    Box::new(Replaying {
                        _permit,
                        page: None,
                    })
                }
            };
            let page = replaying.page.take().or_else(|| self.read_page());
            let Some((replay, mut readings)) = page else {
                // All have caught up.
                return;
            };
            match poll_all(&mut readings, cx) {
                Poll::Pending => {
                    replaying.page = Some((replay, readings));
                    self.replaying = Some(replaying);
                    return;
                }
                Poll::Ready(Ok(())) => self.send_pages(&replay, readings),
                // Nothing more can be read: it gets what is published from now on.
                Poll::Ready(Err(_)) => {
                    self.push_lost(&replay);
                    self.end_replay(&replay, u64::MAX);
                }
            }
            self.handle.flush();
            self.replaying = Some(replaying);
        }
        cx.waker().wake_by_ref();
    }

    /// Lets others read, until it can send what it reads.
    pub(super) fn stop_replay(&mut self) {
        self.replaying = None;
        if mem::take(&mut self.awaits_permit) {
            self.broker.kept.permits.forget(self.handle.key);
        }
    }

    /// Begins to read the next messages of a replay. None if all have caught up.
    fn read_page(&self) -> Option<(Replay, Vec<PartReading>)> {
        let replay = Topics::next_replay(&self.handle)?;
        let read = |part: &Part| {
            PartReading::Pending(replay.rule.log.read(&Query {
                pattern: part.pattern.clone(),
                range: Range::After(part.position),
                messages: PAGE,
                bytes: PAGE_BYTES,
            }))
        };
        let readings = replay.parts.iter().map(read).collect();
        Some((replay, readings))
    }

    /// Sends the pages of a replay, merged. Ends the replay if nothing is left.
    fn send_pages(&self, replay: &Replay, readings: Vec<PartReading>) {
        let pages: Vec<Page> = readings.into_iter().filter_map(PartReading::page).collect();
        let mut next = u64::MAX;
        let (mut more, mut is_trimmed) = (false, false);
        for (part, page) in replay.parts.iter().zip(&pages) {
            // Others may have messages between what was read of this one and of them.
            next = next.min(page.next);
            more |= page.more;
            is_trimmed |= page.trimmed_to > part.position.max(part.told);
        }
        let handle = &self.handle;
        let told: Vec<_> = pages.iter().map(|page| page.trimmed_to).collect();
        if !Topics::advance(handle, replay, next, &told) {
            return;
        }
        handle.settle_losses();
        if is_trimmed {
            self.push_lost(replay);
        }
        let is_merged = pages.len() > 1;
        let mut messages: Vec<_> = pages.into_iter().flat_map(|page| page.messages).collect();
        if is_merged {
            messages.retain(|message| message.offset <= next);
            messages.sort_unstable_by_key(|message| message.offset);
            messages.dedup_by_key(|message| message.offset);
        }
        let mut frames = Vec::new();
        let mut count = 0;
        for message in &messages {
            if message.frame.len() < SHARE_FROM {
                frames.extend_from_slice(&message.frame);
                count += 1;
                continue;
            }
            let _ = (handle.outbox).push_frames(&mut frames, mem::take(&mut count));
            let _ = handle.outbox.push_shared(&message.frame);
        }
        let _ = handle.outbox.push_frames(&mut frames, count);
        let sent = messages.len() as u64;
        (self.broker.metrics.turns.messages_out).fetch_add(sent, Relaxed);
        if !more {
            self.end_replay(replay, next);
        }
    }

    /// Tells the peer that kept messages were trimmed before it has got them.
    fn push_lost(&self, replay: &Replay) {
        for part in &replay.parts {
            let pattern = protocol::json_string(&part.pattern);
            let _ = self.handle.outbox.push(&version_2::gap(&pattern, "null"));
        }
    }

    /// Ends a replay if the log has nothing behind this position.
    fn end_replay(&self, replay: &Replay, position: u64) {
        let _order = replay.rule.order.lock();
        if replay.rule.log.last() <= position {
            self.broker.topics.end_replay(&self.handle, replay);
        }
    }

    /// Command `history`: reads kept messages. It is executed again and again until they are read.
    pub(super) fn history(
        &mut self,
        raw: &RawSubscription<'_>,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        if self.reading_history.is_some() {
            self.poll_history(cx, turn);
            return Ok(());
        }
        let options = &self.broker.options;
        let query = match self.handle.uses_version_2() {
            true => raw.check_history(options.max_id_length)?,
            false => return Err(ActionError::UnknownAction("history".to_owned())),
        };
        let HistoryQuery {
            pattern,
            reference,
            after,
            before,
            limit,
        } = query;
        let is_allowed = self.access.may_subscribe(&pattern, self.id.as_deref())
            || Topics::is_exempt(&self.handle, &pattern, None);
        if !is_allowed {
            return Err(ActionError::TopicForbidden("subscribe to", pattern.into()));
        }
        let Some(rule) = self.broker.kept.rule_of_pattern(&pattern) else {
            return Err(ActionError::NotKept(pattern.into()));
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let text = protocol::json_string(&pattern);
        let begin = version_2::history(&text, reference, rule.log.epoch());
        let reading = rule.log.read(&Query {
            pattern: Arc::from(&*pattern),
            range: match (after, before) {
                (Some(after), _) => Range::After(after),
                (None, before) => Range::Before(before.unwrap_or(rule.log.last() + 1)),
            },
            messages: limit.min(HISTORY),
            bytes: HISTORY_BYTES,
        });
        self.reading_history = Some(Box::new(ReadingHistory { begin, reading }));
        self.poll_history(cx, turn);
        Ok(())
    }

    /// Answers a `history` once it is read.
    fn poll_history(&mut self, cx: &mut Context<'_>, turn: &mut Turn) {
        let Some(history) = &mut self.reading_history else {
            return;
        };
        let Poll::Ready(page) = history.reading.as_mut().poll(cx) else {
            return;
        };
        let page = page.unwrap_or_default();
        let end = version_2::history_end(page.next, page.more);
        let mut text = mem::take(&mut history.begin).into_bytes();
        for (place, message) in page.messages.iter().enumerate() {
            if place > 0 {
                text.push(b',');
            }
            text.extend_from_slice(framing::payload_of(&message.frame));
        }
        text.extend_from_slice(end.as_bytes());
        self.reading_history = None;
        let text = String::from_utf8(text).unwrap_or_default();
        let pushed = self.handle.outbox.push(&[&text]);
        turn.pushed(&self.handle, pushed);
    }
}

//! Who awaits which answer.
//!
//! A request is known by its ack, which the asker made. Only connections to which it was
//! delivered may answer it, each once, and it is forgotten when it has as many answers as it
//! wants, when its time is up, when its asker is gone or has cancelled it, or when nobody is left
//! who could answer.
//!
//! Whoever ends a request, or a receiver's part in it, does so under the shard's lock, and is the
//! only one: so each outcome is told once. It is told by the caller, when no lock is held. Two
//! outcomes of one request may therefore overtake each other; they concern different receivers,
//! and whoever asked counts them. Only a `cancel` must not overtake the message that it is about:
//! while a request is being delivered, what is to be cancelled is put aside.
//!
//! Locks: a shard's lock may be held while a book's, or what was put aside, is taken, never the
//! other way round.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `pending` | what is pending under an ack, and how it ends |
//! | `responders` | who may answer, and what must be known of them |
//! | `queue` | requests by age, and by the time at which they end |
//! | `outcome` | what is to be told, and to whom |
//! | `between` | what brokers of a cluster tell each other of requests |

mod outcome;
mod pending;
mod queue;
mod remote;
mod responders;

use std::{
    hash::BuildHasher,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

#[cfg(not(feature = "bench"))]
use foldhash::quality::RandomState;

#[cfg(feature = "bench")]
use crate::bench::NumberedState as RandomState;

use crate::{
    broker::handle::Handle,
    error::ActionError,
    memory::{Charge, Memory, REQUEST},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
pub(crate) use outcome::{DeliveryError, Notification, Notifications};
use pending::{Pending, Shard};
use queue::RequestQueue;
use responders::Responders;

/// Shards of the table: more than threads, so that they seldom meet.
const SHARDS: usize = 16;
/// A table keeps room for this many requests, or for a multiple of those it holds.
const ROOM: usize = 256;
/// Bytes of memory for each connection that may answer a request: its key in the request, and the
/// request in its queue.
const RESPONDER: usize = 64;

/// All pending requests of a server. An ack is hashed once: the same hash chooses the shard and the
/// place in it.
#[derive(Debug)]
pub(crate) struct Requests {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    /// How long an answer is awaited, in milliseconds. May change while the server runs.
    timeout: AtomicU64,
    max_pending: usize,
    memory: Arc<Memory>,
}

/// A request, as the queues know it: they hold it weakly, for it lives as long as it is pending.
#[derive(Debug)]
pub(crate) struct Request {
    ack: Arc<str>,
    /// The ack's.
    hash: u64,
    /// Who asked is told what becomes of it: it spoke version 2.
    is_told: bool,
    /// While its messages are being delivered, if one of those who get them is to be told of its
    /// end: those that are to be told, once that is done, that nobody awaits their answers.
    late: Mutex<Option<Vec<Arc<Handle>>>>,
}

/// A question, as it is put to others.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    /// The ack, as a key.
    pub(crate) ack: &'a str,
    pub(crate) asker: &'a Arc<Handle>,
    /// Those who may answer.
    pub(crate) receivers: &'a [Arc<Handle>],
    /// How each of them was found.
    pub(crate) names: &'a [Name<'a>],
    /// Answers that end it.
    pub(crate) answers: u32,
    /// The time it has, if that is less than all have.
    pub(crate) timeout: Option<Duration>,
}

/// The id by which a receiver was found, and the number of the registration by which it owned it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    pub(crate) id: &'a str,
    pub(crate) registration: u64,
}

/// A receiver's part in a request, as it has ended.
#[derive(Debug)]
pub(crate) struct ResponderDone {
    pub(crate) asker: Arc<Handle>,
    /// The id by which it was asked, where the asker is at another broker.
    pub(crate) dest: Option<Arc<str>>,
    /// The request has ended with it.
    pub(crate) ended: bool,
}

/// What came of a question.
#[derive(Debug)]
pub(crate) enum Opened {
    /// Its messages may go out. With a request: to be followed by [`Requests::delivered`].
    Asked(Option<Arc<Request>>),
    /// Not yet: another one under the same ack was over, and has ended. What becomes of that is told
    /// first, for it names nothing but the ack: behind the new messages it would end the new request.
    Over,
}

/// The requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct ConnectionRequests {
    /// Those it asked, oldest first.
    asked: RequestQueue,
    /// Those it may answer. Tagged, for those who are told, with the hash of the id by which it was
    /// asked.
    owed: RequestQueue,
    /// Deliveries it awaits an answer for: requests times receivers.
    deliveries: usize,
    /// Bytes of memory charged for those it asked.
    charged: usize,
    /// The connection has ended, for this reason: it can answer nothing any more.
    gone: Option<DeliveryError>,
    /// The last of its registrations that another connection has taken over.
    lost: u64,
}

impl Request {
    /// The ack, as a key.
    pub(crate) fn ack(&self) -> &str {
        &self.ack
    }

    /// Tells one that was asked that nobody awaits its answer: behind the message, if that is still
    /// to come.
    fn cancel(&self, responder: Arc<Handle>, outcomes: &mut Notifications) {
        match &mut *self.late.lock() {
            Some(late) => late.push(responder),
            None => outcomes.push(Notification::Cancelled {
                responder,
                ack: self.ack.clone(),
            }),
        }
    }
}

impl Requests {
    pub(crate) fn new(timeout: Duration, max_pending: usize, memory: Arc<Memory>) -> Self {
        let requests = Self {
            shards: Default::default(),
            hasher: RandomState::default(),
            timeout: AtomicU64::new(0),
            max_pending,
            memory,
        };
        requests.set_timeout(timeout);
        requests
    }

    pub(crate) fn set_timeout(&self, timeout: Duration) {
        let millis = timeout.as_millis().try_into().unwrap_or(u64::MAX);
        self.timeout.store(millis, Relaxed);
    }

    /// How many requests await an answer.
    pub(crate) fn count(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().pending.len())
            .sum()
    }

    /// A table uses the lowest and the highest bits of a hash: these are neither.
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// Errors: `AckTaken` if the ack belongs to a pending request of another connection.
    pub(crate) fn check(
        &self,
        ack: &str,
        asker: &Arc<Handle>,
        now: Instant,
    ) -> Result<(), ActionError> {
        let hash = self.hasher.hash_one(ack);
        match self.shard(hash).lock().find(hash, ack) {
            Some(pending) => pending.check(asker, now),
            None => Ok(()),
        }
    }

    /// Remembers who awaits an answer, and from whom.
    ///
    /// Errors: `AckTaken` if the ack belongs to a pending request of another connection.
    pub(crate) fn open(
        &self,
        question: &Question<'_>,
        now: Instant,
        outcomes: &mut Notifications,
    ) -> Result<Opened, ActionError> {
        let Question { ack, asker, .. } = *question;
        let hash = self.hasher.hash_one(ack);
        let mut shard = self.shard(hash).lock();
        let (request, is_late) = match shard.entry(hash, ack) {
            Some(mut entry) if !entry.get().is_over(now) => {
                let pending = entry.get_mut();
                pending.check(asker, now)?;
                let is_late = pending.add(question, false, &self.hasher, outcomes);
                (pending.request.clone(), is_late)
            }
            Some(over) => {
                let over = over.remove().0;
                shard.finish(over, Some(DeliveryError::Timeout), outcomes);
                return Ok(Opened::Over);
            }
            None => self.insert(&mut shard, hash, question, now, outcomes),
        };
        drop(shard);
        self.keep_within_limit(asker, outcomes);
        Ok(Opened::Asked(is_late.then_some(request)))
    }

    /// The request, and whether it is to be followed by [`delivered`](Self::delivered).
    fn insert(
        &self,
        shard: &mut Shard,
        hash: u64,
        question: &Question<'_>,
        now: Instant,
        outcomes: &mut Notifications,
    ) -> (Arc<Request>, bool) {
        let ack: Arc<str> = question.ack.into();
        let count = question.receivers.len();
        let size = REQUEST + ack.len() + count * RESPONDER;
        let request = Arc::new(Request {
            ack,
            hash,
            is_told: question.asker.speaks_2(),
            late: Mutex::new(None),
        });
        let usual = Duration::from_millis(self.timeout.load(Relaxed));
        let own = question.timeout.filter(|own| *own < usual);
        let mut pending = Pending {
            request: request.clone(),
            asker: question.asker.clone(),
            deadline: now + own.unwrap_or(usual),
            answers: question.answers,
            responders: Responders::with_capacity(count),
            charge: Charge::new(&self.memory, size),
        };
        let is_late = pending.add(question, true, &self.hasher, outcomes);
        if pending.responders.is_empty() {
            pending.ended(None, outcomes);
        } else {
            let deadline = pending.deadline;
            shard.deadlines.push(deadline, own.is_some(), &request);
            shard.insert(pending);
        }
        (request, is_late)
    }

    /// Lets the oldest requests of a connection expire until it is within its limit.
    fn keep_within_limit(&self, asker: &Handle, outcomes: &mut Notifications) {
        loop {
            let oldest = {
                let mut book = asker.book.lock();
                // Where many ask, their own broker sees to that.
                if asker.remote || book.deliveries <= self.max_pending {
                    return;
                }
                book.asked.items.pop_front()
            };
            match oldest {
                Some((request, _)) => self.end(&request, Some(DeliveryError::Timeout), outcomes),
                None => return,
            }
        }
    }

    /// All messages of a request are in the outboxes of those it was for.
    pub(crate) fn delivered(&self, request: &Request, outcomes: &mut Notifications) {
        let late = request.late.lock().take().unwrap_or_default();
        outcomes.extend(late.into_iter().map(|responder| Notification::Cancelled {
            responder,
            ack: request.ack.clone(),
        }));
    }

    /// Takes an answer, if this one may answer and still can.
    pub(crate) fn answer(
        &self,
        ack: &str,
        responder: &Handle,
        now: Instant,
        outcomes: &mut Notifications,
    ) -> Option<ResponderDone> {
        self.take(ack, responder, 1, now, outcomes)
    }

    /// Takes a refusal, if this one may answer.
    pub(crate) fn refuse(
        &self,
        ack: &str,
        responder: &Handle,
        now: Instant,
        outcomes: &mut Notifications,
    ) -> Option<ResponderDone> {
        self.take(ack, responder, 0, now, outcomes)
    }

    /// Ends a receiver's part; `answers`: for how many that counts.
    fn take(
        &self,
        ack: &str,
        responder: &Handle,
        answers: u32,
        now: Instant,
        outcomes: &mut Notifications,
    ) -> Option<ResponderDone> {
        let hash = self.hasher.hash_one(ack);
        let mut shard = self.shard(hash).lock();
        let mut entry = shard.entry(hash, ack)?;
        let pending = entry.get_mut();
        if !pending.responders.contains(responder.key) {
            return None;
        }
        if pending.is_over(now) {
            let over = entry.remove().0;
            shard.finish(over, Some(DeliveryError::Timeout), outcomes);
            return None;
        }

        // Who asks from another broker is told whose answer it is.
        let dest = match pending.asker.remote {
            true => pending
                .responders
                .get(responder.key)
                .and_then(|known| known.id.clone()),
            false => None,
        };
        pending.answers -= answers;
        if pending.answers > 0 && pending.responders.len() > 1 {
            pending.responders.end(responder.key);
            pending.asker.book.lock().deliveries -= 1;
            let asker = pending.asker.clone();
            return Some(ResponderDone {
                asker,
                dest,
                ended: false,
            });
        }
        pending.responders.forget(responder.key);
        let pending = entry.remove().0;
        let asker = shard.finish(pending, None, outcomes);
        Some(ResponderDone {
            asker,
            dest,
            ended: true,
        })
    }

    /// Ends a request that this connection asked, if it is pending.
    pub(crate) fn cancel(&self, ack: &str, asker: &Arc<Handle>, outcomes: &mut Notifications) {
        let hash = self.hasher.hash_one(ack);
        let mut shard = self.shard(hash).lock();
        if let Some(entry) = shard.entry(hash, ack)
            && Arc::ptr_eq(&entry.get().asker, asker)
        {
            let pending = entry.remove().0;
            shard.finish(pending, None, outcomes);
        }
    }

    fn end(
        &self,
        request: &Weak<Request>,
        fault: Option<DeliveryError>,
        outcomes: &mut Notifications,
    ) {
        if let Some(request) = request.upgrade() {
            let mut shard = self.shard(request.hash).lock();
            shard.end(&request, fault, outcomes);
        }
    }

    /// Forgets all that a connection asked.
    pub(crate) fn cancel_all(&self, handle: &Handle, outcomes: &mut Notifications) {
        let asked = std::mem::take(&mut handle.book.lock().asked);
        for (request, _) in asked.items {
            self.end(&request, None, outcomes);
        }
    }

    /// Forgets all that a connection asked or could have answered; `fault`: why it ends.
    pub(crate) fn disconnect(
        &self,
        handle: &Handle,
        fault: DeliveryError,
        outcomes: &mut Notifications,
    ) {
        let owed = {
            let mut book = handle.book.lock();
            book.gone.get_or_insert(fault);
            std::mem::take(&mut book.owed)
        };
        self.cancel_all(handle, outcomes);
        let owed = owed.items.into_iter();
        for request in owed.filter_map(|(request, _)| request.upgrade()) {
            let mut shard = self.shard(request.hash).lock();
            shard.fail_responder(&request, handle, None, fault, outcomes);
        }
    }

    /// Another connection has taken over the id that this one owned by that registration: what
    /// was delivered to it by that id it can not answer any more, and is told so. For those who
    /// asked in version 1 nothing changes.
    pub(crate) fn replaced(
        &self,
        former: &Handle,
        id: &str,
        registration: u64,
        outcomes: &mut Notifications,
    ) {
        let tag = self.hasher.hash_one(id);
        let owed: Vec<_> = {
            let mut book = former.book.lock();
            // What is about to be opened for that registration is not, from here on.
            book.lost = book.lost.max(registration);
            book.owed.tagged(tag)
        };
        for request in owed {
            let mut shard = self.shard(request.hash).lock();
            shard.fail_responder(
                &request,
                former,
                Some(id),
                DeliveryError::Replaced,
                outcomes,
            );
        }
    }

    /// Forgets what is left of ended requests by their time. True if there were any: connections have them
    /// in their queues, which are theirs to sweep ([`ConnectionRequests::sweep`]).
    pub(crate) fn sweep(&self) -> bool {
        let mut were_any = false;
        for shard in &self.shards {
            let mut shard = shard.lock();
            if std::mem::take(&mut shard.is_littered) {
                shard.deadlines.sweep();
                were_any = true;
            }
        }
        were_any
    }

    /// Forgets the requests whose time is up; `tell` is called when no lock is held.
    pub(crate) fn expire(&self, now: Instant, mut tell: impl FnMut(&mut Notifications)) {
        let mut outcomes = Notifications::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            while let Some(request) = shard.deadlines.pop(now) {
                shard.end(&request, Some(DeliveryError::Timeout), &mut outcomes);
            }
            // After a rush, its memory is given back.
            shard.shrink(ROOM);
            drop(shard);
            if !outcomes.is_empty() {
                tell(&mut outcomes);
            }
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
impl Requests {
    /// Who asked under which ack, and who may answer.
    pub(crate) fn pending(&self) -> std::collections::HashMap<String, (u64, Vec<u64>)> {
        let mut all = std::collections::HashMap::new();
        for shard in &self.shards {
            for pending in &shard.lock().pending {
                let (ack, responders) = (&pending.request.ack, pending.responders.keys());
                all.insert(ack.to_string(), (pending.asker.key, responders));
            }
        }
        all
    }

    /// How many requests wait for their time, the ended ones included.
    pub(crate) fn deadlines(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().deadlines.len())
            .sum()
    }
}

#[cfg(test)]
impl Opened {
    /// What is to be followed by [`Requests::delivered`].
    pub(crate) fn asked(self) -> Option<Arc<Request>> {
        match self {
            Self::Asked(request) => request,
            Self::Over => panic!("another one was over"),
        }
    }
}

impl ConnectionRequests {
    /// Bytes of memory charged for what it asked.
    pub(crate) fn charged(&self) -> usize {
        self.charged
    }

    /// Forgets the requests that have ended.
    pub(crate) fn sweep(&mut self) {
        self.asked.sweep();
        self.owed.sweep();
    }
}

#[cfg(test)]
impl ConnectionRequests {
    /// Deliveries that await an answer.
    pub(crate) fn deliveries(&self) -> usize {
        self.deliveries
    }

    pub(crate) fn len(&self) -> usize {
        self.asked.items.len() + self.owed.items.len()
    }
}

//! Pending requests and how each ends.
//!
//! A request is identified by its `ack`, a value that the asker chose. Only connections to which it was
//! delivered may answer it, each once. It ends when it has all its answers, on timeout, when its asker
//! disconnects or cancels it, or when no responder is left.
//!
//! A request, or a responder's part in it, ends under the lock of its shard, so no end is
//! reported twice. The caller sends notifications after it has released the lock. Two notifications
//! of one request may therefore overtake each other, without harm: they concern different receivers, and
//! the asker counts them. A `cancel` must not overtake its message: while a request is being delivered, its
//! cancellations are deferred.
//!
//! Lock order: shard, then a connection's requests (`Handle::requests`) or the deferred cancellations.
//!
//! | file | contents |
//! | --- | --- |
//! | `pending` | pending requests of a shard, and how they end |
//! | `responders` | connections that may answer a request |
//! | `connection` | requests of one connection, and how they end with it |
//! | `expiry` | timeouts, and the sweep of ended requests |
//! | `queue` | requests of a connection by age, and of a shard by deadline |
//! | `delivery_error` | reasons why a message is not delivered or not answered |
//! | `outcome` | how a request has ended, for the metrics |
//! | `remote` | operations for requests that cross brokers |

mod connection;
mod delivery_error;
mod expiry;
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

use tokio::sync::Notify;

#[cfg(not(feature = "bench"))]
use foldhash::quality::RandomState;

#[cfg(feature = "bench")]
use crate::bench::NumberedState as RandomState;

pub(crate) use super::notifications::{Notification, Notifications};
use crate::{
    broker::handle::Handle,
    error::ActionError,
    memory::{Charge, Memory, REQUEST},
    metrics::{ByLabel, Histogram, Times},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};
pub(crate) use connection::ConnectionRequests;
pub(crate) use delivery_error::DeliveryError;
use outcome::{Ended, OUTCOMES};
use pending::{Pending, Shard};
use responders::Responders;

/// Shards of the table: more than threads, to avoid lock contention.
const SHARDS: usize = 16;
/// The duration of one of this many requests is measured, chosen by the hash of its ack.
const MEASURED: u64 = 8;
/// Bytes charged for each responder of a request: its key in the request, and its queue entry.
const RESPONDER: usize = 64;

/// All pending requests of a broker. An ack is hashed once, for the shard and for the place in it.
#[derive(Debug)]
pub(crate) struct Requests {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    /// Timeout of requests in milliseconds. May change at run time.
    timeout: AtomicU64,
    max_pending: usize,
    memory: Arc<Memory>,
    /// Times from requests to their last wanted answers.
    durations: Histogram,
    /// True while the task that expires requests sleeps longer, because none is pending.
    idle: AtomicBool,
    /// Notified by the first request thereafter.
    opened: Notify,
}

/// Identity of a request. Queues hold it weakly: it is alive as long as it is pending.
#[derive(Debug)]
pub(crate) struct Request {
    ack: Arc<str>,
    /// Hash of the ack.
    hash: u64,
    /// True if the asker spoke version 2: it is notified of failures.
    notifies_asker: bool,
    /// Cancellations deferred until the messages of the request are delivered. `None` unless it is being
    /// delivered and a responder is to be notified of its end.
    deferred_cancels: Mutex<Option<Vec<Arc<Handle>>>>,
}

/// A request to be opened.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    /// The ack, as a key.
    pub(crate) ack: &'a str,
    pub(crate) asker: &'a Arc<Handle>,
    /// Receivers, which may answer.
    pub(crate) receivers: &'a [Arc<Handle>],
    /// Id and registration of each receiver, in the order of `receivers`.
    pub(crate) names: &'a [Name<'a>],
    /// Number of answers that end the request.
    pub(crate) answers: u32,
    /// Timeout of this request, if shorter than the general one.
    pub(crate) timeout: Option<Duration>,
}

/// Id of a receiver, and the number of its registration when it was looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    pub(crate) id: &'a str,
    pub(crate) registration: u64,
}

/// Result of an answer or refusal: the responder's part in the request has ended, and the asker is to get it.
#[must_use]
#[derive(Debug)]
pub(crate) struct ResponderDone {
    pub(crate) asker: Arc<Handle>,
    /// Id that was asked, if the asker is at another broker.
    pub(crate) dest: Option<Arc<str>>,
    /// True if the request has ended as well.
    pub(crate) ended: bool,
}

/// Result of opening a request.
#[must_use]
#[derive(Debug)]
pub(crate) enum Opened {
    /// The messages may be delivered. With a request, [`Requests::delivered`] must follow.
    Pending(Option<Arc<Request>>),
    /// An expired request with the same ack was ended instead. Its notifications must be sent before the
    /// request is opened: they carry only the ack, and after the new messages they would end the new
    /// request.
    Expired,
}

impl Request {
    /// The ack, as a key.
    pub(crate) fn ack(&self) -> &str {
        &self.ack
    }

    /// Cancels a responder; deferred while the message is being delivered.
    fn cancel(&self, responder: Arc<Handle>, notifications: &mut Notifications) {
        match &mut *self.deferred_cancels.lock() {
            Some(deferred) => deferred.push(responder),
            None => notifications.push(Notification::Cancelled {
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
            durations: Histogram::default(),
            idle: AtomicBool::new(false),
            opened: Notify::new(),
        };
        requests.set_timeout(timeout);
        requests
    }

    /// Number of pending requests.
    pub(crate) fn count(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().pending.len())
            .sum()
    }

    /// Requests that have ended so far, by outcome.
    pub(crate) fn outcomes(&self) -> ByLabel {
        let mut outcomes = OUTCOMES.map(|name| (name, 0));
        for shard in &self.shards {
            let shard = shard.lock();
            for ((_, sum), count) in outcomes.iter_mut().zip(shard.outcomes) {
                *sum += count;
            }
        }
        ByLabel(outcomes.into())
    }

    /// Counts a request that no receiver got, for this reason.
    #[cold]
    pub(crate) fn count_failed(&self, error: DeliveryError) {
        let mut shard = self.shards[0].lock();
        shard.outcomes[Ended::By(error).index()] += 1;
    }

    /// Times from requests to their last wanted answers.
    pub(crate) fn durations(&self) -> Times {
        self.durations.snapshot()
    }

    /// Uses bits of the hash that the tables of the shards do not use (they use the lowest and the
    /// highest).
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// Errors: `AckTaken` if another connection has a pending request with this ack.
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

    /// Opens a request, or adds responders to the pending one of this asker.
    ///
    /// Errors: `AckTaken` if another connection has a pending request with this ack.
    pub(crate) fn open(
        &self,
        question: &Question<'_>,
        now: Instant,
        notifications: &mut Notifications,
    ) -> Result<Opened, ActionError> {
        let Question { ack, asker, .. } = *question;
        let hash = self.hasher.hash_one(ack);
        let mut shard = self.shard(hash).lock();
        let (request, defers_cancels) = match shard.entry(hash, ack) {
            Some(mut entry) if !entry.get().is_over(now) => {
                let pending = entry.get_mut();
                pending.check(asker, now)?;
                let defers_cancels = pending.add(question, false, &self.hasher, notifications);
                (pending.request.clone(), defers_cancels)
            }
            Some(over) => {
                let over = over.remove().0;
                shard.finish(over, Ended::Failed(DeliveryError::Timeout), notifications);
                return Ok(Opened::Expired);
            }
            None => self.insert(&mut shard, hash, question, now, notifications),
        };
        drop(shard);
        self.keep_within_limit(asker, notifications);
        Ok(Opened::Pending(defers_cancels.then_some(request)))
    }

    /// Returns the request, and whether [`delivered`](Self::delivered) must follow.
    fn insert(
        &self,
        shard: &mut Shard,
        hash: u64,
        question: &Question<'_>,
        now: Instant,
        notifications: &mut Notifications,
    ) -> (Arc<Request>, bool) {
        let ack: Arc<str> = question.ack.into();
        let count = question.receivers.len();
        let size = REQUEST + ack.len() + count * RESPONDER;
        let request = Arc::new(Request {
            ack,
            hash,
            notifies_asker: question.asker.uses_version_2(),
            deferred_cancels: Mutex::new(None),
        });
        let usual = Duration::from_millis(self.timeout.load(Relaxed));
        let own = question.timeout.filter(|own| *own < usual);
        let timeout = own.unwrap_or(usual);
        let mut pending = Pending {
            request: request.clone(),
            asker: question.asker.clone(),
            deadline: now + timeout,
            timeout: timeout.as_millis().try_into().unwrap_or(u32::MAX),
            answers: question.answers,
            responders: Responders::with_capacity(count),
            charge: Charge::new(&self.memory, size),
        };
        let defers_cancels = pending.add(question, true, &self.hasher, notifications);
        if pending.responders.is_empty() {
            shard.finish(pending, Ended::By(DeliveryError::Gone), notifications);
        } else {
            let deadline = pending.deadline;
            shard.deadlines.push(deadline, own.is_some(), &request);
            shard.insert(pending);
            // Under the lock of the shard, which `await_pending` takes between its write and its sleep.
            if self.idle.load(Relaxed) {
                self.wake_expiry();
            }
        }
        (request, defers_cancels)
    }

    /// Expires the oldest requests of a connection until it is within `max_pending_acks`.
    fn keep_within_limit(&self, asker: &Handle, notifications: &mut Notifications) {
        loop {
            let oldest = {
                let mut requests = asker.requests.lock();
                // Remote askers are limited by their own broker.
                if asker.remote || requests.deliveries <= self.max_pending {
                    return;
                }
                requests.outgoing.items.pop_front()
            };
            match oldest {
                Some((request, _)) => self.end(
                    &request,
                    Ended::Failed(DeliveryError::Timeout),
                    notifications,
                ),
                None => return,
            }
        }
    }

    /// Ends the delivery of a request: sends its deferred cancellations.
    pub(crate) fn delivered(&self, request: &Request, notifications: &mut Notifications) {
        let deferred = request.deferred_cancels.lock().take().unwrap_or_default();
        notifications.extend(
            deferred
                .into_iter()
                .map(|responder| Notification::Cancelled {
                    responder,
                    ack: request.ack.clone(),
                }),
        );
    }

    /// Accepts an answer if this responder may still give one.
    pub(crate) fn answer(
        &self,
        ack: &str,
        responder: &Handle,
        now: Instant,
        notifications: &mut Notifications,
    ) -> Option<ResponderDone> {
        self.take(ack, responder, 1, now, notifications)
    }

    /// Accepts a refusal if this responder may still answer.
    pub(crate) fn refuse(
        &self,
        ack: &str,
        responder: &Handle,
        now: Instant,
        notifications: &mut Notifications,
    ) -> Option<ResponderDone> {
        self.take(ack, responder, 0, now, notifications)
    }

    /// Ends a responder's part. `answers`: 1 for an answer, 0 for a refusal.
    fn take(
        &self,
        ack: &str,
        responder: &Handle,
        answers: u32,
        now: Instant,
        notifications: &mut Notifications,
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
            shard.finish(over, Ended::Failed(DeliveryError::Timeout), notifications);
            return None;
        }

        // An asker at another broker gets the id that was asked.
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
            pending.asker.requests.lock().deliveries -= 1;
            let asker = pending.asker.clone();
            return Some(ResponderDone {
                asker,
                dest,
                ended: false,
            });
        }
        pending.responders.forget(responder.key);
        let pending = entry.remove().0;
        let ended = match answers {
            0 => Ended::Rejected,
            _ => {
                if hash.is_multiple_of(MEASURED) {
                    self.measure(&pending, now);
                }
                Ended::Answered
            }
        };
        let asker = shard.finish(pending, ended, notifications);
        Some(ResponderDone {
            asker,
            dest,
            ended: true,
        })
    }

    /// Records the duration of an answered request. One from another broker is measured there.
    #[cold]
    fn measure(&self, pending: &Pending, now: Instant) {
        if !pending.asker.remote
            && let Some(age) = pending.age(now)
        {
            self.durations.record(age);
        }
    }

    /// Ends a pending request of this connection.
    pub(crate) fn cancel(&self, ack: &str, asker: &Arc<Handle>, notifications: &mut Notifications) {
        let hash = self.hasher.hash_one(ack);
        let mut shard = self.shard(hash).lock();
        if let Some(entry) = shard.entry(hash, ack)
            && Arc::ptr_eq(&entry.get().asker, asker)
        {
            let pending = entry.remove().0;
            shard.finish(pending, Ended::Cancelled, notifications);
        }
        drop(shard);
        asker.requests.lock().cancel_queued(ack);
    }

    fn end(&self, request: &Weak<Request>, ended: Ended, notifications: &mut Notifications) {
        if let Some(request) = request.upgrade() {
            let mut shard = self.shard(request.hash).lock();
            shard.end(&request, ended, notifications);
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
impl Requests {
    /// Asker and responders of each ack.
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
}

#[cfg(test)]
impl Opened {
    /// The request for which [`Requests::delivered`] must be called.
    pub(crate) fn pending(self) -> Option<Arc<Request>> {
        match self {
            Self::Pending(request) => request,
            Self::Expired => panic!("another one was over"),
        }
    }
}

//! Who awaits which answer.
//!
//! A request is known by its ack, which the asker made. Only connections to which it was
//! delivered may answer it, the first answer wins, and it is forgotten when it is answered, when
//! its time is up, when its asker is gone, or when nobody is left who could answer.
//!
//! Locks: a shard's lock may be held while a book's is taken, never the other way round.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

#[cfg(not(feature = "bench"))]
use foldhash::quality::RandomState;

#[cfg(feature = "bench")]
use crate::bench::NumberedState as RandomState;

use crate::{
    error::ActionError,
    handle::Handle,
    memory::{Charge, Memory, REQUEST},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Shards of the table: more than threads, so that they seldom meet.
const SHARDS: usize = 16;
/// A table keeps room for this many requests, or for a multiple of those it holds.
const ROOM: usize = 256;
/// Bytes of memory for each connection that may answer a request: its key, twice.
const RESPONDER: usize = 32;
/// Ended requests are swept from a queue when it has at least this length, and has doubled.
const SWEEP_FROM: usize = 64;

/// All pending requests of a server.
#[derive(Debug)]
pub(crate) struct Requests {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    /// How long an answer is awaited, in milliseconds. May change while the server runs.
    timeout: AtomicU64,
    max_pending: usize,
    memory: Arc<Memory>,
}

#[derive(Debug, Default)]
struct Shard {
    pending: HashMap<Arc<str>, Pending, RandomState>,
    /// By deadline. Ended requests stay until they are swept.
    deadlines: Queue<(Instant, Weak<Request>)>,
}

#[derive(Debug)]
struct Pending {
    request: Arc<Request>,
    asker: Arc<Handle>,
    deadline: Instant,
    /// Keys of the connections that may answer, in order.
    responders: Vec<u64>,
    charge: Charge,
}

/// A request, as the queues know it: they hold it weakly, for it lives as long as it is pending.
#[derive(Debug)]
pub(crate) struct Request {
    ack: Arc<str>,
}

/// The requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Those it asked, oldest first.
    asked: Queue<Weak<Request>>,
    /// Those it may answer.
    owed: Queue<Weak<Request>>,
    /// Deliveries it awaits an answer for: requests times receivers.
    deliveries: usize,
    /// Bytes of memory charged for those it asked.
    charged: usize,
    /// The connection has ended: it can answer nothing any more.
    gone: bool,
}

/// A queue in which ended requests are left behind, and swept now and then.
#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    sweep_at: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            items: VecDeque::new(),
            sweep_at: SWEEP_FROM,
        }
    }
}

impl<T> Queue<T> {
    /// Sweeps if the queue has doubled since the last time.
    fn sweep(&mut self, is_ended: impl Fn(&T) -> bool) {
        if self.items.len() >= self.sweep_at {
            self.items.retain(|item| !is_ended(item));
            self.sweep_at = (self.items.len() * 2).max(SWEEP_FROM);
        }
    }
}

impl Queue<Weak<Request>> {
    fn push(&mut self, request: &Arc<Request>) {
        self.sweep(is_ended);
        self.items.push_back(Arc::downgrade(request));
    }
}

impl Queue<(Instant, Weak<Request>)> {
    /// Adds it in its place: that is the end, unless the timeout has been shortened meanwhile.
    fn push(&mut self, deadline: Instant, request: &Arc<Request>) {
        self.sweep(|(_, old)| is_ended(old));
        let place = self.items.partition_point(|(other, _)| *other <= deadline);
        self.items
            .insert(place, (deadline, Arc::downgrade(request)));
    }
}

fn is_ended(request: &Weak<Request>) -> bool {
    request.strong_count() == 0
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

    fn shard(&self, ack: &str) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(ack) as usize % SHARDS]
    }

    /// Errors: `AckTaken` if the ack belongs to a pending request of another connection.
    pub(crate) fn check(
        &self,
        ack: &str,
        asker: &Arc<Handle>,
        now: Instant,
    ) -> Result<(), ActionError> {
        match self.shard(ack).lock().pending.get(ack) {
            Some(pending) => pending.check(asker, now),
            None => Ok(()),
        }
    }

    /// Remembers that `asker` awaits an answer from any of `responders`.
    ///
    /// Errors: `AckTaken` if the ack belongs to a pending request of another connection.
    pub(crate) fn open(
        &self,
        ack: &str,
        asker: &Arc<Handle>,
        responders: &[Arc<Handle>],
        now: Instant,
    ) -> Result<(), ActionError> {
        let mut shard = self.shard(ack).lock();
        if let Some(pending) = shard.pending.get(ack) {
            pending.check(asker, now)?;
            if pending.is_over(now)
                && let Some(pending) = shard.pending.remove(ack)
            {
                pending.ended();
            }
        }
        let request = match shard.pending.get(ack) {
            Some(pending) => pending.request.clone(),
            None => {
                let ack: Arc<str> = ack.into();
                let request = Arc::new(Request { ack: ack.clone() });
                let deadline = now + Duration::from_millis(self.timeout.load(Relaxed));
                let size = REQUEST + ack.len() + responders.len() * RESPONDER;
                let pending = Pending {
                    request: request.clone(),
                    asker: asker.clone(),
                    deadline,
                    responders: Vec::with_capacity(responders.len()),
                    charge: Charge::new(&self.memory, size),
                };
                shard.pending.insert(ack, pending);
                shard.deadlines.push(deadline, &request);
                let mut book = asker.book.lock();
                book.asked.push(&request);
                book.charged += size;
                request
            }
        };
        let Some(pending) = shard.pending.get_mut(ack) else {
            return Ok(());
        };
        let before = pending.responders.len();
        let mut fresh: Vec<_> = responders
            .iter()
            .filter(|responder| pending.responders.binary_search(&responder.key).is_err())
            .collect();
        // A receiver listed twice answers once.
        fresh.sort_unstable_by_key(|responder| responder.key);
        fresh.dedup_by_key(|responder| responder.key);
        for responder in fresh {
            let mut book = responder.book.lock();
            if !book.gone {
                pending.responders.push(responder.key);
                book.owed.push(&request);
            }
        }
        pending.responders.sort_unstable();
        // Under the shard's lock: whoever ends the request gives back what was counted.
        asker.book.lock().deliveries += pending.responders.len() - before;
        if pending.responders.is_empty()
            && let Some(pending) = shard.pending.remove(ack)
        {
            pending.ended();
        }
        drop(shard);
        self.keep_within_limit(asker);
        Ok(())
    }

    /// Lets the oldest requests of a connection expire until it is within its limit.
    fn keep_within_limit(&self, asker: &Handle) {
        loop {
            let oldest = {
                let mut book = asker.book.lock();
                if book.deliveries <= self.max_pending {
                    return;
                }
                book.asked.items.pop_front()
            };
            match oldest {
                Some(request) => self.end(&request),
                None => return,
            }
        }
    }

    /// Takes an answer: the connection that asked, if this one may answer and is the first.
    pub(crate) fn answer(
        &self,
        ack: &str,
        responder: &Handle,
        now: Instant,
    ) -> Option<Arc<Handle>> {
        let mut shard = self.shard(ack).lock();
        let asked = &shard.pending.get(ack)?.responders;
        if asked.binary_search(&responder.key).is_err() {
            return None;
        }
        let pending = shard.pending.remove(ack)?;
        let is_over = pending.is_over(now);
        let asker = pending.ended();
        (!is_over).then_some(asker)
    }

    fn end(&self, request: &Weak<Request>) {
        if let Some(request) = request.upgrade() {
            self.shard(&request.ack).lock().end(&request);
        }
    }

    /// Forgets all that a connection asked.
    pub(crate) fn withdraw(&self, handle: &Handle) {
        let asked = std::mem::take(&mut handle.book.lock().asked);
        for request in asked.items {
            self.end(&request);
        }
    }

    /// Forgets all that a connection asked or could have answered.
    pub(crate) fn leave(&self, handle: &Handle) {
        let owed = {
            let mut book = handle.book.lock();
            book.gone = true;
            std::mem::take(&mut book.owed)
        };
        self.withdraw(handle);
        for request in owed.items.iter().filter_map(Weak::upgrade) {
            let mut shard = self.shard(&request.ack).lock();
            let Some(pending) = shard.pending_mut(&request) else {
                continue;
            };
            let before = pending.responders.len();
            pending.responders.retain(|key| *key != handle.key);
            pending.asker.book.lock().deliveries -= before - pending.responders.len();
            if pending.responders.is_empty()
                && let Some(pending) = shard.pending.remove(&request.ack)
            {
                pending.ended();
            }
        }
    }

    /// Forgets the requests whose time is up.
    pub(crate) fn expire(&self, now: Instant) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            while let Some((deadline, request)) = shard.deadlines.items.front() {
                let request = request.upgrade();
                if *deadline > now && request.is_some() {
                    break;
                }
                shard.deadlines.items.pop_front();
                if let Some(request) = request {
                    shard.end(&request);
                }
            }
            // After a rush, its memory is given back.
            let room = ROOM.max(shard.pending.len() * 4);
            if shard.pending.capacity() > room * 2 {
                shard.pending.shrink_to(room);
            }
            let room = ROOM.max(shard.deadlines.items.len() * 4);
            if shard.deadlines.items.capacity() > room * 2 {
                shard.deadlines.items.shrink_to(room);
            }
        }
    }
}

impl Shard {
    /// This request, if it is pending: not another one with the same ack.
    fn pending_mut(&mut self, request: &Arc<Request>) -> Option<&mut Pending> {
        let pending = self.pending.get_mut(&request.ack);
        pending.filter(|pending| Arc::ptr_eq(&pending.request, request))
    }

    fn end(&mut self, request: &Arc<Request>) {
        if self.pending_mut(request).is_some()
            && let Some(pending) = self.pending.remove(&request.ack)
        {
            pending.ended();
        }
    }
}

impl Pending {
    /// Its time is up, whether it has been looked for yet or not.
    fn is_over(&self, now: Instant) -> bool {
        self.deadline <= now
    }

    fn check(&self, asker: &Arc<Handle>, now: Instant) -> Result<(), ActionError> {
        match Arc::ptr_eq(&self.asker, asker) || self.is_over(now) {
            true => Ok(()),
            false => Err(ActionError::AckTaken),
        }
    }

    /// Gives its deliveries and its memory back, and tells who asked.
    fn ended(self) -> Arc<Handle> {
        let mut book = self.asker.book.lock();
        book.deliveries -= self.responders.len();
        book.charged -= self.charge.bytes();
        drop(book);
        self.asker
    }
}

#[cfg(test)]
impl Requests {
    /// Who asked under which ack, and who may answer.
    pub(crate) fn pending(&self) -> HashMap<String, (u64, Vec<u64>)> {
        let mut all = HashMap::new();
        for shard in &self.shards {
            for (ack, pending) in &shard.lock().pending {
                all.insert(
                    ack.to_string(),
                    (pending.asker.key, pending.responders.clone()),
                );
            }
        }
        all
    }

    /// How many requests wait for their time, the ended ones included.
    pub(crate) fn deadlines(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().deadlines.items.len())
            .sum()
    }
}

impl Book {
    /// Bytes of memory charged for what it asked.
    pub(crate) fn charged(&self) -> usize {
        self.charged
    }
}

#[cfg(test)]
impl Book {
    /// Deliveries that await an answer.
    pub(crate) fn deliveries(&self) -> usize {
        self.deliveries
    }

    pub(crate) fn len(&self) -> usize {
        self.asked.items.len() + self.owed.items.len()
    }
}

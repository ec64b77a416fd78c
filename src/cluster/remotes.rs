//! The handles of remote ids: made when they are first needed, and given up when
//! they lead nowhere or nobody needs them any more.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::{Cluster, Down, Link, nodes::DEAD, packet, tell};
use crate::{handle::Handle, memory::Charge, requests::Fault, server::Shared, socket::WriteHalf};

const SHARDS: usize = 16;
/// Bytes of memory that a handle takes with its link, about.
const REMOTE: usize = 1 << 10;
/// How long it takes to hear which packets of those that went out together nobody has heard.
const UNSURE: Duration = Duration::from_millis(250);
/// An id from which answers are awaited is asked this often whether they may still come.
const PROBE: Duration = Duration::from_secs(5);
/// A link that is full, and of which nothing is told for this long, may have lost what is under way.
const STALLED: Duration = Duration::from_secs(5);

type Ids = HashMap<Arc<str>, Remote, RandomState>;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    hasher: RandomState,
    ids: [Mutex<Ids>; SHARDS],
    /// By the number of their link.
    links: Mutex<HashMap<u64, Way>>,
}

/// Whose link it is: an id's, or a node's.
#[derive(Debug)]
struct Way {
    handle: Weak<Handle>,
    id: Option<Arc<str>>,
    /// Since when nothing goes by it: of what went before, some may still be told as unheard.
    ended: Option<Instant>,
    /// How many packets were.
    unheard: u64,
    /// It has ended, and what was asked by it has not yet.
    is_unsure: bool,
}

#[derive(Debug)]
struct Remote {
    handle: Arc<Handle>,
    /// Nobody has used it since it was last looked at.
    idle: bool,
    /// When it was asked last what it still owes.
    probed: Instant,
    full: Option<Full>,
    _charge: Charge,
}

/// A link that has no room.
#[derive(Debug, Clone, Copy)]
struct Full {
    /// How often something had been told of it.
    told: u64,
    since: Instant,
    /// How long it may be so.
    limit: Duration,
}

impl Remote {
    /// True if its link is full and nothing is told of it, for long: what is under way may be lost.
    fn is_stalled(&mut self, now: Instant) -> bool {
        let told = link_of(&self.handle).and_then(Link::full);
        let before = self.full.filter(|full| told == Some(full.told));
        self.full = before.or(told.map(|told| Full {
            told,
            since: now,
            limit: STALLED,
        }));
        match &mut self.full {
            Some(full) if now - full.since > full.limit => {
                // It may be slow, and nothing lost: each time that costs some memory there.
                (full.since, full.limit) = (now, full.limit * 2);
                true
            }
            _ => false,
        }
    }
}

impl Remotes {
    fn shard(&self, id: &str) -> &Mutex<Ids> {
        &self.ids[self.hasher.hash_one(id) as usize % SHARDS]
    }

    /// The handle of a remote id, if there is one.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Handle>> {
        let shard = self.shard(id).lock();
        shard.get(id).map(|remote| remote.handle.clone())
    }

    /// The handle with the link of this number, and the id that it is for, unless it is a node's.
    pub(super) fn by_link(&self, number: u64) -> Option<(Arc<Handle>, Option<Arc<str>>)> {
        let links = self.links.lock();
        let way = links.get(&number)?;
        Some((way.handle.upgrade()?, way.id.clone()))
    }

    pub(super) fn count(&self) -> usize {
        self.ids.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Those of whose packets some were unheard, and of the others nothing was heard for a while.
    fn unsure(&self, since: Duration) -> Vec<Arc<Handle>> {
        let mut links = self.links.lock();
        let is_due = |way: &&mut Way| {
            way.is_unsure && way.ended.is_some_and(|ended| ended.elapsed() >= since)
        };
        links
            .values_mut()
            .filter(is_due)
            .filter_map(|way| {
                way.is_unsure = false;
                way.handle.upgrade()
            })
            .collect()
    }

    pub(super) fn all(&self) -> Vec<(Arc<str>, Arc<Handle>)> {
        let shards = self.ids.iter();
        shards
            .flat_map(|shard| {
                let shard = shard.lock();
                let handles =
                    (shard.iter()).map(|(id, remote)| (id.clone(), remote.handle.clone()));
                handles.collect::<Vec<_>>()
            })
            .collect()
    }
}

impl Cluster {
    /// The handle of an id that is not here.
    pub(crate) fn remote(&self, shared: &Shared, id: &str) -> Result<Arc<Handle>, Down> {
        if !self.is_up() {
            return Err(Down);
        }
        let mut shard = self.remotes.shard(id).lock();
        if let Some(remote) = shard.get_mut(id) {
            remote.idle = false;
            return Ok(remote.handle.clone());
        }
        // Who sends to ids that nobody has makes one after the other.
        if shared.memory.is_short() {
            return Err(Down);
        }
        let head = packet::frames_head(id, self.epoch());
        let id: Arc<str> = id.into();
        let handle = self.handle(shared, self.subjects.to(&id), head, Some(id.clone()));
        let remote = Remote {
            handle: handle.clone(),
            idle: false,
            probed: Instant::now(),
            full: None,
            _charge: Charge::new(&shared.memory, REMOTE + 3 * id.len()),
        };
        shard.insert(id, remote);
        Ok(handle)
    }

    pub(super) fn handle(
        &self,
        shared: &Shared,
        subject: String,
        head: Vec<u8>,
        id: Option<Arc<str>>,
    ) -> Arc<Handle> {
        let key = shared.next_key();
        let ways = [subject, self.place(key)];
        let (bus, runtime) = (self.bus.clone(), self.runtime.clone());
        let receipts = self.receipts.clone();
        let link = Link::new(bus, runtime, ways, (head, id.clone()), receipts);
        let link = Arc::new(link);
        let handle = Arc::new(shared.remote_handle(key, WriteHalf::Link(link.clone())));
        link.belongs_to(&handle);
        let way = Way {
            handle: Arc::downgrade(&handle),
            id,
            ended: None,
            unheard: 0,
            is_unsure: false,
        };
        self.remotes.links.lock().insert(key, way);
        handle
    }

    /// Nobody has heard this packet of a link: nobody has the id.
    pub(super) fn unheard(&self, number: u64, packet: u64) {
        let Some(shared) = self.shared() else { return };
        let absent = self.absent();
        let found = self.remotes.by_link(number);
        let Some((handle, Some(id))) = &found else {
            // What was asked by it has ended.
            return self.receipts.unheard(number, packet, absent);
        };
        self.forget(id, handle);
        close(handle);
        // Before what the same `send` has failed (rule 24.7).
        self.receipts.unheard(number, packet, absent);
        let (mut is_first, mut fault) = (false, None);
        if let (Some(way), Some(link)) =
            (self.remotes.links.lock().get_mut(&number), link_of(handle))
        {
            is_first = way.ended.is_none();
            way.ended.get_or_insert_with(Instant::now);
            way.unheard += 1;
            fault = match link.node() {
                // Somebody was there before, and may have got some of what was asked.
                Some(_) => Some(Fault::Gone),
                None if way.unheard == link.sent() => Some(absent),
                // Somebody may have come since, and have got the rest.
                None => None,
            };
            way.is_unsure = fault.is_none();
        }
        if is_first {
            shared.not_found(id, absent);
        }
        if let Some(fault) = fault {
            leave(&shared, handle, fault);
        }
    }

    /// Why nobody has heard what was for an id.
    fn absent(&self) -> Fault {
        match self.settles() {
            true => Fault::ClusterDown,
            false => Fault::UnknownId,
        }
    }

    /// Gives up the handle of a remote id: what was asked by it fails, and what waits for it is gone.
    pub(super) fn fail(&self, id: &str, handle: &Arc<Handle>, fault: Fault) {
        let Some(shared) = self.shared() else { return };
        self.forget(id, handle);
        self.end(&shared, handle, fault);
    }

    fn forget(&self, id: &str, handle: &Arc<Handle>) {
        let mut shard = self.remotes.shard(id).lock();
        let is_it = |remote: &Remote| Arc::ptr_eq(&remote.handle, handle);
        if shard.get(id).is_some_and(is_it) {
            shard.remove(id);
        }
    }

    /// Ends a handle: it leads nowhere any more.
    pub(super) fn end(&self, shared: &Shared, handle: &Arc<Handle>, fault: Fault) {
        let is_first = {
            let mut links = self.remotes.links.lock();
            let way = links.get_mut(&handle.key);
            way.is_some_and(|way| {
                way.is_unsure = false;
                way.ended.replace(Instant::now()).is_none()
            })
        };
        close(handle);
        if is_first {
            // Before what the same `send` has failed (rule 24.7).
            self.receipts.lose(handle.key, fault);
        }
        leave(shared, handle, fault);
    }

    /// The cluster cannot be reached any more.
    pub(super) fn lose_all(&self, fault: Fault) {
        let Some(shared) = self.shared() else { return };
        for asker in self.nodes.take_askers() {
            self.end(&shared, &asker, Fault::Gone);
        }
        for shard in &self.remotes.ids {
            let remotes = std::mem::take(&mut *shard.lock());
            for remote in remotes.into_values() {
                self.end(&shared, &remote.handle, fault);
            }
        }
        for handle in self.remotes.unsure(Duration::ZERO) {
            leave(&shared, &handle, fault);
        }
    }

    /// Looks after all handles: those that nobody answers, and those that nobody uses.
    pub(super) fn sweep(&self, shared: &Shared) {
        let now = Instant::now();
        self.ask_moved(shared, now);
        let (mut dead, mut probed, mut stalled) = (Vec::new(), Vec::new(), Vec::new());
        for shard in &self.remotes.ids {
            let mut unused = Vec::new();
            shard.lock().retain(|id, remote| {
                let is_unheard = |link: &Link| link.is_unheard(DEAD);
                // A link that could not go on has closed its outbox.
                if remote.handle.outbox.state().closed
                    || link_of(&remote.handle).is_some_and(is_unheard)
                {
                    dead.push((id.clone(), remote.handle.clone()));
                } else if now - remote.probed > PROBE && remote.handle.outbox.waiting() == 0 {
                    // Where something still waits to be sent, nothing is late.
                    remote.probed = now;
                    probed.push(remote.handle.clone());
                }
                if remote.is_stalled(now) {
                    stalled.push(remote.handle.clone());
                }
                // Whoever else holds it may still send, or awaits an answer.
                let is_used = Arc::strong_count(&remote.handle) > 1
                    || remote.handle.outbox.waiting() > 0
                    || link_of(&remote.handle).is_some_and(Link::is_waiting)
                    || !std::mem::replace(&mut remote.idle, true);
                if !is_used {
                    unused.push(remote.handle.key);
                }
                is_used
            });
            let mut links = self.remotes.links.lock();
            unused.iter().for_each(|key| {
                links.remove(key);
            });
        }
        for handle in self.remotes.unsure(UNSURE) {
            leave(shared, &handle, Fault::Gone);
        }
        let is_over = |way: &Way| way.ended.is_some_and(|ended| ended.elapsed() > DEAD);
        self.remotes.links.lock().retain(|_, way| !is_over(way));
        for (id, handle) in dead {
            self.fail(&id, &handle, Fault::Timeout);
        }
        stalled
            .iter()
            .filter_map(|handle| link_of(handle))
            .for_each(Link::renew);
        for handle in probed {
            self.ask_for_owed(shared, &handle);
        }
        self.forget_silent();
    }
}

/// Nothing goes by a handle any more.
fn close(handle: &Handle) {
    if let Some(link) = link_of(handle) {
        link.close();
    }
    handle.set_registration(0);
    handle.outbox.close();
}

/// All that a handle was asked, or asked, ends.
fn leave(shared: &Shared, handle: &Handle, fault: Fault) {
    let mut outcomes = Vec::new();
    shared.router.requests.leave(handle, fault, &mut outcomes);
    tell(shared, &mut outcomes);
}

/// The link of a handle of ours.
pub(crate) fn link_of(handle: &Handle) -> Option<&Link> {
    match handle.socket() {
        WriteHalf::Link(link) => Some(link),
        _ => None,
    }
}

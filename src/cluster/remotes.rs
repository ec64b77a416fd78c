//! The handles of remote ids: made when they are first needed, and given up when
//! they lead nowhere or nobody needs them any more.

use std::{
    any::Any,
    collections::HashMap,
    hash::BuildHasher,
    sync::{Arc, Weak},
    task::Waker,
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::{
    Cluster, Link,
    bus::{NodeId, ReplyAddress},
    link::{LinkTarget, Parts},
    lookups::Lookup,
    nodes::DEAD,
    notify, packet,
};
use crate::{
    broker::{Broker, handle::Handle, peers::Unreachable, requests::DeliveryError},
    memory::Charge,
    transport::{socket::WriteHalf, uplink::Uplink},
};

const SHARDS: usize = 16;
/// Bytes of memory that a handle takes with its link, about.
const REMOTE: usize = 2 << 10;
/// Bytes that may wait for one link before those who send by it are held. A receiver's own broker has
/// `max_backpressure` more for it.
const MARK: usize = 1 << 20;
/// How long it takes to hear which packets of those that went out together nobody has heard.
const UNSURE: Duration = Duration::from_millis(250);
/// An id from which answers are awaited is asked this often whether they may still come.
const PROBE: Duration = Duration::from_secs(5);
/// Packets of which nothing is heard for this long are lost.
const LOST: Duration = Duration::from_secs(5);
/// A link on which something is under way is kept as long as something is heard of it, and this much longer.
const KEPT: Duration = Duration::from_secs(60);

type RemoteTable = HashMap<Arc<str>, Remote, RandomState>;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    hasher: RandomState,
    ids: [Mutex<RemoteTable>; SHARDS],
    /// By the number of their link.
    links: Mutex<HashMap<u64, Route>>,
}

/// Whose link it is: an id's, or a node's.
#[derive(Debug)]
struct Route {
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
    _charge: Charge,
}

impl Remotes {
    fn shard(&self, id: &str) -> &Mutex<RemoteTable> {
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
        let is_due = |way: &&mut Route| {
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
    /// The handle of an id that is not here, for the connection with this key.
    pub(super) fn find_remote(
        &self,
        broker: &Broker,
        id: &str,
        (key, waker): (u64, &Waker),
    ) -> Result<Arc<Handle>, Unreachable> {
        if !self.is_up() {
            return Err(Unreachable::Down);
        }
        let mut shard = self.remotes.shard(id).lock();
        if let Some(remote) = shard.get_mut(id) {
            remote.idle = false;
            return Ok(remote.handle.clone());
        }
        let is_short = broker.memory.is_short();
        let lookup = self.lookups.open(key, is_short, waker);
        let lookup = lookup.ok_or(Unreachable::Held)?;
        let id: Arc<str> = id.into();
        let handle = self.handle(broker, &id, lookup);
        let remote = Remote {
            handle: handle.clone(),
            idle: false,
            probed: Instant::now(),
            _charge: Charge::new(&broker.memory, REMOTE + 3 * id.len()),
        };
        shard.insert(id, remote);
        Ok(handle)
    }

    fn handle(&self, broker: &Broker, id: &Arc<str>, lookup: Lookup) -> Arc<Handle> {
        let subject = self.subjects.to(id);
        let head = packet::frames_head(id, self.epoch());
        self.handle_to(
            broker,
            subject,
            head,
            (Some(id.clone()), None),
            Some(lookup),
        )
    }

    /// The handle that stands for all who ask from a node.
    pub(super) fn handle_of(&self, broker: &Broker, node: NodeId) -> Arc<Handle> {
        let subject = self.subjects.place(ReplyAddress { node, number: 0 });
        let head = packet::frames_head("", self.epoch());
        self.handle_to(broker, subject, head, (None, Some(node)), None)
    }

    fn handle_to(
        &self,
        broker: &Broker,
        subject: String,
        head: Vec<u8>,
        (id, node): (Option<Arc<str>>, Option<NodeId>),
        lookup: Option<Lookup>,
    ) -> Arc<Handle> {
        let key = broker.next_key();
        let parts = Parts {
            bus: self.bus.clone(),
            runtime: self.runtime.clone(),
            memory: broker.memory.clone(),
            lanes: self.lanes.clone(),
            receipts: self.receipts.clone(),
        };
        let target = LinkTarget {
            subject,
            reply: self.place(key),
            head,
            id: id.clone(),
            node,
        };
        let link = Arc::new(Link::new(parts, target, lookup));
        let write = WriteHalf::Uplink(link.clone());
        let handle = Arc::new(broker.new_remote_handle(key, write, MARK));
        link.belongs_to(&handle);
        let way = Route {
            handle: Arc::downgrade(&handle),
            id,
            ended: None,
            unheard: 0,
            is_unsure: false,
        };
        self.remotes.links.lock().insert(key, way);
        handle
    }

    /// A handle that leads nowhere, and has room at any time.
    pub(crate) fn lookup_gate(&self, broker: &Broker) -> Option<Arc<Handle>> {
        let gate = self.gate.get_or_init(|| {
            let node = Some(self.node);
            self.handle_to(broker, String::new(), Vec::new(), (None, node), None)
        });
        Some(gate.clone())
    }

    /// Nobody has heard this packet of a link: nobody has the id.
    pub(super) fn unheard(&self, number: u64, packet: u64) {
        let Some(broker) = self.broker() else { return };
        let absent = self.absent();
        let found = self.remotes.by_link(number);
        let Some((handle, Some(id))) = &found else {
            // What was asked by it has ended.
            return self.receipts.unheard(number, packet, absent);
        };
        self.forget(id, handle);
        // Of an id that was looked up without a message, whoever did so tells.
        let has_message =
            handle.outbox.waiting() > 0 || !link_of(handle).is_some_and(Link::is_lookup);
        close(handle);
        // Before what the same `send` has failed (rule 24.7).
        self.receipts.unheard(number, packet, absent);
        let (mut is_first, mut fault) = (false, None);
        if let Some(link) = link_of(handle) {
            let mut links = self.remotes.links.lock();
            if let Some(way) = links.get_mut(&number) {
                is_first = way.ended.is_none();
                way.ended.get_or_insert_with(Instant::now);
                way.unheard += 1;
                let are_all = way.unheard == link.sent();
                fault = match link.node() {
                    // Somebody was there before, and may have got some of what was asked.
                    Some(_) => Some(DeliveryError::Gone),
                    None if are_all => Some(absent),
                    // Somebody may have come since, and have got the rest.
                    None => None,
                };
                way.is_unsure = fault.is_none();
                if are_all {
                    // Nothing more will be told of it.
                    links.remove(&number);
                }
            }
        }
        if is_first && has_message {
            broker.not_found(id, absent);
        }
        if let Some(fault) = fault {
            leave(&broker, handle, fault);
        }
    }

    /// Why nobody has heard what was for an id.
    pub(super) fn absent(&self) -> DeliveryError {
        match self.settles() {
            true => DeliveryError::ClusterDown,
            false => DeliveryError::UnknownId,
        }
    }

    /// Gives up the handle of a remote id: what was asked by it fails, and what waits for it is gone.
    pub(super) fn fail(&self, id: &str, handle: &Arc<Handle>, fault: DeliveryError) {
        let Some(broker) = self.broker() else { return };
        self.forget(id, handle);
        self.end(&broker, handle, fault);
    }

    fn forget(&self, id: &str, handle: &Arc<Handle>) {
        let mut shard = self.remotes.shard(id).lock();
        let is_it = |remote: &Remote| Arc::ptr_eq(&remote.handle, handle);
        if shard.get(id).is_some_and(is_it) {
            shard.remove(id);
        }
    }

    /// Ends a handle: it leads nowhere any more.
    pub(super) fn end(&self, broker: &Broker, handle: &Arc<Handle>, fault: DeliveryError) {
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
            self.receipts.fail_link(handle.key, fault);
        }
        leave(broker, handle, fault);
    }

    /// The cluster cannot be reached any more.
    pub(super) fn lose_all(&self, fault: DeliveryError) {
        let Some(broker) = self.broker() else { return };
        for asker in self.nodes.take_askers() {
            self.end(&broker, &asker, DeliveryError::Gone);
        }
        for shard in &self.remotes.ids {
            let remotes = std::mem::take(&mut *shard.lock());
            for remote in remotes.into_values() {
                self.end(&broker, &remote.handle, fault);
            }
        }
        for handle in self.remotes.unsure(Duration::ZERO) {
            leave(&broker, &handle, fault);
        }
    }

    /// Looks after all handles: those that nobody answers, and those that nobody uses.
    pub(super) fn sweep(&self, broker: &Broker) {
        let now = Instant::now();
        self.ask_moved(broker, now);
        let (mut dead, mut probed, mut busy) = (Vec::new(), Vec::new(), Vec::new());
        for shard in &self.remotes.ids {
            let mut unused = Vec::new();
            let mut shard = shard.lock();
            shard.retain(|id, remote| {
                let link = link_of(&remote.handle);
                // A link that could not go on has closed its outbox.
                if remote.handle.outbox.state().closed
                    || link.is_some_and(|link| link.is_unheard(DEAD))
                {
                    dead.push((id.clone(), remote.handle.clone()));
                } else if now - remote.probed > PROBE && remote.handle.outbox.waiting() == 0 {
                    // Where something still waits to be sent, nothing is late.
                    remote.probed = now;
                    probed.push(remote.handle.clone());
                }
                let is_under_way = link.is_some_and(|link| link.is_used(now, KEPT));
                if is_under_way {
                    busy.push(remote.handle.clone());
                }
                // Whoever else holds it may still send, or awaits an answer.
                let is_used = is_under_way
                    || Arc::strong_count(&remote.handle) > 1
                    || remote.handle.outbox.waiting() > 0
                    || !std::mem::replace(&mut remote.idle, true);
                if !is_used {
                    unused.push(remote.handle.key);
                }
                is_used
            });
            if shard.len() < shard.capacity() / 8 {
                shard.shrink_to_fit();
            }
            drop(shard);
            let mut links = self.remotes.links.lock();
            unused.iter().for_each(|key| {
                links.remove(key);
            });
        }
        for handle in self.remotes.unsure(UNSURE) {
            leave(broker, &handle, DeliveryError::Gone);
        }
        let is_over = |way: &Route| way.ended.is_some_and(|ended| ended.elapsed() > DEAD);
        {
            let mut links = self.remotes.links.lock();
            links.retain(|_, way| !is_over(way));
            if links.len() < links.capacity() / 8 {
                links.shrink_to_fit();
            }
        }
        for (id, handle) in dead {
            self.fail(&id, &handle, DeliveryError::Timeout);
        }
        busy.extend(self.nodes.askers());
        for link in busy.iter().filter_map(|handle| link_of(handle)) {
            link.find_lost(now, LOST);
        }
        for handle in probed {
            self.ask_for_owed(broker, &handle);
        }
        self.forget_silent();
        self.lanes.run();
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
fn leave(broker: &Broker, handle: &Handle, fault: DeliveryError) {
    let mut outcomes = Vec::new();
    broker
        .registry
        .requests
        .disconnect(handle, fault, &mut outcomes);
    notify(broker, &mut outcomes);
}

/// The link of a handle of ours.
pub(crate) fn link_of(handle: &Handle) -> Option<&Link> {
    match handle.socket() {
        WriteHalf::Uplink(uplink) => (&**uplink as &dyn Any).downcast_ref(),
        _ => None,
    }
}

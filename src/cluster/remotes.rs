//! The handles of remote ids: created on first use, ended when the id has no owner, and removed when unused.

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
    message::{Message, Rest},
    nodes::NODE_TIMEOUT,
    notify,
};
use crate::{
    broker::{Broker, handle::Handle, peers::Unreachable, requests::DeliveryError},
    memory::Charge,
    transport::{socket::WriteHalf, uplink::Uplink},
};

const SHARDS: usize = 16;
/// Approximate memory in bytes of a handle with its link.
const REMOTE_MEMORY: usize = 2 << 10;
/// High-water mark in bytes of the outbox of a link: above it senders wait. The receiver's own broker queues up
/// to `max_backpressure` in addition.
const HIGH_WATER_MARK: usize = 1 << 20;
/// Time in which NATS reports all packets of a burst that had no responders.
const REPORT_TIME: Duration = Duration::from_millis(250);
/// Interval of probes to an id with open requests.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Packets in flight are lost after this long without credit.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// A link with unconsumed packets is kept until no credit has come for this long.
const KEEP: Duration = Duration::from_secs(60);

type RemoteTable = HashMap<Arc<str>, Remote, RandomState>;

/// All remote handles.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    hasher: RandomState,
    ids: [Mutex<RemoteTable>; SHARDS],
    /// The handles by the numbers of their links.
    links: Mutex<HashMap<u64, Route>>,
}

/// The handle of a link, and the id it leads to; none for a node.
#[derive(Debug)]
struct Route {
    handle: Weak<Handle>,
    id: Option<Arc<str>>,
    /// When the link ended. NATS may still report missing responders for earlier packets.
    ended: Option<Instant>,
    /// Number of packets reported to have no responders.
    no_responders: u64,
    /// The link has ended, but its open requests have not failed yet: another broker may have received some.
    is_failure_pending: bool,
}

#[derive(Debug)]
struct Remote {
    handle: Arc<Handle>,
    /// Not used since the last sweep.
    idle: bool,
    /// When its open requests were last probed.
    probed: Instant,
    _charge: Charge,
}

impl Remotes {
    fn shard(&self, id: &str) -> &Mutex<RemoteTable> {
        &self.ids[self.hasher.hash_one(id) as usize % SHARDS]
    }

    /// The handle of a remote id, if it has one.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Handle>> {
        let shard = self.shard(id).lock();
        shard.get(id).map(|remote| remote.handle.clone())
    }

    /// The handle with the link of this number, and its id unless it leads to a node.
    pub(super) fn by_link(&self, number: u64) -> Option<(Arc<Handle>, Option<Arc<str>>)> {
        let links = self.links.lock();
        let route = links.get(&number)?;
        Some((route.handle.upgrade()?, route.id.clone()))
    }

    pub(super) fn count(&self) -> usize {
        self.ids.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Handles whose requests are still to fail, and whose links ended at least this long ago. Returns each once.
    fn take_pending_failures(&self, since: Duration) -> Vec<Arc<Handle>> {
        let mut links = self.links.lock();
        let is_due = |route: &&mut Route| {
            route.is_failure_pending && route.ended.is_some_and(|ended| ended.elapsed() >= since)
        };
        links
            .values_mut()
            .filter(is_due)
            .filter_map(|route| {
                route.is_failure_pending = false;
                route.handle.upgrade()
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
    /// Finds or creates the handle of an id that is not registered here, for the connection with this key.
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
            _charge: Charge::new(&broker.memory, REMOTE_MEMORY + 3 * id.len()),
        };
        shard.insert(id, remote);
        Ok(handle)
    }

    fn handle(&self, broker: &Broker, id: &Arc<str>, lookup: Lookup) -> Arc<Handle> {
        let subject = self.subjects.id(id);
        let head = self.packet_head(id);
        self.handle_to(
            broker,
            subject,
            head,
            (Some(id.clone()), None),
            Some(lookup),
        )
    }

    /// Encodes a packet for an id without frames.
    pub(super) fn packet_head(&self, id: &str) -> Box<[u8]> {
        let packet = Message::Packet {
            is_eager: false,
            epoch: self.epoch(),
            id,
            frames: Rest(&[]),
        };
        packet.encode().into()
    }

    /// Creates the handle of all requesters at a node.
    pub(super) fn handle_of(&self, broker: &Broker, node: NodeId) -> Arc<Handle> {
        let subject = self.subjects.reply(ReplyAddress { node, number: 0 });
        let head = self.packet_head("");
        self.handle_to(broker, subject, head, (None, Some(node)), None)
    }

    fn handle_to(
        &self,
        broker: &Broker,
        subject: String,
        head: Box<[u8]>,
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
            reply: self.reply_subject(key),
            head,
            id: id.clone(),
            node,
        };
        let link = Arc::new(Link::new(parts, target, lookup));
        let write = WriteHalf::Uplink(link.clone());
        let handle = Arc::new(broker.new_remote_handle(key, write, HIGH_WATER_MARK));
        link.set_owner(&handle);
        let route = Route {
            handle: Arc::downgrade(&handle),
            id,
            ended: None,
            no_responders: 0,
            is_failure_pending: false,
        };
        self.remotes.links.lock().insert(key, route);
        handle
    }

    /// The handle that a connection at its limit of lookups waits for. Nothing is sent to it, so it always has
    /// room.
    pub(crate) fn lookup_gate(&self, broker: &Broker) -> Option<Arc<Handle>> {
        let gate = self.lookup_gate.get_or_init(|| {
            let node = Some(self.node);
            self.handle_to(broker, String::new(), Box::default(), (None, node), None)
        });
        Some(gate.clone())
    }

    /// Handles the report that a packet of a link had no responders: the id has no owner.
    pub(super) fn on_no_responders(&self, number: u64, packet: u64) {
        let Some(broker) = self.broker() else { return };
        let absent = self.absence_error();
        let found = self.remotes.by_link(number);
        let Some((handle, Some(id))) = &found else {
            // Its requests have failed already.
            return self.receipts.on_no_responders(number, packet, absent);
        };
        self.forget(id, handle);
        // After a lookup without a message, the connection that did it reports the unknown id.
        let has_message =
            handle.outbox.waiting() > 0 || !link_of(handle).is_some_and(Link::is_lookup);
        close(handle);
        // Before the failures of the requests of the same `send` (rule 24.7).
        self.receipts.on_no_responders(number, packet, absent);
        let (mut is_first, mut error) = (false, None);
        if let Some(link) = link_of(handle) {
            let mut links = self.remotes.links.lock();
            if let Some(route) = links.get_mut(&number) {
                is_first = route.ended.is_none();
                route.ended.get_or_insert_with(Instant::now);
                route.no_responders += 1;
                let are_all = route.no_responders == link.sent();
                error = match link.node() {
                    // A broker had the id before, and may have received some of the requests.
                    Some(_) => Some(DeliveryError::Gone),
                    None if are_all => Some(absent),
                    // Another broker may have claimed the id since, and have received the rest.
                    None => None,
                };
                route.is_failure_pending = error.is_none();
                if are_all {
                    // No further report can come for it.
                    links.remove(&number);
                }
            }
        }
        if is_first && has_message {
            broker.not_found(id, absent);
        }
        if let Some(error) = error {
            disconnect(&broker, handle, error);
        }
    }

    /// The error for an id without responders.
    pub(super) fn absence_error(&self) -> DeliveryError {
        match self.is_resubscribing() {
            true => DeliveryError::ClusterDown,
            false => DeliveryError::UnknownId,
        }
    }

    /// Removes and ends the handle of a remote id: its open requests fail, and its queue is dropped.
    pub(super) fn fail(&self, id: &str, handle: &Arc<Handle>, error: DeliveryError) {
        let Some(broker) = self.broker() else { return };
        self.forget(id, handle);
        self.end(&broker, handle, error);
    }

    fn forget(&self, id: &str, handle: &Arc<Handle>) {
        let mut shard = self.remotes.shard(id).lock();
        let is_it = |remote: &Remote| Arc::ptr_eq(&remote.handle, handle);
        if shard.get(id).is_some_and(is_it) {
            shard.remove(id);
        }
    }

    /// Ends a handle: closes its link, and fails its receipts and requests.
    pub(super) fn end(&self, broker: &Broker, handle: &Arc<Handle>, error: DeliveryError) {
        let is_first = {
            let mut links = self.remotes.links.lock();
            let route = links.get_mut(&handle.key);
            route.is_some_and(|route| {
                route.is_failure_pending = false;
                route.ended.replace(Instant::now()).is_none()
            })
        };
        close(handle);
        if is_first {
            // Before the failures of the requests of the same `send` (rule 24.7).
            self.receipts.fail_link(handle.key, error);
        }
        disconnect(broker, handle, error);
    }

    /// Ends the handles of all remote ids and nodes: NATS is unreachable, or the epoch has changed.
    pub(super) fn end_all(&self, error: DeliveryError) {
        let Some(broker) = self.broker() else { return };
        for asker in self.nodes.take_askers() {
            self.end(&broker, &asker, DeliveryError::Gone);
        }
        for shard in &self.remotes.ids {
            let remotes = std::mem::take(&mut *shard.lock());
            for remote in remotes.into_values() {
                self.end(&broker, &remote.handle, error);
            }
        }
        for handle in self.remotes.take_pending_failures(Duration::ZERO) {
            disconnect(&broker, &handle, error);
        }
    }

    /// Periodic work on all handles: ends those without response, removes unused ones, probes open requests,
    /// and expires packets in flight.
    pub(super) fn sweep(&self, broker: &Broker) {
        let now = Instant::now();
        self.probe_moved(broker, now);
        let (mut dead, mut probed, mut busy) = (Vec::new(), Vec::new(), Vec::new());
        for shard in &self.remotes.ids {
            let mut unused = Vec::new();
            let mut shard = shard.lock();
            shard.retain(|id, remote| {
                let link = link_of(&remote.handle);
                // A link that cannot write closes its outbox.
                if remote.handle.outbox.state().closed
                    || link.is_some_and(|link| link.is_unresponsive(NODE_TIMEOUT))
                {
                    dead.push((id.clone(), remote.handle.clone()));
                } else if now - remote.probed > PROBE_INTERVAL
                    && remote.handle.outbox.waiting() == 0
                {
                    // Only if nothing is queued: requests that have not been sent are not late.
                    remote.probed = now;
                    probed.push(remote.handle.clone());
                }
                let has_unconsumed = link.is_some_and(|link| link.has_unconsumed(now, KEEP));
                if has_unconsumed {
                    busy.push(remote.handle.clone());
                }
                // Other holders of the handle may still send, or await an answer.
                let is_used = has_unconsumed
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
        for handle in self.remotes.take_pending_failures(REPORT_TIME) {
            disconnect(broker, &handle, DeliveryError::Gone);
        }
        let is_over = |route: &Route| {
            route
                .ended
                .is_some_and(|ended| ended.elapsed() > NODE_TIMEOUT)
        };
        {
            let mut links = self.remotes.links.lock();
            links.retain(|_, route| !is_over(route));
            if links.len() < links.capacity() / 8 {
                links.shrink_to_fit();
            }
        }
        for (id, handle) in dead {
            self.fail(&id, &handle, DeliveryError::Timeout);
        }
        busy.extend(self.nodes.askers());
        for link in busy.iter().filter_map(|handle| link_of(handle)) {
            link.expire_in_flight(now, LOST_AFTER);
        }
        for handle in probed {
            self.probe_requests(broker, &handle);
        }
        self.remove_dead();
        self.announce_waiting(broker);
        self.lanes.run();
    }
}

/// Closes the link and the outbox of a handle.
fn close(handle: &Handle) {
    if let Some(link) = link_of(handle) {
        link.close();
    }
    handle.set_registration(0);
    handle.outbox.close();
}

/// Fails the requests to a remote handle, and cancels those from it.
fn disconnect(broker: &Broker, handle: &Handle, error: DeliveryError) {
    let mut notifications = Vec::new();
    broker
        .registry
        .requests
        .disconnect(handle, error, &mut notifications);
    notify(broker, &mut notifications);
}

/// The link that the outbox of a handle writes to; none if it writes to a socket.
pub(crate) fn link_of(handle: &Handle) -> Option<&Link> {
    match handle.socket() {
        WriteHalf::Uplink(uplink) => (&**uplink as &dyn Any).downcast_ref(),
        _ => None,
    }
}

//! The other brokers of the cluster: their names, epochs and liveness, and cleanup when one is lost.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Cluster, Link, bus::NodeId, remotes::link_of};
use crate::broker::{Broker, handle::Handle, requests::DeliveryError};

/// A node is dead after this long without any delivery from it.
pub(super) const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// All known nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: Mutex<HashMap<NodeId, Node>>,
}

/// Another broker.
#[derive(Debug)]
struct Node {
    name: String,
    /// Its epoch; zero while unknown.
    epoch: u32,
    /// The epoch of the last heartbeat that named it.
    named_epoch: u32,
    last_seen: Instant,
    /// Since when it sends heartbeats of an epoch before `epoch`, and nothing of a later one.
    stale_since: Option<Instant>,
    /// The handle of all requesters at that node.
    asker: Option<Arc<Handle>>,
}

impl Node {
    fn new() -> Self {
        Self {
            name: String::new(),
            epoch: 0,
            named_epoch: 0,
            last_seen: Instant::now(),
            stale_since: None,
            asker: None,
        }
    }
}

impl Nodes {
    /// The names of all known brokers but this one, by node.
    pub(super) fn names(&self) -> HashMap<NodeId, String> {
        let nodes = self.known.lock();
        // Until its first heartbeat a node is named by its id.
        let named = |(id, node): (&NodeId, &Node)| match node.name.is_empty() {
            true => (*id, id.to_string()),
            false => (*id, node.name.clone()),
        };
        nodes.iter().map(named).collect()
    }

    /// The epoch of a node; none if it is unknown.
    pub(super) fn epoch_of(&self, node: NodeId) -> Option<u32> {
        let nodes = self.known.lock();
        let epoch = nodes.get(&node).map(|node| node.epoch);
        epoch.filter(|epoch| *epoch > 0)
    }

    /// Restarts the liveness timeout of all nodes, because this broker could not receive anything.
    pub(super) fn reset_liveness(&self) {
        for node in self.known.lock().values_mut() {
            node.last_seen = Instant::now();
        }
    }

    /// The handles of the requesters at all nodes.
    pub(super) fn askers(&self) -> Vec<Arc<Handle>> {
        let nodes = self.known.lock();
        nodes
            .values()
            .filter_map(|node| node.asker.clone())
            .collect()
    }

    /// Removes and returns the handles of the requesters at all nodes.
    pub(super) fn take_askers(&self) -> Vec<Arc<Handle>> {
        let mut nodes = self.known.lock();
        nodes
            .values_mut()
            .filter_map(|node| node.asker.take())
            .collect()
    }
}

impl Cluster {
    /// The handle of all requesters at a node; none for this node itself.
    pub(super) fn asker(&self, broker: &Broker, node: NodeId) -> Option<Arc<Handle>> {
        if node == self.node {
            return None;
        }
        let mut nodes = self.nodes.known.lock();
        let entry = nodes.entry(node).or_insert_with(Node::new);
        let asker = entry
            .asker
            .get_or_insert_with(|| self.handle_of(broker, node));
        Some(asker.clone())
    }

    /// Records that a packet or heartbeat came from a node in this epoch. A newer epoch means that earlier
    /// packets may be lost. False if the packet is of an older epoch: its sender has already failed what it
    /// carried.
    pub(super) fn observe_node(&self, node: NodeId, epoch: u32) -> bool {
        if node == self.node {
            return epoch == self.epoch();
        }
        let (before, asker) = {
            let mut nodes = self.nodes.known.lock();
            let entry = nodes.entry(node).or_insert_with(Node::new);
            entry.last_seen = Instant::now();
            let before = entry.epoch;
            entry.epoch = epoch.max(before);
            if epoch >= before {
                entry.stale_since = None;
            }
            let is_lost = before != 0 && before < epoch;
            (before, entry.asker.take_if(|_| is_lost))
        };
        if before != 0 && before < epoch {
            self.end_node(node, Some(epoch), asker);
        }
        before <= epoch
    }

    /// Records a heartbeat of an epoch before the known one; true once it must be believed: epochs only grow, so the
    /// known one came from a damaged packet, and all packets of the node would be rejected.
    fn is_epoch_wrong(&self, node: NodeId) -> bool {
        let mut nodes = self.nodes.known.lock();
        let Some(entry) = nodes.get_mut(&node) else {
            return false;
        };
        let since = entry.stale_since.get_or_insert_with(Instant::now);
        since.elapsed() > NODE_TIMEOUT
    }

    /// Records a heartbeat; true if it is the first from this node in this epoch.
    pub(super) fn on_heartbeat(&self, node: NodeId, name: &str, epoch: u32) -> bool {
        if !self.observe_node(node, epoch) && self.is_epoch_wrong(node) {
            self.remove_node(node);
            self.observe_node(node, epoch);
        }
        let mut nodes = self.nodes.known.lock();
        let Some(entry) = nodes.get_mut(&node) else {
            return false;
        };
        let is_new = entry.named_epoch != epoch;
        (entry.named_epoch, entry.name) = (epoch, name.to_owned());
        is_new
    }

    /// Removes a node that has left or died.
    pub(super) fn remove_node(&self, node: NodeId) {
        self.forget_publications(node);
        let known = self.nodes.known.lock().remove(&node);
        self.lanes.forget(node);
        self.end_node(node, None, known.and_then(|known| known.asker));
    }

    /// Ends the handles that lead to a node in an epoch before this one, or in any, and `asker`, that of its
    /// requesters.
    fn end_node(&self, node: NodeId, epoch: Option<u32>, asker: Option<Arc<Handle>>) {
        let Some(broker) = self.broker() else { return };
        if let Some(asker) = asker {
            self.end(&broker, &asker, DeliveryError::Gone);
        }
        for (id, handle) in self.remotes.all() {
            let is_old = |link: &Link| {
                link.node() == Some(node) && epoch.is_none_or(|epoch| link.epoch() < epoch)
            };
            if link_of(&handle).is_some_and(is_old) {
                self.fail(&id, &handle, DeliveryError::Gone);
            }
        }
    }

    /// Removes nodes whose liveness timeout has expired.
    pub(super) fn remove_dead(&self) {
        let silent: Vec<_> = {
            let nodes = self.nodes.known.lock();
            let is_dead = |(_, node): &(&NodeId, &Node)| node.last_seen.elapsed() > NODE_TIMEOUT;
            nodes.iter().filter(is_dead).map(|(id, _)| *id).collect()
        };
        for node in silent {
            self.forget_presence(node, true);
            self.remove_node(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::alone, *};

    #[tokio::test]
    async fn an_epoch_that_its_node_does_not_confirm_is_replaced() {
        let cluster = alone(&tokio::runtime::Handle::current());
        let node = NodeId(7);
        let beat = |epoch| cluster.on_heartbeat(node, "far", epoch);
        let age = || {
            let mut nodes = cluster.nodes.known.lock();
            let stale = &mut nodes.get_mut(&node).expect("known").stale_since;
            *stale = stale.map(|since| since - 2 * NODE_TIMEOUT);
        };
        assert!(beat(1));
        // A damaged packet.
        assert!(cluster.observe_node(node, u32::MAX));
        assert!(!cluster.observe_node(node, 1));
        beat(1);
        assert!(!cluster.observe_node(node, 1));
        age();
        // Packets of an earlier epoch may be late, heartbeats are in order.
        assert!(!cluster.observe_node(node, 1));
        beat(1);
        assert!(cluster.observe_node(node, 1));
        // A heartbeat that is only late.
        assert!(cluster.observe_node(node, 2));
        beat(1);
        assert!(cluster.observe_node(node, 2));
        age();
        beat(1);
        assert!(!cluster.observe_node(node, 1));
        assert_eq!(cluster.nodes.epoch_of(node), Some(2));
    }
}

//! The other brokers: which there are, when something was heard of them, and what is lost with one.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Cluster, Link, bus::NodeId, remotes::link_of};
use crate::broker::{Broker, handle::Handle, requests::DeliveryError};

/// A node of which nothing was heard for this long is dead.
pub(super) const DEAD: Duration = Duration::from_secs(5);

/// All that are known.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: Mutex<HashMap<NodeId, Node>>,
}

/// Another broker.
#[derive(Debug)]
struct Node {
    name: String,
    /// Zero until it has said which.
    epoch: u32,
    /// That in which it has said its name.
    met: u32,
    heard: Instant,
    /// Stands for all who ask from there.
    asker: Option<Arc<Handle>>,
}

impl Node {
    fn new() -> Self {
        Self {
            name: String::new(),
            epoch: 0,
            met: 0,
            heard: Instant::now(),
            asker: None,
        }
    }
}

impl Nodes {
    /// All brokers known, but for ourselves: their names by their ids.
    pub(super) fn names(&self) -> HashMap<NodeId, String> {
        let nodes = self.known.lock();
        // One that has not said its name yet has one all the same.
        let named = |(id, node): (&NodeId, &Node)| match node.name.is_empty() {
            true => (*id, id.to_string()),
            false => (*id, node.name.clone()),
        };
        nodes.iter().map(named).collect()
    }

    /// The epoch of a broker that is known and has said which.
    pub(super) fn epoch_of(&self, node: NodeId) -> Option<u32> {
        let nodes = self.known.lock();
        let epoch = nodes.get(&node).map(|node| node.epoch);
        epoch.filter(|epoch| *epoch > 0)
    }

    /// Forgets how long others were silent: we could not hear them.
    pub(super) fn forgive(&self) {
        for node in self.known.lock().values_mut() {
            node.heard = Instant::now();
        }
    }

    /// The handles of all who ask from there.
    pub(super) fn askers(&self) -> Vec<Arc<Handle>> {
        let nodes = self.known.lock();
        nodes
            .values()
            .filter_map(|node| node.asker.clone())
            .collect()
    }

    /// All who ask from there, as handles: they are nobody's from here on.
    pub(super) fn take_askers(&self) -> Vec<Arc<Handle>> {
        let mut nodes = self.known.lock();
        nodes
            .values_mut()
            .filter_map(|node| node.asker.take())
            .collect()
    }
}

impl Cluster {
    /// The handle that stands for all who ask from a node; none for this one.
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

    /// Something came from a broker that says which epoch it is in. False if that is over: whoever
    /// sent it has been told that it is lost.
    pub(super) fn observe_node(&self, node: NodeId, epoch: u32) -> bool {
        if node == self.node {
            return epoch == self.epoch();
        }
        let (before, asker) = {
            let mut nodes = self.nodes.known.lock();
            let entry = nodes.entry(node).or_insert_with(Node::new);
            entry.heard = Instant::now();
            let before = entry.epoch;
            entry.epoch = epoch.max(before);
            let is_lost = before != 0 && before < epoch;
            (before, entry.asker.take_if(|_| is_lost))
        };
        if before != 0 && before < epoch {
            self.lose_node(node, epoch, asker);
        }
        before <= epoch
    }

    /// A broker says that it is there, and how it is called; true if that is new.
    pub(super) fn beat(&self, node: NodeId, name: String, epoch: u32) -> bool {
        self.observe_node(node, epoch);
        let mut nodes = self.nodes.known.lock();
        let Some(entry) = nodes.get_mut(&node) else {
            return false;
        };
        let is_new = entry.met != epoch;
        (entry.met, entry.name) = (epoch, name);
        is_new
    }

    /// A broker has left.
    pub(super) fn forget_node(&self, node: NodeId) {
        let known = self.nodes.known.lock().remove(&node);
        self.lanes.forget(node);
        self.lose_node(node, u32::MAX, known.and_then(|known| known.asker));
    }

    /// What was under way to a broker, or asked from there by this one, before this epoch is lost.
    fn lose_node(&self, node: NodeId, epoch: u32, asker: Option<Arc<Handle>>) {
        let Some(broker) = self.broker() else { return };
        if let Some(asker) = asker {
            self.end(&broker, &asker, DeliveryError::Gone);
        }
        for (id, handle) in self.remotes.all() {
            let is_old = |link: &Link| link.node() == Some(node) && link.epoch() < epoch;
            if link_of(&handle).is_some_and(is_old) {
                self.fail(&id, &handle, DeliveryError::Gone);
            }
        }
    }

    /// Forgets those of whom nothing was heard for long.
    pub(super) fn forget_silent(&self) {
        let silent: Vec<_> = {
            let nodes = self.nodes.known.lock();
            let is_dead = |(_, node): &(&NodeId, &Node)| node.heard.elapsed() > DEAD;
            nodes.iter().filter(is_dead).map(|(id, _)| *id).collect()
        };
        silent.into_iter().for_each(|node| self.forget_node(node));
    }
}

//! Patterns with wildcards: a tree of their tokens.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{RandomState, Subscriber, Subscribers};
use crate::{
    broker::handle::Handle,
    topic::{MAX_TOKENS, ONE, REST},
};

/// The patterns with wildcards that have subscribers.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root: Node,
    /// Number of patterns.
    count: usize,
}

/// The patterns that begin with the tokens on the way to this node.
#[derive(Debug, Default)]
struct Node {
    next: HashMap<Box<str>, Node, RandomState>,
    subscribers: Subscribers,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.next.is_empty() && self.subscribers.is_empty()
    }

    fn find(&self, pattern: &str) -> Option<&Self> {
        pattern
            .split('.')
            .try_fold(self, |node, token| node.next.get(token))
    }

    /// Calls a function with the subscribers of each pattern that matches these tokens.
    fn visit(&self, tokens: &[&str], visit: &mut impl FnMut(&Subscribers)) {
        let Some((first, rest)) = tokens.split_first() else {
            return visit(&self.subscribers);
        };
        if let Some(node) = self.next.get(*first) {
            node.visit(rest, visit);
        }
        if let Some(node) = self.next.get(ONE) {
            node.visit(rest, visit);
        }
        if let Some(node) = self.next.get(REST) {
            visit(&node.subscribers);
        }
    }

    /// Removes a subscriber, and nodes without one.
    fn remove(&mut self, pattern: Option<&str>, handle: &Arc<Handle>, hasher: &RandomState) {
        let Some(pattern) = pattern else {
            return self.subscribers.remove(hasher, handle);
        };
        let (token, rest) = match pattern.split_once('.') {
            Some((token, rest)) => (token, Some(rest)),
            None => (pattern, None),
        };
        let Some(node) = self.next.get_mut(token) else {
            return;
        };
        node.remove(rest, handle, hasher);
        if node.is_empty() {
            self.next.remove(token);
            if self.next.capacity() > 64 && self.next.len() < self.next.capacity() / 4 {
                self.next.shrink_to_fit();
            }
        }
    }
}

impl Tree {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// True if the pattern has a subscriber.
    pub(super) fn has(&self, pattern: &str) -> bool {
        let node = self.root.find(pattern);
        node.is_some_and(|node| !node.subscribers.is_empty())
    }

    /// Adds a subscriber, or changes its treatment when it is slow.
    pub(super) fn set(&mut self, pattern: &str, subscriber: Subscriber, hasher: &RandomState) {
        let mut node = &mut self.root;
        for token in pattern.split('.') {
            if !node.next.contains_key(token) {
                node.next.insert(token.into(), Node::default());
            }
            let Some(next) = node.next.get_mut(token) else {
                return;
            };
            node = next;
        }
        self.count += usize::from(node.subscribers.is_empty());
        node.subscribers.set(hasher, subscriber);
    }

    /// Ends the subscription of a connection, which exists.
    pub(super) fn remove(&mut self, pattern: &str, handle: &Arc<Handle>, hasher: &RandomState) {
        self.root.remove(Some(pattern), handle, hasher);
        self.count -= usize::from(!self.has(pattern));
    }

    /// Adds the subscribers of all patterns that match the topic.
    pub(super) fn collect(&self, topic: &str, found: &mut Vec<Subscriber>) {
        self.visit(topic, &mut |subscribers| subscribers.collect(found));
    }

    /// Number of patterns that match the topic.
    pub(super) fn count_of(&self, topic: &str) -> usize {
        let mut count = 0;
        self.visit(topic, &mut |subscribers| {
            count += usize::from(!subscribers.is_empty())
        });
        count
    }

    fn visit(&self, topic: &str, visit: &mut impl FnMut(&Subscribers)) {
        let mut tokens = [""; MAX_TOKENS];
        let mut count = 0;
        for (place, token) in tokens.iter_mut().zip(topic.split('.')) {
            *place = token;
            count += 1;
        }
        self.root.visit(&tokens[..count], visit);
    }
}

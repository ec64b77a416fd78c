//! Patterns with wildcards: a tree of their tokens. The broker keeps their subscribers in it, the cluster their
//! subscriptions of NATS.

use hashbrown::HashMap;

use super::{Found, RandomState, Subscribers};
use crate::topic::{MAX_TOKENS, ONE, REST};

/// The value of a pattern in a tree. Patterns with an empty value are removed.
pub(crate) trait Value: Default {
    fn is_empty(&self) -> bool;
}

/// Values by pattern with wildcards.
#[derive(Debug, Default)]
pub(crate) struct Tree<T> {
    root: Node<T>,
    /// Number of patterns.
    count: usize,
}

/// The patterns that begin with the tokens on the way to this node.
#[derive(Debug, Default)]
struct Node<T> {
    next: HashMap<Box<str>, Node<T>, RandomState>,
    value: T,
}

impl<T: Value> Node<T> {
    fn is_empty(&self) -> bool {
        self.next.is_empty() && self.value.is_empty()
    }

    fn find(&self, pattern: &str) -> Option<&Self> {
        pattern
            .split('.')
            .try_fold(self, |node, token| node.next.get(token))
    }

    /// Calls a function with the value of each pattern that matches these tokens.
    fn visit(&self, tokens: &[&str], visit: &mut impl FnMut(&T)) {
        let Some((first, rest)) = tokens.split_first() else {
            return visit(&self.value);
        };
        if let Some(node) = self.next.get(*first) {
            node.visit(rest, visit);
        }
        if let Some(node) = self.next.get(ONE) {
            node.visit(rest, visit);
        }
        if let Some(node) = self.next.get(REST) {
            visit(&node.value);
        }
    }

    /// Calls a function with each pattern below this node that begins with `prefix`, and its value. `name`: the
    /// pattern of this node.
    fn walk(&self, name: &mut String, prefix: &str, visit: &mut impl FnMut(&str, &T)) {
        if !name.starts_with(prefix) && !prefix.starts_with(&**name) {
            return;
        }
        visit(name, &self.value);
        let length = name.len();
        for (token, node) in &self.next {
            if length > 0 {
                name.push('.');
            }
            name.push_str(token);
            node.walk(name, prefix, visit);
            name.truncate(length);
        }
    }

    /// Changes the value of a pattern below this node, and removes nodes without any.
    fn change<R>(&mut self, pattern: Option<&str>, change: impl FnOnce(&mut T) -> R) -> R {
        let Some(pattern) = pattern else {
            return change(&mut self.value);
        };
        let (token, rest) = match pattern.split_once('.') {
            Some((token, rest)) => (token, Some(rest)),
            None => (pattern, None),
        };
        let node = self.next.entry(token.into()).or_default();
        let result = node.change(rest, change);
        if node.is_empty() {
            self.next.remove(token);
            if self.next.capacity() > 64 && self.next.len() < self.next.capacity() / 4 {
                self.next.shrink_to_fit();
            }
        }
        result
    }
}

impl<T: Value> Tree<T> {
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The value of a pattern, if it is not empty.
    pub(super) fn get(&self, pattern: &str) -> Option<&T> {
        let value = &self.root.find(pattern)?.value;
        (!value.is_empty()).then_some(value)
    }

    /// True if the value of the pattern is not empty.
    pub(super) fn has(&self, pattern: &str) -> bool {
        self.get(pattern).is_some()
    }

    /// Calls a function with each pattern that begins with `prefix`, and its value, in no order. Also with names
    /// whose value is empty.
    pub(super) fn walk(&self, prefix: &str, visit: &mut impl FnMut(&str, &T)) {
        self.root.walk(&mut String::new(), prefix, visit);
    }

    /// Changes the value of a pattern.
    pub(crate) fn change<R>(&mut self, pattern: &str, change: impl FnOnce(&mut T) -> R) -> R {
        let mut difference = (false, false);
        let result = self.root.change(Some(pattern), |value| {
            let had = !value.is_empty();
            let result = change(value);
            difference = (had, !value.is_empty());
            result
        });
        match difference {
            (false, true) => self.count += 1,
            (true, false) => self.count -= 1,
            _ => {}
        }
        result
    }

    /// Calls a function with the value of each pattern that matches the topic.
    pub(crate) fn visit(&self, topic: &str, visit: &mut impl FnMut(&T)) {
        let mut tokens = [""; MAX_TOKENS];
        let mut count = 0;
        for (place, token) in tokens.iter_mut().zip(topic.split('.')) {
            *place = token;
            count += 1;
        }
        self.root.visit(&tokens[..count], visit);
    }
}

impl Tree<Subscribers> {
    /// Adds the subscribers of all patterns that match the topic.
    pub(super) fn collect(&self, topic: &str, found: &mut Found) {
        self.visit(topic, &mut |subscribers| subscribers.collect(found));
    }
}

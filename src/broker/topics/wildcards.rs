//! Patterns with wildcards: a tree of their tokens.

use hashbrown::HashMap;

use super::{Found, RandomState, Subscribers};
use crate::topic::{MAX_TOKENS, ONE, REST};

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

    /// Calls a function with each pattern below this node that begins with `prefix`, and its subscribers. `name`: the
    /// pattern of this node.
    fn walk(&self, name: &mut String, prefix: &str, visit: &mut impl FnMut(&str, &Subscribers)) {
        if !name.starts_with(prefix) && !prefix.starts_with(&**name) {
            return;
        }
        visit(name, &self.subscribers);
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

    /// Changes the subscribers of a pattern below this node, and removes nodes without any.
    fn change<T>(
        &mut self,
        pattern: Option<&str>,
        change: impl FnOnce(&mut Subscribers) -> T,
    ) -> T {
        let Some(pattern) = pattern else {
            return change(&mut self.subscribers);
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

impl Tree {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The subscribers of a pattern, if it has some.
    pub(super) fn get(&self, pattern: &str) -> Option<&Subscribers> {
        let subscribers = &self.root.find(pattern)?.subscribers;
        (!subscribers.is_empty()).then_some(subscribers)
    }

    /// True if the pattern has a subscriber.
    pub(super) fn has(&self, pattern: &str) -> bool {
        self.get(pattern).is_some()
    }

    /// Calls a function with each pattern that begins with `prefix`, and its subscribers, in no order. Also with names
    /// that have no subscribers.
    pub(super) fn walk(&self, prefix: &str, visit: &mut impl FnMut(&str, &Subscribers)) {
        self.root.walk(&mut String::new(), prefix, visit);
    }

    /// Changes the subscribers of a pattern.
    pub(super) fn change<T>(
        &mut self,
        pattern: &str,
        change: impl FnOnce(&mut Subscribers) -> T,
    ) -> T {
        let mut difference = (false, false);
        let result = self.root.change(Some(pattern), |subscribers| {
            let had = !subscribers.is_empty();
            let result = change(subscribers);
            difference = (had, !subscribers.is_empty());
            result
        });
        match difference {
            (false, true) => self.count += 1,
            (true, false) => self.count -= 1,
            _ => {}
        }
        result
    }

    /// Adds the subscribers of all patterns that match the topic.
    pub(super) fn collect(&self, topic: &str, found: &mut Found) {
        self.visit(topic, &mut |subscribers| subscribers.collect(found));
    }

    /// Number of patterns that match the topic and have subscribers without a group.
    pub(super) fn count_of(&self, topic: &str) -> usize {
        let mut count = 0;
        self.visit(topic, &mut |subscribers| {
            count += usize::from(subscribers.demand().0)
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

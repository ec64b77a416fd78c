//! Lists the topics with the most subscribers, for operators.
//!
//! The tables of the topics are read in slices, each under its own lock, so that a list delays subscribers and
//! publishers only for the time of a slice. The tree of patterns is read under one lock; `maxPatterns` bounds its size.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    sync::Arc,
};

use super::{Group, Subscribers, Topics, wildcards::Value};

/// Buckets of a table that are read under one lock.
const SLICE: usize = 4096;

/// A topic or a pattern with wildcards that has subscribers.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: Arc<str>,
    /// Number of its subscribers, members of groups included.
    pub(crate) subscribers: usize,
    pub(crate) groups: Vec<Arc<Group>>,
}

/// The first names by number of subscribers, then by name. The last of them is the greatest.
struct Ranking<'a> {
    prefix: &'a str,
    max: usize,
    first: BinaryHeap<(Reverse<usize>, Arc<str>)>,
    has_more: bool,
}

impl Ranking<'_> {
    fn add(&mut self, name: &str, subscribers: &Subscribers) {
        if !name.starts_with(self.prefix) || subscribers.is_empty() {
            return;
        }
        let rank = Reverse(subscribers.count());
        if self.first.len() == self.max {
            self.has_more = true;
            let last = self.first.peek();
            if last.is_none_or(|(count, last)| (*count, &**last) <= (rank, name)) {
                return;
            }
            self.first.pop();
        }
        self.first.push((rank, name.into()));
    }
}

impl Subscribers {
    /// Number of subscribers, members of groups included.
    fn count(&self) -> usize {
        let members = self.groups.iter().map(|group| group.load().0);
        self.each.len() + members.sum::<usize>()
    }
}

impl Topics {
    /// The topics and patterns that begin with `prefix`, at most `max`, those with the most subscribers first; and
    /// whether there are more. A change meanwhile may be missing.
    pub(crate) fn list(&self, prefix: &str, max: usize) -> (Vec<Listed>, bool) {
        let mut ranking = Ranking {
            prefix,
            max,
            first: BinaryHeap::with_capacity(max),
            has_more: false,
        };
        for shard in &self.shards {
            let mut start = 0;
            loop {
                let table = shard.read();
                let end = table.num_buckets().min(start + SLICE);
                for topic in (start..end).filter_map(|index| table.get_bucket(index)) {
                    ranking.add(&topic.name, &topic.subscribers);
                }
                if end == table.num_buckets() {
                    break;
                }
                start = end;
            }
        }
        let mut add = |name: &str, subscribers: &Subscribers| ranking.add(name, subscribers);
        self.wildcards.read().walk(prefix, &mut add);
        let Ranking {
            first, has_more, ..
        } = ranking;
        // A table that grew between two slices has moved topics to a later slice.
        let mut names = HashSet::new();
        let first = first.into_sorted_vec().into_iter();
        let first = first.filter(|(_, name)| names.insert(name.clone()));
        let listed = first.map(|(Reverse(subscribers), name)| Listed {
            groups: self.demand(&name).1,
            name,
            subscribers,
        });
        (listed.collect(), has_more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::handle::Handle, memory::Memory, options::ServerOptions, protocol::Slow,
        transport::socket::pipe::Pipe,
    };

    /// More than the slices of all shards hold.
    const TOPICS: usize = 100_000;

    #[test]
    fn the_topics_with_the_most_subscribers_are_first_then_by_name() {
        let memory = Arc::new(Memory::new(usize::MAX));
        let options = ServerOptions {
            max_subscriptions: usize::MAX,
            ..ServerOptions::default()
        };
        let limits = (&options, &memory);
        let topics = Topics::new(None);
        let handles = [1, 2, 3].map(|key| {
            let handle = Handle::new(key, Pipe::full(), 1024, memory.clone());
            handle.set_registration(key);
            Arc::new(handle)
        });
        let subscribe = |count, name: &str| {
            for handle in &handles[..count] {
                topics.subscribe(handle, name, Slow::Drop, limits).unwrap();
            }
        };
        for n in 0..TOPICS {
            subscribe(1, &format!("room.{n:05}"));
        }
        subscribe(3, "room.*");
        subscribe(2, "room.>");
        subscribe(3, "other.a");
        for handle in &handles {
            topics.join(handle, "jobs", ("workers", 1), limits).unwrap();
        }
        let names = |prefix, max| {
            let (listed, has_more) = topics.list(prefix, max);
            let names = listed
                .iter()
                .map(|one| (one.name.to_string(), one.subscribers));
            (names.collect::<Vec<_>>(), has_more)
        };
        let all = |names: &[(&str, usize)]| -> Vec<_> {
            names
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect()
        };
        let first = [
            ("jobs", 3),
            ("other.a", 3),
            ("room.*", 3),
            ("room.>", 2),
            ("room.00000", 1),
        ];
        assert_eq!(names("", 5), (all(&first), true));
        assert_eq!(names("", 2), (all(&first[..2]), true));
        let room = [
            ("room.*", 3),
            ("room.>", 2),
            ("room.00000", 1),
            ("room.00001", 1),
        ];
        assert_eq!(names("room.", 4), (all(&room), true));
        assert_eq!(names("room.9999", 50).0.len(), 10);
        assert!(!names("room.9999", 10).1 && names("room.9999", 9).1);
        assert_eq!(names("room.>", 50), (all(&room[1..2]), false));
        assert_eq!(names("none", 50), (Vec::new(), false));
        assert_eq!(topics.list("", TOPICS + 10).0.len(), TOPICS + 4);
        let (listed, _) = topics.list("jobs", 1);
        assert_eq!(listed[0].groups[0].load(), (3, 0));
    }
}

//! Concurrency tests of subscriptions: connections subscribe, lose their ids and lose messages while others publish.

use std::sync::Arc;

use bytes::Bytes;

use super::{below, explore, handle, memory, together, wait};
use crate::{
    broker::{
        handle::Handle,
        topics::{Found, Topics},
    },
    memory::Memory,
    options::ServerOptions,
    protocol::Slow,
    transport::socket::{WriteHalf, pipe::Pipe},
};

const PATTERNS: [&str; 3] = ["a", "*", ">"];

struct World {
    topics: Topics,
    options: ServerOptions,
    memory: Arc<Memory>,
    handles: Vec<Arc<Handle>>,
}

impl World {
    fn new(connections: u64) -> Arc<Self> {
        let memory = memory();
        let handles = (1..=connections).map(|key| {
            let handle = handle(key, Pipe::full(), 1024, &memory);
            handle.set_registration(key);
            handle
        });
        Arc::new(Self {
            handles: handles.collect(),
            topics: Topics::new(None),
            options: ServerOptions::default(),
            memory,
        })
    }

    fn subscribe(&self, handle: &Arc<Handle>) -> bool {
        let pattern = PATTERNS[below(PATTERNS.len())];
        let limits = (&self.options, &self.memory);
        (self.topics.subscribe(handle, pattern, Slow::Drop, limits)).is_ok()
    }

    fn find(&self) -> Vec<u64> {
        let mut found = Found::default();
        self.topics.find("a", &mut found);
        found.subscribers.iter().map(|one| one.handle.key).collect()
    }
}

#[test]
fn a_connection_that_has_lost_its_id_has_no_subscriptions() {
    explore(|| {
        let world = World::new(2);
        let [subscribes, loses, publishes] = [0; 3].map(|_| world.clone());
        let found = together(vec![
            Box::new(move || {
                for _ in 0..3 {
                    subscribes.subscribe(&subscribes.handles[0]);
                    subscribes.subscribe(&subscribes.handles[1]);
                }
                None
            }),
            Box::new(move || {
                let handle = &loses.handles[0];
                handle.set_registration(0);
                loses.topics.leave(handle);
                assert!(!loses.subscribe(handle));
                None
            }),
            Box::new(move || {
                let version = publishes.topics.version();
                Some((version, publishes.find()))
            }),
        ]);
        for (version, found) in found.into_iter().flatten() {
            // A publisher uses what it has found as long as the version is the same.
            if world.topics.version() == version {
                assert_eq!(found, world.find(), "of another version");
            }
        }
        assert_eq!(world.find(), [2]);
        let left = world.topics.count();
        world.topics.leave(&world.handles[1]);
        assert!((1..=3).contains(&left), "{left} subscriptions");
        assert_eq!((world.topics.count(), world.topics.patterns()), (0, 0));
    });
}

#[test]
fn a_lost_message_is_always_told() {
    explore(|| {
        let world = World::new(1);
        assert!(world.subscribe(&world.handles[0]));
        let [loses, tells] = [0; 2].map(|_| world.handles[0].clone());
        together::<()>(vec![
            Box::new(move || {
                for _ in 0..2 {
                    loses.lose("a", 1, None, 0);
                }
            }),
            Box::new(move || {
                tells.settle_losses();
                tells.settle_losses();
            }),
        ]);
        let handle = &world.handles[0];
        let untold = handle
            .subscriber
            .lock()
            .as_ref()
            .map(|state| state.untold());
        assert_eq!(untold.is_some_and(|count| count > 0), handle.has_losses());
        handle.settle_losses();
        let untold = handle
            .subscriber
            .lock()
            .as_ref()
            .map(|state| state.untold());
        assert_eq!(untold, Some(0));
    });
}

#[test]
fn a_message_never_overtakes_the_last_one_that_was_lost() {
    explore(|| {
        let (memory, pipe) = (memory(), Pipe::new(1024));
        let handle = handle(1, WriteHalf::Pipe(pipe.clone()), 1024, &memory);
        handle.set_registration(1);
        let (topics, options) = (Topics::new(None), ServerOptions::default());
        let limits = (&options, &memory);
        let subscribed = topics.subscribe(&handle, "a", Slow::Latest, limits);
        assert!(subscribed.is_ok());
        handle.lose("a", 1, Some(Bytes::from_static(b"\x81\x05first")), 1024);
        let [tells, publishes] = [0; 2].map(|_| handle.clone());
        together::<()>(vec![
            Box::new(move || {
                tells.settle_losses();
                tells.flush();
            }),
            Box::new(move || {
                assert!(publishes.settle_losses());
                let _ = publishes.outbox.push(&["second"]);
                publishes.flush();
            }),
        ]);
        let written = wait(|cx| pipe.poll_read(1024, cx));
        assert_eq!(written, b"\x81\x05first\x81\x06second");
    });
}

//! Concurrency tests of the registry: several connections register the same id.

use std::sync::Arc;

use super::{below, explore, handle, memory, together};
use crate::{
    broker::{handle::Handle, registry::Registry},
    options::ServerOptions,
    sync::Mutex,
    transport::socket::pipe::Pipe,
};

const CONNECTIONS: u64 = 3;
const STEPS: usize = 3;

/// An event of the registry, in the order of emission.
#[derive(Debug)]
enum Announced {
    Registered { key: u64, replaced: bool },
    Unregistered { key: u64 },
}

struct World {
    /// Number of principals among which the connections are distributed.
    principals: u64,
    registry: Registry,
    handles: Vec<Arc<Handle>>,
    announced: Mutex<Vec<Announced>>,
}

impl World {
    fn new(principals: u64) -> Arc<Self> {
        let memory = memory();
        let handles = (0..CONNECTIONS)
            .map(|key| {
                let handle = handle(key, Pipe::full(), 1024, &memory);
                *handle.principal.lock() = Some((key % principals).to_string().into());
                handle
            })
            .collect();
        Arc::new(Self {
            principals,
            registry: Registry::new(&ServerOptions::default(), memory),
            handles,
            announced: Mutex::default(),
        })
    }

    /// Registers and unregisters at random.
    fn contend(&self, handle: &Arc<Handle>) {
        let (key, id) = (handle.key, "a".into());
        for _ in 0..STEPS {
            if below(3) > 0 {
                let announce = |former: Option<(&Arc<Handle>, u64)>| {
                    let replaced = former.is_some();
                    self.announce(Announced::Registered { key, replaced });
                };
                let taken = self.registry.register(&id, handle, announce);
                assert!(taken.is_ok() || self.principals > 1);
            } else {
                let announce = || self.announce(Announced::Unregistered { key });
                self.registry
                    .end_registration(&id, handle.registration(), announce);
            }
        }
    }

    fn announce(&self, what: Announced) {
        self.announced.lock().push(what);
    }

    /// Checks the emitted events against the state of the registry.
    fn check(&self) {
        let mut owner = None;
        for announced in self.announced.lock().iter() {
            match *announced {
                Announced::Registered { key, replaced } => {
                    assert_eq!(replaced, owner.is_some());
                    let principal = |key: u64| key % self.principals;
                    assert!(owner.is_none_or(|owner| principal(owner) == principal(key)));
                    owner = Some(key);
                }
                Announced::Unregistered { key } => {
                    assert_eq!(owner, Some(key), "only the owner frees an id");
                    owner = None;
                }
            }
        }
        assert_eq!(self.registry.find("a").map(|found| found.key), owner);
        assert_eq!(self.registry.count(), usize::from(owner.is_some()));
        for handle in &self.handles {
            assert_eq!(handle.owns_its_id(), owner == Some(handle.key));
        }
    }
}

fn contention(principals: u64) {
    explore(move || {
        let world = World::new(principals);
        together(
            (world.handles.iter().cloned())
                .map(|handle| {
                    let world = world.clone();
                    Box::new(move || world.contend(&handle)) as Box<dyn FnOnce() + Send>
                })
                .collect(),
        );
        world.check();
    });
}

#[test]
fn events_are_emitted_in_the_order_of_registrations() {
    contention(1);
}

#[test]
fn an_id_never_moves_to_another_principal() {
    contention(2);
}

#[test]
fn a_connection_that_ends_does_not_unregister_its_successor() {
    explore(|| {
        let world = World::new(1);
        let [first, second] = [0, 1].map(|key| world.handles[key].clone());
        let id: Arc<str> = "a".into();
        world.registry.register(&id, &first, |_| {}).unwrap();
        let (ends, takes) = (world.clone(), world.clone());
        together::<()>(vec![
            Box::new(move || {
                ends.registry
                    .end_registration("a", first.registration(), || {});
            }),
            Box::new(move || {
                takes.registry.register(&id, &second, |_| {}).unwrap();
                assert_eq!(takes.registry.find("a").unwrap().key, second.key);
            }),
        ]);
        assert_eq!(world.registry.find("a").unwrap().key, 1);
    });
}

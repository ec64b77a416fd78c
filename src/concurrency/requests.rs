//! Concurrency tests of requests: askers, responders, timeouts and disconnects at the same time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{below, explore, handle, memory, together};
use crate::{
    broker::{
        handle::Handle,
        requests::{DeliveryError, Name, Notification, Notifications, Question, Requests},
    },
    error::ActionError,
    memory::Memory,
    sync::Mutex,
    transport::socket::pipe::Pipe,
};

const HOUR: Duration = Duration::from_secs(3600);
/// Maximum pending deliveries of one asker.
const MAX_PENDING: usize = 3;

type Task = Box<dyn FnOnce() + Send>;

struct World {
    memory: Arc<Memory>,
    requests: Requests,
    now: Instant,
    /// The first two are askers, the others responders. The id of each is its key.
    handles: Vec<Arc<Handle>>,
    /// Number of accepted answers.
    answers: AtomicUsize,
    /// The frames and events for askers and responders, in order.
    notified: Mutex<Vec<Notified>>,
}

/// A frame or event for an asker or a responder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notified {
    Message(u64),
    Answered(u64),
    Failed(u64, DeliveryError),
    Cancelled(u64),
}

impl World {
    fn new() -> Arc<Self> {
        let memory = memory();
        Arc::new(Self {
            requests: Requests::new(HOUR, MAX_PENDING, memory.clone()),
            now: Instant::now(),
            handles: (0..4)
                .map(|key| handle(key, Pipe::full(), 1024, &memory))
                .collect(),
            answers: AtomicUsize::new(0),
            notified: Mutex::default(),
            memory,
        })
    }

    /// A world in which all connections use version 2.
    fn new_2() -> Arc<Self> {
        let world = Self::new();
        for handle in &world.handles {
            handle.set_uses_version_2(true);
        }
        world
    }

    fn open(&self, asker: usize, ack: &str) -> Result<(), ActionError> {
        self.open_to(&self.handles[2..], asker, ack)
    }

    fn open_to(
        &self,
        responders: &[Arc<Handle>],
        asker: usize,
        ack: &str,
    ) -> Result<(), ActionError> {
        self.ask(responders, asker, ack, 1)
    }

    /// Opens a request and delivers its messages.
    fn ask(
        &self,
        responders: &[Arc<Handle>],
        asker: usize,
        ack: &str,
        answers: u32,
    ) -> Result<(), ActionError> {
        let ids: Vec<_> = responders.iter().map(|one| one.key.to_string()).collect();
        let names = ids.iter().map(|id| Name {
            id,
            registration: 7,
        });
        let question = Question {
            ack,
            asker: &self.handles[asker],
            receivers: responders,
            names: &names.collect::<Vec<_>>(),
            answers,
            timeout: None,
        };
        let mut notifications = Notifications::new();
        let opened = self
            .requests
            .open(&question, self.now, &mut notifications)?;
        for responder in responders {
            self.notified.lock().push(Notified::Message(responder.key));
        }
        if let Some(request) = opened.pending() {
            self.requests.delivered(&request, &mut notifications);
        }
        self.notify(&mut notifications);
        Ok(())
    }

    fn notify(&self, notifications: &mut Notifications) {
        self.notified
            .lock()
            .extend(notifications.drain(..).map(|outcome| match outcome {
                Notification::Failed { dest, error, .. } => {
                    Notified::Failed(dest.parse().unwrap(), error)
                }
                Notification::Cancelled { responder, .. } => Notified::Cancelled(responder.key),
            }));
    }

    /// Answers a request. If the answer is accepted, the asker must be `asker`.
    fn answer(&self, responder: usize, ack: &str, asker: Option<u64>) {
        let mut notifications = Notifications::new();
        let responder = &self.handles[responder];
        let taken = self
            .requests
            .answer(ack, responder, self.now, &mut notifications);
        if let Some(taken) = taken {
            assert!(asker.is_none_or(|asker| asker == taken.asker.key));
            self.answers.fetch_add(1, Relaxed);
            self.notified.lock().push(Notified::Answered(responder.key));
        }
        self.notify(&mut notifications);
    }

    fn refuse(&self, responder: usize, ack: &str) {
        let mut notifications = Notifications::new();
        let responder = &self.handles[responder];
        let taken = self
            .requests
            .refuse(ack, responder, self.now, &mut notifications);
        if taken.is_some() {
            self.notified.lock().push(Notified::Answered(responder.key));
        }
        self.notify(&mut notifications);
    }

    fn cancel(&self, asker: usize, ack: &str) {
        let mut notifications = Notifications::new();
        self.requests
            .cancel(ack, &self.handles[asker], &mut notifications);
        self.notify(&mut notifications);
    }

    fn leave(&self, place: usize) {
        let mut notifications = Notifications::new();
        self.requests.disconnect(
            &self.handles[place],
            DeliveryError::Gone,
            &mut notifications,
        );
        self.notify(&mut notifications);
    }

    /// Simulates that another connection takes over the id of this responder.
    fn replace(&self, place: usize) {
        let mut notifications = Notifications::new();
        let former = &self.handles[place];
        let id = former.key.to_string();
        self.requests.replaced(former, &id, 7, &mut notifications);
        self.notify(&mut notifications);
    }

    fn expire(&self) {
        self.requests.expire(self.now + 2 * HOUR, |notifications| {
            self.notify(notifications)
        });
    }

    fn notified(&self) -> Vec<Notified> {
        self.notified.lock().clone()
    }

    fn task(self: &Arc<Self>, act: impl FnOnce(&Self) + Send + 'static) -> Task {
        let world = self.clone();
        Box::new(move || act(&world))
    }

    /// Checks that the request table and the counters of each connection agree.
    fn adds_up(&self) {
        let pending = self.requests.pending();
        for handle in &self.handles {
            let awaited: usize = (pending.values())
                .filter(|(asker, _)| *asker == handle.key)
                .map(|(_, responders)| responders.len())
                .sum();
            assert_eq!(handle.requests.lock().deliveries(), awaited);
            assert!(awaited <= MAX_PENDING);
        }
        assert!(
            pending
                .values()
                .all(|(_, responders)| !responders.is_empty())
        );
    }

    /// Checks that no request is left after all connections have disconnected.
    fn ends(&self) {
        self.adds_up();
        for handle in &self.handles {
            self.requests
                .disconnect(handle, DeliveryError::Gone, &mut Notifications::new());
        }
        self.adds_up();
        assert_eq!(self.requests.count(), 0);
        self.expire();
        assert_eq!((self.requests.deadlines(), self.memory.used()), (0, 0));
    }
}

#[test]
fn only_one_of_two_answers_is_accepted() {
    explore(|| {
        let world = World::new();
        world.open(0, "a").unwrap();
        together(vec![
            world.task(|world| world.answer(2, "a", Some(0))),
            world.task(|world| world.answer(3, "a", Some(0))),
        ]);
        assert_eq!(world.answers.load(Relaxed), 1);
        world.ends();
    });
}

#[test]
fn only_one_of_two_askers_gets_an_ack() {
    explore(|| {
        let world = World::new();
        let won = Arc::new(AtomicUsize::new(0));
        let tasks = [0, 1].map(|asker| {
            let won = won.clone();
            world.task(move |world| match world.open(asker, "a") {
                Ok(()) => drop(won.fetch_add(1, Relaxed)),
                Err(error) => assert_eq!(error, ActionError::AckTaken),
            })
        });
        together(tasks.into());
        assert_eq!((won.load(Relaxed), world.requests.count()), (1, 1));
        world.ends();
    });
}

#[test]
fn a_request_never_waits_for_disconnected_responders() {
    explore(|| {
        let world = World::new();
        together(vec![
            world.task(|world| world.open(0, "a").unwrap()),
            world.task(|world| world.leave(2)),
            world.task(|world| world.leave(3)),
        ]);
        assert_eq!(world.requests.count(), 0);
        world.ends();
    });
}

#[test]
fn a_disconnect_never_ends_a_request_of_another_asker() {
    explore(|| {
        let world = World::new();
        world.open(0, "a").unwrap();
        let reopened = Arc::new(AtomicBool::new(false));
        let is_open = reopened.clone();
        together(vec![
            world.task(|world| world.leave(0)),
            world.task(move |world| {
                world.answer(2, "a", Some(0));
                is_open.store(world.open(1, "a").is_ok(), Relaxed);
            }),
        ]);
        assert!(reopened.load(Relaxed));
        let pending = world.requests.pending();
        assert_eq!(pending["a"], (1, vec![2, 3]));
        world.ends();
    });
}

#[test]
fn an_answer_never_completes_a_later_request_with_its_ack() {
    explore(|| {
        let world = World::new();
        world.open_to(&world.handles[2..3], 0, "a").unwrap();
        together(vec![
            world.task(|world| world.answer(2, "a", Some(0))),
            world.task(|world| {
                world.leave(0);
                world.open_to(&world.handles[3..], 1, "a").unwrap();
            }),
        ]);
        assert_eq!(world.requests.pending()["a"], (1, vec![3]));
        world.ends();
    });
}

#[test]
fn an_answer_is_accepted_unless_the_request_has_expired() {
    explore(|| {
        let world = World::new();
        world.open(0, "a").unwrap();
        together(vec![
            world.task(|world| world.answer(2, "a", Some(0))),
            world.task(|world| world.expire()),
            world.task(|world| drop(world.requests.check("a", &world.handles[1], world.now))),
        ]);
        assert!(world.answers.load(Relaxed) <= 1);
        assert_eq!(world.requests.count(), 0);
        world.ends();
    });
}

#[test]
fn a_request_ends_for_exactly_one_reason() {
    explore(|| {
        let world = World::new_2();
        world.open_to(&world.handles[2..3], 0, "a").unwrap();
        together(vec![
            world.task(|world| match below(2) {
                0 => world.answer(2, "a", Some(0)),
                _ => world.refuse(2, "a"),
            }),
            world.task(|world| match below(2) {
                0 => world.leave(2),
                _ => world.replace(2),
            }),
            world.task(|world| world.cancel(0, "a")),
            world.task(|world| world.expire()),
        ]);
        match world.notified()[1..] {
            [
                Notified::Answered(2)
                | Notified::Failed(2, DeliveryError::Gone)
                | Notified::Cancelled(2),
            ] => {}
            [
                Notified::Failed(2, DeliveryError::Timeout | DeliveryError::Replaced),
                Notified::Cancelled(2),
            ] => {}
            ref notified => panic!("{notified:?}"),
        }
        assert_eq!(world.requests.count(), 0);
        world.ends();
    });
}

#[test]
fn each_receiver_has_one_outcome() {
    explore(|| {
        let world = World::new_2();
        world.ask(&world.handles[2..], 0, "a", u32::MAX).unwrap();
        together(vec![
            world.task(|world| world.answer(2, "a", Some(0))),
            world.task(|world| match below(2) {
                0 => world.leave(2),
                _ => world.leave(3),
            }),
            world.task(|world| world.replace(3)),
            world.task(|world| world.expire()),
        ]);
        for key in [2, 3] {
            let notifications = world.notified().into_iter().filter(
                |notified| matches!(*notified, Notified::Answered(of) | Notified::Failed(of, _) if of == key),
            );
            assert_eq!(notifications.count(), 1, "{:?}", world.notified());
        }
        assert_eq!(world.requests.count(), 0);
        world.ends();
    });
}

#[test]
fn a_responder_is_never_cancelled_before_its_message() {
    explore(|| {
        let world = World::new_2();
        together(vec![
            world.task(|world| world.open(0, "a").unwrap()),
            world.task(|world| match below(2) {
                0 => world.answer(2, "a", Some(0)),
                _ => world.cancel(0, "a"),
            }),
            world.task(|world| match below(2) {
                0 => world.expire(),
                _ => world.replace(3),
            }),
        ]);
        for key in [2, 3] {
            let notified = world.notified();
            let at = |this| notified.iter().position(|notified| *notified == this);
            let cancelled = at(Notified::Cancelled(key));
            assert!(
                cancelled.is_none_or(|cancelled| at(Notified::Message(key)) < Some(cancelled)),
                "{notified:?}"
            );
        }
        world.ends();
    });
}

#[test]
fn a_request_never_waits_for_a_responder_that_lost_its_id() {
    explore(|| {
        let world = World::new_2();
        together(vec![
            world.task(|world| world.open_to(&world.handles[2..3], 0, "a").unwrap()),
            world.task(|world| world.replace(2)),
        ]);
        assert_eq!(world.requests.count(), 0);
        let notified = world.notified();
        assert!(notified.contains(&Notified::Failed(2, DeliveryError::Replaced)));
        // The responder receives the message, and then its cancellation.
        let for_it: Vec<_> = (notified.into_iter())
            .filter(|notified| matches!(notified, Notified::Message(2) | Notified::Cancelled(2)))
            .collect();
        assert_eq!(for_it, [Notified::Message(2), Notified::Cancelled(2)]);
        world.ends();
    });
}

#[test]
fn pending_deliveries_are_always_counted_correctly() {
    explore(|| {
        let world = [World::new, World::new_2][below(2)]();
        let mut tasks = Vec::new();
        for asker in 0..2 {
            tasks.push(world.task(move |world| {
                for _ in 0..3 {
                    let ack = ["a", "b"][below(2)];
                    let answers = 1 + below(2) as u32;
                    let refused = world.ask(&world.handles[2..], asker, ack, answers).err();
                    assert!(refused.is_none_or(|error| error == ActionError::AckTaken));
                    if below(4) == 0 {
                        world.cancel(asker, ack);
                    }
                }
                if below(2) == 0 {
                    world.leave(asker);
                }
            }));
        }
        for responder in 2..4 {
            tasks.push(world.task(move |world| {
                for _ in 0..3 {
                    let ack = ["a", "b"][below(2)];
                    match below(3) {
                        0 => world.refuse(responder, ack),
                        _ => world.answer(responder, ack, None),
                    }
                }
                match below(4) {
                    0 => world.leave(responder),
                    1 => world.replace(responder),
                    _ => {}
                }
            }));
        }
        tasks.push(world.task(|world| {
            if below(2) == 0 {
                world.expire();
            }
        }));
        together(tasks);
        world.ends();
    });
}

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
    told: Mutex<Vec<Told>>,
}

/// A frame or event for an asker or a responder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
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
                .map(|key| handle(key, Pipe::deaf(), 1024, &memory))
                .collect(),
            answers: AtomicUsize::new(0),
            told: Mutex::default(),
            memory,
        })
    }

    /// A world in which all connections use version 2.
    fn new_2() -> Arc<Self> {
        let world = Self::new();
        for handle in &world.handles {
            handle.set_speaks_2(true);
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
        let mut outcomes = Notifications::new();
        let opened = self.requests.open(&question, self.now, &mut outcomes)?;
        for responder in responders {
            self.told.lock().push(Told::Message(responder.key));
        }
        if let Some(request) = opened.asked() {
            self.requests.delivered(&request, &mut outcomes);
        }
        self.tell(&mut outcomes);
        Ok(())
    }

    fn tell(&self, outcomes: &mut Notifications) {
        self.told
            .lock()
            .extend(outcomes.drain(..).map(|outcome| match outcome {
                Notification::Failed { dest, error, .. } => {
                    Told::Failed(dest.parse().unwrap(), error)
                }
                Notification::Cancelled { responder, .. } => Told::Cancelled(responder.key),
            }));
    }

    /// Answers a request. If the answer is accepted, the asker must be `asker`.
    fn answer(&self, responder: usize, ack: &str, asker: Option<u64>) {
        let mut outcomes = Notifications::new();
        let responder = &self.handles[responder];
        let taken = self
            .requests
            .answer(ack, responder, self.now, &mut outcomes);
        if let Some(taken) = taken {
            assert!(asker.is_none_or(|asker| asker == taken.asker.key));
            self.answers.fetch_add(1, Relaxed);
            self.told.lock().push(Told::Answered(responder.key));
        }
        self.tell(&mut outcomes);
    }

    fn refuse(&self, responder: usize, ack: &str) {
        let mut outcomes = Notifications::new();
        let responder = &self.handles[responder];
        let taken = self
            .requests
            .refuse(ack, responder, self.now, &mut outcomes);
        if taken.is_some() {
            self.told.lock().push(Told::Answered(responder.key));
        }
        self.tell(&mut outcomes);
    }

    fn cancel(&self, asker: usize, ack: &str) {
        let mut outcomes = Notifications::new();
        self.requests
            .cancel(ack, &self.handles[asker], &mut outcomes);
        self.tell(&mut outcomes);
    }

    fn leave(&self, place: usize) {
        let mut outcomes = Notifications::new();
        self.requests
            .disconnect(&self.handles[place], DeliveryError::Gone, &mut outcomes);
        self.tell(&mut outcomes);
    }

    /// Simulates that another connection takes over the id of this responder.
    fn replace(&self, place: usize) {
        let mut outcomes = Notifications::new();
        let former = &self.handles[place];
        let id = former.key.to_string();
        self.requests.replaced(former, &id, 7, &mut outcomes);
        self.tell(&mut outcomes);
    }

    fn expire(&self) {
        self.requests
            .expire(self.now + 2 * HOUR, |outcomes| self.tell(outcomes));
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().clone()
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
            assert_eq!(handle.book.lock().deliveries(), awaited);
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
        match world.told()[1..] {
            [Told::Answered(2) | Told::Failed(2, DeliveryError::Gone) | Told::Cancelled(2)] => {}
            [
                Told::Failed(2, DeliveryError::Timeout | DeliveryError::Replaced),
                Told::Cancelled(2),
            ] => {}
            ref told => panic!("{told:?}"),
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
            let outcomes = world.told().into_iter().filter(
                |told| matches!(*told, Told::Answered(of) | Told::Failed(of, _) if of == key),
            );
            assert_eq!(outcomes.count(), 1, "{:?}", world.told());
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
            let told = world.told();
            let at = |this| told.iter().position(|told| *told == this);
            let cancelled = at(Told::Cancelled(key));
            assert!(
                cancelled.is_none_or(|cancelled| at(Told::Message(key)) < Some(cancelled)),
                "{told:?}"
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
        let told = world.told();
        assert!(told.contains(&Told::Failed(2, DeliveryError::Replaced)));
        // The responder receives the message, and then its cancellation.
        let for_it: Vec<_> = (told.into_iter())
            .filter(|told| matches!(told, Told::Message(2) | Told::Cancelled(2)))
            .collect();
        assert_eq!(for_it, [Told::Message(2), Told::Cancelled(2)]);
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

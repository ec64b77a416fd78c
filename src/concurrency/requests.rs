//! Askers, responders, deadlines and departures, all at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{below, explore, handle, memory, together};
use crate::{
    error::ActionError,
    handle::Handle,
    memory::Memory,
    requests::{Fault, Name, Outcomes, Question, Requests},
    socket::pipe::Pipe,
};

const HOUR: Duration = Duration::from_secs(3600);
/// Deliveries that one asker may await.
const MAX_PENDING: usize = 3;

type Task = Box<dyn FnOnce() + Send>;

struct World {
    memory: Arc<Memory>,
    requests: Requests,
    now: Instant,
    /// The first two ask, the others answer.
    handles: Vec<Arc<Handle>>,
    /// Answers taken.
    answers: AtomicUsize,
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
            memory,
        })
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
        let names: Vec<_> = responders
            .iter()
            .map(|_| Name {
                id: "",
                registration: u64::MAX,
            })
            .collect();
        let question = Question {
            ack,
            asker: &self.handles[asker],
            receivers: responders,
            names: &names,
            answers: 1,
            timeout: None,
        };
        self.requests
            .open(&question, self.now, &mut Outcomes::new())
            .map(drop)
    }

    /// Answers; whoever asked must be `asker`, if it was taken.
    fn answer(&self, responder: usize, ack: &str, asker: Option<u64>) {
        let taken = self.requests.answer(
            ack,
            &self.handles[responder],
            self.now,
            &mut Outcomes::new(),
        );
        if let Some(taken) = taken {
            assert!(asker.is_none_or(|asker| asker == taken.key));
            self.answers.fetch_add(1, Relaxed);
        }
    }

    fn leave(&self, place: usize) {
        let handle = &self.handles[place];
        self.requests
            .leave(handle, Fault::Gone, &mut Outcomes::new());
    }

    fn task(self: &Arc<Self>, act: impl FnOnce(&Self) + Send + 'static) -> Task {
        let world = self.clone();
        Box::new(move || act(&world))
    }

    /// Every delivery that is awaited is in the table, and the other way round.
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

    /// When all have gone, nothing is left.
    fn ends(&self) {
        self.adds_up();
        for handle in &self.handles {
            self.requests
                .leave(handle, Fault::Gone, &mut Outcomes::new());
        }
        self.adds_up();
        assert_eq!(self.requests.count(), 0);
        self.requests.expire(self.now + 2 * HOUR, |_| {});
        assert_eq!((self.requests.deadlines(), self.memory.used()), (0, 0));
    }
}

#[test]
fn of_two_answers_one_is_taken() {
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
fn of_two_who_want_an_ack_one_has_it() {
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
fn a_request_is_never_left_to_those_who_have_gone() {
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
fn who_leaves_takes_no_request_of_others_along() {
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
fn an_answer_is_taken_for_no_other_request_than_it_was_meant_for() {
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
fn an_answer_is_taken_unless_the_time_is_up_first() {
    explore(|| {
        let world = World::new();
        world.open(0, "a").unwrap();
        together(vec![
            world.task(|world| world.answer(2, "a", Some(0))),
            world.task(|world| world.requests.expire(world.now + 2 * HOUR, |_| {})),
            world.task(|world| drop(world.requests.check("a", &world.handles[1], world.now))),
        ]);
        assert!(world.answers.load(Relaxed) <= 1);
        assert_eq!(world.requests.count(), 0);
        world.ends();
    });
}

#[test]
fn whatever_happens_together_deliveries_add_up() {
    explore(|| {
        let world = World::new();
        let mut tasks = Vec::new();
        for asker in 0..2 {
            tasks.push(world.task(move |world| {
                for _ in 0..3 {
                    let ack = ["a", "b"][below(2)];
                    let refused = world.open(asker, ack).err();
                    assert!(refused.is_none_or(|error| error == ActionError::AckTaken));
                }
                if below(2) == 0 {
                    world.leave(asker);
                }
            }));
        }
        for responder in 2..4 {
            tasks.push(world.task(move |world| {
                for _ in 0..3 {
                    world.answer(responder, ["a", "b"][below(2)], None);
                }
                if below(3) == 0 {
                    world.leave(responder);
                }
            }));
        }
        tasks.push(world.task(|world| {
            if below(2) == 0 {
                world.requests.expire(world.now + 2 * HOUR, |_| {});
            }
        }));
        together(tasks);
        world.ends();
    });
}

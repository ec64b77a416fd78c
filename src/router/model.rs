//! The router and the requests beside the simplest broker that keeps the rules of
//! `spec/protocol.md`: whatever is done to both, in whatever order, both say the same.
//!
//! Operations are drawn at random in episodes, each from a seed of its own. A failure names the
//! seed and the shortest sequence that shows it. `WSMB_SEED` starts with that seed,
//! `WSMB_STEPS` says how many operations are tried.

mod reference;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Debug, Display},
    panic::{AssertUnwindSafe, catch_unwind},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use self::reference::Reference;
use super::Router;
use crate::{
    error::ActionError,
    handle::Handle,
    memory::Memory,
    options::ServerOptions,
    requests::{Fault, Name, Outcomes, Question},
    socket::pipe::Pipe,
};

/// Operations in one life of a broker.
const EPISODE: usize = 2_000;
/// Operations between two comparisons of all state.
const LOOK_EVERY: usize = 32;
/// Times at which something begins or ends, in milliseconds: drawn so often that ends coincide.
const TIMES: [u64; 8] = [0, 1, 1_000, 59_999, 60_000, 599_999, 600_000, 3_600_000];

/// What may happen to a broker. A connection is named by its place; when it ends, a new one takes
/// the place: so each sequence of operations is a possible one.
#[derive(Debug, Clone)]
enum Op {
    Register {
        place: usize,
        id: usize,
    },
    Unregister {
        place: usize,
    },
    End {
        place: usize,
    },
    /// The broker closes a connection that does not read.
    Slow {
        place: usize,
    },
    /// A send. `lost` ends after it was found to be a receiver, before the request is open.
    Send {
        place: usize,
        dest: Vec<usize>,
        ack: usize,
        lost: Option<usize>,
    },
    Answer {
        place: usize,
        ack: usize,
    },
    /// Time passes.
    Wait(u64),
    /// The broker looks for requests whose time is up.
    Expire,
    /// `ackTimeout` changes.
    Timeout(u64),
}

/// What came of an operation. Connections go by their keys.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// `freed`: the former id has no owner any more. `replaced`: the new one had one before.
    Registered {
        freed: bool,
        replaced: bool,
    },
    /// The id belongs to another principal. `freed` as above.
    Conflict {
        freed: bool,
    },
    Unregistered(bool),
    /// Who gets the message, as often as it is listed.
    Sent(Vec<u64>),
    Refused(ActionError),
    /// Who gets the answer.
    Answered(Option<u64>),
}

/// All that can be known of a broker.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    /// The owner of each id, and whether it is given no time when it does not read.
    owners: BTreeMap<usize, (u64, bool)>,
    /// Who owns the id that it registered, by place.
    owning: Vec<bool>,
    /// Deliveries for which an answer is awaited, by place.
    deliveries: Vec<usize>,
    requests: BTreeMap<usize, Request>,
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    asker: u64,
    responders: Vec<u64>,
}

/// The size of a broker's world, and what happens in it.
#[derive(Debug, Clone)]
struct World {
    places: usize,
    ids: usize,
    acks: usize,
    /// Who registers: the connections take turns. One principal: nobody is asked who he is.
    principals: u64,
    max_pending: usize,
    /// How often each operation is drawn, in the order of [`Op`].
    weights: [u32; 9],
}

impl World {
    /// Worlds differ much: some are crowded, and in some a thing that is usual elsewhere never
    /// happens.
    fn draw(rng: &mut StdRng) -> Self {
        let usual = [12, 4, 2, 2, 40, 30, 8, 4, 1];
        Self {
            places: rng.random_range(2..10),
            ids: rng.random_range(1..8),
            acks: [2, 6, 30][rng.random_range(0..3)],
            principals: [1, 1, 2, 3][rng.random_range(0..4)],
            max_pending: [1, 4, 30][rng.random_range(0..3)],
            weights: usual.map(|weight| weight * rng.random_range(0..4)),
        }
    }

    fn draw_op(&self, rng: &mut StdRng) -> Op {
        let place = rng.random_range(0..self.places);
        let all: u32 = self.weights.iter().sum();
        let mut drawn = rng.random_range(0..all.max(1));
        let mut kind = 0;
        while kind + 1 < self.weights.len() && drawn >= self.weights[kind] {
            drawn -= self.weights[kind];
            kind += 1;
        }
        match kind {
            0 => Op::Register {
                place,
                id: rng.random_range(0..self.ids),
            },
            1 => Op::Unregister { place },
            2 => Op::End { place },
            3 => Op::Slow { place },
            4 => Op::Send {
                place,
                dest: (0..rng.random_range(1..5))
                    .map(|_| rng.random_range(0..self.ids))
                    .collect(),
                ack: rng.random_range(0..self.acks),
                lost: (rng.random_range(0..16) == 0)
                    .then(|| rng.random_range(0..self.places))
                    .filter(|lost| *lost != place),
            },
            5 => Op::Answer {
                place,
                ack: rng.random_range(0..self.acks),
            },
            6 => Op::Wait(TIMES[rng.random_range(0..TIMES.len() - 1)]),
            7 => Op::Expire,
            _ => Op::Timeout(TIMES[rng.random_range(0..TIMES.len())]),
        }
    }
}

/// The principal of a connection.
fn principal(key: u64, world_principals: u64) -> u64 {
    key % world_principals
}

/// The broker itself, and what its connections do around it.
struct Broker {
    router: Router,
    memory: Arc<Memory>,
    principals: u64,
    start: Instant,
    now: Instant,
    places: Vec<Connection>,
    next_key: u64,
    outcomes: Outcomes,
}

struct Connection {
    handle: Arc<Handle>,
    id: Option<usize>,
}

fn id_text(id: usize) -> Arc<str> {
    format!("id {id}").into()
}

fn ack_text(ack: usize) -> String {
    format!("ack {ack}")
}

impl Broker {
    fn new(world: &World) -> Self {
        let now = Instant::now();
        let memory = Arc::new(Memory::new(usize::MAX));
        let options = ServerOptions {
            max_pending_acks: world.max_pending,
            ..ServerOptions::default()
        };
        let mut broker = Self {
            router: Router::new(&options, memory.clone()),
            memory,
            principals: world.principals,
            start: now,
            now,
            places: Vec::new(),
            next_key: 0,
            outcomes: Outcomes::new(),
        };
        for _ in 0..world.places {
            let connection = broker.connect();
            broker.places.push(connection);
        }
        broker
    }

    fn connect(&mut self) -> Connection {
        let key = self.next_key;
        self.next_key += 1;
        let handle = Handle::new(key, Pipe::deaf(), 1024, self.memory.clone());
        if self.principals > 1 {
            let principal = principal(key, self.principals).to_string();
            *handle.principal.lock() = Some(principal.into());
        }
        Connection {
            handle: Arc::new(handle),
            id: None,
        }
    }

    fn apply(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::Register { place, id } => {
                let former = self.places[place].id.is_some_and(|former| former != id);
                let freed = former && self.give_up(place);
                let mut replaced = false;
                let handle = &self.places[place].handle;
                let taken = self
                    .router
                    .register(&id_text(id), handle, |was| replaced = was.is_some());
                if taken.is_err() {
                    return Outcome::Conflict { freed };
                }
                self.places[place].id = Some(id);
                Outcome::Registered { freed, replaced }
            }
            Op::Unregister { place } => {
                let freed = self.give_up(place);
                let handle = &self.places[place].handle;
                self.router.requests.withdraw(handle, &mut self.outcomes);
                Outcome::Unregistered(freed)
            }
            Op::End { place } => {
                self.end(place);
                Outcome::Done
            }
            Op::Slow { place } => {
                let connection = &self.places[place];
                if let Some(id) = connection.id
                    && connection.handle.owns_its_id()
                {
                    self.router.strike(&id_text(id), self.now);
                }
                self.end(place);
                Outcome::Done
            }
            Op::Send {
                place,
                ref dest,
                ack,
                lost,
            } => {
                let found = dest.iter().filter_map(|id| self.router.find(&id_text(*id)));
                let receivers: Vec<_> = found.collect();
                if let Some(lost) = lost {
                    self.end(lost);
                }
                match self.ask(place, &ack_text(ack), &receivers) {
                    Ok(()) => Outcome::Sent(receivers.iter().map(|handle| handle.key).collect()),
                    Err(error) => Outcome::Refused(error),
                }
            }
            Op::Answer { place, ack } => {
                let responder = &self.places[place].handle;
                let requests = &self.router.requests;
                let outcomes = &mut self.outcomes;
                let asker = requests.answer(&ack_text(ack), responder, self.now, outcomes);
                Outcome::Answered(asker.map(|asker| asker.key))
            }
            Op::Wait(millis) => {
                self.now += Duration::from_millis(millis);
                Outcome::Done
            }
            Op::Expire => {
                let outcomes = &mut self.outcomes;
                let requests = &self.router.requests;
                requests.expire(self.now, |expired| outcomes.append(expired));
                Outcome::Done
            }
            Op::Timeout(millis) => {
                let timeout = Duration::from_millis(millis);
                self.router.requests.set_timeout(timeout);
                Outcome::Done
            }
        }
    }

    fn ask(&mut self, place: usize, ack: &str, to: &[Arc<Handle>]) -> Result<(), ActionError> {
        let Connection { handle, id } = &self.places[place];
        let requests = &self.router.requests;
        match id {
            _ if to.is_empty() => Ok(()),
            Some(_) => {
                let names: Vec<_> = to
                    .iter()
                    .map(|_| Name {
                        id: "",
                        registration: u64::MAX,
                    })
                    .collect();
                let question = Question {
                    ack,
                    asker: handle,
                    receivers: to,
                    names: &names,
                    answers: 1,
                    timeout: None,
                };
                requests
                    .open(&question, self.now, &mut self.outcomes)
                    .map(drop)
            }
            None => requests.check(ack, handle, self.now),
        }
    }

    fn give_up(&mut self, place: usize) -> bool {
        let mut freed = false;
        let connection = &mut self.places[place];
        if let Some(id) = connection.id.take() {
            self.router
                .unregister(&id_text(id), &connection.handle, || freed = true);
        }
        freed
    }

    /// Ends a connection: nothing may hold on to it, nor count what it awaited.
    fn end(&mut self, place: usize) {
        self.give_up(place);
        let next = self.connect();
        let Connection { handle, .. } = std::mem::replace(&mut self.places[place], next);
        self.router
            .requests
            .leave(&handle, Fault::Gone, &mut self.outcomes);
        assert_eq!(handle.book.lock().deliveries(), 0);
        assert!(!handle.owns_its_id());
    }

    fn state(&self, world: &World) -> State {
        let find = |id| self.router.find(&id_text(id));
        let owners: BTreeMap<_, _> = (0..world.ids)
            .filter_map(|id| find(id).map(|owner| (id, owner)))
            .map(|(id, owner)| {
                (
                    id,
                    (owner.key, self.router.is_strict(&id_text(id), self.now)),
                )
            })
            .collect();
        let listed: BTreeSet<_> = self.router.ids().into_iter().collect();
        assert_eq!(listed, owners.keys().map(|id| id_text(*id)).collect());
        assert_eq!(self.router.count(), owners.len());
        let pending = self.router.requests.pending();
        assert_eq!(self.router.requests.count(), pending.len());
        State {
            owners,
            owning: self
                .places
                .iter()
                .map(|connection| connection.handle.owns_its_id())
                .collect(),
            deliveries: self
                .places
                .iter()
                .map(|connection| connection.handle.book.lock().deliveries())
                .collect(),
            requests: (0..world.acks)
                .filter_map(|ack| {
                    let (asker, responders) = pending.get(&ack_text(ack))?.clone();
                    Some((ack, Request { asker, responders }))
                })
                .collect(),
        }
    }

    /// Ends all connections: nothing may be left of them.
    fn finish(&mut self) {
        let handles: Vec<_> = self.places.iter().map(|one| one.handle.clone()).collect();
        for place in 0..self.places.len() {
            self.end(place);
        }
        self.router.requests.expire(self.start, |_| {});
        assert_eq!(self.router.count(), 0);
        assert_eq!(self.router.requests.count(), 0);
        assert_eq!(self.router.requests.deadlines(), 0);
        assert_eq!(self.memory.used(), 0);
        for handle in handles {
            assert_eq!(Arc::strong_count(&handle), 1, "somebody holds it");
        }
    }
}

/// Lets both go through the same, and tells which rules were met; or where they differ first.
fn run(world: &World, ops: &[Op]) -> Result<BTreeSet<&'static str>, Difference> {
    let mut at = 0;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut reference = Reference::new(world);
        let mut broker = Broker::new(world);
        for (index, op) in ops.iter().enumerate() {
            at = index;
            same(broker.apply(op), reference.apply(op))?;
            if index % LOOK_EVERY == 0 || index + 1 == ops.len() {
                same(broker.state(world), reference.state())?;
            }
        }
        broker.finish();
        Ok(reference.met)
    }));
    let what = match result {
        Ok(Ok(met)) => return Ok(met),
        Ok(Err(what)) => what,
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(message) => message.clone(),
            None => "a panic".into(),
        },
    };
    Err(Difference { at, what })
}

struct Difference {
    /// The operation after which it was seen.
    at: usize,
    what: String,
}

fn same<T: Debug + PartialEq>(broker: T, reference: T) -> Result<(), String> {
    match broker == reference {
        true => Ok(()),
        false => Err(format!("broker:    {broker:?}\nreference: {reference:?}")),
    }
}

/// Leaves out all that is not needed for a difference.
fn shorten(world: &World, mut ops: Vec<Op>) -> Vec<Op> {
    let mut length = ops.len() / 2;
    while length > 0 {
        let mut at = 0;
        while at < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(at..ops.len().min(at + length));
            match run(world, &fewer) {
                Err(_) => ops = fewer,
                Ok(_) => at += length,
            }
        }
        length /= 2;
    }
    ops
}

fn setting<T: FromStr<Err: Display>>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(value) => value
            .parse()
            .unwrap_or_else(|error| panic!("{name}: {error}")),
        Err(_) => default,
    }
}

#[test]
fn a_million_operations_come_out_as_the_rules_say() {
    let first = setting("WSMB_SEED", 0_u64);
    let steps = setting("WSMB_STEPS", 1_000_000_usize);
    let mut met = BTreeSet::new();
    for seed in (first..).take(steps.div_ceil(EPISODE)) {
        let mut rng = StdRng::seed_from_u64(seed);
        let world = World::draw(&mut rng);
        let mut ops: Vec<_> = (0..EPISODE).map(|_| world.draw_op(&mut rng)).collect();
        match run(&world, &ops) {
            Ok(more) => met.extend(more),
            Err(Difference { at, .. }) => {
                ops.truncate(at + 1);
                let ops = shorten(&world, ops);
                let lines: Vec<_> = ops.iter().map(|op| format!("  {op:?}")).collect();
                let what = run(&world, &ops).err().map(|difference| difference.what);
                panic!(
                    "WSMB_SEED={seed}, {world:?}\n{}\n{}",
                    lines.join("\n"),
                    what.unwrap_or_default()
                );
            }
        }
    }
    // What was never tried was not shown.
    if steps >= 1_000_000 {
        assert_eq!(met, BTreeSet::from(reference::RULES));
    }
}

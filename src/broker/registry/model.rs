//! Model test: the registry and the requests must behave like the simplest broker that follows the rules of
//! `spec/protocol.md`, whatever the operations and their order.
//!
//! Operations are drawn at random in episodes, each from its own seed. A failure prints the seed and the
//! shortest sequence that shows it. `WSMB_SEED` sets the first seed, `WSMB_STEPS` the number of operations.

mod broker;
mod reference;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Debug, Display},
    panic::{AssertUnwindSafe, catch_unwind},
    str::FromStr,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use self::{broker::RealBroker, reference::Reference};
use crate::error::ActionError;

/// Operations in one episode.
const EPISODE: usize = 2_000;
/// Operations between two comparisons of the whole state.
const LOOK_EVERY: usize = 32;
/// Times at which something begins or ends, in milliseconds. Few, so that ends coincide.
const TIMES: [u64; 8] = [0, 1, 1_000, 59_999, 60_000, 599_999, 600_000, 3_600_000];

/// Operation on a broker. A connection is named by its place; when it ends, a new one takes the place, so
/// that each sequence of operations is valid.
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
    /// A send. `lost` ends after it was found as a receiver and before the request is opened.
    Send {
        place: usize,
        dest: Vec<usize>,
        ack: usize,
        answers: u32,
        /// Timeout of the request, in milliseconds.
        timeout: Option<u64>,
        lost: Option<usize>,
    },
    Answer {
        place: usize,
        ack: usize,
    },
    Refuse {
        place: usize,
        ack: usize,
    },
    /// The asker cancels a request.
    Cancel {
        place: usize,
        ack: usize,
    },
    /// Time passes, in milliseconds.
    Wait(u64),
    /// The broker expires requests.
    Expire,
    /// `ackTimeout` changes.
    Timeout(u64),
}

/// Result of an operation. Connections are named by their keys.
#[derive(Debug, PartialEq, Eq)]
enum ModelOutcome {
    Done,
    /// `freed`: the former id has no owner any more. `replaced`: the new id had an owner.
    Registered {
        freed: bool,
        replaced: bool,
    },
    /// The id belongs to another principal. `freed` as above.
    Conflict {
        freed: bool,
    },
    Unregistered(bool),
    /// Receivers, as often as they are listed.
    Sent(Vec<u64>),
    Refused(ActionError),
    /// Receiver of the answer.
    Answered(Option<u64>),
    /// Receiver of the refusal, and whether the request has ended with it.
    Declined(Option<(u64, bool)>),
}

/// Notification of another connection.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Notified {
    /// To the asker: the connection that was asked by this id will not answer.
    Failed {
        asker: u64,
        ack: usize,
        id: usize,
        code: &'static str,
    },
    /// To a responder: its answer is no longer awaited.
    Cancelled { responder: u64, ack: usize },
}

/// Observable state of a broker.
#[derive(Debug, Default, PartialEq, Eq)]
struct ModelState {
    /// Owner of each id, and whether the id is penalized.
    owners: BTreeMap<usize, (u64, bool)>,
    /// Whether the connection owns the id that it registered, by place.
    owning: Vec<bool>,
    /// Deliveries that await an answer, by place.
    deliveries: Vec<usize>,
    requests: BTreeMap<usize, ModelRequest>,
}

#[derive(Debug, PartialEq, Eq)]
struct ModelRequest {
    asker: u64,
    responders: Vec<u64>,
}

/// Size of a broker's world, and the distribution of operations.
#[derive(Debug, Clone)]
struct World {
    places: usize,
    ids: usize,
    acks: usize,
    /// Number of principals, to which connections belong in turn. One: no authentication.
    principals: u64,
    /// One of this many connections speaks version 2; zero: none does.
    new_among: u64,
    max_pending: usize,
    /// Weight of each operation, in the order of [`Op`].
    weights: [u32; 11],
}

impl World {
    /// Draws a world. Some are crowded, and some exclude operations that are common in others.
    fn draw(rng: &mut StdRng) -> Self {
        let usual = [12, 4, 2, 2, 40, 30, 6, 4, 8, 4, 1];
        Self {
            places: rng.random_range(2..10),
            ids: rng.random_range(1..8),
            acks: [2, 6, 30][rng.random_range(0..3)],
            principals: [1, 1, 2, 3][rng.random_range(0..4)],
            new_among: [0, 1, 2, 3][rng.random_range(0..4)],
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
                answers: [1, 1, 2, u32::MAX][rng.random_range(0..4)],
                timeout: (rng.random_range(0..4) == 0)
                    .then(|| TIMES[rng.random_range(0..TIMES.len())]),
                lost: (rng.random_range(0..16) == 0)
                    .then(|| rng.random_range(0..self.places))
                    .filter(|lost| *lost != place),
            },
            5 => Op::Answer {
                place,
                ack: rng.random_range(0..self.acks),
            },
            6 => Op::Refuse {
                place,
                ack: rng.random_range(0..self.acks),
            },
            7 => Op::Cancel {
                place,
                ack: rng.random_range(0..self.acks),
            },
            8 => Op::Wait(TIMES[rng.random_range(0..TIMES.len() - 1)]),
            9 => Op::Expire,
            _ => Op::Timeout(TIMES[rng.random_range(0..TIMES.len())]),
        }
    }
}

/// Principal of a connection.
fn principal(key: u64, world_principals: u64) -> u64 {
    key % world_principals
}

/// True for a connection that speaks version 2.
fn uses_version_2(key: u64, new_among: u64) -> bool {
    new_among > 0 && key.is_multiple_of(new_among)
}

/// Runs the operations on both. Returns the rules that were exercised, or the first difference.
fn run(world: &World, ops: &[Op]) -> Result<BTreeSet<&'static str>, Difference> {
    let mut at = 0;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut reference = Reference::new(world);
        let mut broker = RealBroker::new(world);
        for (index, op) in ops.iter().enumerate() {
            at = index;
            same(broker.apply(op), reference.apply(op))?;
            same(broker.notified(), reference.notified())?;
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
    /// Index of the operation after which it was found.
    at: usize,
    what: String,
}

fn same<T: Debug + PartialEq>(broker: T, reference: T) -> Result<(), String> {
    match broker == reference {
        true => Ok(()),
        false => Err(format!("broker:    {broker:?}\nreference: {reference:?}")),
    }
}

/// Removes operations that are not needed for the difference.
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
fn a_million_operations_follow_the_rules() {
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
    // A rule that was not exercised was not tested.
    if steps >= 1_000_000 {
        assert_eq!(met, BTreeSet::from(reference::RULES));
    }
}

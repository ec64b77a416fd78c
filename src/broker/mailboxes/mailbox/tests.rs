//! Tests of one mailbox, and a model test: each message of the log that was given out is at one place.
//!
//! Operations are drawn at random from a seed, which a failure prints. `WSMB_SEED` sets the seed, `WSMB_STEPS` the number
//! of operations.

use std::env;

use futures_util::FutureExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    broker::mailboxes::{Mail, Mailboxes},
    memory::Memory,
    options::MailboxRule,
    store::{Bounds, Overflow, memory::MemoryLog},
    transport::socket::pipe::Pipe,
};

const CONSUMERS: u64 = 4;

struct World {
    mailboxes: Arc<Mailboxes>,
    rule: Arc<Rule>,
    memory: Arc<Memory>,
}

impl World {
    fn new(max_deliver: u32) -> Self {
        let memory = Arc::new(Memory::new(usize::MAX));
        let bounds = Bounds {
            messages: 64,
            age: None,
            bytes: usize::MAX,
            topic_bytes: usize::MAX,
            overflow: Overflow::Refuse,
        };
        let options = MailboxRule {
            max_deliver,
            ..MailboxRule::new("*")
        };
        let rule = Rule::new(&options, Box::new(MemoryLog::new("all", bounds, &memory)));
        let mailboxes = Mailboxes::new(vec![rule.clone()]);
        Self {
            mailboxes,
            rule,
            memory,
        }
    }

    fn handle(&self, key: u64) -> Arc<Handle> {
        let handle = Handle::new(key, Pipe::full(), 1 << 20, self.memory.clone());
        handle.set_registration(key);
        Arc::new(handle)
    }

    fn put(&self) {
        let mail = Mail {
            name: "m",
            key: None,
        };
        let encode = |offset: u64| Bytes::from(format!("{offset}"));
        (self.mailboxes).put(&self.rule, &mail, (20, encode), |_| ());
    }

    /// A consumer reads, as its connection does. Returns the messages that it has got.
    fn read(&self, mailbox: &Mailbox, key: u64) -> Vec<(u64, u32)> {
        let mut all = Vec::new();
        while let Some(plan) = mailbox.begin(key) {
            let page = self.rule.log.read(&plan.query).now_or_never();
            let page = page.expect("memory is ready at once").ok();
            let batch = mailbox.take(key, &plan.query, page, &self.mailboxes.counters);
            mailbox.end(key);
            all.extend(batch.taken.iter().map(|one| (one.offset, one.attempt)));
            batch.dead.iter().for_each(|one| mailbox.remove(one.offset));
        }
        all
    }
}

#[test]
fn a_message_that_is_stored_during_a_read_comes_behind_it() {
    let world = World::new(0);
    world.put();
    let handle = world.handle(1);
    let mailbox = world.mailboxes.open("m", &handle, 64).unwrap();
    let plan = mailbox.begin(1).unwrap();
    let page = world.rule.log.read(&plan.query).now_or_never().unwrap();
    let batch = mailbox.take(1, &plan.query, page.ok(), &world.mailboxes.counters);
    assert_eq!(batch.taken.len(), 1);
    // What was read is not in the outbox yet.
    world.put();
    assert_eq!(handle.outbox.waiting(), 0);
    mailbox.end(1);
    assert_eq!(world.read(&mailbox, 1), [(2, 1)]);
    world.put();
    assert_ne!(handle.outbox.waiting(), 0, "given to the consumer at once");
}

#[test]
fn a_message_does_not_overtake_one_that_was_stored_before() {
    let world = World::new(0);
    let handle = world.handle(1);
    let mailbox = world.mailboxes.open("m", &handle, 64).unwrap();
    assert_eq!(world.read(&mailbox, 1), []);
    let place = |offset| Place {
        offset,
        prev: offset - 1,
    };
    mailbox.offer(place(2), &Bytes::from_static(b"2"));
    assert_eq!(handle.outbox.waiting(), 0);
    mailbox.offer(place(1), &Bytes::from_static(b"1"));
    assert_eq!(handle.outbox.waiting(), 0, "it has to be read");
}

#[test]
fn a_window_of_zero_takes_nothing() {
    let world = World::new(0);
    let handle = world.handle(1);
    let mailbox = world.mailboxes.open("m", &handle, 0).unwrap();
    world.put();
    assert_eq!(world.read(&mailbox, 1), []);
    world.mailboxes.open("m", &handle, 1);
    assert_eq!(world.read(&mailbox, 1), [(1, 1)]);
}

#[test]
fn a_message_is_dead_after_its_last_attempt() {
    let world = World::new(2);
    world.put();
    let handle = world.handle(1);
    for attempt in [1, 2] {
        let mailbox = world.mailboxes.open("m", &handle, 64).unwrap();
        assert_eq!(world.read(&mailbox, 1), [(1, attempt)]);
        world.mailboxes.leave(&mailbox, &handle);
    }
    let mailbox = world.mailboxes.open("m", &handle, 64).unwrap();
    assert_eq!(world.read(&mailbox, 1), []);
    assert_eq!(world.mailboxes.counters.dead.load(Relaxed), 1);
    assert_eq!(world.mailboxes.usage("m").unwrap().messages, 0);
}

/// Checks that each message of the log is at one place, or behind the position.
fn check(world: &World, mailbox: &Mailbox) {
    let state = mailbox.state.lock();
    let mut places: Vec<u64> = state.returned.keys().copied().collect();
    places.extend(state.delayed.keys());
    for consumer in &state.consumers {
        places.extend(consumer.has.keys());
        assert!(consumer.has.len() <= consumer.window.max(8));
        let bytes: usize = consumer.has.values().map(|(bytes, _)| bytes).sum();
        assert_eq!(bytes, consumer.bytes);
    }
    places.sort_unstable();
    assert!(places.is_sorted_by(|a, b| a < b), "at two places");
    assert!(places.last().is_none_or(|last| *last <= state.position));
    let query = Query {
        pattern: mailbox.topic.clone(),
        range: Range::After(0),
        messages: usize::MAX,
        bytes: usize::MAX,
    };
    let page = world.rule.log.read(&query).now_or_never().unwrap().unwrap();
    let offsets = page.messages.iter().map(|one| one.offset);
    let given: Vec<u64> = offsets.filter(|offset| *offset <= state.position).collect();
    assert_eq!(
        given, places,
        "a message is lost, or was removed and is still there"
    );
    let newest = page.messages.last().map_or(0, |one| one.offset);
    assert!(
        newest <= state.position || state.has_more,
        "it would never be read"
    );
}

#[tokio::test(start_paused = true)]
async fn each_message_is_at_one_place() {
    let number = |name, default: u64| {
        let text = env::var(name).ok();
        text.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let seed = number("WSMB_SEED", rand::random());
    let steps = number("WSMB_STEPS", 100_000);
    println!("WSMB_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::new(5);
    let handles: Vec<_> = (0..CONSUMERS).map(|key| world.handle(key)).collect();
    // One stays, so that the mailbox does.
    let mailbox = world.mailboxes.open("m", &handles[0], 3).unwrap();
    for _ in 0..steps {
        let handle = &handles[random.random_range(0..handles.len())];
        let key = handle.key;
        match random.random_range(0..10) {
            0..=2 => world.put(),
            3 | 4 => drop(world.read(&mailbox, key)),
            5 => drop(world.mailboxes.open("m", handle, random.random_range(0..8))),
            6 if key != 0 => world.mailboxes.leave(&mailbox, handle),
            7 | 8 => {
                let mut has = |state: &mut State| {
                    let consumer = state.consumer(key)?;
                    let place = random.random_range(0..consumer.has.len().max(1));
                    consumer.has.keys().nth(place).copied()
                };
                let offset = has(&mut mailbox.state.lock());
                match offset {
                    Some(offset) if random.random_bool(0.5) => mailbox.remove(offset),
                    Some(offset) => {
                        let after = Duration::from_millis(random.random_range(0..3));
                        mailbox.give_back(key, offset, after);
                    }
                    None => {}
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
        // Its task would write what it was given.
        handles.iter().for_each(|handle| handle.set_has_mail(false));
        check(&world, &mailbox);
    }
}

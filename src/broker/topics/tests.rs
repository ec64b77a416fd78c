//! Model test: subscriptions must behave like a list that is searched from end to end.
//!
//! Operations are drawn at random from a seed, which a failure prints. `WSMB_SEED` sets the seed, `WSMB_STEPS` the number
//! of operations.

use std::{collections::BTreeMap, env};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{memory::Memory, options::ServerOptions, topic::covers, transport::socket::pipe::Pipe};

/// Maximum subscriptions of a connection, and patterns with wildcards: few, so that the limits are reached.
const MAX_SUBSCRIPTIONS: usize = 12;
const MAX_PATTERNS: usize = 24;
const CONNECTIONS: usize = 12;
/// Operations between two comparisons of all topics.
const LOOK_EVERY: usize = 64;

/// The subscriptions, as connection and pattern, with the treatment of a slow subscriber.
type Reference = BTreeMap<(usize, String), Slow>;

fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    let text = env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn new_handle(key: u64, memory: &Arc<Memory>) -> Arc<Handle> {
    let handle = Handle::new(key, Pipe::full(), 1024, memory.clone());
    handle.set_registration(key);
    Arc::new(handle)
}

/// A topic of up to three tokens; with `wildcards` perhaps a pattern.
fn draw(random: &mut StdRng, wildcards: bool) -> String {
    let count = random.random_range(1..=3);
    let mut tokens: Vec<&str> = Vec::new();
    for place in 0..count {
        let is_last = place == count - 1;
        tokens.push(match random.random_range(0..5) {
            0 if wildcards => ONE_TOKEN,
            1 if wildcards && is_last => ANY_REST,
            n => ["a", "b", "c", "d", "e"][n],
        });
    }
    tokens.join(".")
}

const ONE_TOKEN: &str = topic::ONE;
const ANY_REST: &str = topic::REST;

/// The subscribers of this topic, by their places.
fn expected(reference: &Reference, topic: &str) -> BTreeMap<usize, Slow> {
    let mut found = BTreeMap::new();
    for ((place, pattern), slow) in reference {
        if covers(pattern, topic) {
            let best = found.entry(*place).or_insert(*slow);
            *best = (*best).max(*slow);
        }
    }
    found
}

fn compare(topics: &Topics, handles: &[Arc<Handle>], reference: &Reference, topic: &str) {
    let mut found = Found::default();
    topics.find(topic, &mut found);
    let found = found.subscribers;
    let count = found.len();
    let place = |one: &Subscriber| {
        let is_it = |handle: &Arc<Handle>| Arc::ptr_eq(handle, &one.handle);
        handles
            .iter()
            .position(is_it)
            .expect("a connection that has ended")
    };
    let found: BTreeMap<_, _> = found.iter().map(|one| (place(one), one.slow)).collect();
    assert_eq!(
        found.len(),
        count,
        "a connection was found twice for {topic}"
    );
    assert_eq!(found, expected(reference, topic), "subscribers of {topic}");
}

fn run(seed: u64, steps: usize) {
    let random = &mut StdRng::seed_from_u64(seed);
    let memory = Arc::new(Memory::new(usize::MAX));
    let options = ServerOptions {
        max_subscriptions: MAX_SUBSCRIPTIONS,
        max_patterns: MAX_PATTERNS,
        ..ServerOptions::default()
    };
    let topics = Topics::new(None);
    let mut keys = 1..;
    let mut next = || new_handle(keys.next().unwrap_or_default(), &memory);
    let mut handles: Vec<_> = (0..CONNECTIONS).map(|_| next()).collect();
    let mut reference = Reference::new();
    for step in 0..steps {
        let place = random.random_range(0..CONNECTIONS);
        let handle = handles[place].clone();
        match random.random_range(0..100) {
            0..50 => {
                let pattern = draw(random, true);
                let slow = [Slow::Drop, Slow::Latest, Slow::Wait][random.random_range(0..3)];
                let result = topics.subscribe(&handle, &pattern, slow, (&options, &memory));
                let key = (place, pattern.clone());
                let own = reference.keys().filter(|(one, _)| *one == place).count();
                let is_new = !reference.contains_key(&key);
                let wild: std::collections::BTreeSet<_> = (reference.keys())
                    .map(|(_, pattern)| pattern)
                    .filter(|pattern| topic::has_wildcards(pattern))
                    .collect();
                let is_first = topic::has_wildcards(&pattern) && !wild.contains(&pattern);
                if is_new && own >= MAX_SUBSCRIPTIONS {
                    assert_eq!(result, Err(ActionError::TooManySubscriptions(own)));
                } else if is_first && wild.len() >= MAX_PATTERNS {
                    assert_eq!(result, Err(ActionError::TooManyPatterns(MAX_PATTERNS)));
                } else {
                    assert_eq!(result, Ok(()));
                    reference.insert(key, slow);
                }
            }
            50..90 => {
                let own: Vec<_> = (reference.keys().filter(|(one, _)| *one == place)).collect();
                let pattern = match own.is_empty() || random.random_bool(0.2) {
                    true => draw(random, true),
                    false => own[random.random_range(0..own.len())].1.clone(),
                };
                let had = reference.remove(&(place, pattern.clone())).is_some();
                assert_eq!(topics.unsubscribe(&handle, &pattern), had);
            }
            90..94 => {
                // The connection loses its id, and can subscribe no more.
                handle.set_registration(0);
                topics.leave(&handle);
                let refused = topics.subscribe(&handle, "a", Slow::Drop, (&options, &memory));
                assert_eq!(refused, Err(ActionError::NotRegistered));
                reference.retain(|(one, _), _| *one != place);
                handles[place] = next();
            }
            94..97 => {
                let allowed = draw(random, true);
                let (refused, _) = topics.retain(&handle, |pattern| covers(&allowed, pattern));
                let mut refused: Vec<_> = refused.into_iter().map(|(pattern, _)| pattern).collect();
                refused.sort();
                let is_refused = |(one, pattern): &(usize, String), _: &mut Slow| {
                    *one == place && !covers(&allowed, pattern)
                };
                let expected: Vec<_> = reference.extract_if(.., is_refused).collect();
                let expected: Vec<Arc<str>> = expected
                    .into_iter()
                    .map(|((_, pattern), _)| pattern.into())
                    .collect();
                assert_eq!(refused, expected);
            }
            _ => compare(&topics, &handles, &reference, &draw(random, false)),
        }
        if step.is_multiple_of(LOOK_EVERY) {
            assert_eq!(topics.count(), reference.len());
            compare(&topics, &handles, &reference, &draw(random, false));
        }
    }
    for handle in &handles {
        topics.leave(handle);
    }
    assert_eq!(
        (topics.count(), topics.patterns(), topics.topics()),
        (0, 0, 0)
    );
    drop(handles);
    assert_eq!(
        memory.used(),
        0,
        "memory is charged for subscriptions that have ended"
    );
}

#[test]
fn subscriptions_behave_like_a_list() {
    let seed = number("WSMB_SEED", 1);
    let steps = number("WSMB_STEPS", 1_000_000);
    println!("WSMB_SEED={seed} WSMB_STEPS={steps}");
    run(seed, steps);
}

#[test]
fn what_was_found_is_valid_until_the_version_changes() {
    let memory = Arc::new(Memory::new(usize::MAX));
    let (topics, options) = (Topics::new(None), ServerOptions::default());
    let handle = new_handle(1, &memory);
    for pattern in ["a.b", "a.*", ">"] {
        let before = topics.version();
        topics
            .subscribe(&handle, pattern, Slow::Drop, (&options, &memory))
            .unwrap();
        let subscribed = topics.version();
        assert!(subscribed > before);
        assert!(topics.unsubscribe(&handle, pattern));
        assert!(topics.version() > subscribed);
        assert!(!topics.unsubscribe(&handle, pattern));
    }
}

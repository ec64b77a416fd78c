//! Model test: watchers must know what a list of all members at all brokers says.
//!
//! Operations are drawn at random from a seed, which a failure prints. `WSMB_SEED` sets the seed, `WSMB_STEPS` the number
//! of operations.

use std::{collections::BTreeMap, env};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

use super::*;
use crate::transport::socket::pipe::Pipe;

const BROKERS: usize = 3;
const TOPICS: [&str; 2] = ["a", "b"];
const IDS: usize = 9;
const WATCHERS: usize = 2;
/// Few, so that there are sometimes more.
const MAX_NAMES: usize = 5;
const TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than the interval of frames.
const STEP: Duration = Duration::from_millis(300);

/// A member: its information, and when it has left if its connection was lost.
type Known = BTreeMap<String, (String, Option<Instant>)>;

/// The state as a watcher knows it.
#[derive(Debug, Default, PartialEq)]
struct View {
    count: u64,
    /// None while there are too many.
    members: Option<BTreeMap<String, String>>,
}

/// A watcher, and its state once it has got one.
type Watching = (Arc<Handle>, Option<View>);

struct Model {
    random: StdRng,
    now: Instant,
    memory: Arc<Memory>,
    brokers: Vec<Presence>,
    registry: Registry,
    /// By broker and topic.
    truth: Vec<[Known; TOPICS.len()]>,
    /// By broker, topic and place.
    watchers: BTreeMap<(usize, usize, usize), Watching>,
    /// By watching broker and topic.
    wanted: Vec<[bool; TOPICS.len()]>,
}

fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    let text = env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

impl Model {
    fn new(seed: u64) -> Self {
        let memory = Arc::new(Memory::new(usize::MAX));
        let options = ServerOptions {
            max_presence_names: MAX_NAMES,
            presence_timeout: TIMEOUT,
            ..ServerOptions::default()
        };
        let broker = |_| Presence::new(&options, &memory, None);
        Self {
            random: StdRng::seed_from_u64(seed),
            now: Instant::now(),
            brokers: (0..BROKERS).map(broker).collect(),
            registry: Registry::new(&options, memory.clone()),
            truth: (0..BROKERS).map(|_| Default::default()).collect(),
            watchers: BTreeMap::new(),
            wanted: vec![[false; TOPICS.len()]; BROKERS],
            memory,
        }
    }

    fn step(&mut self) {
        let broker = self.random.random_range(0..BROKERS);
        let topic = self.random.random_range(0..TOPICS.len());
        let id = self.random.random_range(0..IDS).to_string();
        let name: Arc<str> = TOPICS[topic].into();
        let key = 1 + broker as u64;
        let presence = &self.brokers[broker];
        let known = &mut self.truth[broker][topic];
        match self.random.random_range(0..10) {
            0..4 => {
                let info: Arc<str> = self.random.random_range(0..3).to_string().into();
                presence.join(self.now, &name, &(&*id).into(), &info, key);
                known.insert(id, (info.to_string(), None));
            }
            4 => {
                presence.leave(self.now, &name, &(&*id).into(), key, true);
                known.remove(&id);
            }
            5 => {
                presence.leave(self.now, &name, &(&*id).into(), key, false);
                if let Some((_, leaves)) = known.get_mut(&id) {
                    leaves.get_or_insert(self.now + TIMEOUT);
                }
            }
            6 => {
                let place = (broker, topic, self.random.random_range(0..WATCHERS));
                let number = (place.0 * 16 + place.1 * 4 + place.2) as u64 + 100;
                let (handle, _) = self.watchers.entry(place).or_insert_with(|| {
                    let handle = Handle::new(number, Pipe::full(), 1 << 30, self.memory.clone());
                    (Arc::new(handle), None)
                });
                presence.watch(self.now, &[name], handle, &self.registry);
            }
            7 => {
                let place = (broker, topic, self.random.random_range(0..WATCHERS));
                if let Some((handle, _)) = self.watchers.remove(&place) {
                    presence.unwatch(self.now, [&name].into_iter(), handle.key);
                }
            }
            8 => self.exchange(true),
            _ => {
                self.now += STEP / 3;
                self.flush();
            }
        }
    }

    /// Sends watchers what is due.
    fn flush(&mut self) {
        for presence in &self.brokers {
            let (frames, _) = presence.flush(self.now);
            for (text, handles) in frames.topics {
                let frame: Value = serde_json::from_str(&text).expect("JSON");
                for handle in handles {
                    let mut watchers = self.watchers.values_mut();
                    let (_, view) = watchers
                        .find(|(known, _)| known.key == handle.key)
                        .expect("no frame follows `unwatch`");
                    tell(view, &frame);
                }
            }
        }
    }

    /// Passes interest, members and digests between the brokers. `loses`: every fourth update is lost.
    fn exchange(&mut self, loses: bool) {
        for watching in 0..BROKERS {
            for (topic, name) in TOPICS.iter().enumerate() {
                let is_watched =
                    (self.watchers.keys()).any(|key| (key.0, key.1) == (watching, topic));
                if std::mem::replace(&mut self.wanted[watching][topic], is_watched) == is_watched {
                    continue;
                }
                for (other, presence) in self.brokers.iter().enumerate() {
                    let (peer, name) = (watching as u64, (*name).into());
                    match is_watched {
                        _ if other == watching => {}
                        true => presence.want(peer, &name, Needs::Members, &self.registry),
                        false => presence.unwant(peer, &name),
                    }
                }
            }
        }
        for (sender, presence) in self.brokers.iter().enumerate() {
            let wanted = self.wanted.iter().enumerate();
            let wanted: Vec<(PeerId, HashSet<Arc<str>, RandomState>)> = wanted
                .filter(|(watching, _)| *watching != sender)
                .map(|(watching, topics)| {
                    let topics = TOPICS.iter().zip(topics).filter(|(_, is)| **is);
                    (
                        watching as u64,
                        topics.map(|(name, _)| (*name).into()).collect(),
                    )
                })
                .collect();
            let watching = wanted.iter().map(|(peer, topics)| (*peer, topics));
            let (updates, digests) = presence.take_with_digests(watching);
            for (peers, update) in updates {
                for peer in peers {
                    if !(loses && self.random.random_range(0..4) == 0) {
                        self.brokers[peer as usize].apply(sender as u64, &update);
                    }
                }
            }
            for (peer, digest) in digests {
                let other = &self.brokers[peer as usize];
                if other.digest_of(sender as u64) != digest {
                    for (name, is_wanted) in TOPICS.iter().zip(self.wanted[peer as usize]) {
                        if is_wanted {
                            presence.want(peer, &(*name).into(), Needs::State, &self.registry);
                        }
                    }
                }
            }
        }
    }

    /// Compares what each watcher knows with the truth, once nothing is lost any more.
    fn compare(&mut self) {
        let mut known = self.truth.iter().flatten().flat_map(Known::values);
        if known.any(|(_, leaves)| leaves.is_some_and(|at| at <= self.now + 5 * STEP)) {
            // Members that leave meanwhile would be known to some only.
            self.now += TIMEOUT;
            self.flush();
        }
        // Digests detect what was lost, updates replace it, watchers get frames.
        for _ in 0..3 {
            self.exchange(false);
            self.now += STEP;
            self.flush();
        }
        self.exchange(false);
        self.now += STEP;
        self.flush();
        for known in self.truth.iter_mut().flatten() {
            known.retain(|_, (_, leaves)| leaves.is_none_or(|at| at > self.now));
        }
        for ((broker, topic, _), (_, view)) in &self.watchers {
            let view = view.as_ref().expect("a watcher gets a first state");
            let sizes = self.truth.iter().map(|topics| topics[*topic].len());
            let has_many = self
                .truth
                .iter()
                .any(|topics| topics[*topic].len() > MAX_NAMES);
            let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (id, (info, _)) in self.truth.iter().flat_map(|topics| &topics[*topic]) {
                all.entry(id).or_default().push(info);
            }
            let Some(members) = &view.members else {
                let least = MAX_NAMES / 4 * 3;
                assert!(has_many || all.len() > least, "{broker} {topic} {view:?}");
                let expected = if has_many { sizes.sum() } else { all.len() };
                assert_eq!(view.count, expected as u64);
                continue;
            };
            assert!(!has_many && all.len() <= MAX_NAMES);
            assert_eq!(view.count as usize, members.len());
            assert!(members.keys().eq(all.keys()), "{members:?} {all:?}");
            for (id, info) in members {
                let own = self.truth[*broker][*topic].get(id);
                let is_right = match own {
                    Some((own, _)) => own == info,
                    None => all[&**id].contains(&&**info),
                };
                assert!(is_right, "{id} {info} {all:?}");
            }
        }
    }
}

fn tell(view: &mut Option<View>, frame: &Value) {
    let count = frame["count"].as_u64().expect("a number");
    let texts = |value: &Value| -> BTreeMap<String, String> {
        let members = value.as_object().expect("an object").iter();
        members
            .map(|(id, info)| (id.clone(), info.to_string()))
            .collect()
    };
    let members = match (frame.get("members"), frame.get("joined")) {
        (Some(members), _) => Some(texts(members)),
        (None, Some(joined)) => {
            let mut members = view.take().and_then(|view| view.members).expect("a state");
            members.extend(texts(joined));
            for id in frame["left"].as_array().expect("an array") {
                let id = id.as_str().expect("an id");
                assert!(members.remove(id).is_some(), "{id} was no member");
            }
            Some(members)
        }
        (None, None) => None,
    };
    *view = Some(View { count, members });
}

#[test]
fn watchers_know_what_a_list_of_all_members_says() {
    let seed = number("WSMB_SEED", rand::random());
    println!("WSMB_SEED={seed}");
    let mut model = Model::new(seed);
    for step in 1..=number("WSMB_STEPS", 300_000) {
        model.step();
        if step % 50 == 0 {
            model.compare();
        }
    }
    // Nothing remains.
    for (place, (handle, _)) in std::mem::take(&mut model.watchers) {
        let name = TOPICS[place.1].into();
        model.brokers[place.0].unwatch(model.now, [&name].into_iter(), handle.key);
    }
    model.exchange(false);
    model.now += TIMEOUT;
    for (broker, presence) in model.brokers.iter().enumerate() {
        for (topic, id) in TOPICS
            .iter()
            .flat_map(|one| (0..IDS).map(move |id| (one, id)))
        {
            let (topic, id) = ((*topic).into(), id.to_string().into());
            presence.leave(model.now, &topic, &id, 1 + broker as u64, true);
        }
        presence.flush(model.now);
        let rooms = presence.rooms.lock();
        assert!(rooms.by_subject.is_empty() && rooms.due.is_empty() && rooms.unsent.is_empty());
        assert_eq!((rooms.members, rooms.charge.bytes()), (0, 0));
        assert!(rooms.digests.values().all(|digest| *digest == 0));
    }
}

#[test]
fn a_flush_ends_once_its_frames_are_large_and_the_rest_follows() {
    let model = Model::new(0);
    let (presence, now) = (&model.brokers[0], model.now);
    let info: Arc<str> = format!("\"{}\"", "x".repeat(MAX_FLUSH / 2)).into();
    let rooms: Vec<Arc<str>> = ["a", "b", "c", "d", "e"].map(Arc::from).into();
    for room in &rooms {
        presence.join(now, room, &"id".into(), &info, 1);
    }
    let watcher = Arc::new(Handle::new(2, Pipe::full(), 1 << 30, model.memory.clone()));
    presence.watch(now, &rooms, &watcher, &model.registry);
    let flush = || {
        let (frames, next) = presence.flush(now);
        (frames.topics.len(), next.is_some_and(|next| next <= now))
    };
    assert_eq!(flush(), (2, true));
    assert_eq!(flush(), (2, true));
    assert_eq!(flush(), (1, false));
}

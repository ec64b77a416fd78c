//! The simplest broker that keeps the rules: lists, and a look through all of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Op, Outcome, Request, State, World, principal};
use crate::error::ActionError;

/// The rules that it knows, by their number in `spec/protocol.md`.
pub(super) const RULES: [&str; 23] = [
    "4.1", "4.6", "4.7", "4.8", "5.1", "5.3", "5.4", "5.5", "6.7", "7.1", "7.4", "7.5", "7.6",
    "7.7", "7.8", "7.9", "7.10", "7.11", "9.1", "9.2", "9.5", "17.7", "22.4",
];
const HOUR: u64 = 3_600_000;
const MINUTE: u64 = 60_000;

pub(super) struct Reference {
    now: u64,
    timeout: u64,
    max_pending: usize,
    principals: u64,
    next_key: u64,
    places: Vec<Connection>,
    /// Who owns which id.
    owners: Vec<(usize, u64)>,
    /// Oldest first.
    requests: Vec<Pending>,
    /// Which id was closed as slow, and when.
    slow: Vec<(usize, u64)>,
    /// The rules that made a difference.
    pub(super) met: BTreeSet<&'static str>,
}

struct Connection {
    key: u64,
    /// What it registered last.
    id: Option<usize>,
}

struct Pending {
    ack: usize,
    asker: u64,
    responders: Vec<u64>,
    deadline: u64,
}

impl Reference {
    pub(super) fn new(world: &World) -> Self {
        let places = (0..world.places as u64).map(|key| Connection { key, id: None });
        Self {
            now: 0,
            timeout: HOUR,
            max_pending: world.max_pending,
            principals: world.principals,
            next_key: world.places as u64,
            places: places.collect(),
            owners: Vec::new(),
            requests: Vec::new(),
            slow: Vec::new(),
            met: BTreeSet::new(),
        }
    }

    pub(super) fn apply(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::Register { place, id } => self.register(place, id),
            Op::Unregister { place } => {
                let freed = self.give_up(place);
                self.met.insert(if freed { "5.1" } else { "5.3" });
                let key = self.places[place].key;
                if self.end_where(|request| request.asker == key) {
                    self.met.insert("7.9");
                }
                Outcome::Unregistered(freed)
            }
            Op::End { place } => {
                self.end(place);
                Outcome::Done
            }
            Op::Slow { place } => {
                let Connection { key, id } = self.places[place];
                if let Some(id) = id
                    && self.owner(id) == Some(key)
                {
                    self.slow.push((id, self.now));
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
                let receivers: Vec<_> = dest.iter().filter_map(|id| self.owner(*id)).collect();
                if let Some(lost) = lost {
                    self.end(lost);
                }
                if !receivers.is_empty()
                    && let Err(error) = self.ask(place, ack, &receivers)
                {
                    return Outcome::Refused(error);
                }
                if BTreeSet::from_iter(&receivers).len() < receivers.len() {
                    self.met.insert("6.7");
                }
                Outcome::Sent(receivers)
            }
            Op::Answer { place, ack } => Outcome::Answered(self.answer(place, ack)),
            Op::Wait(millis) => {
                self.now += millis;
                Outcome::Done
            }
            Op::Expire => {
                let now = self.now;
                if self.end_where(|request| request.deadline <= now) {
                    self.met.insert("7.7");
                }
                Outcome::Done
            }
            Op::Timeout(millis) => {
                self.timeout = millis;
                Outcome::Done
            }
        }
    }

    fn register(&mut self, place: usize, id: usize) -> Outcome {
        let Connection { key, id: former } = self.places[place];
        let freed = former.is_some_and(|former| former != id) && self.give_up(place);
        self.met.insert(if freed { "4.8" } else { "4.1" });
        let owner = self.owner(id);
        if let Some(owner) = owner {
            if principal(owner, self.principals) != principal(key, self.principals) {
                self.met.insert("22.4");
                return Outcome::Conflict { freed };
            }
            self.met.insert(if owner == key { "4.7" } else { "4.6" });
        }
        self.owners.retain(|(owned, _)| *owned != id);
        self.owners.push((id, key));
        self.places[place].id = Some(id);
        Outcome::Registered {
            freed,
            replaced: owner.is_some(),
        }
    }

    fn owner(&self, id: usize) -> Option<u64> {
        let owner = self.owners.iter().find(|(owned, _)| *owned == id);
        owner.map(|(_, key)| *key)
    }

    /// The connection gives up its id: true if that was still its own.
    fn give_up(&mut self, place: usize) -> bool {
        let Connection { key, id } = self.places[place];
        self.places[place].id = None;
        let before = self.owners.len();
        self.owners.retain(|(_, owner)| *owner != key);
        if id.is_some() && self.owners.len() == before {
            self.met.insert("5.5");
        }
        self.owners.len() < before
    }

    fn end(&mut self, place: usize) {
        if self.give_up(place) {
            self.met.insert("5.4");
        }
        let key = self.places[place].key;
        for request in &mut self.requests {
            request.responders.retain(|responder| *responder != key);
        }
        if self.end_where(|request| request.asker == key || request.responders.is_empty()) {
            self.met.insert("7.10");
        }
        self.places[place] = Connection {
            key: self.next_key,
            id: None,
        };
        self.next_key += 1;
    }

    /// Ends requests: true if there were such.
    fn end_where(&mut self, ends: impl Fn(&Pending) -> bool) -> bool {
        let before = self.requests.len();
        self.requests.retain(|request| !ends(request));
        self.requests.len() < before
    }

    fn ask(&mut self, place: usize, ack: usize, to: &[u64]) -> Result<(), ActionError> {
        let Connection { key: asker, id } = self.places[place];
        let (now, timeout) = (self.now, self.timeout);
        let pending = |request: &Pending| request.ack == ack && now < request.deadline;
        if let Some(taken) = self.requests.iter().find(|request| pending(request)) {
            if taken.asker != asker {
                self.met.insert("7.4");
                return Err(ActionError::AckTaken);
            }
            self.met.insert("7.5");
        }
        if id.is_none() {
            self.met.insert("7.9");
            return Ok(());
        }
        // Its time is up, though nobody has looked for it yet.
        if self.end_where(|request| request.ack == ack && request.deadline <= now) {
            self.met.insert("7.11");
        }
        let alive = |key: &u64| self.places.iter().any(|other| other.key == *key);
        let to: Vec<_> = to.iter().copied().filter(alive).collect();
        let index = match self.requests.iter().position(|request| request.ack == ack) {
            Some(index) => index,
            None => {
                self.requests.push(Pending {
                    ack,
                    asker,
                    responders: Vec::new(),
                    deadline: now + timeout,
                });
                self.requests.len() - 1
            }
        };
        for responder in to {
            let responders = &mut self.requests[index].responders;
            match responders.contains(&responder) {
                true => self.met.insert("9.5"),
                false => {
                    responders.push(responder);
                    self.met.insert("7.1")
                }
            };
        }
        if self.end_where(|request| request.responders.is_empty()) {
            self.met.insert("7.6");
        }
        while self.awaited(asker) > self.max_pending {
            self.met.insert("7.8");
            let oldest = self.requests.iter().position(|one| one.asker == asker);
            oldest.map(|oldest| self.requests.remove(oldest));
        }
        Ok(())
    }

    /// Deliveries for which a connection awaits an answer.
    fn awaited(&self, asker: u64) -> usize {
        let asked = self.requests.iter().filter(|one| one.asker == asker);
        asked.map(|request| request.responders.len()).sum()
    }

    fn answer(&mut self, place: usize, ack: usize) -> Option<u64> {
        let key = self.places[place].key;
        let index = self.requests.iter().position(|one| one.ack == ack)?;
        if !self.requests[index].responders.contains(&key) {
            self.met.insert("9.1");
            return None;
        }
        let request = self.requests.remove(index);
        if request.deadline <= self.now {
            self.met.insert("7.7");
            return None;
        }
        self.met.insert("9.2");
        Some(request.asker)
    }

    /// Closed as slow twice within a minute, and that less than ten ago.
    fn is_strict(&self, id: usize) -> bool {
        let times = self.slow.iter().filter(|(slow, _)| *slow == id);
        let times: Vec<_> = times.map(|(_, time)| *time).collect();
        times
            .windows(2)
            .any(|pair| pair[1] - pair[0] < MINUTE && self.now - pair[1] < 10 * MINUTE)
    }

    pub(super) fn state(&mut self) -> State {
        let owners = self.owners.iter().map(|(id, key)| {
            let strict = self.is_strict(*id);
            (*id, (*key, strict))
        });
        let owners: BTreeMap<_, _> = owners.collect();
        if owners.values().any(|(_, strict)| *strict) {
            self.met.insert("17.7");
        }
        State {
            owning: self
                .places
                .iter()
                .map(|place| owners.values().any(|(key, _)| *key == place.key))
                .collect(),
            deliveries: self
                .places
                .iter()
                .map(|place| self.awaited(place.key))
                .collect(),
            requests: self
                .requests
                .iter()
                .map(|request| {
                    let mut responders = request.responders.clone();
                    responders.sort_unstable();
                    let asker = request.asker;
                    (request.ack, Request { asker, responders })
                })
                .collect(),
            owners,
        }
    }
}

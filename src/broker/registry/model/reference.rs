//! The simplest broker that follows the rules: lists with linear search.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ModelOutcome, ModelRequest, ModelState, Notified, Op, World, principal, uses_version_2,
};
use crate::error::ActionError;

/// Rules that it implements, by their number in `spec/protocol.md`.
pub(super) const RULES: [&str; 33] = [
    "4.1", "4.6", "4.7", "4.8", "5.1", "5.3", "5.4", "5.5", "6.7", "7.1", "7.4", "7.5", "7.6",
    "7.7", "7.8", "7.9", "7.10", "7.11", "9.1", "9.2", "9.5", "17.7", "22.4", "25.2", "25.3",
    "25.4", "25.5", "26.1", "26.2", "26.3", "27.3", "28.1", "28.2",
];
const HOUR: u64 = 3_600_000;
const MINUTE: u64 = 60_000;

pub(super) struct Reference {
    now: u64,
    timeout: u64,
    max_pending: usize,
    principals: u64,
    new_among: u64,
    next_key: u64,
    places: Vec<ModelConnection>,
    /// Id and owner.
    owners: Vec<(usize, u64)>,
    /// Oldest first.
    requests: Vec<ModelPending>,
    /// Id that was closed as slow, and the time in milliseconds.
    slow: Vec<(usize, u64)>,
    notified: Vec<Notified>,
    /// Rules that made a difference.
    pub(super) met: BTreeSet<&'static str>,
}

struct ModelConnection {
    key: u64,
    /// The id that it registered last.
    id: Option<usize>,
}

struct ModelPending {
    ack: usize,
    asker: u64,
    /// Responders that may still answer, and the id by which each was asked.
    responders: Vec<(u64, usize)>,
    /// Responders whose part has ended: they have answered, refused or disconnected.
    ended: Vec<u64>,
    /// Number of answers still awaited.
    answers: u32,
    deadline: u64,
}

impl Reference {
    pub(super) fn new(world: &World) -> Self {
        let places = (0..world.places as u64).map(|key| ModelConnection { key, id: None });
        Self {
            now: 0,
            timeout: HOUR,
            max_pending: world.max_pending,
            principals: world.principals,
            new_among: world.new_among,
            next_key: world.places as u64,
            places: places.collect(),
            owners: Vec::new(),
            requests: Vec::new(),
            slow: Vec::new(),
            notified: Vec::new(),
            met: BTreeSet::new(),
        }
    }

    pub(super) fn apply(&mut self, op: &Op) -> ModelOutcome {
        match *op {
            Op::Register { place, id } => self.register(place, id),
            Op::Unregister { place } => {
                let freed = self.give_up(place);
                self.met.insert(if freed { "5.1" } else { "5.3" });
                let key = self.places[place].key;
                if self.end_where(None, |request| request.asker == key) {
                    self.met.insert("7.9");
                }
                ModelOutcome::Unregistered(freed)
            }
            Op::End { place } => {
                self.end(place, "GONE");
                ModelOutcome::Done
            }
            Op::Slow { place } => {
                let ModelConnection { key, id } = self.places[place];
                if let Some(id) = id
                    && self.owner(id) == Some(key)
                {
                    self.slow.push((id, self.now));
                }
                self.end(place, "SLOW");
                ModelOutcome::Done
            }
            Op::Send {
                place,
                ref dest,
                ack,
                answers,
                timeout,
                lost,
            } => {
                let found = dest.iter().filter_map(|id| Some((self.owner(*id)?, *id)));
                let to: Vec<_> = found.collect();
                let receivers: Vec<_> = to.iter().map(|(key, _)| *key).collect();
                if let Some(lost) = lost {
                    self.end(lost, "GONE");
                }
                if !receivers.is_empty()
                    && let Err(error) = self.ask(place, ack, &to, (answers, timeout))
                {
                    return ModelOutcome::Refused(error);
                }
                if BTreeSet::from_iter(&receivers).len() < receivers.len() {
                    self.met.insert("6.7");
                }
                ModelOutcome::Sent(receivers)
            }
            Op::Answer { place, ack } => {
                ModelOutcome::Answered(self.answer(place, ack, 1).map(|(asker, _)| asker))
            }
            Op::Refuse { place, ack } => ModelOutcome::Declined(self.answer(place, ack, 0)),
            Op::Cancel { place, ack } => {
                let key = self.places[place].key;
                if self.end_where(None, |one| (one.ack, one.asker) == (ack, key)) {
                    self.met.insert("28.1");
                }
                ModelOutcome::Done
            }
            Op::Wait(millis) => {
                self.now += millis;
                ModelOutcome::Done
            }
            Op::Expire => {
                let now = self.now;
                if self.end_where(Some("TIMEOUT"), |request| request.deadline <= now) {
                    self.met.insert("7.7");
                }
                ModelOutcome::Done
            }
            Op::Timeout(millis) => {
                self.timeout = millis;
                ModelOutcome::Done
            }
        }
    }

    fn register(&mut self, place: usize, id: usize) -> ModelOutcome {
        let ModelConnection { key, id: former } = self.places[place];
        let freed = former.is_some_and(|former| former != id) && self.give_up(place);
        self.met.insert(if freed { "4.8" } else { "4.1" });
        let owner = self.owner(id);
        if let Some(owner) = owner {
            if principal(owner, self.principals) != principal(key, self.principals) {
                self.met.insert("22.4");
                return ModelOutcome::Conflict { freed };
            }
            self.met.insert(if owner == key { "4.7" } else { "4.6" });
            if owner != key {
                // In version 1 the asker keeps waiting.
                let new_among = self.new_among;
                let is_new = |request: &ModelPending| uses_version_2(request.asker, new_among);
                self.lose("REPLACED", |request, responder| {
                    is_new(request) && *responder == (owner, id)
                });
            }
        }
        self.owners.retain(|(owned, _)| *owned != id);
        self.owners.push((id, key));
        self.places[place].id = Some(id);
        ModelOutcome::Registered {
            freed,
            replaced: owner.is_some(),
        }
    }

    fn owner(&self, id: usize) -> Option<u64> {
        let owner = self.owners.iter().find(|(owned, _)| *owned == id);
        owner.map(|(_, key)| *key)
    }

    /// Ends the registration of a connection. True if it still owned its id.
    fn give_up(&mut self, place: usize) -> bool {
        let ModelConnection { key, id } = self.places[place];
        self.places[place].id = None;
        let before = self.owners.len();
        self.owners.retain(|(_, owner)| *owner != key);
        if id.is_some() && self.owners.len() == before {
            self.met.insert("5.5");
        }
        self.owners.len() < before
    }

    fn end(&mut self, place: usize, code: &'static str) {
        if self.give_up(place) {
            self.met.insert("5.4");
        }
        let key = self.places[place].key;
        if self.end_where(None, |request| request.asker == key) {
            self.met.insert("7.10");
        }
        self.lose(code, |_, responder| responder.0 == key);
        self.places[place] = ModelConnection {
            key: self.next_key,
            id: None,
        };
        self.next_key += 1;
    }

    /// Ends the parts of these responders and notifies their askers with this code.
    fn lose(&mut self, code: &'static str, is_lost: impl Fn(&ModelPending, &(u64, usize)) -> bool) {
        for at in 0..self.requests.len() {
            let mut responders = std::mem::take(&mut self.requests[at].responders);
            let request = &self.requests[at];
            let (ack, asker) = (request.ack, request.asker);
            let lost = responders.extract_if(.., |responder| is_lost(request, responder));
            for (key, id) in lost.collect::<Vec<_>>() {
                self.failed(asker, ack, id, code);
                match code {
                    "REPLACED" => self.cancelled(key, ack),
                    _ => self.requests[at].ended.push(key),
                }
            }
            self.requests[at].responders = responders;
        }
        if self.end_where(None, |request| request.responders.is_empty()) {
            self.met.insert("7.10");
        }
    }

    fn failed(&mut self, asker: u64, ack: usize, id: usize, code: &'static str) {
        if !uses_version_2(asker, self.new_among) {
            return;
        }
        self.met.insert(match code {
            "SLOW" => "25.2",
            "GONE" => "25.3",
            "REPLACED" => "25.4",
            _ => "25.5",
        });
        self.notified.push(Notified::Failed {
            asker,
            ack,
            id,
            code,
        });
    }

    fn cancelled(&mut self, responder: u64, ack: usize) {
        if uses_version_2(responder, self.new_among) {
            self.met.insert("28.2");
            self.notified.push(Notified::Cancelled { responder, ack });
        }
    }

    /// Ends requests; true if there were any. `code`: sent to askers about responders that have not
    /// answered.
    fn end_where(
        &mut self,
        code: Option<&'static str>,
        ends: impl Fn(&ModelPending) -> bool,
    ) -> bool {
        let ended: Vec<_> = self
            .requests
            .extract_if(.., |request| ends(request))
            .collect();
        for ModelPending {
            ack,
            asker,
            responders,
            ..
        } in &ended
        {
            for (responder, id) in responders {
                if let Some(code) = code {
                    self.failed(*asker, *ack, *id, code);
                }
                self.cancelled(*responder, *ack);
            }
        }
        !ended.is_empty()
    }

    /// Notifications since the last call, in no order.
    pub(super) fn notified(&mut self) -> Vec<Notified> {
        self.notified.sort();
        std::mem::take(&mut self.notified)
    }

    fn ask(
        &mut self,
        place: usize,
        ack: usize,
        to: &[(u64, usize)],
        (answers, own): (u32, Option<u64>),
    ) -> Result<(), ActionError> {
        let ModelConnection { key: asker, id } = self.places[place];
        let (now, timeout) = (self.now, self.timeout);
        let pending = |request: &ModelPending| request.ack == ack && now < request.deadline;
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
        // The deadline has passed, but the request has not been expired yet.
        let is_over = |request: &ModelPending| request.ack == ack && request.deadline <= now;
        if self.end_where(Some("TIMEOUT"), is_over) {
            self.met.insert("7.11");
        }
        let index = match self.requests.iter().position(|request| request.ack == ack) {
            Some(index) => index,
            None => {
                if own.is_some_and(|own| own < timeout) {
                    self.met.insert("26.2");
                }
                self.requests.push(ModelPending {
                    ack,
                    asker,
                    responders: Vec::new(),
                    ended: Vec::new(),
                    answers,
                    deadline: now + own.unwrap_or(timeout).min(timeout),
                });
                self.requests.len() - 1
            }
        };
        let mut seen = BTreeSet::new();
        for (key, id) in to {
            let ModelPending {
                responders, ended, ..
            } = &mut self.requests[index];
            if ended.contains(key) {
                self.met.insert("26.3");
            } else if responders.iter().any(|(other, _)| other == key) || !seen.insert(*key) {
                self.met.insert("9.5");
            } else if self.places.iter().any(|other| other.key == *key) {
                responders.push((*key, *id));
                self.met.insert("7.1");
            } else {
                self.failed(asker, ack, *id, "GONE");
            }
        }
        if self.end_where(None, |request| request.responders.is_empty()) {
            self.met.insert("7.6");
        }
        while self.awaited(asker) > self.max_pending {
            self.met.insert("7.8");
            let oldest = self.requests.iter().find(|one| one.asker == asker);
            let oldest = oldest.map(|one| one.ack);
            self.end_where(Some("TIMEOUT"), |one| Some(one.ack) == oldest);
        }
        Ok(())
    }

    /// Deliveries of a connection that await an answer.
    fn awaited(&self, asker: u64) -> usize {
        let asked = self.requests.iter().filter(|one| one.asker == asker);
        asked.map(|request| request.responders.len()).sum()
    }

    /// Receiver of an answer or a refusal, and whether the request has ended with it.
    fn answer(&mut self, place: usize, ack: usize, answers: u32) -> Option<(u64, bool)> {
        let key = self.places[place].key;
        let index = self.requests.iter().position(|one| one.ack == ack)?;
        let request = &mut self.requests[index];
        let Some(at) = request.responders.iter().position(|one| one.0 == key) else {
            self.met.insert("9.1");
            return None;
        };
        if request.deadline <= self.now {
            self.met.insert("7.7");
            self.end_where(Some("TIMEOUT"), |one| one.ack == ack);
            return None;
        }
        request.responders.remove(at);
        request.ended.push(key);
        request.answers -= answers;
        let asker = request.asker;
        let ended = request.answers == 0 || request.responders.is_empty();
        self.met.insert(match (answers, ended) {
            (0, _) => "27.3",
            (_, true) => "9.2",
            (_, false) => "26.1",
        });
        if ended {
            self.end_where(None, |one| one.ack == ack);
        }
        Some((asker, ended))
    }

    /// Closed as slow twice within a minute, the second time less than ten minutes ago.
    fn is_penalized(&self, id: usize) -> bool {
        let times = self.slow.iter().filter(|(slow, _)| *slow == id);
        let times: Vec<_> = times.map(|(_, time)| *time).collect();
        times
            .windows(2)
            .any(|pair| pair[1] - pair[0] < MINUTE && self.now - pair[1] < 10 * MINUTE)
    }

    pub(super) fn state(&mut self) -> ModelState {
        let owners = self.owners.iter().map(|(id, key)| {
            let strict = self.is_penalized(*id);
            (*id, (*key, strict))
        });
        let owners: BTreeMap<_, _> = owners.collect();
        if owners.values().any(|(_, strict)| *strict) {
            self.met.insert("17.7");
        }
        ModelState {
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
                    let responders = request.responders.iter().map(|(key, _)| *key);
                    let responders = BTreeSet::from_iter(responders).into_iter().collect();
                    let asker = request.asker;
                    (request.ack, ModelRequest { asker, responders })
                })
                .collect(),
            owners,
        }
    }
}

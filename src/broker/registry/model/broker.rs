//! The real registry and requests, driven like connections drive them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::Registry, ModelOutcome as Came, ModelRequest, ModelState, Notified, Op, World,
    principal, uses_version_2,
};
use crate::{
    broker::{
        handle::Handle,
        requests::{DeliveryError, Name, Notification, Notifications, Opened, Question},
    },
    error::ActionError,
    memory::Memory,
    options::ServerOptions,
    transport::socket::pipe::Pipe,
};

pub(super) struct RealBroker {
    registry: Registry,
    memory: Arc<Memory>,
    principals: u64,
    new_among: u64,
    start: Instant,
    now: Instant,
    places: Vec<RealConnection>,
    next_key: u64,
    notifications: Notifications,
}

struct RealConnection {
    handle: Arc<Handle>,
    id: Option<usize>,
}

fn id_text(id: usize) -> Arc<str> {
    format!("id {id}").into()
}

fn ack_text(ack: usize) -> String {
    format!("ack {ack}")
}

impl RealBroker {
    pub(super) fn new(world: &World) -> Self {
        let now = Instant::now();
        let memory = Arc::new(Memory::new(usize::MAX));
        let options = ServerOptions {
            max_pending_acks: world.max_pending,
            ..ServerOptions::default()
        };
        let mut broker = Self {
            registry: Registry::new(&options, memory.clone()),
            memory,
            principals: world.principals,
            new_among: world.new_among,
            start: now,
            now,
            places: Vec::new(),
            next_key: 0,
            notifications: Notifications::new(),
        };
        for _ in 0..world.places {
            let connection = broker.connect();
            broker.places.push(connection);
        }
        broker
    }

    fn connect(&mut self) -> RealConnection {
        let key = self.next_key;
        self.next_key += 1;
        let handle = Handle::new(key, Pipe::full(), 1024, self.memory.clone());
        handle.set_uses_version_2(uses_version_2(key, self.new_among));
        if self.principals > 1 {
            let principal = principal(key, self.principals).to_string();
            *handle.principal.lock() = Some(principal.into());
        }
        RealConnection {
            handle: Arc::new(handle),
            id: None,
        }
    }

    pub(super) fn apply(&mut self, op: &Op) -> Came {
        match *op {
            Op::Register { place, id } => {
                let former = self.places[place].id.is_some_and(|former| former != id);
                let freed = former && self.give_up(place);
                let (mut replaced, mut lost) = (false, None);
                let handle = &self.places[place].handle;
                let taken = self.registry.register(&id_text(id), handle, |former| {
                    replaced = former.is_some();
                    let other = former.filter(|(former, _)| former.key != handle.key);
                    lost = other.map(|(former, registration)| (former.clone(), registration));
                });
                if taken.is_err() {
                    return Came::Conflict { freed };
                }
                if let Some((former, registration)) = lost {
                    let (requests, notifications) =
                        (&self.registry.requests, &mut self.notifications);
                    requests.replaced(&former, &id_text(id), registration, notifications);
                }
                self.places[place].id = Some(id);
                Came::Registered { freed, replaced }
            }
            Op::Unregister { place } => {
                let freed = self.give_up(place);
                let handle = &self.places[place].handle;
                self.registry
                    .requests
                    .cancel_all(handle, &mut self.notifications);
                Came::Unregistered(freed)
            }
            Op::End { place } => {
                self.end(place, DeliveryError::Gone);
                Came::Done
            }
            Op::Slow { place } => {
                let connection = &self.places[place];
                if let Some(id) = connection.id
                    && connection.handle.owns_its_id()
                {
                    self.registry.strike(&id_text(id), self.now);
                }
                self.end(place, DeliveryError::Slow);
                Came::Done
            }
            Op::Send {
                place,
                ref dest,
                ack,
                answers,
                timeout,
                lost,
            } => {
                let ids: Vec<_> = dest.iter().map(|id| id_text(*id)).collect();
                let (mut receivers, mut names) = (Vec::new(), Vec::new());
                for id in &ids {
                    if let Some((receiver, registration)) = self.registry.find_registration(id) {
                        receivers.push(receiver);
                        names.push(Name { id, registration });
                    }
                }
                if let Some(lost) = lost {
                    self.end(lost, DeliveryError::Gone);
                }
                let timeout = timeout.map(Duration::from_millis);
                match self.ask(
                    place,
                    &ack_text(ack),
                    &receivers,
                    &names,
                    (answers, timeout),
                ) {
                    Ok(()) => Came::Sent(receivers.iter().map(|handle| handle.key).collect()),
                    Err(error) => Came::Refused(error),
                }
            }
            Op::Answer { place, ack } => {
                let responder = &self.places[place].handle;
                let (requests, notifications) = (&self.registry.requests, &mut self.notifications);
                let asker = requests.answer(&ack_text(ack), responder, self.now, notifications);
                Came::Answered(asker.map(|part| part.asker.key))
            }
            Op::Refuse { place, ack } => {
                let responder = &self.places[place].handle;
                let (requests, notifications) = (&self.registry.requests, &mut self.notifications);
                let refused = requests.refuse(&ack_text(ack), responder, self.now, notifications);
                Came::Declined(refused.map(|part| (part.asker.key, part.ended)))
            }
            Op::Cancel { place, ack } => {
                let asker = &self.places[place].handle;
                let (requests, notifications) = (&self.registry.requests, &mut self.notifications);
                requests.cancel(&ack_text(ack), asker, notifications);
                Came::Done
            }
            Op::Wait(millis) => {
                self.now += Duration::from_millis(millis);
                Came::Done
            }
            Op::Expire => {
                let notifications = &mut self.notifications;
                let requests = &self.registry.requests;
                requests.expire(self.now, |expired| notifications.append(expired));
                Came::Done
            }
            Op::Timeout(millis) => {
                let timeout = Duration::from_millis(millis);
                self.registry.requests.set_timeout(timeout);
                Came::Done
            }
        }
    }

    fn ask(
        &mut self,
        place: usize,
        ack: &str,
        receivers: &[Arc<Handle>],
        names: &[Name<'_>],
        (answers, timeout): (u32, Option<Duration>),
    ) -> Result<(), ActionError> {
        let RealConnection { handle, id } = &self.places[place];
        let (requests, notifications) = (&self.registry.requests, &mut self.notifications);
        match id {
            _ if receivers.is_empty() => Ok(()),
            Some(_) => {
                let question = Question {
                    ack,
                    asker: handle,
                    receivers,
                    names,
                    answers,
                    timeout,
                };
                let request = loop {
                    if let Opened::Pending(request) =
                        requests.open(&question, self.now, notifications)?
                    {
                        break request;
                    }
                };
                if let Some(request) = request {
                    requests.delivered(&request, notifications);
                }
                Ok(())
            }
            None => requests.check(ack, handle, self.now),
        }
    }

    /// Notifications since the last call, in no order.
    pub(super) fn notified(&mut self) -> Vec<Notified> {
        let number = |text: &str| text.rsplit(' ').next().unwrap().parse().unwrap();
        let mut notified: Vec<_> = (self.notifications.drain(..))
            .map(|notification| match notification {
                Notification::Failed {
                    asker,
                    ack,
                    dest,
                    error,
                } => Notified::Failed {
                    asker: asker.key,
                    ack: number(&ack),
                    id: number(&dest),
                    code: error.code(),
                },
                Notification::Cancelled { responder, ack } => Notified::Cancelled {
                    responder: responder.key,
                    ack: number(&ack),
                },
            })
            .collect();
        notified.sort();
        notified
    }

    fn give_up(&mut self, place: usize) -> bool {
        let mut freed = false;
        let connection = &mut self.places[place];
        if let Some(id) = connection.id.take() {
            self.registry
                .end_registration(&id_text(id), connection.handle.registration(), || {
                    freed = true
                });
        }
        freed
    }

    /// Ends a connection: nothing may refer to it afterwards, nor count what it awaited.
    fn end(&mut self, place: usize, error: DeliveryError) {
        self.give_up(place);
        let next = self.connect();
        let RealConnection { handle, .. } = std::mem::replace(&mut self.places[place], next);
        self.registry
            .requests
            .disconnect(&handle, error, &mut self.notifications);
        assert_eq!(handle.requests.lock().deliveries(), 0);
        assert!(!handle.owns_its_id());
    }

    pub(super) fn state(&self, world: &World) -> ModelState {
        let find = |id| self.registry.find(&id_text(id));
        let owners: BTreeMap<_, _> = (0..world.ids)
            .filter_map(|id| find(id).map(|owner| (id, owner)))
            .map(|(id, owner)| {
                (
                    id,
                    (
                        owner.key,
                        self.registry.is_penalized(&id_text(id), self.now),
                    ),
                )
            })
            .collect();
        let listed: BTreeSet<_> = self.registry.ids().into_iter().collect();
        assert_eq!(listed, owners.keys().map(|id| id_text(*id)).collect());
        assert_eq!(self.registry.count(), owners.len());
        let pending = self.registry.requests.pending();
        assert_eq!(self.registry.requests.count(), pending.len());
        ModelState {
            owners,
            owning: self
                .places
                .iter()
                .map(|connection| connection.handle.owns_its_id())
                .collect(),
            deliveries: self
                .places
                .iter()
                .map(|connection| connection.handle.requests.lock().deliveries())
                .collect(),
            requests: (0..world.acks)
                .filter_map(|ack| {
                    let (asker, responders) = pending.get(&ack_text(ack))?.clone();
                    Some((ack, ModelRequest { asker, responders }))
                })
                .collect(),
        }
    }

    /// Ends all connections and asserts that nothing is left of them.
    pub(super) fn finish(&mut self) {
        let handles: Vec<_> = self.places.iter().map(|one| one.handle.clone()).collect();
        for place in 0..self.places.len() {
            self.end(place, DeliveryError::Gone);
        }
        self.notifications.clear();
        self.registry.requests.expire(self.start, |_| {});
        assert_eq!(self.registry.count(), 0);
        assert_eq!(self.registry.requests.count(), 0);
        assert_eq!(self.registry.requests.deadlines(), 0);
        assert_eq!(self.memory.used(), 0);
        for handle in handles {
            assert_eq!(Arc::strong_count(&handle), 1, "somebody holds it");
        }
    }
}

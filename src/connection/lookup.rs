//! Lookup of ids that are not registered here, at other brokers.
//!
//! A message to one id is itself the lookup. A message to an array of ids is sent to all of them or, while
//! its connection waits, to none. If it has more unknown ids than a connection may look up at a time, they
//! are looked up first, one group after the other.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Waker},
};

use super::Connection;
use crate::{
    broker::{Broker, handle::Handle, peers::Unreachable, requests::DeliveryError},
    memory::Charge,
};

/// Bytes charged for each id that is looked up before its message.
const ID: usize = 64;

/// Reason why a message is not sent to an id that is not registered here.
pub(super) enum Absent {
    Failed(DeliveryError),
    /// The limit of concurrent lookups of this connection is reached: it is woken when it may continue.
    Lookups,
    /// Frames of this connection wait for the broker of this receiver: it is woken once they have gone out.
    Queue(Arc<Handle>),
}

impl From<DeliveryError> for Absent {
    fn from(error: DeliveryError) -> Self {
        Self::Failed(error)
    }
}

/// Lookups of a waiting message to many ids.
pub(super) struct PendingLookups {
    /// Number of ids in `dest` whose lookup has been started.
    looked_up: usize,
    /// Ids without an owner, by their index in `dest`.
    absent: HashMap<usize, DeliveryError>,
    /// Ids with an owner: their handles are kept until the message is sent.
    found: Vec<Arc<Handle>>,
    /// Ids whose lookup is pending, by their index in `dest`.
    open: Vec<(usize, Arc<Handle>)>,
    charge: Charge,
}

impl Connection {
    /// Handle and registration of an id that is not registered here.
    #[inline(never)]
    pub(super) fn find_remote(
        &self,
        id: &str,
        cx: &Context<'_>,
    ) -> Result<(Arc<Handle>, u64), Absent> {
        let (key, waker) = (self.handle.key, cx.waker());
        let remote = self.broker.find_remote(id, key, waker)?;
        match remote.holds(key, waker) {
            true => Err(Absent::Queue(remote)),
            false => {
                let registration = remote.registration();
                Ok((remote, registration))
            }
        }
    }

    /// Looks up the ids of a message to many ids. False if the message must wait: this connection is woken
    /// when it may continue.
    #[cold]
    pub(super) fn look_up(&mut self, ids: &[impl AsRef<str>], cx: &Context<'_>) -> bool {
        let mut lookups = self.lookups.take().unwrap_or_else(|| {
            Box::new(PendingLookups {
                looked_up: 0,
                absent: HashMap::new(),
                found: Vec::new(),
                open: Vec::new(),
                charge: Charge::new(&self.broker.memory, 0),
            })
        });
        lookups.close(&self.broker);
        let mut is_held = false;
        while let Some(id) = ids.get(lookups.looked_up) {
            let id = id.as_ref();
            if self.broker.registry.find(id).is_none() {
                let (key, waker) = (self.handle.key, cx.waker());
                match self.broker.find_remote(id, key, waker) {
                    Err(Absent::Failed(error)) => {
                        lookups.absent.insert(lookups.looked_up, error);
                    }
                    Err(_) => {
                        is_held = true;
                        break;
                    }
                    Ok(handle) if handle.is_unresolved() => {
                        handle.look_up();
                        lookups.open.push((lookups.looked_up, handle));
                    }
                    Ok(handle) => lookups.found.push(handle),
                }
            }
            lookups.looked_up += 1;
        }
        lookups.update_charge();
        self.lookups = Some(lookups);
        !is_held
    }

    /// Result of the lookup: why the id at this index of `dest` has no owner. None if it has one or was not
    /// looked up.
    pub(super) fn was_absent(&self, place: usize) -> Option<DeliveryError> {
        self.lookups.as_ref()?.absent.get(&place).copied()
    }
}

impl PendingLookups {
    /// Records lookups that have been answered.
    fn close(&mut self, broker: &Broker) {
        let peers = broker.peers.as_ref();
        for (place, handle) in std::mem::take(&mut self.open) {
            if handle.is_unresolved() {
                self.open.push((place, handle));
            } else if let Some(error) = peers.and_then(|peers| peers.absence(&handle)) {
                self.absent.insert(place, error);
            } else {
                self.found.push(handle);
            }
        }
    }

    /// Updates the memory charged.
    fn update_charge(&mut self) {
        let ids = self.absent.len() + self.found.len() + self.open.len();
        self.charge.set(ids * ID);
    }
}

impl Broker {
    /// Handle of an id that is not registered here. `key` and `waker`: of the sender.
    fn find_remote(&self, id: &str, key: u64, waker: &Waker) -> Result<Arc<Handle>, Absent> {
        let unknown = Absent::Failed(DeliveryError::UnknownId);
        let Some(peers) = &self.peers else {
            return Err(unknown);
        };
        if id.len() > self.options.max_id_length {
            return Err(unknown);
        }
        (peers.find_remote(self, id, (key, waker))).map_err(|error| match error {
            Unreachable::Down => Absent::Failed(DeliveryError::ClusterDown),
            Unreachable::Held => Absent::Lookups,
        })
    }

    /// Handle on which a connection waits that has reached its limit of lookups. Its outbox always has
    /// room: the message is tried again whenever the connection is woken.
    pub(super) fn lookup_gate(&self) -> Option<Arc<Handle>> {
        self.peers
            .as_ref()
            .and_then(|peers| peers.lookup_gate(self))
    }
}

//! Ids of a message that are not registered here: which of them other brokers have.
//!
//! A message to one id looks it up by itself. One to an array of ids is sent to all of them or, while its
//! connection is held, to none: where the array has more unknown ids than a connection may look up at a
//! time, they are looked up without the message, some after the others.

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

/// Bytes of memory that an id takes while it is looked up without its message.
const ID: usize = 64;

/// Why a message for an id that is not registered here is not sent.
pub(super) enum Absent {
    Failed(DeliveryError),
    /// This connection looks up as many ids as it may: it is woken when it may go on.
    Lookups,
    /// What this connection sent to the broker of this receiver has not gone out: it is woken once it has.
    Queue(Arc<Handle>),
}

impl From<DeliveryError> for Absent {
    fn from(fault: DeliveryError) -> Self {
        Self::Failed(fault)
    }
}

/// The ids of a message that waits, as far as they were looked up.
pub(super) struct PendingLookups {
    /// How many were, of those in `dest`.
    looked_up: usize,
    /// Those that no broker has, by their places in `dest`.
    absent: HashMap<usize, DeliveryError>,
    /// Those that some broker has: their handles are kept until the message is sent.
    found: Vec<Arc<Handle>>,
    /// Those of which it is not known yet.
    open: Vec<(usize, Arc<Handle>)>,
    charge: Charge,
}

impl Connection {
    /// The handle of an id that is not registered here, and the number of its registration.
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

    /// Looks up the ids of a message to many, once one of them had to wait. False if the message is to
    /// wait: this connection is woken when it may go on.
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
                    Err(Absent::Failed(fault)) => {
                        lookups.absent.insert(lookups.looked_up, fault);
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
        lookups.settle();
        self.lookups = Some(lookups);
        !is_held
    }

    /// Why an id of the message that waits has no owner, if it was looked up and has none.
    pub(super) fn was_absent(&self, place: usize) -> Option<DeliveryError> {
        self.lookups.as_ref()?.absent.get(&place).copied()
    }
}

impl PendingLookups {
    /// Notes those of which it is known by now.
    fn close(&mut self, broker: &Broker) {
        let peers = broker.peers.as_ref();
        for (place, handle) in std::mem::take(&mut self.open) {
            if handle.is_unresolved() {
                self.open.push((place, handle));
            } else if let Some(fault) = peers.and_then(|peers| peers.absence(&handle)) {
                self.absent.insert(place, fault);
            } else {
                self.found.push(handle);
            }
        }
    }

    /// Charges what it holds.
    fn settle(&mut self) {
        let ids = self.absent.len() + self.found.len() + self.open.len();
        self.charge.set(ids * ID);
    }
}

impl Broker {
    /// The handle of an id that is not registered here, for the connection with this key.
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

    /// The handle that a connection waits for which looks up as many ids as it may: it has room at any time, and
    /// the message is tried again whenever the connection is woken.
    pub(super) fn lookup_gate(&self) -> Option<Arc<Handle>> {
        self.peers
            .as_ref()
            .and_then(|peers| peers.lookup_gate(self))
    }
}

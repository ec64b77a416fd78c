//! Lookup of the ids of a message to many ids at other brokers.
//!
//! A message to one id is itself the lookup. A message to an array of ids is sent to all of them or, while
//! its connection waits, to none. If it has more unknown ids than a connection may look up at a time, they
//! are looked up first, one group after the other.

use std::{collections::HashMap, sync::Arc, task::Context};

use super::{Connection, remote::Absent};
use crate::{
    broker::{Broker, handle::Handle, requests::DeliveryError},
    memory::Charge,
};

/// Bytes charged for each id that is looked up before its message.
const ID: usize = 64;

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

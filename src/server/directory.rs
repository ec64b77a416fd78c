//! Ids of a server: queries, and disconnecting their owners.

use std::{sync::Arc, time::Duration};

use super::Server;
use crate::{
    broker::{
        Broker,
        handle::{Close, Handle},
    },
    error::{Error, Result},
};

/// Maximum bytes of a close reason: the payload of a close frame without its code.
const MAX_REASON: usize = 123;
/// Maximum time of a registration, in addition to the timeout of `authenticate`.
const UNDER_WAY: Duration = Duration::from_secs(60);

impl Server {
    /// The registered ids, in no order.
    pub fn ids(&self) -> Vec<Arc<str>> {
        self.broker.registry.ids()
    }

    /// True if this id is registered.
    pub fn has(&self, id: &str) -> bool {
        self.broker.registry.find(id).is_some()
    }

    /// Closes the connection that owns this id, after writing its outbox. `code`: 1000, or 3000 to 4999
    /// (for applications). `reason`: at most 123 bytes. The id is free when this returns. False if the id
    /// has no owner.
    ///
    /// Other connections of the same principal stay open, such as a former owner of the id; see
    /// [`disconnect_principal`](Self::disconnect_principal).
    ///
    /// Errors: `InvalidOption`.
    pub fn disconnect(&self, id: &str, code: u16, reason: &str) -> Result<bool> {
        let close = requested(code, reason)?;
        Ok(disconnect(&self.broker, id, &close))
    }

    /// Closes all connections of the principal that owns this id, under whatever ids, registered or not. A
    /// registration of the principal that is in progress is closed, too, once it is authenticated. If the
    /// id has no owner, the principal is that of a connection that had registered it last and is still
    /// open, for example after a takeover by another broker of the cluster. `code` and `reason` as for
    /// [`disconnect`](Self::disconnect). False if there is no such connection.
    ///
    /// Without authentication there are no principals: this closes all connections that had registered this
    /// id last.
    ///
    /// Errors: `InvalidOption`.
    pub fn disconnect_principal(&self, id: &str, code: u16, reason: &str) -> Result<bool> {
        let close = requested(code, reason)?;
        let broker = &self.broker;
        let has_last = |handle: &Handle| handle.last_id.lock().as_deref() == Some(id);
        let owner = broker.registry.find(id);
        let one = owner.or_else(|| broker.handles().into_iter().find(|it| has_last(it)));
        let principal = one.and_then(|one| one.principal.lock().clone());
        if let Some(principal) = &principal {
            let authenticates = broker.options.authentication.timeout();
            let under_way = UNDER_WAY + authenticates.unwrap_or_default();
            broker.ended.add(principal, &close, under_way);
        }
        let is_meant = |handle: &Arc<Handle>| match &principal {
            Some(_) => *handle.principal.lock() == principal,
            None => has_last(handle),
        };
        let mut is_any = false;
        for handle in broker.handles().into_iter().filter(is_meant) {
            is_any = true;
            let id = handle.last_id.lock().clone();
            let is_freed = id.is_some_and(|id| end(broker, &id, &handle, &close));
            if !is_freed {
                handle.request_close(close.clone());
            }
        }
        Ok(is_any)
    }
}

/// Closes the connection that owns this id. False if the id has no owner.
pub(super) fn disconnect(broker: &Broker, id: &str, close: &Close) -> bool {
    while let Some(owner) = broker.registry.find(id) {
        if end(broker, id, &owner, close) {
            return true;
        }
        // Taken over meanwhile: disconnect the new owner.
    }
    false
}

/// Frees an id and closes its owner. False if `owner` does not own it any more.
fn end(broker: &Broker, id: &str, owner: &Arc<Handle>, close: &Close) -> bool {
    let number = owner.registration();
    let is_freed = number != 0 && broker.end_registration(id, number, || {});
    if is_freed {
        let lease = owner.lease.lock().take();
        drop(lease);
        owner.request_close(close.clone());
    }
    is_freed
}

fn requested(code: u16, reason: &str) -> Result<Close> {
    check_close(code, reason)?;
    let reason = reason.into();
    Ok(Close::Requested { code, reason })
}

/// Checks the code and the reason of a close frame.
///
/// Errors: `InvalidOption`.
pub(crate) fn check_close(code: u16, reason: &str) -> Result<()> {
    let invalid = |name, reason| Err(Error::InvalidOption { name, reason });
    if code != 1000 && !(3000..=4999).contains(&code) {
        let reason = format!("is {code}, expected 1000, or 3000 to 4999");
        return invalid("code", reason);
    }
    match reason.len() {
        0..=MAX_REASON => Ok(()),
        length => {
            let reason = format!("has {length} bytes, expected at most {MAX_REASON}");
            invalid("reason", reason)
        }
    }
}

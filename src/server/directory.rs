//! The ids of a server: which there are, and the end of one.

use std::{sync::Arc, time::Duration};

use super::Server;
use crate::{
    broker::handle::{Close, Handle},
    error::{Error, Result},
};

/// Bytes of a reason: what a close frame has room for beside its code.
const MAX_REASON: usize = 123;
/// Longer than a registration takes, beside the time that `authenticate` may take.
const UNDER_WAY: Duration = Duration::from_secs(60);

impl Server {
    /// The ids registered now, in no order.
    pub fn ids(&self) -> Vec<Arc<str>> {
        self.broker.registry.ids()
    }

    /// True if somebody has registered this id.
    pub fn has(&self, id: &str) -> bool {
        self.broker.registry.find(id).is_some()
    }

    /// Closes the connection that owns this id, behind what waits for it: `code` is 1000, or one of
    /// those for applications, 3000 to 4999; `reason` has 123 bytes at most. The id is free when
    /// this returns. False if nobody had it.
    ///
    /// Other connections of its principal live on, such as one that it has replaced:
    /// [`disconnect_principal`](Self::disconnect_principal) ends those, too.
    ///
    /// Errors: `InvalidOption`.
    pub fn disconnect(&self, id: &str, code: u16, reason: &str) -> Result<bool> {
        let close = requested(code, reason)?;
        while let Some(owner) = self.broker.registry.find(id) {
            if self.end(id, &owner, &close) {
                return Ok(true);
            }
            // Somebody took it over in this moment: it is him, then.
        }
        Ok(false)
    }

    /// The same for all connections of the principal that owns this id, whatever their ids, and
    /// whether they have one or not. A registration of it that is under way is ended, too, once its
    /// principal is known. Where nobody owns the id, it is the principal of the connection that had
    /// it last and is still here, as where another broker of the cluster took it over.
    ///
    /// Without authentication there are no principals: then it ends all connections that had this
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
            let is_freed = id.is_some_and(|id| self.end(&id, &handle, &close));
            if !is_freed {
                handle.request_close(close.clone());
            }
        }
        Ok(is_any)
    }

    /// Frees an id and closes its owner; false if it is not, or not any more.
    fn end(&self, id: &str, owner: &Arc<Handle>, close: &Close) -> bool {
        let number = owner.registration();
        let is_freed = number != 0 && self.broker.end_registration(id, number, || {});
        if is_freed {
            let lease = owner.lease.lock().take();
            drop(lease);
            owner.request_close(close.clone());
        }
        is_freed
    }
}

fn requested(code: u16, reason: &str) -> Result<Close> {
    check_close(code, reason)?;
    let reason = reason.into();
    Ok(Close::Requested { code, reason })
}

/// Checks what a close frame is to say.
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

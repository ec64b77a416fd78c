//! The ids of a server: which there are, and the end of one.

use std::sync::Arc;

use super::Server;
use crate::{
    error::{Error, Result},
    event::ServerEvent,
    handle::Close,
};

/// Bytes of a reason: what a close frame has room for beside its code.
const MAX_REASON: usize = 123;

impl Server {
    /// The ids registered now, in no order.
    pub fn ids(&self) -> Vec<Arc<str>> {
        self.shared.router.ids()
    }

    /// True if somebody has registered this id.
    pub fn has(&self, id: &str) -> bool {
        self.shared.router.find(id).is_some()
    }

    /// Closes the connection that owns this id, behind what waits for it: `code` is 1000, or one of
    /// those for applications, 3000 to 4999; `reason` has 123 bytes at most. The id is free when
    /// this returns. False if nobody had it.
    ///
    /// Errors: `InvalidOption`.
    pub fn disconnect(&self, id: &str, code: u16, reason: &str) -> Result<bool> {
        check_close(code, reason)?;
        let router = &self.shared.router;
        while let Some(owner) = router.find(id) {
            let mut is_freed = false;
            router.unregister(id, &owner, || {
                is_freed = true;
                let event = ServerEvent::Unregistered(id);
                self.shared.listener.event(event);
            });
            if is_freed {
                let claim = owner.claim.lock().take();
                drop(claim);
                owner.request_close(Close::Requested {
                    code,
                    reason: reason.into(),
                });
                return Ok(true);
            }
            // Somebody took it over in this moment: it is him, then.
        }
        Ok(false)
    }
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

//! Commands `subscribe` and `unsubscribe`.

use super::{Connection, Turn};
use crate::{
    error::ActionError,
    protocol::{self, RawSubscription, Slow, version_2},
};

impl Connection {
    /// Command `subscribe`: subscribes to a topic or a pattern, or changes the subscription.
    #[inline(never)]
    pub(super) fn subscribe(
        &mut self,
        raw: &RawSubscription<'_>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let options = &self.broker.options;
        let subscription = match self.handle.uses_version_2() {
            true => raw.check(options.max_id_length)?,
            false => return Err(ActionError::UnknownAction("subscribe".to_owned())),
        };
        let pattern = &subscription.pattern;
        if !self.access.may_subscribe(pattern, self.id.as_deref()) {
            return Err(ActionError::TopicForbidden("subscribe to"));
        }
        if subscription.slow == Slow::Wait && !options.allow_wait && !self.handle.participant {
            return Err(ActionError::WaitForbidden);
        }
        let limits = (options, &self.broker.memory);
        (self.broker.topics).subscribe(&self.handle, pattern, subscription.slow, limits)?;
        let pattern = protocol::json_string(pattern);
        let frame = version_2::subscribed(&pattern, subscription.reference);
        turn.pushed(&self.handle, self.handle.outbox.push(&frame));
        Ok(())
    }

    /// Command `unsubscribe`: ends a subscription, if there is one.
    #[inline(never)]
    pub(super) fn unsubscribe(
        &mut self,
        raw: &RawSubscription<'_>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let subscription = match self.handle.uses_version_2() {
            true => raw.check(self.broker.options.max_id_length)?,
            false => return Err(ActionError::UnknownAction("unsubscribe".to_owned())),
        };
        let pattern = &subscription.pattern;
        self.broker.topics.unsubscribe(&self.handle, pattern);
        let pattern = protocol::json_string(pattern);
        let frame = version_2::unsubscribed(&pattern, subscription.reference, None);
        turn.pushed(&self.handle, self.handle.outbox.push(&frame));
        Ok(())
    }

    /// Ends the subscriptions that the current grant does not allow.
    pub(super) fn recheck_subscriptions(&self, turn: &mut Turn) {
        let allows = |pattern: &str| self.access.may_subscribe(pattern, self.id.as_deref());
        for pattern in self.broker.topics.retain(&self.handle, allows) {
            let pattern = protocol::json_string(&pattern);
            let frame = version_2::unsubscribed(&pattern, None, Some("\"FORBIDDEN\""));
            turn.pushed(&self.handle, self.handle.outbox.push(&frame));
        }
    }

    /// Tells the peer which messages it has lost, once half of its outbox is written.
    #[cold]
    pub(super) fn tell_losses(&self) {
        let outbox = &self.handle.outbox;
        if outbox.has_caught_up() || outbox.await_empty() {
            self.handle.settle_losses();
            self.handle.flush();
        }
    }
}

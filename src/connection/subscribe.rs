//! Commands `subscribe`, `unsubscribe` and `acknowledge`.

use std::{mem, task::Context};

use super::{
    Connection, Turn,
    register::{AuthState, Authorizing, MAX_TOKEN},
};
use crate::{
    auth::TopicRequest,
    broker::topics::Topics,
    error::ActionError,
    protocol::{
        self, ClientAction, RawSubscription, Slow, Subscription, SubscriptionCommand, version_2,
    },
};

/// The refusal of a subscription that is not allowed.
fn forbidden(pattern: &str) -> ActionError {
    ActionError::TopicForbidden("subscribe to", pattern.to_owned())
}

impl Connection {
    /// Executes an action about a subscription. `text`: its frame.
    #[cold]
    #[inline(never)]
    pub(super) fn subscription(
        &mut self,
        raw: &RawSubscription<'_>,
        text: &str,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        if raw.is_of_mailbox() && self.handle.uses_version_2() {
            return self.mailbox(raw, turn);
        }
        match raw.command {
            SubscriptionCommand::Subscribe => self.subscribe(raw, text, turn),
            SubscriptionCommand::Unsubscribe => self.unsubscribe(raw, turn),
            SubscriptionCommand::Acknowledge => self.acknowledge(raw, turn),
            SubscriptionCommand::Watch => self.watch(raw, turn),
            SubscriptionCommand::Unwatch => self.unwatch(raw, turn),
            SubscriptionCommand::History => self.history(raw, cx, turn),
        }
    }

    /// Command `subscribe`: subscribes to a topic or a pattern, or changes the subscription.
    fn subscribe(
        &mut self,
        raw: &RawSubscription<'_>,
        text: &str,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let subscription = match self.handle.uses_version_2() {
            true => raw.check(self.broker.options.max_id_length)?,
            false => return Err(ActionError::UnknownAction("subscribe".to_owned())),
        };
        let (pattern, group) = (&subscription.pattern, subscription.group.as_deref());
        match self.access.may_subscribe(pattern, self.id.as_deref())
            || Topics::is_exempt(&self.handle, pattern, group)
        {
            true => self.begin_subscription(&subscription, turn),
            false => self.authorize(pattern, raw.token, text),
        }
    }

    /// Asks the embedder about a subscription that the grant does not cover.
    ///
    /// Errors: `TopicForbidden` if there is no hook; `NotRegistered`; `InvalidMember` if the token is too long.
    fn authorize(
        &mut self,
        pattern: &str,
        token: Option<&str>,
        text: &str,
    ) -> Result<(), ActionError> {
        let Some(authorizer) = &self.broker.authorizer else {
            return Err(forbidden(pattern));
        };
        let Some(id) = self.id.clone().filter(|_| self.handle.owns_its_id()) else {
            return Err(ActionError::NotRegistered);
        };
        let token = token.filter(|token| token.starts_with('"'));
        if token.is_some_and(|token| protocol::text_length(token) > MAX_TOKEN) {
            let what = "\"subscribe\" message (msg.token is too long)";
            return Err(ActionError::InvalidMember(what));
        }
        match mem::replace(&mut self.access, AuthState::Closed) {
            AuthState::Granted(grant) => {
                let permission = authorizer.ask(TopicRequest {
                    id,
                    principal: grant.principal.clone(),
                    topic: pattern.into(),
                    token: token.and_then(protocol::decode_token).map(Into::into),
                });
                self.access = AuthState::Authorizing(Box::new(Authorizing {
                    grant,
                    permission,
                    frame: text.into(),
                }));
                Ok(())
            }
            // Only a grant forbids something.
            access => {
                self.access = access;
                Err(forbidden(pattern))
            }
        }
    }

    /// Continues a subscription that the embedder has allowed or refused. `frame`: the frame with the action.
    pub(super) fn authorized(&mut self, frame: &str, is_allowed: bool, turn: &mut Turn) {
        let Ok(ClientAction::Subscription(raw)) = protocol::decode_client_action(frame) else {
            return;
        };
        let checked = raw.check(self.broker.options.max_id_length);
        let result = checked.and_then(|subscription| {
            let (pattern, group) = (&subscription.pattern, subscription.group.as_deref());
            if !is_allowed {
                return Err(forbidden(pattern));
            }
            self.begin_subscription(&subscription, turn)?;
            Topics::set_exempt(&self.handle, pattern, group);
            Ok(())
        });
        if let Err(error) = result {
            self.refused(error, Some(frame), turn);
        }
    }

    /// Begins or changes a subscription that is allowed.
    fn begin_subscription(
        &self,
        subscription: &Subscription<'_>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let (pattern, options) = (&subscription.pattern, &self.broker.options);
        if subscription.slow == Slow::Wait && !options.allow_wait && !self.handle.participant {
            return Err(ActionError::WaitForbidden);
        }
        let info = subscription.info;
        if let Some(info) = info
            && info.len() > options.max_presence_info
        {
            let (length, max) = (info.len(), options.max_presence_info);
            return Err(ActionError::PresenceInfoTooLarge(length, max));
        }
        let limits = (options, &self.broker.memory);
        let Some(name) = &subscription.group else {
            self.subscribe_plain(subscription, turn)?;
            match (info, &self.id) {
                (Some("null"), _) => self.broker.part(&self.handle, pattern),
                (Some(info), Some(id)) => self.broker.join(&self.handle, pattern, id, info),
                _ => {}
            }
            return Ok(());
        };
        let member = (&**name, subscription.window);
        let topics = &self.broker.topics;
        let (group, assigned) = topics.join(&self.handle, pattern, member, limits)?;
        let pattern = protocol::json_string(pattern);
        let frame = version_2::subscribed(&pattern, subscription.reference, "");
        turn.pushed(&self.handle, self.handle.outbox.push(&frame));
        // Behind `subscribed`.
        self.broker
            .deliver_jobs(&group, assigned, &mut turn.touched);
        Ok(())
    }

    /// Command `unsubscribe`: ends a subscription, if there is one.
    fn unsubscribe(
        &mut self,
        raw: &RawSubscription<'_>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let subscription = match self.handle.uses_version_2() {
            true => raw.check(self.broker.options.max_id_length)?,
            false => return Err(ActionError::UnknownAction("unsubscribe".to_owned())),
        };
        let pattern = &subscription.pattern;
        match &subscription.group {
            None => {
                self.broker.part(&self.handle, pattern);
                self.broker.topics.unsubscribe(&self.handle, pattern);
            }
            Some(name) => {
                let jobs = (self.broker.topics).leave_group(&self.handle, pattern, name);
                self.broker.fail_jobs(jobs);
            }
        }
        let pattern = protocol::json_string(pattern);
        let frame = version_2::unsubscribed(&pattern, subscription.reference, None);
        turn.pushed(&self.handle, self.handle.outbox.push(&frame));
        Ok(())
    }

    /// Ends the subscriptions that the current grant does not allow.
    pub(super) fn recheck_subscriptions(&self, turn: &mut Turn) {
        let allows = |pattern: &str| self.access.may_subscribe(pattern, self.id.as_deref());
        let (refused, jobs) = self.broker.topics.retain(&self.handle, allows);
        for (pattern, group) in refused {
            if group.is_none() {
                self.broker.part(&self.handle, &pattern);
            }
            let pattern = protocol::json_string(&pattern);
            let end = match group {
                None => "\"FORBIDDEN\"".to_owned(),
                Some(name) => ["\"FORBIDDEN\",\"group\":", &protocol::json_string(&name)].concat(),
            };
            let frame = version_2::unsubscribed(&pattern, None, Some(&end));
            turn.pushed(&self.handle, self.handle.outbox.push(&frame));
        }
        self.broker.fail_jobs(jobs);
    }

    /// Command `acknowledge`: this member of a group has finished messages, and can get others.
    fn acknowledge(
        &mut self,
        raw: &RawSubscription<'_>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let finished = match self.handle.uses_version_2() {
            true => raw.check(self.broker.options.max_id_length)?,
            false => return Err(ActionError::UnknownAction("acknowledge".to_owned())),
        };
        let name = finished.group.as_deref().unwrap_or_default();
        // It may have left the group since.
        if let Some(group) = Topics::group_of(&self.handle, &finished.pattern, name) {
            let assigned = group.acknowledge(&self.handle, finished.count);
            self.broker
                .deliver_jobs(&group, assigned, &mut turn.touched);
        }
        Ok(())
    }

    /// Gets messages that have waited in its groups.
    pub(super) fn take_jobs(&self, turn: &mut Turn) {
        for group in Topics::groups_of(&self.handle) {
            let assigned = group.acknowledge(&self.handle, 0);
            self.broker
                .deliver_jobs(&group, assigned, &mut turn.touched);
        }
    }

    /// Takes messages of its groups once half of its outbox is written.
    #[cold]
    pub(super) fn await_jobs(&self) {
        let outbox = &self.handle.outbox;
        if outbox.has_caught_up() || outbox.await_empty() {
            self.handle.set_awaits_jobs(false);
            let mut turn = Turn::default();
            self.take_jobs(&mut turn);
            turn.flush();
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

//! Commands `register` and `unregister`, and authentication.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use tokio::time::sleep;

use super::{Connection, Turn};
use crate::{
    auth::{AuthResult, Authenticator, Credentials, Decision, Denied, Grant, Permission},
    broker::{
        handle::Close,
        lease::{Lease, LeaseState},
        peers::Task,
        principals::Moment,
    },
    error::ActionError,
    event::ServerEvent,
    protocol,
};

/// Maximum bytes of a message before authentication.
const UNREGISTERED_PAYLOAD: usize = 64 << 10;

/// Maximum bytes of a token's JSON text, without quotes: a longer one does not fit into the first frame of a
/// connection either. A token of `jwt` has a lower limit.
pub(super) const MAX_TOKEN: usize = UNREGISTERED_PAYLOAD;

/// Extra messages counted against the turn's budget for a token verified within the turn.
const TOKEN: u32 = 31;

/// Authentication state of a connection.
pub(super) enum AuthState {
    /// No authentication: all actions are allowed.
    Free,
    /// Only `register` is allowed.
    Closed,
    /// Authentication in progress: reading is paused.
    Pending {
        id: Arc<str>,
        decision: Decision,
        /// Bytes of the token.
        shown: usize,
        /// True if it holds a grant: its expiry still applies meanwhile.
        renews: bool,
        /// Version of the protocol that it asks for.
        protocol: u8,
        since: Moment,
        /// When the embedder was asked; none if it was not.
        asked: Option<Instant>,
    },
    /// The id is being claimed in the cluster: reading is paused.
    Claiming {
        id: Arc<str>,
        /// None without authentication.
        grant: Option<Grant>,
        protocol: u8,
        claim: Task<Result<Lease, Denied>>,
        renews: bool,
        since: Moment,
    },
    /// A subscription waits for the embedder's permission: reading is paused.
    Authorizing(Box<Authorizing>),
    /// Authenticated.
    Granted(Grant),
}

/// A subscription that the grant does not cover.
pub(super) struct Authorizing {
    pub(super) grant: Grant,
    pub(super) permission: Permission,
    /// The frame with the action.
    pub(super) frame: Box<str>,
}

impl AuthState {
    pub(super) fn new(gate: &Authenticator) -> Self {
        match gate.is_free() {
            true => Self::Free,
            false => Self::Closed,
        }
    }

    /// True if actions other than `register` are allowed.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Free | Self::Granted(_))
    }

    pub(super) fn is_pending(&self) -> bool {
        matches!(
            self,
            Self::Pending { .. } | Self::Claiming { .. } | Self::Authorizing(_)
        )
    }

    /// True if `deadline` is the expiry of a grant.
    pub(super) fn is_granted(&self) -> bool {
        matches!(
            self,
            Self::Granted(_)
                | Self::Authorizing(_)
                | Self::Pending { renews: true, .. }
                | Self::Claiming { renews: true, .. }
        )
    }

    /// Bytes of memory that it holds.
    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Pending { id, shown, .. } => id.len() + shown,
            Self::Claiming { id, .. } => id.len(),
            Self::Authorizing(pending) => size_of::<Authorizing>() + 2 * pending.frame.len(),
            Self::Free | Self::Closed | Self::Granted(_) => 0,
        }
    }

    /// True if messages to this topic are allowed.
    pub(super) fn may_publish(&self, topic: &str, id: Option<&str>) -> bool {
        match self {
            Self::Granted(grant) => grant.may_publish(topic, id.unwrap_or_default()),
            _ => true,
        }
    }

    /// True if the messages of this mailbox may be taken.
    pub(super) fn may_open(&self, mailbox: &str, id: Option<&str>) -> bool {
        match self {
            Self::Granted(grant) => id == Some(mailbox) || grant.mailboxes.allows(mailbox),
            _ => true,
        }
    }

    /// True if a subscription to this pattern is allowed.
    pub(super) fn may_subscribe(&self, pattern: &str, id: Option<&str>) -> bool {
        match self {
            Self::Granted(grant) => grant.may_subscribe(pattern, id.unwrap_or_default()),
            _ => true,
        }
    }

    /// True if the presence of a topic, or of `$` and an id, may be watched.
    pub(super) fn may_watch(&self, subject: &str, id: Option<&str>) -> bool {
        match (self, subject.strip_prefix('$')) {
            (Self::Granted(grant), Some(other)) => grant.watch.allows(other),
            (Self::Granted(grant), None) => grant.may_see(subject, id.unwrap_or_default()),
            _ => true,
        }
    }

    /// True if messages to this id are allowed.
    pub(super) fn may_send(&self, id: &str) -> bool {
        match self {
            Self::Granted(grant) => grant.may_send(id),
            _ => true,
        }
    }
}

impl Connection {
    /// Starts the register timeout. Before authentication the message size is limited to
    /// [`UNREGISTERED_PAYLOAD`].
    pub(super) fn await_registration(&mut self) {
        if !matches!(self.access, AuthState::Free) {
            self.access = AuthState::Closed;
            let limit = self.broker.options.max_payload.min(UNREGISTERED_PAYLOAD);
            self.reader.set_max_payload(limit);
        }
        let limit = self.broker.options.effective_register_timeout();
        let limit = limit.filter(|_| !self.handle.participant);
        self.deadline = limit.map(|limit| Box::pin(sleep(limit)));
    }

    pub(super) fn register(
        &mut self,
        id: &str,
        token: Option<&str>,
        protocol: u8,
        session: Option<&str>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        self.uncount_for_session();
        let id = protocol::decode_id(id, self.broker.options.max_id_length)?;
        self.request_session(session.filter(|_| protocol > 1))?;
        let since = self.broker.ended.now();
        let gate = match self.access {
            AuthState::Free => &Authenticator::Free,
            _ => &self.broker.authenticator,
        };
        let is_too_long =
            |token: &str| token.starts_with('"') && protocol::text_length(token) > MAX_TOKEN;
        if !gate.is_free() && token.is_some_and(is_too_long) {
            let reason = Denied::Unauthorized("token: too long".into());
            self.deny(Some(&id), reason);
            return Ok(());
        }
        match gate {
            Authenticator::Free => self.granted(&id, None, protocol, since, turn),
            Authenticator::Jwt(tokens) => {
                let id: Arc<str> = id.into();
                let token: Option<String> = token.and_then(protocol::decode_token).map(Into::into);
                let shown = token.as_ref().map_or(0, String::len);
                let renews = self.access.is_granted();
                let pause = renews.then(|| self.renewals.pause(Instant::now()));
                let alive = self.broker.closing();
                match tokens.verify(id.clone(), token, pause, alive) {
                    AuthResult::Known(Ok(grant)) => {
                        turn.read += TOKEN;
                        self.granted(&id, Some(grant), protocol, since, turn);
                    }
                    AuthResult::Known(Err(denied)) => self.deny(Some(&id), denied),
                    // The register timeout goes on: unlike for a hook, it includes this decision.
                    AuthResult::Awaited(decision) => {
                        self.access = AuthState::Pending {
                            id,
                            decision,
                            shown,
                            renews,
                            protocol,
                            since,
                            asked: None,
                        };
                    }
                }
            }
            Authenticator::Hook(hook) => {
                let peer = self.peer.clone().unwrap_or_default();
                let id: Arc<str> = id.into();
                let token: Option<String> = token.and_then(protocol::decode_token).map(Into::into);
                let shown = token.as_ref().map_or(0, String::len);
                let credentials = Credentials {
                    id: id.clone(),
                    token,
                    headers: peer.headers,
                    url: peer.url,
                    certificate: peer.certificate,
                    context: peer.context,
                    remote_address: self.handle.info().address_text(),
                    secure: self.handle.info().secure,
                };
                let renews = self.access.is_granted();
                if !renews {
                    // The hook has its own timeout.
                    self.deadline = None;
                }
                self.access = AuthState::Pending {
                    id,
                    decision: hook.ask(credentials, renews),
                    shown,
                    renews,
                    protocol,
                    since,
                    asked: Some(Instant::now()),
                };
            }
        }
        Ok(())
    }

    /// Continues a registration when its authentication or its claim is decided, or a subscription when the embedder
    /// has allowed or refused it.
    pub(super) fn poll_access(&mut self, cx: &mut Context<'_>, turn: &mut Turn) {
        if self.access.is_pending() {
            self.poll_pending(cx, turn);
        }
    }

    #[cold]
    #[inline(never)]
    fn poll_pending(&mut self, cx: &mut Context<'_>, turn: &mut Turn) {
        if let AuthState::Authorizing(pending) = &mut self.access
            && let Poll::Ready(is_allowed) = pending.permission.as_mut().poll(cx)
            && let AuthState::Authorizing(pending) =
                std::mem::replace(&mut self.access, AuthState::Closed)
        {
            let Authorizing { grant, frame, .. } = *pending;
            self.access = AuthState::Granted(grant);
            self.authorized(&frame, is_allowed, turn);
        }
        if let AuthState::Pending {
            id,
            decision,
            protocol,
            since,
            asked,
            ..
        } = &mut self.access
            && let Poll::Ready(decision) = decision.as_mut().poll(cx)
        {
            let (id, protocol, since) = (id.clone(), *protocol, *since);
            if let Some(asked) = asked {
                self.broker.metrics.authenticate.record(asked.elapsed());
            }
            match decision {
                Ok(grant) => self.granted(&id, Some(grant), protocol, since, turn),
                Err(denied) => self.deny(Some(&id), denied),
            }
        }
        if let AuthState::Claiming {
            id,
            grant,
            protocol,
            claim,
            since,
            ..
        } = &mut self.access
            && let Poll::Ready(claimed) = claim.as_mut().poll(cx)
        {
            let (id, grant, protocol, since) = (id.clone(), grant.take(), *protocol, *since);
            match claimed {
                Ok(lease) => {
                    self.access = match grant.is_some() {
                        // `registered` sets it to `Granted`.
                        true => AuthState::Closed,
                        false => AuthState::Free,
                    };
                    self.registered(&id, grant, (Some(lease), since), protocol, turn);
                }
                Err(denied) => self.deny(Some(&id), denied),
            }
        }
    }

    /// Continues a registration after authentication: claims the id if there is a cluster. `since`: start
    /// of the registration.
    fn granted(
        &mut self,
        id: &str,
        grant: Option<Grant>,
        protocol: u8,
        since: Moment,
        turn: &mut Turn,
    ) {
        if self.session.is_some() && self.continues_session(id, grant.as_ref()) {
            return;
        }
        let Some(peers) = &self.broker.peers else {
            return self.registered(id, grant, (None, since), protocol, turn);
        };
        let id: Arc<str> = id.into();
        let principal = grant.as_ref().map(|grant| grant.principal.clone());
        let renews = self.access.is_granted();
        if !renews {
            self.deadline = None;
        }
        self.access = AuthState::Claiming {
            claim: peers
                .clone()
                .claim(id.clone(), principal, self.handle.participant),
            id,
            grant,
            protocol,
            renews,
            since,
        };
    }

    /// Completes a registration, unless the id belongs to another principal.
    fn registered(
        &mut self,
        id: &str,
        grant: Option<Grant>,
        (lease, since): (Option<Lease>, Moment),
        protocol: u8,
        turn: &mut Turn,
    ) {
        if self.id.as_deref().is_some_and(|former| former != id) {
            self.unregister(false, turn);
        }
        let id: Arc<str> = id.into();
        let mut from = protocol::json_string(&id);
        from.shrink_to_fit();
        let principal = grant.as_ref().map(|grant| grant.principal.clone());
        self.handle.principal.lock().clone_from(&principal);
        *self.handle.last_id.lock() = Some(id.clone());
        // A concurrent `disconnect_principal` either finds the principal in the handle, or has added it to
        // `ended` before.
        if let Some(principal) = &principal
            && let Some(close) = self.broker.ended.find(principal, since)
        {
            return self.close(&close);
        }
        let begun = self.begin_session(protocol);
        let Self { broker, handle, .. } = self;
        // A renewal, or a takeover at this broker, is no arrival: senders noted since the arrival stay known.
        if let Some(peers) = &broker.peers
            && broker.registry.find(&id).is_none()
        {
            peers.expect_arrival(handle);
        }
        let (mut lost, mut given_up) = (None, None);
        let taken = broker.registry.register(&id, handle, |former| {
            // Emitted before the peer gets `registered`: events of its next actions come later.
            let taken = former.filter(|(former, _)| former.key != handle.key);
            broker.listener.event(ServerEvent::Registered {
                id: &id,
                replaced: former.is_some(),
                taken_over: taken.is_some(),
                info: handle.info(),
            });
            if let Some((former, registration)) = taken {
                if former.uses_version_2() {
                    let frame = protocol::version_2::replaced(&from);
                    turn.pushed(former, former.outbox.push(&frame));
                }
                lost = Some((former.clone(), registration));
                given_up = former.lease.lock().take();
            }
            if protocol == 1 {
                handle.set_uses_version_2(false);
            }
            let pushed = match &begun {
                None => handle.outbox.push(&protocol::registered(&from, protocol)),
                Some((token, timeout)) => {
                    let session = protocol::session(token, timeout.as_millis(), None);
                    let frame = protocol::registered_in(&from, &session);
                    handle.outbox.push(&frame)
                }
            };
            turn.pushed(handle, pushed);
            // After the push: frames of version 2 must come behind `registered`.
            if protocol > 1 {
                handle.set_uses_version_2(true);
            }
        });
        if taken.is_err() {
            return self.deny(Some(&id), Denied::Conflict);
        }
        let state = match (&broker.peers, &lease) {
            (Some(peers), Some(lease)) => peers.lease_state(lease),
            _ => LeaseState::Held,
        };
        let own = std::mem::replace(&mut *handle.lease.lock(), lease);
        drop((own, given_up));
        if let Some((former, registration)) = lost {
            broker.end_subscriptions(&former);
            let requests = &broker.registry.requests;
            requests.replaced(&former, &id, registration, &mut turn.notifications);
        }
        if let Some(left) = broker.drains_for() {
            turn.pushed(handle, handle.warn(left));
        }
        if let (Some(peers), LeaseState::Lost { conflict }) = (&broker.peers, state) {
            // Another broker has claimed the id meanwhile.
            peers.end_lost(broker, &id, conflict);
        }
        handle.set_has_left(false);
        broker.presence.id_changed(&id, &broker.registry, false);
        if let Some(begun) = begun {
            self.session_begun(begun, &id, turn);
        }
        (self.id, self.from) = (Some(id), from);
        self.deadline = None;
        if let Some(grant) = grant {
            self.set_deadline(&grant);
            self.reader.set_max_payload(self.broker.options.max_payload);
            self.access = AuthState::Granted(grant);
            self.recheck_subscriptions(turn);
            self.recheck_watches(turn);
            self.recheck_mailboxes(turn);
        }
        self.notify(turn);
    }

    /// Starts the timer for the expiry of a grant.
    pub(super) fn set_deadline(&mut self, grant: &Grant) {
        self.deadline = grant.expires.map(|expires| {
            let left = expires.duration_since(SystemTime::now());
            Box::pin(sleep(left.unwrap_or(Duration::ZERO)))
        });
    }

    /// Closes a connection that sends another action before `register`.
    pub(super) fn deny_unregistered(&mut self) {
        self.deny(None, Denied::Unauthorized("register first".into()));
    }

    /// Emits `Denied` and closes the connection.
    pub(super) fn deny(&mut self, id: Option<&str>, denied: Denied) {
        let event = ServerEvent::Denied {
            id,
            info: self.handle.info(),
            denied: &denied,
        };
        self.broker.listener.event(event);
        self.close(&Close::Denied(denied));
    }

    /// Gives up the id, if it still owns it. `tell`: sends `unregistered` to the peer.
    pub(super) fn unregister(&mut self, tell: bool, turn: &mut Turn) {
        let Some(id) = self.id.take() else { return };
        self.end_session();
        self.handle.last_id.lock().take();
        let Self {
            broker,
            handle,
            from,
            ..
        } = self;
        let lease = handle.lease.lock().take();
        let (lease, parking) = match (&broker.peers, lease, handle.is_warned()) {
            // The client is moving to another broker: messages for the id wait for its next owner.
            (Some(peers), Some(lease), true) => (None, peers.clone().park(lease)),
            (_, lease, _) => (lease, None),
        };
        broker.end_registration(&id, handle.registration(), || {
            if tell {
                turn.pushed(handle, handle.outbox.push(&protocol::unregistered(from)));
            }
        });
        drop((lease, parking));
    }

    /// The id as JSON, for answers. A client that was sent `goaway` and has given up its id still answers
    /// earlier requests under it.
    pub(super) fn answers_from(&self) -> Option<&str> {
        let has_left = self.id.is_none() && !self.from.is_empty() && self.handle.is_warned();
        (has_left || self.handle.owns_its_id()).then_some(&self.from)
    }

    /// The id as JSON, if this connection owns one.
    pub(super) fn from(&self) -> Option<&str> {
        self.handle.owns_its_id().then_some(&self.from)
    }
}

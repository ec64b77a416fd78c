//! `register` and `unregister`: who may, and what follows.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use tokio::time::sleep;

use super::{Connection, Turn};
use crate::{
    auth::{AuthResult, Authenticator, Credentials, Decision, Denied, Grant},
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

/// Bytes of a message from a peer that has not shown who it is.
const STRANGER_PAYLOAD: usize = 64 << 10;

/// Messages that a token counts for, beside its own, when it is verified within a turn.
const TOKEN: u32 = 31;

/// Bytes of a header beside its name and value.
const HEADER: usize = size_of::<(String, String)>();

/// What a connection may do.
pub(super) enum AuthState {
    /// Everything: nobody is asked who he is.
    Free,
    /// Nothing but register.
    Closed,
    /// Nothing, until it is known whether it may register with this id.
    Pending {
        id: Arc<str>,
        decision: Decision,
        /// Bytes of what it has shown.
        shown: usize,
        /// It holds a grant, whose end is not put off by asking for another.
        renews: bool,
        /// The version of the protocol that it is to speak.
        protocol: u8,
        since: Moment,
    },
    /// Nothing, until the other brokers know that the id is its own.
    Claiming {
        id: Arc<str>,
        /// None where nobody is asked who he is.
        grant: Option<Grant>,
        protocol: u8,
        claim: Task<Result<Lease, Denied>>,
        renews: bool,
        since: Moment,
    },
    /// What was granted.
    Granted(Grant),
}

/// What is known of a peer from its handshake.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    /// Lower-case names and values.
    pub(crate) headers: Arc<[(String, String)]>,
    /// Its address; empty for a Unix socket.
    pub(crate) address: String,
    pub(crate) secure: bool,
}

impl Peer {
    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        let header = |(name, value): &(String, String)| HEADER + name.len() + value.len();
        self.address.len() + self.headers.iter().map(header).sum::<usize>()
    }
}

impl AuthState {
    pub(super) fn new(gate: &Authenticator) -> Self {
        match gate.is_free() {
            true => Self::Free,
            false => Self::Closed,
        }
    }

    /// True if other actions than `register` are carried out.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Free | Self::Granted(_))
    }

    pub(super) fn is_pending(&self) -> bool {
        matches!(self, Self::Pending { .. } | Self::Claiming { .. })
    }

    /// True if its deadline is the end of a grant.
    pub(super) fn is_granted(&self) -> bool {
        matches!(
            self,
            Self::Granted(_)
                | Self::Pending { renews: true, .. }
                | Self::Claiming { renews: true, .. }
        )
    }

    /// Bytes of memory that it holds.
    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Pending { id, shown, .. } => id.len() + shown,
            Self::Claiming { id, .. } => id.len(),
            Self::Free | Self::Closed | Self::Granted(_) => 0,
        }
    }

    /// True if this id may be sent to.
    pub(super) fn may_send(&self, id: &str) -> bool {
        match self {
            Self::Granted(grant) => grant.may_send(id),
            _ => true,
        }
    }
}

impl Connection {
    /// Nobody knows yet who this is: it has little room, and little time.
    pub(super) fn await_registration(&mut self) {
        if !matches!(self.access, AuthState::Free) {
            self.access = AuthState::Closed;
            let limit = self.broker.options.max_payload.min(STRANGER_PAYLOAD);
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
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let id = protocol::decode_id(id, self.broker.options.max_id_length)?;
        let since = self.broker.ended.now();
        let gate = match self.access {
            AuthState::Free => &Authenticator::Free,
            _ => &self.broker.authenticator,
        };
        match gate {
            Authenticator::Free => self.granted(&id, None, protocol, since, turn),
            Authenticator::Jwt(tokens) => {
                let id: Arc<str> = id.into();
                let token: Option<String> = token.and_then(protocol::decode_token).map(Into::into);
                let shown = token.as_ref().map_or(0, String::len);
                let renews = self.access.is_granted();
                let pause = renews.then(|| self.renewals.pause(Instant::now()));
                let alive = self.broker.closing();
                match tokens.judge(id.clone(), token, pause, alive) {
                    AuthResult::Known(Ok(grant)) => {
                        turn.read += TOKEN;
                        self.granted(&id, Some(grant), protocol, since, turn);
                    }
                    AuthResult::Known(Err(denied)) => self.deny(Some(&id), denied),
                    // Whoever has no id has no more time for that than for all of it.
                    AuthResult::Awaited(decision) => {
                        self.access = AuthState::Pending {
                            id,
                            decision,
                            shown,
                            renews,
                            protocol,
                            since,
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
                    remote_address: peer.address,
                    secure: peer.secure,
                };
                let renews = self.access.is_granted();
                if !renews {
                    // The answer has a time of its own.
                    self.deadline = None;
                }
                self.access = AuthState::Pending {
                    id,
                    decision: hook.ask(credentials, renews),
                    shown,
                    renews,
                    protocol,
                    since,
                };
            }
        }
        Ok(())
    }

    /// Goes on with a registration once it is known whether it may be, and where there is a cluster,
    /// once the others know.
    pub(super) fn poll_access(&mut self, cx: &mut Context<'_>, turn: &mut Turn) {
        if let AuthState::Pending {
            id,
            decision,
            protocol,
            since,
            ..
        } = &mut self.access
            && let Poll::Ready(decision) = decision.as_mut().poll(cx)
        {
            let (id, protocol, since) = (id.clone(), *protocol, *since);
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
                        // Until it is set.
                        true => AuthState::Closed,
                        false => AuthState::Free,
                    };
                    self.registered(&id, grant, (Some(lease), since), protocol, turn);
                }
                Err(denied) => self.deny(Some(&id), denied),
            }
        }
    }

    /// The peer may have the id. Where there is a cluster, the other brokers hear of that first.
    /// `since`: when it was asked for.
    fn granted(
        &mut self,
        id: &str,
        grant: Option<Grant>,
        protocol: u8,
        since: Moment,
        turn: &mut Turn,
    ) {
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

    /// The peer may have the id, unless somebody else has it already.
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
        // Whoever ends all connections of a principal finds it from here on, or has done so before.
        if let Some(principal) = &principal
            && let Some(close) = self.broker.ended.find(principal, since)
        {
            return self.close(&close);
        }
        let Self { broker, handle, .. } = self;
        if let Some(peers) = &broker.peers {
            peers.expect_arrival(handle);
        }
        let (mut lost, mut given_up) = (None, None);
        let taken = broker.registry.register(&id, handle, |former| {
            // Told before the peer knows: what it does next is told later.
            let replaced = former.is_some();
            let event = ServerEvent::Registered { id: &id, replaced };
            broker.listener.event(event);
            if let Some((former, registration)) = former
                && former.key != handle.key
            {
                if former.speaks_2() {
                    let frame = protocol::version_2::replaced(&from);
                    turn.pushed(former, former.outbox.push(&frame));
                }
                lost = Some((former.clone(), registration));
                given_up = former.lease.lock().take();
            }
            if protocol == 1 {
                handle.set_speaks_2(false);
            }
            let frame = protocol::registered(&from, protocol);
            turn.pushed(handle, handle.outbox.push(&frame));
            // Behind it only: nobody tells it anything else before.
            if protocol > 1 {
                handle.set_speaks_2(true);
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
            let requests = &broker.registry.requests;
            requests.replaced(&former, &id, registration, &mut turn.outcomes);
        }
        if let Some(left) = broker.drains_for() {
            turn.pushed(handle, handle.warn(left));
        }
        if let (Some(peers), LeaseState::Lost { conflict }) = (&broker.peers, state) {
            // Another broker was faster, or rather later.
            peers.end_lost(broker, &id, conflict);
        }
        (self.id, self.from) = (Some(id), from);
        self.deadline = None;
        if let Some(grant) = grant {
            self.deadline = grant.expires.map(|expires| {
                let left = expires.duration_since(SystemTime::now());
                Box::pin(sleep(left.unwrap_or(Duration::ZERO)))
            });
            self.reader.set_max_payload(self.broker.options.max_payload);
            self.access = AuthState::Granted(grant);
        }
        self.notify(turn);
    }

    /// Ends a connection that wants something else than to register.
    pub(super) fn deny_stranger(&mut self) {
        self.deny(None, Denied::Unauthorized("register first".into()));
    }

    /// Ends a connection that may not do what it wants.
    pub(super) fn deny(&mut self, id: Option<&str>, denied: Denied) {
        let event = ServerEvent::Denied {
            id,
            denied: &denied,
        };
        self.broker.listener.event(event);
        self.close(&Close::Denied(denied));
    }

    /// Gives up the id, if it is still ours; `tell`: with a frame to the peer.
    pub(super) fn unregister(&mut self, tell: bool, turn: &mut Turn) {
        let Some(id) = self.id.take() else { return };
        self.handle.last_id.lock().take();
        let Self {
            broker,
            handle,
            from,
            ..
        } = self;
        let lease = handle.lease.lock().take();
        let (lease, parking) = match (&broker.peers, lease, handle.is_warned()) {
            // It goes elsewhere: what comes for it meanwhile waits.
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

    /// The same for answers: one that was told to go, and has given up its id to do so, answers under it what
    /// it was asked before.
    pub(super) fn answers_from(&self) -> Option<&str> {
        let has_left = self.id.is_none() && !self.from.is_empty() && self.handle.is_warned();
        (has_left || self.handle.owns_its_id()).then_some(&self.from)
    }

    /// The id as JSON, if we own one.
    pub(super) fn from(&self) -> Option<&str> {
        self.handle.owns_its_id().then_some(&self.from)
    }
}

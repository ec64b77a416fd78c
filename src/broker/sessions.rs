//! Sessions: registrations that outlive their socket for a limited time (rule 40).
//!
//! A session whose socket is lost is suspended: to others it is a receiver that does not read. Its client presents the
//! token of the session on another connection, whose task hands its socket over to the task of the session.

use std::{
    any::Any,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use foldhash::quality::RandomState;

use super::handle::Handle;
use crate::{
    auth::{Grant, Peer},
    event::ConnectionInfo,
    sync::Mutex,
    transport::{framing::Reader, socket::WriteHalf},
};

/// The sessions of a broker, by their tokens.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    sessions: Mutex<HashMap<Arc<str>, Arc<Session>, RandomState>>,
    suspended: AtomicUsize,
}

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    /// A secret of its client.
    pub(crate) token: Arc<str>,
    pub(crate) id: Arc<str>,
    pub(crate) handle: Arc<Handle>,
    /// The time for which it outlives a lost socket.
    pub(crate) timeout: Duration,
    next: Mutex<NextSocket>,
}

/// The socket with which a session continues.
#[derive(Debug, Default)]
enum NextSocket {
    #[default]
    None,
    Some(Box<Continuation>),
    /// The session has ended.
    Ended,
}

/// A socket for a session, from the connection that asked to continue it.
pub(crate) struct Continuation {
    pub(crate) reader: Reader,
    pub(crate) socket: WriteHalf,
    pub(crate) info: ConnectionInfo,
    pub(crate) peer: Option<Box<Peer>>,
    /// None without authentication.
    pub(crate) grant: Option<Grant>,
    /// Number of actions that the client has received in the session.
    pub(crate) count: u64,
    /// Dropped when the socket is closed.
    pub(crate) permit: Option<Box<dyn Any + Send>>,
}

impl std::fmt::Debug for Continuation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Continuation").finish_non_exhaustive()
    }
}

impl Sessions {
    /// Adds a session with this token of [`Sessions::token`].
    pub(crate) fn add(
        &self,
        token: Arc<str>,
        id: Arc<str>,
        handle: &Arc<Handle>,
        timeout: Duration,
    ) -> Arc<Session> {
        let session = Arc::new(Session {
            token: token.clone(),
            id,
            handle: handle.clone(),
            timeout,
            next: Mutex::default(),
        });
        self.sessions.lock().insert(token, session.clone());
        session
    }

    /// A new token: 128 random bits.
    pub(crate) fn token() -> Arc<str> {
        let random: [u8; 16] = rand::random();
        BASE64URL_NOPAD.encode(&random).into()
    }

    /// The session with this token, if it is of this id and principal, and its client can continue after `count`
    /// actions.
    pub(crate) fn find(
        &self,
        token: &str,
        id: &str,
        principal: Option<&str>,
        count: u64,
    ) -> Option<Arc<Session>> {
        let session = self.sessions.lock().get(token).cloned()?;
        let handle = &session.handle;
        let is_it = *session.id == *id
            && handle.principal.lock().as_deref() == principal
            && handle.owns_its_id()
            && handle.outbox.has_since(count);
        is_it.then_some(session)
    }

    /// Removes a session that has ended, and drops a socket that was handed over to it.
    pub(crate) fn remove(&self, session: &Session) {
        self.sessions.lock().remove(&session.token);
        *session.next.lock() = NextSocket::Ended;
    }

    /// Counts a session without a socket, or one that has a socket again.
    pub(crate) fn count_suspended(&self, is_suspended: bool) {
        match is_suspended {
            true => self.suspended.fetch_add(1, Relaxed),
            false => self.suspended.fetch_sub(1, Relaxed),
        };
    }

    /// Number of sessions, and of those without a socket.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.sessions.lock().len(), self.suspended.load(Relaxed))
    }
}

impl Session {
    /// Hands a socket over to the task of the session. If the session has ended, the socket is closed.
    pub(crate) fn hand_over(&self, next: Box<Continuation>) {
        let mut slot = self.next.lock();
        if !matches!(*slot, NextSocket::Ended) {
            let former = std::mem::replace(&mut *slot, NextSocket::Some(next));
            drop(slot);
            drop(former);
            self.handle.waker.wake();
        }
    }

    /// True if a socket was handed over.
    pub(crate) fn has_next(&self) -> bool {
        matches!(*self.next.lock(), NextSocket::Some(_))
    }

    /// Takes the socket that was handed over.
    pub(crate) fn take_next(&self) -> Option<Box<Continuation>> {
        let mut slot = self.next.lock();
        match std::mem::take(&mut *slot) {
            NextSocket::Some(next) => Some(next),
            NextSocket::None => None,
            NextSocket::Ended => {
                *slot = NextSocket::Ended;
                None
            }
        }
    }
}

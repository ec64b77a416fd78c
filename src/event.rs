//! All that an embedder can hear. Events borrow: an embedder that does not care pays nothing.

use crate::{
    auth::Denied,
    error::{ActionError, Error},
};

/// What a server tells its embedder. Called on the server's threads: return soon, never block.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServerEvent<'a> {
    /// A WebSocket was accepted.
    Connection,
    /// An id has an owner; the `registered` frame is about to be queued for it.
    Registered {
        /// The id.
        id: &'a str,
        /// It had an owner before: another connection, or the same.
        replaced: bool,
    },
    /// An id has no owner any more.
    Unregistered(&'a str),
    /// A message went to an id that nobody has registered.
    UnknownId(&'a str),
    /// A peer sent an action that could not be carried out.
    Refused {
        /// What was wrong.
        error: ActionError,
        /// The frame's text, where it was text.
        text: Option<&'a str>,
    },
    /// A connection does not keep up.
    Slow {
        /// Its id, if it has one and that is known.
        id: Option<&'a str>,
        /// What was done about it.
        why: Slow,
    },
    /// Something happened to the connection with the other brokers.
    Cluster(ClusterEvent<'a>),
    /// A connection may not register, or not any more, and is closed.
    Denied {
        /// The id that it wants, or had.
        id: Option<&'a str>,
        /// Why.
        denied: &'a Denied,
    },
}

/// What happened to the connection of a server with the other brokers of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterEvent<'a> {
    /// It is there, or there again: NATS has read for which ids we listen.
    Up,
    /// It is lost. What is here goes on; what is for others fails with `CLUSTER_DOWN`.
    Down,
    /// NATS has sent more than could be taken, and something of it is lost.
    Lagged,
    /// NATS refused something, or cannot be reached: it is tried again.
    Failed(&'a str),
    /// It was required and could not be had in time: the server closes.
    Missing(&'a str),
}

/// What was done about a connection that does not keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slow {
    /// It was closed.
    Closed,
    /// It was closed because it held the most memory when there was no more.
    Memory,
    /// What is sent to it is being dropped, until it has caught up.
    Dropping,
}

/// Receives the events of a server.
pub trait ServerListener: Send + Sync + 'static {
    /// Something happened.
    fn event(&self, event: ServerEvent<'_>);
}

impl<F: Fn(ServerEvent<'_>) + Send + Sync + 'static> ServerListener for F {
    fn event(&self, event: ServerEvent<'_>) {
        self(event);
    }
}

/// What a client tells its embedder. All texts are JSON, as they came.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientEvent<'a> {
    /// Connected; the `register` frame is on its way.
    Open,
    /// The server confirmed the registration.
    Registered {
        /// The version of the protocol that is spoken from now on: 2, or 1 if either side does not
        /// speak 2.
        protocol: u8,
    },
    /// The registration has ended: as we wanted, or because another connection took our id over.
    Unregistered {
        /// The id, if the server sent one.
        id: Option<&'a str>,
        /// Why it has ended without being asked for (version 2): `"REPLACED"`.
        code: Option<&'a str>,
    },
    /// A message.
    Message {
        /// The message; none if the frame had none.
        message: Option<&'a str>,
        /// Present when the sender awaits an answer.
        ack: Option<&'a str>,
        /// The sender's id, if it has one.
        from: Option<&'a str>,
    },
    /// An answer to one of our requests.
    Answer {
        /// The request's ack.
        ack: Option<&'a str>,
        /// Who answered.
        from: Option<&'a str>,
        /// The answer.
        message: Option<&'a str>,
        /// Why there is none: the receiver has refused the request (version 2).
        error: Option<&'a str>,
    },
    /// What became of a message that we sent with a `ref` (version 2).
    Receipt {
        /// The `ref`.
        reference: &'a str,
        /// The ids to which it was delivered: an array.
        delivered: &'a str,
        /// The ids to which it was not, and why: an object of codes by id.
        failed: &'a str,
    },
    /// A receiver of one of our requests will not answer (version 2).
    Failed {
        /// The request's ack.
        ack: &'a str,
        /// The receiver's id, as the request was sent to it.
        dest: &'a str,
        /// Why.
        code: &'a str,
    },
    /// The server refused one of our actions (version 2).
    ActionFailed {
        /// What was wrong: an [`ActionError::code`].
        code: &'a str,
        /// The same in words.
        message: &'a str,
        /// The action's `ref`, if it had one.
        reference: Option<&'a str>,
        /// The action's ack, if it had one.
        ack: Option<&'a str>,
    },
    /// Nobody awaits our answer to this request any more (version 2).
    Cancel {
        /// The request's ack.
        ack: &'a str,
    },
    /// The server is about to close (version 2).
    GoAway {
        /// After so many milliseconds at the latest.
        within: &'a str,
    },
    /// The server sent an action that could not be understood.
    Refused(ActionError),
    /// A message that is larger than [`ClientOptions::max_message`](crate::ClientOptions) or than
    /// [`ClientListener::accepts`] allows. It is dropped; a request should be refused.
    MessageTooLarge {
        /// Its ack, if the sender awaits an answer.
        ack: Option<&'a str>,
        /// The sender's id, if it has one.
        from: Option<&'a str>,
        /// Bytes of its JSON text.
        size: usize,
    },
    /// An answer or a refusal that is larger than that. It is dropped, and used up the request.
    AnswerTooLarge {
        /// The request's ack.
        ack: Option<&'a str>,
        /// Who answered.
        from: Option<&'a str>,
        /// Bytes of its JSON text.
        size: usize,
    },
    /// The connection failed, or the server broke the WebSocket protocol.
    Error(Error),
    /// The queue of a client that was above its high-water mark is empty again.
    Drain,
    /// The connection has ended. Nothing follows.
    Closed {
        /// The code; none if it was closed before it was open.
        code: Option<u16>,
        /// What the server's close frame said beside it; empty if it said nothing.
        reason: &'a str,
    },
}

/// Receives the events of a client.
pub trait ClientListener: Send + Sync + 'static {
    /// Something happened. Called on the client's thread: return soon, never block.
    fn event(&self, event: ClientEvent<'_>);

    /// Whether the embedder has room for a message or an answer of this JSON text. Called before the
    /// event; false makes it [`ClientEvent::MessageTooLarge`] or [`ClientEvent::AnswerTooLarge`].
    fn accepts(&self, _text: &str) -> bool {
        true
    }

    /// What was read at once has been told.
    ///
    /// Returns false to stop the reading until [`Client::resume`](crate::Client::resume): the
    /// socket then pushes back on the server.
    fn batch_end(&self) -> bool {
        true
    }
}

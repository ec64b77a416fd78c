//! Events that are emitted to the embedder. Their texts are borrowed, so an unused event costs nothing.

use std::{net::IpAddr, time::Duration};

use crate::{
    auth::Denied,
    error::{ActionError, Error},
    metrics::{CloseReason, HostStats},
};

/// The origin of a connection: that of its socket, or with `trust_proxy` that reported by the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionInfo {
    /// The address of the client; none for a Unix socket, or if a trusted proxy did not report it.
    pub remote_address: Option<IpAddr>,
    /// The port of the client; none if unknown.
    pub remote_port: Option<u16>,
    /// True if the client uses TLS.
    pub secure: bool,
}

impl ConnectionInfo {
    /// The address of the client as text; empty if unknown.
    pub(crate) fn address_text(&self) -> String {
        let address = self.remote_address.as_ref();
        address.map(ToString::to_string).unwrap_or_default()
    }
}

/// An event of a server. Emitted on the server's threads: return quickly, never block.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServerEvent<'a> {
    /// A WebSocket was accepted.
    Connection(ConnectionInfo),
    /// A socket did not become a WebSocket.
    HandshakeRefused {
        /// Where it came from.
        info: ConnectionInfo,
        /// The HTTP status of the response; `tls` if the TLS handshake failed, `dropped` if there was no response.
        status: &'static str,
    },
    /// A WebSocket has ended.
    Disconnected {
        /// The id that it had when it ended.
        id: Option<&'a str>,
        /// Where it came from.
        info: ConnectionInfo,
        /// Why it ended.
        reason: CloseReason,
        /// The code of the close frame that was sent or received first; none without one.
        code: Option<u16>,
        /// Messages and bytes that it has transferred.
        traffic: Traffic,
    },
    /// An id was registered; the `registered` frame is about to be queued.
    Registered {
        /// The id.
        id: &'a str,
        /// True if the id was registered before, by another connection or the same.
        replaced: bool,
        /// True if another connection of this server owned the id.
        taken_over: bool,
        /// The connection that owns it now.
        info: ConnectionInfo,
    },
    /// A session continues on another socket.
    Resumed {
        /// The id of the session.
        id: &'a str,
        /// Where the socket comes from.
        info: ConnectionInfo,
    },
    /// An id was unregistered, and has no owner now.
    Unregistered(&'a str),
    /// A message was sent to an unknown id.
    UnknownId(&'a str),
    /// An action of a peer was refused.
    Refused {
        /// The reason.
        error: ActionError,
        /// The text of the frame; none for a binary frame.
        text: Option<&'a str>,
        /// The id of the connection.
        id: Option<&'a str>,
        /// Where it came from.
        info: ConnectionInfo,
    },
    /// A connection is a slow consumer.
    Slow {
        /// The id of the connection, if it has one that is known.
        id: Option<&'a str>,
        /// The measure taken.
        why: Slow,
    },
    /// The store has failed: messages are not stored any more, and everything else goes on. Reported once.
    StoreFailed(&'a Error),
    /// The connection to the other brokers has changed.
    Cluster(ClusterEvent<'a>),
    /// The registration of a connection was denied or revoked: the connection is closed.
    Denied {
        /// The id that was requested or registered.
        id: Option<&'a str>,
        /// Where the connection came from.
        info: ConnectionInfo,
        /// The reason.
        denied: &'a Denied,
    },
}

/// A change in the connection of a server to the other brokers of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterEvent<'a> {
    /// Connected, or connected again: the subscriptions of this broker are active at NATS.
    Up,
    /// Disconnected. Messages between local ids are still delivered; those to other brokers fail with
    /// `CLUSTER_DOWN`.
    Down,
    /// NATS sent more than could be accepted, so messages were lost.
    Lagged,
    /// NATS refused an operation, or is unreachable: it is retried. Or messages of another broker are refused.
    Failed(&'a str),
    /// NATS is required, but was not reached in time: the server closes.
    Missing(&'a str),
}

/// Messages and bytes that a WebSocket has transferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// How long it was open.
    pub open: Duration,
    /// Messages received from the client.
    pub messages: u64,
    /// Their bytes, without frame headers.
    pub bytes_received: u64,
    /// Bytes written to the client, with frame headers.
    pub bytes_sent: u64,
}

/// The measure taken against a slow consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slow {
    /// The connection was closed.
    Closed,
    /// The connection was closed because memory was short and it held the most.
    Memory,
    /// Messages to the connection are dropped until its queue is drained.
    Dropping,
}

/// The receiver of a server's events.
pub trait ServerListener: Send + Sync + 'static {
    /// Called for each event.
    fn event(&self, event: ServerEvent<'_>);

    /// How far the embedder is behind with the events. Default: it is not known.
    fn host_stats(&self) -> Option<HostStats> {
        None
    }
}

impl<F: Fn(ServerEvent<'_>) + Send + Sync + 'static> ServerListener for F {
    fn event(&self, event: ServerEvent<'_>) {
        self(event);
    }
}

/// An event of a client. Texts are JSON, as received.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientEvent<'a> {
    /// The connection is open; the `register` frame is queued.
    Open,
    /// The server has confirmed the registration.
    Registered {
        /// The protocol version used from now on: 2, or 1 if either side does not support 2.
        protocol: u8,
        /// The session that the server grants, as JSON text: `token`, `timeout` in milliseconds, and if it
        /// continues `resumed` and `count` (version 2).
        session: Option<&'a str>,
    },
    /// The registration has ended: as requested, or because another connection took over the id.
    Unregistered {
        /// The id, if the server sent one.
        id: Option<&'a str>,
        /// The reason if it was not requested (version 2): `"REPLACED"`.
        code: Option<&'a str>,
    },
    /// A message was received.
    Message {
        /// The message; none if the frame has none.
        message: Option<&'a str>,
        /// The ack, if the sender expects an answer.
        ack: Option<&'a str>,
        /// The sender's id, if it has one.
        from: Option<&'a str>,
        /// The topic, if it was sent to one (version 2).
        topic: Option<&'a str>,
        /// The group of which the client is a member, if it is for that (version 2).
        group: Option<&'a str>,
        /// Number of the attempt of a request to a group, from 1 (version 2).
        attempt: u32,
        /// Its offset, if the messages of the topic are kept, or it comes from a mailbox (version 2).
        offset: Option<u64>,
        /// The mailbox that it comes from (version 2).
        mailbox: Option<&'a str>,
        /// The idempotency key of a message from a mailbox (version 2).
        key: Option<&'a str>,
    },
    /// An answer to a request of this client.
    Answer {
        /// The ack of the request.
        ack: Option<&'a str>,
        /// The id of the responder.
        from: Option<&'a str>,
        /// The answer.
        message: Option<&'a str>,
        /// The refusal instead of an answer (version 2).
        error: Option<&'a str>,
    },
    /// The delivery result of a message that was sent with a `ref` (version 2).
    Receipt {
        /// The `ref`.
        reference: &'a str,
        /// An array of the ids to which it was delivered.
        delivered: &'a str,
        /// An object of the ids to which it was not delivered, with their codes.
        failed: &'a str,
    },
    /// The delivery result of a message to a topic that was sent with a `ref` (version 2).
    PublishReceipt {
        /// The `ref`.
        reference: &'a str,
        /// The number of subscribers for which it was queued.
        queued: &'a str,
        /// The number of slow subscribers that have lost it.
        dropped: &'a str,
        /// In a cluster whether it was sent to the other brokers: `"sent"` or `"down"`.
        elsewhere: Option<&'a str>,
        /// Its offset, if the messages of the topic are kept.
        offset: Option<u64>,
        /// How safe it is, if it is kept: `"memory"` or `"disk"`.
        stored: Option<&'a str>,
        /// An object of the mailboxes that have it, if messages of the topic go into mailboxes, too.
        mailboxes: Option<&'a str>,
        /// An object of the mailboxes that do not have it, with their codes.
        failed: Option<&'a str>,
    },
    /// The result of a message for mailboxes that was sent with a `ref` (version 2).
    MailboxReceipt {
        /// The `ref`.
        reference: &'a str,
        /// An object of the mailboxes that have it, with how safe it is: `"memory"` or `"disk"`.
        mailboxes: &'a str,
        /// An object of the mailboxes that do not have it, with their codes.
        failed: &'a str,
        /// An array of the mailboxes that had a message with its key before.
        duplicates: &'a str,
    },
    /// The client gets the messages of a mailbox from now on (version 2).
    MailboxOpened {
        /// The name of the mailbox.
        mailbox: &'a str,
        /// The `ref` of the action, if it had one.
        reference: Option<&'a str>,
        /// Offsets of another epoch mean nothing.
        epoch: &'a str,
        /// The number of messages in it.
        waiting: u64,
    },
    /// The client gets no messages of a mailbox any more: as requested, or by the server (version 2).
    MailboxClosed {
        /// The name of the mailbox.
        mailbox: &'a str,
        /// The `ref` of the action, if it had one.
        reference: Option<&'a str>,
        /// The reason if it was not requested.
        code: Option<&'a str>,
    },
    /// The server has confirmed a subscription (version 2).
    Subscribed {
        /// The topic or pattern.
        topic: &'a str,
        /// The `ref` of the action, if it had one.
        reference: Option<&'a str>,
        /// The state of the log, if the messages of the topics are kept by one rule.
        kept: Option<Box<KeptState<'a>>>,
    },
    /// Kept messages, as the client has asked for (version 2).
    History {
        /// The `ref` of the action.
        reference: &'a str,
        /// An array of the frames with which subscribers got the messages.
        messages: &'a str,
        /// The epoch of the log.
        epoch: Option<&'a str>,
        /// The offset to go on from.
        offset: Option<u64>,
        /// Whether there are more.
        more: bool,
    },
    /// A subscription has ended: as requested, or by the server (version 2).
    Unsubscribed {
        /// The topic or pattern.
        topic: &'a str,
        /// The `ref` of the action, if it had one.
        reference: Option<&'a str>,
        /// The reason if it was not requested.
        code: Option<&'a str>,
        /// The group, if it was that of a member.
        group: Option<&'a str>,
    },
    /// The server has confirmed a `watch` (version 2).
    Watched {
        /// The `ref` of the action, if it had one.
        reference: Option<&'a str>,
    },
    /// A watch has ended: as requested, or by the server (version 2).
    Unwatched {
        /// The `ref` of the action, if it had one.
        reference: Option<&'a str>,
        /// The topic whose members were watched, if the server has ended that.
        topic: Option<&'a str>,
        /// The array of watched ids, if the server has ended that.
        ids: Option<&'a str>,
        /// The reason if it was not requested.
        code: Option<&'a str>,
    },
    /// The members of a watched topic, or changes of them (version 2).
    Presence {
        /// The topic.
        topic: &'a str,
        /// The number of members.
        count: Option<&'a str>,
        /// An object of all members: their ids with what they tell of themselves.
        members: Option<&'a str>,
        /// An object of members that have come or changed.
        joined: Option<&'a str>,
        /// An array of the ids of those that have left.
        left: Option<&'a str>,
    },
    /// Which of the watched ids are online (version 2).
    Online {
        /// An array of ids that are online.
        online: &'a str,
        /// An array of ids that are offline.
        offline: Option<&'a str>,
    },
    /// The client was too slow for messages of a topic (version 2).
    Gap {
        /// The topic; `">"` if they are of several topics.
        topic: &'a str,
        /// The number of messages that it has lost; `null` if it is not known.
        lost: &'a str,
    },
    /// A receiver will not answer a request of this client (version 2).
    Failed {
        /// The ack of the request.
        ack: &'a str,
        /// The receiver's id, as in the request.
        dest: &'a str,
        /// The code of the reason.
        code: &'a str,
    },
    /// The server refused an action of this client (version 2).
    ActionFailed {
        /// The code of the reason: an [`ActionError::code`].
        code: &'a str,
        /// The text of the reason.
        message: &'a str,
        /// The `ref` of the action, if it had one.
        reference: Option<&'a str>,
        /// The ack of the action, if it had one.
        ack: Option<&'a str>,
    },
    /// The answer to a received request is no longer awaited (version 2).
    Cancel {
        /// The ack of the request.
        ack: &'a str,
    },
    /// The server is about to close (version 2).
    GoAway {
        /// The time until then, at most, in milliseconds.
        within: &'a str,
    },
    /// The number of actions that the server has received in the session (version 2).
    Received {
        /// The number.
        count: &'a str,
    },
    /// The server sent an invalid action.
    Refused(ActionError),
    /// A message was dropped because it is larger than [`ClientOptions::max_message`](crate::ClientOptions)
    /// or than [`ClientListener::accepts`] allows. If it is a request, it should be refused.
    MessageTooLarge {
        /// The ack, if the sender expects an answer.
        ack: Option<&'a str>,
        /// The sender's id, if it has one.
        from: Option<&'a str>,
        /// Bytes of its JSON text.
        size: usize,
    },
    /// An answer or refusal was dropped because it is larger than those limits. The request is complete
    /// nevertheless.
    AnswerTooLarge {
        /// The ack of the request.
        ack: Option<&'a str>,
        /// The id of the responder.
        from: Option<&'a str>,
        /// Bytes of its JSON text.
        size: usize,
    },
    /// The connection failed, or the server violated the WebSocket protocol.
    Error(Error),
    /// The queue has been above its high-water mark, and is empty again.
    Drain,
    /// The connection is closed. No event follows.
    Closed {
        /// The close code; none if the connection was never open.
        code: Option<u16>,
        /// The reason in the server's close frame; empty if there is none.
        reason: &'a str,
    },
}

/// The state of a log of kept messages when a subscription begins. Texts are JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptState<'a> {
    /// The offset of its newest message.
    pub offset: u64,
    /// Its epoch: offsets of another epoch mean nothing here.
    pub epoch: &'a str,
    /// Whether all messages since the position of the subscription are still kept; none without a position.
    pub recovered: Option<bool>,
    /// The number of those that are not kept any more; none if it is not known.
    pub lost: Option<u64>,
    /// The number of kept messages that follow; none if it is not known.
    pub replay: Option<u64>,
}

impl<'a> ClientEvent<'a> {
    /// The members that name something: ids, acks, codes and references, but no messages and no lists.
    pub(crate) fn names(&self) -> [Option<&'a str>; 4] {
        match *self {
            Self::Unregistered { id, code } => [id, code, None, None],
            Self::Message {
                ack,
                from,
                topic,
                mailbox,
                group,
                ..
            } => [ack, from, topic.or(mailbox), group],
            Self::Answer { ack, from, .. } => [ack, from, None, None],
            Self::PublishReceipt {
                reference,
                queued,
                dropped,
                elsewhere,
                ..
            } => [Some(reference), Some(queued), Some(dropped), elsewhere],
            Self::MailboxReceipt { reference, .. } => [Some(reference), None, None, None],
            Self::MailboxOpened {
                mailbox,
                reference,
                epoch,
                ..
            } => [Some(mailbox), reference, Some(epoch), None],
            Self::MailboxClosed {
                mailbox,
                reference,
                code,
            } => [Some(mailbox), reference, code, None],
            Self::Subscribed {
                topic,
                reference,
                ref kept,
            } => {
                let epoch = kept.as_ref().map(|kept| kept.epoch);
                [Some(topic), reference, epoch, None]
            }
            Self::History {
                reference, epoch, ..
            } => [Some(reference), epoch, None, None],
            Self::Unsubscribed {
                topic,
                reference,
                code,
                group,
            } => [Some(topic), reference, code, group],
            Self::Watched { reference } => [reference, None, None, None],
            Self::Unwatched {
                reference, topic, ..
            } => [reference, topic, None, None],
            Self::Presence { topic, count, .. } => [Some(topic), count, None, None],
            Self::Gap { topic, lost } => [Some(topic), Some(lost), None, None],
            Self::Receipt { reference, .. } => [Some(reference), None, None, None],
            Self::Failed { ack, dest, code } => [Some(ack), Some(dest), Some(code), None],
            Self::ActionFailed {
                code,
                message,
                reference,
                ack,
            } => [Some(code), Some(message), reference, ack],
            Self::Cancel { ack } => [Some(ack), None, None, None],
            Self::GoAway { within } => [Some(within), None, None, None],
            Self::Registered { session, .. } => [session, None, None, None],
            Self::Received { count } => [Some(count), None, None, None],
            _ => [None; 4],
        }
    }
}

/// The receiver of a client's events.
pub trait ClientListener: Send + Sync + 'static {
    /// Called for each event, on the client's thread: return quickly, never block.
    fn event(&self, event: ClientEvent<'_>);

    /// Returns whether the embedder has room for a message or an answer with this JSON text. Called before
    /// the event; if false, [`ClientEvent::MessageTooLarge`] or [`ClientEvent::AnswerTooLarge`] is emitted
    /// instead.
    fn accepts(&self, _text: &str) -> bool {
        true
    }

    /// Called after the events of one read.
    ///
    /// Returns false to pause reading until [`Client::resume`](crate::Client::resume): the flow control of
    /// the socket then slows down the server.
    fn batch_end(&self) -> bool {
        true
    }
}

//! The protocol: decodes and encodes its actions as JSON text. Pure functions, without IO or a clock.
//!
//! Messages are never parsed: `message`, `ack` and `from` are passed on as the raw JSON text that was
//! received, whatever its nesting, numbers or surrogates. The cited rules are those of `spec/protocol.md`.
//!
//! | file | contents |
//! | --- | --- |
//! | `decode` | decodes the actions of clients and servers; itself those whose members are in the usual order |
//! | `members` | decodes actions from their members in any order |
//! | `json_scan` | finds the end of a JSON value; splits plain JSON into members |
//! | `values` | decodes single values: ids, receivers, acks |
//! | `reply_options` | the members that version 2 adds to a `send` |
//! | `subscription` | the members of `subscribe` |
//! | `session` | the member `session` of `register`, and the action `received` |
//! | `encode` | encodes actions; `encode/version_2` those that version 2 adds |
//! | `peer_frame` | the frames between brokers of a cluster |

mod decode;
mod encode;
mod json_scan;
mod members;
mod peer_frame;
mod reply_options;
mod session;
mod subscription;
mod values;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use decode::LONGEST_ACK;
pub(crate) use decode::{asks_for_2, decode_client_action, decode_server_action, echo, sender_of};
pub(crate) use encode::{
    Pieces, answer, client_answer, message, publication, register, registered, send, unregister,
    unregistered, version_2,
};
pub(crate) use peer_frame::{
    Frames, PeerFrame, confirm, confirm_number, confirmed, decode_peer_frame, expect_reply,
    expect_reply_of_group, is_message, probe, probe_failed, remote_answer, whole_frames,
};
pub(crate) use reply_options::{RawReplyOptions, ReplyOptions, attempt};
pub(crate) use session::{
    ask_session, decode_count, decode_session, received, registered_in, session,
};
pub(crate) use subscription::{
    HistoryQuery, MailboxCommand, RawSubscription, Slow, Start, Subscription, SubscriptionCommand,
    Watch, Watched,
};
pub(crate) use values::{
    Dest, ObjectDest, ack_key, decode_dest, decode_id, decode_object, decode_token, is_truthy,
    json_string, key_length, shorten, text_length,
};

/// An action of a client. All members are JSON text, borrowed from the frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ClientAction<'a> {
    Register {
        id: &'a str,
        token: Option<&'a str>,
        /// The protocol version that the client will use: 1 or 2.
        protocol: u8,
        /// The session that it asks for. Ignored in version 1.
        session: Option<&'a str>,
    },
    Unregister,
    Send {
        message: &'a str,
        dest: &'a str,
        ack: Option<&'a str>,
        /// Ignored in version 1. Boxed, so that a `send` without options stays small.
        reply: Option<Box<RawReplyOptions<'a>>>,
    },
    Answer {
        ack: &'a str,
        message: Option<&'a str>,
        /// The reason why there is no message. Ignored in version 1.
        error: Option<&'a str>,
    },
    /// The actions from here on are unknown in version 1.
    Cancel {
        ack: Option<&'a str>,
    },
    /// `subscribe`, `unsubscribe`, `acknowledge`, `watch`, `unwatch` or `history`. One variant, so that the others stay cheap to tell apart.
    Subscription(Box<RawSubscription<'a>>),
    /// Number of actions that the client has received in its session.
    Received(Option<&'a str>),
}

/// The members of a `subscribed` about the log of kept messages, as JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawKeptState<'a> {
    pub(crate) offset: &'a str,
    pub(crate) epoch: Option<&'a str>,
    pub(crate) recovered: Option<&'a str>,
    pub(crate) lost: Option<&'a str>,
    pub(crate) replay: Option<&'a str>,
}

/// An action of a server. All members are JSON text, borrowed from the frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerAction<'a> {
    Registered {
        /// The protocol version that the server will use: 1 or 2.
        protocol: u8,
        /// The session that it grants.
        session: Option<&'a str>,
    },
    Unregistered {
        id: Option<&'a str>,
        code: Option<&'a str>,
    },
    Message {
        message: Option<&'a str>,
        ack: Option<&'a str>,
        from: Option<&'a str>,
        /// The topic to which it was sent. Ignored in version 1.
        topic: Option<&'a str>,
        /// The group of which this client is a member, if it is for that.
        group: Option<&'a str>,
        /// Number of the attempt, if it is not the first one.
        attempt: Option<&'a str>,
        /// Its offset, if it is kept.
        offset: Option<&'a str>,
        /// The mailbox that it comes from.
        mailbox: Option<&'a str>,
        /// Its idempotency key.
        key: Option<&'a str>,
    },
    Answer {
        ack: Option<&'a str>,
        from: Option<&'a str>,
        message: Option<&'a str>,
        error: Option<&'a str>,
    },
    /// The actions from here on are unknown in version 1.
    Receipt {
        reference: &'a str,
        delivered: &'a str,
        failed: &'a str,
    },
    /// The receipt of a message to a topic: numbers of subscribers.
    PublishReceipt {
        reference: &'a str,
        queued: &'a str,
        dropped: &'a str,
        elsewhere: Option<&'a str>,
        /// Its offset, and how safe it is, if it is kept.
        offset: Option<&'a str>,
        stored: Option<&'a str>,
        /// The mailboxes that have it, and those that do not, if its messages go into mailboxes, too.
        mailboxes: Option<&'a str>,
        failed: Option<&'a str>,
    },
    /// The receipt of a message for mailboxes: an object of those that have it, one of those that do not, and an array of
    /// those that had it before.
    MailboxReceipt {
        reference: &'a str,
        mailboxes: &'a str,
        failed: &'a str,
        duplicates: &'a str,
    },
    MailboxOpened {
        mailbox: &'a str,
        reference: Option<&'a str>,
        epoch: &'a str,
        /// The number of messages in it.
        waiting: &'a str,
    },
    MailboxClosed {
        mailbox: &'a str,
        reference: Option<&'a str>,
        code: Option<&'a str>,
    },
    Subscribed {
        topic: &'a str,
        reference: Option<&'a str>,
        /// The state of its log, if its messages are kept.
        kept: Option<Box<RawKeptState<'a>>>,
    },
    /// Kept messages, as an array of `message` frames.
    History {
        reference: &'a str,
        messages: &'a str,
        epoch: Option<&'a str>,
        offset: Option<&'a str>,
        more: Option<&'a str>,
    },
    Unsubscribed {
        topic: &'a str,
        reference: Option<&'a str>,
        code: Option<&'a str>,
        group: Option<&'a str>,
    },
    /// With the `ref`.
    Watched(Option<&'a str>),
    Unwatched {
        reference: Option<&'a str>,
        /// The subject that is no longer watched, if the server has ended that.
        topic: Option<&'a str>,
        ids: Option<&'a str>,
        code: Option<&'a str>,
    },
    /// The members of a topic, or changes of them.
    Presence {
        topic: &'a str,
        count: Option<&'a str>,
        members: Option<&'a str>,
        joined: Option<&'a str>,
        left: Option<&'a str>,
    },
    /// Which of the watched ids are online.
    Online {
        online: &'a str,
        offline: Option<&'a str>,
    },
    Gap {
        topic: &'a str,
        lost: &'a str,
    },
    Failed {
        ack: &'a str,
        dest: &'a str,
        code: &'a str,
    },
    Error {
        code: &'a str,
        message: &'a str,
        reference: Option<&'a str>,
        ack: Option<&'a str>,
    },
    Cancel {
        ack: &'a str,
    },
    GoAway {
        within: &'a str,
    },
    /// Number of actions that the server has received in the session.
    Received {
        count: &'a str,
    },
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;

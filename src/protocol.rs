//! The actions of the protocol, as JSON text. Pure: text in, values out, and back.
//!
//! Nothing here looks inside a message: `message`, `ack` and `from` are carried as the raw JSON
//! text that came, whatever its nesting, its numbers or its surrogates. The rules cited are
//! those of `spec/protocol.md`.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `usual` | frames known by their shape |
//! | `members` | the members of any other frame; `plain` cuts plain JSON |
//! | `decode` | what a frame asks for, or tells |
//! | `values` | ids, receivers, acks: what single members mean |
//! | `terms` | the members of a `send` that version 2 adds |
//! | `encode` | the frames that we write; `encode/version_2` has those that version 2 adds |
//! | `between` | the frames that brokers of a cluster write to each other |

mod decode;
mod encode;
mod fast_path;
mod json_scan;
mod members;
mod peer_frame;
mod reply_options;
mod values;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use decode::LONGEST_ACK;
pub(crate) use decode::{asks_for_2, decode_client_action, decode_server_action, echo, sender_of};
pub(crate) use encode::{
    Pieces, answer, client_answer, message, register, registered, send, unregister, unregistered,
    version_2,
};
pub(crate) use peer_frame::{
    PeerFrame, answer_of, asks, awaits, belongs_to_last, belongs_to_next, decode_between,
    is_message, lost, settle, settle_number, settled,
};
pub(crate) use reply_options::{RawReplyOptions, ReplyOptions};
pub(crate) use values::{
    Dest, ack_key, decode_dest, decode_id, decode_token, is_truthy, json_string, shorten,
    text_length,
};

/// What a client asks of the server. All borrowed from the frame, as JSON text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ClientAction<'a> {
    Register {
        id: &'a str,
        token: Option<&'a str>,
        /// The version that the client speaks from then on: 1, or 2.
        protocol: u8,
    },
    Unregister,
    Send {
        message: &'a str,
        dest: &'a str,
        ack: Option<&'a str>,
        /// Of no meaning in version 1. Apart, so that who wants nothing carries little.
        wanted: Option<Box<RawReplyOptions<'a>>>,
    },
    Answer {
        ack: &'a str,
        message: Option<&'a str>,
        /// Why there is none; of no meaning in version 1.
        error: Option<&'a str>,
    },
    /// Unknown in version 1.
    Cancel {
        ack: Option<&'a str>,
    },
}

/// What a server tells a client. All borrowed from the frame, as JSON text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerAction<'a> {
    Registered {
        /// The version that the server speaks from then on: 1, or 2.
        protocol: u8,
    },
    Unregistered {
        id: Option<&'a str>,
        code: Option<&'a str>,
    },
    Message {
        message: Option<&'a str>,
        ack: Option<&'a str>,
        from: Option<&'a str>,
    },
    Answer {
        ack: Option<&'a str>,
        from: Option<&'a str>,
        message: Option<&'a str>,
        error: Option<&'a str>,
    },
    /// This, and what follows, is unknown in version 1.
    Receipt {
        reference: &'a str,
        delivered: &'a str,
        failed: &'a str,
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
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;

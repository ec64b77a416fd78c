//! The messages between brokers, and their format.
//!
//! A message begins with the version of the format and its kind, one byte each; then its fields follow in the order
//! of the table below (`field` encodes them).
//!
//! Any change of the table needs a new version. A broker refuses all messages of other versions, and reports their
//! senders by their heartbeats. So in every version a heartbeat is kind 1 and begins with its node and name.

mod field;

use std::{borrow::Cow, fmt, sync::Arc};

use super::{bus::NodeId, claims::Claim};
use crate::broker::topics::groups::{GroupId, Offer};
pub(crate) use field::Rest;
use field::{Field, Input};

/// The version of the format.
const VERSION: u8 = 1;
/// The kinds that are used outside of the table.
const HEARTBEAT: u8 = 1;
const PACKET: u8 = 2;
const OWNER_QUESTION: u8 = 3;
const PUBLICATION: u8 = 13;
/// The position of `is_eager` in a packet.
const IS_EAGER: usize = 2;
/// The position of `number` in a publication.
const NUMBER: usize = 10;
/// Size in bytes of a packet without its id and frames.
pub(super) const PACKET_HEAD: usize = 11;
/// Size in bytes of a publication without its topic, the groups in `served`, and the frames.
pub(super) const PUBLICATION_HEAD: usize = 34;
/// Size in bytes of a message for a group without its pattern, its group and the frame.
pub(super) const GROUP_JOB_HEAD: usize = 11;
/// Size in bytes of a group in `served`.
pub(super) const SERVED: usize = size_of::<GroupId>();

/// Defines [`Message`] with its encoding: the number of each kind, and its fields.
macro_rules! messages {
    ($($(#[$about:meta])* $name:ident = $kind:tt {
        $($(#[$about_field:meta])* $field:ident: $type:ty,)*
    })*) => {
        /// A message from one broker to others. `node`: the broker that sends it.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) enum Message<'a> {
            $($(#[$about])* $name { $($(#[$about_field])* $field: $type,)* },)*
        }

        impl<'a> Message<'a> {
            pub(crate) fn encode(&self) -> Vec<u8> {
                let mut out = Vec::with_capacity(64);
                match self {
                    $(Self::$name { $($field,)* } => {
                        out.extend([VERSION, $kind]);
                        $($field.write(&mut out);)*
                    })*
                }
                out
            }

            fn read(kind: u8, input: &mut Input<'a>) -> Result<Self, Refusal> {
                match kind {
                    $($kind => Ok(Self::$name { $($field: Field::read(input)?,)* }),)*
                    _ => Err(Refusal::Kind(kind)),
                }
            }
        }
    };
}

messages! {
    /// Broadcast: the broker is alive. A new epoch means that earlier packets to it may be lost.
    Heartbeat = HEARTBEAT {
        node: NodeId,
        name: &'a str,
        epoch: u32,
        /// Number of publications of claims by this broker so far.
        published: u64,
        /// The broker drains.
        drains: bool,
        /// Number of its publications of interest so far.
        interest: u64,
    }
    /// WebSocket frames, as a client gets them, for an id; an empty id is the receiving broker itself. Control
    /// frames for brokers (`PeerFrame`) stand beside those that they are about.
    Packet = PACKET {
        /// The sender needs credit soon.
        is_eager: bool,
        /// The epoch of the sender.
        epoch: u32,
        id: &'a str,
        frames: Rest<'a>,
    }
    /// Asks the owner of an id whether a client with this principal may have it.
    OwnerQuestion = OWNER_QUESTION {
        id: &'a str,
        principal: Option<&'a str>,
    }
    /// Answers an owner question.
    OwnerAnswer = 4 {
        is_allowed: bool,
    }
    /// Credit for links of the receiver, by their numbers, from the broker that consumes their packets.
    Credit = 5 {
        node: NodeId,
        epoch: u32,
        credits: Cow<'a, [(u64, Credit)]>,
    }
    /// Broadcast: claims of ids.
    Claims = 6 {
        node: NodeId,
        /// The number of this publication of claims, from one.
        number: u64,
        claims: Cow<'a, [Claim]>,
    }
    /// Broadcast: asks the broker `of` to send its claims published after this number.
    Missed = 7 {
        node: NodeId,
        of: NodeId,
        after: u64,
    }
    /// A part of the answer to `Missed`: claims that are sent again.
    Repair = 8 {
        node: NodeId,
        /// Number of parts before this one.
        part: u32,
        /// In the last part: the number of the publication up to which the answer has all claims.
        all: Option<u64>,
        claims: Cow<'a, [Claim]>,
    }
    /// Broadcast: the broker leaves the cluster.
    Bye = 9 {
        node: NodeId,
    }
    /// Broadcast: search for one id, or for all ids of each broker.
    Search = 10 {
        node: NodeId,
        /// The number of the question.
        number: u64,
        id: Option<&'a str>,
    }
    /// A part of the answer to a search.
    Found = 11 {
        node: NodeId,
        name: &'a str,
        /// Number of parts before this one.
        part: u32,
        is_last: bool,
        ids: Cow<'a, [Arc<str>]>,
    }
    /// WebSocket frames, as subscribers get them, of consecutive messages to one topic.
    Publication = PUBLICATION {
        node: NodeId,
        /// The number of this publication at its broker, from one.
        number: u64,
        /// Number of messages.
        count: u32,
        /// Place of the last message in `frames`.
        last: u32,
        topic: &'a str,
        /// Groups of which a member at the publisher's broker gets these messages.
        served: Cow<'a, [GroupId]>,
        frames: Rest<'a>,
    }
    /// A message for a member of a group, from a broker whose members have left or cannot take it.
    GroupJob = 20 {
        /// Number of brokers that have passed it on.
        hops: u8,
        pattern: &'a str,
        group: &'a str,
        /// The WebSocket frame, as a member gets it.
        frame: Rest<'a>,
    }
    /// Broadcast: asks for the receivers of a request to a topic.
    TopicQuestion = 21 {
        node: NodeId,
        /// The number of the question.
        number: u64,
        topic: &'a str,
    }
    /// A part of the answer to a question for receivers: ids of subscribers, and a member of each group.
    Receivers = 22 {
        node: NodeId,
        /// Number of parts before this one.
        part: u32,
        is_last: bool,
        ids: Cow<'a, [Arc<str>]>,
        offers: Cow<'a, [Offer]>,
    }
    /// Broadcast: messages wait in a group.
    Waiting = 23 {
        node: NodeId,
        pattern: &'a str,
        group: &'a str,
    }
    /// Asks for waiting messages of a group, at most this many.
    Take = 24 {
        node: NodeId,
        pattern: &'a str,
        group: &'a str,
        count: u32,
    }
    /// Broadcast: subjects of presence that have got watchers at this broker, or have none any more. To one broker: all
    /// that have.
    Interest = 14 {
        node: NodeId,
        /// The number of this publication, from one. To one broker: that of the last.
        number: u64,
        /// The subjects are the first of all.
        is_all: bool,
        added: Cow<'a, [Arc<str>]>,
        dropped: Cow<'a, [Arc<str>]>,
    }
    /// Asks a broker for all of its interest.
    InterestWanted = 15 {
        node: NodeId,
    }
    /// Members of a subject that are connected to this broker.
    Members = 16 {
        node: NodeId,
        subject: &'a str,
        /// The members are the first of all.
        is_all: bool,
        /// Ids, each with what it tells of itself as JSON text.
        members: Cow<'a, [(Arc<str>, Arc<str>)]>,
        left: Cow<'a, [Arc<str>]>,
        /// Their number, if there are too many to be named.
        count: Option<u32>,
    }
    /// The digest of the members that the receiver should know.
    PresenceDigest = 17 {
        node: NodeId,
        /// The number of the receiver's last publication of interest that was received.
        number: u64,
        digest: u64,
    }
    /// Has no effect: measures a round trip, or uses up a delivery.
    Empty = 12 {}
}

/// Credit for one link: amounts since the last credit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Credit {
    /// The number of the newest packet counted here.
    pub(crate) packet: u64,
    pub(crate) arrived: Amount,
    pub(crate) consumed: Amount,
}

/// A number of packets, and the bytes of their frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) bytes: usize,
    pub(crate) packets: usize,
}

impl Amount {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.packets += 1;
    }

    /// Subtracts an amount, down to zero; returns the difference.
    pub(crate) fn subtract(&mut self, other: Self) -> Self {
        let subtracted = Self {
            bytes: other.bytes.min(self.bytes),
            packets: other.packets.min(self.packets),
        };
        self.bytes -= subtracted.bytes;
        self.packets -= subtracted.packets;
        subtracted
    }
}

/// The reason why a message is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The message has another version. `name`: of its broker, if it is a heartbeat.
    Version { version: u8, name: Option<String> },
    /// The version has no such kind.
    Kind(u8),
    /// The message is damaged.
    Malformed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { version, name } => {
                match name {
                    Some(name) => write!(f, "messages of broker {name:?}")?,
                    None => f.write_str("messages of another broker")?,
                }
                write!(
                    f,
                    " have format version {version}, expected version {VERSION}"
                )?;
            }
            Self::Kind(kind) => write!(f, "a message of another broker has unknown kind {kind}")?,
            Self::Malformed => f.write_str("a message of another broker is malformed")?,
        }
        f.write_str(": run the same version of wsmsgbroker at all brokers of a namespace")
    }
}

impl<'a> Message<'a> {
    /// Decodes a message.
    ///
    /// Errors: another version, an unknown kind, or a damaged message.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let mut input = Input(bytes);
        let [version, kind] = input.bytes()?;
        if version != VERSION {
            let name = (kind == HEARTBEAT).then(|| {
                let _ = NodeId::read(&mut input);
                <&str>::read(&mut input)
            });
            let name = name.and_then(Result::ok).map(str::to_owned);
            return Err(Refusal::Version { version, name });
        }
        let message = Self::read(kind, &mut input)?;
        match input.0 {
            [] => Ok(message),
            _ => Err(Refusal::Malformed),
        }
    }
}

/// The number of bytes of frames in a packet for this id; none if the message is no packet. Decodes nothing else.
pub(crate) fn frames_in(message: &[u8], id: &str) -> Option<usize> {
    let frames = message.len().checked_sub(PACKET_HEAD + id.len())?;
    message.starts_with(&[VERSION, PACKET]).then_some(frames)
}

/// True if the sender of this packet needs credit soon.
pub(crate) fn is_eager(packet: &[u8]) -> bool {
    packet.starts_with(&[VERSION, PACKET]) && packet.get(IS_EAGER) == Some(&1)
}

/// Marks an encoded packet: its sender needs credit soon.
pub(super) fn make_eager(packet: &mut [u8]) {
    if let Some(is_eager) = packet.get_mut(IS_EAGER) {
        *is_eager = 1;
    }
}

/// Sets the number of an encoded publication; false for any other message.
pub(super) fn set_number(message: &mut [u8], number: u64) -> bool {
    let is_publication = message.starts_with(&[VERSION, PUBLICATION]);
    match message.get_mut(NUMBER..).and_then(<[u8]>::first_chunk_mut) {
        Some(place) if is_publication => {
            *place = number.to_be_bytes();
            true
        }
        _ => false,
    }
}

/// True if a message is an owner question. Decodes nothing else.
pub(crate) fn is_owner_question(message: &[u8]) -> bool {
    message.starts_with(&[VERSION, OWNER_QUESTION])
}

/// Limits for one message of many items: their number, and approximately their bytes.
const ITEMS: usize = 500;
const BYTES: usize = 64 << 10;

/// Splits off the first items that fit into one message, at least one. `bytes`: the size of an item.
pub(super) fn part<T>(items: &[T], bytes: impl Fn(&T) -> usize) -> (&[T], &[T]) {
    let mut sum = 0;
    let fits = items.iter().take(ITEMS).take_while(|item| {
        let before = sum;
        sum += bytes(item);
        before < BYTES
    });
    items.split_at(fits.count())
}

/// Splits off the first claims that fit into one message.
pub(super) fn part_of_claims(claims: &[Claim]) -> (&[Claim], &[Claim]) {
    part(claims, |claim| {
        claim.id.len() + claim.owner.principal().map_or(0, str::len)
    })
}

#[cfg(test)]
mod tests;

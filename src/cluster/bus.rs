//! The message bus between brokers: the trait that NATS implements, and the names of its subjects.

use std::{fmt, pin::Pin};

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use ring::digest::{SHA256, digest};

pub(crate) use crate::broker::peers::Task;
use crate::{broker::topics::groups::GroupId, error::Result};

/// Ids up to this many bytes are encoded in their subject; longer ones are hashed.
const MAX_ENCODED: usize = 96;

/// The queue group of all subscriptions to an id: each message goes to one of them, even while the id moves.
pub(crate) const ID_QUEUE: &str = "wsmb";

/// The random id of a broker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(pub(crate) u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// An address at a node for replies: of one link, or of the answers to one question. The number is unique at
/// that node; 0 is the node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ReplyAddress {
    pub(crate) node: NodeId,
    pub(crate) number: u64,
}

/// A message to publish.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    pub(crate) subject: String,
    pub(crate) reply: Option<String>,
    pub(crate) payload: Bytes,
}

/// A message that was received.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The number in this node's subject: of the link or question that the message is about; otherwise zero.
    pub(crate) number: u64,
    /// The number of the packet of that link that the message is about, from one; zero if there is none.
    pub(crate) packet: u64,
    /// The sender's address for replies.
    pub(crate) from: Option<ReplyAddress>,
    /// The number of this packet among those of its sender's link, from one; zero if it has none.
    pub(crate) sent: u64,
    pub(crate) payload: Bytes,
    /// NATS reports that the message published there had no subscription.
    pub(crate) no_responders: bool,
}

/// A subscription to a subject.
pub(crate) trait Subscription: Send {
    /// The next delivery; none at the end.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Option<Delivery>> + Send + '_>>;

    /// Unsubscribes. Deliveries that have been received already still come.
    fn unsubscribe(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Unsubscribes after at least so many more deliveries, so that those in flight are not lost.
    fn unsubscribe_after(&mut self, more: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let _ = more;
        self.unsubscribe()
    }
}

/// The message bus: delivers at most once, and in order for each publisher and subject.
pub(crate) trait Bus: Send + Sync + fmt::Debug {
    /// Publishes if there is room now; otherwise gives the publication back.
    fn try_publish(&self, publication: Publication) -> std::result::Result<(), Publication>;

    /// Publishes once there is room.
    fn publish(&self, publication: Publication) -> Task<()>;

    /// Subscribes to a subject. `queue`: the name of a queue group; each message goes to one of its members only.
    fn subscribe(
        &self,
        subject: String,
        queue: Option<String>,
    ) -> Task<Result<Box<dyn Subscription>>>;

    /// Size limit of a message in bytes.
    fn max_payload(&self) -> usize;

    /// True while the bus is connected.
    fn is_connected(&self) -> bool;

    /// Number of connections so far, the present one included.
    fn connections(&self) -> u64;

    /// Resolves once all publications have been written to the connection.
    fn flush(&self) -> Task<()>;

    /// Ends reconnecting.
    fn close(&self);
}

/// The subjects of a cluster. Ids are encoded or hashed, so that clients cannot choose a subject.
#[derive(Debug)]
pub(crate) struct Subjects {
    prefix: String,
}

impl Subjects {
    pub(crate) fn new(namespace: &str) -> Self {
        Self {
            prefix: format!("wsmb.{namespace}"),
        }
    }

    /// The subject of an id.
    pub(crate) fn id(&self, id: &str) -> String {
        let prefix = &self.prefix;
        match id.len() {
            0..=MAX_ENCODED => format!("{prefix}.to.i{}", BASE64URL_NOPAD.encode(id.as_bytes())),
            _ => {
                let hash = digest(&SHA256, id.as_bytes());
                format!("{prefix}.to.h{}", BASE64URL_NOPAD.encode(hash.as_ref()))
            }
        }
    }

    /// The subject of a reply address.
    pub(crate) fn reply(&self, address: ReplyAddress) -> String {
        format!("{}.node.{}.{:x}", self.prefix, address.node, address.number)
    }

    /// The wildcard subject of all addresses of a node.
    pub(crate) fn node(&self, node: NodeId) -> String {
        format!("{}.node.{node}.>", self.prefix)
    }

    /// The subject of all topics, without their tokens.
    pub(super) fn topics(&self) -> String {
        format!("{}.t", self.prefix)
    }

    /// The subject of messages that a broker passes on to another one with members of a group.
    pub(super) fn group(&self, id: GroupId) -> String {
        format!("{}.g.{id}", self.prefix)
    }

    /// The subject of broadcasts.
    pub(crate) fn all(&self) -> String {
        format!("{}.all", self.prefix)
    }
}

/// Parses the subject of a reply address, and the packet number behind it; zero if there is none.
pub(crate) fn parse_reply(subject: &str) -> Option<(ReplyAddress, u64)> {
    let hex = |part: &str| u64::from_str_radix(part, 16).ok();
    // Skips "wsmb", the namespace and the kind of subject.
    let mut parts = subject.split('.').skip(3);
    let node = NodeId(hex(parts.next()?)?);
    let number = hex(parts.next()?)?;
    let packet = parts.next().map_or(Some(0), hex)?;
    Some((ReplyAddress { node, number }, packet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_encoded_into_distinct_subjects() {
        let subjects = Subjects::new("test");
        let long = "x".repeat(MAX_ENCODED + 1);
        let hashed = subjects.id(&long);
        let ids = [
            "a", "b", "a.b", "*", ">", " ", "\r\n", "\0", "", "é", "😀", "to", &long, &hashed,
        ];
        let mut seen = std::collections::HashSet::new();
        for id in ids {
            let subject = subjects.id(id);
            let key = subject.strip_prefix("wsmb.test.to.").expect("its prefix");
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            assert!(!key.is_empty() && key.chars().all(is_plain), "{subject}");
            assert!(key.len() < 140);
            assert!(seen.insert(subject));
        }
    }

    #[test]
    fn reply_subjects_are_parsed() {
        let address = ReplyAddress {
            node: NodeId(u64::MAX - 5),
            number: 0x1f,
        };
        let subject = Subjects::new("a").reply(address);
        assert_eq!(parse_reply(&subject), Some((address, 0)));
        assert_eq!(parse_reply(&format!("{subject}.2a")), Some((address, 42)));
        for wrong in ["", "a", "a.b", "wsmb.a.node.zz.1", "wsmb.a.node.1.*"] {
            assert_eq!(parse_reply(wrong), None, "{wrong}");
        }
    }
}

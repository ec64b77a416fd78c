//! What a cluster needs of the system that carries its messages, and how things are named there.

use std::{fmt, pin::Pin};

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use ring::digest::{SHA256, digest};

pub(crate) use crate::broker::peers::Task;
use crate::error::Result;

/// Ids of this many bytes have a subject from which they can be read; that of longer ones is made of
/// their hash.
const READABLE: usize = 96;

/// A broker of the cluster, chosen at random when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(pub(crate) u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl NodeId {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

/// One way to write to a node, or the place of an answer there: its number tells it from all others
/// of that node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ReplyAddress {
    pub(crate) node: NodeId,
    pub(crate) number: u64,
}

/// Something to be published.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    pub(crate) subject: String,
    pub(crate) reply: Option<String>,
    pub(crate) payload: Bytes,
}

/// Something that has come.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The number in a subject of ours: which of our ways, or of our questions, it is about.
    pub(crate) number: u64,
    /// Which of the packets that went that way, from one on; zero where that is not said.
    pub(crate) packet: u64,
    /// Where it comes from, and where what is said of it goes.
    pub(crate) from: Option<ReplyAddress>,
    /// Which of the packets from there it is, from one on; zero where that is not said.
    pub(crate) sent: u64,
    pub(crate) payload: Bytes,
    /// What was published there was heard by nobody.
    pub(crate) unheard: bool,
}

/// What comes on one subject.
pub(crate) trait Inlet: Send {
    /// The next of it; none at the end.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Option<Delivery>> + Send + '_>>;

    /// Ends it, behind what has come already.
    fn end(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Ends it behind so many more at least, so that those on their way are not lost.
    fn end_behind(&mut self, more: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let _ = more;
        self.end()
    }
}

/// The system that carries what brokers say to each other: at most once, and in order from one
/// publisher on one subject.
pub(crate) trait Bus: Send + Sync + fmt::Debug {
    /// Publishes without waiting; gives back what there is no room for now.
    fn try_publish(&self, publication: Publication) -> std::result::Result<(), Publication>;

    /// Publishes once there is room.
    fn publish(&self, publication: Publication) -> Task<()>;

    /// Listens on a subject. With `in_group`, each message goes to one member of the queue group.
    fn subscribe(&self, subject: String, in_group: bool) -> Task<Result<Box<dyn Inlet>>>;

    /// Bytes of one message.
    fn max_payload(&self) -> usize;

    /// True while there is a connection.
    fn is_connected(&self) -> bool;

    /// How many connections there have been, this one included.
    fn connections(&self) -> u64;

    /// Resolves when all that was published is on its way.
    fn flush(&self) -> Task<()>;

    /// Nobody needs it any more.
    fn close(&self);
}

/// The subjects of a cluster. What clients chose never reaches one as it is.
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

    /// Where what is for an id goes.
    pub(crate) fn to(&self, id: &str) -> String {
        let prefix = &self.prefix;
        match id.len() {
            0..=READABLE => format!("{prefix}.to.i{}", BASE64URL_NOPAD.encode(id.as_bytes())),
            _ => {
                let hash = digest(&SHA256, id.as_bytes());
                format!("{prefix}.to.h{}", BASE64URL_NOPAD.encode(hash.as_ref()))
            }
        }
    }

    /// Where what is for a place goes.
    pub(crate) fn place(&self, place: ReplyAddress) -> String {
        format!("{}.node.{}.{:x}", self.prefix, place.node, place.number)
    }

    /// Where all that is for a node comes.
    pub(crate) fn node(&self, node: NodeId) -> String {
        format!("{}.node.{node}.>", self.prefix)
    }

    /// What all nodes hear.
    pub(crate) fn all(&self) -> String {
        format!("{}.all", self.prefix)
    }
}

/// The place that a subject names, and which of the packets from there, or zero.
pub(crate) fn place_of(subject: &str) -> Option<(ReplyAddress, u64)> {
    let hex = |part: &str| u64::from_str_radix(part, 16).ok();
    // Before these: our prefix, the namespace, and what kind of subject it is.
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
    fn no_id_reaches_a_subject_as_it_is_and_no_two_share_one() {
        let subjects = Subjects::new("test");
        let long = "x".repeat(READABLE + 1);
        let hashed = subjects.to(&long);
        let ids = [
            "a", "b", "a.b", "*", ">", " ", "\r\n", "\0", "", "é", "😀", "to", &long, &hashed,
        ];
        let mut seen = std::collections::HashSet::new();
        for id in ids {
            let subject = subjects.to(id);
            let key = subject.strip_prefix("wsmb.test.to.").expect("its prefix");
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            assert!(!key.is_empty() && key.chars().all(is_plain), "{subject}");
            assert!(key.len() < 140);
            assert!(seen.insert(subject));
        }
    }

    #[test]
    fn a_place_is_found_in_its_subject() {
        let place = ReplyAddress {
            node: NodeId(u64::MAX - 5),
            number: 0x1f,
        };
        let subject = Subjects::new("a").place(place);
        assert_eq!(place_of(&subject), Some((place, 0)));
        assert_eq!(place_of(&format!("{subject}.2a")), Some((place, 42)));
        for wrong in ["", "a", "a.b", "wsmb.a.node.zz.1", "wsmb.a.node.1.*"] {
            assert_eq!(place_of(wrong), None, "{wrong}");
        }
    }
}

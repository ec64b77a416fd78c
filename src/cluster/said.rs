//! What brokers of a cluster say to all others, and the answers to it: JSON.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{
    bus::NodeId,
    claims::{Claim, Stamp},
};

/// Something said to all brokers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub(super) enum Said<'a> {
    /// I am here. Another epoch: what was under way to me before may be lost.
    Beat {
        node: String,
        name: String,
        epoch: u32,
    },
    /// These ids are mine.
    Claims {
        node: String,
        #[serde(borrow)]
        claims: Vec<Claimed<'a>>,
    },
    /// I am leaving.
    Bye { node: String },
    /// Which ids have you?
    Ids { node: String, number: u64 },
    /// Have you this id?
    Has {
        node: String,
        number: u64,
        id: String,
    },
}

/// An id, when it was claimed, and by whom.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Claimed<'a>(
    #[serde(borrow)] Cow<'a, str>,
    u64,
    #[serde(borrow)] Option<Cow<'a, str>>,
);

impl<'a> Claimed<'a> {
    pub(super) fn new(claim: &'a Claim) -> Self {
        let principal = claim.principal.as_deref().map(Into::into);
        Self((&*claim.id).into(), claim.stamp.time, principal)
    }

    pub(super) fn claim(&self, node: NodeId) -> Claim {
        let stamp = Stamp { time: self.1, node };
        Claim {
            id: (&*self.0).into(),
            stamp,
            principal: self.2.as_deref().map(Into::into),
        }
    }
}

/// An answer to one who asked for ids, or for one of them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Have<'a> {
    pub(super) node: String,
    pub(super) name: String,
    #[serde(borrow)]
    pub(super) ids: Vec<Cow<'a, str>>,
    /// How many parts of the answer came before this one.
    pub(super) part: usize,
    /// True if nothing follows.
    pub(super) done: bool,
}

impl Said<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        // It has no maps, and no texts that are not Unicode: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Have<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

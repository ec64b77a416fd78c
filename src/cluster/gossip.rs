//! What brokers of a cluster say to all others, and the answers to it: JSON.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{
    bus::NodeId,
    claims::{Claim, Owner, Stamp},
};

/// Something said to all brokers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub(super) enum Gossip<'a> {
    /// I am here. Another epoch: what was under way to me before may be lost.
    Beat {
        node: String,
        name: String,
        epoch: u32,
        /// How many times this broker has published claims.
        #[serde(default)]
        published: u64,
        /// It sends its clients away.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        drains: bool,
    },
    /// These ids are mine.
    Claims {
        node: String,
        #[serde(borrow)]
        claims: Vec<Claimed<'a>>,
        /// Which publication of claims of this broker it is, from one on; zero: it is not numbered.
        #[serde(default)]
        number: u64,
    },
    /// `node` asks the broker `of` for all claims that it published after this number.
    Missed {
        node: String,
        of: String,
        after: u64,
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

/// An id, when it was claimed, and the principal, if there is one; 1 behind that for a participant.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Claimed<'a>(
    #[serde(borrow)] Cow<'a, str>,
    u64,
    #[serde(borrow)] Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_zero")] u8,
);

fn is_zero(number: &u8) -> bool {
    *number == 0
}

impl<'a> Claimed<'a> {
    pub(super) fn new(claim: &'a Claim) -> Self {
        let principal = claim.owner.principal().map(Into::into);
        let participant = u8::from(claim.owner.is_participant());
        Self(
            (&*claim.id).into(),
            claim.stamp.time,
            principal,
            participant,
        )
    }

    pub(super) fn claim(&self, node: NodeId) -> Claim {
        let stamp = Stamp { time: self.1, node };
        Claim {
            id: (&*self.0).into(),
            stamp,
            owner: match self.3 {
                0 => Owner::peer(self.2.as_deref().map(Into::into)),
                _ => Owner::Participant(node),
            },
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

/// Claims sent again to a broker that asked for them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Repair<'a> {
    pub(super) node: String,
    #[serde(borrow)]
    pub(super) claims: Vec<Claimed<'a>>,
    /// How many parts of the answer came before this one.
    pub(super) part: u32,
    /// In the last part: all claims up to this publication were received with it.
    pub(super) all: Option<u64>,
}

/// Items in one message about many, and bytes of it, about.
const ITEMS: usize = 500;
const BYTES: usize = 64 << 10;

/// Parts the first items that fit into one message from the rest; `bytes`: of one. All that fit, and one
/// at least.
pub(super) fn part<T>(items: &[T], bytes: impl Fn(&T) -> usize) -> (&[T], &[T]) {
    let mut sum = 0;
    let fits = items.iter().take(ITEMS).take_while(|item| {
        let before = sum;
        sum += bytes(item);
        before < BYTES
    });
    items.split_at(fits.count())
}

/// Parts the first claims that fit into one message from the rest.
pub(super) fn part_of_claims(claims: &[Claim]) -> (&[Claim], &[Claim]) {
    part(claims, |claim| {
        claim.id.len() + claim.owner.principal().map_or(0, str::len)
    })
}

impl Gossip<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        // It has no maps, and no texts that are not Unicode: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Repair<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Have<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_as_it_was_written_and_no_principal_is_a_participant() {
        let node = NodeId(7);
        let owners = [
            Owner::Anyone,
            Owner::Participant(node),
            Owner::Principal("".into()),
            Owner::Principal("null".into()),
            Owner::Principal("\0".into()),
            Owner::Principal("\u{0}0000000000000007".into()),
        ];
        for owner in owners {
            let stamp = Stamp { time: 5, node };
            let id = "\0\"é".into();
            let claim = Claim { id, stamp, owner };
            let said = serde_json::to_vec(&Claimed::new(&claim)).expect("JSON");
            let read: Claimed<'_> = serde_json::from_slice(&said).expect("a claim");
            assert_eq!(read.claim(node), claim);
        }
        let former: Claimed<'_> = serde_json::from_str(r#"["a",5,null]"#).expect("a claim");
        assert_eq!(former.claim(node).owner, Owner::Anyone);
    }

    #[test]
    fn many_go_in_parts_and_nothing_is_left_out() {
        for (count, bytes, parts) in [
            (0, 1, 0),
            (1, 1 << 20, 1),
            (ITEMS, 1, 1),
            (ITEMS + 1, 1, 2),
            (10, BYTES / 2, 5),
            (10, BYTES, 10),
        ] {
            let items: Vec<usize> = (0..count).collect();
            let (mut rest, mut found) = (&items[..], Vec::new());
            let mut seen = 0;
            while !rest.is_empty() {
                let (now, later) = part(rest, |_| bytes);
                assert!(!now.is_empty());
                found.extend_from_slice(now);
                (rest, seen) = (later, seen + 1);
            }
            assert_eq!((found, seen), (items, parts), "{count} of {bytes}");
        }
    }
}

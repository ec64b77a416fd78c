//! The JSON format of broadcasts between brokers, and of the answers to them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{
    bus::NodeId,
    claims::{Claim, Owner, Stamp},
};

/// A broadcast.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub(super) enum Gossip<'a> {
    /// Heartbeat. A new epoch means that earlier packets to this node may be lost.
    #[serde(rename = "beat")]
    Heartbeat {
        node: String,
        name: String,
        epoch: u32,
        /// Number of publications of claims by this broker so far.
        #[serde(default)]
        published: u64,
        /// The broker drains.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        drains: bool,
    },
    /// Claims of ids.
    Claims {
        node: String,
        #[serde(borrow)]
        claims: Vec<Claimed<'a>>,
        /// See [`first_times`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        first: Vec<u64>,
        /// The number of this publication of claims, from one; zero if it is not numbered (earlier versions).
        #[serde(default)]
        number: u64,
    },
    /// Asks the broker `of` to send its claims published after this number to `node`.
    Missed {
        node: String,
        of: String,
        after: u64,
    },
    /// The broker leaves the cluster.
    Bye { node: String },
    /// Search for all ids of each broker.
    Ids { node: String, number: u64 },
    /// Search for one id.
    Has {
        node: String,
        number: u64,
        id: String,
    },
}

/// A claim: id, time, principal if any, and 1 for a participant.
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

    fn claim(&self, node: NodeId, first: Option<&u64>) -> Claim {
        let stamp = Stamp { time: self.1, node };
        let owner = match self.3 {
            0 => Owner::peer(self.2.as_deref().map(Into::into)),
            _ => Owner::Participant(node),
        };
        let claim = Claim::new((&*self.0).into(), stamp, owner);
        match first {
            Some(0) => claim,
            first => Claim {
                first: first.copied().unwrap_or(stamp.time),
                is_confirmed: true,
                ..claim
            },
        }
    }
}

/// For each of these claims the time of the first one, or zero if it is not confirmed. Empty if all are confirmed
/// and are the first ones themselves.
pub(super) fn first_times(claims: &[Claim]) -> Vec<u64> {
    let is_first = |claim: &Claim| claim.is_confirmed && claim.first == claim.stamp.time;
    if claims.iter().all(is_first) {
        return Vec::new();
    }
    let first = |claim: &Claim| if claim.is_confirmed { claim.first } else { 0 };
    claims.iter().map(first).collect()
}

/// The claims of a broadcast or a repair of this node.
pub(super) fn decode_claims(
    claims: &[Claimed<'_>],
    first: &[u64],
    node: NodeId,
) -> impl Iterator<Item = Claim> {
    let claims = claims.iter().enumerate();
    claims.map(move |(number, claimed)| claimed.claim(node, first.get(number)))
}

/// A part of an answer to a search.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Have<'a> {
    pub(super) node: String,
    pub(super) name: String,
    #[serde(borrow)]
    pub(super) ids: Vec<Cow<'a, str>>,
    /// Number of parts before this one.
    pub(super) part: usize,
    /// True for the last part.
    pub(super) done: bool,
}

/// A part of an answer to [`Gossip::Missed`]: claims that are sent again.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Repair<'a> {
    pub(super) node: String,
    #[serde(borrow)]
    pub(super) claims: Vec<Claimed<'a>>,
    /// See [`first_times`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) first: Vec<u64>,
    /// Number of parts before this one.
    pub(super) part: u32,
    /// In the last part: the number of the publication up to which the answer has all claims.
    pub(super) all: Option<u64>,
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

impl Gossip<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        // Cannot fail: only numbers, lists and Unicode strings.
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
    fn claims_are_decoded_as_encoded_and_no_principal_is_a_participant() {
        let node = NodeId(7);
        let owners = [
            Owner::Anyone,
            Owner::Participant(node),
            Owner::Principal("".into()),
            Owner::Principal("null".into()),
            Owner::Principal("\0".into()),
            Owner::Principal("\u{0}0000000000000007".into()),
        ];
        let stamp = Stamp { time: 5, node };
        let mut claims = Vec::new();
        for owner in owners {
            let claim = Claim::new("\0\"é".into(), stamp, owner);
            claims.push(claim.clone());
            for first in [5, 4] {
                claims.push(Claim {
                    first,
                    is_confirmed: true,
                    ..claim.clone()
                });
            }
        }
        let claimed: Vec<_> = claims.iter().map(Claimed::new).collect();
        let encoded = serde_json::to_vec(&claimed).expect("JSON");
        let read: Vec<Claimed<'_>> = serde_json::from_slice(&encoded).expect("claims");
        let first = first_times(&claims);
        assert!(decode_claims(&read, &first, node).eq(claims));
        // Earlier versions send neither a participant nor first times.
        let former: Claimed<'_> = serde_json::from_str(r#"["a",5,null]"#).expect("a claim");
        let former: Vec<_> = decode_claims(&[former], &[], node).collect();
        assert!(former[0].is_confirmed && former[0].first == 5);
        assert_eq!(former[0].owner, Owner::Anyone);
        assert!(first_times(&former).is_empty());
    }

    #[test]
    fn a_heartbeat_has_its_name_and_members_on_the_wire() {
        let heartbeat = Gossip::Heartbeat {
            node: "0000000000000007".into(),
            name: "a".into(),
            epoch: 2,
            published: 3,
            drains: false,
        };
        let expected =
            r#"{"is":"beat","node":"0000000000000007","name":"a","epoch":2,"published":3}"#;
        assert_eq!(heartbeat.encode(), expected.as_bytes());
    }

    #[test]
    fn long_lists_are_split_into_parts_without_loss() {
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

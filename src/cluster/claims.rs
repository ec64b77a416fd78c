//! The claims of this broker to ids, and the resolution of conflicts with claims of other brokers.
//!
//! A claim has the time of a hybrid logical clock and a node. Between claims of the same principal the last
//! writer wins, at every broker. Between different principals the first one keeps the id: a renewal keeps the time
//! of the first claim. A participant wins over any peer. The clock never falls behind the time of a claim that the
//! broker has received.
//!
//! A claim is confirmed once its broker has received its own broadcast, and then its client is registered. The time
//! of a claim is taken before its broadcast, so a claim of another principal may still arrive with an earlier time:
//! it is not confirmed, and loses. A claim that is not confirmed also loses to one of another principal that
//! arrives first. One NATS server delivers both broadcasts to both brokers in the same order, so that at most one of
//! them is confirmed before the other arrives. A claim that arrives while the owner of an id is asked for is noticed
//! by a watch, and the question is repeated.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Cluster, bus::NodeId};
use crate::broker::lease::{Lease, LeaseState, Release};

/// The time and the node of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stamp {
    /// Time of the hybrid logical clock: microseconds since 1970, or slightly later.
    pub(crate) time: u64,
    pub(crate) node: NodeId,
}

/// A hybrid logical clock: orders claims of brokers that have received each other's claims.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    /// A time later than all times known.
    pub(super) fn next(&self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.map_or(0, |since| since.as_micros() as u64);
        // Wraps after the time of a damaged claim, so that the wall clock counts again.
        let next = |last: u64| wall.max(last.wrapping_add(1));
        let last = self
            .0
            .fetch_update(Relaxed, Relaxed, |last| Some(next(last)));
        last.map_or(wall, next)
    }

    /// Advances the clock to a time received from another broker.
    pub(super) fn observe(&self, time: u64) {
        self.0.fetch_max(time, Relaxed);
    }
}

/// The owner that an id is claimed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A peer at a server without authentication.
    Anyone,
    Principal(Arc<str>),
    /// The participant of a broker. It wins over any peer.
    Participant(NodeId),
}

impl Owner {
    /// The owner for a peer with this principal, or without one.
    pub(crate) fn peer(principal: Option<Arc<str>>) -> Self {
        principal.map_or(Self::Anyone, Self::Principal)
    }

    /// The principal of a peer, if it has one.
    pub(super) fn principal(&self) -> Option<&str> {
        match self {
            Self::Principal(principal) => Some(principal),
            Self::Anyone | Self::Participant(_) => None,
        }
    }

    pub(super) fn is_participant(&self) -> bool {
        matches!(self, Self::Participant(_))
    }

    /// True for a peer with this principal, or for one without if there is none.
    pub(super) fn is_peer(&self, principal: Option<&str>) -> bool {
        !self.is_participant() && self.principal() == principal
    }
}

/// A claim as it is broadcast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) id: Arc<str>,
    pub(crate) stamp: Stamp,
    pub(crate) owner: Owner,
    /// Time of the first claim of this owner that has been held at this node since.
    pub(crate) first: u64,
    /// The broker has received the broadcast of this claim, or of an earlier one of the same owner.
    pub(crate) is_confirmed: bool,
}

impl Claim {
    /// Creates a claim that is not confirmed.
    pub(crate) fn new(id: Arc<str>, stamp: Stamp, owner: Owner) -> Self {
        Self {
            id,
            stamp,
            owner,
            first: stamp.time,
            is_confirmed: false,
        }
    }

    /// True if this claim wins over the other one.
    fn wins(&self, other: &Self) -> bool {
        match (self.owner.is_participant(), other.owner.is_participant()) {
            (true, false) => true,
            (false, true) => false,
            _ if self.owner == other.owner => self.stamp > other.stamp,
            _ if self.is_confirmed != other.is_confirmed => self.is_confirmed,
            _ => (self.first, self.stamp.node) < (other.first, other.stamp.node),
        }
    }

    /// True for two claims of different principals of which neither is confirmed.
    fn is_undecided(&self, other: &Self) -> bool {
        let is_open = |claim: &Self| !claim.owner.is_participant() && !claim.is_confirmed;
        self.owner != other.owner && is_open(self) && is_open(other)
    }
}

/// A claim of this broker with its leases.
#[derive(Debug)]
struct Own {
    claim: Claim,
    /// The claim times of all leases held for the id: of the registered connection, and of those about to
    /// register.
    leases: Vec<u64>,
    /// Ends the subscription to the id when dropped; none while there is no subscription.
    listener: Option<oneshot::Sender<()>>,
    /// The number of the publication that broadcast the claim; zero while none has.
    published: u64,
}

impl Own {
    /// Starts a listener: returns the receiver that resolves when it must stop, or none if the id has a
    /// listener.
    fn start_listener(&mut self) -> Option<oneshot::Receiver<()>> {
        if self.listener.as_ref().is_some_and(|stop| !stop.is_closed()) {
            return None;
        }
        let (stop, stopped) = oneshot::channel();
        self.listener = Some(stop);
        Some(stopped)
    }
}

/// The result of applying another broker's claim.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClaimVerdict {
    /// This broker has no claim to the id.
    None,
    /// The other claim wins. `conflict`: it is of another principal.
    Lost { conflict: bool },
    /// This broker's claim wins, and must be broadcast again.
    Kept(Claim),
}

/// Another owner has the id at this broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AlreadyClaimed;

/// All claims of this broker.
#[derive(Debug, Default)]
pub(super) struct Claims {
    own: Mutex<HashMap<Arc<str>, Own, RandomState>>,
    /// The claim times of leases lost to another principal, while they are still held.
    refused: Mutex<HashSet<u64, RandomState>>,
    /// For each id that is about to be claimed here the number of watches, and of claims of other brokers since the
    /// first of them.
    watched: Mutex<HashMap<Arc<str>, (usize, u64), RandomState>>,
}

/// Watches for claims of other brokers to an id that is about to be claimed here.
pub(super) struct ClaimWatch<'a> {
    claims: &'a Claims,
    id: Arc<str>,
    seen: u64,
}

impl ClaimWatch<'_> {
    /// True if a claim of another broker has arrived since the start or the last call.
    pub(super) fn has_changed(&mut self) -> bool {
        let seen = (self.claims.watched.lock())
            .get(&self.id)
            .map_or(0, |(_, arrived)| *arrived);
        std::mem::replace(&mut self.seen, seen) != seen
    }
}

impl Drop for ClaimWatch<'_> {
    fn drop(&mut self) {
        let mut watched = self.claims.watched.lock();
        if let Some((watches, _)) = watched.get_mut(&self.id) {
            *watches -= 1;
            if *watches == 0 {
                watched.remove(&self.id);
            }
        }
    }
}

impl Release for Cluster {
    fn release(&self, id: &str, time: u64) {
        self.claims.release(id, time);
        self.unconfirmed_claims.lock().remove(&time);
    }
}

impl Claims {
    /// Claims an id. If `listens`, returns the receiver that ends its new listener; none if it has one already.
    ///
    /// Errors: another owner has the id here.
    pub(super) fn claim(
        &self,
        claim: Claim,
        listens: bool,
    ) -> Result<Option<oneshot::Receiver<()>>, AlreadyClaimed> {
        let mut own = self.own.lock();
        let time = claim.stamp.time;
        let entry = own.entry(claim.id.clone()).or_insert_with(|| Own {
            claim: claim.clone(),
            leases: Vec::new(),
            listener: None,
            published: 0,
        });
        if entry.claim.owner != claim.owner && !claim.owner.is_participant() {
            return Err(AlreadyClaimed);
        }
        entry.leases.push(time);
        if claim.stamp > entry.claim.stamp {
            let is_renewal = claim.owner == entry.claim.owner;
            let former = std::mem::replace(&mut entry.claim, claim);
            entry.published = 0;
            if is_renewal {
                entry.claim.first = former.first;
                entry.claim.is_confirmed = former.is_confirmed;
            }
        }
        Ok(if listens {
            entry.start_listener()
        } else {
            None
        })
    }

    /// Starts to watch for claims of other brokers to an id.
    pub(super) fn watch(&self, id: &Arc<str>) -> ClaimWatch<'_> {
        let mut watched = self.watched.lock();
        let (watches, seen) = watched.entry(id.clone()).or_default();
        *watches += 1;
        ClaimWatch {
            claims: self,
            id: id.clone(),
            seen: *seen,
        }
    }

    fn release(&self, id: &str, time: u64) {
        self.refused.lock().remove(&time);
        let mut own = self.own.lock();
        if let Some(entry) = own.get_mut(id) {
            entry.leases.retain(|other| *other != time);
            if entry.leases.is_empty() {
                own.remove(id);
            }
        }
    }

    /// True if a lease with this time is held for the id.
    pub(super) fn holds(&self, id: &str, time: u64) -> bool {
        let own = self.own.lock();
        own.get(id)
            .is_some_and(|entry| entry.leases.contains(&time))
    }

    /// The state of a lease.
    pub(super) fn lease_state(&self, lease: &Lease) -> LeaseState {
        match self.holds(&lease.id, lease.time) {
            true => LeaseState::Held,
            false => LeaseState::Lost {
                conflict: self.refused.lock().contains(&lease.time),
            },
        }
    }

    /// Applies another broker's claim: last writer wins. A claim that loses is removed here.
    pub(super) fn apply(&self, other: &Claim) -> ClaimVerdict {
        // Before the lock below: a claim that is made after it knows.
        if let Some((_, arrived)) = self.watched.lock().get_mut(&other.id) {
            *arrived += 1;
        }
        let mut own = self.own.lock();
        let Some(entry) = own.get(&other.id) else {
            return ClaimVerdict::None;
        };
        if !other.wins(&entry.claim) && !other.is_undecided(&entry.claim) {
            return ClaimVerdict::Kept(entry.claim.clone());
        }
        let conflict = other.owner != entry.claim.owner;
        if let (Some(lost), true) = (own.remove(&other.id), conflict) {
            self.refused.lock().extend(lost.leases);
        }
        ClaimVerdict::Lost { conflict }
    }

    /// The owner that an id is claimed for here, if any.
    pub(super) fn owner(&self, id: &str) -> Option<Owner> {
        let own = self.own.lock();
        own.get(id).map(|entry| entry.claim.owner.clone())
    }

    /// Confirms the claim to an id if a lease with this time is held for it.
    pub(super) fn confirm(&self, id: &str, time: u64) {
        let mut own = self.own.lock();
        if let Some(entry) = own.get_mut(id)
            && entry.leases.contains(&time)
        {
            entry.claim.is_confirmed = true;
        }
    }

    /// Sets the number of the publication that is about to broadcast these claims. Returns them in their present
    /// state.
    pub(super) fn mark_published(&self, claims: &[Claim], number: u64) -> Vec<Claim> {
        let mut own = self.own.lock();
        let update = |claim: &Claim| match own.get_mut(&claim.id) {
            Some(entry) if entry.claim.stamp == claim.stamp => {
                entry.published = number;
                entry.claim.clone()
            }
            _ => claim.clone(),
        };
        claims.iter().map(update).collect()
    }

    /// Claims that were never published.
    pub(super) fn unpublished(&self) -> Vec<Claim> {
        self.select(|number| number == 0)
    }

    /// Claims last published after this number, or never.
    pub(super) fn published_after(&self, after: u64) -> Vec<Claim> {
        self.select(|number| number == 0 || number > after)
    }

    /// Claims whose publication number matches.
    fn select(&self, is_selected: impl Fn(u64) -> bool) -> Vec<Claim> {
        let own = self.own.lock();
        let selected = own.values().filter(|entry| is_selected(entry.published));
        selected.map(|entry| entry.claim.clone()).collect()
    }

    /// Starts listeners for the ids without one: returns for each the receiver that ends it.
    pub(super) fn unsubscribed(&self) -> Vec<(Arc<str>, oneshot::Receiver<()>)> {
        let mut own = self.own.lock();
        own.iter_mut()
            .filter_map(|(id, entry)| Some((id.clone(), entry.start_listener()?)))
            .collect()
    }

    /// Starts a listener for an id; none if it has one, or is not claimed here.
    pub(super) fn start_listener(&self, id: &str) -> Option<oneshot::Receiver<()>> {
        self.own.lock().get_mut(id)?.start_listener()
    }

    /// Number of claims.
    pub(super) fn count(&self) -> usize {
        self.own.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(time: u64, node: u64, principal: Option<&str>) -> Claim {
        claim_of(time, node, Owner::peer(principal.map(Into::into)))
    }

    fn claim_of(time: u64, node: u64, owner: Owner) -> Claim {
        let node = NodeId(node);
        Claim {
            is_confirmed: true,
            ..Claim::new("a".into(), Stamp { time, node }, owner)
        }
    }

    fn unconfirmed(time: u64, node: u64, principal: &str) -> Claim {
        Claim {
            is_confirmed: false,
            ..claim(time, node, Some(principal))
        }
    }

    fn participants(time: u64, node: u64) -> Claim {
        claim_of(time, node, Owner::Participant(NodeId(node)))
    }

    #[test]
    fn of_two_claims_exactly_one_wins_at_every_broker() {
        let mut all = Vec::new();
        for time in 1..4 {
            for node in 1..4 {
                for principal in [None, Some("x"), Some("y"), Some("\0n")] {
                    all.push(claim(time, node, principal));
                }
                all.push(unconfirmed(time, node, "x"));
                all.push(unconfirmed(time, node, "y"));
                all.push(participants(time, node));
            }
        }
        for one in &all {
            for other in &all {
                if one.stamp != other.stamp {
                    assert_ne!(one.wins(other), other.wins(one), "{one:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn for_one_principal_the_last_claim_wins() {
        let claims = Claims::default();
        assert_eq!(claims.apply(&claim(9, 2, None)), ClaimVerdict::None);
        let mut listens = claims.claim(claim(5, 1, None), true).unwrap().unwrap();
        assert!(claims.claim(claim(6, 1, None), true).unwrap().is_none());
        assert_eq!(
            claims.claim(claim(7, 1, Some("x")), true).err(),
            Some(AlreadyClaimed)
        );
        let renewed = || Claim {
            first: 5,
            ..claim(6, 1, None)
        };
        let kept = || ClaimVerdict::Kept(renewed());
        assert_eq!(claims.apply(&claim(5, 9, None)), kept());
        assert_eq!(claims.apply(&claim(6, 0, None)), kept());
        assert!(listens.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        let lost = ClaimVerdict::Lost { conflict: false };
        assert_eq!(claims.apply(&claim(6, 2, None)), lost);
        assert!(listens.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(claims.count(), 0);
    }

    #[test]
    fn of_two_principals_the_first_keeps_the_id() {
        let claims = Claims::default();
        claims.claim(claim(5, 1, Some("x")), true).unwrap();
        let kept = ClaimVerdict::Kept(claim(5, 1, Some("x")));
        assert_eq!(claims.apply(&claim(7, 2, Some("y"))), kept);
        let lost = ClaimVerdict::Lost { conflict: true };
        assert_eq!(claims.apply(&claim(4, 2, Some("y"))), lost);
    }

    #[test]
    fn a_renewal_keeps_the_time_of_the_first_claim() {
        let claims = Claims::default();
        claims.claim(claim(5, 1, Some("x")), true).unwrap();
        claims.claim(claim(9, 1, Some("x")), true).unwrap();
        claims.release("a", 5);
        let kept = ClaimVerdict::Kept(Claim {
            first: 5,
            ..claim(9, 1, Some("x"))
        });
        assert_eq!(claims.apply(&claim(7, 2, Some("y"))), kept);
        // A claim of the same principal at another broker is the last one all the same.
        let lost = ClaimVerdict::Lost { conflict: false };
        assert_eq!(claims.apply(&claim(10, 2, Some("x"))), lost);
    }

    #[test]
    fn a_confirmed_claim_is_not_lost_to_one_that_arrives_later() {
        let claims = Claims::default();
        let own = || unconfirmed(5, 1, "x");
        let claim_own = || claims.claim(own(), true).map(drop);
        claim_own().unwrap();
        claims.confirm("a", 4);
        assert_eq!(claims.unpublished(), [own()]);
        claims.confirm("a", 5);
        let kept = || ClaimVerdict::Kept(claim(5, 1, Some("x")));
        assert_eq!(claims.apply(&unconfirmed(4, 2, "y")), kept());
        assert_eq!(claims.apply(&unconfirmed(6, 2, "y")), kept());
        // As after a partition.
        let lost = || ClaimVerdict::Lost { conflict: true };
        assert_eq!(claims.apply(&claim(4, 2, Some("y"))), lost());
        // One that is not confirmed is lost to any that arrives first.
        for other in [
            unconfirmed(4, 2, "y"),
            unconfirmed(6, 2, "y"),
            claim(6, 2, Some("y")),
        ] {
            claim_own().unwrap();
            assert_eq!(claims.apply(&other), lost());
        }
        // Of the same principal the last one wins.
        claim_own().unwrap();
        let kept = ClaimVerdict::Kept(own());
        assert_eq!(claims.apply(&unconfirmed(4, 2, "x")), kept);
        let lost = ClaimVerdict::Lost { conflict: false };
        assert_eq!(claims.apply(&unconfirmed(6, 2, "x")), lost);
    }

    #[test]
    fn claims_of_other_brokers_are_noticed_before_an_id_is_claimed() {
        let claims = Claims::default();
        let mut first = claims.watch(&"a".into());
        assert!(!first.has_changed());
        claims.apply(&unconfirmed(4, 2, "y"));
        let mut second = claims.watch(&"a".into());
        assert_eq!((first.has_changed(), first.has_changed()), (true, false));
        assert!(!second.has_changed());
        drop(first);
        claims.apply(&unconfirmed(4, 2, "y"));
        assert!(second.has_changed());
        drop(second);
        assert!(claims.watched.lock().is_empty());
    }

    #[test]
    fn a_lost_lease_knows_whether_there_was_a_conflict() {
        let claims = Claims::default();
        let lease = |time| Lease {
            id: "a".into(),
            time,
            holder: std::sync::Weak::<Cluster>::new(),
        };
        claims.claim(claim(5, 1, Some("x")), true).unwrap();
        assert_eq!(claims.lease_state(&lease(5)), LeaseState::Held);
        claims.apply(&claim(4, 2, Some("y")));
        let lost = |conflict| LeaseState::Lost { conflict };
        assert_eq!(claims.lease_state(&lease(5)), lost(true));
        claims.release("a", 5);
        assert_eq!(claims.lease_state(&lease(5)), lost(false));
        assert!(claims.refused.lock().is_empty());
    }

    #[test]
    fn a_participant_wins_over_any_peer() {
        let claims = Claims::default();
        claims.claim(participants(5, 1), true).unwrap();
        let kept = || ClaimVerdict::Kept(participants(5, 1));
        // Whatever the name of the principal.
        let names = [
            "",
            "\0",
            "\u{0}0000000000000001",
            "0000000000000001",
            "null",
        ];
        for name in names {
            assert_eq!(claims.apply(&claim(4, 2, Some(name))), kept());
            let taken = claims.claim(claim(4, 1, Some(name)), true);
            assert_eq!(taken.err(), Some(AlreadyClaimed));
            assert!(!participants(5, 1).owner.is_peer(Some(name)));
        }
        assert!(!participants(5, 1).owner.is_peer(None));
        assert_eq!(claims.apply(&claim(4, 2, None)), kept());
        assert_eq!(claims.apply(&claim(9, 2, None)), kept());
        let peers = Claims::default();
        peers.claim(claim(5, 1, None), true).unwrap();
        let lost = ClaimVerdict::Lost { conflict: true };
        assert_eq!(peers.apply(&participants(9, 2)), lost);
    }

    #[test]
    fn a_claim_is_held_until_its_last_lease_is_released() {
        let claims = Claims::default();
        claims.claim(claim(5, 1, None), true).unwrap();
        claims.claim(claim(6, 1, None), true).unwrap();
        claims.release("a", 5);
        assert_eq!(claims.count(), 1);
        claims.release("a", 5);
        claims.release("a", 6);
        assert_eq!(claims.count(), 0);
    }

    #[test]
    fn the_clock_never_falls_behind_an_observed_time() {
        let clock = Clock::default();
        let first = clock.next();
        clock.observe(first + 1_000_000_000);
        let next = clock.next();
        assert!(next > first + 1_000_000_000 && clock.next() > next);
    }
}

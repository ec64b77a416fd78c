//! Acquires the lease of an id among all brokers: asks the present owner, claims the id, and announces the claim.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{
    ANSWER_TIMEOUT, Cluster,
    bus::{Delivery, Publication},
    claims::{AlreadyClaimed, Claim, Owner, Stamp},
    message::Message,
};
use crate::{
    auth::Denied,
    broker::{
        lease::{Lease, LeaseState},
        peers::Task,
    },
};

/// Time that registrations at a new broker wait for its first connection to NATS, and the interval at which
/// they check for it.
const FIRST_CONNECTION: Duration = Duration::from_secs(1);
const FIRST_CONNECTION_POLL: Duration = Duration::from_millis(10);
/// Delay before a question without responders is repeated.
const RETRY_DELAY: Duration = Duration::from_millis(250);

impl Cluster {
    /// Claims an id for a principal in the whole cluster; a participant has no principal. Resolves once the
    /// other brokers send to this one. Without a connection the claim holds at this broker, and is broadcast
    /// later.
    ///
    /// Errors: `Conflict` if another principal has the id; `Unavailable` if that cannot be decided now.
    pub(crate) fn claim(
        self: &Arc<Self>,
        id: Arc<str>,
        principal: Option<Arc<str>>,
        participant: bool,
    ) -> Task<Result<Lease, Denied>> {
        let cluster = self.clone();
        Box::pin(async move {
            cluster.wait_first_connection().await;
            let owner = match participant {
                true => Owner::Participant(cluster.node),
                false => Owner::peer(principal),
            };
            let mut watch = cluster.claims.watch(&id);
            let is_asked = match cluster.claims.owner(&id) {
                _ if participant => false,
                Some(now) if now != owner => return Err(Denied::Conflict),
                None if owner.principal().is_some() => {
                    cluster.ask_owner(&id, owner.principal()).await?;
                    true
                }
                Some(_) | None => false,
            };
            let stamp = Stamp {
                time: cluster.clock.next(),
                node: cluster.node,
            };
            let claim = Claim::new(id.clone(), stamp, owner);
            cluster.handover.unmark_moved(&id);
            // From here on the claim is released when the lease is dropped.
            let holder = Arc::downgrade(&cluster);
            let lease = Lease {
                id: id.clone(),
                time: stamp.time,
                holder,
            };
            let was_up = cluster.is_up();
            let claimed = cluster.claims.claim(claim.clone(), was_up);
            // Another principal may have claimed the id here since the check above.
            let mut stopped = claimed.map_err(|AlreadyClaimed| Denied::Conflict)?;
            if is_asked && watch.has_changed() {
                // A claim has arrived of a broker that may not have been subscribed when it was asked.
                cluster.ask_owner(&id, claim.owner.principal()).await?;
            }
            drop(watch);
            if cluster.is_up() && !was_up {
                // The round over all ids at connect may have run before this claim.
                stopped = cluster.claims.start_listener(&id);
            }
            if was_up || cluster.is_up() {
                let _ = timeout(ANSWER_TIMEOUT, cluster.announce_claim(claim, stopped)).await;
            }
            cluster.unconfirmed_claims.lock().remove(&stamp.time);
            match cluster.claims.lease_state(&lease) {
                LeaseState::Lost { conflict: true } => Err(Denied::Conflict),
                _ => {
                    // Also without a broadcast: the client is registered now.
                    cluster.claims.confirm(&id, stamp.time);
                    Ok(lease)
                }
            }
        })
    }

    /// Resolves once there is or was a connection to NATS, or after a timeout, so that the first
    /// clients of a new broker do not find NATS unreachable.
    async fn wait_first_connection(&self) {
        if self.is_up() || self.epoch() > 0 {
            return;
        }
        let left = FIRST_CONNECTION.saturating_sub(self.connected_at.lock().elapsed());
        let connected = async {
            while !self.is_up() && self.epoch() == 0 {
                sleep(FIRST_CONNECTION_POLL).await;
            }
        };
        let _ = timeout(left, connected).await;
    }

    /// Asks the broker that owns an id whether this principal may have it.
    async fn ask_owner(&self, id: &str, principal: Option<&str>) -> Result<(), Denied> {
        loop {
            if !self.is_up() {
                return Ok(());
            }
            match timeout(ANSWER_TIMEOUT, self.ask_once(id, principal)).await {
                // The owner may not have subscribed yet.
                Ok(Some(answer)) if answer.no_responders && self.is_resubscribing() => {
                    sleep(RETRY_DELAY).await
                }
                // The id has no owner, or its owner gives it up.
                Ok(Some(answer)) if answer.no_responders || self.is_allowed(&answer.payload) => {
                    return Ok(());
                }
                Ok(Some(_)) => return Err(Denied::Conflict),
                Ok(None) | Err(_) if self.is_up() => return self.confirm_no_owner(id).await,
                Ok(None) | Err(_) => return Ok(()),
            }
        }
    }

    /// Asks all brokers for an owner of the id, after its subscriber did not answer. A broker keeps an id until
    /// its heartbeats time out; NATS may keep the subscription for minutes.
    ///
    /// Errors: `Unavailable` if a live broker may have the id.
    async fn confirm_no_owner(&self, id: &str) -> Result<(), Denied> {
        let found = self.find(Some(id), ANSWER_TIMEOUT).await;
        match found.ids.is_empty() && found.silent.is_empty() {
            true => Ok(()),
            false => Err(Denied::Unavailable),
        }
    }

    /// True for the answer of an owner that the principal may have the id.
    fn is_allowed(&self, answer: &[u8]) -> bool {
        let is_allowed = true;
        self.decode(answer) == Some(Message::OwnerAnswer { is_allowed })
    }

    async fn ask_once(&self, id: &str, principal: Option<&str>) -> Option<Delivery> {
        let mut question = self.open_question();
        let publication = Publication {
            subject: self.subjects.id(id),
            reply: Some(self.reply_subject(question.number)),
            payload: Message::OwnerQuestion { id, principal }.encode().into(),
        };
        self.bus.publish(publication).await;
        question.answers.recv().await
    }

    /// Subscribes to an id and broadcasts its claim, even if the caller stops waiting. Resolves once this
    /// broker has received its own broadcast, or the claim was lost before.
    async fn announce_claim(
        self: &Arc<Self>,
        claim: Claim,
        stopped: Option<oneshot::Receiver<()>>,
    ) {
        let (sender, confirmed) = oneshot::channel();
        self.unconfirmed_claims
            .lock()
            .insert(claim.stamp.time, sender);
        let cluster = self.clone();
        self.runtime.spawn(async move {
            if let Some(stopped) = stopped {
                cluster.spawn_listener(claim.id.clone(), stopped).await;
            }
            if cluster.claims.holds(&claim.id, claim.stamp.time) {
                cluster.queue_claims([claim]);
            } else {
                // A lost claim is not broadcast: the caller need not wait.
                cluster.unconfirmed_claims.lock().remove(&claim.stamp.time);
            }
        });
        let _ = confirmed.await;
    }
}

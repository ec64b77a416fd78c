//! Broadcasts to all brokers, and the handling of those of other brokers.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{
    Cluster,
    bus::{Publication, Subscription},
    claims::{Claim, ClaimVerdict},
    message::{self, Message},
    notify,
};
use crate::{
    auth::Denied,
    broker::{Broker, handle::Close, lease::LeaseState},
    protocol, topic,
};

/// Handles broadcasts until the subscription ends.
pub(super) async fn receive_broadcasts(
    cluster: Arc<Cluster>,
    mut subscription: Box<dyn Subscription>,
) {
    while let Some(delivery) = subscription.next().await {
        let Some(broker) = cluster.broker() else {
            return;
        };
        cluster.on_broadcast(&broker, &delivery.payload).await;
    }
}

impl Cluster {
    pub(super) async fn broadcast(&self, message: &Message<'_>) {
        let publication = Publication {
            subject: self.subjects.all(),
            reply: None,
            payload: message.encode().into(),
        };
        self.bus.publish(publication).await;
    }

    pub(super) async fn publish_heartbeat(&self) {
        self.broadcast(&Message::Heartbeat {
            node: self.node,
            name: &self.name,
            epoch: self.epoch(),
            published: self.published.load(Relaxed),
            drains: self
                .broker()
                .is_some_and(|broker| broker.drains_for().is_some()),
            interest: self.interest_number(),
        })
        .await;
    }

    /// Broadcasts claims. Only one task may call it, so that publications are in the order of their numbers.
    pub(super) async fn publish_claims(&self, claims: &[Claim]) {
        let mut rest = claims;
        while !rest.is_empty() {
            let (now, later) = message::part_of_claims(rest);
            let number = self.published.load(Relaxed) + 1;
            let now = self.claims.mark_published(now, number);
            self.broadcast(&Message::Claims {
                node: self.node,
                number,
                claims: now.into(),
            })
            .await;
            // A heartbeat with this number must follow the publication.
            self.published.store(number, Relaxed);
            rest = later;
        }
    }

    /// Queues claims for the next broadcast.
    pub(super) fn queue_claims(&self, claims: impl IntoIterator<Item = Claim>) {
        self.queued_claims.lock().extend(claims);
        self.claims_queued.notify_one();
    }

    /// Handles a broadcast.
    async fn on_broadcast(&self, broker: &Broker, payload: &[u8]) {
        match self.decode(payload) {
            Some(Message::Heartbeat {
                node,
                name,
                epoch,
                published,
                drains,
                interest,
            }) => match node == self.node {
                true => self.on_own_heartbeat(broker, epoch),
                false => {
                    if self.on_heartbeat(node, name, epoch) {
                        self.heartbeat_due.notify_one();
                    }
                    self.observe_published(node, published);
                    self.observe_interest(node, interest);
                    if drains {
                        self.handover.observe_drain();
                    }
                }
            },
            Some(Message::Bye { node }) if node != self.node => {
                self.streams.forget(node);
                self.forget_presence(node, false);
                self.remove_node(node);
            }
            Some(Message::Interest {
                node,
                number,
                is_all: false,
                added,
                dropped,
            }) if node != self.node => {
                self.on_interest(broker, (node, number), false, &added, &dropped);
            }
            Some(Message::Claims {
                node,
                number,
                claims,
            }) => match node == self.node {
                true => claims.iter().for_each(|claim| {
                    self.claims.confirm(&claim.id, claim.stamp.time);
                    self.unconfirmed_claims.lock().remove(&claim.stamp.time);
                    self.on_moved(broker, &claim.id, node);
                }),
                false => {
                    self.apply_claims(broker, &claims);
                    self.received_claims(node, number);
                }
            },
            Some(Message::Missed { node, of, after }) if node != self.node && of == self.node => {
                self.queue_repair(node, after);
            }
            Some(Message::Waiting {
                node,
                pattern,
                group,
            }) if node != self.node && topic::is_pattern(pattern) => {
                self.on_waiting(broker, node, pattern, group);
            }
            Some(Message::TopicQuestion {
                node,
                number,
                topic,
            }) if node != self.node && topic::is_topic(topic) => {
                self.answer_topic_question(broker, (node, number), topic)
                    .await;
            }
            Some(Message::Search { node, number, id }) => {
                let ids = match id {
                    None => broker.registry.ids(),
                    Some(id) => {
                        let owner = broker.registry.find(id);
                        owner.map(|_| id.into()).into_iter().collect()
                    }
                };
                self.answer_search(node, number, &ids).await;
            }
            _ => {}
        }
    }

    /// Applies claims of other brokers: ends registrations that lose, and broadcasts the claims again that win
    /// against them.
    pub(super) fn apply_claims(&self, broker: &Broker, claims: &[Claim]) {
        let mut kept = Vec::new();
        let drains = broker.drains_for().is_some();
        for claim in claims {
            self.clock.observe(claim.stamp.time);
            self.on_moved(broker, &claim.id, claim.stamp.node);
            if drains {
                self.handover.mark_moved(claim, &self.claims);
            }
            match self.claims.apply(claim) {
                ClaimVerdict::None => {}
                ClaimVerdict::Lost { conflict } => self.end_lost(broker, &claim.id, conflict),
                ClaimVerdict::Kept(own) => {
                    self.handover.unmark_moved(&own.id);
                    kept.push(own);
                }
            }
        }
        if !kept.is_empty() {
            self.queue_claims(kept);
        }
    }

    /// Ends the registration of an id that another broker has claimed, and sends its owner `replaced`.
    /// `conflict`: another principal has claimed it, and the owner is disconnected.
    pub(crate) fn end_lost(&self, broker: &Broker, id: &Arc<str>, conflict: bool) {
        let Some((owner, registration)) = broker.registry.find_registration(id) else {
            return;
        };
        let is_newer = (owner.lease.lock().as_ref())
            .is_some_and(|lease| self.claims.lease_state(lease) == LeaseState::Held);
        if is_newer {
            return;
        }
        let is_freed = broker.end_registration(id, registration, || {
            if owner.uses_version_2() {
                let from = protocol::json_string(id);
                // Flushed below, without the lock of the registry.
                let _ = owner.outbox.push(&protocol::version_2::replaced(&from));
            }
        });
        if !is_freed {
            return;
        }
        drop(owner.lease.lock().take());
        let mut notifications = Vec::new();
        let requests = &broker.registry.requests;
        requests.replaced(&owner, id, registration, &mut notifications);
        notify(broker, &mut notifications);
        owner.flush();
        if conflict {
            owner.request_close(Close::Denied(Denied::Conflict));
        }
    }
}

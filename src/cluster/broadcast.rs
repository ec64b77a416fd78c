//! Broadcasts to all brokers, and the handling of broadcasts and direct deliveries from them.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use bytes::Bytes;

use super::{
    Cluster,
    bus::{Delivery, NodeId, Publication},
    claims::{Claim, ClaimVerdict},
    credit::Counted,
    gossip::{self, Claimed, Gossip},
    notify,
    packet::{self, ConsumedReport, Credit, Packet},
    remotes::link_of,
    repair::REPAIRS,
    replies,
};
use crate::{
    auth::Denied,
    broker::{Broker, handle::Close, lease::LeaseState},
    protocol,
};

impl Cluster {
    pub(super) async fn broadcast(&self, gossip: &Gossip<'_>) {
        let publication = Publication {
            subject: self.subjects.all(),
            reply: None,
            payload: gossip.encode().into(),
        };
        self.bus.publish(publication).await;
    }

    pub(super) async fn publish_heartbeat(&self) {
        self.broadcast(&Gossip::Heartbeat {
            node: self.node.to_string(),
            name: self.name.clone(),
            epoch: self.epoch(),
            published: self.published.load(Relaxed),
            drains: self
                .broker()
                .is_some_and(|broker| broker.drains_for().is_some()),
        })
        .await;
    }

    /// Broadcasts claims. Only one task may call it, so that publications are in the order of their numbers.
    pub(super) async fn publish_claims(&self, claims: &[Claim]) {
        let mut rest = claims;
        while !rest.is_empty() {
            let (now, later) = gossip::part_of_claims(rest);
            let number = self.published.load(Relaxed) + 1;
            let now = self.claims.mark_published(now, number);
            self.broadcast(&Gossip::Claims {
                node: self.node.to_string(),
                claims: now.iter().map(Claimed::new).collect(),
                first: gossip::first_times(&now),
                number,
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
    pub(super) async fn on_broadcast(&self, broker: &Broker, payload: &Bytes) {
        let Ok(gossip) = serde_json::from_slice::<Gossip<'_>>(payload) else {
            return;
        };
        match gossip {
            Gossip::Heartbeat {
                node,
                name,
                epoch,
                published,
                drains,
            } => match self.parse_other(&node) {
                Some(node) => {
                    if self.on_heartbeat(node, name, epoch) {
                        self.heartbeat_due.notify_one();
                    }
                    self.observe_published(node, published);
                    if drains {
                        self.handover.observe_drain();
                    }
                }
                None => self.on_own_heartbeat(broker, epoch),
            },
            Gossip::Bye { node } => {
                if let Some(node) = self.parse_other(&node) {
                    self.streams.forget(node);
                    self.remove_node(node);
                }
            }
            Gossip::Claims {
                node,
                claims,
                first,
                number,
            } => {
                let Some(node) = NodeId::parse(&node) else {
                    return;
                };
                let claims = gossip::decode_claims(&claims, &first, node);
                match node == self.node {
                    true => claims.for_each(|claim| {
                        self.claims.confirm(&claim.id, claim.stamp.time);
                        self.unconfirmed_claims.lock().remove(&claim.stamp.time);
                        self.on_moved(broker, &claim.id, node);
                    }),
                    false => {
                        self.apply_claims(broker, claims);
                        self.received_claims(node, number);
                    }
                }
            }
            Gossip::Missed { node, of, after } => {
                if let (Some(node), true) = (
                    self.parse_other(&node),
                    NodeId::parse(&of) == Some(self.node),
                ) {
                    self.queue_repair(node, after);
                }
            }
            Gossip::Ids { node, number } => {
                let ids = broker.registry.ids();
                self.answer_search(&node, number, ids).await;
            }
            Gossip::Has { node, number, id } => {
                let found = broker.registry.find(&id).map(|_| id.into());
                self.answer_search(&node, number, found.into_iter().collect())
                    .await;
            }
        }
    }

    /// Parses a node id; none if it is this node.
    pub(super) fn parse_other(&self, node: &str) -> Option<NodeId> {
        NodeId::parse(node).filter(|node| *node != self.node)
    }

    /// Applies claims of other brokers: ends registrations that lose, and broadcasts the claims again that win
    /// against them.
    pub(super) fn apply_claims(&self, broker: &Broker, claims: impl Iterator<Item = Claim>) {
        let mut kept = Vec::new();
        let drains = broker.drains_for().is_some();
        for claim in claims {
            self.clock.observe(claim.stamp.time);
            self.on_moved(broker, &claim.id, claim.stamp.node);
            if drains {
                self.handover.mark_moved(&claim, &self.claims);
            }
            match self.claims.apply(&claim) {
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

    /// Handles a delivery for this node.
    pub(super) fn on_delivery(&self, broker: &Broker, delivery: Delivery) {
        let Delivery {
            number,
            packet,
            from,
            sent,
            payload,
            no_responders,
        } = delivery;
        if number == 0 {
            return match (Packet::decode(&payload), from) {
                (
                    Some(Packet::Credits {
                        node,
                        epoch,
                        credits,
                    }),
                    _,
                ) => self.on_credits(NodeId(node), epoch, credits),
                (
                    Some(Packet::Frames {
                        id: "",
                        epoch,
                        frames,
                    }),
                    Some(from),
                ) if self.observe_node(from.node, epoch) => {
                    replies::on_frames_for_broker(self, broker, frames);
                    self.credits.passed(Counted {
                        from,
                        packet: sent,
                        bytes: frames.len(),
                        is_eager: packet::is_eager(&payload),
                    });
                }
                _ => {}
            };
        }
        // Questions have no packet number and handle missing responders themselves. For the node's own subject
        // they are ignored: dead nodes are detected by their heartbeats.
        if no_responders && packet > 0 {
            return self.on_no_responders(number, packet);
        }
        if number == REPAIRS {
            return self.receive_repair(broker, &payload);
        }
        if let Some((handle, _)) = self.remotes.by_link(number) {
            if let (Some(report), Some(link)) = (ConsumedReport::decode(&payload), link_of(&handle))
            {
                link.on_consumed_report(report);
            }
            return;
        }
        self.questions.on_answer(Delivery {
            number,
            packet,
            from,
            sent,
            payload,
            no_responders,
        });
    }

    /// Handles credit for links of this broker.
    fn on_credits(&self, node: NodeId, epoch: u32, credits: &[u8]) {
        for (number, credit) in Credit::decode(credits) {
            if let Some((handle, _)) = self.remotes.by_link(number)
                && let Some(link) = link_of(&handle)
            {
                link.credit(node, epoch, credit);
            }
        }
    }
}

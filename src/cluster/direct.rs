//! Messages for this broker itself: packets with answers, failures and reports; credit, repairs, and answers to
//! questions.

use std::sync::Arc;

use super::{
    Cluster,
    bus::{Delivery, NodeId, Subscription},
    credit::Counted,
    message::{Credit, Message},
    remotes::link_of,
};
use crate::{
    broker::{Broker, answers::Answer, presence::Update, requests::DeliveryError},
    protocol::{self, Frames, PeerFrame},
    topic,
};

/// Handles the messages for this broker until the subscription ends.
pub(super) async fn receive_direct(cluster: Arc<Cluster>, mut subscription: Box<dyn Subscription>) {
    while let Some(delivery) = subscription.next().await {
        let Some(broker) = cluster.broker() else {
            return;
        };
        cluster.on_direct(&broker, delivery);
    }
}

impl Cluster {
    fn on_direct(self: &Arc<Self>, broker: &Broker, delivery: Delivery) {
        match (delivery.number, delivery.packet) {
            // A dead broker is detected by its heartbeats.
            (0, _) if delivery.no_responders => {}
            (0, _) => self.on_message(broker, &delivery),
            // Questions have no packet number, and handle missing responders themselves.
            (link, 1..) if delivery.no_responders => {
                self.on_no_responders(link, delivery.packet);
            }
            _ => self.questions.on_answer(delivery),
        }
    }

    fn on_message(self: &Arc<Self>, broker: &Broker, delivery: &Delivery) {
        match (self.decode(&delivery.payload), delivery.from) {
            (
                Some(Message::Packet {
                    is_eager,
                    epoch,
                    id: "",
                    frames,
                }),
                Some(from),
            ) if self.observe_node(from.node, epoch) => {
                on_frames_for_broker(self, broker, frames.0);
                self.credits.passed(Counted {
                    from,
                    packet: delivery.sent,
                    bytes: frames.0.len(),
                    is_eager,
                });
            }
            (
                Some(Message::Credit {
                    node,
                    epoch,
                    credits,
                }),
                _,
            ) => self.on_credits(node, epoch, &credits),
            (
                Some(Message::Repair {
                    node,
                    part,
                    all,
                    claims,
                }),
                _,
            ) if node != self.node => {
                // The claims must be applied before they count as received.
                self.apply_claims(broker, &claims);
                self.received_repair(node, part, all);
            }
            (
                Some(Message::Waiting {
                    node,
                    pattern,
                    group,
                }),
                _,
            ) if topic::is_pattern(pattern) => self.on_waiting(broker, node, pattern, group),
            (Some(Message::GroupJob { .. }), _) => self.on_group_job(delivery),
            (
                Some(Message::Take {
                    node,
                    pattern,
                    group,
                    count,
                }),
                _,
            ) => self.on_take(broker, node, (pattern, group), count),
            (
                Some(Message::Interest {
                    node,
                    number,
                    is_all,
                    added,
                    dropped,
                }),
                _,
            ) if node != self.node => {
                self.on_interest(broker, (node, number), is_all, &added, &dropped);
            }
            (Some(Message::InterestWanted { node }), _) => self.interest_wanted(node),
            (
                Some(Message::Members {
                    node,
                    subject,
                    is_all,
                    members,
                    left,
                    count,
                }),
                _,
            ) => {
                let update = Update {
                    subject: subject.into(),
                    is_all,
                    members: members.into_owned(),
                    left: left.into_owned(),
                    count,
                };
                self.on_members(broker, node, &update);
            }
            (
                Some(Message::PresenceDigest {
                    node,
                    number,
                    digest,
                }),
                _,
            ) => self.on_presence_digest(broker, node, number, digest),
            _ => {}
        }
    }

    /// Handles credit for links of this broker.
    fn on_credits(&self, node: NodeId, epoch: u32, credits: &[(u64, Credit)]) {
        for (number, credit) in credits {
            if let Some((handle, _)) = self.remotes.by_link(*number)
                && let Some(link) = link_of(&handle)
            {
                link.credit(node, epoch, *credit);
            }
        }
    }
}

/// Handles frames for this broker itself: answers, failures and delivery reports.
pub(super) fn on_frames_for_broker(cluster: &Cluster, broker: &Broker, frames: &[u8]) {
    let mut notifications = Vec::new();
    let mut touched = Vec::new();
    let requests = &broker.registry.requests;
    for (text, _) in Frames(frames) {
        match protocol::decode_peer_frame(text) {
            Some(PeerFrame::Answer {
                dest,
                ack,
                from,
                message,
                error,
            }) => {
                let Some(responder) = cluster.remotes.find(&dest) else {
                    continue;
                };
                let answered = Answer {
                    ack,
                    from,
                    outcome: error.map_or(Ok(message), Err),
                };
                let passed = broker.pass_answer(&responder, &answered, &mut notifications);
                touched.extend(passed);
            }
            Some(PeerFrame::Failed { dest, ack, code }) => {
                if let Some(responder) = cluster.remotes.find(&dest) {
                    let key = protocol::ack_key(ack);
                    let error = DeliveryError::of_code(&code);
                    requests.fail(&key, &responder, error, &mut notifications);
                }
            }
            Some(PeerFrame::ProbeFailed { number }) => {
                cluster.on_probe_failed(broker, number, &mut notifications)
            }
            Some(PeerFrame::Confirmed { number, dest, code }) => {
                let error = code.map(|code| DeliveryError::of_code(&code));
                cluster.receipts.on_report(number, &dest, error);
            }
            _ => {}
        }
    }
    broker.notify(&mut notifications, &mut touched);
    touched.iter().for_each(|handle| handle.flush());
}

//! Frames from other brokers for this broker: answers, failures, probe results and delivery reports.

use super::{Cluster, packet::Frames};
use crate::{
    broker::{Broker, answers::Answer, requests::DeliveryError},
    protocol::{self, PeerFrame},
};

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

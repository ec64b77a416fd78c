//! Frames from other brokers for this broker: answers, failures, probe results and delivery reports.

use super::{Cluster, packet::Frames};
use crate::{
    broker::{Broker, answers::Answer, requests::DeliveryError},
    protocol::{self, PeerFrame},
};

/// Handles frames for this broker itself: answers, failures and delivery reports.
pub(super) fn on_frames_for_broker(cluster: &Cluster, broker: &Broker, frames: &[u8]) {
    let mut outcomes = Vec::new();
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
                let passed = broker.pass_answer(&responder, &answered, &mut outcomes);
                touched.extend(passed);
            }
            Some(PeerFrame::Failed { dest, ack, code }) => {
                if let Some(responder) = cluster.remotes.find(&dest) {
                    let key = protocol::ack_key(ack);
                    let fault = DeliveryError::of_code(&code);
                    requests.fail(&key, &responder, fault, &mut outcomes);
                }
            }
            Some(PeerFrame::ProbeFailed { number }) => {
                cluster.on_probe_failed(broker, number, &mut outcomes)
            }
            Some(PeerFrame::Confirmed { number, dest, code }) => {
                let fault = code.map(|code| DeliveryError::of_code(&code));
                cluster.receipts.settle(number, &dest, fault);
            }
            _ => {}
        }
    }
    broker.notify(&mut outcomes, &mut touched);
    touched.iter().for_each(|handle| handle.flush());
}

//! A request to the subscribers of a topic at other brokers.

use std::sync::Arc;

use super::groups::{GroupId, Offer};
use crate::{
    broker::{
        Broker,
        handle::Handle,
        requests::{DeliveryError, Request},
    },
    protocol::{self, version_2},
    transport::{framing, socket::WriteHalf, uplink::Nowhere},
};

/// A request to the subscribers of a topic, while those at other brokers are looked for. Texts that are not decoded are
/// JSON.
#[derive(Debug)]
pub(crate) struct TopicRequest {
    pub(crate) asker: Arc<Handle>,
    pub(crate) request: Arc<Request>,
    /// The responder that holds the request open.
    pub(crate) holder: Arc<Handle>,
    /// The topic, decoded.
    pub(crate) topic: String,
    pub(crate) message: String,
    pub(crate) ack: String,
    pub(crate) from: Option<String>,
    /// Number of the attempt.
    pub(crate) attempt: u32,
    /// The `ref`, if a receipt is wanted.
    pub(crate) reference: Option<String>,
    /// Groups of which a member at this broker is asked.
    pub(crate) served: Vec<GroupId>,
    /// Numbers of receivers at this broker: those that are asked, and those that are slow.
    pub(crate) queued: usize,
    pub(crate) dropped: usize,
    /// Too many messages wait in a group here.
    pub(crate) is_busy: bool,
}

impl TopicRequest {
    /// The frames for a receiver at another broker, perhaps as a member of a group.
    pub(crate) fn frames(&self, group: Option<&Offer>) -> Vec<u8> {
        let name = group.map(|offer| protocol::json_string(&offer.name));
        let topic = protocol::json_string(&self.topic);
        // Members of groups alone get it.
        let attempt = group.map_or(1, |_| self.attempt);
        let end = version_2::publication_end(&topic, name.as_deref(), attempt);
        let from = self.from.as_deref();
        let message = protocol::publication(&self.message, Some(&self.ack), from, &end);
        let mut frames = Vec::with_capacity(self.message.len() + 256);
        match (group, &name) {
            (Some(offer), Some(name)) => {
                let pattern = protocol::json_string(&offer.pattern);
                let announced = protocol::expect_reply_of_group(&self.ack, &pattern, name);
                framing::append_text(&announced, &mut frames);
            }
            _ => framing::append_text(&protocol::expect_reply(&self.ack), &mut frames),
        }
        framing::append_text(&message, &mut frames);
        frames
    }

    /// The `failed` of the topic as a whole.
    pub(crate) fn failed(&self, error: DeliveryError) -> String {
        let ack = protocol::json_string(self.request.ack());
        version_2::failed(&ack, &topic_dest(&self.topic), error.code()).concat()
    }

    /// The receipt, if one is wanted.
    pub(crate) fn receipt(&self, queued: usize, dropped: usize) -> Option<String> {
        let reference = self.reference.as_deref()?;
        let (queued, dropped) = (queued.to_string(), dropped.to_string());
        Some(version_2::publish_receipt(reference, &queued, &dropped, "}").concat())
    }
}

/// A topic as the `dest` of a `failed`.
pub(crate) fn topic_dest(topic: &str) -> String {
    ["{\"topic\":", &protocol::json_string(topic), "}"].concat()
}

impl Broker {
    /// A responder that never answers, to hold a request open. It has no id, and no failure of it is reported.
    pub(crate) fn new_holder(&self) -> Arc<Handle> {
        let write = WriteHalf::Uplink(Arc::new(Nowhere));
        let handle = self.new_remote_handle(self.next_key(), write, 0);
        // It gets no cancellations.
        handle.set_uses_version_2(false);
        Arc::new(handle)
    }
}

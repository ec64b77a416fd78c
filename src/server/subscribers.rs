//! The subscriptions of a server's clients: those that the embedder makes, and who gets the messages of a topic.

use std::sync::Arc;

use super::Server;
use crate::{
    broker::handle::Handle,
    error::{ActionError, Error, Result},
    protocol::{json_string, version_2},
    topic,
};

impl Server {
    /// Makes the client that owns this id a subscriber of a topic or a pattern, whatever its grant allows. It gets
    /// `subscribed` before any message; nothing, if it subscribes already. The subscription ends with the registration.
    ///
    /// Errors: `UnknownId`; `NotNegotiated`; `Subscription` if it is not a pattern, or the client or the broker has too
    /// many.
    pub fn add_subscriber(&self, pattern: &str, id: &str) -> Result<()> {
        let handle = self.subscriber(pattern, id)?;
        let limits = (&self.broker.options, &self.broker.memory);
        let added = (self.broker.topics).subscribe_unasked(&handle, pattern, limits);
        handle.flush();
        added.map_err(|error| match error {
            // It has lost the id meanwhile.
            ActionError::NotRegistered => Error::UnknownId(id.to_owned()),
            error => Error::Subscription(error),
        })
    }

    /// Ends the subscription of the client that owns this id to a topic or a pattern, also one that the client has made.
    /// The client gets `unsubscribed` with the code `REMOVED`. False if there was none.
    ///
    /// Errors: as [`add_subscriber`](Self::add_subscriber).
    pub fn remove_subscriber(&self, pattern: &str, id: &str) -> Result<bool> {
        let handle = self.subscriber(pattern, id)?;
        self.broker.part(&handle, pattern);
        let is_removed = self.broker.topics.unsubscribe(&handle, pattern);
        if is_removed {
            let pattern = json_string(pattern);
            let frame = version_2::unsubscribed(&pattern, None, Some("\"REMOVED\""));
            handle.write(|outbox| outbox.push(&frame));
        }
        Ok(is_removed)
    }

    /// The ids of this broker that get messages to a topic, members of groups included: sorted.
    ///
    /// Errors: `Subscription` if it is not a topic.
    pub fn subscribers(&self, topic: &str) -> Result<Vec<Arc<str>>> {
        match topic::is_topic(topic) {
            true => Ok(self.broker.topics.ids_of(topic)),
            false => Err(Error::Subscription(ActionError::InvalidTopic)),
        }
    }

    /// The client that owns this id, if it can be a subscriber.
    fn subscriber(&self, pattern: &str, id: &str) -> Result<Arc<Handle>> {
        if !topic::is_pattern(pattern) {
            return Err(Error::Subscription(ActionError::InvalidPattern));
        }
        let owner = self.broker.registry.find(id);
        let handle = owner.ok_or_else(|| Error::UnknownId(id.to_owned()))?;
        match handle.uses_version_2() {
            true => Ok(handle),
            false => Err(Error::NotNegotiated(id.to_owned())),
        }
    }
}

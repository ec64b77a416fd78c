//! Requests to a topic: its subscribers, and one member of each of its groups, are asked.

use std::{sync::Arc, task::Context, time::Instant};

use super::{
    Connection, Turn,
    publish::{ByGroups, Published},
    send::SendOptions,
    turn::TopicBatch,
};
use crate::{
    broker::{
        Broker,
        handle::Handle,
        peers::Unreachable,
        requests::{DeliveryError, Name},
        topics::{
            Publication,
            groups::JobRequest,
            request::{TopicRequest, topic_dest},
        },
    },
    error::ActionError,
    protocol::{self, version_2},
    transport::{framing, outbox::SHARE_FROM},
};

impl Connection {
    /// Sends a request to the subscribers of the batch's topic. The batch is delivered before.
    pub(super) fn publish_request(
        &self,
        message: &str,
        ack: &str,
        options: &SendOptions<'_>,
        cx: &Context<'_>,
        turn: &mut Turn,
    ) -> Result<Option<Arc<Handle>>, ActionError> {
        let mut others = self.broker.peers.as_ref().filter(|_| self.id.is_some());
        let mut absent = DeliveryError::NoSubscriber;
        if let Some(peers) = others {
            match peers.may_ask(self.handle.key, cx.waker()) {
                Ok(()) => {}
                Err(Unreachable::Held) => {
                    self.deliver(turn);
                    return Ok(self.broker.lookup_gate());
                }
                Err(Unreachable::Down) => {
                    (others, absent) = (None, DeliveryError::ClusterDown);
                }
            }
        }
        self.deliver_publication(turn);
        let (mut asked, mut slow) = (Vec::new(), Vec::new());
        for one in &turn.publication.found.subscribers {
            if one.handle.outbox.is_full() {
                // Frames queued in this turn may have filled the outbox.
                one.handle.flush();
            }
            match one.handle.outbox.is_full() {
                false => asked.push(one.handle.clone()),
                true => slow.push(one.clone()),
            }
        }
        let asked_here = asked.len();
        let holder = others.map(|_| self.broker.new_holder());
        asked.extend(holder.clone());
        let ids = Broker::names_of(&asked);
        let name = |(id, handle): (_, &Arc<Handle>)| Name {
            id,
            registration: handle.registration(),
        };
        let names: Vec<_> = ids.iter().map(|id| &**id).zip(&asked).map(name).collect();
        let request = match asked.is_empty() {
            true => None,
            false => self.await_answer(ack, options.reply, &asked, &names, turn)?,
        };
        let TopicBatch { topic, end, .. } = &turn.publication;
        let (topic, mut frames) = (topic.clone(), Vec::new());
        let frame = protocol::publication(message, options.ack, self.from(), end);
        framing::append_text(&frame, &mut frames);
        let shared = (frames.len() >= SHARE_FROM).then(|| self.share(&mut frames));
        let publication = Publication {
            topic: &topic,
            frames: shared.as_deref().unwrap_or(&frames),
            shared: shared.as_ref(),
            count: 1,
            last: 0,
            served: &[],
        };
        let mut published = Published::default();
        for handle in &asked[..asked_here] {
            handle.settle_losses();
            let is_there = turn.delivered(handle, publication.push_to(handle));
            published.queued += usize::from(is_there);
        }
        for one in &slow {
            self.broker.lose(one, &publication);
            published.dropped += 1;
        }
        if let Some(request) = &request {
            let requests = &self.broker.registry.requests;
            requests.delivered(request, &mut turn.notifications);
        }
        let by_groups = match turn.publication.found.groups.is_empty() {
            true => ByGroups::default(),
            false => {
                let request = self.job_request(ack, &topic, options)?;
                let by_groups =
                    self.publish_to_groups((message, self.from()), options, request.as_ref(), turn);
                if let Some(request) = request.filter(|_| by_groups.is_queued) {
                    let mut requests = self.handle.requests.lock();
                    requests.add_queued(&request.ack, &request.is_cancelled);
                }
                by_groups
            }
        };
        published.queued += by_groups.taken;
        if let (Some(peers), None) = (&self.broker.peers, &self.id) {
            // It gets no answers: a message like others.
            turn.publication.unserved.clone_from(&by_groups.unserved);
            peers.publish(&Publication {
                served: &turn.publication.take_served(),
                ..publication
            });
        }
        if let (Some(request), Some(holder), Some(peers)) = (request, holder, others) {
            turn.publication.unserved = by_groups.unserved;
            peers.clone().ask_topic(TopicRequest {
                asker: self.handle.clone(),
                request,
                holder,
                topic,
                message: message.to_owned(),
                ack: ack.to_owned(),
                from: self.from().map(str::to_owned),
                attempt: protocol::attempt(options.reply.and_then(|reply| reply.attempt)),
                reference: options.reference().map(str::to_owned),
                served: turn.publication.take_served(),
                queued: published.queued,
                dropped: published.dropped,
                is_busy: by_groups.full > 0,
            });
            return Ok(None);
        }
        if published.queued == 0 {
            let error = match (published.dropped, by_groups.full) {
                (0, 0) => absent,
                (_, 0) => DeliveryError::Slow,
                _ => DeliveryError::Busy,
            };
            self.fail_publication(ack, error, options, turn)?;
        }
        self.push_publish_receipt(options, published, turn);
        Ok(None)
    }

    /// The request of a message to groups; none for a sender without an id, which gets no answer.
    ///
    /// Errors: `AckTaken` if another connection has a pending request with this ack.
    fn job_request(
        &self,
        ack: &str,
        topic: &str,
        options: &SendOptions<'_>,
    ) -> Result<Option<JobRequest>, ActionError> {
        let (key, now) = (self.key(ack)?, Instant::now());
        let requests = &self.broker.registry.requests;
        requests.check(&key, &self.handle, now)?;
        let timeout = options.reply.and_then(|reply| reply.timeout);
        Ok(self.id.is_some().then(|| JobRequest {
            asker: self.handle.clone(),
            ack: (&*key).into(),
            dest: topic_dest(topic).into(),
            asked_as: None,
            answers: options.reply.map_or(1, |reply| reply.answers),
            deadline: timeout.and_then(|timeout| now.checked_add(timeout)),
            is_cancelled: Arc::default(),
        }))
    }

    /// Reports a request that no subscriber gets.
    fn fail_publication(
        &self,
        ack: &str,
        error: DeliveryError,
        options: &SendOptions<'_>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        self.count_failed(options, error);
        if error == DeliveryError::NoSubscriber {
            self.broker.no_subscriber(1);
        }
        if self.id.is_some() && self.broker.has_room_for_answer(&self.handle) {
            let ack = protocol::json_string(&self.key(ack)?);
            let dest = topic_dest(&turn.publication.topic);
            let frame = version_2::failed(&ack, &dest, error.code());
            turn.pushed(&self.handle, self.handle.outbox.push(&frame));
        }
        Ok(())
    }
}

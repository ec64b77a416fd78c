//! Requests to topics at other brokers.
//!
//! The asker's broker broadcasts a question for the receivers of the topic, and each broker answers with the ids of its
//! subscribers, and with a member of each group. These are asked as ids are, so that answers, cancellations, probes and
//! failures need no second version. A request to a member names its group: its broker gives it to a member like any
//! message to the group. Until all brokers have answered, a responder that never answers holds the request open.

use std::{
    collections::HashSet,
    future::poll_fn,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use rand::seq::SliceRandom;
use tokio::{
    task::consume_budget,
    time::{Instant, timeout_at},
};

use super::{
    ANSWER_TIMEOUT, Cluster,
    bus::{NodeId, Publication, ReplyAddress},
    message::{self, Message},
    notify,
};
use crate::broker::{
    Broker,
    handle::Handle,
    peers::Unreachable,
    requests::{DeliveryError, Name},
    topics::{
        Found,
        groups::{GroupId, Offer},
        request::TopicRequest,
    },
};

/// Bytes that a request takes besides its message, while its receivers are looked for.
const OVERHEAD: usize = 4 << 10;
/// Maximum time to find and to ask the receivers: the time of the answers, and as much for lookups of ids.
const ASK_TIME: Duration = Duration::from_secs(2 * ANSWER_TIMEOUT.as_secs());

/// A request whose receivers at other brokers are looked for.
struct Asking<'a> {
    cluster: &'a Cluster,
    request: &'a TopicRequest,
    queued: usize,
    dropped: usize,
    /// The groups of which a member is asked.
    served: Vec<GroupId>,
    /// Members of other groups that cannot take a message now.
    busy: Vec<Offer>,
}

impl Cluster {
    /// Whether receivers of a request can be looked for now; see `Peers::may_ask`.
    pub(super) fn may_ask(&self, key: u64, waker: &Waker) -> Result<(), Unreachable> {
        match self.topics.asking.admit(key, waker) {
            _ if !self.is_up() => Err(Unreachable::Down),
            true => Ok(()),
            false => Err(Unreachable::Held),
        }
    }

    /// Asks the receivers of a topic at other brokers.
    pub(super) fn ask_topic(self: Arc<Self>, request: TopicRequest) {
        let bytes = request.message.len() + OVERHEAD;
        self.topics.asking.add(bytes);
        let cluster = self.clone();
        self.runtime.spawn(async move {
            let mut asking = Asking {
                cluster: &cluster,
                request: &request,
                queued: request.queued,
                dropped: request.dropped,
                served: request.served.clone(),
                busy: Vec::new(),
            };
            let deadline = Instant::now() + ASK_TIME;
            let _ = timeout_at(deadline, asking.run()).await;
            asking.finish();
            cluster.topics.asking.subtract(bytes);
        });
    }

    /// Answers the question of another broker for the receivers of a topic.
    pub(super) async fn answer_topic_question(
        &self,
        broker: &Broker,
        (node, number): (NodeId, u64),
        topic: &str,
    ) {
        let mut found = Found::default();
        broker.topics.find(topic, &mut found);
        let now = std::time::Instant::now();
        let owners = found.subscribers.iter().map(|one| &one.handle);
        let ids: Vec<_> = owners.filter_map(|handle| handle.owned_id()).collect();
        let offers: Vec<_> = (found.groups.iter())
            .filter_map(|group| group.offer(now))
            .collect();
        let subject = self.subjects.reply(ReplyAddress { node, number });
        let (mut ids, mut offers) = (&ids[..], &offers[..]);
        for part in 0.. {
            let (now, later) = message::part(ids, |id| id.len());
            let (offers_now, offers_later) = match later.is_empty() {
                true => message::part(offers, Offer::size),
                false => (&[][..], offers),
            };
            (ids, offers) = (later, offers_later);
            let is_last = ids.is_empty() && offers.is_empty();
            let answer = Message::Receivers {
                node: self.node,
                part,
                is_last,
                ids: now.into(),
                offers: offers_now.into(),
            };
            let publication = Publication {
                subject: subject.clone(),
                reply: None,
                payload: answer.encode().into(),
            };
            self.bus.publish(publication).await;
            if is_last {
                return;
            }
        }
    }
}

impl Asking<'_> {
    /// Collects the answers of all brokers, and asks their receivers.
    async fn run(&mut self) {
        let cluster = self.cluster;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut missing: HashSet<_> = cluster.nodes.names().into_keys().collect();
        let mut question = cluster.open_question();
        let message = Message::TopicQuestion {
            node: cluster.node,
            number: question.number,
            topic: &self.request.topic,
        };
        let _ = timeout_at(deadline, cluster.broadcast(&message)).await;
        while !missing.is_empty() {
            let Ok(Some(answer)) = timeout_at(deadline, question.answers.recv()).await else {
                break;
            };
            let Some(Message::Receivers {
                node,
                is_last,
                ids,
                offers,
                ..
            }) = cluster.decode(&answer.payload)
            else {
                continue;
            };
            if is_last {
                missing.remove(&node);
            }
            if !self.ask_all(&ids, &offers).await {
                return;
            }
        }
        let mut busy = std::mem::take(&mut self.busy);
        // Any of the brokers of a group.
        busy.shuffle(&mut rand::rng());
        for offer in busy {
            if !self.served.contains(&offer.id()) && !self.ask_member(&offer).await {
                return;
            }
        }
    }

    /// Asks subscribers, and members that can take a message now. False if the request has ended.
    async fn ask_all(&mut self, ids: &[Arc<str>], offers: &[Offer]) -> bool {
        for id in ids {
            if !self.ask(id, None).await {
                return false;
            }
        }
        for offer in offers {
            if self.served.contains(&offer.id()) {
                continue;
            }
            match offer.is_free {
                true if !self.ask_member(offer).await => return false,
                true => {}
                false => self.busy.push(offer.clone()),
            }
        }
        true
    }

    async fn ask_member(&mut self, offer: &Offer) -> bool {
        self.served.push(offer.id());
        self.ask(&offer.member, Some(offer)).await
    }

    /// Asks the owner of an id, or the group of which it is a member. False if the request has ended.
    async fn ask(&mut self, id: &Arc<str>, group: Option<&Offer>) -> bool {
        // There may be many.
        consume_budget().await;
        let (Some(receiver), Some(broker)) = (self.find(id).await, self.cluster.broker()) else {
            return false;
        };
        let frames = self.request.frames(group);
        let head = message::PACKET_HEAD + id.len();
        let fanout = (self.queued + 1).saturating_mul(frames.len());
        if head + frames.len() > self.cluster.bus.max_payload()
            || fanout > broker.options.max_fanout_bytes
            || receiver.outbox.is_full()
        {
            self.dropped += 1;
            return true;
        }
        let (requests, mut notifications) = (&broker.registry.requests, Vec::new());
        let name = Name {
            id,
            registration: receiver.registration(),
        };
        let request = &self.request.request;
        let Some(is_new) = requests.extend(request, &receiver, name, &mut notifications) else {
            return false;
        };
        self.queued += usize::from(is_new);
        receiver.set_writer(self.request.asker.key);
        let mut frames = frames;
        receiver.write(|outbox| outbox.push_frames(&mut frames, 1));
        requests.delivered(request, &mut notifications);
        notify(&broker, &mut notifications);
        true
    }

    /// The handle of an id at another broker, once there may be one more lookup. None if NATS is unreachable.
    async fn find(&self, id: &str) -> Option<Arc<Handle>> {
        // Of its own: the waker of the asker's connection stays.
        let key = self.request.holder.key;
        poll_fn(|cx| {
            let Some(broker) = self.cluster.broker() else {
                return Poll::Ready(None);
            };
            match self.cluster.find_remote(&broker, id, (key, cx.waker())) {
                Ok(handle) => Poll::Ready(Some(handle)),
                Err(Unreachable::Held) => Poll::Pending,
                Err(Unreachable::Down) => Poll::Ready(None),
            }
        })
        .await
    }

    /// Lets the request end with its receivers, and reports how many there are.
    fn finish(self) {
        let Some(broker) = self.cluster.broker() else {
            return;
        };
        let request = self.request;
        let error = match self.queued {
            0 if self.dropped > 0 => DeliveryError::Slow,
            0 if request.is_busy => DeliveryError::Busy,
            0 if !self.cluster.is_up() => DeliveryError::ClusterDown,
            0 => DeliveryError::NoSubscriber,
            _ => DeliveryError::Gone,
        };
        let mut notifications = Vec::new();
        let requests = &broker.registry.requests;
        let is_pending =
            requests.release(&request.request, &request.holder, error, &mut notifications);
        notify(&broker, &mut notifications);
        if !broker.has_room_for_answer(&request.asker) {
            return;
        }
        if is_pending && self.queued == 0 {
            if error == DeliveryError::NoSubscriber {
                broker.no_subscriber(1);
            }
            let frame = request.failed(error);
            request.asker.write(|outbox| outbox.push(&[&frame]));
        }
        if let Some(frame) = request.receipt(self.queued, self.dropped) {
            request.asker.write(|outbox| outbox.push(&[&frame]));
        }
    }
}

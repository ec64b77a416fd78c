//! Messages to topics, between brokers.
//!
//! Each distinct pattern of a broker's subscribers is one subscription of NATS, so that NATS sends a broker what its
//! subscribers want and nothing else. Publications leave through one queue, in order. Its bound makes publishers wait.
//! Unlike messages to ids they have no credit: what NATS drops on the way is lost, and reported as `Lagged`.
//!
//! Each group of workers with members at this broker is a subscription in a queue group of NATS, so that NATS chooses
//! one broker for each message. A publisher's broker with members gives a message to these, and names the group in the
//! publication: other brokers skip it. A message that finds no member any more is passed on to another broker of the
//! group, on a subject of its own.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Waker,
};

use data_encoding::BASE64URL_NOPAD;
use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    Cluster,
    arrivals::{Arrival, Arrivals},
    budget::Budget,
    bus::{Delivery, NodeId, Publication, Subjects},
    message::{self, GROUP_JOB_HEAD, Message, PUBLICATION_HEAD, Rest, SERVED},
    patterns::Source,
};
use crate::{
    broker::{
        Broker,
        handle::Handle,
        peers::Unreachable,
        topics::{
            Publication as Messages,
            groups::{Dispatched, Group, Job},
        },
    },
    memory::Charge,
    protocol::{self, Frames},
    topic::{self, ONE, REST},
    transport::framing,
};

/// Number of brokers that pass on a message whose group has no members there (NATS may choose such a broker several
/// times until its subscription has ended), and one for which too many messages wait.
const MAX_HOPS: u8 = 64;
const MAX_HOPS_FULL: u8 = 2;

/// The publications on their way to NATS, and the patterns of this broker.
pub(super) struct Topics {
    /// Bounded by `queued`.
    outgoing: mpsc::UnboundedSender<Queued>,
    /// The other end, until the task that publishes has taken it.
    incoming: Mutex<Option<mpsc::UnboundedReceiver<Queued>>>,
    queued: Budget,
    /// The requests whose receivers at other brokers are looked for.
    pub(super) asking: Budget,
    /// By broker, publications that have arrived.
    arrived: Mutex<HashMap<NodeId, Arrivals, RandomState>>,
}

/// A message for NATS, and its memory.
struct Queued {
    subject: String,
    payload: Vec<u8>,
    charge: Charge,
}

impl Default for Topics {
    fn default() -> Self {
        let (outgoing, incoming) = mpsc::unbounded_channel();
        Self {
            outgoing,
            incoming: Mutex::new(Some(incoming)),
            queued: Budget::default(),
            asking: Budget::default(),
            arrived: Mutex::default(),
        }
    }
}

impl Subjects {
    /// The subject of a topic, or that of all topics that match a pattern. Each token is one of the subject, so that
    /// wildcards mean the same.
    pub(super) fn topic(&self, pattern: &str) -> String {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let mut subject = self.topics();
        for token in pattern.split('.') {
            subject.push('.');
            match token {
                ONE | REST => subject.push_str(token),
                _ if token.bytes().all(is_plain) && !token.starts_with('_') => {
                    subject.push_str(token);
                }
                _ => {
                    subject.push('_');
                    BASE64URL_NOPAD.encode_append(token.as_bytes(), &mut subject);
                }
            }
        }
        subject
    }
}

impl Cluster {
    /// Whether messages to topics can be sent to other brokers now.
    ///
    /// Errors: `Held` while too much waits for NATS: the waker of the connection with this key is called when there is
    /// room. `Down`.
    pub(super) fn may_publish(&self, key: u64, waker: &Waker) -> Result<(), Unreachable> {
        if !self.is_up() {
            return Err(Unreachable::Down);
        }
        match self.topics.queued.admit(key, waker) {
            true => Ok(()),
            false => Err(Unreachable::Held),
        }
    }

    /// Sends messages of a topic to the brokers that have subscribers. False if NATS is unreachable.
    pub(super) fn publish_topic(&self, messages: &Messages<'_>) -> bool {
        if !self.is_up() {
            return false;
        }
        let message = Message::Publication {
            node: self.node,
            // Set when it leaves the queue: the numbers rise in the order in which NATS gets them.
            number: 0,
            count: messages.count,
            // It fits: a message is smaller than 4 GiB.
            last: messages.last as u32,
            topic: messages.topic,
            served: messages.served.into(),
            frames: Rest(messages.frames),
        };
        self.queue(self.subjects.topic(messages.topic), &message)
    }

    /// Queues a message for NATS. False if the cluster has ended.
    pub(super) fn queue(&self, subject: String, message: &Message<'_>) -> bool {
        let payload = message.encode();
        let Some(broker) = self.broker() else {
            return false;
        };
        self.topics.queued.add(payload.len());
        let charge = Charge::new(&broker.memory, payload.len());
        let queued = Queued {
            subject,
            payload,
            charge,
        };
        self.topics.outgoing.send(queued).is_ok()
    }

    /// Sends a message of a group to a broker that has members; see `Peers::pass_on`.
    pub(super) fn pass_on(&self, group: &Group, job: &Job) -> bool {
        let message = Message::GroupJob {
            hops: job.hops + 1,
            pattern: &group.pattern,
            group: &group.name,
            frame: Rest(&job.frame),
        };
        let head = GROUP_JOB_HEAD + group.pattern.len() + group.name.len();
        self.is_up()
            && job.hops < MAX_HOPS
            && head + job.frame.len() <= self.bus.max_payload()
            && self.queue(self.subjects.group(group.id), &message)
    }

    /// Bytes of the requests whose receivers are looked for.
    #[cfg(test)]
    pub(super) fn topics_asking(&self) -> usize {
        self.topics.asking.bytes.load(Relaxed)
    }

    /// Size limit in bytes of a message to this topic.
    pub(super) fn max_publication(&self, topic: &str, groups: usize) -> usize {
        let head = PUBLICATION_HEAD + topic.len() + groups * SERVED;
        self.bus.max_payload().saturating_sub(head)
    }

    /// Handles a message of another broker. It comes once for each pattern that matches. One that is late is lost.
    pub(super) fn on_publication(&self, delivery: &Delivery) {
        let message = self.decode(&delivery.payload);
        let (
            Some(broker),
            Some(Message::Publication {
                node,
                number,
                count,
                last,
                topic,
                frames: Rest(frames),
                served: _,
            }),
        ) = (self.broker(), message)
        else {
            return;
        };
        let last = last as usize;
        if node == self.node || last >= frames.len() || !topic::is_topic(topic) {
            return;
        }
        let mut arrived = self.topics.arrived.lock();
        let is_shared = self.patterns.overlaps.has_several(topic);
        let arrival = (arrived.entry(node).or_default()).add(topic, number, is_shared);
        // Under the lock: the first copy of a message is handled before those of later ones.
        let messages = Messages {
            topic,
            frames,
            shared: None,
            count,
            last,
            served: &[],
        };
        match arrival {
            Arrival::New => {
                (self.counters.received).fetch_add(count.into(), Relaxed);
                broker.publish_all(&messages);
            }
            Arrival::Late => {
                (self.counters.late).fetch_add(count.into(), Relaxed);
                broker.lose_all(&messages);
            }
            Arrival::Copy => {}
        }
    }

    /// Gives the messages of a publication, which may be this broker's own, to members of a group.
    pub(super) fn on_group_publication(&self, source: &Source, delivery: &Delivery) {
        let (
            Some(broker),
            Some(Message::Publication {
                topic,
                served,
                frames: Rest(frames),
                ..
            }),
        ) = (self.broker(), self.decode(&delivery.payload))
        else {
            return;
        };
        let Source { pattern, group } = source;
        let Some((name, id)) = group else { return };
        if served.contains(id) || !topic::is_topic(topic) {
            return;
        }
        let name_end = [",\"group\":", &protocol::json_string(name), "}"].concat();
        let mut touched = Vec::new();
        for (text, _) in Frames(frames).filter(|(text, _)| protocol::is_message(text)) {
            let text = std::str::from_utf8(text).ok();
            let Some(text) = text.and_then(|text| text.strip_suffix('}')) else {
                continue;
            };
            let mut frame = Vec::with_capacity(text.len() + name_end.len() + 16);
            framing::append_text(&[text, &name_end], &mut frame);
            self.dispatch(&broker, (pattern, name), frame, 0, &mut touched);
        }
        touched.iter().for_each(|handle| handle.flush());
    }

    /// Gives a message that another broker has passed on to a member of a group.
    pub(super) fn on_group_job(&self, delivery: &Delivery) {
        let (
            Some(broker),
            Some(Message::GroupJob {
                hops,
                pattern,
                group,
                frame: Rest(frame),
            }),
        ) = (self.broker(), self.decode(&delivery.payload))
        else {
            return;
        };
        let mut frames = Frames(frame);
        let is_message = |(text, whole): (&[u8], &[u8])| {
            protocol::is_message(text) && std::str::from_utf8(text).is_ok() && whole == frame
        };
        if topic::is_pattern(pattern) && frames.next().is_some_and(is_message) {
            let mut touched = Vec::new();
            self.dispatch(
                &broker,
                (pattern, group),
                frame.to_vec(),
                hops,
                &mut touched,
            );
            touched.iter().for_each(|handle| handle.flush());
        }
    }

    /// Gives a message to a member of a group, or passes it on if there is none.
    fn dispatch(
        &self,
        broker: &Broker,
        (pattern, name): (&str, &str),
        frame: Vec<u8>,
        hops: u8,
        touched: &mut Vec<Arc<Handle>>,
    ) {
        self.counters.received.fetch_add(1, Relaxed);
        let job = Job {
            frame: broker.charged_bytes(frame),
            request: None,
            hops,
        };
        let known = broker.topics.group(pattern, name);
        let dispatched = match &known {
            Some(group) => broker.dispatch(group, job.clone(), touched),
            None => Dispatched::Empty,
        };
        let is_done = match dispatched {
            Dispatched::Sent | Dispatched::Queued => true,
            Dispatched::Full if hops >= MAX_HOPS_FULL => false,
            Dispatched::Full | Dispatched::Empty => {
                let group = known.unwrap_or_else(|| Group::new(&pattern.into(), name));
                self.pass_on(&group, &job)
            }
        };
        if !is_done {
            broker.metrics.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Forgets the publications of a broker that has ended.
    pub(super) fn forget_publications(&self, node: NodeId) {
        self.topics.arrived.lock().remove(&node);
    }
}

/// Publishes what is queued, in order, and numbers the publications.
pub(super) async fn publish_queued(cluster: Arc<Cluster>) {
    let topics = &cluster.topics;
    let Some(mut incoming) = topics.incoming.lock().take() else {
        return;
    };
    let mut published = 0;
    while let Some(queued) = incoming.recv().await {
        let Queued {
            subject,
            mut payload,
            charge,
        } = queued;
        if message::set_number(&mut payload, published + 1) {
            published += 1;
        }
        let publication = Publication {
            subject,
            reply: None,
            payload: payload.into(),
        };
        cluster.bus.publish(publication).await;
        topics.queued.subtract(charge.bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::broker::topics::groups::GroupId;

    #[test]
    fn a_publication_has_the_size_that_is_reserved_for_it() {
        let message = Message::Publication {
            node: NodeId(1),
            number: 2,
            count: 3,
            last: 4,
            topic: "a.b",
            served: vec![GroupId(1), GroupId(2)].into(),
            frames: Rest(b"frames"),
        };
        assert_eq!(
            message.encode().len(),
            PUBLICATION_HEAD + "a.b".len() + 2 * SERVED + "frames".len()
        );
    }

    #[test]
    fn subjects_have_the_tokens_of_topics() {
        let subjects = Subjects::new("ns");
        let subject = |pattern| subjects.topic(pattern);
        assert_eq!(subject("room.7"), "wsmb.ns.t.room.7");
        assert_eq!(subject("room.*.>"), "wsmb.ns.t.room.*.>");
        assert_eq!(subject("_x"), "wsmb.ns.t._X3g");
        let topics = ["a", "_YQ", "a:b", "é", "a_b", "A", "-", "_", "\"", "\\"];
        let distinct: HashSet<_> = topics.iter().map(|topic| subject(topic)).collect();
        assert_eq!(distinct.len(), topics.len());
        for subject in distinct {
            let token = subject.strip_prefix("wsmb.ns.t.").expect("its prefix");
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            assert!(
                !token.is_empty() && token.chars().all(is_plain),
                "{subject}"
            );
        }
    }
}

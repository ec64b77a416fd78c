//! Moves messages that wait in a group to brokers whose members can take them.
//!
//! A broker with waiting messages broadcasts so, periodically. A broker with members that can take some asks for that
//! many, and gets them directly.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use foldhash::quality::RandomState;
use tokio::time::sleep;

use super::{
    Cluster,
    bus::{NodeId, ReplyAddress},
    message::{GROUP_JOB_HEAD, Message, Rest},
};
use crate::broker::{
    Broker,
    topics::groups::{Group, GroupId},
};

/// Maximum number of groups announced in one sweep.
const MAX_ANNOUNCED: usize = 64;
/// Time after which a broker that has taken messages learns that more wait.
const TAKE_AGAIN: Duration = Duration::from_millis(20);
/// Maximum number of messages that a broker asks for at once.
const MAX_TAKEN: u32 = 1_000;

/// Groups with messages that wait, the one announced longest ago first.
#[derive(Default)]
pub(super) struct WaitingGroups {
    known: HashSet<GroupId, RandomState>,
    queue: VecDeque<(GroupId, Arc<str>, Arc<str>)>,
}

impl Cluster {
    /// Records that a message waits in a group.
    pub(super) fn note_waiting(&self, group: &Group) {
        let mut waiting = self.waiting_groups.lock();
        if waiting.known.insert(group.id) {
            let (pattern, name) = (group.pattern.clone(), group.name.clone());
            waiting.queue.push_back((group.id, pattern, name));
        }
    }

    /// Broadcasts which groups have messages that wait.
    pub(super) fn announce_waiting(&self, broker: &Broker) {
        let count = self.waiting_groups.lock().queue.len().min(MAX_ANNOUNCED);
        for _ in 0..count {
            let Some((id, pattern, name)) = self.waiting_groups.lock().queue.pop_front() else {
                return;
            };
            let group = broker.topics.group(&pattern, &name);
            if group.is_some_and(|group| group.has_jobs()) {
                let message = Message::Waiting {
                    node: self.node,
                    pattern: &pattern,
                    group: &name,
                };
                self.queue(self.subjects.all(), &message);
                let mut waiting = self.waiting_groups.lock();
                waiting.queue.push_back((id, pattern, name));
                continue;
            }
            self.waiting_groups.lock().known.remove(&id);
            // Another one may wait since, and was not recorded.
            if let Some(group) = broker.topics.group(&pattern, &name)
                && group.has_jobs()
            {
                self.note_waiting(&group);
            }
        }
    }

    /// Asks a broker for as many waiting messages as the members here can take.
    pub(super) fn on_waiting(&self, broker: &Broker, node: NodeId, pattern: &str, name: &str) {
        let group = broker.topics.group(pattern, name);
        let count = group.map_or(0, |group| group.room()).min(MAX_TAKEN);
        if count > 0 {
            let message = Message::Take {
                node: self.node,
                pattern,
                group: name,
                count,
            };
            let number = 0;
            self.queue(self.subjects.reply(ReplyAddress { node, number }), &message);
        }
    }

    /// Sends waiting messages to a broker that has asked for them. If more wait, its members may soon be able to take
    /// these, too.
    pub(super) fn on_take(
        self: &Arc<Self>,
        broker: &Broker,
        to: NodeId,
        (pattern, name): (&str, &str),
        count: u32,
    ) {
        let Some(group) = broker.topics.group(pattern, name) else {
            return;
        };
        let number = 0;
        let subject = self.subjects.reply(ReplyAddress { node: to, number });
        let head = GROUP_JOB_HEAD + pattern.len() + name.len();
        let size = self.bus.max_payload().saturating_sub(head);
        for job in group.take_waiting(count.min(MAX_TAKEN), size) {
            let message = Message::GroupJob {
                hops: job.hops.saturating_add(1),
                pattern,
                group: name,
                frame: Rest(&job.frame),
            };
            self.queue(subject.clone(), &message);
        }
        if group.has_jobs() {
            let cluster = self.clone();
            self.runtime.spawn(async move {
                sleep(TAKE_AGAIN).await;
                if group.has_jobs() {
                    let message = Message::Waiting {
                        node: cluster.node,
                        pattern: &group.pattern,
                        group: &group.name,
                    };
                    cluster.queue(subject, &message);
                }
            });
        }
    }
}

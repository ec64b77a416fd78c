//! Presence between brokers: by interest, so that a subject without watchers costs nothing.
//!
//! A broker numbers its changes of interest and broadcasts them; its heartbeats have the number of the last. Who has
//! missed one asks for all. The brokers with members of a watched subject send these, and then changes, in order. Every
//! few seconds each sends a digest of what the other should know. If it differs, the other broadcasts its whole interest
//! to it, and gets everything again: whatever was lost, presence is right some seconds later.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use serde::de::IgnoredAny;
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Cluster,
    bus::{NodeId, Publication, ReplyAddress},
    message::{Message, part},
};
use crate::broker::{
    Broker,
    presence::{Needs, Update},
};

/// Interval of digests.
const DIGESTS: Duration = Duration::from_secs(2);
/// Minimum time between two exchanges of changes.
const PAUSE: Duration = Duration::from_millis(100);
/// Minimum time between two requests for the interest of a broker.
const RETRY: Duration = Duration::from_secs(1);

type Subjects = HashSet<Arc<str>, RandomState>;
/// A publication: its number, and the subjects that are watched and no longer watched.
type Changes = (u64, Vec<Arc<str>>, Vec<Arc<str>>);

/// The interest of this broker and of the others.
#[derive(Debug, Default)]
pub(super) struct Interests {
    wakes: Notify,
    own: Mutex<Own>,
    others: Mutex<HashMap<NodeId, Other>>,
}

#[derive(Debug, Default)]
struct Own {
    watched: Subjects,
    /// Changes that are not published yet: subjects with whether they are watched.
    changed: HashMap<Arc<str>, bool, RandomState>,
    /// Number of publications so far, and of the last with subjects that are no longer watched.
    number: u64,
    dropped: u64,
    /// Brokers that need all.
    asked: HashSet<NodeId>,
}

#[derive(Debug, Default)]
struct Other {
    watched: Subjects,
    /// The number of its last publication that was received.
    number: u64,
    /// When it was asked for all.
    asked: Option<Instant>,
}

impl Cluster {
    /// Records that a subject has got its first watcher here, or has lost its last.
    pub(super) fn watched(&self, subject: &Arc<str>, is_watched: bool) {
        let mut own = self.interests.own.lock();
        own.changed.insert(subject.clone(), is_watched);
        if !is_watched {
            // Its members are forgotten here already: digests of other brokers still have them.
            own.dropped = own.number + 1;
        }
        drop(own);
        self.interests.wakes.notify_one();
    }

    /// Wakes the task that sends members.
    pub(super) fn presence_changed(&self) {
        self.interests.wakes.notify_one();
    }

    /// The number of publications of interest so far, for heartbeats.
    pub(super) fn interest_number(&self) -> u64 {
        self.interests.own.lock().number
    }

    /// Compares the number of a heartbeat, and asks for all interest if something was missed.
    pub(super) fn observe_interest(&self, node: NodeId, number: u64) {
        let mut others = self.interests.others.lock();
        let is_known = others.get(&node).map_or(0, |other| other.number) == number;
        if !is_known {
            self.ask_interest(node, &mut others);
        }
    }

    fn ask_interest(&self, node: NodeId, others: &mut HashMap<NodeId, Other>) {
        let (other, now) = (others.entry(node).or_default(), Instant::now());
        if other.asked.is_some_and(|asked| now - asked < RETRY) {
            return;
        }
        other.asked = Some(now);
        let message = Message::InterestWanted { node: self.node };
        // If there is no room now, the next heartbeat triggers it again.
        let _ = self.bus.try_publish(self.to_node(node, &message));
    }

    fn to_node(&self, node: NodeId, message: &Message<'_>) -> Publication {
        Publication {
            subject: self.subjects.reply(ReplyAddress { node, number: 0 }),
            reply: None,
            payload: message.encode().into(),
        }
    }

    /// Another broker needs all interest of this one.
    pub(super) fn interest_wanted(&self, node: NodeId) {
        self.interests.own.lock().asked.insert(node);
        self.interests.wakes.notify_one();
    }

    /// Applies a publication of interest. `is_all`: it begins a list of everything.
    pub(super) fn on_interest(
        &self,
        broker: &Broker,
        (node, number): (NodeId, u64),
        is_all: bool,
        added: &[Arc<str>],
        dropped: &[Arc<str>],
    ) {
        let mut others = self.interests.others.lock();
        let other = others.entry(node).or_default();
        // A list of everything has several parts, with one number.
        let is_next = is_all || number == other.number || number == other.number + 1;
        if !is_next {
            return self.ask_interest(node, &mut others);
        }
        let needs = match is_all || number == other.number {
            true => Needs::State,
            false => Needs::Members,
        };
        other.number = number;
        let presence = &broker.presence;
        if is_all {
            for subject in std::mem::take(&mut other.watched) {
                presence.unwant(node.0, &subject);
            }
        }
        for subject in added {
            other.watched.insert(subject.clone());
            presence.want(node.0, subject, needs, &broker.registry);
        }
        for subject in dropped {
            other.watched.remove(subject);
            presence.unwant(node.0, subject);
        }
    }

    /// Applies what another broker says of its members.
    pub(super) fn on_members(&self, broker: &Broker, node: NodeId, update: &Update) {
        // A text that is not JSON would damage the frames of watchers.
        let is_json = |info: &str| serde_json::from_str::<IgnoredAny>(info).is_ok();
        if node != self.node && update.members.iter().all(|(_, info)| is_json(info)) {
            broker.presence.apply(node.0, update);
        }
    }

    /// Compares what is known of another broker with its digest. `number`: that of the interest for which it is.
    pub(super) fn on_presence_digest(
        &self,
        broker: &Broker,
        node: NodeId,
        number: u64,
        digest: u64,
    ) {
        // Members of subjects that are no longer watched are forgotten here first.
        let is_comparable = number >= self.interests.own.lock().dropped;
        if is_comparable && broker.presence.digest_of(node.0) != digest {
            self.interest_wanted(node);
        }
    }

    /// Forgets a broker that has ended. `at_once`: its clients are not about to come back elsewhere.
    pub(super) fn forget_presence(&self, node: NodeId, at_once: bool) {
        let other = self.interests.others.lock().remove(&node);
        if let Some(broker) = self.broker() {
            for subject in other.unwrap_or_default().watched {
                broker.presence.unwant(node.0, &subject);
            }
            broker.presence.forget(node.0, at_once);
        }
    }

    /// Broadcasts the changes of interest.
    async fn publish_interest(&self) {
        loop {
            let changes = self.interests.own.lock().take_changes();
            let Some((number, added, dropped)) = changes else {
                return;
            };
            let message = Message::Interest {
                node: self.node,
                number,
                is_all: false,
                added: added.into(),
                dropped: dropped.into(),
            };
            self.broadcast(&message).await;
        }
    }

    /// Sends all interest to a broker.
    async fn send_interest(&self, to: NodeId) {
        let (number, subjects) = {
            let own = self.interests.own.lock();
            (own.number, own.watched.iter().cloned().collect::<Vec<_>>())
        };
        let (mut rest, mut is_all) = (&subjects[..], true);
        while is_all || !rest.is_empty() {
            let (now, later) = part(rest, |subject| subject.len());
            let message = Message::Interest {
                node: self.node,
                number,
                is_all,
                added: now.into(),
                dropped: [][..].into(),
            };
            self.bus.publish(self.to_node(to, &message)).await;
            (rest, is_all) = (later, false);
        }
    }

    /// Sends members to the brokers that watch them. With `digests`, also what each should know then.
    async fn send_members(&self, digests: bool) {
        let Some(broker) = self.broker() else { return };
        let (updates, digests) = match digests {
            false => (broker.presence.take_updates(), Vec::new()),
            true => {
                let others = self.interests.others.lock();
                let watching = others.iter().filter(|(_, other)| !other.watched.is_empty());
                let watching = watching.map(|(node, other)| (node.0, &other.watched));
                let (updates, digests) = broker.presence.take_with_digests(watching);
                let number = |node| others.get(&node).map_or(0, |other| other.number);
                let digests = digests.into_iter().map(|(peer, digest)| {
                    let node = NodeId(peer);
                    (node, number(node), digest)
                });
                (updates, digests.collect())
            }
        };
        drop(broker);
        for (to, update) in updates {
            for message in self.messages_of(&update) {
                for node in &to {
                    let publication = self.to_node(NodeId(*node), &message);
                    self.bus.publish(publication).await;
                }
            }
        }
        for (to, number, digest) in digests {
            let node = self.node;
            let message = Message::PresenceDigest {
                node,
                number,
                digest,
            };
            self.bus.publish(self.to_node(to, &message)).await;
        }
    }

    /// An update as messages that are not too large.
    fn messages_of<'a>(&self, update: &'a Update) -> Vec<Message<'a>> {
        let (mut messages, mut is_all) = (Vec::new(), update.is_all);
        let (mut members, mut left) = (&update.members[..], &update.left[..]);
        loop {
            let (some, more) = part(members, |(id, info)| id.len() + info.len());
            let (gone, more_gone) = part(left, |id| id.len());
            messages.push(Message::Members {
                node: self.node,
                subject: &update.subject,
                is_all,
                members: some.into(),
                left: gone.into(),
                count: update.count,
            });
            (members, left, is_all) = (more, more_gone, false);
            if members.is_empty() && left.is_empty() {
                return messages;
            }
        }
    }
}

impl Own {
    /// Takes changes for one publication, and counts it.
    fn take_changes(&mut self) -> Option<Changes> {
        let (mut added, mut dropped) = (Vec::new(), Vec::new());
        let changes: Vec<_> = self
            .changed
            .iter()
            .map(|(one, is)| (one.clone(), *is))
            .collect();
        let (some, _) = part(&changes, |(subject, _)| subject.len());
        for (subject, is_watched) in some {
            self.changed.remove(subject);
            match is_watched {
                // It may have been given up and taken again: its members here are forgotten.
                true => {
                    self.watched.insert(subject.clone());
                    added.push(subject.clone());
                }
                false if self.watched.remove(subject) => dropped.push(subject.clone()),
                false => {}
            }
        }
        if added.is_empty() && dropped.is_empty() {
            return None;
        }
        self.number += 1;
        if !dropped.is_empty() {
            self.dropped = self.number;
        }
        Some((self.number, added, dropped))
    }
}

/// Sends interest, members and digests.
pub(super) async fn exchange_presence(cluster: Arc<Cluster>) {
    let mut digests = interval(DIGESTS);
    digests.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let with_digests = tokio::select! {
            () = cluster.interests.wakes.notified() => false,
            _ = digests.tick() => true,
        };
        if !cluster.is_up() {
            continue;
        }
        cluster.publish_interest().await;
        let asked = std::mem::take(&mut cluster.interests.own.lock().asked);
        for node in asked {
            cluster.send_interest(node).await;
        }
        cluster.send_members(with_digests).await;
        sleep(PAUSE).await;
    }
}

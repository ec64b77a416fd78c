//! Anti-entropy of claims: detects lost publications of claims, and sends their claims again.
//!
//! Every broker numbers its publications of claims from one, and its heartbeat carries the number of the last.
//! A receiver keeps, for each other broker, the number up to which it has received all. If a number is missing
//! (a route between NATS servers was down, a publication was dropped, a subscription was too slow, NATS
//! restarted), the receiver asks that broker for all claims published after the last number without a gap.
//! Claims that are sent again are applied like new ones: the conflict is resolved at whichever broker receives
//! the claim of the other.
//!
//! A broker that has not published any claim needs no claims from before it saw the other broker: each of its
//! own publications is received there, and a conflict is found at that side. So a new broker without ids costs
//! nothing.
//!
//! Cost: 8 bytes for each own id, 72 bytes for each other broker, and a number in each heartbeat. After a gap:
//! one small broadcast, and the claims published since, to the broker that asked.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    Cluster,
    bus::{NodeId, Publication, ReplyAddress},
    message::{self, Message},
};

/// Time without any part of an answer after which claims are asked for again.
const RETRY: Duration = Duration::from_secs(3);
/// Time between the end of a repair and the next request to the same broker.
const PAUSE: Duration = Duration::from_millis(500);
/// Limit of brokers whose publications are tracked. Beyond it the one silent for longest is forgotten; if it
/// comes back, all of its claims are asked for.
const MAX_STREAMS: usize = 4096;

/// The publications of claims received from each other broker.
#[derive(Debug, Default)]
pub(super) struct Streams {
    of: Mutex<HashMap<NodeId, ClaimStream>>,
}

/// The publications received from one broker.
#[derive(Debug)]
struct ClaimStream {
    /// All publications up to this number were received.
    received: u64,
    /// The first and the last number of the publications received since the last gap.
    run: Option<(u64, u64)>,
    /// When claims were last asked for, or a part of them was received.
    asked: Option<Instant>,
    /// Number of parts of the answer received so far; none while no answer is awaited, or after a part of it
    /// was lost.
    parts: Option<u32>,
    seen: Instant,
}

impl ClaimStream {
    fn new(received: u64, now: Instant) -> Self {
        Self {
            received,
            run: None,
            asked: None,
            parts: None,
            seen: now,
        }
    }

    fn receive(&mut self, number: u64) {
        if number <= self.received {
            return;
        }
        self.run = match self.run {
            Some((first, last)) if (first..=last + 1).contains(&number) => {
                Some((first, last.max(number)))
            }
            _ => Some((number, number)),
        };
        self.join();
    }

    /// Records that all publications up to this number were received, one by one or by a repair.
    fn receive_all(&mut self, number: u64) {
        self.received = self.received.max(number);
        self.join();
    }

    fn join(&mut self) {
        if let Some((_, last)) = self.run.take_if(|(first, _)| *first <= self.received + 1) {
            self.received = self.received.max(last);
        }
    }

    /// Returns the number after which to ask for claims, if a request is due.
    fn next_request(&mut self, now: Instant) -> Option<u64> {
        let pause = match self.parts {
            Some(_) => RETRY,
            None => PAUSE,
        };
        if self.asked.is_some_and(|asked| now - asked < pause) {
            return None;
        }
        (self.asked, self.parts) = (Some(now), Some(0));
        Some(self.received)
    }
}

impl Streams {
    /// Records the number of publications in a heartbeat. `is_new`: this broker has not published any claim.
    /// Returns the number after which to ask for claims, if they are missing.
    fn observe(&self, node: NodeId, last: u64, is_new: bool, now: Instant) -> Option<u64> {
        let start = if is_new { last } else { 0 };
        self.with(node, start, now, |stream| match last > stream.received {
            true => stream.next_request(now),
            false => None,
        })
    }

    /// Records a publication of claims. Returns the number after which to ask for claims, if they are missing.
    fn receive(&self, node: NodeId, number: u64, is_new: bool, now: Instant) -> Option<u64> {
        let start = if is_new { number - 1 } else { 0 };
        self.with(node, start, now, |stream| {
            stream.receive(number);
            match stream.run {
                Some(_) => stream.next_request(now),
                None => None,
            }
        })
    }

    /// Records a part of a repair. `all`: in the last part, the number up to which the repair has all claims.
    fn receive_part(&self, node: NodeId, part: u32, all: Option<u64>, now: Instant) {
        let mut streams = self.of.lock();
        let Some(stream) = streams.get_mut(&node) else {
            return;
        };
        // Parts of one answer come in order; part 0 begins a new answer.
        let is_next = part == 0 || stream.parts == Some(part);
        (stream.seen, stream.asked) = (now, Some(now));
        stream.parts = is_next.then_some(part + 1);
        if let Some(all) = all {
            if is_next {
                stream.receive_all(all);
            }
            stream.parts = None;
        }
    }

    fn with<T>(
        &self,
        node: NodeId,
        start: u64,
        now: Instant,
        change: impl FnOnce(&mut ClaimStream) -> T,
    ) -> T {
        let mut streams = self.of.lock();
        if streams.len() >= MAX_STREAMS && !streams.contains_key(&node) {
            let oldest = streams.iter().min_by_key(|(_, stream)| stream.seen);
            if let Some(oldest) = oldest.map(|(node, _)| *node) {
                streams.remove(&oldest);
            }
        }
        let stream = streams
            .entry(node)
            .or_insert_with(|| ClaimStream::new(start, now));
        stream.seen = now;
        change(stream)
    }

    /// Removes a broker that has left.
    pub(super) fn forget(&self, node: NodeId) {
        self.of.lock().remove(&node);
    }
}

/// Brokers that asked for claims of this one, each with the number after which.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    wanted: Mutex<HashMap<NodeId, u64>>,
    wakes: Notify,
}

impl Cluster {
    /// Compares the number of publications in a heartbeat with those received, and asks for missing claims.
    pub(super) fn observe_published(&self, node: NodeId, last: u64) {
        let missed = (self.streams).observe(node, last, self.is_new(), Instant::now());
        self.request_missing(node, missed);
    }

    /// Records a received publication of claims, and asks for missing claims. Numbers begin with one: zero is damaged.
    pub(super) fn received_claims(&self, node: NodeId, number: u64) {
        if number > 0 {
            let missed = (self.streams).receive(node, number, self.is_new(), Instant::now());
            self.request_missing(node, missed);
        }
    }

    /// True until this broker publishes a claim.
    fn is_new(&self) -> bool {
        self.published.load(Relaxed) == 0
    }

    fn request_missing(&self, node: NodeId, missed: Option<u64>) {
        let Some(after) = missed else { return };
        let message = Message::Missed {
            node: self.node,
            of: node,
            after,
        };
        // If there is no room now, the next heartbeat triggers the request again.
        let _ = self.bus.try_publish(Publication {
            subject: self.subjects.all(),
            reply: None,
            payload: message.encode().into(),
        });
    }

    /// Queues a repair for a broker that asked for the claims published after this number.
    pub(super) fn queue_repair(&self, node: NodeId, after: u64) {
        let mut wanted = self.repairs.wanted.lock();
        let least = wanted.entry(node).or_insert(after);
        *least = (*least).min(after);
        drop(wanted);
        self.repairs.wakes.notify_one();
    }

    /// Sends a broker the claims that it asked for.
    async fn send_repair(&self, node: NodeId, after: u64) {
        // Read before the claims: later publications may be among them, but need not.
        let last = self.published.load(Relaxed);
        let claims = self.claims.published_after(after);
        let subject = self.subjects.reply(ReplyAddress { node, number: 0 });
        let mut rest = &claims[..];
        for part in 0.. {
            let (now, later) = message::part_of_claims(rest);
            let repair = Message::Repair {
                node: self.node,
                part,
                all: later.is_empty().then_some(last),
                claims: now.into(),
            };
            let publication = Publication {
                subject: subject.clone(),
                reply: None,
                payload: repair.encode().into(),
            };
            self.bus.publish(publication).await;
            rest = later;
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Records a part of the claims that this broker asked for.
    pub(super) fn received_repair(&self, node: NodeId, part: u32, all: Option<u64>) {
        (self.streams).receive_part(node, part, all, Instant::now());
    }
}

/// Sends repairs to the brokers that asked for them, one after the other.
pub(super) async fn send_repairs(cluster: Arc<Cluster>) {
    loop {
        cluster.repairs.wakes.notified().await;
        let wanted = std::mem::take(&mut *cluster.repairs.wanted.lock());
        for (node, after) in wanted {
            cluster.send_repair(node, after).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    #[test]
    fn publications_without_a_gap_are_not_asked_for() {
        let (streams, now) = (Streams::default(), Instant::now());
        for number in 1..5 {
            assert_eq!(streams.receive(NODE, number, false, now), None);
            assert_eq!(streams.observe(NODE, number, false, now), None);
        }
        // Publications and heartbeats that come late are ignored.
        assert_eq!(streams.observe(NODE, 2, false, now), None);
        assert_eq!(streams.receive(NODE, 2, false, now), None);
    }

    #[test]
    fn a_gap_is_asked_for_once_until_its_answer_is_late() {
        let (streams, now) = (Streams::default(), Instant::now());
        assert_eq!(streams.receive(NODE, 1, false, now), None);
        assert_eq!(streams.receive(NODE, 3, false, now), Some(1));
        assert_eq!(streams.receive(NODE, 4, false, now), None);
        assert_eq!(streams.observe(NODE, 4, false, now), None);
        let late = now + RETRY;
        assert_eq!(streams.observe(NODE, 4, false, late), Some(1));
        // A part of the answer is lost: all of it is asked for again, after a pause.
        streams.receive_part(NODE, 0, None, late);
        streams.receive_part(NODE, 2, Some(4), late);
        assert_eq!(streams.observe(NODE, 4, false, late), None);
        let later = late + PAUSE;
        assert_eq!(streams.observe(NODE, 4, false, later), Some(1));
        streams.receive_part(NODE, 0, None, later);
        streams.receive_part(NODE, 1, Some(3), later);
        // Publication 4 was received meanwhile.
        assert_eq!(streams.observe(NODE, 4, false, later + RETRY), None);
        assert_eq!(streams.receive(NODE, 5, false, later + RETRY), None);
    }

    #[test]
    fn publications_received_during_a_repair_count_only_without_a_gap() {
        let (streams, now) = (Streams::default(), Instant::now());
        assert_eq!(streams.observe(NODE, 9, false, now), Some(0));
        for number in [10, 11, 13] {
            assert_eq!(streams.receive(NODE, number, false, now), None);
        }
        streams.receive_part(NODE, 0, Some(9), now);
        // 10 and 11 are sent again: only the last run is remembered.
        let later = now + PAUSE;
        assert_eq!(streams.observe(NODE, 13, false, later), Some(9));
        streams.receive_part(NODE, 0, Some(12), later);
        assert_eq!(streams.observe(NODE, 13, false, later + RETRY), None);
    }

    #[test]
    fn a_broker_without_publications_asks_for_no_earlier_claims() {
        let (streams, now) = (Streams::default(), Instant::now());
        assert_eq!(streams.observe(NODE, 9, true, now), None);
        assert_eq!(streams.receive(NodeId(2), 9, true, now), None);
        assert_eq!(streams.observe(NODE, 10, true, now), Some(9));
        assert_eq!(streams.receive(NodeId(2), 11, false, now), Some(9));
        streams.forget(NODE);
        assert_eq!(streams.receive(NODE, 2, false, now), Some(0));
    }

    #[test]
    fn the_number_of_tracked_brokers_is_limited() {
        let (streams, now) = (Streams::default(), Instant::now());
        for node in 0..2 * MAX_STREAMS as u64 {
            let later = now + Duration::from_millis(node);
            streams.observe(NodeId(node), 1, false, later);
        }
        let known = streams.of.lock();
        assert_eq!(known.len(), MAX_STREAMS);
        assert!(!known.contains_key(&NodeId(0)));
    }
}

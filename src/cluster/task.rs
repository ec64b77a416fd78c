//! The cluster's task: follows the state of the connection to NATS, sends heartbeats and does periodic work.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    ANSWER_TIMEOUT, Cluster,
    broadcast::receive_broadcasts,
    credit,
    direct::receive_direct,
    message::{Message, Refusal},
    patterns::follow_patterns,
    presence::exchange_presence,
    repair::send_repairs,
    topics::publish_queued,
};
use crate::{
    broker::{Broker, requests::DeliveryError},
    event::{ClusterEvent, ServerEvent},
    metrics::ClusterStats,
};

/// Interval of heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Interval of the sweep over handles, nodes and receipts.
const SWEEP: Duration = Duration::from_millis(250);
/// Interval at which a closing broker checks whether its connections have ended.
const CLOSING_POLL: Duration = Duration::from_millis(10);
/// An error is reported at most once in this time: connecting is retried continuously.
const REPEAT_AFTER: Duration = Duration::from_secs(30);
/// Limit of different errors reported in that time.
const MAX_ERRORS: usize = 16;

/// An event of the connection to the bus.
#[derive(Debug)]
pub(crate) enum BusEvent {
    Up,
    Down,
    /// Deliveries to this broker were lost.
    Lagged,
    /// An error of NATS or its client library.
    Failed(String),
}

impl Cluster {
    /// Starts the cluster's task. It ends with the server.
    pub(crate) fn start(
        self: &Arc<Self>,
        broker: &Arc<Broker>,
        events: mpsc::Receiver<BusEvent>,
        closing: watch::Receiver<bool>,
    ) {
        let _ = self.broker.set(Arc::downgrade(broker));
        self.runtime.spawn(run(self.clone(), events, closing));
    }

    pub(crate) fn stats(&self) -> ClusterStats {
        ClusterStats {
            connected: self.is_confirmed(),
            brokers: self.nodes.names().len() + 1,
            claims: self.claims.count(),
            remotes: self.remotes.count(),
            received: self.counters.received.load(Relaxed),
            unreachable: self.counters.unreachable.load(Relaxed),
            lagged: self.counters.lagged.load(Relaxed),
            late: self.counters.late.load(Relaxed),
            lost: self.counters.lost.load(Relaxed),
        }
    }

    /// Handles a working connection. If its number is new, an earlier connection was lost.
    fn connected(self: &Arc<Self>, broker: &Broker, number: &mut u64) {
        let now = self.bus.connections();
        if std::mem::replace(number, now) != now {
            self.down(broker);
        }
        if !self.is_up() {
            self.up();
        }
    }

    /// Begins an epoch after connecting: subscribes to all ids, and broadcasts unpublished claims. Claims lost
    /// with an earlier connection are repaired.
    fn up(self: &Arc<Self>) {
        self.begin_epoch(1);
        *self.connected_at.lock() = Instant::now();
        self.nodes.reset_liveness();
        self.up.store(true, Relaxed);
        // There may be many ids, and heartbeats must not wait for them.
        let cluster = self.clone();
        self.runtime.spawn(async move {
            for (id, stopped) in cluster.claims.unsubscribed() {
                cluster.spawn_listener(id, stopped).await;
            }
            let mut subscriptions = cluster.subscription_rounds.lock();
            subscriptions.running -= 1;
            cluster.update_subscribed_epoch(&subscriptions);
        });
        self.queue_claims(self.claims.unpublished());
    }

    /// Begins an epoch: earlier packets to this broker may be lost. `rounds`: number of rounds over all ids
    /// that begin with it.
    fn begin_epoch(&self, rounds: usize) {
        let mut subscriptions = self.subscription_rounds.lock();
        subscriptions.running += rounds;
        subscriptions.epoch = self.epoch.fetch_add(1, Relaxed) + 1;
        self.update_subscribed_epoch(&subscriptions);
        drop(subscriptions);
        // After the change of the epoch: handles created in between are of the former epoch and end here too.
        self.end_all(DeliveryError::ClusterDown);
    }

    /// Updates the subscribed epoch once no round is running, including those of earlier connections: NATS then
    /// has the subscriptions of all ids.
    fn update_subscribed_epoch(&self, subscriptions: &SubscriptionRounds) {
        if subscriptions.running == 0 {
            self.subscribed_epoch.store(subscriptions.epoch, Relaxed);
            self.heartbeat_due.notify_one();
        }
    }

    /// True if NATS is reachable and has delivered this broker's own heartbeat of this epoch.
    fn is_confirmed(&self) -> bool {
        self.is_up() && self.reported_up_epoch.load(Relaxed) == self.epoch()
    }

    /// Handles this broker's own heartbeat: NATS has read all that was written before it, including
    /// subscriptions.
    pub(super) fn on_own_heartbeat(&self, broker: &Broker, epoch: u32) {
        if epoch == self.epoch()
            && epoch == self.subscribed_epoch.load(Relaxed)
            && self.reported_up_epoch.swap(epoch, Relaxed) != epoch
            && self.is_up()
        {
            let event = ServerEvent::Cluster(ClusterEvent::Up);
            broker.listener.event(event);
        }
    }

    fn down(&self, broker: &Broker) {
        if !self.up.swap(false, Relaxed) {
            return;
        }
        self.counters.lost.fetch_add(1, Relaxed);
        self.end_all(DeliveryError::ClusterDown);
        let event = ServerEvent::Cluster(ClusterEvent::Down);
        broker.listener.event(event);
    }

    /// Handles lost deliveries: begins an epoch, so that requests that depend on them fail.
    fn lagged(&self, broker: &Broker) {
        self.counters.lagged.fetch_add(1, Relaxed);
        let event = ServerEvent::Cluster(ClusterEvent::Lagged);
        broker.listener.event(event);
        // Lost claims are detected by their numbers.
        self.begin_epoch(0);
    }
}

impl Cluster {
    /// Emits an error as an event, unless it was emitted recently.
    fn report(&self, broker: &Broker, reason: &str) {
        if (self.errors.lock()).should_report(reason, Instant::now()) {
            let event = ServerEvent::Cluster(ClusterEvent::Failed(reason));
            broker.listener.event(event);
        }
    }

    /// Decodes a message of another broker. None if it is refused, which is reported: for another version of the
    /// format only the heartbeats, which name their broker.
    pub(super) fn decode<'a>(&self, payload: &'a [u8]) -> Option<Message<'a>> {
        match Message::decode(payload) {
            Ok(message) => Some(message),
            Err(Refusal::Version { name: None, .. } | Refusal::Malformed) => None,
            Err(refusal) => {
                if let Some(broker) = self.broker() {
                    self.report(&broker, &refusal.to_string());
                }
                None
            }
        }
    }
}

/// Errors reported recently, and when.
#[derive(Debug, Default)]
pub(super) struct ErrorThrottle {
    reported: Vec<(String, Instant)>,
}

impl ErrorThrottle {
    /// True if an error must be reported.
    fn should_report(&mut self, reason: &str, now: Instant) -> bool {
        self.reported
            .retain(|(_, reported)| now - *reported < REPEAT_AFTER);
        let is_new =
            self.reported.len() < MAX_ERRORS && self.reported.iter().all(|(one, _)| one != reason);
        if is_new {
            self.reported.push((reason.to_owned(), now));
        }
        is_new
    }

    /// The last error reported.
    fn last(&self) -> &str {
        let last = self.reported.last().map(|(reason, _)| reason.as_str());
        last.unwrap_or("no server answered in time")
    }
}

/// Rounds over all ids that subscribe to each.
#[derive(Debug, Default)]
pub(super) struct SubscriptionRounds {
    /// Number of rounds running.
    running: usize,
    /// The epoch of the present or last connection.
    epoch: u32,
}

/// Runs the cluster until the server closes.
async fn run(
    cluster: Arc<Cluster>,
    mut events: mpsc::Receiver<BusEvent>,
    mut closing: watch::Receiver<bool>,
) {
    let is_closing = async |closing: &mut watch::Receiver<bool>| {
        let _ = closing.wait_for(|closing| *closing).await;
    };
    let subscriptions = async {
        let node = cluster
            .bus
            .subscribe(cluster.subjects.node(cluster.node), None)
            .await;
        let all = cluster.bus.subscribe(cluster.subjects.all(), None).await;
        (node, all)
    };
    let subscriptions = tokio::select! {
        subscriptions = subscriptions => subscriptions,
        () = is_closing(&mut closing) => return,
    };
    let (Ok(node), Ok(all)) = subscriptions else {
        return;
    };
    // A task for each, so that broadcasts and direct deliveries do not wait for one another.
    let direct = tokio::spawn(receive_direct(cluster.clone(), node));
    let broadcasts = tokio::spawn(receive_broadcasts(cluster.clone(), all));
    let mut missing = cluster.required.map(|within| Instant::now() + within);
    let (mut connection, mut has_lagged) = (0, false);
    let claims = tokio::spawn(broadcast_claims(cluster.clone()));
    let heartbeats = tokio::spawn(send_heartbeats(cluster.clone()));
    let repairs = tokio::spawn(send_repairs(cluster.clone()));
    let credits = tokio::spawn(credit::return_credit(cluster.clone()));
    let publications = tokio::spawn(publish_queued(cluster.clone()));
    let patterns = tokio::spawn(follow_patterns(cluster.clone()));
    let presence = tokio::spawn(exchange_presence(cluster.clone()));
    let mut heartbeat = interval(HEARTBEAT);
    let mut sweep = interval(SWEEP);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            () = is_closing(&mut closing) => break,
            event = events.recv() => match event {
                Some(event) => event,
                None => break,
            },
            _ = heartbeat.tick() => {
                if cluster.is_up() {
                    cluster.heartbeat_due.notify_one();
                }
                continue;
            }
            _ = sweep.tick() => {
                let now = Instant::now();
                cluster.receipts.expire(now);
                if cluster.is_confirmed() {
                    missing = None;
                }
                if missing.is_some_and(|deadline| deadline <= now) {
                    missing = None;
                    if let Some(broker) = cluster.broker() {
                        let reason = cluster.errors.lock().last().to_owned();
                        let event = ServerEvent::Cluster(ClusterEvent::Missing(&reason));
                        broker.listener.event(event);
                        broker.close();
                    }
                }
                // The queue of events may overflow, so the state is polled too.
                if let Some(broker) = cluster.broker() {
                    match cluster.bus.is_connected() {
                        true => cluster.connected(&broker, &mut connection),
                        false => cluster.down(&broker),
                    }
                    if cluster.is_up() {
                        cluster.sweep(&broker);
                    }
                    if std::mem::take(&mut has_lagged) && cluster.is_up() {
                        cluster.lagged(&broker);
                    }
                }
                continue;
            }
        };
        let Some(broker) = cluster.broker() else {
            break;
        };
        match event {
            BusEvent::Up => cluster.connected(&broker, &mut connection),
            BusEvent::Down => cluster.down(&broker),
            // NATS may report each lost message.
            BusEvent::Lagged => has_lagged = true,
            BusEvent::Failed(reason) => cluster.report(&broker, &reason),
        }
    }
    // Connections that are closing may still need other brokers for messages in flight.
    let has_connections = || (cluster.broker()).is_some_and(|broker| broker.connection_count() > 0);
    let connections_end = async {
        while has_connections() {
            sleep(CLOSING_POLL).await;
        }
    };
    let _ = timeout(ANSWER_TIMEOUT, connections_end).await;
    if cluster.is_up() {
        let node = cluster.node;
        let bye = async {
            cluster.broadcast(&Message::Bye { node }).await;
            cluster.bus.flush().await;
        };
        let _ = timeout(ANSWER_TIMEOUT, bye).await;
    }
    cluster.up.store(false, Relaxed);
    cluster.end_all(DeliveryError::ClusterDown);
    cluster.ended.send_replace(true);
    direct.abort();
    claims.abort();
    heartbeats.abort();
    repairs.abort();
    credits.abort();
    publications.abort();
    patterns.abort();
    presence.abort();
    broadcasts.abort();
    cluster.bus.close();
}

/// Broadcasts queued claims, batching those that come meanwhile.
async fn broadcast_claims(cluster: Arc<Cluster>) {
    loop {
        cluster.claims_queued.notified().await;
        let claims = std::mem::take(&mut *cluster.queued_claims.lock());
        cluster.publish_claims(&claims).await;
    }
}

/// Broadcasts heartbeats when due, in a task of its own: if the bus has no room, only heartbeats wait.
async fn send_heartbeats(cluster: Arc<Cluster>) {
    loop {
        cluster.heartbeat_due.notified().await;
        cluster.publish_heartbeat().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_errors_are_throttled_and_their_number_is_limited() {
        let mut errors = ErrorThrottle::default();
        let start = Instant::now();
        assert_eq!(errors.last(), "no server answered in time");
        for seconds in 0..29 {
            let now = start + Duration::from_secs(seconds);
            let should_report = ["a", "b"].map(|reason| errors.should_report(reason, now));
            assert_eq!(should_report, [seconds == 0; 2]);
        }
        assert_eq!(errors.last(), "b");
        let later = start + REPEAT_AFTER;
        let reported = (0..99).filter(|n| errors.should_report(&n.to_string(), later));
        assert_eq!(reported.count(), MAX_ERRORS);
        assert!(!errors.should_report("a", later));
        assert!(errors.should_report("a", later + REPEAT_AFTER));
    }
}

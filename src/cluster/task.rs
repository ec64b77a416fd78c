//! The cluster's task: follows the state of the connection to NATS, sends heartbeats and does periodic work.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{ANSWER, Cluster, bus::Inlet, credit, gossip::Gossip, repair::repair_all};
use crate::{
    broker::{Broker, requests::DeliveryError},
    event::{ClusterEvent, ServerEvent},
    metrics::ClusterStats,
};

/// Interval of heartbeats.
const BEAT: Duration = Duration::from_secs(1);
/// Interval of the sweep over handles, nodes and receipts.
const LOOK: Duration = Duration::from_millis(250);
/// Interval at which a closing broker checks whether its connections have ended.
const CLOSING_STEP: Duration = Duration::from_millis(10);
/// An error is reported at most once in this time: connecting is retried continuously.
const TELL_AGAIN: Duration = Duration::from_secs(30);
/// Limit of different errors reported in that time.
const TELL_MOST: usize = 16;

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
            connected: self.is_heard(),
            brokers: self.nodes.names().len() + 1,
            claims: self.claims.count(),
            remotes: self.remotes.count(),
            received: self.counters.received.load(Relaxed),
            unreachable: self.counters.unreachable.load(Relaxed),
            lagged: self.counters.lagged.load(Relaxed),
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
        *self.since.lock() = Instant::now();
        self.nodes.forgive();
        self.up.store(true, Relaxed);
        // There may be many ids, and heartbeats must not wait for them.
        let cluster = self.clone();
        self.runtime.spawn(async move {
            for (id, stopped) in cluster.claims.unsubscribed() {
                cluster.listen(id, stopped).await;
            }
            let mut listening = cluster.listening.lock();
            listening.rounds -= 1;
            cluster.has_listened(&listening);
        });
        self.queue_claims(self.claims.unpublished());
    }

    /// Begins an epoch: earlier packets to this broker may be lost. `rounds`: number of rounds over all ids
    /// that begin with it.
    fn begin_epoch(&self, rounds: usize) {
        let mut listening = self.listening.lock();
        listening.rounds += rounds;
        listening.epoch = self.epoch.fetch_add(1, Relaxed) + 1;
        self.has_listened(&listening);
        drop(listening);
        // After the change of the epoch: handles created in between are of the former epoch and end here too.
        self.lose_all(DeliveryError::ClusterDown);
    }

    /// Once no round is running (of an earlier connection neither), NATS has the subscriptions of all ids.
    fn has_listened(&self, listening: &Listening) {
        if listening.rounds == 0 {
            self.listened.store(listening.epoch, Relaxed);
            self.beats.notify_one();
        }
    }

    /// Broadcasts the begin of a drain at once.
    pub(crate) fn broadcast_drain(&self) {
        if self.is_up() {
            self.beats.notify_one();
        }
    }

    /// True if NATS is reachable and has delivered this broker's own heartbeat of this epoch.
    fn is_heard(&self) -> bool {
        self.is_up() && self.reported_up_epoch.load(Relaxed) == self.epoch()
    }

    /// Handles this broker's own heartbeat: NATS has read all that was written before it, including
    /// subscriptions.
    pub(super) fn on_own_beat(&self, broker: &Broker, epoch: u32) {
        if epoch == self.epoch()
            && epoch == self.listened.load(Relaxed)
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
        self.lose_all(DeliveryError::ClusterDown);
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

/// Errors reported recently, and when.
#[derive(Debug, Default)]
struct ErrorThrottle {
    told: Vec<(String, Instant)>,
}

impl ErrorThrottle {
    /// True if an error must be reported.
    fn are_new(&mut self, reason: &str, now: Instant) -> bool {
        self.told.retain(|(_, told)| now - *told < TELL_AGAIN);
        let is_new = self.told.len() < TELL_MOST && self.told.iter().all(|(one, _)| one != reason);
        if is_new {
            self.told.push((reason.to_owned(), now));
        }
        is_new
    }

    /// The last error reported.
    fn last(&self) -> &str {
        let last = self.told.last().map(|(reason, _)| reason.as_str());
        last.unwrap_or("no server answered in time")
    }
}

/// Rounds over all ids that subscribe to each.
#[derive(Debug, Default)]
pub(super) struct Listening {
    /// Number of rounds running.
    rounds: usize,
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
    let inlets = async {
        let node = cluster
            .bus
            .subscribe(cluster.subjects.node(cluster.node), false)
            .await;
        let all = cluster.bus.subscribe(cluster.subjects.all(), false).await;
        (node, all)
    };
    let inlets = tokio::select! {
        inlets = inlets => inlets,
        () = is_closing(&mut closing) => return,
    };
    let (Ok(node), Ok(all)) = inlets else { return };
    // A task for each, so that broadcasts and direct deliveries do not wait for one another.
    let taking = tokio::spawn(take_all(cluster.clone(), node));
    let hearing = tokio::spawn(receive_broadcasts(cluster.clone(), all));
    let mut missing = cluster.required.map(|within| Instant::now() + within);
    let mut troubles = ErrorThrottle::default();
    let (mut connection, mut lags) = (0, false);
    let telling = tokio::spawn(broadcast_claims(cluster.clone()));
    let beating = tokio::spawn(beat_all(cluster.clone()));
    let repairing = tokio::spawn(repair_all(cluster.clone()));
    let crediting = tokio::spawn(credit::return_credit(cluster.clone()));
    let mut beat = interval(BEAT);
    let mut look = interval(LOOK);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            () = is_closing(&mut closing) => break,
            event = events.recv() => match event {
                Some(event) => event,
                None => break,
            },
            _ = beat.tick() => {
                if cluster.is_up() {
                    cluster.beats.notify_one();
                }
                continue;
            }
            _ = look.tick() => {
                let now = Instant::now();
                cluster.receipts.expire(now);
                if cluster.is_heard() {
                    missing = None;
                }
                if missing.is_some_and(|deadline| deadline <= now) {
                    missing = None;
                    if let Some(broker) = cluster.broker() {
                        let event = ServerEvent::Cluster(ClusterEvent::Missing(troubles.last()));
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
                    if std::mem::take(&mut lags) && cluster.is_up() {
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
            BusEvent::Lagged => lags = true,
            BusEvent::Failed(reason) => {
                if troubles.are_new(&reason, Instant::now()) {
                    let event = ServerEvent::Cluster(ClusterEvent::Failed(&reason));
                    broker.listener.event(event);
                }
            }
        }
    }
    // Connections that were told to close may still need other brokers for what is in flight.
    let has_connections = || (cluster.broker()).is_some_and(|broker| broker.connection_count() > 0);
    let connections_end = async {
        while has_connections() {
            sleep(CLOSING_STEP).await;
        }
    };
    let _ = timeout(ANSWER, connections_end).await;
    if cluster.is_up() {
        let node = cluster.node.to_string();
        let bye = async {
            cluster.broadcast(&Gossip::Bye { node }).await;
            cluster.bus.flush().await;
        };
        let _ = timeout(ANSWER, bye).await;
    }
    cluster.up.store(false, Relaxed);
    cluster.lose_all(DeliveryError::ClusterDown);
    cluster.ended.send_replace(true);
    taking.abort();
    telling.abort();
    beating.abort();
    repairing.abort();
    crediting.abort();
    hearing.abort();
    cluster.bus.close();
}

async fn take_all(cluster: Arc<Cluster>, mut inlet: Box<dyn Inlet>) {
    while let Some(delivery) = inlet.next().await {
        let Some(broker) = cluster.broker() else {
            return;
        };
        cluster.take(&broker, delivery);
    }
}

/// Broadcasts queued claims, batching those that come meanwhile.
async fn broadcast_claims(cluster: Arc<Cluster>) {
    loop {
        cluster.tells.notified().await;
        let claims = std::mem::take(&mut *cluster.untold.lock());
        cluster.publish_claims(&claims).await;
    }
}

/// Broadcasts heartbeats when due, in a task of its own: if the bus has no room, only heartbeats wait.
async fn beat_all(cluster: Arc<Cluster>) {
    loop {
        cluster.beats.notified().await;
        cluster.say_beat().await;
    }
}

async fn receive_broadcasts(cluster: Arc<Cluster>, mut inlet: Box<dyn Inlet>) {
    while let Some(delivery) = inlet.next().await {
        let Some(broker) = cluster.broker() else {
            return;
        };
        cluster.on_broadcast(&broker, &delivery.payload).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_told_now_and_then_and_of_many_some() {
        let mut troubles = ErrorThrottle::default();
        let start = Instant::now();
        assert_eq!(troubles.last(), "no server answered in time");
        for seconds in 0..29 {
            let now = start + Duration::from_secs(seconds);
            let are_new = ["a", "b"].map(|reason| troubles.are_new(reason, now));
            assert_eq!(are_new, [seconds == 0; 2]);
        }
        assert_eq!(troubles.last(), "b");
        let later = start + TELL_AGAIN;
        let told = (0..99).filter(|n| troubles.are_new(&n.to_string(), later));
        assert_eq!(told.count(), TELL_MOST);
        assert!(!troubles.are_new("a", later));
        assert!(troubles.are_new("a", later + TELL_AGAIN));
    }
}

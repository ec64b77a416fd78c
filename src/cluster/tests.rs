//! Tests of the cluster with a bus in memory, for timings and losses that a real NATS server cannot produce.

pub(super) mod test_bus;
mod topic_order;
mod topics;

use std::collections::HashSet;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::{Instant as Clocked, sleep};

use super::{
    bus::Publication,
    claims::{Owner, Stamp},
    message::Message,
    *,
};
use crate::broker::lease::{Lease, LeaseState};
use test_bus::{TestBroker, TestBus, TestConnection};

/// A cluster of one broker that is connected but receives nothing: claims take until the timeout.
pub(crate) fn alone(runtime: &Runtime) -> Arc<Cluster> {
    let bus = Arc::new(TestConnection::isolated());
    let options = NatsOptions::new(vec!["127.0.0.1".to_owned()]);
    let cluster = Cluster::new(bus, &options, runtime);
    cluster.up.store(true, Relaxed);
    cluster
}

/// As `alone`, but another broker has just announced that it drains.
pub(crate) fn beside_draining(runtime: &Runtime) -> Arc<Cluster> {
    let cluster = alone(runtime);
    cluster.handover.observe_drain();
    cluster
}

/// True if a message of this sender (its id as JSON) that was sent before the owner arrived would be delivered.
pub(crate) fn delivers_earlier(cluster: &Cluster, owner: &Handle, sender: &str) -> bool {
    (cluster.handover).deliver_unless_overtaken(owner, sender, || true)
}

#[tokio::test(start_paused = true)]
async fn a_claim_lost_before_its_broadcast_resolves_at_once() {
    let (connection, allow_subscription) = TestConnection::with_blocked_subscriptions();
    let bus = Arc::new(connection);
    let options = NatsOptions::new(vec!["127.0.0.1".to_owned()]);
    let cluster = Cluster::new(bus.clone(), &options, &Runtime::current());
    cluster.up.store(true, Relaxed);
    let begun = Clocked::now();
    let claiming = tokio::spawn(cluster.claim("a".into(), None, false));
    bus.subscribing().await;
    let newer = Claim::new(
        "a".into(),
        Stamp {
            time: cluster.clock.next(),
            node: NodeId(1),
        },
        Owner::Anyone,
    );
    cluster.claims.apply(&newer);
    allow_subscription.add_permits(1);
    let lease = claiming
        .await
        .expect("no panic")
        .expect("no other principal");
    assert_eq!(
        cluster.claims.lease_state(&lease),
        LeaseState::Lost { conflict: false }
    );
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(cluster.unconfirmed_claims.lock().is_empty());
}

/// True for a broadcast of claims.
fn is_claims(publication: &Publication) -> bool {
    let message = Message::decode(&publication.payload);
    matches!(message, Ok(Message::Claims { .. }))
}

/// Starts so many brokers, and waits until they know each other.
async fn brokers(bus: &Arc<TestBus>, count: usize) -> Vec<TestBroker> {
    let mut brokers = Vec::new();
    for number in 0..count {
        brokers.push(TestBroker::start(bus, number).await);
    }
    know_each_other(&brokers).await;
    brokers
}

/// As `brokers`, with servers that use the cluster.
async fn joined_brokers(bus: &Arc<TestBus>, count: usize) -> Vec<TestBroker> {
    let mut brokers = Vec::new();
    for number in 0..count {
        brokers.push(TestBroker::start_joined(bus, number).await);
    }
    know_each_other(&brokers).await;
    brokers
}

async fn know_each_other(brokers: &[TestBroker]) {
    let knows_all = |broker: &TestBroker| broker.cluster.nodes().len() == brokers.len();
    while !brokers.iter().all(knows_all) {
        sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until only the last of these leases is held, and returns the time that took.
async fn wait_for_one_owner(brokers: &[TestBroker], leases: &[(usize, Lease)]) -> Duration {
    let begun = Clocked::now();
    let held = || {
        let is_held = |(broker, lease): &&(usize, Lease)| brokers[*broker].holds(lease);
        leases.iter().filter(is_held).count()
    };
    let last = leases.last().expect("some");
    while held() > 1 {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{} owners",
            held()
        );
        sleep(Duration::from_millis(10)).await;
    }
    assert!(brokers[last.0].holds(&last.1), "the newest has it");
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_lost_claim_is_detected_by_the_next_heartbeat() {
    let bus = Arc::<TestBus>::default();
    let brokers = brokers(&bus, 2).await;
    let former = brokers[0].claim("a").await;
    bus.lose_if(|_, to, publication| to == 0 && is_claims(publication));
    let newer = brokers[1].claim("a").await;
    assert!(brokers[0].holds(&former) && brokers[1].holds(&newer));
    bus.heal();
    let took = wait_for_one_owner(&brokers, &[(0, former), (1, newer)]).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_repair_is_asked_for_again() {
    let bus = Arc::<TestBus>::default();
    let brokers = brokers(&bus, 2).await;
    let former = brokers[0].claim("a").await;
    let mut repairs = 0;
    bus.lose_if(move |_, to, publication| {
        let message = Message::decode(&publication.payload);
        let is_repair = matches!(message, Ok(Message::Repair { .. }));
        repairs += usize::from(is_repair);
        to == 0 && (is_claims(publication) || is_repair && repairs < 3)
    });
    let newer = brokers[1].claim("a").await;
    let took = wait_for_one_owner(&brokers, &[(0, former), (1, newer)]).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn brokers_agree_after_a_partition_with_little_traffic() {
    for seconds in [2, 30] {
        let bus = Arc::<TestBus>::default();
        let brokers = brokers(&bus, 4).await;
        let is_left = |broker: usize| broker < 2;
        // Earlier claims are known, and are not sent again.
        let mut others = Vec::new();
        for number in 0..1000 {
            others.push(brokers[number % 4].claim(&format!("other.{number}")).await);
        }
        bus.lose_if(move |from, to, _| is_left(from) != is_left(to));
        let mut leases = Vec::new();
        for number in 0..20 {
            let id = format!("id.{number}");
            let (left, right) = (number % 2, 2 + number % 2);
            let (first, last) = [(left, right), (right, left)][number % 2];
            leases.push([
                (first, brokers[first].claim(&id).await),
                (last, brokers[last].claim(&id).await),
            ]);
        }
        sleep(Duration::from_secs(seconds)).await;
        bus.heal();
        *bus.published.lock() = (0, 0);
        for leases in &leases {
            let took = wait_for_one_owner(&brokers, leases).await;
            assert!(took < Duration::from_secs(2), "{took:?}");
        }
        let (count, bytes) = *bus.published.lock();
        assert!(count < 100 && bytes < 32 << 10, "{count}, {bytes} bytes");
        for (number, other) in others.iter().enumerate() {
            assert!(brokers[number % 4].holds(other));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_random_losses_each_id_has_one_owner() {
    for seed in 0..20 {
        let bus = Arc::<TestBus>::default();
        let brokers = brokers(&bus, 3).await;
        let mut lost = SmallRng::seed_from_u64(seed);
        let mut random = SmallRng::seed_from_u64(seed + 1000);
        bus.lose_if(move |_, _, _| lost.random_bool(0.5));
        let mut leases: HashMap<u64, Vec<(usize, Lease)>> = HashMap::new();
        for _ in 0..200 {
            let (broker, id) = (random.random_range(0..3), random.random_range(0..20));
            let lease = brokers[broker].claim(&id.to_string()).await;
            leases.entry(id).or_default().push((broker, lease));
            sleep(Duration::from_millis(random.random_range(0..50))).await;
        }
        bus.heal();
        sleep(Duration::from_secs(10)).await;
        for (id, leases) in &leases {
            let holds = |broker: usize| {
                (leases.iter()).any(|(at, lease)| *at == broker && brokers[broker].holds(lease))
            };
            let owners: Vec<_> = (0..3).filter(|broker| holds(*broker)).collect();
            assert_eq!(owners.len(), 1, "seed {seed}, id {id}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_broker_without_ids_is_sent_no_claims() {
    let bus = Arc::<TestBus>::default();
    let mut brokers = brokers(&bus, 1).await;
    let mut leases = Vec::new();
    for number in 0..1000 {
        leases.push(brokers[0].claim(&number.to_string()).await);
    }
    *bus.published.lock() = (0, 0);
    brokers.push(TestBroker::start(&bus, 1).await);
    sleep(Duration::from_secs(5)).await;
    let (_, bytes) = *bus.published.lock();
    assert!(bytes < 4 << 10, "{bytes} bytes");
    // It can take an id nevertheless.
    let former = leases.swap_remove(7);
    let newer = brokers[1].claim("7").await;
    wait_for_one_owner(&brokers, &[(0, former), (1, newer)]).await;
}

#[tokio::test(start_paused = true)]
async fn packets_are_handed_over_in_order_without_credit_from_the_former_owner() {
    const COUNT: u64 = 20;
    let bus = Arc::<TestBus>::default();
    let brokers = brokers(&bus, 3).await;
    let [former, new, sender] = [0, 1, 2].map(|number| &brokers[number].cluster);
    let memory = former.broker().expect("it runs").memory.clone();
    let before = memory.used();
    let handed_over = Arc::<Mutex<Vec<Publication>>>::default();
    let credits = Arc::new(AtomicU64::new(0));
    let (subject, reply) = (former.subjects.id("a"), sender.reply_subject(7));
    let credited = sender.reply_subject(0);
    let (seen, counted, to_id) = (handed_over.clone(), credits.clone(), subject.clone());
    let (mut back, mut news) = (HashSet::new(), HashSet::new());
    bus.lose_if(move |from, to, publication| {
        if from == 0 && to == 2 && publication.subject == credited {
            counted.fetch_add(1, Relaxed);
        }
        if publication.subject != to_id {
            return false;
        }
        // Packets of the sender go to the former broker, and forwarded ones to the new broker or once back to
        // the former one: NATS chooses among the members of a queue group.
        let is_back = from == 0 && {
            let reply = publication.reply.as_deref().and_then(bus::parse_reply);
            let (_, number) = reply.expect("a reply address");
            number % 3 == 0 && (to == 0 && back.insert(number) || to == 1 && news.insert(number))
        };
        let is_lost = match (from, to) {
            (2, 0) => false,
            (0, 0) => !is_back,
            (0, 1) => is_back,
            _ => true,
        };
        if !is_lost && to == 1 {
            seen.lock().push(publication.clone());
        }
        is_lost
    });
    let lease = brokers[0].claim("a").await;
    let _inlet = (new.bus)
        .subscribe(subject.clone(), Some(bus::ID_QUEUE.to_owned()))
        .await;
    let publish = |number: u64| {
        let mut payload = sender.packet_head("a").into_vec();
        payload.resize(payload.len() + 1000, number as u8);
        let publication = Publication {
            subject: subject.clone(),
            reply: Some(format!("{reply}.{number:x}")),
            payload: payload.into(),
        };
        sender.bus.try_publish(publication).expect("room");
    };
    // No connection is registered: these packets wait in the backlog, and the next ones in the subscription.
    (1..=COUNT / 2).for_each(publish);
    while memory.used() < before + (COUNT / 2) as usize * 1000 {
        sleep(Duration::from_millis(1)).await;
    }
    (COUNT / 2 + 1..=COUNT).for_each(publish);
    let newer = Claim::new(
        "a".into(),
        Stamp {
            time: new.clock.next() + 1000,
            node: new.node,
        },
        Owner::Anyone,
    );
    former.handover.mark_moved(&newer, &former.claims);
    former.claims.apply(&newer);
    assert!(!brokers[0].holds(&lease));
    while memory.used() > before {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(!former.hands_over());
    // Delayed credit would have been returned by now.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(credits.load(Relaxed), 0);
    let handed_over = handed_over.lock();
    let numbers: Vec<_> = (handed_over.iter())
        .map(|publication| {
            let reply = publication.reply.as_deref().and_then(bus::parse_reply);
            let (from, number) = reply.expect("a reply address");
            assert_eq!((from.node, from.number), (sender.node, 7));
            assert_eq!(publication.payload.last(), Some(&(number as u8)));
            number
        })
        .collect();
    assert_eq!(numbers, Vec::from_iter(1..=COUNT));
}

#[tokio::test(start_paused = true)]
async fn a_principal_moves_its_id_at_once_while_packets_wait_at_a_draining_broker() {
    let bus = Arc::<TestBus>::default();
    let brokers = brokers(&bus, 2).await;
    let [former, new] = [0, 1].map(|number| brokers[number].cluster.clone());
    let principal = || Some("one".into());
    let claimed = former.claim("a".into(), principal(), false).await;
    let former_lease = claimed.expect("no other principal");
    // No connection is registered.
    let publication = Publication {
        subject: former.subjects.id("a"),
        reply: Some(format!("{}.1", new.reply_subject(7))),
        payload: new.packet_head("a").into_vec().into(),
    };
    new.bus.publish(publication).await;
    sleep(Duration::from_millis(10)).await;
    let begun = Clocked::now();
    let claimed = new.claim("a".into(), principal(), false).await;
    let lease = claimed.expect("the same principal");
    assert!(begun.elapsed() < Duration::from_millis(100));
    wait_for_one_owner(&brokers, &[(0, former_lease), (1, lease)]).await;
}

//! The subscriptions of NATS for topics: one for each pattern that has subscribers at this broker, and one in a queue group
//! for each group of workers that has members here.

use std::{
    collections::{HashMap, HashSet},
    future::ready,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use foldhash::quality::RandomState;
use futures_util::future::OptionFuture;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    task::{coop, yield_now},
    time::{Sleep, sleep},
};

use super::{
    Cluster,
    bus::Subscription,
    message::Message,
    overlaps::{Member, Overlaps},
};
use crate::{broker::topics::groups::GroupId, error};

/// After the last member of a group has left: how many publications more its subscription may get, and the time until it
/// ends. They are passed on.
const LAST_DELIVERIES: u64 = 256;
const LAST_TIME: Duration = Duration::from_secs(1);
/// Deliveries after which a task lets others run.
const YIELD_AFTER: u32 = 128;

/// The patterns of this broker that have changed.
#[derive(Default)]
pub(super) struct Patterns {
    /// Patterns that have got their first subscriber, or have lost their last.
    changed: Mutex<HashSet<Arc<str>, RandomState>>,
    wakes: Notify,
    /// The subscriptions of NATS for subscribers without a group.
    pub(super) overlaps: Arc<Overlaps>,
}

impl Cluster {
    /// Records that a pattern has got its first subscriber, or has lost its last.
    pub(super) fn pattern_changed(&self, pattern: &Arc<str>) {
        self.patterns.changed.lock().insert(pattern.clone());
        self.patterns.wakes.notify_one();
    }
}

/// The receivers of a subscription of NATS: the subscribers of a pattern, or the members of one of its groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) pattern: Arc<str>,
    /// The name and the id of the group.
    pub(super) group: Option<(Arc<str>, GroupId)>,
}

/// A subscription of NATS, and the sender that ends it when it is dropped.
type Subscribed = (Source, oneshot::Sender<()>);

/// Keeps the subscriptions of NATS those of the patterns that have subscribers here, and of their groups.
pub(super) async fn follow_patterns(cluster: Arc<Cluster>) {
    let mut known: HashMap<Arc<str>, Vec<Subscribed>, RandomState> = HashMap::default();
    loop {
        cluster.patterns.wakes.notified().await;
        let changed = std::mem::take(&mut *cluster.patterns.changed.lock());
        for pattern in changed {
            let Some(broker) = cluster.broker() else {
                return;
            };
            // A pattern may have come and gone meanwhile: the present state decides.
            let (has_subscribers, groups) = broker.topics.demand(&pattern);
            drop(broker);
            let groups = groups
                .iter()
                .map(|group| Some((group.name.clone(), group.id)));
            let wanted: Vec<_> = (has_subscribers.then_some(None).into_iter())
                .chain(groups)
                .map(|group| Source {
                    pattern: pattern.clone(),
                    group,
                })
                .collect();
            let sources = known.entry(pattern.clone()).or_default();
            sources.retain(|(source, _)| wanted.contains(source));
            for source in wanted {
                if sources.iter().any(|(known, _)| *known == source) {
                    continue;
                }
                let (stop, stopped) = oneshot::channel();
                if subscribe(&cluster, source.clone(), stopped).await.is_err() {
                    return;
                }
                sources.push((source, stop));
            }
            if sources.is_empty() {
                known.remove(&pattern);
            }
        }
    }
}

/// Subscribes for subscribers or for a group, until the sender of `stopped` is dropped.
async fn subscribe(
    cluster: &Arc<Cluster>,
    source: Source,
    stopped: oneshot::Receiver<()>,
) -> error::Result<()> {
    let (bus, subjects) = (&cluster.bus, &cluster.subjects);
    let subject = subjects.topic(&source.pattern);
    let Some((_, id)) = &source.group else {
        let member = cluster.patterns.overlaps.add(&source.pattern);
        let subscription = bus.subscribe(subject, None).await?;
        let task = receive(cluster.clone(), subscription, member, stopped);
        cluster.runtime.spawn(task);
        return Ok(());
    };
    // Not the name alone: NATS joins the queue groups of one name, whatever their subjects are.
    let queue = Some(id.to_string());
    let passed_on = bus.subscribe(subjects.group(*id), queue.clone()).await?;
    let published = bus.subscribe(subject, queue).await?;
    let task = receive_for_group(cluster.clone(), source, (published, passed_on), stopped);
    cluster.runtime.spawn(task);
    Ok(())
}

/// Receives the packets of a pattern until the sender of `stopped` is dropped, or the cluster ends.
pub(super) async fn receive(
    cluster: Arc<Cluster>,
    mut subscription: Box<dyn Subscription>,
    mut member: Member,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut ended = cluster.ended.subscribe();
    let mut count = 0_u32;
    loop {
        let has_waiting = member.has_waiting();
        let delivery = tokio::select! {
            biased;
            _ = &mut stopped => break,
            _ = ended.wait_for(|ended| *ended) => break,
            // Without tokio's budget, with which a queue may seem to be empty.
            delivery = coop::unconstrained(subscription.next()) => delivery,
            // The queue was empty after the barriers had come.
            () = ready(()), if has_waiting => {
                member.pass();
                continue;
            }
            () = member.barrier() => continue,
        };
        let Some(delivery) = delivery else { break };
        if member.is_young()
            && let Some(Message::Publication { topic, .. }) = cluster.decode(&delivery.payload)
        {
            member.wait_for_older(topic).await;
        }
        cluster.on_publication(&delivery);
        member.handled();
        count = count.wrapping_add(1);
        if count.is_multiple_of(YIELD_AFTER) {
            yield_now().await;
        }
    }
    // Younger ones wait no more: what is left in the queue is not handled.
    drop(member);
    subscription.unsubscribe().await;
}

/// Receives the packets for a group until the sender of `stopped` is dropped, or the cluster ends. NATS may have chosen
/// this broker for some more, which are passed on.
async fn receive_for_group(
    cluster: Arc<Cluster>,
    source: Source,
    (mut published, mut passed_on): (Box<dyn Subscription>, Box<dyn Subscription>),
    mut stopped: oneshot::Receiver<()>,
) {
    let mut ended = cluster.ended.subscribe();
    let mut last_time = pin!(None::<Sleep>);
    loop {
        let is_stopping = last_time.is_some();
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => break,
            _ = &mut stopped, if !is_stopping => last_time.set(Some(sleep(LAST_TIME))),
            Some(()) = OptionFuture::from(last_time.as_mut().as_pin_mut()) => break,
            delivery = published.next() => match delivery {
                Some(delivery) => cluster.on_group_publication(&source, &delivery),
                None => break,
            },
            Some(delivery) = passed_on.next(), if !is_stopping => cluster.on_group_job(&delivery),
        }
        if !is_stopping && last_time.is_some() {
            published.unsubscribe_after(LAST_DELIVERIES).await;
            passed_on.unsubscribe().await;
            while let Some(delivery) = passed_on.next().await {
                cluster.on_group_job(&delivery);
            }
        }
    }
    published.unsubscribe().await;
    while let Some(delivery) = published.next().await {
        cluster.on_group_publication(&source, &delivery);
    }
}

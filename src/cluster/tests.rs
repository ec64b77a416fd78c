//! What happens between two steps of a broker, where a real NATS cannot be stopped.

use tokio::{sync::Semaphore, time::Instant as Clocked};

use super::{bus::Inlet, *};
use crate::error::{Error, Result};

/// A bus that takes everything, and lets nobody listen before it is told to.
#[derive(Debug)]
struct Halting {
    /// Subscriptions that wait, one permit each.
    waiting: Semaphore,
    /// What lets them go on, one permit each.
    allowed: Arc<Semaphore>,
}

impl Bus for Halting {
    fn try_publish(&self, _: Publication) -> std::result::Result<(), Publication> {
        Ok(())
    }

    fn publish(&self, _: Publication) -> Task<()> {
        Box::pin(async {})
    }

    fn subscribe(&self, _: String, _: bool) -> Task<Result<Box<dyn Inlet>>> {
        self.waiting.add_permits(1);
        let allowed = self.allowed.clone();
        Box::pin(async move {
            let _ = allowed.acquire().await;
            Err(Error::NotOpen)
        })
    }

    fn max_payload(&self) -> usize {
        1 << 20
    }

    fn is_connected(&self) -> bool {
        true
    }

    fn connections(&self) -> u64 {
        1
    }

    fn flush(&self) -> Task<()> {
        Box::pin(async {})
    }

    fn close(&self) {}
}

/// A cluster of one broker that is connected, and hears nothing: a claim takes as long as brokers wait
/// for one another.
pub(crate) fn alone(runtime: &Runtime) -> Arc<Cluster> {
    let bus = Arc::new(Halting {
        waiting: Semaphore::new(0),
        allowed: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
    });
    let options = NatsOptions::new(vec!["127.0.0.1".to_owned()]);
    let cluster = Cluster::new(bus, &options, runtime);
    cluster.up.store(true, Relaxed);
    cluster
}

#[tokio::test(start_paused = true)]
async fn who_has_lost_an_id_before_anybody_heard_of_it_is_told_at_once() {
    let bus = Arc::new(Halting {
        waiting: Semaphore::new(0),
        allowed: Arc::new(Semaphore::new(0)),
    });
    let options = NatsOptions::new(vec!["127.0.0.1".to_owned()]);
    let cluster = Cluster::new(bus.clone(), &options, &Runtime::current());
    cluster.up.store(true, Relaxed);
    let begun = Clocked::now();
    let claiming = tokio::spawn(cluster.claim("a".into(), None, false));
    let _ = bus.waiting.acquire().await;
    let newer = Claim {
        id: "a".into(),
        stamp: Stamp {
            time: cluster.clock.next(),
            node: NodeId(1),
        },
        principal: None,
    };
    cluster.claims.judge(&newer);
    bus.allowed.add_permits(1);
    let ticket = claiming
        .await
        .expect("no panic")
        .expect("no other principal");
    assert_eq!(
        cluster.standing(&ticket),
        Standing::Lost { conflict: false }
    );
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(cluster.unheard.lock().is_empty());
}

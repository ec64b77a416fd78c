//! The bus of all tests of the cluster: in memory, and loses the publications that a test selects.

use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};

use super::super::{
    bus::{Delivery, ID_QUEUE, Publication, Subscription, Task, parse_reply},
    *,
};
use crate::{
    broker::lease::{Lease, LeaseState},
    error::{Error, Result},
    event::ServerEvent,
    options::{Listen, ServerOptions},
    server::Server,
};

/// Decides whether a publication is lost between two brokers.
type LosesFn = Box<dyn FnMut(usize, usize, &Publication) -> bool + Send>;

/// The bus that all brokers of a test are connected to.
#[derive(Default)]
pub(super) struct TestBus {
    subscriptions: Mutex<Vec<Subscriber>>,
    loses: Mutex<Option<LosesFn>>,
    /// Number of publications, and their bytes.
    pub(super) published: Mutex<(usize, usize)>,
}

impl std::fmt::Debug for TestBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestBus").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Subscriber {
    connection: usize,
    subject: String,
    /// The queue group. Those of ids have no effect: tests lose publications to choose a member.
    queue: Option<String>,
    sender: mpsc::UnboundedSender<Delivery>,
}

impl Subscriber {
    fn matches(&self, subject: &str) -> bool {
        let mut tokens = subject.split('.');
        for wanted in self.subject.split('.') {
            match (wanted, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }
}

impl TestBus {
    /// From now on loses the publications for which this returns true.
    pub(super) fn lose_if(
        &self,
        loses: impl FnMut(usize, usize, &Publication) -> bool + Send + 'static,
    ) {
        *self.loses.lock() = Some(Box::new(loses));
    }

    /// Loses no further publications.
    pub(super) fn heal(&self) {
        *self.loses.lock() = None;
    }

    fn publish(&self, connection: usize, publication: &Publication) {
        let count = {
            let mut published = self.published.lock();
            published.0 += 1;
            published.1 += publication.payload.len();
            published.0
        };
        let mut loses = self.loses.lock();
        let address = parse_reply(&publication.subject);
        let (number, packet) = address.map_or((0, 0), |(address, packet)| (address.number, packet));
        let from = publication.reply.as_deref().and_then(parse_reply);
        let mut subscriptions = self.subscriptions.lock();
        subscriptions.retain(|subscriber| !subscriber.sender.is_closed());
        let mut queues = HashMap::<_, Vec<_>>::new();
        for (place, subscriber) in subscriptions.iter().enumerate() {
            if let Some(queue) = &subscriber.queue
                && queue != ID_QUEUE
                && subscriber.matches(&publication.subject)
            {
                queues.entry(queue.clone()).or_default().push(place);
            }
        }
        // Members of a queue group take turns.
        let chosen = |queue: &String, place| {
            let members = queues.get(queue);
            members.is_none_or(|members| members[count % members.len()] == place)
        };
        let mut next_place = 0;
        subscriptions.retain(|subscriber| {
            let place = next_place;
            next_place += 1;
            if !subscriber.matches(&publication.subject)
                || (subscriber.queue.as_ref()).is_some_and(|queue| !chosen(queue, place))
                || loses
                    .as_mut()
                    .is_some_and(|loses| loses(connection, subscriber.connection, publication))
            {
                return !subscriber.sender.is_closed();
            }
            let delivery = Delivery {
                number,
                packet,
                from: from.map(|(address, _)| address),
                sent: from.map_or(0, |(_, sent)| sent),
                payload: publication.payload.clone(),
                no_responders: false,
            };
            subscriber.sender.send(delivery).is_ok()
        });
    }
}

/// The connection of one broker.
#[derive(Debug, Default)]
pub(in crate::cluster) struct TestConnection {
    bus: Arc<TestBus>,
    number: usize,
    /// Set if all subscriptions fail.
    refusal: Option<Refusal>,
}

/// Makes subscriptions wait for a permit, and fail then.
#[derive(Debug)]
struct Refusal {
    /// One permit for each subscription that waits.
    waiting: Semaphore,
    /// One permit for each subscription that may fail.
    allowed: Arc<Semaphore>,
}

impl TestConnection {
    /// Drops all publications, and refuses all subscriptions.
    pub(in crate::cluster) fn isolated() -> Self {
        let (connection, allowed) = Self::with_blocked_subscriptions();
        allowed.close();
        connection
    }

    /// Drops all publications. Each subscription waits for a permit of the returned semaphore, and is refused.
    pub(super) fn with_blocked_subscriptions() -> (Self, Arc<Semaphore>) {
        let allowed = Arc::new(Semaphore::new(0));
        let refusal = Refusal {
            waiting: Semaphore::new(0),
            allowed: allowed.clone(),
        };
        let connection = Self {
            refusal: Some(refusal),
            ..Self::default()
        };
        (connection, allowed)
    }

    /// Resolves once a subscription waits for its permit.
    pub(super) async fn subscribing(&self) {
        if let Some(refusal) = &self.refusal {
            let _ = refusal.waiting.acquire().await;
        }
    }
}

impl Bus for TestConnection {
    fn try_publish(&self, publication: Publication) -> std::result::Result<(), Publication> {
        self.bus.publish(self.number, &publication);
        Ok(())
    }

    fn publish(&self, publication: Publication) -> Task<()> {
        self.bus.publish(self.number, &publication);
        Box::pin(async {})
    }

    fn subscribe(
        &self,
        subject: String,
        queue: Option<String>,
    ) -> Task<Result<Box<dyn Subscription>>> {
        if let Some(refusal) = &self.refusal {
            refusal.waiting.add_permits(1);
            let allowed = refusal.allowed.clone();
            return Box::pin(async move {
                let _ = allowed.acquire().await;
                Err(Error::NotOpen)
            });
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let subscriber = Subscriber {
            connection: self.number,
            subject,
            queue,
            sender,
        };
        self.bus.subscriptions.lock().push(subscriber);
        Box::pin(async {
            {
                let subscription = TestSubscription {
                    receiver,
                    left: None,
                };
                Ok(Box::new(subscription) as Box<dyn Subscription>)
            }
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

struct TestSubscription {
    receiver: mpsc::UnboundedReceiver<Delivery>,
    /// Number of deliveries left until it ends, if limited.
    left: Option<u64>,
}

impl Subscription for TestSubscription {
    fn next(&mut self) -> std::pin::Pin<Box<dyn Future<Output = Option<Delivery>> + Send + '_>> {
        if self.left == Some(0) {
            self.receiver.close();
        }
        Box::pin(async {
            let delivery = self.receiver.recv().await?;
            self.left = self.left.map(|left| left.saturating_sub(1));
            Some(delivery)
        })
    }

    fn unsubscribe(&mut self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.receiver.close();
        Box::pin(async {})
    }

    fn unsubscribe_after(
        &mut self,
        more: u64,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.left = Some(more);
        Box::pin(async {})
    }
}

/// A broker of a test cluster. Its server does not use the cluster: the test makes the claims.
pub(super) struct TestBroker {
    pub(super) cluster: Arc<Cluster>,
    _server: Server,
    _events: mpsc::Sender<BusEvent>,
    _closing: watch::Sender<bool>,
}

impl TestBroker {
    /// Starts a broker and waits until it is connected.
    pub(super) async fn start(bus: &Arc<TestBus>, number: usize) -> Self {
        let bus = Arc::new(TestConnection {
            bus: bus.clone(),
            number,
            refusal: None,
        });
        let options = NatsOptions::new(vec!["127.0.0.1".to_owned()]);
        let cluster = Cluster::new(bus, &options, &Runtime::current());
        let options = ServerOptions {
            listen: Listen::Tcp {
                host: "127.0.0.1".into(),
                port: 0,
            },
            ..ServerOptions::default()
        };
        let server = Server::bind(options, |_: ServerEvent<'_>| {}, &Runtime::current())
            .expect("a free port");
        let (events_in, events) = mpsc::channel(1);
        let (closing, is_closing) = watch::channel(false);
        cluster.start(server.broker(), events, is_closing);
        while !cluster.is_up() {
            sleep(Duration::from_millis(10)).await;
        }
        Self {
            cluster,
            _server: server,
            _events: events_in,
            _closing: closing,
        }
    }

    /// Starts a broker whose server uses the cluster, and waits until it is connected.
    pub(super) async fn start_joined(bus: &Arc<TestBus>, number: usize) -> Self {
        let bus = Arc::new(TestConnection {
            bus: bus.clone(),
            number,
            refusal: None,
        });
        let options = NatsOptions::new(vec!["127.0.0.1".to_owned()]);
        let cluster = Cluster::new(bus, &options, &Runtime::current());
        let (events_in, events) = mpsc::channel(1);
        let joined = (cluster.clone(), events);
        let server = Server::unreachable_in(joined, ServerOptions::default(), &Runtime::current());
        while !cluster.is_up() {
            sleep(Duration::from_millis(10)).await;
        }
        Self {
            cluster,
            _server: server,
            _events: events_in,
            _closing: watch::channel(false).0,
        }
    }

    pub(super) fn broker(&self) -> Arc<Broker> {
        self.cluster.broker().expect("it runs")
    }

    /// Claims an id for a peer without a principal.
    pub(super) async fn claim(&self, id: &str) -> Lease {
        let claimed = self.cluster.claim(id.into(), None, false).await;
        claimed.expect("no other principal")
    }

    /// True if a lease is held.
    pub(super) fn holds(&self, lease: &Lease) -> bool {
        self.cluster.claims.lease_state(lease) == LeaseState::Held
    }
}

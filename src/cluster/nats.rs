//! The message bus over NATS.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event, StatusCode, Subscriber, connection::State};
use futures_util::{FutureExt, StreamExt};
use tokio::{runtime::Handle as Runtime, sync::mpsc, time::timeout};

use super::{
    bus::{Bus, Delivery, Publication, Subscription, Task, parse_reply},
    task::BusEvent,
};
use crate::{
    error::{Error, Result},
    options::{NatsAuth, NatsOptions, Pem, TlsClientOptions},
    transport::tls,
};

/// Interval of pings. After three without a response the connection is given up.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout for connecting to one server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Upper limit of the reconnect backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// Backoff that ends reconnecting: the bus was closed.
const NEVER: Duration = Duration::from_secs(365 * 86_400);
/// Capacity of the client library's queue of outgoing packets.
const OUTGOING_QUEUE: usize = 256;
/// Capacity of the client library's queue of each subscription. Flow control keeps it from filling unless
/// hundreds of brokers send at once.
const SUBSCRIPTION_QUEUE: usize = 64 << 10;

/// A connection to NATS.
#[derive(Debug)]
pub(crate) struct Nats {
    client: Client,
    closed: Arc<AtomicBool>,
}

/// Connects to NATS, and reconnects whenever the connection is lost.
///
/// Errors: `InvalidOption`, `Tls`. Failed attempts to connect are reported as events.
pub(crate) fn connect(
    options: &NatsOptions,
    runtime: &Runtime,
) -> Result<(Arc<dyn Bus>, mpsc::Receiver<BusEvent>)> {
    let (sender, events) = mpsc::channel(64);
    let closed = Arc::new(AtomicBool::new(false));
    let is_closed = closed.clone();
    let mut connect = ConnectOptions::new()
        .name("wsmsgbroker")
        .retry_on_initial_connect()
        .skip_subject_validation(true)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .client_capacity(OUTGOING_QUEUE)
        .subscription_capacity(SUBSCRIPTION_QUEUE)
        .reconnect_delay_callback(move |attempts| {
            let pause = Duration::from_millis(50 << attempts.min(6));
            match is_closed.load(Relaxed) {
                true => NEVER,
                false => pause.min(MAX_BACKOFF),
            }
        })
        .event_callback(move |event| {
            let sender = sender.clone();
            async move {
                let event = match event {
                    Event::Connected => BusEvent::Up,
                    Event::Disconnected | Event::Closed => BusEvent::Down,
                    Event::SlowConsumer(_) => BusEvent::Lagged,
                    Event::ServerError(error) => BusEvent::Failed(error.to_string()),
                    Event::ClientError(error) => BusEvent::Failed(error.to_string()),
                    Event::LameDuckMode | Event::Draining => return,
                };
                // Fails once the cluster has ended.
                let _ = sender.send(event).await;
            }
        });
    connect = match &options.auth {
        NatsAuth::None => connect,
        NatsAuth::User { user, pass } => connect.user_and_password(user.clone(), pass.clone()),
        NatsAuth::Token(token) => connect.token(token.clone()),
        NatsAuth::Nkey(seed) => connect.nkey(seed.clone()),
        NatsAuth::Creds(creds) => {
            let invalid = |reason: String| Error::InvalidOption {
                name: "nats.creds",
                reason,
            };
            let text = match creds {
                Pem::Text(text) => text.clone(),
                Pem::File(path) => std::fs::read_to_string(path)
                    .map_err(|error| invalid(format!("{}: {error}", path.display())))?,
            };
            connect
                .credentials(&text)
                .map_err(|error| invalid(format!("cannot be used: {error}")))?
        }
    };
    let tls = match &options.tls {
        Some(tls) => tls::client_config(tls)?,
        // Used if the address or the server requires TLS.
        None => tls::client_config(&TlsClientOptions {
            trust: options.trust.clone(),
            ..TlsClientOptions::default()
        })?,
    };
    connect = connect
        .require_tls(options.tls.is_some())
        .tls_client_config(tls);
    let _entered = runtime.enter();
    let invalid = |reason: String| Error::InvalidOption {
        name: "nats.servers",
        reason,
    };
    // With `retry_on_initial_connect` this resolves at once.
    match connect.connect(&options.servers[..]).now_or_never() {
        Some(Ok(client)) => Ok((Arc::new(Nats { client, closed }), events)),
        Some(Err(error)) => Err(invalid(format!("cannot be used: {error}"))),
        None => Err(invalid("cannot be used".into())),
    }
}

impl Bus for Nats {
    fn try_publish(&self, publication: Publication) -> std::result::Result<(), Publication> {
        // Cloning is cheap: two short strings, and shared bytes.
        let kept = publication.clone();
        match publish(&self.client, publication).now_or_never() {
            Some(()) => Ok(()),
            None => Err(kept),
        }
    }

    fn publish(&self, publication: Publication) -> Task<()> {
        let client = self.client.clone();
        Box::pin(async move { publish(&client, publication).await })
    }

    fn subscribe(
        &self,
        subject: String,
        queue: Option<String>,
    ) -> Task<Result<Box<dyn Subscription>>> {
        let client = self.client.clone();
        Box::pin(async move {
            let subscriber = match queue {
                Some(queue) => client.queue_subscribe(subject, queue).await,
                None => client.subscribe(subject).await,
            };
            // Fails only after the connection has been given up.
            let subscriber = subscriber.map_err(|_| Error::NotOpen)?;
            Ok(Box::new(NatsSubscription {
                subscriber,
                received: 0,
            }) as Box<dyn Subscription>)
        })
    }

    fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    fn connections(&self) -> u64 {
        self.client.statistics().connects.load(Relaxed)
    }

    fn flush(&self) -> Task<()> {
        let client = self.client.clone();
        Box::pin(async move {
            let _ = timeout(CONNECT_TIMEOUT, client.flush()).await;
        })
    }

    fn close(&self) {
        self.closed.store(true, Relaxed);
    }
}

/// Publishes. Errors are ignored: the cluster detects them like packets lost on the way.
async fn publish(client: &Client, publication: Publication) {
    let Publication {
        subject,
        reply,
        payload,
    } = publication;
    let _ = match reply {
        Some(reply) => client.publish_with_reply(subject, reply, payload).await,
        None => client.publish(subject, payload).await,
    };
}

struct NatsSubscription {
    subscriber: Subscriber,
    received: u64,
}

impl Subscription for NatsSubscription {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Option<Delivery>> + Send + '_>> {
        Box::pin(async {
            let message = self.subscriber.next().await?;
            self.received += 1;
            let (number, packet) = parse_reply(&message.subject)
                .map_or_else(Default::default, |(address, packet)| {
                    (address.number, packet)
                });
            let (from, sent) = (message.reply.as_deref().and_then(parse_reply))
                .map_or((None, 0), |(address, sent)| (Some(address), sent));
            Some(Delivery {
                number,
                packet,
                from,
                sent,
                no_responders: message.status == Some(StatusCode::NO_RESPONDERS),
                payload: message.payload,
            })
        })
    }

    fn unsubscribe(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        // Not `drain`: it would read only a moment longer, and if the connection is lost in that moment NATS
        // keeps the subscription.
        Box::pin(async {
            let _ = self.subscriber.unsubscribe().await;
        })
    }

    fn unsubscribe_after(&mut self, more: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        // The NATS server and the client library both count deliveries.
        let last = self.received + more;
        Box::pin(async move {
            let _ = self.subscriber.unsubscribe_after(last).await;
        })
    }
}

//! Clients that ask each other in a ring, without end.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use tokio::runtime::Handle;
use wsmsgbroker::{Client, ClientEvent, ClientListener, ClientOptions};

use crate::{
    process::{say, task},
    support::until,
};

/// Answers that each gets before the ring counts as turning.
const TURNS: u64 = 10;

/// Is a ring of clients, told its task: their number, and the port of their broker.
pub(crate) async fn turn() {
    let Some(task) = task() else { return };
    let (count, port) = task.split_once(' ').unwrap();
    let ring = Ring::connect(count.parse().unwrap(), port.parse().unwrap());
    ring.turns().await;
    say("it turns");
    // The process ends at the end of its input, or is killed before. This thread may block.
    for _ in std::io::stdin().lines() {}
}

/// Each client asks the next one, again and again, with numbers that count up.
pub(crate) struct Ring(Vec<Arc<Place>>);

/// One of them.
#[derive(Default)]
struct Place {
    client: OnceLock<Client>,
    /// The id of the next one, as JSON.
    next: String,
    registered: AtomicBool,
    asked: AtomicU64,
    answered: AtomicU64,
    heard: AtomicU64,
    /// Something came twice, or not in order.
    wrong: AtomicBool,
    /// The codes with which it was closed.
    closed: Mutex<Vec<Option<u16>>>,
}

impl Place {
    fn ask(&self) {
        let n = self.asked.fetch_add(1, SeqCst);
        if let Some(client) = self.client.get() {
            // Fails once the client is closed.
            let _ = client.send(
                &n.to_string(),
                &self.next,
                &format!("\"{}-{n}\"", self.next.trim_matches('"')),
            );
            client.flush();
        }
    }

    fn expect(&self, counter: &AtomicU64, number: Option<&str>) {
        let expected = counter.fetch_add(1, SeqCst).to_string();
        if number != Some(&expected) {
            self.wrong.store(true, SeqCst);
        }
    }
}

struct Listener(Arc<Place>);

impl ClientListener for Listener {
    fn event(&self, event: ClientEvent<'_>) {
        let place = &self.0;
        match event {
            ClientEvent::Registered { .. } => place.registered.store(true, SeqCst),
            ClientEvent::Message {
                message,
                ack: Some(ack),
                ..
            } => {
                place.expect(&place.heard, message);
                if let Some(client) = place.client.get() {
                    let _ = client.answer(ack, message.unwrap_or_default());
                    client.flush();
                }
            }
            ClientEvent::Answer { message, .. } => {
                place.expect(&place.answered, message);
                place.ask();
            }
            ClientEvent::Closed { code, .. } => place.closed.lock().unwrap().push(code),
            _ => {}
        }
    }
}

impl Ring {
    /// Clients of the broker at this port of the loopback.
    pub(crate) fn connect(count: usize, port: u16) -> Self {
        let places = (0..count).map(|n| {
            let place = Arc::new(Place {
                next: format!("\"{}\"", (n + 1) % count),
                ..Place::default()
            });
            let options = ClientOptions {
                host: "127.0.0.1".into(),
                port,
                id: Some(format!("\"{n}\"")),
                ..ClientOptions::default()
            };
            let client = Client::connect(options, Listener(place.clone()), &Handle::current());
            place.client.set(client.unwrap()).unwrap();
            place
        });
        Self(places.collect())
    }

    /// Waits until all are registered, lets them begin, and waits until each has been answered.
    pub(crate) async fn turns(&self) {
        let all = |is_so: &dyn Fn(&Place) -> bool| self.0.iter().all(|place| is_so(place));
        until("all are registered", || {
            all(&|place| place.registered.load(SeqCst))
        })
        .await;
        self.0.iter().for_each(|place| place.ask());
        until("it turns", || {
            all(&|place| place.answered.load(SeqCst) >= TURNS)
        })
        .await;
    }

    /// Waits until all are closed, each once and with this code, and nothing has come that should not.
    pub(crate) async fn is_closed(&self, code: u16) {
        for place in &self.0 {
            until("it is closed", || !place.closed.lock().unwrap().is_empty()).await;
            assert!(!place.wrong.load(SeqCst));
            let client = place.client.get().unwrap();
            assert_eq!(
                client.send("0", &place.next, "").unwrap_err().code(),
                "ERR_WSMB_NOT_OPEN"
            );
        }
        for place in &self.0 {
            assert_eq!(*place.closed.lock().unwrap(), [Some(code)]);
        }
    }

    /// Lets all go.
    pub(crate) async fn close(&self) {
        for place in &self.0 {
            place.client.get().unwrap().close();
        }
        self.is_closed(1000).await;
    }
}

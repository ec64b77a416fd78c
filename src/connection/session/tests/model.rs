//! Random operations on the session of a client: messages in both directions arrive once and in order while it lives, and
//! its memory is freed when it ends.

use std::{env, str::FromStr, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::advance;

use super::world::{ENOUGH, Ends, TIMEOUT, World, member, session};
use crate::{
    broker::handle::{Close, Handle},
    options::ServerOptions,
};

/// Operations of one broker.
const EPISODE: usize = 2000;

/// The limits of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bounds {
    /// They are never reached.
    Wide,
    /// They may be reached, and end the session.
    Narrow,
}

/// The response to `register`.
#[derive(Debug, Clone, Copy)]
enum Registered {
    New,
    /// With the broker's count of actions.
    Resumed(u64),
}

/// The session, as its client knows it.
struct Client {
    handle: Arc<Handle>,
    ends: Option<Ends>,
    registered: Option<Registered>,
    token: String,
    /// Number of actions received, and the last message of them.
    count: u64,
    last: Option<u64>,
    /// Number of the messages sent, and of those that the broker has confirmed.
    next: u64,
    confirmed: u64,
}

struct Model {
    random: StdRng,
    seed: u64,
    step: usize,
    bounds: Bounds,
    world: World,
    client: Client,
    /// The number of the session.
    session: u64,
    /// Former connections that the broker may take for open.
    abandoned: Vec<Ends>,
    /// The first message of the peer that is surely for this session.
    first: u64,
    peer: Ends,
    /// The number of the next message of the peer.
    next: u64,
    /// The last message of each session that the peer has got.
    arrived: Vec<Option<u64>>,
    resumed: usize,
}

impl Client {
    fn on_text(&mut self, text: &str, context: &str) {
        match member(text, "action") {
            Some("registered") if text.contains(r#""resumed":true"#) => {
                let count = member(text, "count").unwrap().parse().unwrap();
                self.registered = Some(Registered::Resumed(count));
            }
            Some("registered") => {
                member(text, "token").unwrap().clone_into(&mut self.token);
                (self.count, self.last) = (0, None);
                self.registered = Some(Registered::New);
            }
            Some("received") => {
                let count = member(text, "count").unwrap().parse().unwrap();
                assert!(
                    (self.confirmed..=self.next).contains(&count),
                    "{context}: {text}"
                );
                self.confirmed = count;
            }
            Some("message") => {
                self.count += 1;
                let message = member(text, "message").unwrap();
                let number: u64 = message.split(' ').next().unwrap().parse().unwrap();
                let is_next = self.last.is_none_or(|last| number == last + 1);
                assert!(is_next, "{context}: {number} behind {:?}", self.last);
                self.last = Some(number);
            }
            _ => panic!("{context}: {text}"),
        }
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let bounds = match random.random_bool(0.8) {
            true => Bounds::Wide,
            false => Bounds::Narrow,
        };
        let options = match bounds {
            Bounds::Wide => ServerOptions::default(),
            Bounds::Narrow => ServerOptions {
                max_session_buffer: random.random_range(1024..4096),
                max_backpressure: random.random_range(1024..4096),
                ..ServerOptions::default()
            },
        };
        let mut world = World::new(options);
        let (handle, peer) = world.connect(ENOUGH);
        peer.register("peer", "");
        world.settle();
        let client = Client {
            handle,
            ends: None,
            registered: None,
            token: String::new(),
            count: 0,
            last: None,
            next: 0,
            confirmed: 0,
        };
        let mut model = Self {
            random,
            seed,
            step: 0,
            bounds,
            world,
            client,
            session: 0,
            abandoned: Vec::new(),
            first: 0,
            peer,
            next: 0,
            arrived: vec![None],
            resumed: 0,
        };
        model.register(None);
        model
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    fn context(&self) -> String {
        let (seed, step) = (self.seed, self.step);
        format!("WSMB_SEED={seed}, step {step}, session {}", self.session)
    }

    /// Registers on another connection, and continues a session if there is one. Returns the response.
    fn register(&mut self, since: Option<(&str, u64)>) -> Registered {
        let room = 1 + self.below(2000);
        let (handle, ends) = self.world.connect(room);
        ends.register("client", &session(since));
        (self.client.ends, self.client.registered) = (Some(ends), None);
        for _ in 0..1000 {
            self.world.settle();
            self.read(ENOUGH);
            let Some(registered) = self.client.registered else {
                continue;
            };
            if matches!(registered, Registered::New) {
                self.client.handle = handle;
                (self.client.next, self.client.confirmed) = (0, 0);
                self.session += 1;
                self.arrived.push(None);
                self.first = self.next;
            }
            return registered;
        }
        // The session has ended, or dropped frames, after the socket was handed over to it.
        let may_close = since.is_some() && self.bounds == Bounds::Narrow;
        assert!(may_close, "{}: no response to `register`", self.context());
        self.register(None)
    }

    fn pad(&mut self) -> String {
        let most = if self.below(50) == 0 { 1000 } else { 100 };
        "x".repeat(self.below(most))
    }

    fn send(&mut self) {
        let pad = self.pad();
        let client = &mut self.client;
        if let Some(ends) = &client.ends {
            let (session, number) = (self.session, client.next);
            ends.send(&format!(
                r#"{{"action":"send","message":"{session} {number} {pad}","dest":"peer"}}"#
            ));
        }
        client.next += 1;
    }

    fn send_to_client(&mut self) {
        let pad = self.pad();
        let number = self.next;
        self.next += 1;
        self.peer.send(&format!(
            r#"{{"action":"send","message":"{number} {pad}","dest":"client"}}"#
        ));
    }

    fn read(&mut self, most: usize) -> usize {
        let context = self.context();
        let Some(mut ends) = self.client.ends.take() else {
            return 0;
        };
        let read = ends.read(most, |text| self.client.on_text(text, &context));
        self.client.ends = Some(ends);
        read
    }

    fn read_peer(&mut self) -> usize {
        let context = self.context();
        let arrived = &mut self.arrived;
        self.peer.read(ENOUGH, |text| {
            if member(text, "action") == Some("message") {
                let mut parts = member(text, "message").unwrap().split(' ');
                let mut number = || parts.next().unwrap().parse::<u64>().unwrap();
                let (session, number) = (number() as usize, number());
                let expected = arrived[session].map_or(0, |last| last + 1);
                assert_eq!(number, expected, "{context}: message of session {session}");
                arrived[session] = Some(number);
            }
        })
    }

    fn confirm(&mut self) {
        if let Some(ends) = &self.client.ends {
            let count = self.client.count;
            ends.send(&format!(r#"{{"action":"received","count":{count}}}"#));
        }
    }

    /// Loses the connection, with some bytes on their way. The broker may not notice that.
    fn lose(&mut self) {
        let read = self.below(3000);
        if self.below(2) == 0 {
            self.read(read);
        }
        if let Some(ends) = self.client.ends.take() {
            if self.below(2) == 0 {
                ends.lose_input();
            }
            match self.below(3) {
                0 => self.abandoned.push(ends),
                _ => ends.cut(),
            }
        }
    }

    /// Continues the session.
    fn resume(&mut self) {
        let token = self.client.token.clone();
        let count = self.client.count;
        match self.register(Some((&token, count))) {
            Registered::New => {
                let context = self.context();
                assert_eq!(
                    self.bounds,
                    Bounds::Narrow,
                    "{context}: the former session was lost"
                );
            }
            Registered::Resumed(known) => {
                self.resumed += 1;
                let (client, context) = (&mut self.client, format!("seed {}", self.seed));
                let number = client.next;
                assert!(
                    (client.confirmed..=number).contains(&known),
                    "{context}: {known}"
                );
                client.next = known;
                while self.client.next < number {
                    self.send();
                }
            }
        }
    }

    /// Ends the session. Then the client begins another.
    async fn end(&mut self) {
        match self.below(4) {
            // The id is taken over.
            0 => {
                self.lose();
                self.register(None);
                return;
            }
            1 => {
                if let Some(ends) = &self.client.ends {
                    ends.send_close();
                } else {
                    return;
                }
            }
            2 => {
                let reason = "".into();
                (self.client.handle).request_close(Close::Requested { code: 1000, reason });
            }
            _ => {
                let Some(ends) = &self.client.ends else {
                    return;
                };
                ends.cut();
                self.world.settle();
                advance(TIMEOUT + Duration::from_secs(1)).await;
            }
        }
        self.world.settle();
        let lives = self.client.handle.owns_its_id();
        assert!(!lives, "{}: the session has not ended", self.context());
        self.client.ends = None;
        self.register(None);
    }

    /// Delivers all messages, and checks that none is missing.
    fn deliver_all(&mut self) {
        if self.client.ends.is_none() {
            self.resume();
        }
        let mut quiet = 0;
        while quiet < 2 {
            self.world.settle();
            let read = self.read(ENOUGH) + self.read_peer();
            quiet = if read == 0 { quiet + 1 } else { 0 };
        }
        if self.client.handle.owns_its_id() {
            let context = self.context();
            let arrived = self.arrived[self.session as usize];
            assert_eq!(
                arrived,
                self.client.next.checked_sub(1),
                "{context}: to the peer"
            );
            if self.first < self.next {
                assert_eq!(
                    self.client.last,
                    Some(self.next - 1),
                    "{context}: to the client"
                );
            }
        }
    }

    async fn step(&mut self) {
        self.step += 1;
        match self.below(1000) {
            0..200 => self.send(),
            200..400 => self.send_to_client(),
            400..600 => {
                let most = self.below(1000);
                self.read(most);
            }
            600..650 => self.confirm(),
            650..700 => self.lose(),
            700..850 => {
                if self.client.ends.is_none() {
                    self.resume();
                }
            }
            850..855 => self.end().await,
            855..865 => self.deliver_all(),
            _ => {
                let place = self.below(self.world.tasks());
                self.world.poll(place);
            }
        }
        if self.below(10) == 0 {
            self.world.settle();
            self.read_peer();
        }
        if self.bounds == Bounds::Wide {
            let lives = self.client.handle.owns_its_id();
            assert!(lives, "{}: the session has ended", self.context());
        }
    }

    /// Ends all connections. Returns the number of sessions that continued.
    async fn finish(mut self) -> usize {
        self.deliver_all();
        let broker = self.world.broker();
        let open = self.client.ends.iter().chain(&self.abandoned);
        open.chain([&self.peer]).for_each(Ends::cut);
        self.world.settle();
        // The session, and connections that the client has given up.
        advance(TIMEOUT + Duration::from_secs(60)).await;
        self.world.settle();
        let stats = self.world.server.stats();
        let (context, tasks) = (self.context(), self.world.tasks());
        assert_eq!(
            (tasks, stats.sessions, stats.sessions_suspended),
            (0, 0, 0),
            "{context}"
        );
        assert_eq!(broker.memory.used(), 0, "{context}: bytes charged");
        self.resumed
    }
}

fn number<T: FromStr>(name: &str, default: T) -> T {
    env::var(name).map_or(default, |text| match text.parse() {
        Ok(number) => number,
        Err(_) => panic!("{name} expects a number, got {text}"),
    })
}

/// Rules 40.2 to 40.9. `WSMB_SEED` begins with this seed, and `WSMB_STEPS` sets the number of operations.
#[tokio::test(start_paused = true)]
async fn a_session_delivers_each_message_once_and_in_order() {
    let (first, steps) = (number("WSMB_SEED", 0), number("WSMB_STEPS", 1_000_000));
    let mut resumed = 0;
    for episode in 0..usize::div_ceil(steps, EPISODE) {
        let mut model = Model::new(first + episode as u64);
        for _ in 0..EPISODE {
            model.step().await;
        }
        resumed += model.finish().await;
    }
    assert!(resumed > steps / 100, "{resumed} sessions continued");
}

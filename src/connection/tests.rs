//! Wake-ups of a connection: wherever in a turn it starts to wait, it is woken.
//!
//! The sockets are in memory: all input is there when a turn begins, so that a test controls where the turn
//! ends. The clock is tokio's paused one: a connection that is never woken is found at once.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    runtime::Handle as Runtime,
    time::{Instant, sleep, timeout},
};

use super::turn::{BYTES, MESSAGES};
use crate::{
    auth::{Authentication, Credentials, Decision, Denied, Grant, JwtKey, JwtOptions},
    broker::handle::Handle,
    cluster::tests::{beside_draining, delivers_earlier},
    options::{RateLimit, ServerOptions},
    server::Server,
    transport::socket::{ReadHalf, WriteHalf, pipe::Pipe},
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(600);
/// Delay of an embedder or a receiver.
const A_WHILE: Duration = Duration::from_millis(50);
/// Bytes of the messages before the limit of a turn.
const LONG: usize = 8 << 10;

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

/// Position of an action within a turn.
#[derive(Debug, Clone, Copy)]
enum TurnPlace {
    /// Index of the message, from 1.
    Number(usize),
    /// Offset in bytes of its end from the limit of a turn.
    Byte(isize),
}

/// Positions around the end of a turn, and some before and after it.
fn places() -> impl Iterator<Item = TurnPlace> {
    let last = MESSAGES as usize;
    let numbers = (1..=3).chain(last - 3..=last + 3).chain([2 * last]);
    let bytes = (-3..=3).chain([BYTES as isize]);
    (numbers.map(TurnPlace::Number)).chain(bytes.map(TurnPlace::Byte))
}

/// A peer whose socket is in memory.
struct TestPeer {
    input: Arc<Pipe>,
    output: ReadHalf,
    handle: Arc<Handle>,
    received: Vec<u8>,
}

impl TestPeer {
    fn connect(server: &Server) -> Self {
        Self::with_room(server, usize::MAX)
    }

    /// A peer whose socket buffers this many bytes.
    fn with_room(server: &Server, room: usize) -> Self {
        let (input, output) = (Pipe::new(usize::MAX), Pipe::new(room));
        Self {
            handle: server.serve_piped(&input, &output),
            input,
            output: ReadHalf::Pipe(output),
            received: Vec::new(),
        }
    }

    async fn registered(mut self, id: &str) -> Self {
        self.write(&register(id));
        self.expect(&registered(id)).await;
        self
    }

    fn write(&self, bytes: &[u8]) {
        let socket = WriteHalf::Pipe(self.input.clone());
        assert_eq!(socket.try_write(bytes).ok(), Some(bytes.len()));
    }

    /// Reads until this text has arrived.
    #[track_caller]
    fn expect(&mut self, text: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let came = timeout(PATIENCE, self.comes(text.as_bytes())).await;
            assert_eq!(came.ok(), Some(true), "{caller}: {text}");
        }
    }

    /// Bytes that can be read now.
    fn written(&mut self) -> Vec<u8> {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut bytes = vec![0; 64 << 10];
        let mut buf = ReadBuf::new(&mut bytes);
        let _ = Pin::new(&mut self.output).poll_read(cx, &mut buf);
        buf.filled().to_vec()
    }

    /// Reads until this text has arrived, and no further.
    async fn expect_next(&mut self, text: &str) {
        let ending = async {
            while !self.received.ends_with(text.as_bytes()) {
                let byte = self.output.read_u8().await.expect(text);
                self.received.push(byte);
            }
        };
        timeout(PATIENCE, ending).await.expect(text);
        self.received.clear();
    }

    /// Reads until these bytes have arrived; false if the connection ends before.
    async fn comes(&mut self, bytes: &[u8]) -> bool {
        loop {
            let found = self.received.windows(bytes.len()).any(|it| it == bytes);
            if found {
                self.received.clear();
                return true;
            }
            // Keeps what may be the beginning of them.
            let kept = self.received.len().saturating_sub(bytes.len());
            self.received.drain(..kept);
            if self.output.read_buf(&mut self.received).await.unwrap_or(0) == 0 {
                return false;
            }
        }
    }

    /// Reads until the connection has ended.
    async fn ended(&mut self) {
        let ended = timeout(PATIENCE, async {
            while self.output.read_buf(&mut self.received).await.unwrap_or(0) > 0 {
                self.received.clear();
            }
        });
        ended.await.expect("the end of the connection");
    }
}

/// A masked frame, whose mask is zero.
fn frame(first: u8, payload: &str) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload.as_bytes());
    bytes
}

fn register_text(id: &str) -> String {
    format!(r#"{{"action":"register","id":"{id}"}}"#)
}

fn register(id: &str) -> Vec<u8> {
    frame(TEXT, &register_text(id))
}

fn registered(id: &str) -> String {
    format!(r#"{{"action":"registered","id":"{id}"}}"#)
}

fn send_text(dest: &str, message: &str) -> String {
    format!(r#"{{"action":"send","message":"{message}","dest":"{dest}"}}"#)
}

/// Messages that place an action at this position in a turn. `filler` makes a message of a length, or of
/// its minimum length.
fn turn(place: TurnPlace, first: u8, action: &str, filler: impl Fn(usize) -> String) -> Vec<u8> {
    let mut bytes = Vec::new();
    match place {
        TurnPlace::Number(number) => bytes.extend(frame(TEXT, &filler(0)).repeat(number - 1)),
        TurnPlace::Byte(offset) => {
            let mut left = (BYTES as isize + offset) as usize - action.len();
            while left > 0 {
                let length = match left {
                    0..=LONG => left,
                    // The last message is not shorter than its minimum length.
                    _ => LONG.min(left - LONG / 2),
                };
                let text = filler(length);
                assert_eq!(text.len(), length);
                bytes.extend(frame(TEXT, &text));
                left -= length;
            }
        }
    }
    bytes.extend(frame(first, action));
    bytes
}

/// A message to an unknown id.
fn unheard(length: usize) -> String {
    let least = send_text("nobody", "").len();
    send_text("nobody", &"x".repeat(length.saturating_sub(least)))
}

/// An action that is refused.
fn refused(length: usize) -> String {
    let text = |filling: &str| format!(r#"{{"action":"none","filling":"{filling}"}}"#);
    text(&"x".repeat(length.saturating_sub(text("").len())))
}

/// A registration that is granted at once.
fn at_once(length: usize) -> String {
    let text = |token: &str| format!(r#"{{"action":"register","id":"at once","token":"{token}"}}"#);
    text(&"x".repeat(length.saturating_sub(text("").len())))
}

/// Options without timers, so that nothing else wakes a connection.
fn options() -> ServerOptions {
    ServerOptions {
        ping_interval: Duration::ZERO,
        register_timeout: Some(Duration::ZERO),
        max_control_frames: 1 << 20,
        ..ServerOptions::default()
    }
}

fn server(options: ServerOptions) -> Server {
    Server::unreachable(options, &Runtime::current())
}

/// Options with a hook that grants `at once` at once. After a while it denies `refused` and grants other ids.
fn authenticated() -> ServerOptions {
    let hook = |Credentials { id, .. }: Credentials| -> Decision {
        Box::pin(async move {
            if *id != *"at once" {
                sleep(A_WHILE).await;
            }
            match &*id {
                "refused" => Err(Denied::Forbidden("no".into())),
                _ => Ok(Grant::new("one")),
            }
        })
    };
    ServerOptions {
        authentication: Authentication::Hook(Arc::new(hook), Duration::from_secs(10)),
        ..options()
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_decides_a_registration() {
    let server = server(authenticated());
    for place in places() {
        let mut peer = TestPeer::connect(&server);
        peer.write(&turn(place, TEXT, &register_text("a"), at_once));
        peer.expect(&registered("a")).await;
        let mut refused = TestPeer::connect(&server);
        refused.write(&turn(place, TEXT, &register_text("refused"), at_once));
        refused.expect("no").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_undecided_registration_times_out() {
    let never = |Credentials { id, .. }: Credentials| -> Decision {
        match &*id {
            "at once" => Box::pin(std::future::ready(Ok(Grant::new("one")))),
            _ => Box::pin(std::future::pending()),
        }
    };
    let limit = Duration::from_secs(10);
    let server = server(ServerOptions {
        authentication: Authentication::Hook(Arc::new(never), limit),
        ..options()
    });
    for place in places() {
        let mut peer = TestPeer::connect(&server);
        let begun = Instant::now();
        peer.write(&turn(place, TEXT, &register_text("a"), at_once));
        peer.expect("not authenticated in time").await;
        assert!(begun.elapsed() < 2 * limit, "{place:?}");
        // The server may end the registration before.
        let mut peer = TestPeer::connect(&server).registered("at once").await;
        peer.write(&turn(place, TEXT, &register_text("a"), unheard));
        sleep(A_WHILE).await;
        assert!(server.disconnect("at once", 4000, "enough").unwrap());
        peer.expect("enough").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_and_the_end_of_a_grant() {
    let server = server(authenticated());
    for place in places() {
        let mut peer = TestPeer::connect(&server).registered("a").await;
        peer.write(&turn(place, TEXT, &register_text("a"), unheard));
        peer.expect(&registered("a")).await;
    }
    let expires = |Credentials { .. }: Credentials| -> Decision {
        let mut grant = Grant::new("one");
        grant.expires = Some(std::time::SystemTime::now() + Duration::from_secs(5));
        Box::pin(std::future::ready(Ok(grant)))
    };
    let server = self::server(ServerOptions {
        authentication: Authentication::Hook(Arc::new(expires), Duration::from_secs(10)),
        ..options()
    });
    for place in places() {
        let mut peer = TestPeer::connect(&server).registered("a").await;
        peer.write(&turn(place, TEXT, &register_text("a"), unheard));
        peer.expect("expired").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_in_a_cluster() {
    let server = Server::unreachable_in_cluster(options(), &Runtime::current());
    for place in places() {
        let mut peer = TestPeer::connect(&server);
        peer.write(&turn(place, TEXT, &register_text("a"), refused));
        peer.expect(&registered("a")).await;
    }
    for place in places() {
        let mut peer = TestPeer::connect(&server).registered("a").await;
        peer.write(&turn(place, TEXT, &register_text("b"), refused));
        peer.expect(&registered("b")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_message_never_comes_after_a_newer_one_to_an_id_that_has_moved() {
    let cluster = beside_draining(&Runtime::current());
    let server = Server::unreachable_beside(cluster.clone(), options(), &Runtime::current());
    let sender = TestPeer::connect(&server).registered("sender").await;
    let mut owner = TestPeer::connect(&server).registered("a").await;
    assert!(delivers_earlier(&cluster, &owner.handle, r#""sender""#));
    sender.write(&frame(TEXT, &send_text("a", "newer")));
    owner.expect("newer").await;
    assert!(!delivers_earlier(&cluster, &owner.handle, r#""sender""#));
    assert!(delivers_earlier(&cluster, &owner.handle, r#""other""#));
    // A renewal.
    let owner = owner.registered("a").await;
    assert!(!delivers_earlier(&cluster, &owner.handle, r#""sender""#));
    // A takeover at the same broker.
    let next = TestPeer::connect(&server).registered("a").await;
    assert!(!delivers_earlier(&cluster, &next.handle, r#""sender""#));
}

#[tokio::test(start_paused = true)]
async fn a_full_receiver_reads_or_is_closed() {
    let server = server(ServerOptions {
        max_backpressure: 1024,
        ..options()
    });
    let fill = "x".repeat(4 << 10);
    for place in places() {
        let mut slow = TestPeer::with_room(&server, 64).registered("slow").await;
        let mut peer = TestPeer::connect(&server).registered("a").await;
        peer.write(&frame(TEXT, &send_text("slow", &fill)));
        let held = send_text("slow", "held");
        peer.write(&turn(place, TEXT, &held, unheard));
        peer.write(&register("b"));
        sleep(A_WHILE).await;
        slow.expect("held").await;
        peer.expect(&registered("b")).await;
        // A receiver that reads nothing.
        let deaf = TestPeer::with_room(&server, 64).registered("deaf").await;
        peer.write(&frame(TEXT, &send_text("deaf", &fill)));
        let held = send_text("deaf", "held");
        peer.write(&turn(place, TEXT, &held, unheard));
        peer.write(&register("c"));
        peer.expect(&registered("c")).await;
        assert!(!deaf.handle.owns_its_id(), "{place:?}");
    }
}

/// With the system's clock, which the rate limit uses.
#[tokio::test]
async fn a_rate_limit_that_is_reached() {
    for (messages, bytes) in [(10_000, 1 << 30), (1 << 20, 4 << 20)] {
        let server = server(ServerOptions {
            rate_limit: Some(RateLimit { messages, bytes }),
            ..options()
        });
        for place in places() {
            let mut peer = TestPeer::connect(&server).registered("a").await;
            peer.write(&turn(place, TEXT, &send_text("a", "last"), unheard));
            peer.expect("last").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn control_frames_and_the_end_of_a_registration() {
    let server = server(ServerOptions {
        register_timeout: Some(Duration::from_secs(5)),
        ..options()
    });
    for place in places() {
        let mut peer = TestPeer::connect(&server).registered("a").await;
        peer.write(&turn(place, PING, "ping", unheard));
        peer.expect("ping").await;
        peer.write(&turn(place, TEXT, r#"{"action":"unregister"}"#, unheard));
        peer.expect(r#"{"action":"unregistered","id":"a"}"#).await;
        peer.expect("not registered in time").await;
        let mut peer = TestPeer::connect(&server).registered("a").await;
        peer.write(&turn(place, CLOSE, "\u{3}\u{e8}", unheard));
        peer.ended().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat() {
    let server = server(ServerOptions {
        ping_interval: Duration::from_secs(25),
        ..options()
    });
    for place in places() {
        let mut peer = TestPeer::connect(&server).registered("a").await;
        peer.write(&turn(place, TEXT, &send_text("a", "last"), unheard));
        peer.expect("last").await;
        peer.expect("\u{0}").await;
        peer.ended().await;
    }
}

#[tokio::test(start_paused = true)]
async fn memory_that_is_short() {
    let limit = 64 << 20;
    let server = server(ServerOptions {
        max_memory: limit,
        ..options()
    });
    let memory = &server.broker().memory;
    for place in places() {
        let mut peer = TestPeer::connect(&server).registered("a").await;
        memory.charge(limit);
        let long = frame(TEXT, &send_text("a", &"x".repeat(60 << 10)));
        // Eight times as long, in fragments: more than a connection's share.
        let mut part = long.repeat(8);
        let fragment = long.len();
        for (number, first) in part.iter_mut().step_by(fragment).enumerate() {
            *first = match number {
                0 => 0x01,
                7 => 0x80,
                _ => 0x00,
            };
        }
        peer.write(&turn(place, TEXT, &unheard(0), unheard));
        peer.write(&part);
        peer.write(&frame(TEXT, &send_text("a", "last")));
        sleep(A_WHILE).await;
        memory.discharge(limit);
        peer.expect("last").await;
    }
}

/// Messages of other connections do not wait for all the signatures of one connection.
#[tokio::test]
async fn many_renewals_do_not_delay_others() {
    const TOKENS: &str = include_str!("../../tests/keys/tokens.txt");
    let pair = include_str!("../../tests/keys/p384.pem");
    let secret =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let secret = data_encoding::BASE64URL_NOPAD.decode(secret.as_bytes());
    for (algorithm, key) in [
        ("ES384", JwtKey::PublicKey(pair.into())),
        ("HS512", JwtKey::Secret(secret.unwrap())),
    ] {
        let mut jwt = JwtOptions::new(key);
        jwt.algorithms = vec![algorithm.into()];
        let server = server(ServerOptions {
            authentication: Authentication::Jwt(jwt),
            ..options()
        });
        let token = TOKENS.lines().find_map(|line| line.strip_prefix(algorithm));
        let token = token.unwrap().trim();
        let register = format!(r#"{{"action":"register","id":"alice","token":"{token}"}}"#);
        let register = frame(TEXT, &register);
        let mut other = TestPeer::connect(&server);
        other.write(&register);
        other.expect(&registered("alice")).await;
        let mut many = TestPeer::connect(&server);
        many.write(&register.repeat(100));
        other.write(&frame(PING, "canary"));
        // A separate task, like the others: the test's own task would wait for more of them.
        let seen = tokio::spawn(async move {
            other.expect("canary").await;
            many.written()
        });
        let done = seen.await.unwrap();
        let done = done.windows(10).filter(|it| it == b"registered").count();
        assert!(done <= 50, "{algorithm}: {done}");
    }
}

/// A client that renews now and then is not delayed; one that renews all the time is slowed down.
#[tokio::test]
async fn a_renewal_is_delayed_only_behind_many_of_the_same_connection() {
    let jwt = JwtOptions::new(JwtKey::PublicKey(
        include_str!("../../tests/keys/p384.pem").into(),
    ));
    let server = server(ServerOptions {
        authentication: Authentication::Jwt(jwt),
        ..options()
    });
    let tokens = include_str!("../../tests/keys/tokens.txt");
    let token = tokens.lines().find_map(|line| line.strip_prefix("ES384 "));
    let token = token.unwrap();
    let register = format!(r#"{{"action":"register","id":"alice","token":"{token}"}}"#);
    let mut peer = TestPeer::connect(&server);
    peer.write(&frame(TEXT, &register).repeat(14));
    let begun = std::time::Instant::now();
    for _ in 0..14 {
        peer.expect_next(&registered("alice")).await;
    }
    // Ten renewals at once after the first one, then three with a delay of a tenth of a second each.
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

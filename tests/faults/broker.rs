//! A broker in a process of its own, whose memory, descriptors and processor time are therefore the
//! broker's alone, and which can be killed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wsmsgbroker::{
    Address, Authentication, Listen, Server, ServerEvent, ServerOptions, SlowConsumer, Stats,
    auth::{Credentials, Decision, Denied, Grant},
};

use crate::{
    MEMORY,
    process::{Process, say, task},
    support::{Listening, canary::Canary, options, tls::peer},
    trust::{self, Issued, Trust},
};

/// Panics of any thread: those of a task end nothing but the task.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Counts of events by name.
type Tally = Arc<Mutex<BTreeMap<String, u64>>>;

/// Is a broker with the options that are its task: says its address, does what its input says,
/// and ends with it.
pub(crate) fn serve() {
    let Some(text) = task() else { return };
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Relaxed);
        hook(panic);
    }));
    let mut options = parse(&text);
    let issued = Issued::asked_for(&text);
    options.tls = issued.as_ref().map(Issued::server);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let tally = Tally::default();
    let listener = {
        let tally = tally.clone();
        move |event: ServerEvent<'_>| {
            *tally.lock().unwrap().entry(name(&event)).or_default() += 1;
        }
    };
    let server = Server::bind(options, listener, runtime.handle()).unwrap();
    let Address::Tcp(address) = server.address() else {
        panic!("{:?}", server.address());
    };
    say(&address.to_string());
    if let Some(issued) = issued {
        say(&issued.to_line());
    }
    for command in std::io::stdin().lines() {
        match &*command.unwrap() {
            "counters" => say(&counters(&server.stats(), &tally.lock().unwrap())),
            "forget the peak" => {
                MEMORY.reset_peak_usage();
                say(&MEMORY.current_usage().to_string());
            }
            "close" => {
                server.close();
                runtime.block_on(server.closed());
                return say("closed");
            }
            other => panic!("{other}"),
        }
    }
}

/// Options from `name=value` pairs; times are milliseconds. `files` is none of the server's: it is
/// how many files the process may open.
fn parse(text: &str) -> ServerOptions {
    let mut parsed = options();
    for (name, value) in text
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='))
    {
        let number = || value.parse::<usize>().unwrap();
        let time = || Duration::from_millis(value.parse().unwrap());
        let Listen::Tcp { host, port } = &mut parsed.listen else {
            unreachable!("it is none of the options here");
        };
        match name {
            "files" => {
                let maximum = getrlimit(Resource::Nofile).maximum;
                let current = Some(number() as u64);
                setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
            }
            "host" => *host = value.into(),
            "port" => *port = value.parse().unwrap(),
            "max_payload" => parsed.max_payload = number(),
            "max_backpressure" => parsed.max_backpressure = number(),
            "slow_consumer" => {
                parsed.slow_consumer = match value {
                    "close" => SlowConsumer::Close,
                    "drop" => SlowConsumer::Drop,
                    _ => panic!("{value}"),
                }
            }
            "slow_consumer_timeout" => parsed.slow_consumer_timeout = time(),
            "max_memory" => parsed.max_memory = number(),
            "max_connections" => parsed.max_connections = number(),
            "max_fragments" => parsed.max_fragments = number(),
            "max_control_frames" => parsed.max_control_frames = value.parse().unwrap(),
            "max_protocol_errors" => parsed.max_protocol_errors = value.parse().ok(),
            "handshake_timeout" => parsed.handshake_timeout = time(),
            "allowed_origin" => parsed.allowed_origins = Some(vec![value.into()]),
            "register_timeout" => parsed.register_timeout = Some(time()),
            "ping_interval" => parsed.ping_interval = time(),
            "ping_timeout" => parsed.ping_timeout = time(),
            "close_timeout" => parsed.close_timeout = time(),
            "max_pending_acks" => parsed.max_pending_acks = number(),
            "authenticate" => parsed.authentication = password(value.into()),
            // See there.
            trust::TLS => {}
            _ => panic!("{name}"),
        }
    }
    parsed
}

/// Authenticates every token that begins with this word, as the principal that the token names. Canaries
/// need no token.
fn password(word: Arc<str>) -> Authentication {
    let hook = move |credentials: Credentials| -> Decision {
        let token = credentials.token.unwrap_or_default();
        let known = token.starts_with(&*word) || credentials.id.starts_with("canary");
        let decision = match known {
            true => Ok(Grant::new(token)),
            false => Err(Denied::Unauthorized("who are you?".into())),
        };
        Box::pin(std::future::ready(decision))
    };
    Authentication::Hook(Arc::new(hook), Duration::from_secs(10))
}

/// The name under which an event is counted. The server counts some events itself.
fn name(event: &ServerEvent<'_>) -> String {
    match event {
        ServerEvent::Registered { replaced: true, .. } => "replaced".into(),
        ServerEvent::Refused { error, .. } => error.code().into(),
        ServerEvent::Slow { why, .. } => format!("{why:?}"),
        ServerEvent::Denied { denied, .. } => denied.close_code().to_string(),
        _ => "other".into(),
    }
}

/// All numbers of a broker, as [`Counters`] reads them.
fn counters(stats: &Stats, tally: &BTreeMap<String, u64>) -> String {
    let known = [
        ("connections", stats.connections as u64),
        ("registered", stats.registered as u64),
        ("pending", stats.pending as u64),
        ("memory", stats.memory as u64),
        ("accepted", stats.accepted),
        ("refused", stats.refused),
        ("slow", stats.slow),
        ("dropped", stats.dropped),
        ("evicted", stats.evicted),
        ("dead", stats.dead),
        ("unregistered", stats.unregistered),
        ("violations", stats.violations),
        ("denied", stats.denied),
        ("panics", PANICS.load(Relaxed)),
        ("allocated", MEMORY.current_usage() as u64),
        ("peak", MEMORY.peak_usage() as u64),
    ];
    let known = known
        .into_iter()
        .chain(tally.iter().map(|(name, count)| (&**name, *count)));
    known
        .map(|(name, count)| format!("{name}={count} "))
        .collect()
}

/// The numbers of a broker at one time. A number it does not name is zero.
pub(crate) struct Counters(BTreeMap<String, u64>);

impl Counters {
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

/// A broker in another process, which ends with this.
pub(crate) struct Broker {
    address: SocketAddr,
    process: Process,
    /// If it speaks TLS.
    trust: Option<Trust>,
}

impl Listening for Broker {
    fn socket_address(&self) -> SocketAddr {
        self.address
    }
}

impl Broker {
    /// Starts one. `options`: as `max_payload=1024 ...`.
    pub(crate) fn start(options: &str) -> Self {
        let process = Process::start("a_broker", options);
        let address = process.line().parse().unwrap();
        let tls = options.contains(trust::TLS);
        Self {
            address,
            trust: tls.then(|| Trust::from_line(&process.line())),
            process,
        }
    }

    /// A canary that speaks as it does.
    pub(crate) async fn canary(&self) -> Canary {
        match &self.trust {
            None => Canary::start(self).await,
            Some(trust) => {
                let connector = trust.connector();
                let (a, b) = (peer(self, &connector).await, peer(self, &connector).await);
                Canary::between(a, b).await
            }
        }
    }

    /// TLS settings for peers of this broker.
    pub(crate) fn trust(&self) -> &Trust {
        self.trust.as_ref().expect("a broker that speaks TLS")
    }

    pub(crate) fn counters(&self) -> Counters {
        let answer = self.process.ask("counters");
        let pairs = answer
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='));
        Counters(
            pairs
                .map(|(name, count)| (name.to_owned(), count.parse().unwrap()))
                .collect(),
        )
    }

    /// One of its counters.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.counters().get(name)
    }

    /// From here on `peak` is the most that is allocated at one time, and
    /// [`most_resident`](Self::most_resident) too is counted anew. What is allocated now.
    pub(crate) fn forget_the_peak(&self) -> u64 {
        let file = format!("/proc/{}/clear_refs", self.process.pid);
        std::fs::write(file, "5").unwrap();
        self.process.ask("forget the peak").parse().unwrap()
    }

    /// A file of `/proc` about its process.
    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.process.pid)).unwrap()
    }

    /// A line of its status that tells bytes.
    fn status(&self, name: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.unwrap().parse::<u64>().unwrap() << 10
    }

    /// Bytes of memory that are its own: neither files nor shared.
    pub(crate) fn resident(&self) -> u64 {
        self.status("RssAnon:")
    }

    /// The most bytes of memory that it had at one time, all kinds together.
    pub(crate) fn most_resident(&self) -> u64 {
        self.status("VmHWM:")
    }

    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.pid))
            .unwrap()
            .count()
    }

    /// Processor time that it has used so far, to 10 ms.
    pub(crate) fn used(&self) -> Duration {
        let stat = self.proc("stat");
        // Behind the name, which may hold spaces: the 12th and 13th are user and system time.
        let fields = stat.rsplit_once(')').unwrap().1;
        let times = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = times.map(|time| time.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Ends it as the system does it to one that does not listen.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// Asks it to close, and waits until it has ended, as it should.
    pub(crate) fn stop(&self) {
        assert_eq!(self.process.ask("close"), "closed");
        let status = self.process.ended();
        assert!(status.success(), "{status}");
    }
}

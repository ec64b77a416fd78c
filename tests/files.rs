//! A server without a file descriptor left: it goes on, waits without spinning, and accepts again.

#![cfg(target_os = "linux")]

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{
    PATIENCE, bind, options, port,
    raw::{REQUEST, TEXT, frame},
};
use wsmsgbroker::ServerOptions;

/// What tells the child from a run of its test by hand.
const CHILD: &str = "WSMSGBROKER_TEST_FILES";
/// Files the child may open: enough for its runtime and a few connections.
const FILES: u64 = 32;

/// The server, in a process of its own: prints its port, and ends with its input.
#[test]
#[ignore = "the other test runs it, in a process with few files"]
fn a_server_with_few_files() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(FILES);
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let entered = runtime.enter();
    let server = bind(ServerOptions {
        // Or it would refuse in good time.
        max_connections: 10_000,
        ..options()
    })
    .unwrap();
    println!("\nport {}", port(&server));
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).unwrap() > 0 {
        println!("\naccepted {}", server.stats().accepted);
    }
    drop(entered);
}

/// The child, and what it prints.
struct Server {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "a_server_with_few_files",
            ])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self {
            child,
            lines,
            port: 0,
        };
        server.port = server.number("port ") as u16;
        server
    }

    /// The number behind this word, on a line of its own.
    fn number(&mut self, word: &str) -> u64 {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "its end");
            if let Some(number) = line.strip_prefix(word) {
                return number.trim().parse().unwrap();
            }
        }
    }

    /// How many connections it has accepted so far.
    fn accepted(&mut self) -> u64 {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.number("accepted ")
    }

    /// A connection that has sent its request, and an action behind it.
    fn connect(&self) -> TcpStream {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let mut socket = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let register = frame(TEXT, r#"{"action":"register","id":"a"}"#);
        socket.write_all(REQUEST.as_bytes()).unwrap();
        socket.write_all(&register).unwrap();
        socket
    }

    /// Processor time that it has used, in ticks of 10 ms.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind the name, which may hold spaces: the 12th and 13th are user and system time.
        let fields = stat.rsplit_once(')').unwrap().1;
        let times = fields.split_whitespace().skip(11).take(2);
        times.map(|time| time.parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its input ends with it, if it has not ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_served(socket: &mut TcpStream) {
    let expected = br#"{"action":"registered","id":"a"}"#;
    let mut bytes = Vec::new();
    while !bytes.ends_with(expected) {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("to be served");
        bytes.push(byte[0]);
    }
}

#[test]
fn a_server_out_of_files_waits_and_accepts_again() {
    let mut server = Server::start();
    is_served(&mut server.connect());
    // More than it has files for; the system keeps the others waiting.
    let mut peers: Vec<_> = (0..FILES).map(|_| server.connect()).collect();
    let start = Instant::now();
    let mut accepted = server.accepted();
    // Until it accepts no more: it still runs, so these are as many as it has files for.
    loop {
        std::thread::sleep(Duration::from_millis(150));
        let now = server.accepted();
        if now == accepted && now > 1 {
            break;
        }
        accepted = now;
        assert!(start.elapsed() < PATIENCE);
    }
    assert!((2..FILES).contains(&accepted), "{accepted}");
    is_served(&mut peers[0]);
    // A server that spins would use half of this time, or all of it.
    let (ticks, window) = (server.ticks(), Duration::from_millis(500));
    std::thread::sleep(window);
    let used = Duration::from_millis((server.ticks() - ticks) * 10);
    assert!(used < window / 4, "{used:?}");
    // Those who leave make room for all who wait.
    let waiting = peers.split_off(accepted as usize - 1);
    for mut peer in peers {
        peer.write_all(&frame(TEXT, r#"{"action":"unregister"}"#))
            .unwrap();
    }
    for mut peer in waiting {
        is_served(&mut peer);
    }
    assert_eq!(server.accepted(), FILES + 1);
}

//! A network link that is cut: neither end receives a reset.

use std::{
    ffi::OsStr,
    io::{self, Write},
    net::SocketAddr,
    process::Command,
    time::Duration,
};

use futures_util::StreamExt;

use crate::{
    case::{count, endure, turn},
    process::{Process, say, task},
    support::{
        Listening, Peer,
        raw::{Raw, numbered_send},
        until,
    },
};

/// Where the broker is, and its end of the link; beyond it the other end.
const BROKER: &str = "10.0.0.1";
const NEAR: &str = "10.0.0.2/24";
const FAR: &str = "10.0.0.3/24";

/// Changes the network of this process.
fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {error}");
}

/// A network of its own for this very program, without a way out: nothing of the machine is touched,
/// and no privilege is needed where the system lets anybody have one.
fn apart(program: &OsStr) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(program);
    command
}

fn start_apart(test: &str, task: &str) -> Process {
    let program = std::env::current_exe().unwrap();
    Process::start_by(apart(program.as_os_str()), test, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_behind_a_broken_network_link_are_detected_as_dead() {
    let _turn = turn().await;
    let probe = apart("ip".as_ref())
        .args("link add near type veth peer name far".split(' '))
        .output();
    let why = match probe {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(why) = why {
        assert_eq!(count(0, 1), 0, "no network of its own: {why}");
        // Not by `eprintln!`, which the harness keeps for itself.
        let mut error = io::stderr();
        writeln!(error, "SKIPPED, no network of its own: {why}").unwrap();
        return;
    }
    let scene = start_apart("network::a_scene", "");
    while scene.line() != "done" {}
    assert!(scene.ended().success());
}

/// The broker and the canary on this end of the link.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "another test runs it, in a network of its own"]
async fn a_scene() {
    if task().is_none() {
        return;
    }
    ip("link set lo up");
    ip(&format!("addr add {BROKER}/32 dev lo"));
    let options = format!("host={BROKER} ping_interval=1500 ping_timeout=1500");
    endure(&options, count(20, 500), async |broker, count| {
        let dead = broker.count("dead");
        let far = start_apart("network::beyond", &broker.socket_address().to_string());
        far.line();
        ip(&format!(
            "link add near type veth peer name far netns {}",
            far.pid
        ));
        ip(&format!("addr add {NEAR} dev near"));
        ip("link set near up");
        assert_eq!(far.ask(&count.to_string()), "connected");
        // Alive for as long as there is a link.
        say("alive");
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        assert_eq!(
            (broker.count("dead") - dead, broker.count("registered")),
            (0, 2 + count as u64)
        );
        far.ask("cut");
        // One of them is sent more than anything can hold; another has been asked something.
        let mut sender = Raw::register(broker, "sender").await;
        sender
            .send(r#"{"action":"send","message":1,"dest":"0","ack":"k"}"#)
            .await;
        for n in 0..256 {
            sender.send(&numbered_send(n, r#""0""#, 256 << 10)).await;
        }
        sender.send(r#"{"action":"unregister"}"#).await;
        assert_eq!(
            sender.receive().await,
            r#"{"action":"unregistered","id":"sender"}"#
        );
        until("they are dead", || {
            broker.count("dead") - dead == count as u64
        })
        .await;
        assert_eq!(broker.count("slow"), 0);
        sender.ended_by_us().await;
        ip("link del near");
        say("dead");
    })
    .await;
    say("done");
}

/// The peers on the other end: connected, then cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "another test runs it, in another network of its own"]
async fn beyond() {
    let Some(broker) = task() else { return };
    let broker: SocketAddr = broker.parse().unwrap();
    say("ready for a link");
    // This thread may wait: the peers have others.
    for command in io::stdin().lines() {
        let command = command.unwrap();
        if command == "cut" {
            ip("link set far down");
            say("cut");
            continue;
        }
        ip(&format!("addr add {FAR} dev far"));
        ip("link set far up");
        for n in 0..command.parse().unwrap() {
            let mut peer = Peer::register(&broker, &n.to_string()).await;
            // Reads, and so answers pings.
            tokio::spawn(async move { while peer.0.next().await.is_some() {} });
        }
        say("connected");
    }
}

impl Listening for SocketAddr {
    fn socket_address(&self) -> SocketAddr {
        *self
    }
}

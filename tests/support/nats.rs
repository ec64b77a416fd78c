//! A real NATS server: a process of its own, which ends with the test.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use serde_json::Value;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use wsmsgbroker::{NatsOptions, Server, ServerOptions};

use super::{Log, comes_true, start_server_with};

const PROGRAM: &str = match cfg!(windows) {
    true => "nats-server.exe",
    false => "nats-server",
};
/// Bytes of a message between brokers: more than the longest of a conversation.
const MAX_PAYLOAD: usize = 32 << 20;

/// A NATS server on a free port of the loopback.
pub struct Nats {
    child: Child,
    folder: PathBuf,
    url: String,
    /// Where other servers of its cluster connect; empty if it has none.
    route: String,
}

impl Nats {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// One that other servers form a cluster with, and connects to this one of them, if any.
    pub async fn start_clustered(route: Option<SocketAddr>) -> Self {
        let routes = route.map(|route| format!(r#"routes: ["nats://{route}"]"#));
        let routes = routes.unwrap_or_default();
        // It must not tell others of a way around that which it was given.
        Self::start_with(&format!(
            "cluster {{ name: test, listen: \"127.0.0.1:-1\", no_advertise: true, {routes} }}"
        ))
        .await
    }

    /// Where other servers of its cluster connect.
    pub fn route(&self) -> SocketAddr {
        let address = self.route.trim_start_matches("nats://");
        address.parse().expect("a server that is clustered")
    }

    async fn start_with(config: &str) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Relaxed);
        let name = format!("wsmsgbroker-nats-{}-{number}", std::process::id());
        let folder = env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let settings = folder.join("nats.conf");
        // Its own language has JSON in it.
        let ports = Value::from(folder.to_str().unwrap());
        let text = format!(
            "listen: \"127.0.0.1:-1\"\nmax_payload: {MAX_PAYLOAD}\nports_file_dir: {ports}\n{config}\n"
        );
        fs::write(&settings, text).unwrap();
        let child = Command::new(program())
            .arg("-c")
            .arg(&settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut nats = Self {
            child,
            folder,
            url: String::new(),
            route: String::new(),
        };
        let is_there = comes_true(|| {
            nats.url = nats.found("nats").unwrap_or_default();
            nats.route = nats.found("cluster").unwrap_or_default();
            !nats.url.is_empty()
        });
        assert!(is_there.await, "{}", nats.log());
        nats
    }

    /// Where it listens for these, once it does.
    fn found(&self, whom: &str) -> Option<String> {
        let files = fs::read_dir(&self.folder).ok()?.filter_map(Result::ok);
        let mut paths = files.map(|file| file.path());
        let path = paths.find(|path| path.extension().is_some_and(|end| end == "ports"))?;
        // It may not be written to its end.
        let ports: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        ports[whom][0].as_str().map(str::to_owned)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// That many brokers with these options, which become one; and what they report, all in one log.
    pub async fn brokers(
        &self,
        namespace: &str,
        count: usize,
        options: impl Fn() -> ServerOptions,
    ) -> (Vec<Server>, Log) {
        let log = Log::default();
        let names = (0..count).map(|number| number.to_string());
        let servers: Vec<_> = names
            .map(|name| self.broker(namespace, &name, options(), &log))
            .collect();
        let are_up = || log.count("Cluster(Up)") == count;
        assert!(comes_true(are_up).await, "{:?} {}", log.lines(), self.log());
        (servers, log)
    }

    /// A broker that may not be connected yet.
    pub fn broker(&self, namespace: &str, name: &str, options: ServerOptions, log: &Log) -> Server {
        let mut nats = NatsOptions::new([&self.url]);
        nats.namespace = namespace.to_owned();
        nats.name = Some(name.to_owned());
        let options = ServerOptions {
            nats: Some(nats),
            ..options
        };
        start_server_with(options, log)
    }
}

/// A TCP line to an address, which can be cut and mended.
pub struct Line {
    address: SocketAddr,
    is_up: watch::Sender<bool>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Line {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_up, watched) = watch::channel(true);
        let connections = Arc::<AtomicUsize>::default();
        let open = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut watched, open) = (watched.clone(), open.clone());
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else {
                        return;
                    };
                    open.fetch_add(1, Relaxed);
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = watched.wait_for(|is_up| !is_up) => {}
                    }
                    drop((near, far));
                    open.fetch_sub(1, Relaxed);
                });
            }
        });
        Self {
            address,
            is_up,
            connections,
            task,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections; new ones end at once.
    pub async fn cut(&self) {
        self.is_up.send_replace(false);
        let are_ended = || self.connections.load(Relaxed) == 0;
        assert!(comes_true(are_ended).await, "the line is cut");
    }

    pub fn mend(&self) {
        self.is_up.send_replace(true);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The path of the program; there is no test without one.
fn program() -> PathBuf {
    let given = env::var_os("NATS_SERVER").map(PathBuf::from);
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/nats");
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(ours).chain(env::split_paths(&path));
    let candidates = match given {
        Some(given) => vec![given],
        None => folders.map(|folder| folder.join(PROGRAM)).collect(),
    };
    let found = candidates.into_iter().find(|file| file.is_file());
    found.expect("nats-server is not installed: run `node scripts/nats.js`, or set NATS_SERVER")
}

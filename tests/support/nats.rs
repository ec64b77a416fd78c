//! A real NATS server: a process of its own, which ends with the test.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use serde_json::Value;
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
}

impl Nats {
    pub async fn start() -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Relaxed);
        let name = format!("wsmsgbroker-nats-{}-{number}", std::process::id());
        let folder = env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let settings = folder.join("nats.conf");
        // Its own language has JSON in it.
        let ports = Value::from(folder.to_str().unwrap());
        let text = format!(
            "listen: \"127.0.0.1:-1\"\nmax_payload: {MAX_PAYLOAD}\nports_file_dir: {ports}\n"
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
        };
        let is_there = comes_true(|| {
            nats.url = nats.found_url().unwrap_or_default();
            !nats.url.is_empty()
        });
        assert!(is_there.await, "{}", nats.log());
        nats
    }

    /// Where it listens, once it does.
    fn found_url(&self) -> Option<String> {
        let files = fs::read_dir(&self.folder).ok()?.filter_map(Result::ok);
        let mut paths = files.map(|file| file.path());
        let path = paths.find(|path| path.extension().is_some_and(|end| end == "ports"))?;
        // It may not be written to its end.
        let ports: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        ports["nats"][0].as_str().map(str::to_owned)
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
        let servers: Vec<_> = (0..count)
            .map(|number| {
                let mut nats = NatsOptions::new([&self.url]);
                nats.namespace = namespace.to_owned();
                nats.name = Some(number.to_string());
                let options = ServerOptions {
                    nats: Some(nats),
                    ..options()
                };
                start_server_with(options, &log)
            })
            .collect();
        let are_up = || log.count("Cluster(Up)") == count;
        assert!(comes_true(are_up).await, "{:?} {}", log.lines(), self.log());
        (servers, log)
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

//! Several peers on real sockets, each doing what it likes: whatever that is, two others still talk
//! to each other meanwhile, and when the peers have gone nothing of them is left.
//!
//! What they do is a text of lines, so that seeds can be read and written. A line's first byte is
//! the peer, of four; its second is what the peer does, a text message unless it is one of `Deed`;
//! the rest is the payload. An empty line lets the server work on what has come.

use std::{
    cell::RefCell,
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, task::yield_now};

use super::{
    peer::{PATIENCE, Peer, REQUEST, TEXT, Wait, frame},
    runtime,
};
use crate::{KeepRule, Listen, MailboxRule, Server, ServerEvent, ServerOptions};

const PEERS: usize = 4;
/// Every timeout of the server: longer than our own, so that a frame that waits for one of them is detected.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Turns of the runtime from the connection of a peer to the end of what it has sent.
const SETTLE: usize = 6;
/// Bytes that the peers may write: repeating is cheap for the fuzzer, not for the server.
const MOST_WRITTEN: usize = 2 << 20;

/// An operation of a peer, by the second byte of a line.
enum Deed {
    /// Writes a frame that begins with this byte: `t`, `b` binary, `p` ping, `o` pong, `c` close,
    /// `<` first fragment, `+` further fragment, `>` last fragment.
    Frame(u8),
    /// `r`: writes bytes as they are; before anything else, instead of its request.
    Raw,
    /// `*`: writes the same again, as often as the next byte says.
    Again,
    /// `e`: ends its writing.
    End,
    /// `v`: vanishes, whatever it has not read.
    Vanish,
    /// `q`: nothing itself, but the server is closed.
    Quit,
}

impl Deed {
    fn of(byte: u8) -> Self {
        match byte {
            b'b' => Self::Frame(0x82),
            b'p' => Self::Frame(0x89),
            b'o' => Self::Frame(0x8a),
            b'c' => Self::Frame(0x88),
            b'<' => Self::Frame(0x01),
            b'+' => Self::Frame(0x00),
            b'>' => Self::Frame(0x80),
            b'r' => Self::Raw,
            b'*' => Self::Again,
            b'e' => Self::End,
            b'v' => Self::Vanish,
            b'q' => Self::Quit,
            _ => Self::Frame(TEXT),
        }
    }
}

thread_local! {
    /// The server of the inputs before, unless one of them closed it.
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// Plays a conversation.
pub fn conversation(input: &[u8]) {
    let stage = STAGE.take();
    let stage = runtime(async {
        let stage = match stage {
            Some(stage) => stage,
            None => Stage::set().await,
        };
        stage.play(input).await
    });
    STAGE.set(stage);
}

/// A server, and two peers that behave.
struct Stage {
    server: Server,
    path: PathBuf,
    /// The ids that have an owner, according to the server's events.
    owned: Arc<Mutex<HashSet<String>>>,
    canaries: [Peer; 2],
}

impl Stage {
    async fn set() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("wsmsgbroker-fuzz-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // That of a process that had this number before and failed.
        let _ = std::fs::remove_file(&path);
        let options = ServerOptions {
            listen: Listen::Unix(path.clone()),
            // Small ones, so that short inputs reach them.
            max_payload: 4 << 10,
            max_backpressure: 1 << 10,
            max_id_length: 32,
            max_dest: 8,
            max_header_size: 1 << 10,
            max_pending_acks: 4,
            slow_consumer_timeout: TIMEOUT,
            handshake_timeout: TIMEOUT,
            close_timeout: TIMEOUT,
            ack_timeout: TIMEOUT,
            mailboxes: vec![MailboxRule {
                messages: 4,
                max_deliver: 2,
                dead_letters: Some("kept.dead".to_owned()),
                ..MailboxRule::new("*")
            }],
            keep: vec![KeepRule {
                messages: 4,
                ..KeepRule::new("kept.>")
            }],
            ..ServerOptions::default()
        };
        let owned = Arc::<Mutex<HashSet<String>>>::default();
        let listener = {
            let owned = owned.clone();
            move |event: ServerEvent<'_>| match event {
                ServerEvent::Registered { id, replaced, .. } => {
                    let is_new = owned.lock().insert(id.to_owned());
                    assert_eq!(replaced, !is_new, "{id}");
                }
                ServerEvent::Unregistered(id) => {
                    assert!(owned.lock().remove(id), "{id}");
                }
                _ => {}
            }
        };
        let server = Server::bind(options, listener, &Handle::current()).expect("a server");
        let canaries = [(); 2].map(|()| {
            let mut canary = Peer::connect(&path).expect("a connection");
            canary.write(REQUEST);
            canary
        });
        let stage = Self {
            server,
            path,
            owned,
            canaries,
        };
        stage.canaries_are_alone().await;
        stage
    }

    /// The stage for the next play, unless the server was closed.
    async fn play(mut self, input: &[u8]) -> Option<Self> {
        let mut peers = [const { None }; PEERS];
        let mut is_closed = false;
        let mut written = 0;
        for line in input.split(|byte| *byte == b'\n') {
            let [name, deed, payload @ ..] = line else {
                settle().await;
                continue;
            };
            let place = &mut peers[usize::from(*name) % PEERS];
            let deed = Deed::of(*deed);
            let peer = match place {
                Some(peer) => peer,
                None => match Peer::connect(&self.path) {
                    Some(mut peer) => {
                        if !matches!(deed, Deed::Raw) {
                            peer.write(REQUEST);
                        }
                        place.insert(peer)
                    }
                    // The server has been closed.
                    None => continue,
                },
            };
            match deed {
                Deed::Frame(first) => peer.last = frame(first, payload),
                Deed::Raw => peer.last = payload.to_vec(),
                Deed::Again => {}
                Deed::End => peer.end(),
                Deed::Vanish => *place = None,
                Deed::Quit => {
                    self.server.close();
                    is_closed = true;
                }
            }
            let times = match deed {
                Deed::Frame(_) | Deed::Raw => 1,
                Deed::Again => payload.first().copied().unwrap_or(1),
                Deed::End | Deed::Vanish | Deed::Quit => 0,
            };
            for _ in 0..times {
                if let Some(peer) = place {
                    written += peer.last.len();
                    if written > MOST_WRITTEN {
                        break;
                    }
                    peer.write_last();
                }
            }
        }
        settle().await;
        if !is_closed {
            self.canaries_talk().await;
        }
        read_to_quiet(peers.iter_mut().flatten().collect()).await;
        drop(peers);
        if is_closed {
            return self.end().await;
        }
        self.canaries_are_alone().await;
        Some(self)
    }

    /// A request and its answer, between two peers that register for it and leave again.
    async fn canaries_talk(&mut self) {
        let [a, b] = &mut self.canaries;
        a.send(r#"{"action":"register","id":"canary a"}"#);
        b.send(r#"{"action":"register","id":"canary b"}"#);
        a.hears(r#"{"action":"registered","id":"canary a"}"#).await;
        b.hears(r#"{"action":"registered","id":"canary b"}"#).await;
        a.send(r#"{"action":"send","message":"hi","dest":["canary b"],"ack":"canary"}"#);
        b.hears(r#"{"action":"message","message":"hi","ack":"canary","from":"canary a"}"#)
            .await;
        b.send(r#"{"action":"answer","ack":"canary","message":null}"#);
        a.hears(r#"{"action":"answer","ack":"canary","from":"canary b","message":null}"#)
            .await;
        a.send(r#"{"action":"unregister"}"#);
        b.send(r#"{"action":"unregister"}"#);
        a.hears(r#"{"action":"unregistered","id":"canary a"}"#)
            .await;
        b.hears(r#"{"action":"unregistered","id":"canary b"}"#)
            .await;
    }

    async fn canaries_are_alone(&self) {
        self.has_left(self.canaries.len()).await;
    }

    /// Waits until so many connections are left, and nothing that they could hold.
    async fn has_left(&self, connections: usize) {
        let mut wait = Wait::default();
        loop {
            let stats = self.server.stats();
            if (stats.connections, stats.registered, stats.pending) == (connections, 0, 0) {
                break;
            }
            wait.turn(|| format!("{stats:?}")).await;
        }
        assert!(self.owned.lock().is_empty(), "{:?}", self.owned);
        assert_eq!(self.server.ids().len(), 0);
    }

    /// The server was told to close: it does, and leaves nothing.
    async fn end(mut self) -> Option<Self> {
        read_to_quiet(self.canaries.iter_mut().collect()).await;
        for canary in &mut self.canaries {
            assert_eq!(canary.closed_with(), Some(1001));
            canary.end();
        }
        let closed = tokio::time::timeout(PATIENCE, self.server.closed()).await;
        assert!(closed.is_ok(), "{:?}", self.server.stats());
        self.has_left(0).await;
        assert!(!self.path.exists());
        None
    }
}

/// Lets peers read all that they get, and looks at it.
async fn read_to_quiet(mut peers: Vec<&mut Peer>) {
    let mut quiet = 0;
    while quiet < SETTLE {
        // Each one reads: what one has read may bring more to another.
        let read = peers.iter_mut().map(|peer| peer.read());
        let read = read.filter(|read| *read);
        quiet = if read.count() > 0 { 0 } else { quiet + 1 };
        yield_now().await;
    }
    peers.iter().for_each(|peer| peer.has_read_sense());
}

async fn settle() {
    for _ in 0..SETTLE {
        yield_now().await;
    }
}

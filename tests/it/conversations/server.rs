//! Plays the conversations with a server, over real sockets.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::timeout;
use wsmsgbroker::{KeepRule, MailboxRule, Server, ServerOptions, SlowConsumer};

use super::{
    Outcome,
    script::{Conversation, Members},
    socket::{expect_all, expect_close, expect_end, expect_error, expect_goaway, expect_text, say},
};
use crate::support::{Log, PATIENCE, Peer, comes_true, options, start_server};

/// A server or a cluster, and peers, during a conversation.
pub(crate) struct Stage {
    servers: Vec<Arc<Server>>,
    /// Peers that have connected so far: they take turns at the servers.
    connected: usize,
    log: Log,
    peers: BTreeMap<String, Peer>,
    /// Which server each peer that ever was is connected to.
    places: BTreeMap<String, usize>,
    /// How often each event was named by a step.
    heard: BTreeMap<String, usize>,
}

impl Stage {
    /// With one server.
    pub(crate) async fn play(conversation: &Conversation) -> Outcome {
        let (server, log) = start_server(server_options(conversation));
        Self::play_with(conversation, vec![server], log).await
    }

    /// With these servers, whose events come to this log.
    pub(crate) async fn play_with(
        conversation: &Conversation,
        servers: Vec<Server>,
        log: Log,
    ) -> Outcome {
        let mut stage = Self {
            servers: servers.into_iter().map(Arc::new).collect(),
            connected: 0,
            log,
            peers: BTreeMap::new(),
            places: BTreeMap::new(),
            heard: BTreeMap::new(),
        };
        let version2 = conversation.members.texts("version2");
        for name in conversation.members.texts("registered") {
            let protocol = match version2.contains(&name) {
                true => r#","protocol":2"#,
                false => "",
            };
            stage
                .register(&name, protocol)
                .await
                .map_err(|error| format!("\"{}\": {error}", conversation.name))?;
        }
        for (number, step) in conversation.steps.iter().enumerate() {
            let place = format!("\"{}\", step {}: {step}", conversation.name, number + 1);
            let outcome = timeout(PATIENCE * 2, stage.step(step)).await;
            outcome
                .unwrap_or_else(|_| Err("nothing came".into()))
                .map_err(|error| format!("{place}\n    {error}"))?;
        }
        stage
            .end()
            .await
            .map_err(|error| format!("\"{}\", at the end\n    {error}", conversation.name))
    }

    /// A peer that owns its own name.
    async fn register(&mut self, name: &str, protocol: &str) -> Outcome {
        let mut peer = self.connect(name).await;
        peer.send(&format!(
            r#"{{"action":"register","id":"{name}"{protocol}}}"#
        ))
        .await;
        let registered = format!(r#"{{"action":"registered","id":"{name}"{protocol}}}"#);
        expect_text(&mut peer.0, &registered).await?;
        *self.heard.entry(format!("registered {name}")).or_default() += 1;
        self.peers.insert(name.to_owned(), peer);
        Ok(())
    }

    async fn connect(&mut self, name: &str) -> Peer {
        let place = self.connected % self.servers.len();
        self.connected += 1;
        self.places.insert(name.to_owned(), place);
        Peer::connect(&*self.servers[place]).await
    }

    /// Waits until the server of this peer has queued so many messages for its peers.
    async fn until_queued(&self, name: &str, count: u64) -> Outcome {
        let server = &self.servers[self.places[name]];
        match comes_true(|| server.stats().messages_out >= count).await {
            true => Ok(()),
            false => Err(format!("{:?}", server.stats())),
        }
    }

    /// Waits until the id confirmed by this text has a single owner: the former owner's server learns of the
    /// move a little later.
    async fn until_owned_once(&self, text: &str) -> Outcome {
        let registered = Members::read(text).filter(|_| self.servers.len() > 1);
        let registered =
            registered.filter(|frame| frame.text("action").as_deref() == Some("registered"));
        let Some(id) = registered.and_then(|frame| frame.text("id")) else {
            return Ok(());
        };
        let owners = || self.servers.iter().filter(|server| server.has(&id)).count();
        match comes_true(|| owners() < 2).await {
            true => Ok(()),
            false => Err(format!("{id} is at two servers")),
        }
    }

    fn close(&self, within: Option<usize>) {
        for server in &self.servers {
            match within {
                Some(within) => {
                    let server = server.clone();
                    let drained = server.drain(Duration::from_millis(within as u64));
                    tokio::spawn(async move {
                        drained.await;
                        server.close();
                    });
                }
                None => server.close(),
            }
        }
    }

    async fn step(&mut self, step: &Members) -> Outcome {
        if let Some(event) = step.text("event") {
            let heard = self.heard.entry(event.clone()).or_default();
            if step.has("perhaps") {
                *heard = usize::MAX;
                return Ok(());
            }
            *heard += step.number("times").unwrap_or(1);
            return match comes_true(|| self.log.count(&event) >= *heard).await {
                true if step.has("perhapsMore") => {
                    *heard = usize::MAX;
                    Ok(())
                }
                true => Ok(()),
                false => Err(format!("reported {:?}", self.log.lines())),
            };
        }
        if step.has("server") {
            self.close(step.number("within"));
            return Ok(());
        }
        let name = step.text("peer").ok_or("no peer")?;
        if let Some(count) = step.number("queued") {
            return self.until_queued(&name, count as u64).await;
        }
        if !self.peers.contains_key(&name) {
            let peer = self.connect(&name).await;
            self.peers.insert(name.clone(), peer);
        }
        let peer = self.peers.get_mut(&name).ok_or("no peer")?;
        if say(&mut peer.0, step).await? {
            return Ok(());
        }
        let times = step.number("times").unwrap_or(1);
        if let Some(expected) = step.frame("expect") {
            for _ in 0..times {
                expect_text(&mut peer.0, &expected).await?;
            }
            self.until_owned_once(&expected).await?;
        } else if let Some(expected) = step.frames("expectAll") {
            expect_all(&mut peer.0, expected).await?;
        } else if step.has("expectError") {
            for _ in 0..times {
                expect_error(&mut peer.0, step).await?;
            }
        } else if let Some(within) = step.number("expectGoaway") {
            expect_goaway(&mut peer.0, within).await?;
        } else if step.has("expectClose") {
            expect_close(&mut peer.0, step).await?;
            expect_end(&mut peer.0).await?;
            self.peers.remove(&name);
        } else if step.has("vanish") {
            self.peers.remove(&name);
        } else {
            return Err("what is that?".into());
        }
        Ok(())
    }

    /// Proves that nothing more comes to anybody, and that nothing more was reported.
    async fn end(mut self) -> Outcome {
        // Frames in flight between servers, such as cancellations, find that the ids are given up here, and are
        // reported as unknown.
        let before = (self.servers.len() > 1).then(|| self.log.lines());
        // Twice: what is on its way from one peer to another has come before the second time.
        for _ in 0..2 {
            for (name, peer) in &mut self.peers {
                let id = serde_json::Value::from(format!("(end) {name}"));
                peer.send(&format!(r#"{{"action":"register","id":{id}}}"#))
                    .await;
                let registered = format!(r#"{{"action":"registered","id":{id}}}"#);
                expect_text(&mut peer.0, &registered)
                    .await
                    .map_err(|error| format!("{name}: {error}"))?;
            }
        }
        let lines = before.unwrap_or_else(|| self.log.lines());
        for line in &lines {
            let heard = self.heard.get(line).copied().unwrap_or_default();
            if line.starts_with(['r', 'u'])
                && !line.contains("registered")
                && heard != usize::MAX
                && lines.iter().filter(|other| *other == line).count() != heard
            {
                return Err(format!("{line} was reported"));
            }
        }
        Ok(())
    }
}

/// The options that a conversation names.
pub(crate) fn server_options(conversation: &Conversation) -> ServerOptions {
    let given = conversation.members.object("options");
    let mut options = options();
    for name in given.names() {
        if name == "slowConsumer" {
            options.slow_consumer = match given.text(name).as_deref() {
                Some("drop") => SlowConsumer::Drop,
                Some("close") => SlowConsumer::Close,
                other => panic!("slowConsumer is {other:?}"),
            };
            continue;
        }
        if name == "keep" {
            options.keep = vec![KeepRule::new(given.text(name).unwrap())];
            continue;
        }
        if name == "mailboxes" {
            options.mailboxes = vec![MailboxRule {
                messages: 2,
                ..MailboxRule::new(given.text(name).unwrap())
            }];
            continue;
        }
        let value = given.number(name).unwrap();
        match name {
            "maxIdLength" => options.max_id_length = value,
            "maxDest" => options.max_dest = value,
            "maxSubscriptions" => options.max_subscriptions = value,
            "maxPatterns" => options.max_patterns = value,
            "maxPresenceInfo" => options.max_presence_info = value,
            "maxPresenceNames" => options.max_presence_names = value,
            "maxPendingAcks" => options.max_pending_acks = value,
            "maxBackpressure" => options.max_backpressure = value,
            "maxPayload" => options.max_payload = value,
            "ackTimeout" => options.ack_timeout = Duration::from_millis(value as u64),
            _ => panic!("the option {name}"),
        }
    }
    options
}

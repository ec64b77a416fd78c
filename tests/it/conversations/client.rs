//! Plays the conversations with the Rust client, against a scripted server.

use futures_util::SinkExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};
use wsmsgbroker::{Client, ClientEvent, ClientListener, ClientOptions};

use super::{
    Outcome,
    script::{Conversation, Members, compact},
    socket::{expect_close, expect_end, expect_text, say},
};
use crate::support::PATIENCE;

/// A client and its server, in the midst of a conversation.
pub(crate) struct Stage {
    client: Client,
    /// The id the client was given, as JSON.
    id: Option<String>,
    /// Its first frame.
    register: String,
    reports: mpsc::UnboundedReceiver<String>,
    listener: TcpListener,
    server: Option<WebSocketStream<TcpStream>>,
    /// The client has reported its end.
    closed: bool,
}

impl Stage {
    pub(crate) async fn play(conversation: &Conversation) -> Outcome {
        let place = |error| format!("\"{}\"\n    {error}", conversation.name);
        let members = &conversation.members;
        let protocol = members.number("protocol").unwrap_or(1);
        let mut stage = Self::new(members, protocol as u8)
            .await
            .map_err(|error| place(error.to_string()))?;
        if members.has("open") || members.has("registered") {
            stage.open().await.map_err(place)?;
        }
        if members.has("registered") {
            stage.registered(protocol).await.map_err(place)?;
        }
        for (number, step) in conversation.steps.iter().enumerate() {
            let place = |error: String| place(format!("step {}: {step}\n    {error}", number + 1));
            let outcome = timeout(PATIENCE * 2, stage.step(step)).await;
            let outcome = outcome.unwrap_or_else(|_| Err("nothing came".into()));
            outcome.map_err(place)?;
        }
        let end = timeout(PATIENCE, stage.end()).await;
        let end = end.unwrap_or_else(|_| Err("there was none".into()));
        end.map_err(|error| place(format!("at the end: {error}")))
    }

    async fn new(members: &Members, protocol: u8) -> Result<Self, Box<dyn std::error::Error>> {
        let id = members.json("id");
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (tell, reports) = mpsc::unbounded_channel();
        let options = ClientOptions {
            host: "127.0.0.1".into(),
            port: listener.local_addr()?.port(),
            id: id.clone(),
            token: members.text("token"),
            protocol,
            ..ClientOptions::default()
        };
        Ok(Self {
            client: Client::connect(options, Reporter(tell), &Handle::current())?,
            register: register(id.as_deref(), protocol),
            id,
            reports,
            listener,
            server: None,
            closed: false,
        })
    }

    /// Up to the report of `open`.
    async fn open(&mut self) -> Outcome {
        self.accept(true).await?;
        self.expect_report("open").await?;
        let register = self.register.clone();
        expect_text(self.server()?, &register).await
    }

    /// On to the report of `registered`.
    async fn registered(&mut self, protocol: usize) -> Outcome {
        let registered = format!(r#"{{"action":"registered","protocol":{protocol}}}"#);
        let sent = self.server()?.send(Message::text(registered)).await;
        sent.map_err(text)?;
        self.expect_report("registered").await
    }

    async fn step(&mut self, step: &Members) -> Outcome {
        if let Some(method) = step.text("call") {
            return self.call(&method, step);
        }
        if let Some(report) = step.text("report") {
            let members = step.names().filter(|name| *name != "report");
            let members = members.map(|name| (name, step.json(name)));
            return self.expect_report(&line(&report, members)).await;
        }
        if step.has("accept") {
            return self.accept(step.text("accept").is_none()).await;
        }
        if let Some(status) = step.number("refuse") {
            let response = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
            return self.respond(response.as_bytes()).await;
        }
        if step.has("vanish") {
            if self.server.take().is_none() {
                drop(self.listener.accept().await.map_err(text)?);
            }
            return Ok(());
        }
        let server = self.server()?;
        if say(server, step).await? {
            return Ok(());
        }
        if let Some(expected) = step.frame("expect") {
            return expect_text(server, &expected).await;
        }
        if let Some(bytes) = step.bytes("sendBytes") {
            return server.get_mut().write_all(&bytes).await.map_err(text);
        }
        if step.has("expectClose") {
            expect_close(server, step).await?;
            // Sends our close frame, if the client was the first to send one.
            expect_end(server).await?;
            self.server = None;
            return Ok(());
        }
        Err("what is that?".into())
    }

    fn server(&mut self) -> Outcome<&mut WebSocketStream<TcpStream>> {
        self.server.as_mut().ok_or_else(|| "not connected".into())
    }

    async fn accept(&mut self, rightly: bool) -> Outcome {
        if !rightly {
            let response = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            return self.respond(response.as_bytes()).await;
        }
        let (socket, _) = self.listener.accept().await.map_err(text)?;
        socket.set_nodelay(true).map_err(text)?;
        self.server = Some(accept_async(socket).await.map_err(text)?);
        Ok(())
    }

    /// Reads a handshake, and answers it with these bytes.
    async fn respond(&mut self, response: &[u8]) -> Outcome {
        let (mut socket, _) = self.listener.accept().await.map_err(text)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.map_err(text)?);
        }
        socket.write_all(response).await.map_err(text)
    }

    fn call(&mut self, method: &str, step: &Members) -> Outcome {
        let argument = |name| step.json(name).unwrap_or_default();
        let client = &self.client;
        let result = match method {
            "send" => client.send(&argument("message"), &argument("dest"), &argument("ack")),
            "answer" => client.answer(&argument("ack"), &argument("message")),
            "register" => client.register(step.text("token").as_deref()),
            "unregister" => client.unregister(),
            "close" => {
                client.close();
                Ok(())
            }
            _ => return Err("no such method".into()),
        };
        client.flush();
        let code = result.err().map(|error| error.code().to_owned());
        match code == step.text("fails") {
            true => Ok(()),
            false => Err(format!("failed with {code:?}")),
        }
    }

    async fn expect_report(&mut self, expected: &str) -> Outcome {
        match timeout(PATIENCE, self.reports.recv()).await {
            Ok(Some(found)) if is_report(&found, expected) => {
                self.closed |= found.starts_with("close");
                Ok(())
            }
            other => Err(format!("found    {other:?}\n    expected {expected}")),
        }
    }

    /// Proves that the client writes and reports nothing more.
    async fn end(mut self) -> Outcome {
        if let Some(mut server) = self.server.take_if(|_| !self.closed) {
            let last = r#"{"action":"unregistered","id":"(end)"}"#;
            server.send(Message::text(last)).await.map_err(text)?;
            self.expect_report(r#"unregistered, id: "(end)""#).await?;
            self.client.unregister().map_err(text)?;
            self.client.flush();
            let id = self.id.take().map(|id| format!(r#","id":{id}"#));
            let last = format!(r#"{{"action":"unregister"{}}}"#, id.unwrap_or_default());
            expect_text(&mut server, &last).await?;
            self.client.destroy();
            self.expect_report("close, code: 1006").await?;
        }
        // The last handle, and the task when it ends, let go of the listener.
        drop(self.client);
        match self.reports.recv().await {
            None => Ok(()),
            Some(more) => Err(format!("{more} was reported")),
        }
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// The frame with which a client registers that has no token.
fn register(id: Option<&str>, protocol: u8) -> String {
    let id = id.map(|id| format!(r#","id":{id}"#)).unwrap_or_default();
    let protocol = match protocol {
        2 => r#","protocol":2"#,
        _ => "",
    };
    format!(r#"{{"action":"register"{id}{protocol}}}"#)
}

/// Whether a report is the expected one, in which `<any>` stands for any code.
fn is_report(found: &str, expected: &str) -> bool {
    match expected.split_once(r#""<any>""#) {
        Some((begin, end)) => found.starts_with(begin) && found.ends_with(end),
        None => found == expected,
    }
}

/// The line of a report: its members, each as JSON, in the order of their names.
fn line<'a>(report: &str, members: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let mut members: Vec<_> = members
        .into_iter()
        .filter_map(|(name, value)| Some(format!(", {name}: {}", value?)))
        .collect();
    members.sort();
    report.to_owned() + &members.concat()
}

/// Turns the events of a client into lines.
struct Reporter(mpsc::UnboundedSender<String>);

impl ClientListener for Reporter {
    fn event(&self, event: ClientEvent<'_>) {
        let raw = |value: Option<&str>| value.map(compact);
        let error = |code: &str| line("error", [("code", Some(format!("\"{code}\"")))]);
        let report = match event {
            ClientEvent::Open => line("open", []),
            ClientEvent::Registered { .. } => line("registered", []),
            ClientEvent::Unregistered { id, code } => {
                let report = match code {
                    Some(r#""REPLACED""#) => "replaced",
                    _ => "unregistered",
                };
                line(report, [("id", raw(id))])
            }
            ClientEvent::Cancel { ack } => line("cancel", [("ack", raw(Some(ack)))]),
            ClientEvent::GoAway { within } => line("goaway", [("within", raw(Some(within)))]),
            ClientEvent::ActionFailed { code, .. } => line("error", [("code", raw(Some(code)))]),
            ClientEvent::Message {
                message, ack, from, ..
            } => line(
                "message",
                [
                    ("message", raw(message)),
                    ("ack", raw(ack)),
                    ("from", raw(from)),
                ],
            ),
            ClientEvent::Answer {
                ack, from, message, ..
            } => line(
                "answer",
                [
                    ("message", raw(message)),
                    ("ack", raw(ack)),
                    ("from", raw(from)),
                ],
            ),
            ClientEvent::Refused(refused) => error(refused.code()),
            ClientEvent::Error(failed) => error(failed.code()),
            ClientEvent::Closed { code, .. } => {
                let code = code.map_or("null".into(), |code| code.to_string());
                line("close", [("code", Some(code))])
            }
            other => format!("{other:?}"),
        };
        // The receiver is dropped once a conversation has failed.
        let _ = self.0.send(report);
    }
}

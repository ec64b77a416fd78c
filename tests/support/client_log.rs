//! Clients whose events are recorded as lines.

use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use wsmsgbroker::{Client, ClientEvent, ClientListener, ClientOptions, Error, TlsClientOptions};

use super::until;

/// The events of a client, as lines.
#[derive(Debug, Clone, Default)]
pub struct ClientLog(Arc<Mutex<Vec<String>>>);

impl ClientLog {
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Number of lines that begin with `start`.
    pub fn count(&self, start: &str) -> usize {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.starts_with(start)).count()
    }

    /// Waits until a line begins with `start`.
    pub async fn wait_for(&self, start: &str) {
        until(start, || self.count(start) > 0).await;
    }

    /// Waits until the client is closed; returns all lines.
    pub async fn end(&self) -> Vec<String> {
        self.wait_for("closed").await;
        self.lines()
    }
}

impl ClientListener for ClientLog {
    fn event(&self, event: ClientEvent<'_>) {
        let line = match event {
            ClientEvent::Open => "open".to_owned(),
            ClientEvent::Registered { protocol: 1, .. } => "registered".to_owned(),
            ClientEvent::Registered { protocol, .. } => format!("registered in version {protocol}"),
            ClientEvent::Unregistered { id, code } => {
                let texts = [Some("unregistered"), id, code];
                texts.into_iter().flatten().collect::<Vec<_>>().join(" ")
            }
            ClientEvent::Message { message, from, .. } => {
                let (from, message) = (from.unwrap_or("?"), message.unwrap_or("?"));
                format!("message from {from}: {message}")
            }
            ClientEvent::Error(error) => format!("error {}", error.code()),
            ClientEvent::Answer {
                ack,
                from,
                error: Some(error),
                ..
            } => format!(
                "refusal of {} by {}: {error}",
                ack.unwrap_or("?"),
                from.unwrap_or("?")
            ),
            ClientEvent::Answer { ack, .. } => format!("answer to {}", ack.unwrap_or("?")),
            ClientEvent::Receipt {
                reference,
                delivered,
                failed,
            } => format!("receipt {reference}: {delivered} {failed}"),
            ClientEvent::Failed { ack, dest, code } => format!("failed {ack}: {dest} {code}"),
            ClientEvent::ActionFailed {
                code,
                message,
                reference,
                ack,
            } => format!("error {code} {message} {reference:?} {ack:?}"),
            ClientEvent::Cancel { ack } => format!("cancel {ack}"),
            ClientEvent::GoAway { within } => format!("goaway {within}"),
            ClientEvent::Refused(error) => format!("refused {}", error.code()),
            ClientEvent::Closed { code, reason } => match reason {
                "" => format!("closed {code:?}"),
                reason => format!("closed {code:?} {reason}"),
            },
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(line);
    }
}

/// Options of a client of a server on this port.
pub fn to_port(port: u16, id: &str, tls: Option<TlsClientOptions>) -> ClientOptions {
    ClientOptions {
        host: "localhost".into(),
        port,
        id: Some(format!("\"{id}\"")),
        tls,
        ..ClientOptions::default()
    }
}

pub fn connect(options: ClientOptions) -> Result<(Client, ClientLog), Error> {
    let told = ClientLog::default();
    let client = Client::connect(options, told.clone(), &Handle::current())?;
    Ok((client, told))
}

/// A client that is registered.
pub async fn registered(options: ClientOptions) -> (Client, ClientLog) {
    let (client, told) = connect(options).unwrap();
    told.wait_for("registered").await;
    (client, told)
}

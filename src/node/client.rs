//! A client, as `lib/client.js` drives it.

use std::sync::Arc;

use napi_derive::napi;
use parking_lot::Mutex;

use super::{
    convert::{self, NativeClientOptions, Result},
    hub::{Hub, Source, client_runtime},
    mailbox::{Mailbox, json},
};
use crate::{Client, ClientEvent, ClientListener, ClientOptions};

/// Bytes waiting for JavaScript at which the socket is read no further.
const MAILBOX: usize = 1 << 20;
/// How long the process may be held at its exit for what was sent last.
const EXIT_PATIENCE: std::time::Duration = std::time::Duration::from_millis(100);

/// The way to JavaScript, and the way back.
struct Shared {
    mailbox: Mailbox,
    /// None before the client exists, and after it has ended.
    client: Mutex<Option<Client>>,
}

impl Source for Shared {
    fn collected(&self, bytes: usize) -> Option<String> {
        self.mailbox.collected(bytes);
        if let Some(client) = &*self.client.lock() {
            client.resume();
        }
        None
    }

    fn destroy(&self) {
        if let Some(client) = self.client.lock().take() {
            client.destroy();
        }
    }
}

/// The listener of the core: events as JSON, by kind.
///
/// `0` open, `1` registered, `2` unregistered (id), `3` message (ack, from, message),
/// `4` answer (ack, from, message), `5` refused (code, text), `6` error (code, text, syscall,
/// target), `7` drain, `8` closed (code). A member that is missing at the end is undefined.
pub(super) struct Listener(Arc<Shared>);

impl ClientListener for Listener {
    fn event(&self, event: ClientEvent<'_>) {
        let mailbox = &self.0.mailbox;
        match event {
            ClientEvent::Open => mailbox.push(&["0"]),
            ClientEvent::Registered => mailbox.push(&["1"]),
            ClientEvent::Unregistered(Some(id)) => mailbox.push(&["2", id]),
            ClientEvent::Unregistered(None) => mailbox.push(&["2"]),
            ClientEvent::Message { message, ack, from } => {
                let (ack, from) = (ack.unwrap_or("null"), from.unwrap_or("null"));
                match message {
                    Some(message) => mailbox.push(&["3", ack, from, message]),
                    None => mailbox.push(&["3", ack, from]),
                }
            }
            ClientEvent::Answer { ack, from, message } => match (ack, from, message) {
                (Some(ack), Some(from), Some(message)) => mailbox.push(&["4", ack, from, message]),
                (Some(ack), ..) => mailbox.push(&["4", ack]),
                (None, ..) => mailbox.push(&["4"]),
            },
            ClientEvent::Refused(error) => {
                mailbox.push(&["5", &json(error.code()), &json(&error.to_string())]);
            }
            ClientEvent::Error(error) => {
                let (syscall, target) = match &error {
                    crate::Error::Io {
                        syscall, target, ..
                    } => (*syscall, target.as_deref()),
                    _ => ("", None),
                };
                mailbox.push(&[
                    "6",
                    &json(error.code()),
                    &json(&error.to_string()),
                    &json(syscall),
                    &json(target.unwrap_or_default()),
                ]);
            }
            ClientEvent::Drain => mailbox.push(&["7"]),
            ClientEvent::Closed(code) => {
                self.0.client.lock().take();
                match code {
                    Some(code) => mailbox.push(&["8", &code.to_string()]),
                    None => mailbox.push(&["8"]),
                }
            }
        }
    }

    fn batch_end(&self) -> bool {
        self.0.mailbox.waiting() < MAILBOX
    }
}

/// A connection to a broker.
#[napi]
pub struct NativeClient {
    client: Client,
}

impl NativeClient {
    /// A client that `connect` has started.
    pub(super) fn start(
        hub: &Hub,
        number: u32,
        options: NativeClientOptions,
        connect: impl FnOnce(ClientOptions, Listener) -> crate::Result<Client>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            mailbox: Mailbox::new(number, hub.inbox().clone()),
            client: Mutex::default(),
        });
        hub.inbox().add(number, shared.clone());
        // Held until the handle is in place, so that the end of the client finds it.
        let mut slot = shared.client.lock();
        // JavaScript has counted already, in characters: what it has taken is not refused here.
        let options = ClientOptions {
            max_queued: usize::MAX,
            ..options.into()
        };
        let client = connect(options, Listener(shared.clone())).map_err(convert::error)?;
        *slot = Some(client.clone());
        drop(slot);
        Ok(Self { client })
    }
}

#[napi]
impl NativeClient {
    /// Starts to connect. `number`: how the hub calls this client.
    #[napi(constructor)]
    pub fn new(hub: &Hub, number: u32, options: NativeClientOptions) -> Result<Self> {
        let runtime = client_runtime()?.handle();
        Self::start(hub, number, options, |options, listener| {
            Client::connect(options, listener, runtime)
        })
    }

    /// Checks options without connecting.
    #[napi]
    pub fn validate(options: NativeClientOptions) -> Result<()> {
        let options = ClientOptions::from(options);
        crate::client::check(&options)
            .map(drop)
            .map_err(convert::error)
    }

    /// The options when nobody sets them.
    #[napi]
    pub fn defaults() -> NativeClientOptions {
        ClientOptions::default().into()
    }

    /// Sends what one tick has collected, as lines of JSON texts separated by tabs (JSON text has
    /// neither raw tabs nor raw line ends): `s` message, dest, ack; `a` ack, message; `r` token; `u`.
    /// Returns the bytes that still wait.
    #[napi]
    pub fn send(&self, lines: String) -> Result<f64> {
        let mut result = Ok(());
        for line in lines.lines() {
            let (kind, line) = line.split_at_checked(1).unwrap_or_default();
            let mut fields = line.split('\t');
            let mut field = || fields.next().unwrap_or_default();
            result = result.and(match kind {
                "s" => self.client.send(field(), field(), field()),
                "a" => self.client.answer(field(), field()),
                "r" => self.client.register(serde_json::from_str(field()).ok()),
                _ => self.client.unregister(),
            });
        }
        let waiting = self.client.flush();
        result.map(|()| waiting as f64).map_err(convert::error)
    }

    /// Asks for a drain event when all has been written.
    #[napi]
    pub fn want_drain(&self) {
        self.client.want_drain();
    }

    /// Bytes that wait to be written.
    #[napi]
    pub fn waiting(&self) -> f64 {
        self.client.waiting() as f64
    }

    /// Closes; a closed event follows.
    #[napi]
    pub fn close(&self) {
        self.client.close();
    }

    /// At the exit of the process: waits a moment for what was sent last.
    #[napi]
    pub fn linger(&self) {
        let end = std::time::Instant::now() + EXIT_PATIENCE;
        while self.client.flush() > 0 && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

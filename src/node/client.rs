//! A client, as `lib/client.js` drives it.

use std::{borrow::Cow, sync::Arc};

use napi_derive::napi;
use parking_lot::Mutex;

use super::{
    convert::{self, NativeClientOptions, Result},
    heap::fits_heap,
    hub::{Hub, Source, client_runtime},
    mailbox::{Mailbox, json},
};
use crate::{Client, ClientEvent, ClientListener, ClientOptions, client::ack_name};

/// Bytes waiting for JavaScript at which the socket is read no further.
const MAILBOX: usize = 1 << 20;
/// What ends an action on its way from JavaScript: no JSON text has it as it is.
const END: char = '\u{1e}';
/// How long the process may be held at its exit for what was sent last.
const EXIT_PATIENCE: std::time::Duration = std::time::Duration::from_millis(100);

/// The way to JavaScript, and the way back.
struct Shared {
    mailbox: Mailbox,
    /// Bytes of the JavaScript heap that one message may take.
    heap: usize,
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
/// `0` open, `1` registered (protocol), `2` unregistered (id, code), `3` message (ack, from,
/// message), `4` answer (name, from, message) or, with a fifth element, a refusal (name, from, null,
/// error), `5` refused (code, text), `6` error (code, text, syscall, target), `7` drain, `8` closed
/// (code, reason), `9` receipt (ref, delivered, failed), `10` failed (name, dest, code), `11` error
/// of the server (code, text, ref, name), `12` cancel (name), `13` goaway (within), `14` message that
/// is too large (ack, from, bytes), `15` answer that is too large (name, from, bytes). A member that
/// is missing at the end is undefined, and `null` before it.
///
/// The types of members from the wire are checked in JavaScript, but for acks: the ack of a message
/// is its name, if the text of the ack is that in quotes, or else an array of the text and the name.
pub(super) struct Listener(Arc<Shared>);

impl ClientListener for Listener {
    fn event(&self, event: ClientEvent<'_>) {
        let mailbox = &self.0.mailbox;
        match event {
            ClientEvent::Open => mailbox.push(&["0"]),
            ClientEvent::Registered { protocol } => mailbox.push(&["1", &protocol.to_string()]),
            ClientEvent::Unregistered { id, code } => match (id, code) {
                (id, Some(code)) => mailbox.push(&["2", id.unwrap_or("null"), code]),
                (Some(id), None) => mailbox.push(&["2", id]),
                (None, None) => mailbox.push(&["2"]),
            },
            ClientEvent::Message { message, ack, from } => {
                let ack = ack.map_or("null".into(), ack_to_answer);
                let from = from.unwrap_or("null");
                match message {
                    Some(message) => mailbox.push(&["3", &ack, from, message]),
                    None => mailbox.push(&["3", &ack, from]),
                }
            }
            ClientEvent::MessageTooLarge { ack, from, size } => {
                let ack = ack.map_or("null".into(), ack_to_answer);
                mailbox.push(&["14", &ack, from.unwrap_or("null"), &size.to_string()]);
            }
            ClientEvent::AnswerTooLarge { ack, from, size } => {
                let name = ack.map_or("null".into(), name);
                mailbox.push(&["15", &name, from.unwrap_or("null"), &size.to_string()]);
            }
            ClientEvent::Answer {
                ack,
                from,
                error: Some(error),
                ..
            } => {
                let ack = ack.map_or("null".into(), name);
                mailbox.push(&["4", &ack, from.unwrap_or("null"), "null", error]);
            }
            ClientEvent::Answer {
                ack, from, message, ..
            } => match (ack.map(name), from.unwrap_or("null"), message) {
                (Some(ack), from, Some(message)) => mailbox.push(&["4", &ack, from, message]),
                (Some(ack), from, None) => mailbox.push(&["4", &ack, from]),
                (None, ..) => mailbox.push(&["4"]),
            },
            ClientEvent::Receipt {
                reference,
                delivered,
                failed,
            } => mailbox.push(&["9", reference, delivered, failed]),
            ClientEvent::Failed { ack, dest, code } => {
                mailbox.push(&["10", &text_of(ack), dest, code]);
            }
            ClientEvent::ActionFailed {
                code,
                message,
                reference,
                ack,
            } => {
                let ack = ack.map_or("null".into(), text_of);
                mailbox.push(&["11", code, message, reference.unwrap_or("null"), &ack]);
            }
            ClientEvent::Cancel { ack } => mailbox.push(&["12", &text_of(ack)]),
            ClientEvent::GoAway { within } => mailbox.push(&["13", within]),
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
            ClientEvent::Closed { code, reason } => {
                self.0.client.lock().take();
                match code.map(|code| code.to_string()) {
                    Some(code) if reason.is_empty() => mailbox.push(&["8", &code]),
                    Some(code) => mailbox.push(&["8", &code, &json(reason)]),
                    None => mailbox.push(&["8"]),
                }
            }
        }
    }

    fn accepts(&self, text: &str) -> bool {
        fits_heap(text, self.0.heap)
    }

    fn batch_end(&self) -> bool {
        self.0.mailbox.waiting() < MAILBOX
    }
}

/// The name of an ack, as JSON.
fn name(ack: &str) -> Cow<'_, str> {
    match ack.starts_with('"') && !ack.contains('\\') {
        true => ack.into(),
        false => json(&ack_name(ack)).into(),
    }
}

/// The name of an ack that a server has written, as JSON; what is no string stays what it is, and is
/// refused.
fn text_of(ack: &str) -> Cow<'_, str> {
    match ack.starts_with('"') {
        true => name(ack),
        false => ack.into(),
    }
}

/// The ack of a message, as JSON from which JavaScript has both its text and its name.
fn ack_to_answer(ack: &str) -> Cow<'_, str> {
    match name(ack) {
        name @ Cow::Borrowed(_) => name,
        Cow::Owned(name) => format!("[{},{name}]", json(ack)).into(),
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
            heap: hub.heap_for_one(),
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

    /// Sends what one tick has collected: the JSON text of actions, with `END` between them. Returns
    /// the bytes that still wait.
    #[napi]
    pub fn send(&self, actions: String) -> Result<f64> {
        let mut result = Ok(());
        for action in actions.split_terminator(END) {
            result = result.and(self.client.push_action(action));
        }
        let waiting = self.client.flush();
        result.map(|()| waiting as f64).map_err(convert::error)
    }

    /// Reads nothing more while `on`, whatever JavaScript has collected; closing ends that.
    #[napi]
    pub fn hold(&self, on: bool) {
        self.client.hold(on);
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

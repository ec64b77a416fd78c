//! The class `NativeClient`: a client as `lib/node/transport.js` uses it.

use std::{borrow::Cow, sync::Arc};

use napi_derive::napi;
use parking_lot::Mutex;

use super::{
    convert::{self, NativeClientOptions, Result},
    heap::{estimate, fits_heap},
    hub::{Hub, Source, client_runtime},
    mailbox::{Mailbox, json},
};
use crate::{Client, ClientEvent, ClientListener, ClientOptions, Error, client::ack_name};

/// Bytes of events that JavaScript has not collected, at which reading from the socket stops.
const MAILBOX: usize = 1 << 20;
/// Separator between actions from JavaScript: it never occurs unescaped in a JSON text.
const END: char = '\u{1e}';
/// Maximum time for which the exit of the process is delayed so that the last frames are written.
const EXIT_PATIENCE: std::time::Duration = std::time::Duration::from_millis(100);

/// State shared by the listener and the class: the queue of events toward JavaScript, and the client.
struct Shared {
    mailbox: Mailbox,
    /// Bytes of the JavaScript heap that one message may take.
    heap: usize,
    /// `None` before the client exists, and after its connection has ended.
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

/// Bytes up to which JavaScript gets no estimate of an answer's heap.
const SMALL_ANSWER: usize = 1 << 10;

/// The kinds of events that a client hands to JavaScript: `[kind, ...arguments]`, the arguments in the
/// order of the comment. Exported to JavaScript as an object of numbers by name: this is the only list.
///
/// A missing argument is left out at the end of an event, and is `null` before it. JavaScript checks the
/// types of arguments that come from the wire, except for acks: the `ack` of a message is its name if its
/// JSON text is that name in quotes, and otherwise an array of the text and the name.
#[napi]
pub enum ClientEventKind {
    /// The WebSocket is open.
    Open,
    /// `protocol, session`
    Registered,
    /// `id, code`
    Unregistered,
    /// `ack, from, message`
    Message,
    /// `ack, from, message, topic, group, attempt, offset`: a message to a topic. No `offset` if it is not kept.
    Publication,
    /// `from, message, mailbox, offset, attempt, key, topic`: a message from a mailbox.
    Mail,
    /// `name, from, message, null, heap`, or a rejection: `name, from, null, error, heap`. A small one has no `heap`,
    /// the estimated bytes that it takes in JavaScript.
    Answer,
    /// `code, text`: a frame of the server was invalid.
    Refused,
    /// `code, text, syscall, target, failures`: the connection failed. `failures`, only if several addresses
    /// were tried: the `code` and `target` of each.
    Error,
    /// Everything queued has been written.
    Drain,
    /// `code, reason`
    Closed,
    /// `reference, delivered, failed`
    Receipt,
    /// `reference, queued, dropped, elsewhere, offset, stored, mailboxes, failed`: the receipt of a message to a topic.
    PublishReceipt,
    /// `reference, mailboxes, failed, duplicates`: the receipt of a message for mailboxes.
    MailboxReceipt,
    /// `mailbox, reference, epoch, waiting`
    MailboxOpened,
    /// `mailbox, reference, code`
    MailboxClosed,
    /// `topic, reference, offset, epoch, recovered, lost, replay`; the first two alone if its messages are not kept.
    Subscribed,
    /// `reference, messages, epoch, offset, more`: kept messages.
    History,
    /// `topic, reference, code, group`
    Unsubscribed,
    /// `topic, lost`
    Gap,
    /// `reference`
    Watched,
    /// `reference, topic, ids, code`
    Unwatched,
    /// `topic, count, members, joined, left`
    Presence,
    /// `online, offline`
    Online,
    /// `name, dest, code`: one receiver of a request failed.
    Failed,
    /// `code, text, reference, name`: the server rejected an action.
    ActionFailed,
    /// `name`: the requester no longer waits for an answer.
    Cancel,
    /// `within`: the server is shutting down.
    GoAway,
    /// `count`: the number of actions that the server has received in the session.
    Received,
    /// `ack, from, bytes`: a message was dropped because of its size.
    MessageTooLarge,
    /// `name, from, bytes`: an answer was dropped because of its size.
    AnswerTooLarge,
}

/// Turns the events of the core into events for JavaScript.
pub(super) struct Listener(Arc<Shared>);

impl Listener {
    fn push(&self, kind: ClientEventKind, arguments: &[&str]) {
        self.0.mailbox.push(kind as u8, arguments);
    }
}

/// An optional value as JSON.
fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}

impl ClientListener for Listener {
    fn event(&self, event: ClientEvent<'_>) {
        use ClientEventKind as Kind;
        match event {
            ClientEvent::Open => self.push(Kind::Open, &[]),
            ClientEvent::Registered { protocol, session } => {
                let protocol = protocol.to_string();
                self.push(Kind::Registered, &[&protocol, session.unwrap_or("null")]);
            }
            ClientEvent::Unregistered { id, code } => match (id, code) {
                (id, Some(code)) => self.push(Kind::Unregistered, &[id.unwrap_or("null"), code]),
                (Some(id), None) => self.push(Kind::Unregistered, &[id]),
                (None, None) => self.push(Kind::Unregistered, &[]),
            },
            ClientEvent::Message {
                message,
                from,
                mailbox: Some(mailbox),
                attempt,
                offset,
                key,
                topic,
                ..
            } => {
                let (offset, attempt) = (optional(offset), attempt.to_string());
                let (from, message) = (from.unwrap_or("null"), message.unwrap_or("null"));
                let [key, topic] = [key, topic].map(|value| value.unwrap_or("null"));
                let all = [from, message, mailbox, &offset, &attempt, key, topic];
                self.push(Kind::Mail, &all);
            }
            ClientEvent::MailboxReceipt {
                reference,
                mailboxes,
                failed,
                duplicates,
            } => {
                let all = [reference, mailboxes, failed, duplicates];
                self.push(Kind::MailboxReceipt, &all);
            }
            ClientEvent::MailboxOpened {
                mailbox,
                reference,
                epoch,
                waiting,
            } => {
                let (reference, waiting) = (reference.unwrap_or("null"), waiting.to_string());
                self.push(Kind::MailboxOpened, &[mailbox, reference, epoch, &waiting]);
            }
            ClientEvent::MailboxClosed {
                mailbox,
                reference,
                code,
            } => {
                let [reference, code] = [reference, code].map(|value| value.unwrap_or("null"));
                self.push(Kind::MailboxClosed, &[mailbox, reference, code]);
            }
            ClientEvent::Message {
                message,
                ack,
                from,
                topic: Some(topic),
                group,
                attempt,
                offset,
                ..
            } => {
                let ack = ack.map_or("null".into(), ack_to_answer);
                let (from, message) = (from.unwrap_or("null"), message.unwrap_or("null"));
                let group = group.unwrap_or("null");
                let attempt = match attempt {
                    1 => Cow::Borrowed("1"),
                    number => number.to_string().into(),
                };
                let offset = offset.map(|offset| offset.to_string());
                let all = [&*ack, from, message, topic, group, &*attempt];
                match offset {
                    None => self.push(Kind::Publication, &all),
                    Some(offset) => {
                        self.push(Kind::Publication, &[&all[..], &[&*offset]].concat());
                    }
                }
            }
            ClientEvent::PublishReceipt {
                reference,
                queued,
                dropped,
                elsewhere,
                offset,
                stored,
                mailboxes,
                failed,
            } => {
                let elsewhere = elsewhere.unwrap_or("null");
                let offset = optional(offset);
                self.push(
                    Kind::PublishReceipt,
                    &[
                        reference,
                        queued,
                        dropped,
                        elsewhere,
                        &offset,
                        stored.unwrap_or("null"),
                        mailboxes.unwrap_or("null"),
                        failed.unwrap_or("null"),
                    ],
                );
            }
            ClientEvent::Subscribed {
                topic,
                reference,
                kept,
            } => {
                let reference = reference.unwrap_or("null");
                match kept {
                    None => self.push(Kind::Subscribed, &[topic, reference]),
                    Some(kept) => {
                        let offset = kept.offset.to_string();
                        let recovered = optional(kept.recovered);
                        let [lost, replay] = [kept.lost, kept.replay].map(optional);
                        self.push(
                            Kind::Subscribed,
                            &[
                                topic, reference, &offset, kept.epoch, &recovered, &lost, &replay,
                            ],
                        );
                    }
                }
            }
            ClientEvent::History {
                reference,
                messages,
                epoch,
                offset,
                more,
            } => {
                let (offset, more) = (optional(offset), more.to_string());
                let epoch = epoch.unwrap_or("null");
                self.push(Kind::History, &[reference, messages, epoch, &offset, &more]);
            }
            ClientEvent::Unsubscribed {
                topic,
                reference,
                code,
                group,
            } => {
                let [reference, code, group] =
                    [reference, code, group].map(|value| value.unwrap_or("null"));
                self.push(Kind::Unsubscribed, &[topic, reference, code, group]);
            }
            ClientEvent::Gap { topic, lost } => self.push(Kind::Gap, &[topic, lost]),
            ClientEvent::Watched { reference } => {
                self.push(Kind::Watched, &[reference.unwrap_or("null")]);
            }
            ClientEvent::Unwatched {
                reference,
                topic,
                ids,
                code,
            } => {
                let values = [reference, topic, ids, code];
                self.push(
                    Kind::Unwatched,
                    &values.map(|value| value.unwrap_or("null")),
                );
            }
            ClientEvent::Presence {
                topic,
                count,
                members,
                joined,
                left,
            } => {
                let values = [Some(topic), count, members, joined, left];
                self.push(Kind::Presence, &values.map(|value| value.unwrap_or("null")));
            }
            ClientEvent::Online { online, offline } => {
                self.push(Kind::Online, &[online, offline.unwrap_or("[]")]);
            }
            ClientEvent::Message {
                message, ack, from, ..
            } => {
                let ack = ack.map_or("null".into(), ack_to_answer);
                let from = from.unwrap_or("null");
                match message {
                    Some(message) => self.push(Kind::Message, &[&ack, from, message]),
                    None => self.push(Kind::Message, &[&ack, from]),
                }
            }
            ClientEvent::MessageTooLarge { ack, from, size } => {
                let ack = ack.map_or("null".into(), ack_to_answer);
                let (from, size) = (from.unwrap_or("null"), size.to_string());
                self.push(Kind::MessageTooLarge, &[&ack, from, &size]);
            }
            ClientEvent::AnswerTooLarge { ack, from, size } => {
                let name = ack.map_or("null".into(), name);
                let (from, size) = (from.unwrap_or("null"), size.to_string());
                self.push(Kind::AnswerTooLarge, &[&name, from, &size]);
            }
            ClientEvent::Answer {
                ack,
                from,
                error: Some(error),
                ..
            } => {
                let ack = ack.map_or("null".into(), name);
                let from = from.unwrap_or("null");
                match heap_of(error) {
                    Some(heap) => self.push(Kind::Answer, &[&ack, from, "null", error, &heap]),
                    None => self.push(Kind::Answer, &[&ack, from, "null", error]),
                }
            }
            ClientEvent::Answer {
                ack, from, message, ..
            } => match (ack.map(name), from.unwrap_or("null"), message) {
                (Some(ack), from, Some(message)) => match heap_of(message) {
                    Some(heap) => self.push(Kind::Answer, &[&ack, from, message, "null", &heap]),
                    None => self.push(Kind::Answer, &[&ack, from, message]),
                },
                (Some(ack), from, None) => self.push(Kind::Answer, &[&ack, from]),
                (None, ..) => self.push(Kind::Answer, &[]),
            },
            ClientEvent::Receipt {
                reference,
                delivered,
                failed,
            } => self.push(Kind::Receipt, &[reference, delivered, failed]),
            ClientEvent::Failed { ack, dest, code } => {
                self.push(Kind::Failed, &[&name_or_value(ack), dest, code]);
            }
            ClientEvent::ActionFailed {
                code,
                message,
                reference,
                ack,
            } => {
                let ack = ack.map_or("null".into(), name_or_value);
                let reference = reference.unwrap_or("null");
                self.push(Kind::ActionFailed, &[code, message, reference, &ack]);
            }
            ClientEvent::Cancel { ack } => self.push(Kind::Cancel, &[&name_or_value(ack)]),
            ClientEvent::GoAway { within } => self.push(Kind::GoAway, &[within]),
            ClientEvent::Received { count } => self.push(Kind::Received, &[count]),
            ClientEvent::Refused(error) => {
                let (code, text) = (json(error.code()), json(&error.to_string()));
                self.push(Kind::Refused, &[&code, &text]);
            }
            ClientEvent::Error(error) => {
                let (code, text) = (json(error.code()), json(&error.to_string()));
                let (syscall, target) = error.system_call().unwrap_or_default();
                let (syscall, target) = (json(syscall), json(target));
                match error {
                    Error::Connect { failures, .. } => {
                        let failures: Vec<_> = failures.iter().map(code_and_target).collect();
                        let failures = format!("[{}]", failures.join(","));
                        let arguments = [&*code, &text, &syscall, &target, &failures];
                        self.push(Kind::Error, &arguments);
                    }
                    _ => self.push(Kind::Error, &[&code, &text, &syscall, &target]),
                }
            }
            ClientEvent::Drain => self.push(Kind::Drain, &[]),
            ClientEvent::Closed { code, reason } => {
                self.0.client.lock().take();
                match code.map(|code| code.to_string()) {
                    Some(code) if reason.is_empty() => self.push(Kind::Closed, &[&code]),
                    Some(code) => self.push(Kind::Closed, &[&code, &json(reason)]),
                    None => self.push(Kind::Closed, &[]),
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

/// The code of a system call that has failed, and what it was called with, as JSON.
fn code_and_target(error: &Error) -> String {
    let (_, target) = error.system_call().unwrap_or_default();
    format!("[{},{}]", json(error.code()), json(target))
}

/// The name of an ack, as JSON.
fn name(ack: &str) -> Cow<'_, str> {
    match ack.starts_with('"') && !ack.contains('\\') {
        true => ack.into(),
        false => json(&ack_name(ack)).into(),
    }
}

/// The name of an ack that a server has written, as JSON. A value that is not a string stays unchanged, and
/// JavaScript rejects it.
fn name_or_value(ack: &str) -> Cow<'_, str> {
    match ack.starts_with('"') {
        true => name(ack),
        false => ack.into(),
    }
}

/// Estimate of the heap that the outcome of a request takes; none for a small one.
fn heap_of(outcome: &str) -> Option<String> {
    (outcome.len() > SMALL_ANSWER).then(|| estimate(outcome).to_string())
}

/// The ack of a message, as JSON from which JavaScript gets both the ack's text and its name.
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
    /// Creates a client with `connect`.
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
        // Locked until the handle is stored, so that the event `Closed` finds it.
        let mut slot = shared.client.lock();
        // JavaScript enforces `maxQueued`, in characters: a frame that it has accepted is not rejected here.
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
    /// Starts to connect. `number`: the number of this client in the hub.
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

    /// The default options.
    #[napi]
    pub fn defaults() -> NativeClientOptions {
        ClientOptions::default().into()
    }

    /// Sends the actions that one tick has collected: JSON texts, with `END` between them. Returns the number
    /// of bytes that are queued.
    #[napi]
    pub fn send(&self, actions: String) -> Result<f64> {
        let mut result = Ok(());
        for action in actions.split_terminator(END) {
            result = result.and(self.client.push_action(action));
        }
        let waiting = self.client.flush();
        result.map(|()| waiting as f64).map_err(convert::error)
    }

    /// Stops reading from the socket while `on`. Closing the client resumes it.
    #[napi]
    pub fn pause_reading(&self, on: bool) {
        self.client.hold(on);
    }

    /// Requests a `Drain` event for when everything queued has been written.
    #[napi]
    pub fn request_drain(&self) {
        self.client.want_drain();
    }

    /// Number of bytes that are queued for writing.
    #[napi]
    pub fn buffered_amount(&self) -> f64 {
        self.client.waiting() as f64
    }

    /// Closes the connection. A `Closed` event follows.
    #[napi]
    pub fn close(&self) {
        self.client.close();
    }

    /// At the exit of the process: blocks for a moment until the last frames are written.
    #[napi]
    pub fn linger(&self) {
        let end = std::time::Instant::now() + EXIT_PATIENCE;
        while self.client.flush() > 0 && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

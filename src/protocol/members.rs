//! The members of a frame as JSON text, and the actions decoded from them, whatever their order.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    ClientAction, RawKeptState, RawReplyOptions, RawSubscription, ServerAction,
    SubscriptionCommand, json_scan,
    values::{decode_protocol, is_truthy, property_name, shorten},
};
use crate::error::ActionError;

/// Bytes of an action's text that is converted to a name; a longer one is truncated.
const LONGEST_NAME: usize = 1024;

/// Length of the longest of the members below.
const LONGEST_MEMBER: usize = "duplicates".len();

/// The members that any action uses; others are ignored (rule 3).
#[derive(Default)]
pub(super) struct Members<'a> {
    pub(super) action: Option<&'a str>,
    pub(super) id: Option<&'a str>,
    pub(super) message: Option<&'a str>,
    pub(super) dest: Option<&'a str>,
    pub(super) ack: Option<&'a str>,
    pub(super) from: Option<&'a str>,
    pub(super) token: Option<&'a str>,
    pub(super) reference: Option<&'a str>,
    pub(super) answers: Option<&'a str>,
    pub(super) timeout: Option<&'a str>,
    pub(super) error: Option<&'a str>,
    pub(super) protocol: Option<&'a str>,
    pub(super) code: Option<&'a str>,
    pub(super) delivered: Option<&'a str>,
    pub(super) failed: Option<&'a str>,
    pub(super) within: Option<&'a str>,
    pub(super) topic: Option<&'a str>,
    pub(super) slow: Option<&'a str>,
    pub(super) group: Option<&'a str>,
    pub(super) window: Option<&'a str>,
    pub(super) count: Option<&'a str>,
    pub(super) queued: Option<&'a str>,
    pub(super) dropped: Option<&'a str>,
    pub(super) elsewhere: Option<&'a str>,
    pub(super) lost: Option<&'a str>,
    pub(super) info: Option<&'a str>,
    pub(super) ids: Option<&'a str>,
    pub(super) members: Option<&'a str>,
    pub(super) joined: Option<&'a str>,
    pub(super) left: Option<&'a str>,
    pub(super) online: Option<&'a str>,
    pub(super) offline: Option<&'a str>,
    pub(super) attempt: Option<&'a str>,
    pub(super) session: Option<&'a str>,
    pub(super) since: Option<&'a str>,
    pub(super) last: Option<&'a str>,
    pub(super) after: Option<&'a str>,
    pub(super) before: Option<&'a str>,
    pub(super) limit: Option<&'a str>,
    pub(super) offset: Option<&'a str>,
    pub(super) epoch: Option<&'a str>,
    pub(super) recovered: Option<&'a str>,
    pub(super) replay: Option<&'a str>,
    pub(super) messages: Option<&'a str>,
    pub(super) more: Option<&'a str>,
    pub(super) stored: Option<&'a str>,
    pub(super) mailbox: Option<&'a str>,
    pub(super) mailboxes: Option<&'a str>,
    pub(super) duplicates: Option<&'a str>,
    pub(super) waiting: Option<&'a str>,
    pub(super) retry: Option<&'a str>,
    pub(super) key: Option<&'a str>,
}

impl<'a> Members<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, ActionError> {
        let mut members = Self::default();
        let is_plain = json_scan::members(text, |name, value| {
            if let Some(slot) = members.slot(name) {
                *slot = Some(value);
            }
        });
        match is_plain {
            true => Ok(members),
            false => Self::parse_any(text),
        }
    }

    /// Parses a frame with `serde_json` alone.
    pub(super) fn parse_any(text: &'a str) -> Result<Self, ActionError> {
        serde_json::from_str(text).map_err(|_| {
            // Distinguishes invalid JSON from a value that is no object, only once parsing has failed.
            match serde_json::from_str::<IgnoredAny>(text) {
                Err(_) => ActionError::NotJson,
                Ok(_) if text.trim_ascii() == "null" => ActionError::Null,
                Ok(_) => ActionError::UnknownAction("undefined".into()),
            }
        })
    }

    /// The field of a member, if an action uses it. `name`: as JSON.
    fn slot(&mut self, name: &str) -> Option<&mut Option<&'a str>> {
        Some(match name {
            r#""action""# => &mut self.action,
            r#""id""# => &mut self.id,
            r#""message""# => &mut self.message,
            r#""dest""# => &mut self.dest,
            r#""ack""# => &mut self.ack,
            r#""from""# => &mut self.from,
            r#""token""# => &mut self.token,
            r#""ref""# => &mut self.reference,
            r#""answers""# => &mut self.answers,
            r#""timeout""# => &mut self.timeout,
            r#""error""# => &mut self.error,
            r#""protocol""# => &mut self.protocol,
            r#""code""# => &mut self.code,
            r#""delivered""# => &mut self.delivered,
            r#""failed""# => &mut self.failed,
            r#""within""# => &mut self.within,
            r#""topic""# => &mut self.topic,
            r#""slow""# => &mut self.slow,
            r#""group""# => &mut self.group,
            r#""window""# => &mut self.window,
            r#""count""# => &mut self.count,
            r#""queued""# => &mut self.queued,
            r#""dropped""# => &mut self.dropped,
            r#""elsewhere""# => &mut self.elsewhere,
            r#""lost""# => &mut self.lost,
            r#""info""# => &mut self.info,
            r#""ids""# => &mut self.ids,
            r#""members""# => &mut self.members,
            r#""joined""# => &mut self.joined,
            r#""left""# => &mut self.left,
            r#""online""# => &mut self.online,
            r#""offline""# => &mut self.offline,
            r#""attempt""# => &mut self.attempt,
            r#""session""# => &mut self.session,
            r#""since""# => &mut self.since,
            r#""last""# => &mut self.last,
            r#""after""# => &mut self.after,
            r#""before""# => &mut self.before,
            r#""limit""# => &mut self.limit,
            r#""offset""# => &mut self.offset,
            r#""epoch""# => &mut self.epoch,
            r#""recovered""# => &mut self.recovered,
            r#""replay""# => &mut self.replay,
            r#""messages""# => &mut self.messages,
            r#""more""# => &mut self.more,
            r#""stored""# => &mut self.stored,
            r#""mailbox""# => &mut self.mailbox,
            r#""mailboxes""# => &mut self.mailboxes,
            r#""duplicates""# => &mut self.duplicates,
            r#""waiting""# => &mut self.waiting,
            r#""retry""# => &mut self.retry,
            r#""key""# => &mut self.key,
            _ => {
                let mut buffer = [0; LONGEST_MEMBER + 2];
                return self.slot(unescape_name(name, &mut buffer)?);
            }
        })
    }

    fn subscription(&self, command: SubscriptionCommand) -> ClientAction<'a> {
        ClientAction::Subscription(Box::new(RawSubscription {
            command,
            topic: self.topic,
            reference: self.reference,
            slow: self.slow,
            group: self.group,
            window: self.window,
            count: self.count,
            info: self.info,
            ids: self.ids,
            token: self.token,
            since: self.since,
            last: self.last,
            after: self.after,
            before: self.before,
            limit: self.limit,
            mailbox: self.mailbox,
            offset: self.offset,
            retry: self.retry,
        }))
    }

    /// The name of the action, converted from any value as in JavaScript; none if there is no action.
    pub(super) fn action(&self) -> Option<Cow<'a, str>> {
        self.action.map(|raw| match raw.len() > LONGEST_NAME {
            // No known action has such a long name.
            true => shorten(raw, LONGEST_NAME).into(),
            false => property_name(raw, 0),
        })
    }
}

/// Writes a name with escapes (as JSON) without them. None if it has no escapes, or cannot be one of the members: a
/// frame may consist of millions of names, so nothing is allocated.
fn unescape_name<'b>(name: &str, buffer: &'b mut [u8; LONGEST_MEMBER + 2]) -> Option<&'b str> {
    let has_escapes = name.len() <= 6 * LONGEST_MEMBER + 2 && name.contains('\\');
    let mut rest = has_escapes.then_some(name.as_bytes())?;
    let mut length = 0;
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            // Other escapes stand for characters that occur in no member.
            (b'\\', [b'u', b'0', b'0', high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                let byte = u8::from_str_radix(digits, 16).ok()?;
                (Some(byte).filter(u8::is_ascii_lowercase)?, after)
            }
            (b'\\', _) => return None,
            (byte, after) => (*byte, after),
        };
        *buffer.get_mut(length)? = byte;
        length += 1;
        rest = after;
    }
    std::str::from_utf8(&buffer[..length]).ok()
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                // If a member occurs twice, the last one counts, as in JavaScript. Names are read raw: an
                // unknown one may contain a lone surrogate, but no line break.
                while let Some(name) = map.next_key::<&RawValue>()? {
                    let Some(slot) = members.slot(name.get()) else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    // Not `Option<&RawValue>`, which would turn `null` into a missing member.
                    *slot = Some(map.next_value::<&RawValue>()?.get());
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

/// Decodes an action of a client from its members, in any order.
pub(super) fn client_action<'a>(members: &Members<'a>) -> Result<ClientAction<'a>, ActionError> {
    let action = members.action();
    match action.as_deref() {
        Some("send") => match (members.message, members.dest) {
            (Some(message), Some(dest)) => Ok(ClientAction::Send {
                message,
                dest,
                ack: members.ack,
                reply: RawReplyOptions {
                    reference: members.reference,
                    answers: members.answers,
                    timeout: members.timeout,
                    attempt: members.attempt,
                    key: members.key,
                }
                .boxed(),
            }),
            _ => Err(ActionError::IncompleteSend),
        },
        Some("answer") => match members.ack {
            Some(ack) if is_truthy(ack) => Ok(ClientAction::Answer {
                ack,
                message: members.message,
                error: members.error.filter(|error| is_truthy(error)),
            }),
            _ => Err(ActionError::NoAck),
        },
        Some("register") => match members.id {
            Some(id) if is_truthy(id) => Ok(ClientAction::Register {
                id,
                token: members.token,
                protocol: decode_protocol(members.protocol),
                session: members.session,
            }),
            _ => Err(ActionError::NoId),
        },
        Some("unregister") => Ok(ClientAction::Unregister),
        Some("cancel") => Ok(ClientAction::Cancel { ack: members.ack }),
        Some("subscribe") => Ok(members.subscription(SubscriptionCommand::Subscribe)),
        Some("unsubscribe") => Ok(members.subscription(SubscriptionCommand::Unsubscribe)),
        Some("acknowledge") => Ok(members.subscription(SubscriptionCommand::Acknowledge)),
        Some("watch") => Ok(members.subscription(SubscriptionCommand::Watch)),
        Some("unwatch") => Ok(members.subscription(SubscriptionCommand::Unwatch)),
        Some("received") => Ok(ClientAction::Received(members.count)),
        Some("history") => Ok(members.subscription(SubscriptionCommand::History)),
        _ => Err(unknown_action(action)),
    }
}

/// Decodes an action of a server from its members, in any order.
pub(super) fn server_action<'a>(
    members: Result<Members<'a>, ActionError>,
    version: u8,
) -> Result<ServerAction<'a>, ActionError> {
    let members = members.map_err(|error| match error {
        // A client of version 1 does not distinguish `null` from invalid JSON.
        ActionError::Null => ActionError::NotJson,
        error => error,
    })?;
    let action = members.action();
    let Members {
        id,
        message,
        ack,
        from,
        error,
        ..
    } = members;
    match action.as_deref() {
        Some("message") => Ok(ServerAction::Message {
            message,
            ack: ack.filter(|ack| is_truthy(ack)),
            from,
            topic: members.topic.filter(|_| version > 1),
            group: members.group.filter(|_| version > 1),
            attempt: members.attempt.filter(|_| version > 1),
            offset: members.offset.filter(|_| version > 1),
            mailbox: members.mailbox.filter(|_| version > 1),
            key: members.key.filter(|_| version > 1),
        }),
        Some("answer") => Ok(ServerAction::Answer {
            ack,
            from,
            message,
            error: error.filter(|error| version > 1 && is_truthy(error)),
        }),
        Some("registered") => Ok(ServerAction::Registered {
            protocol: decode_protocol(members.protocol).min(version),
            session: members.session.filter(|_| version > 1),
        }),
        Some("unregistered") => Ok(ServerAction::Unregistered {
            id,
            code: members.code.filter(|_| version > 1),
        }),
        Some(name) if version > 1 => match version_2(name, &members) {
            Some(action) => action,
            None => Err(unknown_action(action)),
        },
        _ => Err(unknown_action(action)),
    }
}

/// Decodes the actions that version 2 adds.
fn version_2<'a>(
    name: &str,
    members: &Members<'a>,
) -> Option<Result<ServerAction<'a>, ActionError>> {
    let Members {
        dest, ack, code, ..
    } = *members;
    let (action, what) = match name {
        "receipt" if members.queued.is_some() => (
            members
                .reference
                .zip(members.queued)
                .map(|(reference, queued)| ServerAction::PublishReceipt {
                    reference,
                    queued,
                    dropped: members.dropped.unwrap_or("0"),
                    elsewhere: members.elsewhere,
                    offset: members.offset,
                    stored: members.stored,
                    mailboxes: members.mailboxes,
                    failed: members.failed,
                }),
            "\"receipt\" message (msg.ref is undefined)",
        ),
        "receipt" if members.mailboxes.is_some() => (
            members
                .reference
                .zip(members.mailboxes)
                .map(|(reference, mailboxes)| ServerAction::MailboxReceipt {
                    reference,
                    mailboxes,
                    failed: members.failed.unwrap_or("{}"),
                    duplicates: members.duplicates.unwrap_or("[]"),
                }),
            "\"receipt\" message (msg.ref is undefined)",
        ),
        "subscribed" if members.mailbox.is_some() => (
            members.mailbox.zip(members.epoch).map(|(mailbox, epoch)| {
                ServerAction::MailboxOpened {
                    mailbox,
                    reference: members.reference,
                    epoch,
                    waiting: members.waiting.unwrap_or("0"),
                }
            }),
            "\"subscribed\" message (msg.epoch is undefined)",
        ),
        "unsubscribed" if members.mailbox.is_some() => (
            members.mailbox.map(|mailbox| ServerAction::MailboxClosed {
                mailbox,
                reference: members.reference,
                code,
            }),
            "",
        ),
        "subscribed" => (
            members.topic.map(|topic| ServerAction::Subscribed {
                topic,
                reference: members.reference,
                kept: members.offset.map(|offset| {
                    Box::new(RawKeptState {
                        offset,
                        epoch: members.epoch,
                        recovered: members.recovered,
                        lost: members.lost,
                        replay: members.replay,
                    })
                }),
            }),
            "\"subscribed\" message (msg.topic is undefined)",
        ),
        "unsubscribed" => (
            members.topic.map(|topic| ServerAction::Unsubscribed {
                topic,
                reference: members.reference,
                code,
                group: members.group,
            }),
            "\"unsubscribed\" message (msg.topic is undefined)",
        ),
        "history" => (
            members
                .reference
                .zip(members.messages)
                .map(|(reference, messages)| ServerAction::History {
                    reference,
                    messages,
                    epoch: members.epoch,
                    offset: members.offset,
                    more: members.more,
                }),
            "\"history\" message (msg.ref or msg.messages are undefined)",
        ),
        "watched" => return Some(Ok(ServerAction::Watched(members.reference))),
        "unwatched" => (
            Some(ServerAction::Unwatched {
                reference: members.reference,
                topic: members.topic,
                ids: members.ids,
                code,
            }),
            "",
        ),
        "presence" => (
            match (members.topic, members.online) {
                (Some(topic), _) => Some(ServerAction::Presence {
                    topic,
                    count: members.count,
                    members: members.members,
                    joined: members.joined,
                    left: members.left,
                }),
                (None, online) => online.map(|online| ServerAction::Online {
                    online,
                    offline: members.offline,
                }),
            },
            "\"presence\" message (msg.topic or msg.online are undefined)",
        ),
        "gap" => (
            members.topic.map(|topic| ServerAction::Gap {
                topic,
                lost: members.lost.unwrap_or("null"),
            }),
            "\"gap\" message (msg.topic is undefined)",
        ),
        "receipt" => (
            members.reference.map(|reference| ServerAction::Receipt {
                reference,
                delivered: members.delivered.unwrap_or("[]"),
                failed: members.failed.unwrap_or("{}"),
            }),
            "\"receipt\" message (msg.ref is undefined)",
        ),
        "failed" => (
            (ack.zip(dest).zip(code)).map(|((ack, dest), code)| ServerAction::Failed {
                ack,
                dest,
                code,
            }),
            "\"failed\" message (msg.ack, msg.dest or msg.code are undefined)",
        ),
        "error" => (
            code.map(|code| ServerAction::Error {
                code,
                message: members.message.unwrap_or("\"\""),
                reference: members.reference,
                ack,
            }),
            "\"error\" message (msg.code is undefined)",
        ),
        "cancel" => (
            ack.map(|ack| ServerAction::Cancel { ack }),
            "\"cancel\" message (msg.ack is undefined)",
        ),
        "goaway" => (
            members.within.map(|within| ServerAction::GoAway { within }),
            "\"goaway\" message (msg.within is undefined)",
        ),
        "received" => (
            members.count.map(|count| ServerAction::Received { count }),
            "\"received\" message (msg.count is undefined)",
        ),
        _ => return None,
    };
    Some(action.ok_or(ActionError::InvalidMember(what)))
}

fn unknown_action(action: Option<Cow<'_, str>>) -> ActionError {
    let name = action.as_deref().unwrap_or("undefined");
    ActionError::UnknownAction(name.to_owned())
}

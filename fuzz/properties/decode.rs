//! Any text as a frame: our decoders read what a naive reading of the same JSON says, and what our
//! encoders write reads back as what went in.

use super::json::{self, Json, Value};
use crate::{
    error::ActionError,
    protocol::{
        self, ClientAction, Dest, ObjectDest, RawKeptState, RawReplyOptions, RawSubscription,
        ServerAction, SubscriptionCommand,
    },
};

/// Small enough to be exceeded by short inputs.
const MAX_ID_LENGTH: usize = 24;
const MAX_DEST: usize = 4;
/// Bytes of an unknown action that an error shows, give or take the rest of a character.
const SHOWN: usize = 1024;

/// The fault of a frame, by the naive parser.
enum Wrong {
    This(ActionError),
    /// The action of this name is unknown. None: of a name that is not promised.
    Action(Option<String>),
    /// The action of this name lacks a member.
    Member(String),
}

/// Bytes that are no UTF-8 never reach a decoder, so they are made UTF-8 here.
pub fn decode(bytes: &[u8]) {
    let text = &*String::from_utf8_lossy(bytes);
    let json = json::read(text);
    if serde_json::from_str::<serde_json::Value>(text).is_ok() {
        assert!(json.is_some(), "the naive reading misses some JSON");
    }
    agree(
        protocol::decode_client_action(text),
        client_action(json.as_ref()),
    );
    for version in [1, 2] {
        agree(
            protocol::decode_server_action(text, version),
            server_action(json.as_ref(), version),
        );
    }
    // Their callers give them JSON, but they must survive anything.
    let _ = protocol::decode_id(text, MAX_ID_LENGTH);
    let _ = protocol::decode_dest(text, MAX_DEST, MAX_ID_LENGTH);
    let _ = (protocol::ack_key(text), protocol::is_truthy(text));
    let _ = protocol::echo(text, MAX_ID_LENGTH);
    let id = protocol::json_string(text);
    assert_eq!(
        protocol::decode_id(&id, id.len()).as_deref(),
        Ok(text),
        "an id written and read is the same"
    );
    let Some(json) = json else { return };
    values(&json);
    for name in ["action", "id", "dest", "ack", "message", "from"] {
        if let Some(member) = json.member(name) {
            values(member);
        }
    }
    encoders(&json, &id);
}

fn agree<A: PartialEq + std::fmt::Debug>(ours: Result<A, ActionError>, naive: Result<A, Wrong>) {
    match (ours, naive) {
        (Ok(ours), Ok(naive)) => assert_eq!(ours, naive),
        (Err(ours), Err(Wrong::This(naive))) => assert_eq!(ours, naive),
        (Err(ActionError::InvalidMember(text)), Err(Wrong::Member(name))) => {
            assert!(text.starts_with(&format!("\"{name}\"")), "{text} of {name}");
        }
        (Err(ActionError::UnknownAction(shown)), Err(Wrong::Action(name))) => {
            let Some(name) = name else { return };
            assert!(name.starts_with(&shown), "{shown:?} of {name:?}");
            let whole = shown.len() == name.len() && shown.len() <= SHOWN;
            let beginning = (SHOWN - 3..=SHOWN).contains(&shown.len());
            assert!(whole || beginning, "{shown:?} of {name:?}");
        }
        (Ok(ours), Err(_)) => panic!("{ours:?} is refused by the naive reading"),
        (Err(ours), _) => panic!("{ours:?}, but not by the naive reading"),
    }
}

/// The name of an action, if the text is an object that has one.
fn action(json: Option<&Json<'_>>) -> Result<Option<String>, Wrong> {
    let undefined = || Wrong::Action(Some("undefined".into()));
    match json.map(|json| &json.value) {
        None => Err(Wrong::This(ActionError::NotJson)),
        Some(Value::Null) => Err(Wrong::This(ActionError::Null)),
        _ => match json.and_then(|json| json.member("action")) {
            None => Err(undefined()),
            // Of a long one the beginning is shown, and no action has such a name.
            Some(action) if action.raw.len() > SHOWN => Err(Wrong::Action(Some(action.raw.into()))),
            Some(action) => Ok(action.name()),
        },
    }
}

fn client_action<'a>(json: Option<&Json<'a>>) -> Result<ClientAction<'a>, Wrong> {
    let name = action(json)?;
    let member = |name| json.and_then(|json| json.member(name));
    let raw = |name| member(name).map(|json| json.raw);
    let truthy = |name| member(name).filter(|json| json.is_truthy());
    let result = match name.as_deref() {
        Some("register") => truthy("id")
            .map(|id| ClientAction::Register {
                id: id.raw,
                token: raw("token"),
                protocol: version(member("protocol")),
                session: raw("session"),
            })
            .ok_or(ActionError::NoId),
        Some("unregister") => Ok(ClientAction::Unregister),
        Some("send") => raw("message")
            .zip(raw("dest"))
            .map(|(message, dest)| ClientAction::Send {
                message,
                dest,
                ack: raw("ack"),
                reply: reply(["ref", "answers", "timeout", "attempt", "key"].map(raw)),
            })
            .ok_or(ActionError::IncompleteSend),
        Some("answer") => truthy("ack")
            .map(|ack| ClientAction::Answer {
                ack: ack.raw,
                message: raw("message"),
                error: truthy("error").map(|json| json.raw),
            })
            .ok_or(ActionError::NoAck),
        Some("cancel") => Ok(ClientAction::Cancel { ack: raw("ack") }),
        Some("received") => Ok(ClientAction::Received(raw("count"))),
        Some(
            name @ ("subscribe" | "unsubscribe" | "acknowledge" | "watch" | "unwatch" | "history"),
        ) => Ok(ClientAction::Subscription(Box::new(RawSubscription {
            command: match name {
                "subscribe" => SubscriptionCommand::Subscribe,
                "unsubscribe" => SubscriptionCommand::Unsubscribe,
                "watch" => SubscriptionCommand::Watch,
                "unwatch" => SubscriptionCommand::Unwatch,
                "history" => SubscriptionCommand::History,
                _ => SubscriptionCommand::Acknowledge,
            },
            topic: raw("topic"),
            reference: raw("ref"),
            slow: raw("slow"),
            group: raw("group"),
            window: raw("window"),
            count: raw("count"),
            info: raw("info"),
            ids: raw("ids"),
            token: raw("token"),
            since: raw("since"),
            last: raw("last"),
            after: raw("after"),
            before: raw("before"),
            limit: raw("limit"),
            mailbox: raw("mailbox"),
            offset: raw("offset"),
            retry: raw("retry"),
        }))),
        _ => return Err(Wrong::Action(name)),
    };
    result.map_err(Wrong::This)
}

fn reply<'a>(
    [reference, answers, timeout, attempt, key]: [Option<&'a str>; 5],
) -> Option<Box<RawReplyOptions<'a>>> {
    let reply = RawReplyOptions {
        reference,
        answers,
        timeout,
        attempt,
        key,
    };
    (reply != RawReplyOptions::default()).then(|| Box::new(reply))
}

/// The version that a member asks for.
fn version(member: Option<&Json<'_>>) -> u8 {
    match member {
        Some(Json {
            value: Value::Number(_),
            raw,
            ..
        }) if raw.parse::<f64>().is_ok_and(|number| number >= 2.0) => 2,
        _ => 1,
    }
}

fn server_action<'a>(
    json: Option<&Json<'a>>,
    version_spoken: u8,
) -> Result<ServerAction<'a>, Wrong> {
    let name = action(json).map_err(|wrong| match wrong {
        Wrong::This(ActionError::Null) => Wrong::This(ActionError::NotJson),
        wrong => wrong,
    })?;
    let member = |name| json.and_then(|json| json.member(name));
    let raw = |name| member(name).map(|json| json.raw);
    let truthy = |name| member(name).filter(|json| json.is_truthy());
    let (message, from) = (raw("message"), raw("from"));
    let uses_version_2 = version_spoken == 2;
    let has_long_ack = raw("ack").is_some_and(|ack| ack.len() > protocol::LONGEST_ACK);
    // What is missing has a text of its own, which is not compared.
    let missing = |what: &str| Wrong::Member(what.to_owned());
    match name.as_deref() {
        Some(name @ ("message" | "answer")) if has_long_ack => Err(missing(name)),
        Some(name @ ("failed" | "error" | "cancel")) if uses_version_2 && has_long_ack => {
            Err(missing(name))
        }
        Some("message") => {
            let ack = truthy("ack").map(|ack| ack.raw);
            Ok(ServerAction::Message {
                message,
                ack,
                from,
                topic: raw("topic").filter(|_| uses_version_2),
                group: raw("group").filter(|_| uses_version_2),
                attempt: raw("attempt").filter(|_| uses_version_2),
                offset: raw("offset").filter(|_| uses_version_2),
                mailbox: raw("mailbox").filter(|_| uses_version_2),
                key: raw("key").filter(|_| uses_version_2),
            })
        }
        Some("answer") => Ok(ServerAction::Answer {
            ack: raw("ack"),
            from,
            message,
            error: truthy("error")
                .filter(|_| uses_version_2)
                .map(|json| json.raw),
        }),
        Some("registered") => Ok(ServerAction::Registered {
            protocol: version(member("protocol")).min(version_spoken),
            session: raw("session").filter(|_| uses_version_2),
        }),
        Some("unregistered") => Ok(ServerAction::Unregistered {
            id: raw("id"),
            code: raw("code").filter(|_| uses_version_2),
        }),
        Some("receipt") if uses_version_2 && raw("queued").is_some() => {
            Ok(ServerAction::PublishReceipt {
                reference: raw("ref").ok_or_else(|| missing("receipt"))?,
                queued: raw("queued").unwrap_or_default(),
                dropped: raw("dropped").unwrap_or("0"),
                elsewhere: raw("elsewhere"),
                offset: raw("offset"),
                stored: raw("stored"),
                mailboxes: raw("mailboxes"),
                failed: raw("failed"),
            })
        }
        Some("receipt") if uses_version_2 && raw("mailboxes").is_some() => {
            Ok(ServerAction::MailboxReceipt {
                reference: raw("ref").ok_or_else(|| missing("receipt"))?,
                mailboxes: raw("mailboxes").unwrap_or_default(),
                failed: raw("failed").unwrap_or("{}"),
                duplicates: raw("duplicates").unwrap_or("[]"),
            })
        }
        Some("subscribed") if uses_version_2 && raw("mailbox").is_some() => {
            Ok(ServerAction::MailboxOpened {
                mailbox: raw("mailbox").unwrap_or_default(),
                reference: raw("ref"),
                epoch: raw("epoch").ok_or_else(|| missing("subscribed"))?,
                waiting: raw("waiting").unwrap_or("0"),
            })
        }
        Some("unsubscribed") if uses_version_2 && raw("mailbox").is_some() => {
            Ok(ServerAction::MailboxClosed {
                mailbox: raw("mailbox").unwrap_or_default(),
                reference: raw("ref"),
                code: raw("code"),
            })
        }
        Some("subscribed") if uses_version_2 => Ok(ServerAction::Subscribed {
            topic: raw("topic").ok_or_else(|| missing("subscribed"))?,
            reference: raw("ref"),
            kept: raw("offset").map(|offset| {
                Box::new(RawKeptState {
                    offset,
                    epoch: raw("epoch"),
                    recovered: raw("recovered"),
                    lost: raw("lost"),
                    replay: raw("replay"),
                })
            }),
        }),
        Some("history") if uses_version_2 => Ok(ServerAction::History {
            reference: raw("ref").ok_or_else(|| missing("history"))?,
            messages: raw("messages").ok_or_else(|| missing("history"))?,
            epoch: raw("epoch"),
            offset: raw("offset"),
            more: raw("more"),
        }),
        Some("unsubscribed") if uses_version_2 => Ok(ServerAction::Unsubscribed {
            topic: raw("topic").ok_or_else(|| missing("unsubscribed"))?,
            reference: raw("ref"),
            code: raw("code"),
            group: raw("group"),
        }),
        Some("watched") if uses_version_2 => Ok(ServerAction::Watched(raw("ref"))),
        Some("unwatched") if uses_version_2 => Ok(ServerAction::Unwatched {
            reference: raw("ref"),
            topic: raw("topic"),
            ids: raw("ids"),
            code: raw("code"),
        }),
        Some("presence") if uses_version_2 => match (raw("topic"), raw("online")) {
            (Some(topic), _) => Ok(ServerAction::Presence {
                topic,
                count: raw("count"),
                members: raw("members"),
                joined: raw("joined"),
                left: raw("left"),
            }),
            (None, Some(online)) => Ok(ServerAction::Online {
                online,
                offline: raw("offline"),
            }),
            (None, None) => Err(missing("presence")),
        },
        Some("gap") if uses_version_2 => Ok(ServerAction::Gap {
            topic: raw("topic").ok_or_else(|| missing("gap"))?,
            lost: raw("lost").unwrap_or("null"),
        }),
        Some("receipt") if uses_version_2 => Ok(ServerAction::Receipt {
            reference: raw("ref").ok_or_else(|| missing("receipt"))?,
            delivered: raw("delivered").unwrap_or("[]"),
            failed: raw("failed").unwrap_or("{}"),
        }),
        Some("failed") if uses_version_2 => match (raw("ack"), raw("dest"), raw("code")) {
            (Some(ack), Some(dest), Some(code)) => Ok(ServerAction::Failed { ack, dest, code }),
            _ => Err(missing("failed")),
        },
        Some("error") if uses_version_2 => Ok(ServerAction::Error {
            code: raw("code").ok_or_else(|| missing("error"))?,
            message: message.unwrap_or("\"\""),
            reference: raw("ref"),
            ack: raw("ack"),
        }),
        Some("cancel") if uses_version_2 => {
            let ack = raw("ack").ok_or_else(|| missing("cancel"))?;
            Ok(ServerAction::Cancel { ack })
        }
        Some("goaway") if uses_version_2 => {
            let within = raw("within").ok_or_else(|| missing("goaway"))?;
            Ok(ServerAction::GoAway { within })
        }
        Some("received") if uses_version_2 => {
            let count = raw("count").ok_or_else(|| missing("received"))?;
            Ok(ServerAction::Received { count })
        }
        _ => Err(Wrong::Action(name)),
    }
}

/// A value as an id, as the receivers of a message, and as an ack.
fn values(json: &Json<'_>) {
    let raw = json.raw;
    assert_eq!(protocol::is_truthy(raw), json.is_truthy(), "{raw}");
    if let Some(name) = json.name() {
        assert_eq!(protocol::ack_key(raw), name, "{raw}");
    }

    let id = match &json.value {
        Value::String(_) | Value::Number(_) => json.name().ok_or(ActionError::InvalidId),
        _ => Err(ActionError::InvalidId),
    };
    let too_long = |raw: &str| raw.len() > MAX_ID_LENGTH * 6 + 2;
    let ours = protocol::decode_id(raw, MAX_ID_LENGTH).map(String::from);
    if matches!(json.value, Value::String(_) | Value::Number(_)) && too_long(raw) {
        assert_eq!(ours, Err(ActionError::IdTooLong(raw.len(), MAX_ID_LENGTH)));
    } else {
        let id = id.and_then(|id| match protocol::json_string(&id).len() - 2 {
            length if length > MAX_ID_LENGTH => Err(ActionError::IdTooLong(length, MAX_ID_LENGTH)),
            _ => Ok(id),
        });
        assert_eq!(ours, id, "{raw}");
    }

    match (
        protocol::decode_dest(raw, MAX_DEST, MAX_ID_LENGTH),
        &json.value,
    ) {
        (Err(ActionError::DestTooLong(length, MAX_ID_LENGTH)), Value::String(_)) => {
            assert!(length == raw.len() && too_long(raw), "{raw}");
        }
        (Err(ActionError::DestTooLong(length, MAX_ID_LENGTH)), Value::Array(items)) => {
            let first = items.iter().find(|item| too_long(item.raw));
            assert_eq!(first.map(|item| item.raw.len()), Some(length), "{raw}");
        }
        (Ok(Dest::One(id)), Value::String(_)) => {
            assert!(json.name().is_none_or(|name| name == id), "{raw}");
        }
        (Ok(Dest::Many(ids)), Value::Array(items)) => {
            assert!(items.len() <= MAX_DEST, "{raw}");
            assert!(!items.iter().any(|item| too_long(item.raw)), "{raw}");
            assert_eq!(ids.len(), items.len(), "{raw}");
            for (id, item) in ids.iter().zip(items) {
                assert!(item.name().is_none_or(|name| name == *id), "{raw}");
            }
        }
        (Err(ActionError::TooManyDest(MAX_DEST)), Value::Array(items)) => {
            assert!(items.len() > MAX_DEST, "{raw}");
        }
        (Ok(Dest::Object(same)), Value::Object(_)) => {
            assert_eq!(same, raw);
            object(json);
        }
        (Err(ActionError::InvalidDest), Value::String(_) | Value::Array(_)) => panic!("{raw}"),
        (Err(ActionError::InvalidDest), _) => {}
        (other, _) => panic!("{raw} as {other:?}"),
    }
}

/// An object as a topic, or as mailboxes.
fn object(json: &Json<'_>) {
    let raw = json.raw;
    let [topic, mailbox] = ["topic", "mailbox"].map(|name| json.member(name));
    match protocol::decode_object(raw, MAX_DEST, MAX_ID_LENGTH) {
        Ok(ObjectDest::Topic(name)) => {
            let text = topic.filter(|member| matches!(member.value, Value::String(_)));
            assert_eq!(text.and_then(Json::name).as_deref(), Some(&*name), "{raw}");
            assert!(crate::topic::is_topic(&name), "{raw}");
        }
        Ok(ObjectDest::Mailboxes(names)) => {
            assert!(mailbox.is_some() && !names.is_empty(), "{raw}");
            assert!(names.len() <= MAX_DEST, "{raw}");
            for (place, name) in names.iter().enumerate() {
                assert!(!name.is_empty() && !names[..place].contains(name), "{raw}");
            }
        }
        Err(ActionError::InvalidTopic) => assert!(topic.is_some(), "{raw}"),
        Err(ActionError::InvalidDest) => {}
        other => {
            let is_long = matches!(
                other,
                Err(ActionError::TooManyDest(_) | ActionError::DestTooLong(..))
            );
            assert!(is_long && mailbox.is_some(), "{raw} as {other:?}");
        }
    }
}

/// Frames of the members that came, as the server and a client write them. `id`: any id, as JSON.
fn encoders(json: &Json<'_>, id: &str) {
    let raw = |name| json.member(name).map(|json| json.raw);
    let (ack, any) = (raw("ack"), raw("message"));
    let message = any.unwrap_or(json.raw);
    let truthy = ack.filter(|ack| protocol::is_truthy(ack));

    for from in [None, Some(id)] {
        let frame = protocol::message(message, ack, from).concat();
        let members = [("message", Some(message)), ("ack", ack), ("from", from)];
        written(&frame, "message", &members);
        let read = ServerAction::Message {
            message: Some(message),
            ack: truthy,
            from,
            topic: None,
            group: None,
            attempt: None,
            offset: None,
            mailbox: None,
            key: None,
        };
        assert_eq!(protocol::decode_server_action(&frame, 2), Ok(read));

        let Some(ack) = truthy else { continue };
        let frame = protocol::answer(ack, from, any).concat();
        let members = [("ack", Some(ack)), ("from", from), ("message", any)];
        written(&frame, "answer", &members);
        let read = ServerAction::Answer {
            ack: Some(ack),
            from,
            message: any,
            error: None,
        };
        assert_eq!(protocol::decode_server_action(&frame, 2), Ok(read));

        let frame = protocol::client_answer(ack, message, from).concat();
        let members = [
            ("ack", Some(ack)),
            ("message", Some(message)),
            ("from", from),
        ];
        written(&frame, "answer", &members);
        let read = ClientAction::Answer {
            ack,
            message: Some(message),
            error: None,
        };
        assert_eq!(protocol::decode_client_action(&frame), Ok(read));
    }

    for (version, protocol) in [(1, None), (2, Some("2"))] {
        let frame = protocol::registered(id, version).concat();
        written(
            &frame,
            "registered",
            &[("id", Some(id)), ("protocol", protocol)],
        );
    }
    let frame = protocol::unregistered(id).concat();
    written(&frame, "unregistered", &[("id", Some(id))]);
    let read = ServerAction::Unregistered {
        id: Some(id),
        code: None,
    };
    assert_eq!(protocol::decode_server_action(&frame, 2), Ok(read));

    let given = raw("id");
    let token = raw("token");
    for (version, protocol) in [(1, None), (2, Some("2"))] {
        let session = raw("session");
        let part = session.map_or(String::new(), |raw| format!(",\"session\":{raw}"));
        let frame = protocol::register(given, token, version, &part).concat();
        let members = [
            ("id", given),
            ("token", token),
            ("session", session),
            ("protocol", protocol),
        ];
        written(&frame, "register", &members);
    }
    let frame = protocol::unregister(given).concat();
    written(&frame, "unregister", &[("id", given)]);
    let dest = raw("dest").unwrap_or(id);
    let frame = protocol::send(message, dest, ack.unwrap_or_default()).concat();
    let members = [
        ("message", Some(message)),
        ("dest", Some(dest)),
        ("ack", ack),
    ];
    written(&frame, "send", &members);
    let read = ClientAction::Send {
        message,
        dest,
        ack,
        reply: None,
    };
    assert_eq!(protocol::decode_client_action(&frame), Ok(read));
    version_2(json, id);
}

/// Checks the frames that version 2 adds.
fn version_2(json: &Json<'_>, id: &str) {
    let raw = |name| json.member(name).map(|json| json.raw);
    let (reference, ack) = (raw("ref"), raw("ack"));
    let repeated = protocol::version_2::repeated(reference, ack);
    let frame = protocol::version_2::error("CODE", id, &repeated).concat();
    let code = Some("\"CODE\"");
    let members = [
        ("code", code),
        ("message", Some(id)),
        ("ref", reference),
        ("ack", ack),
    ];
    written(&frame, "error", &members);
    let members = [("ack", Some(id)), ("dest", Some(id)), ("code", code)];
    written(
        &protocol::version_2::failed(id, id, "CODE").concat(),
        "failed",
        &members,
    );
    written(
        &protocol::version_2::cancel(id).concat(),
        "cancel",
        &[("ack", Some(id))],
    );
    let members = [("id", Some(id)), ("code", Some("\"REPLACED\""))];
    written(
        &protocol::version_2::replaced(id).concat(),
        "unregistered",
        &members,
    );
    for from in [None, Some(id)] {
        let frame = protocol::version_2::refusal(id, from, json.raw).concat();
        let members = [("ack", Some(id)), ("from", from), ("error", Some(json.raw))];
        written(&frame, "answer", &members);
    }
    let frame = protocol::version_2::receipt(id, id, "").concat();
    let list = format!("[{id}]");
    let members = [
        ("ref", Some(id)),
        ("delivered", Some(&*list)),
        ("failed", Some("{}")),
    ];
    written(&frame, "receipt", &members);
}

/// A frame is JSON: this action, then those of the members that are there, and nothing else.
fn written(frame: &str, action: &str, members: &[(&str, Option<&str>)]) {
    let json = json::read(frame).expect("a frame that is JSON");
    assert_eq!(json.raw.len(), frame.len());
    let there: Vec<_> = members
        .iter()
        .filter_map(|(name, raw)| raw.map(|raw| (*name, raw)))
        .collect();
    let names: Vec<_> = there.iter().map(|(name, _)| *name).collect();
    assert_eq!(json.names(), [&["action"], &names[..]].concat());
    assert_eq!(
        json.member("action").and_then(Json::name).as_deref(),
        Some(action)
    );
    for (name, raw) in there {
        assert_eq!(json.member(name).map(|json| json.raw), Some(raw), "{frame}");
    }
}

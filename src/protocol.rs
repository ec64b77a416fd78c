//! The actions of the protocol, as JSON text. Pure: text in, values out, and back.
//!
//! Nothing here looks inside a message: `message`, `ack` and `from` are carried as the raw JSON
//! text that came, whatever its nesting, its numbers or its surrogates. The rules cited are
//! those of `spec/protocol.md`.

mod encode;
mod plain;
mod usual;

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::ActionError;
pub(crate) use encode::{
    Pieces, answer, client_answer, message, register, registered, send, unregister, unregistered,
};

/// What a client asks of the server. All borrowed from the frame, as JSON text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ClientAction<'a> {
    Register {
        id: &'a str,
        token: Option<&'a str>,
    },
    Unregister,
    Send {
        message: &'a str,
        dest: &'a str,
        ack: Option<&'a str>,
    },
    Answer {
        ack: &'a str,
        message: Option<&'a str>,
    },
}

/// What a server tells a client. All borrowed from the frame, as JSON text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerAction<'a> {
    Registered,
    Unregistered {
        id: Option<&'a str>,
    },
    Message {
        message: Option<&'a str>,
        ack: Option<&'a str>,
        from: Option<&'a str>,
    },
    Answer {
        ack: Option<&'a str>,
        from: Option<&'a str>,
        message: Option<&'a str>,
    },
}

/// The receivers of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Dest<'a> {
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
}

/// The members of a frame that any action uses; others are ignored (rule 3).
#[derive(Default)]
struct Members<'a> {
    action: Option<&'a str>,
    id: Option<&'a str>,
    message: Option<&'a str>,
    dest: Option<&'a str>,
    ack: Option<&'a str>,
    from: Option<&'a str>,
    token: Option<&'a str>,
}

impl<'a> Members<'a> {
    fn parse(text: &'a str) -> Result<Self, ActionError> {
        let mut members = Self::default();
        let is_plain = plain::members(text, |name, value| {
            if let Some(slot) = members.slot(name) {
                *slot = Some(value);
            }
        });
        match is_plain {
            true => Ok(members),
            false => Self::parse_any(text),
        }
    }

    /// The same, by `serde_json` alone.
    fn parse_any(text: &'a str) -> Result<Self, ActionError> {
        serde_json::from_str(text).map_err(|_| {
            // Not an object, or not JSON at all. Only now is it worth telling which.
            match serde_json::from_str::<IgnoredAny>(text) {
                Err(_) => ActionError::NotJson,
                Ok(_) if text.trim_ascii() == "null" => ActionError::Null,
                Ok(_) => ActionError::UnknownAction("undefined".into()),
            }
        })
    }

    /// The place of a member, if it is one of ours; the name as JSON.
    fn slot(&mut self, name: &str) -> Option<&mut Option<&'a str>> {
        Some(match name {
            r#""action""# => &mut self.action,
            r#""id""# => &mut self.id,
            r#""message""# => &mut self.message,
            r#""dest""# => &mut self.dest,
            r#""ack""# => &mut self.ack,
            r#""from""# => &mut self.from,
            r#""token""# => &mut self.token,
            _ => {
                // An escape that need not be there is undone; one that must be is in no name of ours.
                let plain = name.contains('\\').then(|| json_string(&string(name)))?;
                return if plain == name {
                    None
                } else {
                    self.slot(&plain)
                };
            }
        })
    }

    /// The action's name, as JavaScript makes one of any value; none if there is no action.
    fn action(&self) -> Option<Cow<'a, str>> {
        self.action.map(|raw| property_name(raw, 0))
    }
}

/// What JavaScript makes of a value that names a property.
fn property_name(raw: &str, depth: usize) -> Cow<'_, str> {
    /// An array in an array in ... is no honest action.
    const DEEPEST: usize = 8;

    match raw.as_bytes().first() {
        Some(b'"') => string(raw),
        Some(b'{') => "[object Object]".into(),
        Some(b'-' | b'0'..=b'9') => number(raw).into(),
        Some(b'[') if depth < DEEPEST => {
            let items: Vec<&RawValue> = serde_json::from_str(raw).unwrap_or_default();
            let names = items.iter().map(|item| match item.get() {
                "null" => "".into(),
                raw => property_name(raw, depth + 1),
            });
            names.collect::<Vec<_>>().join(",").into()
        }
        _ => raw.into(),
    }
}

/// Bytes of an unknown action's name that an error shows.
const LONGEST_NAME: usize = 1024;

fn unknown_action(action: Option<Cow<'_, str>>) -> ActionError {
    let name = action.as_deref().unwrap_or("undefined");
    ActionError::UnknownAction(shorten(name, LONGEST_NAME).to_owned())
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
                // A member named twice: the last one counts, as in JavaScript.
                // Names are read raw: a foreign one may hold a lone surrogate, but no line break.
                while let Some(name) = map.next_key::<&RawValue>()? {
                    let Some(slot) = members.slot(name.get()) else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    // Not `Option<&RawValue>`: that would turn `null` into a missing member.
                    *slot = Some(map.next_value::<&RawValue>()?.get());
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

/// Decodes what a client sent (rules 4 to 9).
pub(crate) fn decode_client_action(text: &str) -> Result<ClientAction<'_>, ActionError> {
    match usual::client_action(text) {
        Some(action) => Ok(action),
        None => client_action(&Members::parse(text)?),
    }
}

fn client_action<'a>(members: &Members<'a>) -> Result<ClientAction<'a>, ActionError> {
    let action = members.action();
    match action.as_deref() {
        Some("send") => match (members.message, members.dest) {
            (Some(message), Some(dest)) => Ok(ClientAction::Send {
                message,
                dest,
                ack: members.ack,
            }),
            _ => Err(ActionError::IncompleteSend),
        },
        Some("answer") => match members.ack {
            Some(ack) if is_truthy(ack) => Ok(ClientAction::Answer {
                ack,
                message: members.message,
            }),
            _ => Err(ActionError::NoAck),
        },
        Some("register") => match members.id {
            Some(id) if is_truthy(id) => Ok(ClientAction::Register {
                id,
                token: members.token,
            }),
            _ => Err(ActionError::NoId),
        },
        Some("unregister") => Ok(ClientAction::Unregister),
        _ => Err(unknown_action(action)),
    }
}

/// Decodes what a server sent (rules 10 to 13).
pub(crate) fn decode_server_action(text: &str) -> Result<ServerAction<'_>, ActionError> {
    match usual::server_action(text) {
        Some(action) => Ok(action),
        None => server_action(Members::parse(text)),
    }
}

fn server_action<'a>(
    members: Result<Members<'a>, ActionError>,
) -> Result<ServerAction<'a>, ActionError> {
    let members = members.map_err(|error| match error {
        // A client of version 1 does not tell `null` from what is not JSON.
        ActionError::Null => ActionError::NotJson,
        error => error,
    })?;
    let action = members.action();
    let Members {
        id,
        message,
        ack,
        from,
        ..
    } = members;
    match action.as_deref() {
        Some("message") => Ok(ServerAction::Message {
            message,
            ack: ack.filter(|ack| is_truthy(ack)),
            from,
        }),
        Some("answer") => Ok(ServerAction::Answer { ack, from, message }),
        Some("registered") => Ok(ServerAction::Registered),
        Some("unregistered") => Ok(ServerAction::Unregistered { id }),
        _ => Err(unknown_action(action)),
    }
}

/// The id of a `register`: a string, or a number, which becomes one (rule 4).
pub(crate) fn decode_id(raw: &str, max_length: usize) -> Result<Cow<'_, str>, ActionError> {
    let id = match raw.as_bytes().first() {
        Some(b'"') => match unescaped(raw) {
            Some(id) => Cow::Borrowed(id),
            // A lone surrogate is no Unicode: no other client could write that id in UTF-8.
            None => Cow::Owned(serde_json::from_str(raw).map_err(|_| ActionError::InvalidId)?),
        },
        Some(b'-' | b'0'..=b'9') => Cow::Owned(number(raw)),
        _ => return Err(ActionError::InvalidId),
    };
    match id.len() {
        length if length > max_length => Err(ActionError::IdTooLong(length, max_length)),
        _ => Ok(id),
    }
}

/// The token of a `register`: a string; anything else is none.
pub(crate) fn decode_token(raw: &str) -> Option<Cow<'_, str>> {
    raw.starts_with('"').then(|| string(raw))
}

/// The receivers of a `send` (rule 6).
pub(crate) fn decode_dest(raw: &str, max_dest: usize) -> Result<Dest<'_>, ActionError> {
    match raw.as_bytes().first() {
        Some(b'"') => Ok(Dest::One(string(raw))),
        Some(b'[') => decode_ids(raw, max_dest)
            .map(Dest::Many)
            .ok_or(ActionError::TooManyDest(max_dest)),
        _ => Err(ActionError::InvalidDest),
    }
}

/// The ids in an array, which is known to be JSON; none if they are too many.
fn decode_ids(raw: &str, max_dest: usize) -> Option<Vec<Cow<'_, str>>> {
    let mut ids = Vec::new();
    let mut fits = true;
    let is_plain = plain::items(raw, |item| {
        fits = ids.len() < max_dest;
        if fits {
            ids.push(property_name(item, 0));
        }
        fits
    });
    match is_plain {
        true => fits.then_some(ids),
        false => {
            let visitor = IdsVisitor { max_dest };
            let ids = serde_json::Deserializer::from_str(raw).deserialize_seq(visitor);
            ids.ok()
        }
    }
}

/// Reads an array of ids; the text is known to be JSON, so its only error is "too many".
struct IdsVisitor {
    max_dest: usize,
}

impl<'de> Visitor<'de> for IdsVisitor {
    type Value = Vec<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} ids", self.max_dest)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut ids = Vec::new();
        while let Some(raw) = seq.next_element::<&'de RawValue>()? {
            if ids.len() == self.max_dest {
                return Err(serde::de::Error::invalid_length(ids.len() + 1, &self));
            }
            ids.push(property_name(raw.get(), 0));
        }
        Ok(ids)
    }
}

/// The key under which a request is kept (rule 7.3).
pub(crate) fn ack_key(raw: &str) -> Cow<'_, str> {
    property_name(raw, 0)
}

/// The beginning of a text, at most so many bytes of it.
pub(crate) fn shorten(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// True unless the JSON text is one of JavaScript's falsy values.
pub(crate) fn is_truthy(raw: &str) -> bool {
    match raw.as_bytes().first() {
        Some(b'n' | b'f') => false,
        Some(b'"') => raw.len() > 2,
        Some(b'-' | b'0'..=b'9') => raw.parse::<f64>().is_ok_and(|number| number != 0.0),
        _ => true,
    }
}

/// The text between the quotes of a JSON string that has no escapes.
fn unescaped(raw: &str) -> Option<&str> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.as_bytes().contains(&b'\\')).then_some(inner)
}

/// The value of a JSON string, lone surrogates replaced; other values as their text.
fn string(raw: &str) -> Cow<'_, str> {
    struct Lossy(String);

    impl<'de> Deserialize<'de> for Lossy {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct LossyVisitor;

            impl Visitor<'_> for LossyVisitor {
                type Value = Lossy;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a string")
                }

                fn visit_bytes<E>(self, value: &[u8]) -> Result<Lossy, E> {
                    Ok(Lossy(String::from_utf8_lossy(value).into_owned()))
                }
            }

            deserializer.deserialize_bytes(LossyVisitor)
        }
    }

    match unescaped(raw) {
        Some(inner) => Cow::Borrowed(inner),
        None if raw.starts_with('"') => {
            serde_json::from_str(raw).map_or(Cow::Borrowed(raw), |Lossy(value)| Cow::Owned(value))
        }
        None => Cow::Borrowed(raw),
    }
}

/// A JSON number as JavaScript would write it, for numbers that serve as names.
fn number(raw: &str) -> String {
    match raw.parse::<f64>() {
        Ok(0.0) => "0".to_owned(),
        Ok(value) if value.is_infinite() => {
            (if value > 0.0 { "Infinity" } else { "-Infinity" }).to_owned()
        }
        Ok(value) if (1e-6..1e21).contains(&value.abs()) => value.to_string(),
        Ok(value) if value.abs() < 1.0 => format!("{value:e}"),
        Ok(value) => format!("{value:e}").replace('e', "e+"),
        Err(_) => raw.to_owned(),
    }
}

/// JSON text of a string.
pub(crate) fn json_string(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

#[cfg(test)]
mod differential;

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> ActionError {
        decode_client_action(text).unwrap_err()
    }

    #[test]
    fn members_come_in_any_order_and_others_are_ignored() {
        let text = r#" {"x":{"action":1},"dest":["a"],"\ud800":0,"message":null,"action":"send"} "#;
        let send = ClientAction::Send {
            message: "null",
            dest: "[\"a\"]",
            ack: None,
        };
        assert_eq!(decode_client_action(text).unwrap(), send);
    }

    #[test]
    fn a_name_that_is_no_json_is_refused_but_any_json_is_a_name() {
        for name in ["\n", "\0", "\\u0041\t", "\\x", "\\u12"] {
            let text = format!(r#"{{"{name}":1,"action":"unregister"}}"#);
            assert_eq!(refusal(&text), ActionError::NotJson, "{text:?}");
        }
        for text in [
            r#"{"\n\u0000\ud800":1,"action":"unregister"}"#,
            r#"{"a\u0063tion":"unregister"}"#,
            r#"{"\\":1,"\"\/":1,"\u0061ction":"unregister"}"#,
        ] {
            let action = decode_client_action(text);
            assert_eq!(action, Ok(ClientAction::Unregister), "{text}");
        }
    }

    #[test]
    fn a_member_named_twice_counts_the_last_time() {
        let text = r#"{"action":"foo","id":"a","action":"register","id":"b"}"#;
        assert_eq!(
            decode_client_action(text).unwrap(),
            ClientAction::Register {
                id: "\"b\"",
                token: None
            }
        );
    }

    #[test]
    fn messages_pass_as_they_are() {
        for message in [
            "1.0",
            "1e999",
            "9223372036854775808",
            r#""\ud800""#,
            "{\"__proto__\":1}",
        ] {
            let text = format!(r#"{{"action":"send","dest":"a","message":{message}}}"#);
            let Ok(ClientAction::Send { message: raw, .. }) = decode_client_action(&text) else {
                panic!("{message}");
            };
            assert_eq!(raw, message);
        }
    }

    #[test]
    fn nesting_of_any_depth_is_carried() {
        let message = "[".repeat(100_000) + &"]".repeat(100_000);
        let text = format!(r#"{{"action":"send","dest":"a","message":{message}}}"#);
        assert!(
            matches!(decode_client_action(&text), Ok(ClientAction::Send { message: m, .. }) if m == message)
        );
    }

    #[test]
    fn what_is_no_action_is_refused_with_the_texts_of_version_1() {
        assert_eq!(refusal("{"), ActionError::NotJson);
        assert_eq!(refusal("{} x"), ActionError::NotJson);
        assert_eq!(refusal(" null "), ActionError::Null);
        for (text, action) in [
            ("5", "undefined"),
            ("[]", "undefined"),
            ("{}", "undefined"),
            (r#"{"action":"foo"}"#, "foo"),
            (r#"{"action":"constructor"}"#, "constructor"),
            (r#"{"action":7}"#, "7"),
            (r#"{"action":null}"#, "null"),
            (r#"{"action":{}}"#, "[object Object]"),
            (r#"{"action":["foo",["bar",null],1.0]}"#, "foo,bar,,1"),
        ] {
            assert_eq!(
                refusal(text),
                ActionError::UnknownAction(action.into()),
                "{text}"
            );
        }
        for id in [
            "",
            r#","id":"""#,
            r#","id":0"#,
            r#","id":null"#,
            r#","id":false"#,
        ] {
            assert_eq!(
                refusal(&format!(r#"{{"action":"register"{id}}}"#)),
                ActionError::NoId
            );
        }
        assert_eq!(
            refusal(r#"{"action":"send","dest":"a"}"#),
            ActionError::IncompleteSend
        );
        assert_eq!(
            refusal(r#"{"action":"send","message":1}"#),
            ActionError::IncompleteSend
        );
        assert_eq!(
            refusal(r#"{"action":"answer","ack":"","message":1}"#),
            ActionError::NoAck
        );
    }

    #[test]
    fn ids_are_strings_or_numbers() {
        assert_eq!(decode_id(r#""a\u0062""#, 8).unwrap(), "ab");
        assert_eq!(decode_id("5", 8).unwrap(), "5");
        assert_eq!(decode_id("5.0", 8).unwrap(), "5");
        assert_eq!(decode_id("-1.5", 8).unwrap(), "-1.5");
        for (raw, id) in [
            ("1E2", "100"),
            ("1e20", "100000000000000000000"),
            ("1.50e21", "1.5e+21"),
            ("0.000001", "0.000001"),
            ("0.0000001", "1e-7"),
            ("9007199254740993", "9007199254740992"),
            ("-1e999", "-Infinity"),
        ] {
            assert_eq!(decode_id(raw, 64).unwrap(), id);
        }
        assert_eq!(decode_id("[1]", 8), Err(ActionError::InvalidId));
        assert_eq!(decode_id("true", 8), Err(ActionError::InvalidId));
        assert_eq!(decode_id(r#""\ud800""#, 8), Err(ActionError::InvalidId));
        assert_eq!(
            decode_id(r#""123456789""#, 8),
            Err(ActionError::IdTooLong(9, 8))
        );
    }

    #[test]
    fn receivers_are_one_or_many_up_to_the_limit() {
        assert_eq!(decode_dest(r#""a""#, 1).unwrap(), Dest::One("a".into()));
        let many = vec![
            "a".into(),
            "5".into(),
            "null".into(),
            "\u{fffd}\u{fffd}\u{fffd}".into(),
        ];
        assert_eq!(
            decode_dest(r#"["a",5,null,"\ud800"]"#, 4).unwrap(),
            Dest::Many(many)
        );
        assert_eq!(decode_dest("[]", 1).unwrap(), Dest::Many(vec![]));
        assert_eq!(
            decode_dest(r#"["a","b"]"#, 1),
            Err(ActionError::TooManyDest(1))
        );
        for raw in ["5", "null", "{}", "true"] {
            assert_eq!(decode_dest(raw, 1), Err(ActionError::InvalidDest));
        }
    }

    #[test]
    fn frames_have_the_members_of_version_1_in_its_order() {
        let frame = |pieces: &[&str]| pieces.concat();
        assert_eq!(
            frame(&message("1", Some("\"k\""), Some("\"a\""))),
            r#"{"action":"message","message":1,"ack":"k","from":"a"}"#
        );
        assert_eq!(
            frame(&message("1", None, None)),
            r#"{"action":"message","message":1}"#
        );
        assert_eq!(
            frame(&answer("\"k\"", Some("\"a\""), Some("null"))),
            r#"{"action":"answer","ack":"k","from":"a","message":null}"#
        );
        assert_eq!(
            frame(&registered("\"a\"")),
            r#"{"action":"registered","id":"a"}"#
        );
        assert_eq!(
            frame(&unregistered("\"a\"")),
            r#"{"action":"unregistered","id":"a"}"#
        );
        assert_eq!(frame(&register(None, None)), r#"{"action":"register"}"#);
        assert_eq!(
            frame(&register(Some("1"), Some("\"t\""))),
            r#"{"action":"register","id":1,"token":"t"}"#
        );
        assert_eq!(
            frame(&unregister(Some("5"))),
            r#"{"action":"unregister","id":5}"#
        );
        assert_eq!(
            frame(&send("1", "\"b\"", "\"k\"")),
            r#"{"action":"send","message":1,"dest":"b","ack":"k"}"#
        );
        assert_eq!(frame(&send("", "", "")), r#"{"action":"send"}"#);
        assert_eq!(
            frame(&client_answer("\"k\"", "1", Some("\"b\""))),
            r#"{"action":"answer","ack":"k","message":1,"from":"b"}"#
        );
    }

    #[test]
    fn a_client_reads_the_four_actions_of_a_server() {
        let read = |text| decode_server_action(text).unwrap();
        assert_eq!(
            read(r#"{"action":"registered","id":"a"}"#),
            ServerAction::Registered
        );
        assert_eq!(
            read(r#"{"action":"unregistered","id":"a"}"#),
            ServerAction::Unregistered { id: Some("\"a\"") }
        );
        assert_eq!(
            read(r#"{"action":"message","message":1,"ack":""}"#),
            ServerAction::Message {
                message: Some("1"),
                ack: None,
                from: None
            }
        );
        assert_eq!(
            read(r#"{"action":"answer","ack":"k","from":"b"}"#),
            ServerAction::Answer {
                ack: Some("\"k\""),
                from: Some("\"b\""),
                message: None
            }
        );
        assert_eq!(decode_server_action("null"), Err(ActionError::NotJson));
    }
}

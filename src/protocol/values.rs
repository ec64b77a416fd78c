//! Converts JSON values to names, ids and tokens, as JavaScript does. The cited rules are those of
//! `spec/protocol.md`.

use std::{borrow::Cow, collections::HashSet, fmt};

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json_scan;
use crate::{error::ActionError, topic};

/// The receivers of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Dest<'a> {
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
    /// An object with a topic or mailboxes, as JSON text.
    Object(&'a str),
}

/// Converts a JSON value to a property name, as JavaScript does.
pub(super) fn property_name(raw: &str, depth: usize) -> Cow<'_, str> {
    /// Maximum nesting of arrays. A deeper one is not a legitimate action.
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

/// Bytes of a string as JSON text, without quotes and unnecessary escapes.
fn escaped_length(value: &str) -> usize {
    let escapes = value.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 1,
        0..b' ' => 5,
        _ => 0,
    });
    value.len() + escapes.sum::<usize>()
}

/// Maximum bytes of the JSON text, with quotes, of a string of `max_length` bytes: each escaped as `\u0041`.
fn longest_text(max_length: usize) -> usize {
    max_length.saturating_mul(6).saturating_add(2)
}

/// Decodes the id of a `register`: a string, or a number that is converted to one (rule 4). Its length is
/// measured as JSON text, as it appears in the `from` of each message.
pub(crate) fn decode_id(raw: &str, max_length: usize) -> Result<Cow<'_, str>, ActionError> {
    let id = match raw.as_bytes().first() {
        Some(b'"' | b'-' | b'0'..=b'9') if raw.len() > longest_text(max_length) => {
            return Err(ActionError::IdTooLong(raw.len(), max_length));
        }
        Some(b'"') => match unescaped(raw) {
            Some(id) => Cow::Borrowed(id),
            // A lone surrogate is not Unicode: no other client could write that id in UTF-8.
            None => Cow::Owned(serde_json::from_str(raw).map_err(|_| ActionError::InvalidId)?),
        },
        Some(b'-' | b'0'..=b'9') => Cow::Owned(number(raw)),
        _ => return Err(ActionError::InvalidId),
    };
    match escaped_length(&id) {
        length if length > max_length => Err(ActionError::IdTooLong(length, max_length)),
        _ => Ok(id),
    }
}

/// Decodes the token of a `register`: a string; none for any other value.
pub(crate) fn decode_token(raw: &str) -> Option<Cow<'_, str>> {
    raw.starts_with('"').then(|| string(raw))
}

/// Decodes the receivers of a `send` (rule 6): at most `max_dest`, none longer than an id can be.
pub(crate) fn decode_dest(
    raw: &str,
    max_dest: usize,
    max_id_length: usize,
) -> Result<Dest<'_>, ActionError> {
    let longest = longest_text(max_id_length);
    match raw.as_bytes().first() {
        Some(b'"') if raw.len() > longest => {
            Err(ActionError::DestTooLong(raw.len(), max_id_length))
        }
        Some(b'"') => Ok(Dest::One(string(raw))),
        Some(b'[') => {
            decode_ids(raw, max_dest, longest)
                .map(Dest::Many)
                .map_err(|error| match error {
                    IdsError::TooMany => ActionError::TooManyDest(max_dest),
                    IdsError::TooLong(length) => ActionError::DestTooLong(length, max_id_length),
                })
        }
        Some(b'{') => Ok(Dest::Object(raw)),
        _ => Err(ActionError::InvalidDest),
    }
}

/// A `dest` that is no id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ObjectDest<'a> {
    Topic(Cow<'a, str>),
    /// The names of mailboxes.
    Mailboxes(Vec<Cow<'a, str>>),
}

/// Decodes a `dest` that is an object (rules 34.1 and 45.1): with one member, `topic` or `mailbox`.
pub(crate) fn decode_object(
    raw: &str,
    max_dest: usize,
    max_id_length: usize,
) -> Result<ObjectDest<'_>, ActionError> {
    let (mut topic, mut mailbox) = (None, None);
    let mut count = 0;
    let is_plain = json_scan::members(raw, |name, value| {
        count += 1;
        match name {
            r#""topic""# => topic = Some(value),
            r#""mailbox""# => mailbox = Some(value),
            _ => {}
        }
    });
    match (topic, mailbox) {
        (Some(topic), _) if is_plain && count == 1 => strict_string(topic)
            .filter(|text| topic::is_topic(text))
            .map(ObjectDest::Topic)
            .ok_or(ActionError::InvalidTopic),
        (_, Some(mailbox)) if is_plain && count == 1 => {
            decode_mailboxes(mailbox, max_dest, max_id_length).map(ObjectDest::Mailboxes)
        }
        _ => Err(ActionError::InvalidDest),
    }
}

/// Decodes the names of mailboxes: one, or an array of several, each once.
fn decode_mailboxes(
    raw: &str,
    max_dest: usize,
    max_id_length: usize,
) -> Result<Vec<Cow<'_, str>>, ActionError> {
    let mut names = match decode_dest(raw, max_dest, max_id_length)? {
        Dest::One(_) => vec![strict_string(raw).ok_or(ActionError::InvalidDest)?],
        Dest::Many(names) => names,
        Dest::Object(_) => return Err(ActionError::InvalidDest),
    };
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let is_valid = |name: &Cow<'_, str>| !name.is_empty() && escaped_length(name) <= max_id_length;
    match !names.is_empty() && names.iter().all(is_valid) {
        true => Ok(names),
        false => Err(ActionError::InvalidDest),
    }
}

/// Decodes the name of a mailbox.
pub(super) fn decode_mailbox(raw: &str, max_id_length: usize) -> Option<Cow<'_, str>> {
    let name = strict_string(raw).filter(|_| raw.len() <= longest_text(max_id_length))?;
    (!name.is_empty() && escaped_length(&name) <= max_id_length).then_some(name)
}

/// The reason why an array of ids is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IdsError {
    TooMany,
    /// Bytes of the JSON text of an item.
    TooLong(usize),
}

/// Decodes an array of ids, which is valid JSON. An item whose text is longer than `longest` is not decoded.
pub(super) fn decode_ids(
    raw: &str,
    max_dest: usize,
    longest: usize,
) -> Result<Vec<Cow<'_, str>>, IdsError> {
    let mut ids = Ids::new(max_dest, longest);
    match json_scan::items(raw, |item| ids.push(item)) || ids.error.is_some() {
        true => ids.finish(),
        false => decode_any_ids(raw, max_dest, longest),
    }
}

/// Decodes an array of ids with `serde_json` alone.
pub(super) fn decode_any_ids(
    raw: &str,
    max_dest: usize,
    longest: usize,
) -> Result<Vec<Cow<'_, str>>, IdsError> {
    let mut ids = Ids::new(max_dest, longest);
    // All errors are those of the visitor, which `finish` returns.
    let _ = serde_json::Deserializer::from_str(raw).deserialize_seq(IdsVisitor(&mut ids));
    ids.finish()
}

/// Limit in bytes of all items that are arrays. Each is converted to a text as in JavaScript, which takes long and may
/// be five times longer than the array.
const MAX_ARRAYS: usize = 64 << 10;

/// The ids decoded so far.
struct Ids<'a> {
    ids: Vec<Cow<'a, str>>,
    max_dest: usize,
    longest: usize,
    /// Bytes of the items that are arrays.
    arrays: usize,
    error: Option<IdsError>,
}

impl<'a> Ids<'a> {
    fn new(max_dest: usize, longest: usize) -> Self {
        Self {
            ids: Vec::new(),
            max_dest,
            longest,
            arrays: 0,
            error: None,
        }
    }

    fn finish(self) -> Result<Vec<Cow<'a, str>>, IdsError> {
        match self.error {
            None => Ok(self.ids),
            Some(error) => Err(error),
        }
    }

    /// Adds an id; false if there are too many, or it is too long.
    fn push(&mut self, raw: &'a str) -> bool {
        if self.ids.len() == self.max_dest {
            self.error = Some(IdsError::TooMany);
        } else if raw.len() > self.longest {
            self.error = Some(IdsError::TooLong(raw.len()));
        } else if raw.starts_with('"') {
            self.ids.push(string(raw));
        } else {
            self.push_other(raw);
        }
        self.error.is_none()
    }

    /// Adds an id that is not a string.
    #[cold]
    fn push_other(&mut self, raw: &'a str) {
        if raw.starts_with('[') {
            self.arrays += raw.len();
        }
        match self.arrays > MAX_ARRAYS {
            true => self.error = Some(IdsError::TooLong(raw.len())),
            false => self.ids.push(property_name(raw, 0)),
        }
    }
}

/// Collects the items of an array read by `serde_json`.
struct IdsVisitor<'i, 'a>(&'i mut Ids<'a>);

impl<'de> Visitor<'de> for IdsVisitor<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of ids")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(raw) = seq.next_element::<&'de RawValue>()? {
            if !self.0.push(raw.get()) {
                return Err(serde::de::Error::custom("too many or too long"));
            }
        }
        Ok(())
    }
}

/// The key under which a request is stored (rule 7.3).
pub(crate) fn ack_key(raw: &str) -> Cow<'_, str> {
    property_name(raw, 0)
}

/// Bytes of a key as JSON text, without quotes. The key of an array may be five times longer than its text.
#[inline]
#[allow(clippy::ptr_arg)]
pub(crate) fn key_length(key: &Cow<'_, str>) -> usize {
    match key {
        // Nothing in it is escaped.
        Cow::Borrowed(key) => key.len(),
        Cow::Owned(key) => escaped_length(key),
    }
}

/// The longest prefix of a text with at most `most` bytes.
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

/// The version that a `protocol` member requests or confirms (rule 23).
pub(super) fn decode_protocol(raw: Option<&str>) -> u8 {
    let is_2 = |raw: &str| raw.parse::<f64>().is_ok_and(|number| number >= 2.0);
    1 + u8::from(raw.is_some_and(is_2))
}

/// Bytes of a value's text as received, without the quotes of a string.
pub(crate) fn text_length(raw: &str) -> usize {
    raw.len() - if raw.starts_with('"') { 2 } else { 0 }
}

/// True for a value of at most `max_length` bytes: of a string without quotes and escapes, of any other value
/// as text.
pub(super) fn fits(raw: &str, max_length: usize) -> bool {
    match raw.starts_with('"') {
        true => raw.len() <= longest_text(max_length) && string(raw).len() <= max_length,
        false => raw.len() <= max_length,
    }
}

/// The text between the quotes of a JSON string without escapes.
fn unescaped(raw: &str) -> Option<&str> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.as_bytes().contains(&b'\\')).then_some(inner)
}

/// The value of a member; none if it is `null`.
pub(super) fn there(raw: Option<&str>) -> Option<&str> {
    raw.filter(|raw| *raw != "null")
}

/// The value of a JSON string; none if it has lone surrogates, and for any other value.
pub(super) fn strict_string(raw: &str) -> Option<Cow<'_, str>> {
    match unescaped(raw) {
        Some(inner) => Some(Cow::Borrowed(inner)),
        None => serde_json::from_str(raw).ok().map(Cow::Owned),
    }
}

/// The value of a JSON string, with lone surrogates replaced; the text of any other value.
pub(super) fn string(raw: &str) -> Cow<'_, str> {
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

/// A JSON number as JavaScript writes it, for numbers used as names.
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

/// Encodes a string as JSON text.
pub(crate) fn json_string(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

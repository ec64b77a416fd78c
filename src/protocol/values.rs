//! JSON values as text: what JavaScript makes of them as names, ids and tokens. The rules cited are
//! those of `spec/protocol.md`.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::plain;
use crate::error::ActionError;

/// The receivers of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Dest<'a> {
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
}

/// What JavaScript makes of a value that names a property.
pub(super) fn property_name(raw: &str, depth: usize) -> Cow<'_, str> {
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
pub(super) fn decode_ids(raw: &str, max_dest: usize) -> Option<Vec<Cow<'_, str>>> {
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
pub(super) struct IdsVisitor {
    pub(super) max_dest: usize,
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

/// The version that a `protocol` member asks for, or confirms (rule 23).
pub(super) fn decode_protocol(raw: Option<&str>) -> u8 {
    let is_2 = |raw: &str| raw.parse::<f64>().is_ok_and(|number| number >= 2.0);
    1 + u8::from(raw.is_some_and(is_2))
}

/// True for a value of at most so many bytes: those of a string without quotes and escapes, of
/// anything else its text.
pub(super) fn fits(raw: &str, max_length: usize) -> bool {
    match raw.starts_with('"') {
        true => string(raw).len() <= max_length,
        false => raw.len() <= max_length,
    }
}

/// The text between the quotes of a JSON string that has no escapes.
fn unescaped(raw: &str) -> Option<&str> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.as_bytes().contains(&b'\\')).then_some(inner)
}

/// The value of a JSON string, lone surrogates replaced; other values as their text.
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

//! The members of a frame as JSON text.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    json_scan,
    values::{property_name, shorten},
};
use crate::error::ActionError;

/// Bytes of an action's text that is converted to a name; a longer one is truncated.
const LONGEST_NAME: usize = 1024;

/// Length of the longest of the members below.
const LONGEST_MEMBER: usize = "delivered".len();

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
            _ => {
                let mut buffer = [0; LONGEST_MEMBER + 2];
                return self.slot(unescape_name(name, &mut buffer)?);
            }
        })
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

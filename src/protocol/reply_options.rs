//! The reply options of a `send` in version 2: a receipt, the number of answers, and a timeout. The cited
//! rules are those of `spec/protocol.md`.

use std::{borrow::Cow, time::Duration};

use super::values::{fits, strict_string, string, there};
use crate::error::ActionError;

/// The members of a `send` that hold its reply options, as JSON text.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawReplyOptions<'a> {
    pub(crate) reference: Option<&'a str>,
    pub(crate) answers: Option<&'a str>,
    pub(crate) timeout: Option<&'a str>,
    pub(crate) attempt: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
}

/// The decoded reply options.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReplyOptions<'a> {
    /// The `ref` that the receipt repeats, as JSON text; none if no receipt is requested.
    pub(crate) reference: Option<&'a str>,
    /// Number of answers that end the request; `u32::MAX` for all.
    pub(crate) answers: u32,
    pub(crate) timeout: Option<Duration>,
    /// Number of the attempt, as JSON text; see [`attempt`].
    pub(crate) attempt: Option<&'a str>,
    /// The idempotency key.
    pub(crate) key: Option<Cow<'a, str>>,
}

impl Default for ReplyOptions<'_> {
    fn default() -> Self {
        Self {
            reference: None,
            answers: 1,
            timeout: None,
            attempt: None,
            key: None,
        }
    }
}

impl<'a> RawReplyOptions<'a> {
    /// Boxes the options; none if all are absent.
    pub(super) fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    /// Decodes the options (rules 24.1, 26.1 and 26.2). `null` counts as an absent member.
    pub(crate) fn check(&self, max_length: usize) -> Result<ReplyOptions<'a>, ActionError> {
        let error = "\"send\" message (msg.ref must be a number or a string within maxIdLength)";
        let mut options = ReplyOptions {
            reference: reference(self.reference, max_length, error)?,
            attempt: self.attempt,
            ..ReplyOptions::default()
        };
        if let Some(raw) = there(self.answers) {
            options.answers = answers(raw).ok_or(ActionError::InvalidMember(
                "\"send\" message (msg.answers must be a positive whole number or \"all\")",
            ))?;
        }
        if let Some(raw) = there(self.timeout) {
            options.timeout = Some(timeout(raw).ok_or(ActionError::InvalidMember(
                "\"send\" message (msg.timeout must be a positive number)",
            ))?);
        }
        if let Some(raw) = there(self.key) {
            options.key = Some(key(raw).ok_or(ActionError::InvalidMember(
                "\"send\" message (msg.key must be a string of 1 to 128 bytes)",
            ))?);
        }
        Ok(options)
    }
}

/// Maximum bytes of an idempotency key.
const LONGEST_KEY: usize = 128;

fn key(raw: &str) -> Option<Cow<'_, str>> {
    let key = strict_string(raw).filter(|_| fits(raw, LONGEST_KEY))?;
    (1..=LONGEST_KEY).contains(&key.len()).then_some(key)
}

/// Checks a `ref`: a number, or a string of at most `max_length` bytes.
///
/// Errors: `InvalidMember` with this text.
pub(super) fn reference<'a>(
    raw: Option<&'a str>,
    max_length: usize,
    error: &'static str,
) -> Result<Option<&'a str>, ActionError> {
    let raw = there(raw);
    let is_valid =
        |raw: &str| matches!(raw.as_bytes()[0], b'"' | b'-' | b'0'..=b'9') && fits(raw, max_length);
    match raw.is_none_or(is_valid) {
        true => Ok(raw),
        false => Err(ActionError::InvalidMember(error)),
    }
}

/// Bytes of the JSON text of a word, each of its letters escaped.
const LONGEST_WORD: usize = 32;

fn answers(raw: &str) -> Option<u32> {
    if raw.starts_with('"') {
        return (fits(raw, LONGEST_WORD) && string(raw) == "all").then_some(u32::MAX);
    }
    let number: f64 = raw.parse().ok()?;
    // Saturates at more receivers than a message can have.
    (number >= 1.0 && (number.fract() == 0.0 || number.is_infinite())).then_some(number as u32)
}

/// The number of the attempt of a request, from 1 (rule 38.9). Anything but a whole number from 2 is the first attempt.
pub(crate) fn attempt(raw: Option<&str>) -> u32 {
    let number = raw.and_then(|raw| raw.parse::<f64>().ok());
    let number = number.filter(|number| *number >= 2.0 && number.fract() == 0.0);
    // Saturates.
    number.map_or(1, |number| number as u32)
}

fn timeout(raw: &str) -> Option<Duration> {
    let millis: f64 = raw.parse().ok()?;
    let is_positive = millis > 0.0;
    // A timeout beyond the range of `Duration` is the longest possible one.
    is_positive.then(|| Duration::try_from_secs_f64(millis / 1000.0).unwrap_or(Duration::MAX))
}

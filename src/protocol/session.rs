//! The member `session` of `register` and `registered`, and the action `received` (rule 40).

use std::borrow::Cow;

use serde::Deserialize;

use super::{Pieces, json_string};
use crate::error::ActionError;

/// Maximum bytes of the member `session` of a `register`.
const MAX_LENGTH: usize = 1024;

/// The session that a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct SessionRequest<'a> {
    /// Milliseconds that the session is to outlive a lost socket.
    pub(crate) timeout: u64,
    /// The token of the session that continues; none for a new one.
    #[serde(borrow, default)]
    pub(crate) token: Option<Cow<'a, str>>,
    /// Number of actions that the client has received in that session.
    #[serde(default)]
    pub(crate) count: u64,
}

/// Decodes the member `session` of a `register`.
///
/// Errors: `InvalidMember`.
pub(crate) fn decode_session(raw: &str) -> Result<SessionRequest<'_>, ActionError> {
    let decoded = (raw.len() <= MAX_LENGTH).then(|| serde_json::from_str(raw).ok());
    decoded.flatten().ok_or(ActionError::InvalidMember(
        "\"register\" message (msg.session needs a timeout in milliseconds)",
    ))
}

/// Decodes the member `count` of `received`.
///
/// Errors: `InvalidMember`.
pub(crate) fn decode_count(raw: Option<&str>) -> Result<u64, ActionError> {
    let count = raw.and_then(|raw| raw.parse().ok());
    count.ok_or(ActionError::InvalidMember(
        "\"received\" message (msg.count is not a count)",
    ))
}

/// Encodes the member `session` of `register`. `since`: the token of the session that continues, and the number of
/// actions received in it.
pub(crate) fn ask_session(timeout: u128, since: Option<(&str, u64)>) -> String {
    let since = since.map(|(token, count)| {
        let token = json_string(token);
        format!(",\"token\":{token},\"count\":{count}")
    });
    let since = since.unwrap_or_default();
    format!(",\"session\":{{\"timeout\":{timeout}{since}}}")
}

/// Encodes the member `session` of `registered`. `count`: number of actions received, if the session continues.
pub(crate) fn session(token: &str, timeout: u128, count: Option<u64>) -> String {
    let resumed = count.map(|count| format!(",\"resumed\":true,\"count\":{count}"));
    let resumed = resumed.unwrap_or_default();
    format!(",\"session\":{{\"token\":\"{token}\",\"timeout\":{timeout}{resumed}}}")
}

/// Encodes `registered` of version 2, with the id as JSON. `session`: of [`session`].
pub(crate) fn registered_in<'a>(id: &'a str, session: &'a str) -> Pieces<'a> {
    let action = "{\"action\":\"registered\",\"id\":";
    [action, id, session, ",\"protocol\":2}", "", "", ""]
}

/// Encodes `received`.
pub(crate) fn received(count: &str) -> Pieces<'_> {
    let action = "{\"action\":\"received\",\"count\":";
    [action, count, "}", "", "", "", ""]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_needs_a_timeout() {
        let request = decode_session(r#"{"timeout":30000,"token":"a","count":7,"x":[]}"#);
        let expected = SessionRequest {
            timeout: 30_000,
            token: Some("a".into()),
            count: 7,
        };
        assert_eq!(request, Ok(expected));
        let long = format!(r#"{{"timeout":1,"token":"{}"}}"#, "x".repeat(MAX_LENGTH));
        for raw in [
            "null",
            "1",
            "{}",
            r#"{"timeout":-1}"#,
            r#"{"timeout":1.5}"#,
            &long,
        ] {
            assert!(decode_session(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn a_count_is_a_whole_number() {
        assert_eq!(decode_count(Some("12")), Ok(12));
        for raw in [
            None,
            Some("-1"),
            Some("1.5"),
            Some("\"1\""),
            Some("99999999999999999999"),
        ] {
            assert!(decode_count(raw).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn registered_repeats_the_session() {
        let session = session("t", 5, Some(3));
        let frame = registered_in("\"a\"", &session).concat();
        let expected = r#"{"action":"registered","id":"a","session":{"token":"t","timeout":5,"resumed":true,"count":3},"protocol":2}"#;
        assert_eq!(frame, expected);
    }
}

//! Decodes the actions of clients and servers. The cited rules are those of `spec/protocol.md`.
//!
//! Version 1, this crate and most other clients write the members of a frame in the same order, without
//! whitespace between them. Such a frame is decoded here in one pass; any other by `members`.

use super::{
    ClientAction, RawReplyOptions, ServerAction,
    json_scan::Cursor,
    members::{self, Members},
    values::{decode_protocol, fits, is_truthy},
};
use crate::error::ActionError;

/// Bytes of the longest ack, as JSON text, that a client accepts: the default of `maxIdLength`, each byte
/// escaped.
pub(crate) const LONGEST_ACK: usize = 48 << 10;

/// The id of the sender of a message, as JSON; none for another action, or if it has none.
pub(crate) fn sender_of(text: &str) -> Option<&str> {
    match decode_server_action(text, 2) {
        Ok(ServerAction::Message { from, .. }) => from,
        _ => None,
    }
}

/// Decodes an action of a client (rules 4 to 9, and 23 to 28).
pub(crate) fn decode_client_action(text: &str) -> Result<ClientAction<'_>, ActionError> {
    match client_in_order(text) {
        Some(action) => Ok(action),
        None => client_in_any_order(text),
    }
}

/// Not inlined, so that the path of frames in the usual order is short.
#[inline(never)]
fn client_in_any_order(text: &str) -> Result<ClientAction<'_>, ActionError> {
    members::client_action(&Members::parse(text)?)
}

/// The `ref` and the `ack` that an `error` repeats from the refused frame, without those longer than
/// `max_length` (rule 29).
pub(crate) fn echo(text: &str, max_length: usize) -> [Option<&str>; 2] {
    let Ok(members) = Members::parse(text) else {
        return [None; 2];
    };
    [members.reference, members.ack].map(|raw| raw.filter(|raw| fits(raw, max_length)))
}

/// True for a `register` that requests version 2, valid or not.
pub(crate) fn asks_for_2(text: &str) -> bool {
    Members::parse(text).is_ok_and(|members| {
        members.action().as_deref() == Some("register") && decode_protocol(members.protocol) > 1
    })
}

/// Decodes an action of a server to a client of this version (rules 10 to 13, and 23 to 31).
pub(crate) fn decode_server_action(
    text: &str,
    version: u8,
) -> Result<ServerAction<'_>, ActionError> {
    let action = match server_in_order(text, version) {
        Some(action) => action,
        None => members::server_action(Members::parse(text), version)?,
    };
    check_ack(&action)?;
    Ok(action)
}

/// Refuses an ack that is too long: a client stores acks until it answers.
fn check_ack(action: &ServerAction<'_>) -> Result<(), ActionError> {
    let (ack, what) = match *action {
        ServerAction::Message { ack, .. } => (ack, "\"message\" message (msg.ack is too long)"),
        ServerAction::Answer { ack, .. } => (ack, "\"answer\" message (msg.ack is too long)"),
        ServerAction::Error { ack, .. } => (ack, "\"error\" message (msg.ack is too long)"),
        ServerAction::Failed { ack, .. } => (Some(ack), "\"failed\" message (msg.ack is too long)"),
        ServerAction::Cancel { ack } => (Some(ack), "\"cancel\" message (msg.ack is too long)"),
        _ => return Ok(()),
    };
    match ack {
        Some(ack) if ack.len() > LONGEST_ACK => Err(ActionError::InvalidMember(what)),
        _ => Ok(()),
    }
}

/// Decodes an action of a client whose members are in the usual order; none if it is written differently.
pub(super) fn client_in_order(text: &str) -> Option<ClientAction<'_>> {
    let mut at = Cursor::new(text);
    if at.skip(r#"{"action":"send","message":"#) {
        let message = at.value()?;
        let dest = at.skip(r#","dest":"#).then(|| at.value())??;
        let ack = member(&mut at, r#","ack":"#)?;
        let reply = match at.ends("}") {
            true => None,
            false => Some(reply(&mut at)?),
        };
        return Some(ClientAction::Send {
            message,
            dest,
            ack,
            reply,
        });
    }
    if at.skip(r#"{"action":"answer","ack":"#) {
        let ack = at.value()?;
        let message = member(&mut at, r#","message":"#)?;
        member(&mut at, r#","from":"#)?;
        let mut error = None;
        if !at.ends("}") {
            error = member(&mut at, r#","error":"#)?.filter(|error| is_truthy(error));
            member(&mut at, r#","from":"#)?;
        }
        return (at.ends("}") && is_truthy(ack)).then_some(ClientAction::Answer {
            ack,
            message,
            error,
        });
    }
    if at.skip(r#"{"action":"register","id":"#) {
        let id = at.value()?;
        let token = member(&mut at, r#","token":"#)?;
        let protocol = decode_protocol(member(&mut at, r#","protocol":"#)?);
        return (at.ends("}") && is_truthy(id)).then_some(ClientAction::Register {
            id,
            token,
            protocol,
            // Decoded by `members`.
            session: None,
        });
    }
    if at.skip(r#"{"action":"cancel","ack":"#) {
        let ack = Some(at.value()?);
        return at.ends("}").then_some(ClientAction::Cancel { ack });
    }
    None
}

/// Decodes the options of a `send` of version 2. Not inlined, so that the path of all other frames is short.
#[inline(never)]
fn reply<'a>(at: &mut Cursor<'a>) -> Option<Box<RawReplyOptions<'a>>> {
    let reply = RawReplyOptions {
        reference: member(at, r#","ref":"#)?,
        answers: member(at, r#","answers":"#)?,
        timeout: member(at, r#","timeout":"#)?,
        // Rare: decoded by `members`.
        attempt: None,
        key: None,
    };
    at.ends("}").then(|| Box::new(reply))
}

/// Decodes an action of a server whose members are in the usual order; none if it is written differently.
fn server_in_order(text: &str, version: u8) -> Option<ServerAction<'_>> {
    let mut at = Cursor::new(text);
    if at.skip(r#"{"action":"message","message":"#) {
        let message = Some(at.value()?);
        let ack = member(&mut at, r#","ack":"#)?.filter(|ack| is_truthy(ack));
        let from = member(&mut at, r#","from":"#)?;
        let (mut topic, mut group, mut offset) = (None, None, None);
        if version > 1 {
            topic = member(&mut at, r#","topic":"#)?;
            group = member(&mut at, r#","group":"#)?;
            offset = member(&mut at, r#","offset":"#)?;
            member(&mut at, r#","prev":"#)?;
        }
        return at.ends("}").then_some(ServerAction::Message {
            message,
            ack,
            from,
            topic,
            group,
            // Rare: decoded by `members`.
            attempt: None,
            offset,
            mailbox: None,
            key: None,
        });
    }
    if at.skip(r#"{"action":"answer","ack":"#) {
        let ack = Some(at.value()?);
        let from = member(&mut at, r#","from":"#)?;
        let message = member(&mut at, r#","message":"#)?;
        let error = member(&mut at, r#","error":"#)?;
        return at.ends("}").then_some(ServerAction::Answer {
            ack,
            from,
            message,
            error: error.filter(|error| version > 1 && is_truthy(error)),
        });
    }
    if version == 1 {
        return None;
    }
    if at.skip(r#"{"action":"receipt","ref":"#) {
        let reference = at.value()?;
        let delivered = at.skip(r#","delivered":"#).then(|| at.value())??;
        let failed = at.skip(r#","failed":"#).then(|| at.value())??;
        return at.ends("}").then_some(ServerAction::Receipt {
            reference,
            delivered,
            failed,
        });
    }
    if at.skip(r#"{"action":"failed","ack":"#) {
        let ack = at.value()?;
        let dest = at.skip(r#","dest":"#).then(|| at.value())??;
        let code = at.skip(r#","code":"#).then(|| at.value())??;
        return at
            .ends("}")
            .then_some(ServerAction::Failed { ack, dest, code });
    }
    if at.skip(r#"{"action":"cancel","ack":"#) {
        let ack = at.value()?;
        return at.ends("}").then_some(ServerAction::Cancel { ack });
    }
    None
}

/// The value of an optional member.
#[allow(clippy::option_option)]
fn member<'a>(at: &mut Cursor<'a>, name: &str) -> Option<Option<&'a str>> {
    match at.skip(name) {
        true => at.value().map(Some),
        false => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_version_1_are_in_the_usual_order() {
        for text in [
            r#"{"action":"send","message":{"a":[1]},"dest":"x"}"#,
            r#"{"action":"send","message":null,"dest":["x","y"],"ack":"k"}"#,
            r#"{"action":"answer","ack":"k"}"#,
            r#"{"action":"answer","ack":"k","message":1,"from":"x"}"#,
            r#"{"action":"register","id":"x","token":"t"}"#,
        ] {
            assert!(client_in_order(text).is_some(), "{text}");
        }
        for text in [
            r#"{"action":"message","message":1}"#,
            r#"{"action":"message","message":1,"ack":"k","from":"x"}"#,
            r#"{"action":"answer","ack":"k","from":"x","message":1}"#,
        ] {
            assert!(server_in_order(text, 1).is_some(), "{text}");
        }
    }

    #[test]
    fn frames_of_version_2_are_in_the_usual_order() {
        for text in [
            r#"{"action":"register","id":"x","token":"t","protocol":2}"#,
            r#"{"action":"send","message":1,"dest":"x","ack":"k","ref":7,"answers":"all","timeout":50}"#,
            r#"{"action":"send","message":1,"dest":"x","ref":"r"}"#,
            r#"{"action":"answer","ack":"k","error":{"code":"c"},"from":"x"}"#,
            r#"{"action":"cancel","ack":"k"}"#,
        ] {
            assert!(client_in_order(text).is_some(), "{text}");
        }
        for text in [
            r#"{"action":"receipt","ref":7,"delivered":["x"],"failed":{}}"#,
            r#"{"action":"failed","ack":"k","dest":"x","code":"GONE"}"#,
            r#"{"action":"cancel","ack":"k"}"#,
        ] {
            assert!(server_in_order(text, 2).is_some(), "{text}");
            assert!(server_in_order(text, 1).is_none(), "{text}");
        }
    }

    #[test]
    fn incomplete_or_unusual_frames_are_not_in_the_usual_order() {
        for text in [
            r#"{"action":"send","message":1,"dest":"x","ack":"k","ref":7,"timeout":50}"#,
            r#"{"action":"register","id":"x","token":"t","protocol":2}"#,
        ] {
            for end in 0..text.len() {
                assert!(client_in_order(&text[..end]).is_none(), "{end}");
            }
        }
        for text in [
            r#"{"action":"send","message":1,"dest":"x"} "#,
            r#"{"action":"send","message":1,"dest":"x","message":2}"#,
            r#"{"action":"send","message":1,"ack":"k","dest":"x"}"#,
            r#"{"action":"send","message": 1,"dest":"x"}"#,
            r#"{"action":"send","message":01,"dest":"x"}"#,
            r#"{"action":"answer","ack":0}"#,
        ] {
            assert!(client_in_order(text).is_none(), "{text}");
        }
    }
}

//! Decodes the actions of clients and servers. The cited rules are those of `spec/protocol.md`.

use std::borrow::Cow;

use super::{
    ClientAction, RawReplyOptions, ServerAction, fast_path,
    members::Members,
    values::{decode_protocol, fits, is_truthy},
};
use crate::error::ActionError;

/// Bytes of the longest ack, as JSON text, that a client accepts: the default of `maxIdLength`, each byte
/// escaped.
pub(crate) const LONGEST_ACK: usize = 48 << 10;

fn unknown_action(action: Option<Cow<'_, str>>) -> ActionError {
    let name = action.as_deref().unwrap_or("undefined");
    ActionError::UnknownAction(name.to_owned())
}

/// The id of the sender of a message, as JSON; none for another action, or if it has none.
pub(crate) fn sender_of(text: &str) -> Option<&str> {
    match decode_server_action(text, 2) {
        Ok(ServerAction::Message { from, .. }) => from,
        _ => None,
    }
}

/// Decodes an action of a client (rules 4 to 9, and 23 to 28).
pub(crate) fn decode_client_action(text: &str) -> Result<ClientAction<'_>, ActionError> {
    match fast_path::client_action(text) {
        Some(action) => Ok(action),
        None => client_action(&Members::parse(text)?),
    }
}

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
            }),
            _ => Err(ActionError::NoId),
        },
        Some("unregister") => Ok(ClientAction::Unregister),
        Some("cancel") => Ok(ClientAction::Cancel { ack: members.ack }),
        _ => Err(unknown_action(action)),
    }
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
    let action = match fast_path::server_action(text, version) {
        Some(action) => action,
        None => server_action(Members::parse(text), version)?,
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
        }),
        Some("answer") => Ok(ServerAction::Answer {
            ack,
            from,
            message,
            error: error.filter(|error| version > 1 && is_truthy(error)),
        }),
        Some("registered") => Ok(ServerAction::Registered {
            protocol: decode_protocol(members.protocol).min(version),
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
        _ => return None,
    };
    Some(action.ok_or(ActionError::InvalidMember(what)))
}

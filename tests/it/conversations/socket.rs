//! Steps of a conversation on a WebSocket, for both sides.

use std::borrow::Cow;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{
    self, Message,
    protocol::{
        CloseFrame,
        frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

use super::{Outcome, script::Members};
use crate::support::PATIENCE;

/// One end of a WebSocket, client or played server.
pub(crate) trait Socket:
    Stream<Item = tungstenite::Result<Message>> + Sink<Message, Error = tungstenite::Error> + Unpin
{
}

impl<S> Socket for S where
    S: Stream<Item = tungstenite::Result<Message>>
        + Sink<Message, Error = tungstenite::Error>
        + Unpin
{
}

pub(crate) async fn next(socket: &mut impl Socket) -> Option<Message> {
    let next = timeout(PATIENCE, socket.next()).await.ok()?;
    next.and_then(Result::ok)
}

/// Carries out a step that says something; false if this step does not.
pub(crate) async fn say(socket: &mut impl Socket, step: &Members) -> Outcome<bool> {
    let text = |error: tungstenite::Error| error.to_string();
    let message = if let Some(frame) = step.frame("send") {
        Message::text(frame)
    } else if let Some(bytes) = step.bytes("sendBinary") {
        Message::binary(bytes)
    } else if let Some(payload) = step.text("ping") {
        ping(socket, payload).await?;
        return Ok(true);
    } else if step.has("fragments") {
        let fragments = step.texts("fragments");
        for (number, fragment) in fragments.iter().enumerate() {
            let opcode = match number {
                0 => OpCode::Data(Data::Text),
                _ => OpCode::Data(Data::Continue),
            };
            let is_last = number + 1 == fragments.len();
            let frame = Frame::message(fragment.clone(), opcode, is_last);
            socket.send(Message::Frame(frame)).await.map_err(text)?;
            if !is_last {
                ping(socket, format!("between {number}")).await?;
            }
        }
        return Ok(true);
    } else if step.has("close") {
        Message::Close(step.number("close").map(|code| CloseFrame {
            code: (code as u16).into(),
            reason: step.text("reason").unwrap_or_default().into(),
        }))
    } else {
        return Ok(false);
    };
    socket.send(message).await.map_err(text)?;
    Ok(true)
}

async fn ping(socket: &mut impl Socket, payload: String) -> Outcome {
    let sent = socket.send(Message::Ping(payload.clone().into())).await;
    sent.map_err(|error| error.to_string())?;
    match next(socket).await {
        Some(Message::Pong(found)) if found == payload.as_bytes() => Ok(()),
        other => Err(format!("{other:?} instead of a pong")),
    }
}

pub(crate) async fn expect_text(socket: &mut impl Socket, expected: &str) -> Outcome {
    match next(socket).await {
        Some(Message::Text(found)) if with_any_epoch(&found) == expected => Ok(()),
        Some(Message::Text(found)) => Err(format!(
            "found    {}\n    expected {}",
            shown(&found),
            shown(expected)
        )),
        other => Err(format!("{other:?} instead of {}", shown(expected))),
    }
}

/// A frame with `EPOCH` for the epoch that it has.
fn with_any_epoch(text: &str) -> Cow<'_, str> {
    const NAME: &str = "\"epoch\":\"";
    let found = text.split_once(NAME);
    let found = found.and_then(|(begin, rest)| Some((begin, rest.split_once('"')?.1)));
    found.map_or(text.into(), |(begin, end)| {
        [begin, NAME, "EPOCH\"", end].concat().into()
    })
}

/// The beginning of a text: some are long.
fn shown(text: &str) -> String {
    text.chars().take(1000).collect()
}

async fn next_text(socket: &mut impl Socket) -> Outcome<String> {
    match next(socket).await {
        Some(Message::Text(found)) => Ok(found.to_string()),
        other => Err(format!("{other:?} instead of a text")),
    }
}

/// These texts are the next, in any order.
pub(crate) async fn expect_all(socket: &mut impl Socket, mut expected: Vec<String>) -> Outcome {
    while !expected.is_empty() {
        let found = next_text(socket).await?;
        let Some(place) = expected.iter().position(|text| *text == found) else {
            return Err(format!(
                "found    {}\n    expected {expected:?}",
                shown(&found)
            ));
        };
        expected.remove(place);
    }
    Ok(())
}

/// An `error` is the next, with the code, `ref` and `ack` of the step, and with any text.
pub(crate) async fn expect_error(socket: &mut impl Socket, step: &Members) -> Outcome {
    let found = next_text(socket).await?;
    let message = Members::read(&found)
        .filter(|members| members.text("message").is_some())
        .and_then(|members| members.raw("message").map(str::to_owned))
        .ok_or_else(|| format!("no message in {}", shown(&found)))?;
    let code = step.raw("expectError").unwrap_or_default();
    let mut expected = format!(r#"{{"action":"error","code":{code},"message":{message}"#);
    for name in ["ref", "ack"] {
        if let Some(value) = step.raw(name) {
            expected.push_str(&format!(r#","{name}":{value}"#));
        }
    }
    expected.push('}');
    match found == expected {
        true => Ok(()),
        false => Err(format!(
            "found    {}\n    expected {expected}",
            shown(&found)
        )),
    }
}

/// A `goaway` is the next, within this time or less.
pub(crate) async fn expect_goaway(socket: &mut impl Socket, most: usize) -> Outcome {
    let found = next_text(socket).await?;
    let within = found
        .strip_prefix(r#"{"action":"goaway","within":"#)
        .and_then(|rest| rest.strip_suffix('}')?.parse().ok());
    match within {
        Some(within) if (1..=most).contains(&within) => Ok(()),
        _ => Err(format!("{} instead of a goaway", shown(&found))),
    }
}

pub(crate) async fn expect_close(socket: &mut impl Socket, step: &Members) -> Outcome {
    let frame = match next(socket).await {
        Some(Message::Close(frame)) => frame,
        other => return Err(format!("{other:?} instead of a close frame")),
    };
    let code = frame
        .as_ref()
        .map(|frame| usize::from(u16::from(frame.code)));
    let reason = frame.map(|frame| frame.reason.to_string());
    if code != step.number("expectClose") {
        return Err(format!("closed with {code:?}"));
    }
    if step.has("reason") && reason != step.text("reason") {
        return Err(format!("closed because of {reason:?}"));
    }
    Ok(())
}

/// Nothing comes but the end.
pub(crate) async fn expect_end(socket: &mut impl Socket) -> Outcome {
    match next(socket).await {
        None => Ok(()),
        other => Err(format!("{other:?} instead of the end")),
    }
}

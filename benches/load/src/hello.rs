//! The exchange between a client and a broker until the client is registered. Pure: bytes in, bytes
//! out.

use std::collections::VecDeque;

use crate::arguments::Target;
use crate::connection::unexpected;
use crate::failure::Result;
use crate::frame;
use crate::protocol::{Protocol, Role, Step};

/// The example key of RFC 6455 with its answer, so that no hash is needed to check the handshake.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) struct Hello {
    id: String,
    protocol: Protocol,
    /// The first step follows the WebSocket handshake.
    steps: VecDeque<Step>,
    upgraded: bool,
    received: Vec<u8>,
}

impl Hello {
    /// Returns the state and the first bytes to write.
    pub(crate) fn new(target: &Target, id: &str, role: Role) -> (Self, Vec<u8>) {
        let protocol = target.protocol;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
            target.path, target.host
        );
        let hello = Hello {
            id: id.to_owned(),
            protocol,
            steps: protocol.greeting(id, role, target.token.as_deref()).into(),
            upgraded: false,
            received: Vec::new(),
        };
        (hello, request.into_bytes())
    }

    pub(crate) fn is_done(&self) -> bool {
        self.steps.is_empty()
    }

    /// The bytes received after the registration.
    pub(crate) fn into_rest(self) -> Vec<u8> {
        self.received
    }

    /// Processes received bytes. Returns the bytes to write in response.
    pub(crate) fn hear(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.received.extend_from_slice(bytes);
        let mut replies = Vec::new();
        while let Some(step) = self.steps.front() {
            let (length, expected) = if self.upgraded {
                match frame::decode(&self.received)? {
                    None => break,
                    Some(frame) => {
                        let expected = is_awaited(self.protocol, &step.awaited, frame.payload);
                        if !expected && !frame.payload.starts_with(b"INFO ") {
                            return Err(unexpected(&self.id, frame.payload));
                        }
                        (frame.length, expected)
                    }
                }
            } else {
                match head(&self.received)? {
                    None => break,
                    Some(length) => (length, true),
                }
            };
            self.upgraded = true;
            self.received.drain(..length);
            if expected
                && let Some(step) = self.steps.pop_front()
                && !step.say.is_empty()
            {
                let opcode = self.protocol.opcode();
                replies.extend(frame::encode(opcode, step.say.as_bytes()).0);
            }
        }
        Ok(replies)
    }
}

/// NATS may put several messages into one frame.
fn is_awaited(protocol: Protocol, awaited: &str, payload: &[u8]) -> bool {
    let awaited = awaited.as_bytes();
    let mut windows = payload.windows(awaited.len());
    if protocol.is_nats() {
        windows.any(|window| window == awaited)
    } else {
        payload.starts_with(awaited)
    }
}

/// The length of the handshake response once it is complete.
fn head(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else {
        return Ok(None);
    };
    let answer = String::from_utf8_lossy(&bytes[..end]);
    if !answer.starts_with("HTTP/1.1 101 ") || !answer.contains(ACCEPT) {
        return Err(format!("handshake refused: {answer}").into());
    }
    Ok(Some(end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(protocol: Protocol) -> Target {
        Target {
            address: ([127, 0, 0, 1], 80).into(),
            host: "localhost".to_owned(),
            path: "/".to_owned(),
            protocol,
            tls: None,
            token: None,
        }
    }

    /// The bytes of a broker: its handshake response, then a frame per text.
    fn said(texts: &[&str]) -> Vec<u8> {
        let head = format!("HTTP/1.1 101 \r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n");
        let frames = texts
            .iter()
            .flat_map(|text| [&[0x81, text.len() as u8], text.as_bytes()].concat());
        head.bytes().chain(frames).collect()
    }

    /// The number of frames that a client has written when all bytes were received in pieces of
    /// `step` bytes.
    fn frames_in_turn(protocol: Protocol, texts: &[&str], step: usize) -> Result<usize> {
        let (mut hello, _) = Hello::new(&target(protocol), "a", Role::Member);
        let mut frames = 0;
        for piece in said(texts).chunks(step) {
            frames += usize::from(!hello.hear(piece)?.is_empty());
        }
        assert!(hello.is_done() && hello.into_rest().is_empty());
        Ok(frames)
    }

    #[test]
    fn every_protocol_handshake_works_for_any_split_of_the_bytes() {
        let registered = [r#"{"action":"registered","id":"a"}"#];
        let nats = ["INFO {}\r\n", "INFO {\"a\":1}\r\nPONG\r\n"];
        let socketio = [r#"0{"sid":"x"}"#, r#"40{"sid":"y"}"#, r#"430["a"]"#];
        for step in 1..20 {
            let frames = |protocol, texts| frames_in_turn(protocol, texts, step).unwrap();
            assert_eq!(frames(Protocol::Wsmb, &registered), 1);
            assert_eq!(frames(Protocol::Nats, &nats), 1);
            assert_eq!(frames(Protocol::SocketIo, &socketio), 2);
        }
    }

    #[test]
    fn another_text_than_the_awaited_one_is_a_failure() {
        let other = [r#"{"action":"registered","id":"b"}"#];
        assert!(frames_in_turn(Protocol::Wsmb, &other, 100).is_err());
        assert!(frames_in_turn(Protocol::Nats, &["-ERR 'no'\r\n"], 100).is_err());
    }
}

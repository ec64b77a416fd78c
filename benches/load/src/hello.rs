//! The words between a client and a broker until the client is registered. Pure: bytes in, bytes out.

use std::collections::VecDeque;

use crate::arguments::Target;
use crate::connection::unexpected;
use crate::failure::Result;
use crate::frame;
use crate::protocol::{Protocol, Role, Step};

/// The example key of RFC 6455 with its answer: no hash is needed to check the handshake.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) struct Hello {
    id: String,
    protocol: Protocol,
    /// The first step is the handshake of WebSocket.
    steps: VecDeque<Step>,
    upgraded: bool,
    received: Vec<u8>,
}

impl Hello {
    /// And the request to write first.
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

    /// What has come beyond the registration.
    pub(crate) fn into_rest(self) -> Vec<u8> {
        self.received
    }

    /// Takes in what was read, and returns what to write in turn.
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

/// The length of the answer to the handshake, once all of it is there.
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

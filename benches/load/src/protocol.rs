//! The texts that clients and brokers exchange, in which the protocols differ.
//!
//! The rest of the load knows a protocol only by these pairs of texts: the sent text, and the text
//! that must arrive for it, byte for byte.

use std::str::FromStr;

use crate::failure::{Failure, Result};
use crate::frame::{BINARY, TEXT};
use crate::message::FIRST;

/// The most that NATS clients write at once within a turn, bytes.
const TOGETHER: usize = 32 * 1024;

/// The name for all receivers of a broadcast, where a protocol has one.
const ALL: &str = "all";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The protocol of wsmsgbroker, in `spec/protocol.md`.
    Wsmb,
    /// The protocol of wsmsgbroker in version 2: broadcasts go to a topic instead of an array of ids.
    WsmbTopic,
    /// NATS over WebSocket, with one frame per write, as its own clients do it.
    Nats,
    /// NATS with one frame per message.
    NatsFramed,
    /// Socket.IO 5 over Engine.IO 4.
    SocketIo,
}

/// The role of a connection, in addition to receiving messages by its id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Member,
    /// Receives answers.
    Asker,
    /// Receives broadcasts.
    Listener,
}

/// A step of the registration: `say` is sent after a text that begins with `awaited` (with NATS:
/// contains it).
pub(crate) struct Step {
    pub(crate) awaited: String,
    pub(crate) say: String,
}

/// A message as one client sends it, and as the other receives it.
pub(crate) struct Message {
    pub(crate) sent: String,
    pub(crate) arrives: String,
}

impl FromStr for Protocol {
    type Err = Failure;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "wsmb" => Protocol::Wsmb,
            "wsmb-topic" => Protocol::WsmbTopic,
            "nats" => Protocol::Nats,
            "nats-framed" => Protocol::NatsFramed,
            "socketio" => Protocol::SocketIo,
            _ => return Err(format!("unknown protocol {name}").into()),
        })
    }
}

impl Protocol {
    pub(crate) fn is_nats(self) -> bool {
        matches!(self, Protocol::Nats | Protocol::NatsFramed)
    }

    /// The opcode of client frames.
    pub(crate) fn opcode(self) -> u8 {
        if self.is_nats() { BINARY } else { TEXT }
    }

    /// How many messages of that length share a frame when `count` are sent at once.
    pub(crate) fn together(self, length: usize, count: usize) -> usize {
        match self {
            Protocol::Nats => TOGETHER.div_ceil(length).min(count).max(1),
            _ => 1,
        }
    }

    /// The steps from the handshake to the registration. The first step follows the handshake.
    pub(crate) fn greeting(self, id: &str, role: Role, token: Option<&str>) -> Vec<Step> {
        let step = |awaited: &str, say: String| Step {
            awaited: awaited.to_owned(),
            say,
        };
        match self {
            Protocol::Wsmb => {
                let token = token.map_or(String::new(), |token| format!(r#","token":"{token}""#));
                vec![
                    step("", format!(r#"{{"action":"register","id":"{id}"{token}}}"#)),
                    step(
                        &format!(r#"{{"action":"registered","id":"{id}"}}"#),
                        String::new(),
                    ),
                ]
            }
            Protocol::WsmbTopic => {
                let registered = format!(r#"{{"action":"registered","id":"{id}","protocol":2}}"#);
                let register = format!(r#"{{"action":"register","id":"{id}","protocol":2}}"#);
                let mut steps = vec![step("", register), step(&registered, String::new())];
                if role == Role::Listener {
                    steps[1].say = format!(r#"{{"action":"subscribe","topic":"{ALL}"}}"#);
                    let subscribed = format!(r#"{{"action":"subscribed","topic":"{ALL}"}}"#);
                    steps.push(step(&subscribed, String::new()));
                }
                steps
            }
            Protocol::Nats | Protocol::NatsFramed => {
                let more = match role {
                    Role::Member => String::new(),
                    Role::Asker => format!("SUB {}.* 2\r\n", inbox(id)),
                    Role::Listener => format!("SUB {ALL} 2\r\n"),
                };
                let options = r#"{"verbose":false,"pedantic":false,"tls_required":false,"lang":"load","version":"0","protocol":1,"headers":true,"no_responders":true}"#;
                vec![
                    step("", String::new()),
                    step(
                        "INFO ",
                        format!("CONNECT {options}\r\nSUB {id} 1\r\n{more}PING\r\n"),
                    ),
                    step("PONG\r\n", String::new()),
                ]
            }
            Protocol::SocketIo => {
                let room = if role == Role::Listener { ALL } else { "" };
                vec![
                    step("", String::new()),
                    step("0{", "40".to_owned()),
                    step("40{", format!(r#"420["register","{id}","{room}"]"#)),
                    step(&format!(r#"430["{id}"]"#), String::new()),
                ]
            }
        }
    }

    pub(crate) fn message(self, value: &str, from: &str, to: &str) -> Message {
        match self {
            Protocol::Wsmb | Protocol::WsmbTopic => Message {
                sent: format!(r#"{{"action":"send","message":{value},"dest":"{to}"}}"#),
                arrives: format!(r#"{{"action":"message","message":{value},"from":"{from}"}}"#),
            },
            Protocol::Nats | Protocol::NatsFramed => published(value, to, 1),
            Protocol::SocketIo => Message {
                sent: format!(r#"42["send","{to}",{value}]"#),
                arrives: format!(r#"42["message",{value},"{from}"]"#),
            },
        }
    }

    /// `to` are all existing listeners.
    pub(crate) fn broadcast(self, value: &str, from: &str, to: &[String]) -> Message {
        let Message { sent, arrives } = self.message(value, from, "");
        match self {
            Protocol::Wsmb => Message {
                sent: sent.replace(r#""dest":"""#, &format!(r#""dest":{to:?}"#)),
                arrives,
            },
            Protocol::WsmbTopic => Message {
                sent: sent.replace(r#""dest":"""#, &format!(r#""dest":{{"topic":"{ALL}"}}"#)),
                arrives: format!(r#"{},"topic":"{ALL}"}}"#, arrives.trim_end_matches('}')),
            },
            Protocol::Nats | Protocol::NatsFramed => published(value, ALL, 2),
            Protocol::SocketIo => Message {
                sent: sent.replace(r#""send","""#, &format!(r#""broadcast","{ALL}""#)),
                arrives,
            },
        }
    }

    /// A request and its answer. The received texts are without the ack, which `split_ack` removes
    /// and which is appended to the answer.
    pub(crate) fn request(
        self,
        value: &str,
        from: &str,
        to: &str,
        pair: usize,
    ) -> (Message, Message) {
        let ack = format!("ask{pair:05}{FIRST}");
        match self {
            Protocol::Wsmb | Protocol::WsmbTopic => (
                Message {
                    sent: format!(
                        r#"{{"action":"send","message":{value},"dest":"{to}","ack":"{ack}"}}"#
                    ),
                    arrives: format!(
                        r#"{{"action":"message","message":{value},"ack":"{ack}","from":"{from}"}}"#
                    ),
                },
                Message {
                    sent: format!(
                        r#"{{"action":"answer","ack":"{ack}","message":{value},"from":"{to}"}}"#
                    ),
                    arrives: format!(
                        r#"{{"action":"answer","ack":"{ack}","from":"{to}","message":{value}}}"#
                    ),
                },
            ),
            Protocol::Nats | Protocol::NatsFramed => {
                let reply = format!("{}.{ack}", inbox(from));
                let length = value.len();
                (
                    Message {
                        sent: format!("PUB {to} {reply} {length}\r\n{value}\r\n"),
                        arrives: format!("MSG {to} 1 {reply} {length}\r\n{value}\r\n"),
                    },
                    published(value, &reply, 2),
                )
            }
            Protocol::SocketIo => (
                Message {
                    sent: format!(r#"42{FIRST}["send","{to}",{value}]"#),
                    arrives: format!(r#"["message",{value},"{from}"]"#),
                },
                Message {
                    sent: format!("[{value}]"),
                    arrives: format!("43{FIRST}[{value}]"),
                },
            ),
        }
    }

    /// Removes the ack from a request, because a broker may assign a new one. Returns the beginning
    /// of its answer and the rest. Acks of Socket.IO belong to one connection, so its broker
    /// replaces them.
    pub(crate) fn split_ack(self, request: &[u8]) -> Result<(Vec<u8>, &[u8])> {
        if self != Protocol::SocketIo {
            return Ok((Vec::new(), request));
        }
        let rest = request.strip_prefix(b"42").ok_or("a request is no event")?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (ack, rest) = rest.split_at(digits);
        Ok(([b"43", ack].concat(), rest))
    }
}

fn inbox(id: &str) -> String {
    format!("_INBOX.{id}")
}

/// A message published under a subject, as received by a subscription with this number.
fn published(value: &str, subject: &str, subscription: u32) -> Message {
    let length = value.len();
    Message {
        sent: format!("PUB {subject} {length}\r\n{value}\r\n"),
        arrives: format!("MSG {subject} {subscription} {length}\r\n{value}\r\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broadcast_names_all_its_receivers() {
        let to = ["a".to_owned(), "b".to_owned()];
        let sent = |protocol: Protocol| protocol.broadcast("{}", "s", &to).sent;
        assert_eq!(
            sent(Protocol::Wsmb),
            r#"{"action":"send","message":{},"dest":["a", "b"]}"#
        );
        assert_eq!(
            sent(Protocol::WsmbTopic),
            r#"{"action":"send","message":{},"dest":{"topic":"all"}}"#
        );
        assert_eq!(
            Protocol::WsmbTopic.broadcast("{}", "s", &to).arrives,
            r#"{"action":"message","message":{},"from":"s","topic":"all"}"#
        );
        assert_eq!(sent(Protocol::Nats), "PUB all 2\r\n{}\r\n");
        assert_eq!(sent(Protocol::SocketIo), r#"42["broadcast","all",{}]"#);
    }

    #[test]
    fn an_answer_begins_with_the_ack_of_the_broker() {
        let (ack, rest) = Protocol::SocketIo
            .split_ack(br#"4217["message",{}]"#)
            .unwrap();
        assert_eq!(ack, b"4317");
        assert_eq!(rest, br#"["message",{}]"#);
        assert!(Protocol::SocketIo.split_ack(b"2").is_err());
    }

    #[test]
    fn only_nats_puts_messages_into_one_frame() {
        assert_eq!(Protocol::Nats.together(100, 16), 16);
        assert_eq!(Protocol::Nats.together(16_400, 16), 2);
        assert_eq!(Protocol::Nats.together(100_000, 16), 1);
        assert_eq!(Protocol::Wsmb.together(100, 16), 1);
    }
}

//! Any bytes as a message of another broker: they are refused, or encoded again as they were.

use crate::cluster::message::{self, Message};

pub fn message(bytes: &[u8]) {
    let Ok(decoded) = Message::decode(bytes) else {
        return;
    };
    assert_eq!(decoded.encode(), bytes, "{decoded:?}");
    let is_question = matches!(decoded, Message::OwnerQuestion { .. });
    assert_eq!(message::is_owner_question(bytes), is_question);
    match decoded {
        Message::Packet {
            is_eager,
            id,
            frames,
            ..
        } => {
            assert_eq!(message::frames_in(bytes, id), Some(frames.0.len()));
            assert_eq!(message::is_eager(bytes), is_eager);
        }
        _ => {
            assert_eq!(message::frames_in(bytes, ""), None);
            assert!(!message::is_eager(bytes));
        }
    }
}

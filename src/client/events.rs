//! Conversion of the server's actions into client events.

use crate::{
    event::ClientEvent,
    protocol::{self, ServerAction},
};

impl<'a> From<ServerAction<'a>> for ClientEvent<'a> {
    fn from(action: ServerAction<'a>) -> Self {
        match action {
            ServerAction::Registered { protocol, session } => {
                Self::Registered { protocol, session }
            }
            ServerAction::Unregistered { id, code } => Self::Unregistered { id, code },
            ServerAction::Message {
                message,
                ack,
                from,
                topic,
                group,
                attempt,
            } => Self::Message {
                message,
                ack,
                from,
                topic,
                group,
                attempt: protocol::attempt(attempt),
            },
            ServerAction::PublishReceipt {
                reference,
                queued,
                dropped,
                elsewhere,
            } => Self::PublishReceipt {
                reference,
                queued,
                dropped,
                elsewhere,
            },
            ServerAction::Subscribed { topic, reference } => Self::Subscribed { topic, reference },
            ServerAction::Unsubscribed {
                topic,
                reference,
                code,
                group,
            } => Self::Unsubscribed {
                topic,
                reference,
                code,
                group,
            },
            ServerAction::Watched(reference) => Self::Watched { reference },
            ServerAction::Unwatched {
                reference,
                topic,
                ids,
                code,
            } => Self::Unwatched {
                reference,
                topic,
                ids,
                code,
            },
            ServerAction::Presence {
                topic,
                count,
                members,
                joined,
                left,
            } => Self::Presence {
                topic,
                count,
                members,
                joined,
                left,
            },
            ServerAction::Online { online, offline } => Self::Online { online, offline },
            ServerAction::Gap { topic, lost } => Self::Gap { topic, lost },
            ServerAction::Answer {
                ack,
                from,
                message,
                error,
            } => Self::Answer {
                ack,
                from,
                message,
                error,
            },
            ServerAction::Receipt {
                reference,
                delivered,
                failed,
            } => Self::Receipt {
                reference,
                delivered,
                failed,
            },
            ServerAction::Failed { ack, dest, code } => Self::Failed { ack, dest, code },
            ServerAction::Error {
                code,
                message,
                reference,
                ack,
            } => Self::ActionFailed {
                code,
                message,
                reference,
                ack,
            },
            ServerAction::Cancel { ack } => Self::Cancel { ack },
            ServerAction::GoAway { within } => Self::GoAway { within },
            ServerAction::Received { count } => Self::Received { count },
        }
    }
}

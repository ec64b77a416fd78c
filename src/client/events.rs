//! Conversion of the server's actions into client events.

use crate::{
    event::{ClientEvent, KeptState},
    protocol::{self, RawKeptState, ServerAction},
};

/// Bytes of the JSON text of a member `stored` that are not exceeded.
const LONGEST_STORED: usize = 32;

/// A whole number; none for anything else.
fn number(raw: &str) -> Option<u64> {
    raw.parse().ok()
}

/// The state of a log; none without a valid offset or epoch.
fn kept_state<'a>(kept: &RawKeptState<'a>) -> Option<KeptState<'a>> {
    Some(KeptState {
        offset: number(kept.offset)?,
        epoch: kept.epoch?,
        recovered: match kept.recovered {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        },
        lost: kept.lost.and_then(number),
        replay: kept.replay.and_then(number),
    })
}

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
                offset,
                mailbox,
                key,
            } => Self::Message {
                message,
                ack,
                from,
                topic,
                group,
                attempt: protocol::attempt(attempt),
                offset: offset.and_then(number),
                mailbox,
                key,
            },
            ServerAction::PublishReceipt {
                reference,
                queued,
                dropped,
                elsewhere,
                offset,
                stored,
                mailboxes,
                failed,
            } => Self::PublishReceipt {
                reference,
                queued,
                dropped,
                elsewhere,
                offset: offset.and_then(number),
                stored: stored.filter(|text| text.len() < LONGEST_STORED),
                mailboxes,
                failed,
            },
            ServerAction::MailboxReceipt {
                reference,
                mailboxes,
                failed,
                duplicates,
            } => Self::MailboxReceipt {
                reference,
                mailboxes,
                failed,
                duplicates,
            },
            ServerAction::MailboxOpened {
                mailbox,
                reference,
                epoch,
                waiting,
            } => Self::MailboxOpened {
                mailbox,
                reference,
                epoch,
                waiting: number(waiting).unwrap_or_default(),
            },
            ServerAction::MailboxClosed {
                mailbox,
                reference,
                code,
            } => Self::MailboxClosed {
                mailbox,
                reference,
                code,
            },
            ServerAction::Subscribed {
                topic,
                reference,
                kept,
            } => Self::Subscribed {
                topic,
                reference,
                kept: kept.and_then(|kept| kept_state(&kept)).map(Box::new),
            },
            ServerAction::History {
                reference,
                messages,
                epoch,
                offset,
                more,
            } => Self::History {
                reference,
                messages,
                epoch,
                offset: offset.and_then(number),
                more: more == Some("true"),
            },
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

//! The members of `subscribe`, `watch` and the other actions about subscriptions. The cited rules are those of `spec/protocol.md`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    reply_options::reference,
    values::{Dest, decode_dest, decode_mailbox, strict_string, there},
};
use crate::{error::ActionError, topic};

/// The actions about subscriptions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubscriptionCommand {
    #[default]
    Subscribe,
    Unsubscribe,
    Acknowledge,
    Watch,
    Unwatch,
    History,
}

/// The members of an action about a subscription, as JSON text.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawSubscription<'a> {
    pub(crate) command: SubscriptionCommand,
    pub(crate) topic: Option<&'a str>,
    pub(crate) reference: Option<&'a str>,
    pub(crate) slow: Option<&'a str>,
    pub(crate) group: Option<&'a str>,
    pub(crate) window: Option<&'a str>,
    pub(crate) count: Option<&'a str>,
    pub(crate) info: Option<&'a str>,
    pub(crate) ids: Option<&'a str>,
    pub(crate) token: Option<&'a str>,
    pub(crate) since: Option<&'a str>,
    pub(crate) last: Option<&'a str>,
    pub(crate) after: Option<&'a str>,
    pub(crate) before: Option<&'a str>,
    pub(crate) limit: Option<&'a str>,
    pub(crate) mailbox: Option<&'a str>,
    pub(crate) offset: Option<&'a str>,
    pub(crate) retry: Option<&'a str>,
}

/// The treatment of a slow subscriber: messages are dropped, or the latest of each topic is kept, or publishers
/// wait. Of two, the later one in this order promises more.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slow {
    #[default]
    Drop,
    Latest,
    Wait,
}

/// A decoded `subscribe` or `unsubscribe`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subscription<'a> {
    pub(crate) pattern: Cow<'a, str>,
    /// The `ref` that the response repeats, as JSON text.
    pub(crate) reference: Option<&'a str>,
    pub(crate) slow: Slow,
    /// The group of workers that the subscriber is to be a member of.
    pub(crate) group: Option<Cow<'a, str>>,
    /// Maximum number of unfinished messages of a member.
    pub(crate) window: u32,
    /// Number of messages that a member has finished.
    pub(crate) count: u32,
    /// The information that others see of the subscriber as a member of the topic, as JSON text. `null`: it is none any more.
    pub(crate) info: Option<&'a str>,
    /// The kept messages that it begins with.
    pub(crate) start: Option<Start<'a>>,
}

/// The kept messages with which a subscription begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start<'a> {
    /// Those behind a position.
    Since { offset: u64, epoch: Cow<'a, str> },
    /// The newest ones.
    Last(u32),
}

/// A decoded `history`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HistoryQuery<'a> {
    pub(crate) pattern: Cow<'a, str>,
    /// The `ref` that the response repeats, as JSON text.
    pub(crate) reference: Option<&'a str>,
    pub(crate) after: Option<u64>,
    pub(crate) before: Option<u64>,
    pub(crate) limit: u32,
}

/// A decoded `subscribe`, `unsubscribe` or `acknowledge` of a mailbox.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MailboxCommand<'a> {
    pub(crate) name: Cow<'a, str>,
    /// The `ref` that the response repeats, as JSON text.
    pub(crate) reference: Option<&'a str>,
    /// Maximum number of unacknowledged messages.
    pub(crate) window: u32,
    /// The message that is acknowledged or given back.
    pub(crate) offset: Option<u64>,
    /// It is given back, to be delivered again after this time in milliseconds.
    pub(crate) retry: Option<u32>,
}

/// The subject of a `watch`: the members of a topic, or whether ids are online.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Watched<'a> {
    Topic(Cow<'a, str>),
    Ids(Vec<Cow<'a, str>>),
}

/// A decoded `watch` or `unwatch`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Watch<'a> {
    pub(crate) watched: Watched<'a>,
    /// The `ref` that the response repeats, as JSON text.
    pub(crate) reference: Option<&'a str>,
}

/// The mistake in an invalid action about a mailbox.
const MAILBOX: &str = "\"subscribe\" message (msg.mailbox must be a name within maxIdLength, without msg.topic and its members)";
/// The mistake in an invalid `watch`.
const WATCH: &str = "\"watch\" message (needs msg.topic or an array msg.ids, without empty ids)";

/// The window of a member that names none.
const WINDOW: u32 = 64;
/// The number of messages of a `history` that names none.
const LIMIT: u32 = 100;
/// Maximum bytes of an epoch, as JSON text.
const LONGEST_EPOCH: usize = 64;
/// Offsets from here on are no exact numbers in JavaScript.
const MAX_OFFSET: f64 = 9_007_199_254_740_992.0;

/// The mistake in an invalid `since` or `last`.
const SINCE: &str = "\"subscribe\" message (msg.since must have an offset and an epoch, msg.last must be a whole number; only \
                     one of them, and no msg.group)";
/// The mistake in an invalid `history`.
const HISTORY: &str =
    "\"history\" message (msg.after or msg.before must be an offset, msg.limit a whole number)";

/// An offset.
fn offset(raw: &str) -> Option<u64> {
    let number = raw.parse::<f64>().ok()?;
    let is_offset = number >= 0.0 && number.fract() == 0.0 && number < MAX_OFFSET;
    is_offset.then_some(number as u64)
}

/// The members of a position, as JSON text.
#[derive(Deserialize)]
struct RawPosition<'a> {
    #[serde(borrow)]
    offset: &'a RawValue,
    #[serde(borrow)]
    epoch: &'a RawValue,
}

/// Decodes a position.
fn position(raw: &str) -> Option<Start<'_>> {
    // An array would be read as the members in their order.
    let raw = Some(raw).filter(|raw| raw.starts_with('{'))?;
    let position: RawPosition<'_> = serde_json::from_str(raw).ok()?;
    let epoch = position.epoch.get();
    Some(Start::Since {
        offset: offset(position.offset.get())?,
        epoch: strict_string(epoch).filter(|_| epoch.len() <= LONGEST_EPOCH)?,
    })
}

/// A whole number, not negative; `default` if it is missing. Too large a number is the largest.
fn number(raw: Option<&str>, default: u32, error: &'static str) -> Result<u32, ActionError> {
    let Some(raw) = there(raw) else {
        return Ok(default);
    };
    let number = raw.parse::<f64>().ok();
    let number = number.filter(|number| *number >= 0.0 && number.fract() == 0.0);
    // Saturates.
    number
        .map(|number| number as u32)
        .ok_or(ActionError::InvalidMember(error))
}

impl<'a> RawSubscription<'a> {
    /// Decodes the members (rules 34.2 and 35.1). `null` counts as an absent member.
    pub(crate) fn check(&self, max_length: usize) -> Result<Subscription<'a>, ActionError> {
        let pattern = there(self.topic).and_then(strict_string);
        let pattern = pattern
            .filter(|text| topic::is_pattern(text))
            .ok_or(ActionError::InvalidPattern)?;
        let group = match there(self.group) {
            None => None,
            Some(raw) => {
                let name = strict_string(raw).filter(|name| topic::is_group(name));
                Some(name.ok_or(ActionError::InvalidPattern)?)
            }
        };
        let info = self.info;
        if there(info).is_some() && (group.is_some() || topic::has_wildcards(&pattern)) {
            return Err(ActionError::InvalidMember(
                "\"subscribe\" message (msg.info needs a topic without wildcards, and no group)",
            ));
        }
        let slow = match there(self.slow) {
            None | Some("\"drop\"") => Slow::Drop,
            Some("\"latest\"") => Slow::Latest,
            Some("\"wait\"") => Slow::Wait,
            Some(_) => {
                return Err(ActionError::InvalidMember(
                    "\"subscribe\" message (msg.slow must be \"drop\", \"latest\" or \"wait\")",
                ));
            }
        };
        Ok(Subscription {
            pattern,
            reference: reference(
                self.reference,
                max_length,
                "\"subscribe\" message (msg.ref must be a number or a string within maxIdLength)",
            )?,
            slow,
            group,
            window: number(
                self.window,
                WINDOW,
                "\"subscribe\" message (msg.window must be a whole number)",
            )?,
            count: number(
                self.count,
                1,
                "\"acknowledge\" message (msg.count must be a whole number)",
            )?,
            info,
            start: self.start()?,
        })
    }

    /// Decodes `since` and `last` (rule 42.1).
    fn start(&self) -> Result<Option<Start<'a>>, ActionError> {
        let start = match (there(self.since), there(self.last)) {
            (None, None) => return Ok(None),
            (Some(since), None) => position(since),
            (None, Some(last)) => Some(Start::Last(number(Some(last), 0, SINCE)?)),
            (Some(_), Some(_)) => None,
        };
        let start = start.filter(|_| there(self.group).is_none());
        start.map(Some).ok_or(ActionError::InvalidMember(SINCE))
    }

    /// Decodes the members of `history` (rule 44.1).
    pub(crate) fn check_history(&self, max_length: usize) -> Result<HistoryQuery<'a>, ActionError> {
        let pattern = there(self.topic).and_then(strict_string);
        let reference = reference(
            self.reference,
            max_length,
            "\"history\" message (msg.ref must be a number or a string within maxIdLength)",
        )?;
        let [after, before] = [self.after, self.before].map(|raw| match there(raw) {
            None => Ok(None),
            Some(raw) => match offset(raw) {
                Some(offset) => Ok(Some(offset)),
                None => Err(ActionError::InvalidMember(HISTORY)),
            },
        });
        let (after, before) = (after?, before?);
        if after.is_some() && before.is_some() {
            return Err(ActionError::InvalidMember(HISTORY));
        }
        Ok(HistoryQuery {
            pattern: pattern
                .filter(|text| topic::is_pattern(text))
                .ok_or(ActionError::InvalidPattern)?,
            reference,
            after,
            before,
            limit: number(self.limit, LIMIT, HISTORY)?,
        })
    }

    /// True if it is about a mailbox.
    pub(crate) fn is_of_mailbox(&self) -> bool {
        use SubscriptionCommand::{Acknowledge, Subscribe, Unsubscribe};
        there(self.mailbox).is_some()
            && matches!(self.command, Subscribe | Unsubscribe | Acknowledge)
    }

    /// Decodes the members of an action about a mailbox (rule 46.1).
    pub(crate) fn check_mailbox(
        &self,
        max_length: usize,
    ) -> Result<MailboxCommand<'a>, ActionError> {
        const RETRY: &str =
            "\"acknowledge\" message (msg.offset must be an offset, msg.retry a whole number)";
        let reference = reference(
            self.reference,
            max_length,
            "\"subscribe\" message (msg.ref must be a number or a string within maxIdLength)",
        )?;
        let name = there(self.mailbox).and_then(|raw| decode_mailbox(raw, max_length));
        let offset = match (self.command, there(self.offset)) {
            (SubscriptionCommand::Acknowledge, raw) => Some(
                raw.and_then(offset)
                    .ok_or(ActionError::InvalidMember(RETRY))?,
            ),
            _ => None,
        };
        let retry = match there(self.retry) {
            Some(raw) => Some(number(Some(raw), 0, RETRY)?),
            None => None,
        };
        let others = [
            self.topic, self.group, self.slow, self.info, self.since, self.last,
        ];
        if others.into_iter().any(|raw| there(raw).is_some()) {
            return Err(ActionError::InvalidMember(MAILBOX));
        }
        Ok(MailboxCommand {
            name: name.ok_or(ActionError::InvalidMember(MAILBOX))?,
            reference,
            window: number(
                self.window,
                WINDOW,
                "\"subscribe\" message (msg.window must be a whole number)",
            )?,
            offset,
            retry,
        })
    }

    /// Decodes the members of `watch` and `unwatch` (rule 39.4): `topic` or `ids`.
    pub(crate) fn check_watch(
        &self,
        max_ids: usize,
        max_length: usize,
    ) -> Result<Watch<'a>, ActionError> {
        let reference = reference(
            self.reference,
            max_length,
            "\"watch\" message (msg.ref must be a number or a string within maxIdLength)",
        )?;
        let watched = match (there(self.topic), there(self.ids)) {
            (Some(topic), None) => {
                let topic = strict_string(topic).filter(|text| topic::is_topic(text));
                Watched::Topic(topic.ok_or(ActionError::InvalidPattern)?)
            }
            (None, Some(ids)) => match decode_dest(ids, max_ids, max_length)? {
                Dest::Many(ids) if ids.iter().all(|id| !id.is_empty()) => Watched::Ids(ids),
                _ => return Err(ActionError::InvalidMember(WATCH)),
            },
            _ => return Err(ActionError::InvalidMember(WATCH)),
        };
        Ok(Watch { watched, reference })
    }
}

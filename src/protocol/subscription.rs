//! The members of `subscribe`, `watch` and the other actions about subscriptions. The cited rules are those of `spec/protocol.md`.

use std::borrow::Cow;

use super::{
    reply_options::reference,
    values::{Dest, decode_dest, strict_string, there},
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

/// The mistake in an invalid `watch`.
const WATCH: &str = "\"watch\" message (needs msg.topic or an array msg.ids, without empty ids)";

/// The window of a member that names none.
const WINDOW: u32 = 64;

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

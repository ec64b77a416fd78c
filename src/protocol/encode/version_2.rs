//! Encodes the actions that version 2 adds.

use super::{Pieces, member};
use crate::protocol::json_string;

/// Encodes `unregistered`, for a connection whose id was taken over (rule 30).
pub(crate) fn replaced(id: &str) -> Pieces<'_> {
    [
        "{\"action\":\"unregistered\",\"id\":",
        id,
        ",\"code\":\"REPLACED\"}",
        "",
        "",
        "",
        "",
    ]
}

/// Encodes `receipt`: the ids in `delivered`, and the ids with their codes in `failed`, are joined by commas
/// (rule 24).
pub(crate) fn receipt<'a>(reference: &'a str, delivered: &'a str, failed: &'a str) -> Pieces<'a> {
    [
        "{\"action\":\"receipt\",\"ref\":",
        reference,
        ",\"delivered\":[",
        delivered,
        "],\"failed\":{",
        failed,
        "}}",
    ]
}

/// Encodes `failed`, with ack and id as JSON (rule 25).
pub(crate) fn failed<'a>(ack: &'a str, dest: &'a str, code: &'a str) -> Pieces<'a> {
    [
        "{\"action\":\"failed\",\"ack\":",
        ack,
        ",\"dest\":",
        dest,
        ",\"code\":\"",
        code,
        "\"}",
    ]
}

/// Encodes the `answer` of a refused request, for the asker (rule 27).
pub(crate) fn refusal<'a>(ack: &'a str, from: Option<&'a str>, error: &'a str) -> Pieces<'a> {
    let [from_name, from] = member(",\"from\":", from);
    [
        "{\"action\":\"answer\",\"ack\":",
        ack,
        from_name,
        from,
        ",\"error\":",
        error,
        "}",
    ]
}

/// Encodes `cancel`, with the ack as JSON (rule 28).
pub(crate) fn cancel(ack: &str) -> Pieces<'_> {
    ["{\"action\":\"cancel\",\"ack\":", ack, "}", "", "", "", ""]
}

/// Encodes `error`, with the text as JSON, and the `ref` and `ack` encoded by [`repeated`] (rule 29).
pub(crate) fn error<'a>(code: &'a str, text: &'a str, repeated: &'a str) -> Pieces<'a> {
    [
        "{\"action\":\"error\",\"code\":\"",
        code,
        "\",\"message\":",
        text,
        repeated,
        "}",
        "",
    ]
}

/// Encodes the members that an `error` repeats from the refused frame. Joined here, because writing frames is
/// faster if all have the same number of pieces.
pub(crate) fn repeated(reference: Option<&str>, ack: Option<&str>) -> String {
    let members = [member(",\"ref\":", reference), member(",\"ack\":", ack)];
    members.concat().concat()
}

/// Encodes `goaway`; `within` is in milliseconds (rule 31).
pub(crate) fn goaway(within: &str) -> Pieces<'_> {
    [
        "{\"action\":\"goaway\",\"within\":",
        within,
        "}",
        "",
        "",
        "",
        "",
    ]
}

/// Encodes the end of a `message` for subscribers, with the topic, and the name of a group, as JSON (rules 36.2 and
/// 38.2).
pub(crate) fn publication_end(topic: &str, group: Option<&str>, attempt: u32) -> String {
    let [name, group] = member(",\"group\":", group);
    let attempt = match attempt {
        0 | 1 => String::new(),
        number => format!(",\"attempt\":{number}"),
    };
    [",\"topic\":", topic, name, group, &attempt, "}"].concat()
}

/// Encodes `subscribed`, with the pattern as JSON (rule 35). `reference`: the `ref`, if there is one. `kept`: members
/// about its log, each after a comma (rule 42).
pub(crate) fn subscribed<'a>(
    pattern: &'a str,
    reference: Option<&'a str>,
    kept: &'a str,
) -> Pieces<'a> {
    let [name, reference] = member(",\"ref\":", reference);
    let action = "{\"action\":\"subscribed\",\"topic\":";
    [action, pattern, name, reference, kept, "}", ""]
}

/// Encodes the end of a kept `message` (rule 41.3). `end`: of [`publication_end`].
pub(crate) fn kept_end(end: &str, offset: u64, prev: u64) -> String {
    let end = end.strip_suffix('}').unwrap_or(end);
    match offset - prev {
        1 => format!("{end},\"offset\":{offset}}}"),
        _ => format!("{end},\"offset\":{offset},\"prev\":{prev}}}"),
    }
}

/// Encodes the end of `history`, behind its messages (rule 44).
pub(crate) fn history_end(offset: u64, more: bool) -> String {
    format!("],\"offset\":{offset},\"more\":{more}}}")
}

/// Encodes the beginning of `history`, up to its messages, with the pattern as JSON (rule 44).
pub(crate) fn history(pattern: &str, reference: Option<&str>, epoch: &str) -> String {
    let [name, reference] = member(",\"ref\":", reference);
    let action = "{\"action\":\"history\",\"topic\":";
    let epoch = ["\"", epoch, "\",\"messages\":["].concat();
    [action, pattern, name, reference, ",\"epoch\":", &epoch].concat()
}

/// Encodes `unsubscribed`, with the pattern as JSON, and a quoted code if the broker ended the subscription
/// (rule 35).
pub(crate) fn unsubscribed<'a>(
    pattern: &'a str,
    reference: Option<&'a str>,
    code: Option<&'a str>,
) -> Pieces<'a> {
    let [name, reference] = member(",\"ref\":", reference);
    let [code_name, code] = member(",\"code\":", code);
    let action = "{\"action\":\"unsubscribed\",\"topic\":";
    [action, pattern, name, reference, code_name, code, "}"]
}

/// Encodes `watched` or `unwatched`, the response to `watch` or `unwatch` (rule 39).
pub(crate) fn watched(is_watched: bool, reference: Option<&str>) -> Pieces<'_> {
    let [name, reference] = member(",\"ref\":", reference);
    let action = match is_watched {
        true => "{\"action\":\"watched\"",
        false => "{\"action\":\"unwatched\"",
    };
    [action, name, reference, "}", "", "", ""]
}

/// Encodes `unwatched`, for a watch that the broker has ended (rule 39). `what`: the member `topic` or `ids`.
pub(crate) fn unwatched<'a>(what: &'a str, code: &'a str) -> Pieces<'a> {
    let action = "{\"action\":\"unwatched\",";
    [action, what, ",\"code\":\"", code, "\"}", "", ""]
}

/// Encodes `presence` of a topic (rule 39). `members`: further members, each after a comma.
pub(crate) fn presence(topic: &str, count: &str, members: &str) -> String {
    let action = "{\"action\":\"presence\",\"topic\":";
    [action, topic, ",\"count\":", count, members, "}"].concat()
}

/// Encodes `presence` of ids, which are JSON texts joined by commas (rule 39).
pub(crate) fn online<'a>(online: &'a str, offline: &'a str) -> Pieces<'a> {
    let action = "{\"action\":\"presence\",\"online\":[";
    [action, online, "],\"offline\":[", offline, "]}", "", ""]
}

/// Encodes `gap`, with the topic as JSON (rule 37).
pub(crate) fn gap<'a>(topic: &'a str, lost: &'a str) -> Pieces<'a> {
    let action = "{\"action\":\"gap\",\"topic\":";
    [action, topic, ",\"lost\":", lost, "}", "", ""]
}

/// Encodes the `receipt` of a message to a topic: numbers of subscribers (rule 36.5). `end`: in a cluster with
/// `elsewhere`.
pub(crate) fn publish_receipt<'a>(
    reference: &'a str,
    queued: &'a str,
    dropped: &'a str,
    end: &'a str,
) -> Pieces<'a> {
    [
        "{\"action\":\"receipt\",\"ref\":",
        reference,
        ",\"queued\":",
        queued,
        ",\"dropped\":",
        dropped,
        end,
    ]
}

/// Encodes the end of a `message` from a mailbox, with its name as JSON, by its offset (rule 46.3). `topic`: empty, or the
/// member with the topic to which it was sent.
pub(crate) fn mail_end(topic: &str, mailbox: &str, key: Option<&str>) -> impl Fn(u64) -> String {
    let begin = [topic, ",\"mailbox\":", mailbox, ",\"offset\":"].concat();
    let key = key.map(|key| [",\"key\":", &json_string(key)].concat());
    move |offset| format!("{begin}{offset}{}}}", key.as_deref().unwrap_or_default())
}

/// Encodes the end of a `message` that is delivered again (rule 46.3).
pub(crate) fn attempt_end(attempt: u32) -> String {
    format!(",\"attempt\":{attempt}}}")
}

/// Encodes the `receipt` of a message for mailboxes (rule 45.3). The lists are joined by commas: names with the ways in
/// which they are stored, names with codes, and names.
pub(crate) fn mailbox_receipt(
    reference: &str,
    mailboxes: &str,
    failed: &str,
    duplicates: &str,
) -> String {
    let duplicates = match duplicates {
        "" => String::new(),
        names => format!(",\"duplicates\":[{names}]"),
    };
    format!(
        "{{\"action\":\"receipt\",\"ref\":{reference},\"mailboxes\":{{{mailboxes}}},\"failed\":{{{failed}}}{duplicates}}}"
    )
}

/// Encodes `subscribed` for a mailbox, with its name as JSON (rule 46.2).
pub(crate) fn mailbox_opened(
    mailbox: &str,
    reference: Option<&str>,
    epoch: &str,
    waiting: u64,
) -> String {
    let [name, reference] = member(",\"ref\":", reference);
    format!(
        "{{\"action\":\"subscribed\",\"mailbox\":{mailbox}{name}{reference},\"epoch\":\"{epoch}\",\"waiting\":{waiting}}}"
    )
}

/// Encodes `unsubscribed` for a mailbox, with its name as JSON (rule 46.5). `code`: why the broker has closed it.
pub(crate) fn mailbox_closed(mailbox: &str, reference: Option<&str>, code: Option<&str>) -> String {
    let [name, reference] = member(",\"ref\":", reference);
    let code = code.map_or(String::new(), |code| format!(",\"code\":\"{code}\""));
    format!("{{\"action\":\"unsubscribed\",\"mailbox\":{mailbox}{name}{reference}{code}}}")
}

/// Encodes the members of a receipt about the log of a kept message (rule 41.5). `stored`: none if it could not be stored.
pub(crate) fn stored_member(offset: u64, stored: Option<&str>) -> String {
    match stored {
        Some(stored) => format!(",\"offset\":{offset},\"stored\":\"{stored}\""),
        None => format!(",\"offset\":{offset},\"code\":\"NOT_STORED\""),
    }
}

/// Encodes the end of the `receipt` of a message to a topic whose messages go into mailboxes, too (rule 45.5). `kept`: empty,
/// or of [`stored_member`].
pub(crate) fn bound_receipt_end(kept: &str, mailboxes: &str, failed: &str) -> String {
    format!("{kept},\"mailboxes\":{{{mailboxes}}},\"failed\":{{{failed}}}}}")
}

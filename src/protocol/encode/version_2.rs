//! The frames that version 2 adds.

use super::{Pieces, member};

/// `unregistered`, for the one whose id another connection has taken over (rule 30).
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

/// `receipt`: the ids in `delivered`, and the ids with their codes in `failed`, are joined by commas
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

/// `failed`; ack and id as JSON (rule 25).
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

/// `answer`, for the asker whose request was refused (rule 27).
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

/// `cancel`; the ack as JSON (rule 28).
pub(crate) fn cancel(ack: &str) -> Pieces<'_> {
    ["{\"action\":\"cancel\",\"ack\":", ack, "}", "", "", "", ""]
}

/// `error`; the text as JSON, and what [`repeated`] makes of its `ref` and its `ack` (rule 29).
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

/// The members in which an `error` repeats those of the frame that was refused, as they came. Joined
/// here: the way of all frames through the outbox is faster where all have as many pieces.
pub(crate) fn repeated(reference: Option<&str>, ack: Option<&str>) -> String {
    let members = [member(",\"ref\":", reference), member(",\"ack\":", ack)];
    members.concat().concat()
}

/// `goaway`; milliseconds (rule 31).
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

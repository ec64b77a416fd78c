//! The frames between brokers of a cluster: those of `encode`, and some that no client sees. They are WebSocket
//! frames without a mask.

use std::borrow::Cow;

use super::{
    members::Members,
    values::{is_truthy, string},
};

/// A frame from one broker to another. Members borrowed as `&str` are raw JSON text; the others are decoded
/// strings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PeerFrame<'a> {
    /// The next message expects an answer. With a group (its pattern and its name), it is for a member of that.
    ExpectReply {
        ack: &'a str,
        group: Option<(Cow<'a, str>, Cow<'a, str>)>,
    },
    /// The answer to this request is no longer awaited.
    Cancel { ack: &'a str },
    /// Probes whether this request may still be answered.
    Probe { ack: &'a str, number: u64 },
    /// The answer to the probe with this number: the request will not be answered.
    ProbeFailed { number: u64 },
    /// Asks whether the previous message was delivered.
    Confirm { number: u64 },
    /// The result of a delivery: delivered, unless there is a code.
    Confirmed {
        number: u64,
        dest: Cow<'a, str>,
        code: Option<Cow<'a, str>>,
    },
    /// An answer of the responder that was asked as `dest`; with an error, a refusal.
    Answer {
        dest: Cow<'a, str>,
        ack: &'a str,
        from: Option<&'a str>,
        message: Option<&'a str>,
        error: Option<&'a str>,
    },
    /// The responder that was asked as `dest` will not answer.
    Failed {
        dest: Cow<'a, str>,
        ack: &'a str,
        code: Cow<'a, str>,
    },
}

/// True for a message, which is passed on unchanged to the owner of the id. Only the beginning is checked,
/// because brokers always write it the same way.
pub(crate) fn is_message(text: &[u8]) -> bool {
    text.starts_with(b"{\"action\":\"message\",")
}

/// True for a frame about the next message.
fn belongs_to_next(text: &[u8]) -> bool {
    text.starts_with(b"{\"action\":\"asks\",")
}

/// True for a frame about the previous message.
fn belongs_to_last(text: &[u8]) -> bool {
    text.starts_with(b"{\"action\":\"settle\",")
}

/// Decodes a frame; none for a message, and for anything that brokers do not send.
pub(crate) fn decode_peer_frame(text: &[u8]) -> Option<PeerFrame<'_>> {
    let members = Members::parse(std::str::from_utf8(text).ok()?).ok()?;
    let number = || members.reference?.parse().ok();
    let dest = || members.dest.map(string);
    match members.action()?.as_ref() {
        "asks" => Some(PeerFrame::ExpectReply {
            ack: members.ack?,
            group: members.topic.map(string).zip(members.group.map(string)),
        }),
        "cancel" => Some(PeerFrame::Cancel { ack: members.ack? }),
        "awaits" => Some(PeerFrame::Probe {
            ack: members.ack?,
            number: number()?,
        }),
        "lost" => Some(PeerFrame::ProbeFailed { number: number()? }),
        "settle" => Some(PeerFrame::Confirm { number: number()? }),
        "settled" => Some(PeerFrame::Confirmed {
            number: number()?,
            dest: dest()?,
            code: members.code.map(string),
        }),
        "answer" => Some(PeerFrame::Answer {
            dest: dest()?,
            ack: members.ack?,
            from: members.from,
            message: members.message,
            error: members.error.filter(|error| is_truthy(error)),
        }),
        "failed" => Some(PeerFrame::Failed {
            dest: dest()?,
            ack: members.ack?,
            code: string(members.code?),
        }),
        _ => None,
    }
}

/// Encodes `asks`, which announces that the next message expects an answer; the ack as JSON.
pub(crate) fn expect_reply(ack: &str) -> [&str; 3] {
    ["{\"action\":\"asks\",\"ack\":", ack, "}"]
}

/// Encodes `asks` for a request to a member of a group; its pattern and its name as JSON, too.
pub(crate) fn expect_reply_of_group<'a>(
    ack: &'a str,
    pattern: &'a str,
    name: &'a str,
) -> [&'a str; 7] {
    let head = "{\"action\":\"asks\",\"ack\":";
    let (topic, group) = (",\"topic\":", ",\"group\":");
    [head, ack, topic, pattern, group, name, "}"]
}

/// Encodes `awaits`, which probes whether a request may still be answered; the ack as JSON.
pub(crate) fn probe<'a>(ack: &'a str, number: &'a str) -> [&'a str; 5] {
    let head = "{\"action\":\"awaits\",\"ack\":";
    [head, ack, ",\"ref\":", number, "}"]
}

/// Encodes `lost`, the answer to the probe with this number if the request will not be answered.
pub(crate) fn probe_failed(number: &str) -> [&str; 3] {
    ["{\"action\":\"lost\",\"ref\":", number, "}"]
}

/// Encodes `settle`, which asks for the delivery result of the previous message.
pub(crate) fn confirm(number: &str) -> [&str; 3] {
    ["{\"action\":\"settle\",\"ref\":", number, "}"]
}

/// The number of a `settle` frame; none for any other frame.
pub(crate) fn confirm_number(text: &[u8]) -> Option<u64> {
    let number = text.strip_prefix(b"{\"action\":\"settle\",\"ref\":")?;
    std::str::from_utf8(number.strip_suffix(b"}")?)
        .ok()?
        .parse()
        .ok()
}

/// Encodes `settled`, the result of a delivery; the id as JSON, and the code of a failure.
pub(crate) fn confirmed<'a>(number: &'a str, dest: &'a str, code: Option<&'a str>) -> Vec<&'a str> {
    let mut pieces = vec!["{\"action\":\"settled\",\"ref\":", number];
    pieces.extend([",\"dest\":", dest]);
    if let Some(code) = code {
        pieces.extend([",\"code\":\"", code, "\""]);
    }
    pieces.push("}");
    pieces
}

/// Encodes an answer or a refusal for an asker at another broker; all as JSON.
pub(crate) fn remote_answer<'a>(
    dest: &'a str,
    ack: &'a str,
    from: Option<&'a str>,
    outcome: Result<Option<&'a str>, &'a str>,
) -> Vec<&'a str> {
    let mut pieces = vec!["{\"action\":\"answer\",\"dest\":", dest, ",\"ack\":", ack];
    if let Some(from) = from {
        pieces.extend([",\"from\":", from]);
    }
    match outcome {
        Ok(None) => {}
        Ok(Some(message)) => pieces.extend([",\"message\":", message]),
        Err(error) => pieces.extend([",\"error\":", error]),
    }
    pieces.push("}");
    pieces
}

/// Iterates over frames: the text of each, and the whole frame. Ends at a malformed one.
pub(crate) struct Frames<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (start, end) = text_range(self.0)?;
        let (frame, rest) = self.0.split_at_checked(end)?;
        self.0 = rest;
        Some((&frame[start..], frame))
    }
}

/// The byte range of the text of the first frame. Frames between brokers are not masked.
fn text_range(bytes: &[u8]) -> Option<(usize, usize)> {
    let (start, length) = match *bytes.get(1)? {
        126 => {
            let length = bytes.get(2..4)?;
            (4, u16::from_be_bytes(length.try_into().ok()?).into())
        }
        127 => {
            let length = bytes.get(2..10)?;
            (10, u64::from_be_bytes(length.try_into().ok()?))
        }
        length => (2, length.into()),
    };
    let end = usize::try_from(length).ok()?.checked_add(start)?;
    Some((start, end))
}

/// Length in bytes of the longest prefix of at most `limit` bytes that can be sent as one packet: whole frames,
/// and no message apart from the control frames about it.
pub(crate) fn whole_frames(bytes: &[u8], limit: usize) -> usize {
    let (mut cut, mut length, mut opens) = (0, 0, false);
    while length <= limit {
        let Some((start, end)) = text_range(&bytes[length..]) else {
            break;
        };
        let Some(text) = bytes.get(length + start..length + end) else {
            break;
        };
        if !opens && !belongs_to_last(text) {
            cut = length;
        }
        opens = belongs_to_next(text);
        length += end;
    }
    match length <= limit && length == bytes.len() {
        true => length,
        false => cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::framing::{Mask, encode_text};

    #[test]
    fn peer_frames_are_decoded_as_encoded() {
        let read = |pieces: &[&str]| {
            let text = pieces.concat();
            format!("{:?}", decode_peer_frame(text.as_bytes()))
        };
        let message = crate::protocol::message("[1]", Some("\"k\""), Some("\"a\""));
        assert!(is_message(message.concat().as_bytes()));
        assert_eq!(read(&message), "None");
        let expected = "Some(ExpectReply { ack: \"1\", group: None })";
        assert_eq!(read(&expect_reply("1")), expected);
        let expected = "Some(ExpectReply { ack: \"1\", group: Some((\"a.*\", \"g\")) })";
        let asks = expect_reply_of_group("1", "\"a.*\"", "\"g\"");
        assert_eq!(read(&asks), expected);
        let expected = "Some(Probe { ack: \"1\", number: 7 })";
        assert_eq!(read(&probe("1", "7")), expected);
        assert_eq!(read(&probe_failed("7")), "Some(ProbeFailed { number: 7 })");
        assert_eq!(confirm_number(confirm("7").concat().as_bytes()), Some(7));
        assert_eq!(read(&confirm("7")), "Some(Confirm { number: 7 })");
        let text = confirmed("7", "\"a\\n\"", Some("SLOW")).concat();
        let expected = PeerFrame::Confirmed {
            number: 7,
            dest: "a\n".into(),
            code: Some("SLOW".into()),
        };
        assert_eq!(decode_peer_frame(text.as_bytes()), Some(expected));
        for outcome in [Ok(None), Ok(Some("null")), Err("{\"code\":1}")] {
            let text = remote_answer("\"b\"", "1", Some("\"b\""), outcome).concat();
            let expected = PeerFrame::Answer {
                dest: "b".into(),
                ack: "1",
                from: Some("\"b\""),
                message: outcome.unwrap_or_default(),
                error: outcome.err(),
            };
            assert_eq!(decode_peer_frame(text.as_bytes()), Some(expected));
        }
        let failed = crate::protocol::version_2::failed("\"k\"", "\"b\"", "GONE");
        let text = failed.concat();
        let expected = PeerFrame::Failed {
            dest: "b".into(),
            ack: "\"k\"",
            code: "GONE".into(),
        };
        assert_eq!(decode_peer_frame(text.as_bytes()), Some(expected));
    }

    #[test]
    fn any_other_text_is_no_peer_frame() {
        for text in [
            "",
            "1",
            "{}",
            "{\"action\":\"register\"}",
            "{\"action\":\"settle\"}",
        ] {
            assert_eq!(decode_peer_frame(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_message_is_not_split_from_its_control_frames() {
        let expect_reply = expect_reply("1").concat();
        let confirm = confirm("2").concat();
        let message = crate::protocol::message("1", None, None).concat();
        let mut bytes = Vec::new();
        let mut cuts = vec![0];
        for group in [
            &[&message][..],
            &[&expect_reply, &message],
            &[&message, &confirm],
            &[&expect_reply, &message, &confirm],
        ] {
            for text in group {
                encode_text(&[text], text.len(), Mask::None, &mut bytes);
            }
            cuts.push(bytes.len());
        }
        for limit in 0..bytes.len() + 2 {
            let expected = cuts.iter().rfind(|cut| **cut <= limit);
            assert_eq!(Some(&whole_frames(&bytes, limit)), expected, "{limit}");
        }
    }

    #[test]
    fn frames_are_cut_where_they_end() {
        let texts = ["{}".to_owned(), "x".repeat(200), "y".repeat(70_000)];
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for text in &texts {
            encode_text(&[text], text.len(), Mask::None, &mut bytes);
            ends.push(bytes.len());
        }
        let found: Vec<_> = Frames(&bytes).map(|(text, _)| text).collect();
        let expected: Vec<_> = texts.iter().map(String::as_bytes).collect();
        assert_eq!(found, expected);
        for limit in 0..ends[3] + 2 {
            let expected = ends.iter().rfind(|end| **end <= limit);
            assert_eq!(Some(&whole_frames(&bytes, limit)), expected);
        }
        // A truncated frame is not returned.
        assert_eq!(Frames(&bytes[..bytes.len() - 1]).count(), 2);
    }
}

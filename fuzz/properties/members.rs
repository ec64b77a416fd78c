//! Every member of every action of a client, as every type of JSON and at every nesting: whatever it
//! is, the server keeps what `conversation` holds it to.
//!
//! Four bytes make a frame: the peer that sends it, the member that is replaced, the value in its
//! place, and how deep or long that is.

use super::conversation::conversation;

/// The members of each action, with a value that is right.
const ACTIONS: [(&str, &[(&str, &str)]); 12] = [
    (
        "register",
        &[("id", r#""a""#), ("token", r#""t""#), ("protocol", "2")],
    ),
    (
        "send",
        &[
            ("message", "1"),
            ("dest", r#"["a","b","nobody"]"#),
            ("ack", r#""k""#),
            ("ref", "7"),
            ("answers", "1"),
            ("timeout", "60000"),
        ],
    ),
    (
        "answer",
        &[
            ("ack", r#""k""#),
            ("message", "1"),
            ("error", "0"),
            ("from", r#""b""#),
        ],
    ),
    ("cancel", &[("ack", r#""k""#)]),
    ("received", &[("count", "1")]),
    (
        "register",
        &[
            ("id", r#""a""#),
            ("protocol", "2"),
            ("session", r#"{"timeout":1000,"token":"t","count":0}"#),
        ],
    ),
    ("unregister", &[("id", r#""a""#)]),
    (
        "subscribe",
        &[
            ("topic", r#""kept.a""#),
            ("ref", "7"),
            ("since", r#"{"offset":0,"epoch":"e"}"#),
            ("last", "3"),
            ("slow", r#""drop""#),
            ("group", r#""g""#),
        ],
    ),
    (
        "history",
        &[
            ("topic", r#""kept.*""#),
            ("ref", "7"),
            ("after", "0"),
            ("before", "9"),
            ("limit", "5"),
        ],
    ),
    (
        "send",
        &[
            ("message", "1"),
            ("dest", r#"{"mailbox":["a","b"]}"#),
            ("ref", "7"),
            ("key", r#""k""#),
        ],
    ),
    (
        "subscribe",
        &[("mailbox", r#""a""#), ("ref", "7"), ("window", "2")],
    ),
    (
        "acknowledge",
        &[("mailbox", r#""a""#), ("offset", "1"), ("retry", "0")],
    ),
];

/// The values that do not nest; empty: the member is missing.
const FLAT: [&str; 16] = [
    "",
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1e999",
    "-1.5",
    "123456789012345678901234567890",
    r#""""#,
    r#""text""#,
    r#""\ud800\u0000""#,
    r#"{"toString":0,"valueOf":0}"#,
    r#"{"then":1,"constructor":{"prototype":1},"length":1e9}"#,
    r#"{"__proto__":{"a":1},"action":"send"}"#,
    r#"[1,"a",null,["b"],{}]"#,
];
/// Those that do: what opens a level, what is inside, and what closes one.
const NESTED: [(&str, &str, &str); 4] = [
    ("[", "1", "]"),
    (r#"{"a":"#, "1", "}"),
    (r#"[{"ack":"#, "[]", "}]"),
    ("", r#""x""#, ""),
];
/// Levels at most; two of these bytes are a level.
const DEEPEST: u32 = 9;

/// Plays frames made of these bytes. Two peers have registered before.
pub fn members(input: &[u8]) {
    let mut lines = String::new();
    for (peer, id) in [('a', "a"), ('b', "b")] {
        lines += &format!("{peer}t{{\"action\":\"register\",\"id\":\"{id}\",\"protocol\":2}}\n\n");
    }
    for frame in input.chunks_exact(4) {
        let [peer, member, value, depth] = frame else {
            continue;
        };
        let peer = char::from(b'a' + peer % 4);
        lines += &format!("{peer}t{}\n", frame_of(*member, *value, *depth));
        if value % 4 == 0 {
            // The server works on what has come.
            lines.push('\n');
        }
    }
    conversation(lines.as_bytes());
}

/// How many members there are, the names of actions among them.
fn count() -> usize {
    ACTIONS.iter().map(|(_, members)| members.len() + 1).sum()
}

/// A frame that is right but for one member.
fn frame_of(member: u8, value: u8, depth: u8) -> String {
    let mut left = usize::from(member) % count();
    for (action, members) in ACTIONS {
        if left > members.len() {
            left -= members.len() + 1;
            continue;
        }
        let action = format!("\"{action}\"");
        let all = std::iter::once(("action", &*action)).chain(members.iter().copied());
        let written = all.enumerate().filter_map(|(n, (name, right))| {
            let value = if n == left {
                value_of(value, depth)
            } else {
                right.to_owned()
            };
            (!value.is_empty()).then(|| format!("\"{name}\":{value}"))
        });
        return format!("{{{}}}", written.collect::<Vec<_>>().join(","));
    }
    unreachable!("there are so many members")
}

fn value_of(value: u8, depth: u8) -> String {
    let at = usize::from(value) % (FLAT.len() + NESTED.len());
    if let Some(flat) = FLAT.get(at) {
        return (*flat).to_owned();
    }
    let (open, inside, close) = NESTED[at - FLAT.len()];
    let levels = 1 << (u32::from(depth) % (DEEPEST + 1));
    if open.is_empty() {
        return format!("\"{}\"", "x".repeat(levels));
    }
    [&open.repeat(levels), inside, &close.repeat(levels)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_any_type_and_nesting_are_decoded() {
        let values = FLAT.len() + NESTED.len();
        for depth in [0, 4, DEEPEST as u8] {
            for member in 0..count() {
                let frames = (0..values).flat_map(|value| {
                    let peer = (value % 4) as u8;
                    [peer, member as u8, value as u8, depth]
                });
                members(&frames.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn frames_with_one_wrong_member_are_handled() {
        assert_eq!(
            frame_of(1, 10, 0),
            r#"{"action":"register","id":"text","token":"t","protocol":2}"#
        );
        assert_eq!(frame_of(0, 0, 0), r#"{"id":"a","token":"t","protocol":2}"#);
        assert_eq!(value_of(16, 1), "[[1]]");
        assert_eq!(value_of(19, 2), r#""xxxx""#);
    }
}

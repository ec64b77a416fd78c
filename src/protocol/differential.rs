//! Differential test: compares the decoders with `serde_json` on random texts: frames in the usual form,
//! frames with unusual values, and both with a few bytes changed.
//!
//! `WSMB_INPUTS=10000000 cargo test --release --lib differential` tries that many inputs; CI tries fewer.

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    decode::client_in_order,
    decode_client_action, decode_server_action, json_scan,
    members::{Members, client_action, server_action},
    values::{decode_any_ids, decode_ids},
};

const INPUTS: u64 = 100_000;
/// Fixed, so that a failure is reproducible; other seeds test other inputs.
const SEED: u64 = 42;

/// Bytes that a change inserts: all with a meaning in JSON, and some without.
const BYTES: &[u8] = b"{}[]:,\"\\ \t\n\r0123456789-+.eEtrufalsn/bxa\x00\x1f\x7f\xc3\xa4";
const NAMES: [&str; 17] = [
    "action",
    "message",
    "dest",
    "ack",
    "from",
    "id",
    "token",
    "ref",
    "answers",
    "timeout",
    "error",
    "protocol",
    "code",
    "failed",
    "other",
    "\\u0061ck",
    "",
];
const ACTIONS: [&str; 13] = [
    "send",
    "answer",
    "register",
    "unregister",
    "message",
    "registered",
    "receipt",
    "failed",
    "cancel",
    "error",
    "goaway",
    "s\\u0065nd",
    "x",
];
const SCALARS: [&str; 16] = [
    "0",
    "-0",
    "17",
    "-1.5e+10",
    "1E400",
    "01",
    "1.",
    "-",
    "true",
    "false",
    "null",
    "nul",
    "\"\"",
    "\"a\\n\\u00e4\\ud800\"",
    "\"\\x\"",
    "\"ä€😀\"",
];

fn value(random: &mut SmallRng, out: &mut String, depth: u32) {
    match random.random_range(0..if depth < 4 { 10 } else { 7 }) {
        0..3 => out.push_str(SCALARS[random.random_range(0..SCALARS.len())]),
        3..6 => {
            out.push('"');
            // Lengths around those at which the search for the end switches its method.
            let length = [3, 9, 40, 70, 300, 5000][random.random_range(0..6)];
            out.extend(std::iter::repeat_n('x', random.random_range(0..length)));
            if random.random_ratio(1, 8) {
                out.push(['\\', '\u{1f}', 'ä'][random.random_range(0..3)]);
            }
            out.push('"');
        }
        6 => out.push_str("[\"a\",\"b\"]"),
        7 => {
            let levels = random.random_range(0..70);
            out.extend(std::iter::repeat_n('[', levels));
            out.extend(std::iter::repeat_n(']', levels));
        }
        8 => {
            out.push('[');
            for n in 0..random.random_range(0..4) {
                if n > 0 {
                    out.push(',');
                }
                value(random, out, depth + 1);
            }
            out.push(']');
        }
        _ => {
            out.push('{');
            for n in 0..random.random_range(0..4) {
                if n > 0 {
                    out.push_str(" , ");
                }
                let name = NAMES[random.random_range(0..NAMES.len())];
                out.push_str(&format!("\"{name}\":"));
                value(random, out, depth + 1);
            }
            out.push('}');
        }
    }
}

/// A frame with its members in the usual order, or in any other.
fn frame(random: &mut SmallRng) -> String {
    let mut out = String::from("{\"action\":\"");
    let names: &[&str] = match random.random_range(0..12) {
        0 | 1 => &["send", "message", "dest", "ack"],
        2 => &["answer", "ack", "message", "from"],
        3 => &["message", "message", "ack", "from"],
        4 => &["answer", "ack", "from", "message"],
        5 => &[
            "send", "message", "dest", "ack", "ref", "answers", "timeout",
        ],
        6 => &["answer", "ack", "message", "error", "from"],
        7 => &["answer", "ack", "from", "error"],
        8 => &["register", "id", "token", "protocol"],
        9 => &["receipt", "ref", "delivered", "failed"],
        10 => &[
            ["failed", "ack", "dest", "code"],
            ["cancel", "ack", "ack", "ack"],
        ][random.random_range(0..2)],
        _ => &[],
    };
    out.push_str(match names {
        [action, ..] => action,
        [] => ACTIONS[random.random_range(0..ACTIONS.len())],
    });
    out.push('"');
    for n in 1..names.len().max(5) {
        if random.random_ratio(1, 6) {
            continue;
        }
        let name = match names.get(n) {
            Some(name) => name,
            None if names.is_empty() => NAMES[random.random_range(0..NAMES.len())],
            None => break,
        };
        out.push_str(&format!(",\"{name}\":"));
        value(random, &mut out, 0);
    }
    out.push('}');
    out
}

/// Changes a few bytes; invalid UTF-8 is replaced.
fn change(random: &mut SmallRng, text: String) -> String {
    let mut bytes = text.into_bytes();
    for _ in 0..random.random_range(0..3) {
        let at = random.random_range(0..bytes.len());
        let byte = BYTES[random.random_range(0..BYTES.len())];
        match random.random_range(0..4) {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 => drop(bytes.remove(at)),
            _ => bytes.truncate(at + 1),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn decoding_in_order_and_scanning_agree_with_serde_json() {
    let inputs = std::env::var("WSMB_INPUTS").map_or(INPUTS, |inputs| inputs.parse().unwrap());
    let mut random = SmallRng::seed_from_u64(SEED);
    let (mut usual, mut plain, mut good) = (0, 0, 0);
    for _ in 0..inputs {
        let text = frame(&mut random);
        let text = change(&mut random, text);
        let slow = Members::parse_any(&text);
        let client = slow.as_ref().map_err(Clone::clone).and_then(client_action);
        assert_eq!(decode_client_action(&text), client, "{text}");
        for version in [1, 2] {
            let server = server_action(Members::parse_any(&text), version);
            assert_eq!(decode_server_action(&text, version), server, "{text}");
        }
        good += u64::from(slow.is_ok());
        plain += u64::from(json_scan::members(&text, |_, _| {}));
        usual += u64::from(client_in_order(&text).is_some());
        if let Some(dest) = slow.ok().and_then(|members| members.dest)
            && dest.starts_with('[')
        {
            assert_eq!(
                decode_ids(dest, 3, 64),
                decode_any_ids(dest, 3, 64),
                "{dest}"
            );
        }
    }
    // Each kind of input must be frequent, or the test shows little.
    for kind in [usual, plain - usual, good - plain, inputs - good] {
        assert!(kind > inputs / 100, "{usual} {plain} {good} of {inputs}");
    }
}

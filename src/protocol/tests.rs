//! Unit tests that decode and encode single frames.

use super::*;
use crate::error::ActionError;

fn refusal(text: &str) -> ActionError {
    decode_client_action(text).unwrap_err()
}

#[test]
fn a_client_limits_the_length_of_every_ack() {
    use super::decode::LONGEST_ACK;
    let fits = format!("\"{}\"", "x".repeat(LONGEST_ACK - 2));
    let long = format!("[{}0]", "0,".repeat(LONGEST_ACK / 2));
    let frames = [
        r#"{"action":"message","message":1,"ack":ACK}"#,
        r#"{"message":1, "ack":ACK, "action":"message"}"#,
        r#"{"action":"answer","ack":ACK,"message":1}"#,
        r#"{"action":"failed","ack":ACK,"dest":"a","code":"GONE"}"#,
        r#"{"action":"error","code":"C","message":"m","ack":ACK}"#,
        r#"{"action":"cancel","ack":ACK}"#,
    ];
    for frame in frames {
        assert!(super::decode_server_action(&frame.replace("ACK", &fits), 2).is_ok());
        let refused = super::decode_server_action(&frame.replace("ACK", &long), 2).map(drop);
        assert_eq!(refused.unwrap_err().code(), "ERR_WSMB_MEMBER", "{frame}");
    }
}

#[test]
fn members_come_in_any_order_and_others_are_ignored() {
    let text = r#" {"x":{"action":1},"dest":["a"],"\ud800":0,"message":null,"action":"send"} "#;
    let send = ClientAction::Send {
        message: "null",
        dest: "[\"a\"]",
        ack: None,
        reply: None,
    };
    assert_eq!(decode_client_action(text).unwrap(), send);
}

#[test]
fn a_member_name_is_any_valid_json_string() {
    for name in ["\n", "\0", "\\u0041\t", "\\x", "\\u12"] {
        let text = format!(r#"{{"{name}":1,"action":"unregister"}}"#);
        assert_eq!(refusal(&text), ActionError::NotJson, "{text:?}");
    }
    for text in [
        r#"{"\n\u0000\ud800":1,"action":"unregister"}"#,
        r#"{"a\u0063tion":"unregister"}"#,
        r#"{"\\":1,"\"\/":1,"\u0061ction":"unregister"}"#,
    ] {
        let action = decode_client_action(text);
        assert_eq!(action, Ok(ClientAction::Unregister), "{text}");
    }
    // An escaped escape is not an escape.
    for name in [
        r"\\u0061ction",
        r"\u005cu0061ction",
        r"\u0041ction",
        r"action\u0000",
    ] {
        let text = format!(r#"{{"action":"unregister","{name}":"none"}}"#);
        let action = decode_client_action(&text);
        assert_eq!(action, Ok(ClientAction::Unregister), "{text}");
    }
    let escaped =
        |name: &str| -> String { name.bytes().map(|byte| format!("\\u{byte:04x}")).collect() };
    let text = format!(
        r#"{{"action":"receipt","ref":1,"{}":["a"],"failed":{{}}}}"#,
        escaped("delivered")
    );
    let action = decode_server_action(&text, 2);
    assert!(
        matches!(
            action,
            Ok(ServerAction::Receipt {
                delivered: r#"["a"]"#,
                ..
            })
        ),
        "{action:?}"
    );
}

#[test]
fn the_last_of_two_equal_members_counts() {
    let text = r#"{"action":"foo","id":"a","action":"register","id":"b"}"#;
    assert_eq!(
        decode_client_action(text).unwrap(),
        ClientAction::Register {
            id: "\"b\"",
            token: None,
            protocol: 1,
            session: None,
        }
    );
}

#[test]
fn messages_are_not_changed() {
    for message in [
        "1.0",
        "1e999",
        "9223372036854775808",
        r#""\ud800""#,
        "{\"__proto__\":1}",
    ] {
        let text = format!(r#"{{"action":"send","dest":"a","message":{message}}}"#);
        let Ok(ClientAction::Send { message: raw, .. }) = decode_client_action(&text) else {
            panic!("{message}");
        };
        assert_eq!(raw, message);
    }
}

#[test]
fn messages_of_any_depth_are_accepted() {
    let message = "[".repeat(100_000) + &"]".repeat(100_000);
    let text = format!(r#"{{"action":"send","dest":"a","message":{message}}}"#);
    assert!(
        matches!(decode_client_action(&text), Ok(ClientAction::Send { message: m, .. }) if m == message)
    );
}

#[test]
fn invalid_actions_are_refused_with_the_texts_of_version_1() {
    assert_eq!(refusal("{"), ActionError::NotJson);
    assert_eq!(refusal("{} x"), ActionError::NotJson);
    assert_eq!(refusal(" null "), ActionError::Null);
    for (text, action) in [
        ("5", "undefined"),
        ("[]", "undefined"),
        ("{}", "undefined"),
        (r#"{"action":"foo"}"#, "foo"),
        (r#"{"action":"constructor"}"#, "constructor"),
        (r#"{"action":7}"#, "7"),
        (r#"{"action":null}"#, "null"),
        (r#"{"action":{}}"#, "[object Object]"),
        (r#"{"action":["foo",["bar",null],1.0]}"#, "foo,bar,,1"),
    ] {
        assert_eq!(
            refusal(text),
            ActionError::UnknownAction(action.into()),
            "{text}"
        );
    }
    for id in [
        "",
        r#","id":"""#,
        r#","id":0"#,
        r#","id":null"#,
        r#","id":false"#,
    ] {
        assert_eq!(
            refusal(&format!(r#"{{"action":"register"{id}}}"#)),
            ActionError::NoId
        );
    }
    assert_eq!(
        refusal(r#"{"action":"send","dest":"a"}"#),
        ActionError::IncompleteSend
    );
    assert_eq!(
        refusal(r#"{"action":"send","message":1}"#),
        ActionError::IncompleteSend
    );
    assert_eq!(
        refusal(r#"{"action":"answer","ack":"","message":1}"#),
        ActionError::NoAck
    );
}

#[test]
fn ids_are_strings_or_numbers() {
    assert_eq!(decode_id(r#""a\u0062""#, 8).unwrap(), "ab");
    assert_eq!(decode_id("5", 8).unwrap(), "5");
    assert_eq!(decode_id("5.0", 8).unwrap(), "5");
    assert_eq!(decode_id("-1.5", 8).unwrap(), "-1.5");
    for (raw, id) in [
        ("1E2", "100"),
        ("1e20", "100000000000000000000"),
        ("1.50e21", "1.5e+21"),
        ("0.000001", "0.000001"),
        ("0.0000001", "1e-7"),
        ("9007199254740993", "9007199254740992"),
        ("-1e999", "-Infinity"),
    ] {
        assert_eq!(decode_id(raw, 64).unwrap(), id);
    }
    assert_eq!(decode_id("[1]", 8), Err(ActionError::InvalidId));
    assert_eq!(decode_id("true", 8), Err(ActionError::InvalidId));
    assert_eq!(decode_id(r#""\ud800""#, 8), Err(ActionError::InvalidId));
    assert_eq!(
        decode_id(r#""123456789""#, 8),
        Err(ActionError::IdTooLong(9, 8))
    );
}

#[test]
fn an_id_is_as_long_as_its_json_text_without_needless_escapes() {
    for (raw, length) in [
        (r#""\u0041\u0042\u0043""#, 3),
        (r#""\u0001b\u001f""#, 13),
        (r#""\"\\\n\t\r\b\f/""#, 15),
        ("\"\u{e9}\u{7f}\u{2028}\"", 6),
        (r#""\ud83d\ude00""#, 4),
        ("1e400", 8),
    ] {
        assert!(decode_id(raw, length).is_ok(), "{raw}");
        let result = decode_id(raw, length - 1);
        assert!(matches!(result, Err(ActionError::IdTooLong(..))), "{raw}");
    }
    // A text longer than any id allows is refused without decoding it.
    let raw = format!("\"{}\"", "\\u0041".repeat(9));
    assert_eq!(decode_id(&raw, 8), Err(ActionError::IdTooLong(56, 8)));
}

#[test]
fn a_receiver_longer_than_any_id_is_refused() {
    let long = "x".repeat(49);
    for raw in [
        format!("\"{long}\""),
        format!("[\"{long}\"]"),
        format!("[0,[\"{long}\"]]"),
        format!("[{{\"{long}\":[]}}]"),
        format!("[[{}0]]", "0,".repeat(30)),
        format!("[{}{}]", "[".repeat(99), "]".repeat(99)),
        format!("[1{}]", "0".repeat(60)),
    ] {
        let result = decode_dest(&raw, 9, 8);
        assert!(
            matches!(result, Err(ActionError::DestTooLong(51.., 8))),
            "{raw}"
        );
    }
    assert!(decode_dest(&format!("\"{}\"", &long[1..]), 9, 8).is_ok());
}

#[test]
fn the_name_of_a_long_action_is_truncated() {
    for long in [
        format!("\"{}\"", "x".repeat(9999)),
        format!("[{}0]", "0,".repeat(9999)),
        format!("{}0", "1".repeat(9999)),
    ] {
        let text = format!(r#"{{"action":{long}}}"#);
        let shown = long[..1024].to_owned();
        let unknown = Err(ActionError::UnknownAction(shown));
        assert_eq!(decode_client_action(&text), unknown);
    }
}

#[test]
fn receivers_are_one_or_many_up_to_the_limit() {
    assert_eq!(decode_dest(r#""a""#, 1, 8).unwrap(), Dest::One("a".into()));
    let many = vec![
        "a".into(),
        "5".into(),
        "null".into(),
        "\u{fffd}\u{fffd}\u{fffd}".into(),
    ];
    assert_eq!(
        decode_dest(r#"["a",5,null,"\ud800"]"#, 4, 8).unwrap(),
        Dest::Many(many)
    );
    assert_eq!(decode_dest("[]", 1, 8).unwrap(), Dest::Many(vec![]));
    assert_eq!(
        decode_dest(r#"["a","b"]"#, 1, 8),
        Err(ActionError::TooManyDest(1))
    );
    for raw in ["5", "null", "true"] {
        assert_eq!(decode_dest(raw, 1, 8), Err(ActionError::InvalidDest));
    }
}

#[test]
fn an_object_with_one_member_is_a_topic() {
    let raw = r#"{"topic":"a.b"}"#;
    assert_eq!(decode_dest(raw, 1, 8).unwrap(), Dest::Object(raw));
    for (raw, topic) in [
        (raw, "a.b"),
        (r#" { "topic" : "a" } "#, "a"),
        (r#"{"topic":"\u0061\""}"#, "a\""),
    ] {
        let expected = ObjectDest::Topic(topic.into());
        assert_eq!(decode_object(raw, 4, 8).unwrap(), expected, "{raw}");
    }
    for raw in [
        "{}",
        r#"{"topic":"a","b":1}"#,
        r#"{"topic":"a","topic":"a"}"#,
        r#"{"id":"a"}"#,
        r#"{"topic":"a","mailbox":"a"}"#,
    ] {
        assert_eq!(
            decode_object(raw, 4, 8),
            Err(ActionError::InvalidDest),
            "{raw}"
        );
    }
    for raw in [
        r#"{"topic":""}"#,
        r#"{"topic":1}"#,
        r#"{"topic":"a.*"}"#,
        r#"{"topic":"\ud800"}"#,
    ] {
        assert_eq!(
            decode_object(raw, 4, 8),
            Err(ActionError::InvalidTopic),
            "{raw}"
        );
    }
}

#[test]
fn an_object_with_one_member_has_the_names_of_mailboxes() {
    for (raw, names) in [
        (r#"{"mailbox":"a.*"}"#, &["a.*"][..]),
        (r#"{"mailbox":["a","b","a",7]}"#, &["a", "b", "7"]),
    ] {
        let names = names.iter().map(|name| (*name).into()).collect();
        let expected = ObjectDest::Mailboxes(names);
        assert_eq!(decode_object(raw, 4, 8).unwrap(), expected, "{raw}");
    }
    for raw in [
        r#"{"mailbox":""}"#,
        r#"{"mailbox":[]}"#,
        r#"{"mailbox":["a",""]}"#,
        r#"{"mailbox":1}"#,
        r#"{"mailbox":{"mailbox":"a"}}"#,
        r#"{"mailbox":"\ud800"}"#,
        r#"{"mailbox":"123456789"}"#,
    ] {
        assert_eq!(
            decode_object(raw, 4, 8),
            Err(ActionError::InvalidDest),
            "{raw}"
        );
    }
    let many = r#"{"mailbox":["a","b","c","d","e"]}"#;
    assert_eq!(decode_object(many, 4, 8), Err(ActionError::TooManyDest(4)));
}

#[test]
fn arrays_among_the_receivers_are_limited_all_together() {
    let array = format!("[{}1]", "1,".repeat(511));
    let dest = |count| format!("[{}]", vec![&*array; count].join(","));
    let most = (64 << 10) / array.len();
    assert!(decode_dest(&dest(most), 1000, 8192).is_ok());
    let length = array.len();
    assert_eq!(
        decode_dest(&dest(most + 1), 1000, 8192),
        Err(ActionError::DestTooLong(length, 8192))
    );
}

#[test]
fn frames_have_the_members_of_version_1_in_its_order() {
    let frame = |pieces: &[&str]| pieces.concat();
    assert_eq!(
        frame(&message("1", Some("\"k\""), Some("\"a\""))),
        r#"{"action":"message","message":1,"ack":"k","from":"a"}"#
    );
    assert_eq!(
        frame(&message("1", None, None)),
        r#"{"action":"message","message":1}"#
    );
    assert_eq!(
        frame(&answer("\"k\"", Some("\"a\""), Some("null"))),
        r#"{"action":"answer","ack":"k","from":"a","message":null}"#
    );
    assert_eq!(
        frame(&registered("\"a\"", 1)),
        r#"{"action":"registered","id":"a"}"#
    );
    assert_eq!(
        frame(&unregistered("\"a\"")),
        r#"{"action":"unregistered","id":"a"}"#
    );
    assert_eq!(
        frame(&register(None, None, 1, "")),
        r#"{"action":"register"}"#
    );
    assert_eq!(
        frame(&register(Some("1"), Some("\"t\""), 1, "")),
        r#"{"action":"register","id":1,"token":"t"}"#
    );
    assert_eq!(
        frame(&unregister(Some("5"))),
        r#"{"action":"unregister","id":5}"#
    );
    assert_eq!(
        frame(&send("1", "\"b\"", "\"k\"")),
        r#"{"action":"send","message":1,"dest":"b","ack":"k"}"#
    );
    assert_eq!(frame(&send("", "", "")), r#"{"action":"send"}"#);
    assert_eq!(
        frame(&client_answer("\"k\"", "1", Some("\"b\""))),
        r#"{"action":"answer","ack":"k","message":1,"from":"b"}"#
    );
}

#[test]
fn a_client_reads_the_four_actions_of_a_server() {
    let read = |text| decode_server_action(text, 1).unwrap();
    assert_eq!(
        read(r#"{"action":"registered","id":"a"}"#),
        ServerAction::Registered {
            protocol: 1,
            session: None
        }
    );
    assert_eq!(
        read(r#"{"action":"unregistered","id":"a"}"#),
        ServerAction::Unregistered {
            id: Some("\"a\""),
            code: None
        }
    );
    assert_eq!(
        read(r#"{"action":"message","message":1,"ack":""}"#),
        ServerAction::Message {
            topic: None,
            group: None,
            attempt: None,
            offset: None,
            mailbox: None,
            key: None,
            message: Some("1"),
            ack: None,
            from: None
        }
    );
    assert_eq!(
        read(r#"{"action":"answer","ack":"k","from":"b"}"#),
        ServerAction::Answer {
            ack: Some("\"k\""),
            from: Some("\"b\""),
            message: None,
            error: None
        }
    );
    assert_eq!(decode_server_action("null", 1), Err(ActionError::NotJson));
}

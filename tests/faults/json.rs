//! Texts that are not JSON, or too large.

use crate::{
    case::{count, crowd, endure},
    support::raw::{Raw, TEXT, frame},
};

/// Each is refused by itself; the connection stays open, as in version 1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_malformed_json_text_is_refused() {
    let whole = r#"{"action":"send","message":{"a":[1,"\u00e9"]},"dest":["nobody"],"ack":"k"}"#;
    let wrong = [
        "",
        " ",
        "\0",
        "{",
        "}",
        "nul",
        "nulll",
        "[1",
        "[1,]",
        "NaN",
        "-",
        "01",
        "1.",
        "'a'",
        "\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\t\"",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{}{}",
        "[]]",
        "{\"action\":\"register\",\"id\":\"x\"",
        "\u{feff}{}",
        "/**/{}",
        "undefined",
    ];
    endure("", count(10_000, 1_000_000), async |broker, count| {
        let before = broker.count("ERR_WSMB_JSON");
        let mut raw = Raw::register(broker, "culprit").await;
        let prefixes = (1..whole.len()).filter_map(|end| whole.get(..end));
        let texts: Vec<_> = prefixes.chain(wrong).collect();
        for text in texts.iter().cycle().take(count) {
            raw.send(text).await;
        }
        raw.send(r#"{"action":"unregister"}"#).await;
        let last = raw.receive().await;
        assert_eq!(last, r#"{"action":"unregistered","id":"culprit"}"#);
        let refused = broker.count("ERR_WSMB_JSON") - before;
        assert_eq!(refused, count as u64);
        raw.ended_by_us().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_malformed_json_closes_its_sender_if_so_configured() {
    endure(
        "max_protocol_errors=10",
        count(200, 10_000),
        async |broker, count| {
            crowd(count, 32, async |n| {
                let mut raw = Raw::register(broker, &format!("culprit {n}")).await;
                // One too many.
                raw.write(&frame(TEXT, "{").repeat(11)).await;
                assert_eq!(raw.close_code().await, 1008);
                raw.ended().await;
            })
            .await;
        },
    )
    .await;
}

/// Recursion over a million levels would overflow the stack. The message is passed on unchanged; in a member
/// that is decoded, such a value is refused or an unknown id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_of_a_million_levels_is_delivered_or_refused() {
    endure("", count(1_000_000, 10_000_000), async |broker, levels| {
        let before = broker.counters();
        let mut raw = Raw::register(broker, "culprit").await;
        let array = "[".repeat(levels) + &"]".repeat(levels);
        let object = r#"{"":"#.repeat(levels) + "0" + &"}".repeat(levels);
        for message in [&array, &object] {
            let send = format!(r#"{{"action":"send","message":{message},"dest":"culprit"}}"#);
            raw.send(&send).await;
            let (_, came) = raw.next().await.unwrap();
            let expected =
                format!(r#"{{"action":"message","message":{message},"from":"culprit"}}"#);
            assert!(came == expected.as_bytes());
        }
        for text in [
            format!(r#"{{"action":"register","id":{array}}}"#),
            format!(r#"{{"action":{array}}}"#),
            format!(r#"{{"action":"send","message":1,"dest":{array}}}"#),
            format!(r#"{{"action":"send","message":1,"dest":{object}}}"#),
            format!(r#"{{"action":"send","message":1,"dest":"culprit","ack":{array}}}"#),
            format!(r#"{{"action":"answer","ack":{array}}}"#),
            format!(r#"{{"action":"foreign","foreign":{object}}}"#),
            array[..array.len() - 1].to_owned(),
            array,
        ] {
            raw.send(&text).await;
        }
        // One of the acks is as good as another: that message comes, too.
        raw.send(r#"{"action":"unregister"}"#).await;
        while !raw
            .receive()
            .await
            .starts_with(r#"{"action":"unregistered""#)
        {}
        let after = broker.counters();
        for (code, expected) in [
            ("ERR_WSMB_ID", 1),
            ("ERR_WSMB_ACTION", 3),
            ("ERR_WSMB_DEST", 1),
            ("ERR_WSMB_MAX_ID_LENGTH", 2),
            ("ERR_WSMB_JSON", 1),
        ] {
            assert_eq!(after.get(code) - before.get(code), expected, "{code}");
        }
        raw.ended_by_us().await;
    })
    .await;
}

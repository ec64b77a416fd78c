use super::*;
use crate::cluster::claims::{Owner, Stamp};

/// A packet for an id, with bytes in place of frames.
fn packet(id: &str, is_eager: bool) -> Message<'_> {
    Message::Packet {
        is_eager,
        epoch: 7,
        id,
        frames: Rest(b"frames"),
    }
}

fn claims(node: NodeId) -> Vec<Claim> {
    let owners = [
        Owner::Anyone,
        Owner::Participant(node),
        Owner::Principal("".into()),
        Owner::Principal("null".into()),
        Owner::Principal("\0".into()),
    ];
    let stamp = Stamp { time: 5, node };
    let mut claims = Vec::new();
    for owner in owners {
        let claim = Claim::new("\0\"é".into(), stamp, owner);
        claims.push(claim.clone());
        claims.extend([0, 4, 5].map(|first| Claim {
            first,
            is_confirmed: true,
            ..claim.clone()
        }));
    }
    claims
}

/// At least one message of each kind.
fn all() -> Vec<Message<'static>> {
    let (node, of) = (NodeId(1 << 60), NodeId(2));
    let amount = |bytes, packets| Amount { bytes, packets };
    let credits = [1, u64::MAX].map(|link| {
        let credit = Credit {
            packet: link - 1,
            arrived: amount(1 << 20, 7),
            consumed: amount(3, 1),
        };
        (link, credit)
    });
    let mut all = vec![
        Message::Heartbeat {
            node,
            name: "a\u{0}é",
            epoch: 2,
            published: u64::MAX,
            drains: true,
            interest: 4,
        },
        Message::Interest {
            node,
            number: 3,
            is_all: true,
            added: vec!["a.b".into(), "$é".into()].into(),
            dropped: vec!["".into()].into(),
        },
        Message::InterestWanted { node },
        Message::Members {
            node,
            subject: "a.b",
            is_all: true,
            members: vec![("é".into(), "{}".into())].into(),
            left: vec!["b".into()].into(),
            count: Some(7),
        },
        Message::PresenceDigest {
            node,
            number: 3,
            digest: u64::MAX,
        },
        packet("a\u{0}é", false),
        packet("", true),
        Message::Credit {
            node,
            epoch: 2,
            credits: credits.to_vec().into(),
        },
        Message::Claims {
            node,
            number: 3,
            claims: claims(node).into(),
        },
        Message::Missed { node, of, after: 9 },
        Message::Bye { node },
        Message::Publication {
            node,
            number: 7,
            count: 2,
            last: 3,
            topic: "a.é",
            served: vec![GroupId(1), GroupId(u128::MAX)].into(),
            frames: Rest(b"frames"),
        },
        Message::TopicQuestion {
            node,
            number: 4,
            topic: "a.b",
        },
        Message::Receivers {
            node,
            part: 1,
            is_last: true,
            ids: vec!["a".into(), "".into()].into(),
            offers: vec![Offer {
                pattern: "a.*".into(),
                name: "g".into(),
                member: "é".into(),
                is_free: true,
            }]
            .into(),
        },
        Message::Waiting {
            node,
            pattern: "a.*",
            group: "g",
        },
        Message::Take {
            node,
            pattern: "a.*",
            group: "g",
            count: 3,
        },
        Message::GroupJob {
            hops: 1,
            pattern: "a.*",
            group: "g",
            frame: Rest(b"frame"),
        },
        Message::Empty {},
    ];
    for is_allowed in [false, true] {
        all.push(Message::OwnerAnswer { is_allowed });
    }
    for text in [None, Some(""), Some("alice")] {
        all.push(Message::OwnerQuestion {
            id: "a",
            principal: text,
        });
        all.push(Message::Search {
            node,
            number: 1,
            id: text,
        });
        all.push(Message::Repair {
            node,
            part: 1,
            all: text.map(|text| text.len() as u64),
            claims: claims(of).into(),
        });
        all.push(Message::Found {
            node,
            name: "b",
            part: 0,
            is_last: text.is_none(),
            ids: text.map(Into::into).into_iter().collect(),
        });
    }
    all
}

#[test]
fn messages_are_decoded_as_encoded() {
    let mut kinds = std::collections::BTreeSet::new();
    for message in all() {
        let bytes = message.encode();
        assert_eq!(bytes[0], VERSION);
        kinds.insert(bytes[1]);
        assert_eq!(Message::decode(&bytes), Ok(message));
    }
    assert!(
        kinds.into_iter().eq((1..=17).chain(20..=24)),
        "every kind is tested"
    );
    assert_eq!(Message::decode(&[VERSION, 255]), Err(Refusal::Kind(255)));
    assert_eq!(Message::decode(&[VERSION, 0]), Err(Refusal::Kind(0)));
}

#[test]
fn truncated_and_longer_messages_are_malformed() {
    for message in all() {
        let mut bytes = message.encode();
        let end = match message {
            // Any number of bytes may be frames.
            Message::Packet { id, .. } => PACKET_HEAD + id.len(),
            Message::Publication {
                topic, ref served, ..
            } => PUBLICATION_HEAD + topic.len() + served.len() * SERVED,
            Message::GroupJob { pattern, group, .. } => {
                GROUP_JOB_HEAD + pattern.len() + group.len()
            }
            _ => {
                bytes.push(0);
                bytes.len()
            }
        };
        for length in 0..end {
            let decoded = Message::decode(&bytes[..length]);
            let is_whole = length + 1 == bytes.len();
            let expected = if is_whole {
                Ok(&message)
            } else {
                Err(&Refusal::Malformed)
            };
            assert_eq!(decoded.as_ref(), expected, "{length} bytes of {message:?}");
        }
        if end == bytes.len() {
            assert_eq!(
                Message::decode(&bytes),
                Err(Refusal::Malformed),
                "{message:?}"
            );
        }
    }
}

#[test]
fn damaged_messages_are_malformed() {
    for bytes in [
        // A length beyond the end, a text that is not UTF-8, a flag and an owner of an unknown kind.
        &[VERSION, 11, 0, 0, 0, 0, 0, 0, 0, 1, 255, 255, 255, 255, 1][..],
        &[VERSION, PACKET, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff],
        &[VERSION, 4, 2],
        &[
            VERSION, 6, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 65,
            0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 3, 0,
        ],
    ] {
        assert_eq!(Message::decode(bytes), Err(Refusal::Malformed), "{bytes:?}");
    }
}

#[test]
fn other_versions_are_refused_and_a_heartbeat_names_its_broker() {
    for message in all() {
        for version in [0, VERSION + 1, 255] {
            let mut bytes = message.encode();
            bytes[0] = version;
            let name = match message {
                Message::Heartbeat { name, .. } => Some(name.to_owned()),
                _ => None,
            };
            let refusal = Message::decode(&bytes).expect_err("another version");
            assert_eq!(refusal, Refusal::Version { version, name });
        }
    }
    // Later versions may append to the heartbeat.
    let mut heartbeat = Message::Heartbeat {
        node: NodeId(1),
        name: "b2",
        epoch: 1,
        published: 0,
        drains: false,
        interest: 0,
    }
    .encode();
    heartbeat[0] = 2;
    heartbeat.extend(b"more");
    let refusal = Message::decode(&heartbeat).expect_err("another version");
    assert_eq!(
        refusal.to_string(),
        "messages of broker \"b2\" have format version 2, expected version 1: run the same version of wsmsgbroker \
         at all brokers of a namespace"
    );
}

#[test]
fn a_packet_is_recognized_and_marked_as_eager_without_decoding() {
    let mut bytes = packet("abc", false).encode();
    assert_eq!(
        (frames_in(&bytes, "abc"), is_eager(&bytes)),
        (Some(6), false)
    );
    make_eager(&mut bytes);
    assert_eq!(
        (frames_in(&bytes, "abc"), is_eager(&bytes)),
        (Some(6), true)
    );
    assert_eq!(Message::decode(&bytes), Ok(packet("abc", true)));
    for message in all() {
        let bytes = message.encode();
        let is_packet = matches!(message, Message::Packet { .. });
        assert_eq!(frames_in(&bytes, "").is_some(), is_packet, "{message:?}");
        let is_question = matches!(message, Message::OwnerQuestion { .. });
        assert_eq!(is_owner_question(&bytes), is_question, "{message:?}");
    }
    for bytes in [&[][..], &[VERSION], &[VERSION, PACKET]] {
        assert_eq!((frames_in(bytes, ""), is_eager(bytes)), (None, false));
    }
}

#[test]
fn a_publication_is_numbered_after_it_was_encoded() {
    for message in all() {
        let mut bytes = message.encode();
        let is_numbered = set_number(&mut bytes, 0x0102_0304_0506_0708);
        let expected = match message {
            Message::Publication {
                node,
                count,
                last,
                topic,
                ref served,
                frames,
                ..
            } => Message::Publication {
                node,
                number: 0x0102_0304_0506_0708,
                count,
                last,
                topic,
                served: served.clone(),
                frames,
            },
            ref other => other.clone(),
        };
        assert_eq!(is_numbered, matches!(message, Message::Publication { .. }));
        assert_eq!(Message::decode(&bytes), Ok(expected));
    }
    for length in 0..18 {
        let mut bytes = [VERSION, PUBLICATION].repeat(9);
        assert!(!set_number(&mut bytes[..length], 1));
    }
}

#[test]
fn long_lists_are_split_into_parts_without_loss() {
    for (count, bytes, parts) in [
        (0, 1, 0),
        (1, 1 << 20, 1),
        (ITEMS, 1, 1),
        (ITEMS + 1, 1, 2),
        (10, BYTES / 2, 5),
        (10, BYTES, 10),
    ] {
        let items: Vec<usize> = (0..count).collect();
        let (mut rest, mut found) = (&items[..], Vec::new());
        let mut seen = 0;
        while !rest.is_empty() {
            let (now, later) = part(rest, |_| bytes);
            assert!(!now.is_empty());
            found.extend_from_slice(now);
            (rest, seen) = (later, seen + 1);
        }
        assert_eq!((found, seen), (items, parts), "{count} of {bytes}");
    }
}

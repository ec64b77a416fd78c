//! Answers from connections that were not asked, or no longer are.

use crate::{
    case::{count, endure},
    support::raw::{Raw, TEXT, frame},
};

/// The ack of the request at stake.
const ACK: &str = "4f1c6a0e9d5b4c3e8a7f2b1d0c9e8f7a";

/// Sends a request from `a` to `b`; returns once `b` has received it.
async fn ask(a: &mut Raw, b: &mut Raw, ack: &str) {
    a.send(&format!(
        r#"{{"action":"send","message":1,"dest":"b","ack":"{ack}"}}"#
    ))
    .await;
    let request = format!(r#"{{"action":"message","message":1,"ack":"{ack}","from":"a"}}"#);
    assert_eq!(b.receive().await, request);
}

fn answer(ack: &str, message: &str) -> String {
    format!(r#"{{"action":"answer","ack":"{ack}","message":{message}}}"#)
}

/// Waits until all that a peer has sent is carried out.
async fn carried_out(raw: &mut Raw) {
    raw.send(r#"{"action":"register","id":"culprit"}"#).await;
    assert_eq!(
        raw.receive().await,
        r#"{"action":"registered","id":"culprit"}"#
    );
}

/// The responder's answer is the first frame that the asker receives.
async fn is_still_answered(a: &mut Raw, b: &mut Raw) {
    b.send(&answer(ACK, "2")).await;
    let expected = format!(r#"{{"action":"answer","ack":"{ACK}","from":"b","message":2}}"#);
    assert_eq!(a.receive().await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_with_a_guessed_ack_are_ignored() {
    endure("", count(100_000, 1_000_000), async |broker, count| {
        let (mut a, mut b) = (
            Raw::register(broker, "a").await,
            Raw::register(broker, "b").await,
        );
        ask(&mut a, &mut b, ACK).await;
        let mut culprit = Raw::register(broker, "culprit").await;
        for n in 0..count {
            let guess = match n % 4 {
                0 => format!("{n:032x}"),
                1 => ACK[..n % ACK.len()].to_owned(),
                2 => format!("{ACK}{n}"),
                // Known to it, as from a log: it was not asked all the same.
                _ => ACK.to_owned(),
            };
            culprit.send(&answer(&guess, "3")).await;
        }
        carried_out(&mut culprit).await;
        is_still_answered(&mut a, &mut b).await;
        for peer in [a, b, culprit] {
            peer.ended_by_us().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_cannot_be_answered_twice() {
    endure("", count(20_000, 200_000), async |broker, count| {
        let (mut a, mut b) = (
            Raw::register(broker, "a").await,
            Raw::register(broker, "b").await,
        );
        for n in 0..count.div_ceil(10) {
            let ack = format!("{n}");
            ask(&mut a, &mut b, &ack).await;
            // By the one who was asked, as often as it likes: the first counts.
            let replays = frame(TEXT, answer(&ack, &n.to_string())).repeat(10);
            b.write(&replays).await;
            let expected =
                format!(r#"{{"action":"answer","ack":"{ack}","from":"b","message":{n}}}"#);
            assert_eq!(a.receive().await, expected);
        }
        // Behind all replays: what is asked next is answered next.
        ask(&mut a, &mut b, ACK).await;
        is_still_answered(&mut a, &mut b).await;
        for peer in [a, b] {
            peer.ended_by_us().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pending_ack_cannot_be_taken_by_another_asker() {
    endure("", count(20_000, 200_000), async |broker, count| {
        let taken = broker.count("ERR_WSMB_ACK_TAKEN");
        let (mut a, mut b) = (
            Raw::register(broker, "a").await,
            Raw::register(broker, "b").await,
        );
        ask(&mut a, &mut b, ACK).await;
        let mut culprit = Raw::register(broker, "culprit").await;
        let steal =
            format!(r#"{{"action":"send","message":0,"dest":["culprit","b"],"ack":"{ACK}"}}"#);
        for _ in 0..count {
            culprit.send(&steal).await;
        }
        carried_out(&mut culprit).await;
        assert_eq!(broker.count("ERR_WSMB_ACK_TAKEN") - taken, count as u64);
        is_still_answered(&mut a, &mut b).await;
        for peer in [a, b, culprit] {
            peer.ended_by_us().await;
        }
    })
    .await;
}

/// Unanswered requests are bounded: beyond the limit the oldest ones expire.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unanswered_requests_are_bounded_and_end_with_their_asker() {
    const BATCH: usize = 1_000;
    let options = format!("max_pending_acks={BATCH}");
    endure(&options, count(50_000, 1_000_000), async |broker, count| {
        let mut b = Raw::register(broker, "b").await;
        let mut a = Raw::register(broker, "a").await;
        let batches = count.div_ceil(BATCH);
        for batch in 0..batches {
            let requests = (0..BATCH).flat_map(|n| {
                let ack = format!(r#""ack":"{batch} {n}""#);
                frame(
                    TEXT,
                    format!(r#"{{"action":"send","message":1,"dest":"b",{ack}}}"#),
                )
            });
            a.write(&requests.collect::<Vec<_>>()).await;
            for _ in 0..BATCH {
                b.next().await.unwrap();
            }
        }
        // Those of the canary come and go.
        let pending = broker.count("pending") as usize;
        assert!((BATCH..BATCH + 100).contains(&pending), "{pending}");
        // All but the last thousand have ended: the first answer that comes is that of the last.
        for batch in 0..batches {
            b.send(&answer(
                &format!("{batch} {}", BATCH - 1),
                &batch.to_string(),
            ))
            .await;
        }
        let last = format!(r#""message":{}}}"#, batches - 1);
        assert!(a.receive().await.ends_with(&last));
        b.ended_by_us().await;
        a.ended_by_us().await;
    })
    .await;
}

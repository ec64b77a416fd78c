//! Many connections that open and close, in every way there is.

use tokio::io::AsyncWriteExt;

use crate::{
    case::{count, crowd, endure},
    support::{
        raw::{REQUEST, Raw, TEXT, TEXT_FRAGMENT, frame},
        tcp,
    },
};

/// Those who are there at the same time.
const AT_ONCE: usize = 64;
/// Ways to end.
const ENDS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_in_any_way_leave_no_resources() {
    endure("", count(5_000, 100_000), async |broker, count| {
        crowd(count, AT_ONCE, async |n| {
            if n % ENDS == 0 {
                return drop(tcp(broker).await);
            }
            if n % ENDS == 1 {
                let mut socket = tcp(broker).await;
                let half = &REQUEST.as_bytes()[..n % REQUEST.len()];
                return socket.write_all(half).await.unwrap();
            }
            // Some take an id from each other.
            let mut raw = Raw::connect(broker).await;
            let register = format!(r#"{{"action":"register","id":"{}"}}"#, n % 100);
            raw.send(&register).await;
            match n % ENDS {
                // This client reads nothing, not even the server's frames.
                2 => {}
                3 => drop(raw.receive().await),
                4 => raw.0.get_ref().set_zero_linger().unwrap(),
                5 => raw.write(&frame(TEXT, register)[..20]).await,
                6 => raw.write(&frame(TEXT_FRAGMENT, register)).await,
                _ => {
                    // Asks itself, and goes before it answers.
                    let ask = format!(
                        r#"{{"action":"send","message":1,"dest":"{}","ack":{n}}}"#,
                        n % 100
                    );
                    raw.send(&ask).await;
                    raw.ended_by_us().await;
                }
            }
        })
        .await;
    })
    .await;
}

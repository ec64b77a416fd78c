//! Two peers that exchange messages while others misbehave, and check that none is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};

use super::{Listening, Peer};

/// Messages in a round.
const ROUND: u64 = 8;
/// Time between rounds, so that the canary leaves the processors to the test.
const PAUSE: Duration = Duration::from_millis(1);

/// A pair of peers that exchange numbered messages, requests and answers.
pub struct Canary {
    task: JoinHandle<u64>,
    stop_requested: Arc<AtomicBool>,
    exchanged: Arc<AtomicU64>,
}

impl Canary {
    pub async fn start(server: &impl Listening) -> Self {
        Self::between(Peer::connect(server).await, Peer::connect(server).await).await
    }

    /// Starts a canary between two peers that are connected.
    pub async fn between<S>(a: Peer<S>, b: Peer<S>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut a = a.registered("canary a").await;
        let mut b = b.registered("canary b").await;
        let stop_requested = Arc::new(AtomicBool::new(false));
        let exchanged = Arc::new(AtomicU64::new(0));
        let (stop, count) = (stop_requested.clone(), exchanged.clone());
        let task = tokio::spawn(async move {
            let mut number = 0;
            loop {
                // When asked to stop, it plays one more round.
                let last = stop.load(Relaxed);
                for n in number..number + ROUND {
                    a.send(&format!(
                        r#"{{"action":"send","message":{n},"dest":["canary b"],"ack":"c{n}"}}"#
                    ))
                    .await;
                }
                for n in number..number + ROUND {
                    assert_eq!(
                        b.receive().await,
                        format!(
                            r#"{{"action":"message","message":{n},"ack":"c{n}","from":"canary a"}}"#
                        )
                    );
                    b.send(&format!(
                        r#"{{"action":"answer","ack":"c{n}","message":{n}}}"#
                    ))
                    .await;
                }
                for n in number..number + ROUND {
                    assert_eq!(
                        a.receive().await,
                        format!(
                            r#"{{"action":"answer","ack":"c{n}","from":"canary b","message":{n}}}"#
                        )
                    );
                }
                number += ROUND;
                count.store(number, Relaxed);
                if last {
                    return number;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self {
            task,
            stop_requested,
            exchanged,
        }
    }

    /// Messages exchanged so far.
    pub fn exchanged(&self) -> u64 {
        self.exchanged.load(Relaxed)
    }

    /// Ends the canary; panics if anything was lost, late or out of order.
    pub async fn finish(self) {
        self.stop_requested.store(true, Relaxed);
        assert!(self.task.await.unwrap() >= ROUND);
    }
}

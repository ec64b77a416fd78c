//! Takes what other brokers send to an id, as long as that is ours.

use std::{
    future::poll_fn,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use tokio::{sync::oneshot, time::sleep};

use super::{
    Cluster,
    bus::{Delivery, Inlet, Publication},
    inbound::{Inbound, Taking},
    packet::{self, Packet},
    tally::Tally,
    tell,
};
use crate::{connection::Room, handle::Handle};

/// Once nobody listens for an id any more, all who asked it have given it up after this.
const ABANDONED: Duration = Duration::from_secs(6);

/// Takes what is for an id, until it is told to stop, or the cluster ends.
pub(super) async fn receive(
    cluster: &Arc<Cluster>,
    id: &Arc<str>,
    mut inlet: Box<dyn Inlet>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut tally = Tally::default();
    let mut asked = Weak::new();
    let Some(key) = cluster.shared().map(|shared| shared.next_key()) else {
        return;
    };
    // The id is not ours any more; and NATS was told.
    let (mut is_stopped, mut ends) = (false, false);
    loop {
        if is_stopped && !ends {
            ends = true;
            inlet.end().await;
        }
        let delivery = tokio::select! {
            biased;
            _ = &mut stopped, if !is_stopped => None,
            delivery = inlet.next() => match delivery {
                Some(delivery) => Some(delivery),
                None => break,
            },
        };
        let Some(delivery) = delivery else {
            is_stopped = true;
            continue;
        };
        if let (Some(from), true) = (delivery.from, packet::has_frames(&delivery.payload))
            && !is_stopped
        {
            tally.meet(cluster, from).await;
        }
        // Who does not read holds up nobody once the id is another's: NATS must hear of that.
        let mut takes = true;
        if !is_stopped {
            tokio::select! {
                biased;
                _ = &mut stopped => is_stopped = true,
                room = room(cluster, id, key) => takes = !matches!(room, Room::None),
            }
        }
        if is_stopped && !ends {
            ends = true;
            inlet.end().await;
        }
        // Who listens now may have taken what came later: nobody gets this any more.
        let taking = match (is_stopped, takes) {
            (true, _) => Taking::Nobody,
            (false, true) => Taking::All,
            (false, false) => Taking::Nothing,
        };
        take(cluster, id, delivery, taking, &mut asked, &mut tally).await;
    }
    tally.end(cluster).await;
    drop(inlet);
    if asked.strong_count() > 0 {
        sleep(ABANDONED).await;
        abandon(cluster, id, &asked);
    }
}

/// Whoever had an id and is still there answers in vain what it was asked by that from elsewhere.
fn abandon(cluster: &Cluster, id: &str, former: &Weak<Handle>) {
    let is_ours_again = cluster.claims.owner(id).is_some();
    if let (Some(shared), Some(former), false) = (cluster.shared(), former.upgrade(), is_ours_again)
    {
        let mut outcomes = Vec::new();
        shared.router.requests.abandon(&former, id, &mut outcomes);
        tell(&shared, &mut outcomes);
    }
}

/// `asked`: who was asked something last.
async fn take(
    cluster: &Cluster,
    id: &Arc<str>,
    delivery: Delivery,
    taking: Taking,
    asked: &mut Weak<Handle>,
    tally: &mut Tally,
) {
    let Some(from) = delivery.from else { return };
    match Packet::decode(&delivery.payload) {
        Some(Packet::Frames {
            id: for_id,
            epoch,
            frames,
        }) if *for_id == **id && cluster.meet(from.node, epoch) => {
            if let Some(shared) = cluster.shared() {
                let asker = cluster.asker(&shared, from.node);
                let mut inbound = Inbound::new(cluster, &shared, id, asker.as_ref(), taking);
                inbound.frames(frames);
                if let Some(owner) = inbound.asked() {
                    *asked = Arc::downgrade(owner);
                }
                inbound.end();
            }
            tally.took(cluster, from, frames.len()).await;
        }
        Some(Packet::Question {
            id: for_id,
            principal,
        }) if *for_id == **id => {
            let owner = cluster.claims.owner(id);
            let may = owner.is_none_or(|owner| owner.is_peer(principal));
            let publication = Publication {
                subject: cluster.subjects.place(from),
                reply: None,
                payload: if may { "yes" } else { "no" }.into(),
            };
            cluster.bus.publish(publication).await;
        }
        // Of another version; or for an id whose hash is the same.
        _ => {}
    }
}

/// Waits until the owner of an id takes something, as who sends to it here would.
async fn room(cluster: &Cluster, id: &str, key: u64) -> Room {
    let mut held = Held { by: None, key };
    poll_fn(|cx| {
        let Some(shared) = cluster.shared() else {
            return Poll::Ready(Room::Gone);
        };
        let Some(owner) = shared.router.find(id) else {
            return Poll::Ready(Room::Gone);
        };
        match shared.room(id, &owner, key, cx.waker(), || false) {
            Room::Held => {
                held.by = Some(owner);
                Poll::Pending
            }
            room => Poll::Ready(room),
        }
    })
    .await
}

/// Somebody is waited for, until this is dropped: nobody counts as slow for whom nobody waits.
struct Held {
    by: Option<Arc<Handle>>,
    key: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(by) = &self.by {
            by.outbox.unhold(self.key);
        }
    }
}

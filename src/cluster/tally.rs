//! How much of what others send was taken, and when they are told.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::{Duration, Instant},
};

use super::{
    Cluster,
    bus::{Place, Publication},
    link::{TELL_BYTES, TELL_PACKETS},
    packet::Taken,
};

/// What is known of a way by which nothing came for so long is forgotten.
const FORGET: Duration = Duration::from_secs(60);
/// How much came by each way, and was not told yet.
#[derive(Default)]
pub(super) struct Tally {
    ways: HashMap<Place, (Taken, Instant)>,
    looked: Option<Instant>,
}

impl Tally {
    /// Something has come by a way. Who sends by one that is new learns at once who takes it.
    pub(super) async fn meet(&mut self, cluster: &Cluster, from: Place) {
        if let Entry::Vacant(entry) = self.ways.entry(from) {
            let nothing = nothing(cluster);
            entry.insert((nothing, Instant::now()));
            tell_taken(cluster, from, nothing).await;
        }
    }

    /// Notes that a packet was taken, and tells that where it is time.
    pub(super) async fn took(&mut self, cluster: &Cluster, from: Place, bytes: usize) {
        let now = Instant::now();
        let nothing = nothing(cluster);
        let (taken, last) = self.ways.entry(from).or_insert((nothing, now));
        taken.bytes += bytes as u32;
        taken.packets += 1;
        *last = now;
        if taken.bytes >= TELL_BYTES || taken.packets >= TELL_PACKETS {
            let told = Taken {
                epoch: nothing.epoch,
                ..std::mem::replace(taken, nothing)
            };
            tell_taken(cluster, from, told).await;
        }
        if now - *self.looked.get_or_insert(now) > FORGET {
            self.looked = Some(now);
            let is_old = |_: &Place, (_, last): &mut (Taken, Instant)| now - *last > FORGET;
            let old: Vec<_> = self.ways.extract_if(is_old).collect();
            tell_rest(cluster, old).await;
        }
    }

    /// Tells what was not told yet: who listens next does not know of it.
    pub(super) async fn end(self, cluster: &Cluster) {
        tell_rest(cluster, self.ways).await;
    }
}

fn nothing(cluster: &Cluster) -> Taken {
    Taken {
        node: cluster.node.0,
        epoch: cluster.epoch(),
        bytes: 0,
        packets: 0,
    }
}

async fn tell_rest(cluster: &Cluster, ways: impl IntoIterator<Item = (Place, (Taken, Instant))>) {
    for (from, (taken, _)) in ways {
        // Who has taken nothing is who begins to.
        if taken.packets > 0 {
            tell_taken(cluster, from, taken).await;
        }
    }
}

async fn tell_taken(cluster: &Cluster, from: Place, taken: Taken) {
    let publication = Publication {
        subject: cluster.subjects.place(from),
        reply: None,
        payload: taken.encode().into(),
    };
    cluster.bus.publish(publication).await;
}

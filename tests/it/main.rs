//! Integration tests: one program with a module per subject, over real sockets. Tests that measure
//! their whole process are in `tests/process/`, faults and a broker in a process of its own in
//! `tests/faults/`.

mod adopt;
mod answers;
mod authentication;
mod backpressure;
mod certificates;
mod client;
mod client_version_2;
#[cfg(feature = "nats")]
mod cluster;
mod conversations;
mod directory;
mod groups;
mod handshake;
mod heartbeat;
mod jwt;
mod kept;
mod kept_on_disk;
mod limits;
mod max_memory;
mod messaging;
mod outcomes;
mod participant;
mod presence;
mod rates;
mod read_batches;
mod receipts;
mod shutdown;
mod slow_consumers;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod tls_handshake;
mod topics;
mod version_2;
mod violations;

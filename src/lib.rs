//! Message broker over WebSockets with addressed messages and requests, and a client for it.
//!
//! A message passes these modules:
//!
//! ```text
//!  socket ─▶ connection ─▶ protocol ─▶ broker ─▶ protocol ─▶ outbox ─▶ socket
//!            one task       decode     registry,   encode    bounded
//!                                      admission
//! ```
//!
//! | module | contents |
//! | --- | --- |
//! | [`server`] | binds, accepts, limits and closes; joins a cluster |
//! | `connection` | the task of one accepted connection, and its commands |
//! | `broker` | state and decisions: owners of ids, admission, pending requests |
//! | `cluster` | delivery to other brokers over NATS |
//! | `protocol` | JSON actions and frames between brokers: decode and encode, without I/O |
//! | `transport` | sockets, TLS, WebSocket handshakes and frames, outboxes, heartbeats |
//! | [`client`] | the Rust client |
//! | [`auth`] | authentication and grants: JWT, hook, id patterns, origins |
//! | `memory` | accounting of buffers and tables, and eviction when memory is short |
//! | `sync` | locks and atomics, replaced by shuttle's in concurrency tests |
//! | [`options`], [`event`], [`metrics`], [`error`] | limits and defaults; events; counters; errors |
//!
//! The core starts no runtime and installs no global state: the embedder passes a
//! [`tokio::runtime::Handle`]. The Node.js addon is such an embedder (`node`, feature `node`).

pub mod auth;
pub mod client;
pub mod error;
pub mod event;
pub mod metrics;
pub mod options;
pub mod server;

mod broker;
#[cfg_attr(not(feature = "nats"), allow(dead_code))]
mod cluster;
mod connection;
mod memory;
mod protocol;
mod store;
mod sync;
mod topic;
mod transport;

#[cfg(all(test, feature = "shuttle"))]
mod concurrency;

#[cfg(feature = "node")]
mod node;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
#[path = "../fuzz/properties/mod.rs"]
pub mod fuzzing;

#[cfg(feature = "bench")]
#[doc(hidden)]
#[path = "../benches/micro/door.rs"]
pub mod bench;

pub use auth::{Authentication, Authorization};
pub use client::Client;
pub use cluster::Found;
pub use error::{ActionError, Error, Result};
pub use event::{
    ClientEvent, ClientListener, ClusterEvent, ConnectionInfo, KeptState, ServerEvent,
    ServerListener, Slow, Traffic,
};
pub use metrics::{BOUNDS, ByLabel, CloseReason, ClusterStats, Format, HostStats, Stats, Times};
#[cfg(unix)]
pub use options::InheritedSocket;
pub use options::{
    AdminOptions, ClientOptions, KeepRule, Listen, MailboxRule, NatsAuth, NatsOptions, Pem,
    ProxyOptions, RateLimit, ServerOptions, SessionOptions, SlowConsumer, StoreOptions, StoreSync,
    TlsClientOptions, TlsServerOptions, TlsVersion, TrustProxy, TrustStore,
};
pub use server::{
    Address, AdoptedSocket, AdoptedUpgrade, Bridge, BridgeEvent, BridgeOutput, MailboxUsage, Server,
};

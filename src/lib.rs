//! Addressed messages and request/answer over WebSockets: the broker, and a client for it.
//!
//! Read the modules in the order in which a message passes them:
//!
//! ```text
//!  socket ─▶ connection ─▶ protocol ─▶ router ─▶ protocol ─▶ outbox ─▶ socket
//!            one task       decode     who? where?  encode    bounded
//! ```
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`server`] | bind, accept loop, limits, graceful close |
//! | `handshake` | the HTTP request head: refuse it, or accept it as a WebSocket |
//! | `connection` | one accepted socket: the task that reads, routes and closes |
//! | `framing` | bytes to WebSocket messages, and message headers to bytes |
//! | `protocol` | JSON actions: decode and encode; pure |
//! | `router` | who is registered under which id |
//! | `requests` | who awaits which answer |
//! | `cluster` | the other brokers: how what is for their ids gets there, over NATS |
//! | `handle` | what others hold of a connection |
//! | `outbox` | the bounded queue of bytes toward one socket |
//! | `sync` | the locks and atomics between threads |
//! | `tls` | certificates, and TLS between us and a socket |
//! | `heartbeat` | whether a peer is still there |
//! | `memory` | what buffers and tables hold, and what happens when that is too much |
//! | [`auth`] | who a client is and what it may do: grants, JWT, patterns, origins |
//! | [`client`] | the other end: a handle, and the task that owns its socket |
//! | `dial` | the client's way to a WebSocket |
//! | [`options`], [`event`], [`metrics`], [`error`] | every bound; all an embedder hears; counters; errors |
//!
//! The core starts no runtime and installs nothing global: the embedder hands in a
//! [`tokio::runtime::Handle`]. The Node.js addon is such an embedder (`node/`, feature `node`).

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
mod sync;
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

pub use auth::Authentication;
pub use client::Client;
pub use cluster::Found;
pub use error::{ActionError, Error, Result};
pub use event::{ClientEvent, ClientListener, ClusterEvent, ServerEvent, ServerListener, Slow};
pub use metrics::{ClusterStats, Stats};
pub use options::{
    ClientOptions, Listen, NatsAuth, NatsOptions, Pem, RateLimit, ServerOptions, SlowConsumer,
    TlsClientOptions, TlsServerOptions, TlsVersion,
};
pub use server::{Address, Server};

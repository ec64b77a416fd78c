//! Bytes between this process and its peers: sockets, TLS, WebSocket handshakes and frames, and the queue of
//! bytes toward each peer. Knows no broker: neither ids nor requests.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `socket` | the two halves of a stream socket, or of a pair within the process |
//! | `uplink` | the trait of a write half that leads to another broker |
//! | `tls` | certificates, and TLS between a socket and its reader and writers |
//! | `handshake` | the server's side of the HTTP upgrade |
//! | `dial` | the client's side: addresses, connection, upgrade |
//! | `framing` | WebSocket frames: bytes to messages, and messages to bytes |
//! | `outbox` | the bounded queue of bytes toward one peer, and backpressure |
//! | `heartbeat` | pings, and when a peer counts as dead |

pub(crate) mod dial;
pub(crate) mod framing;
pub(crate) mod handshake;
pub(crate) mod heartbeat;
pub(crate) mod outbox;
pub(crate) mod socket;
pub(crate) mod tls;
pub(crate) mod uplink;

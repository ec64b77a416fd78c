//! Transport: moves bytes between this process and its peers over sockets, TLS and WebSocket frames, with a
//! bounded write queue per peer. It has no notion of a broker, an id or a request.
//!
//! | file | contents |
//! | --- | --- |
//! | `socket` | the read and write half of a stream socket, or of an in-process socket pair |
//! | `uplink` | the trait of a write half that leads to another broker |
//! | `tls` | certificates, and the start of a TLS session over a socket |
//! | `proxy_protocol` | the header with which a proxy names the client of a connection |
//! | `handshake` | the server side of the HTTP upgrade |
//! | `dial` | the client side: name lookup, TCP connection, TLS, upgrade |
//! | `framing` | decodes bytes to WebSocket messages, and encodes messages to frames |
//! | `outbox` | the bounded write queue of one peer, with backpressure |
//! | `heartbeat` | pings, and detection of dead peers |

pub(crate) mod dial;
pub(crate) mod framing;
pub(crate) mod handshake;
pub(crate) mod heartbeat;
pub(crate) mod outbox;
pub(crate) mod proxy_protocol;
pub(crate) mod socket;
pub(crate) mod tls;
pub(crate) mod uplink;

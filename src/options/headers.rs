//! Validates the headers that a client adds to its handshake.

use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};

use crate::error::{Error, Result};

/// Parses a header that a client adds to its handshake.
///
/// Errors: `InvalidOption` for a name or value that HTTP does not allow, and for the headers of the handshake
/// itself.
pub(crate) fn parse(name: &str, value: &str) -> Result<(HeaderName, HeaderValue)> {
    let ours = |name: &HeaderName| {
        let name = name.as_str();
        matches!(name, "host" | "connection" | "upgrade") || name.starts_with("sec-websocket-")
    };
    let reason = match (name.parse::<HeaderName>(), value.parse()) {
        (Ok(name), Ok(value)) if !ours(&name) => return Ok((name, value)),
        (Ok(_), Ok(_)) => format!("sets \"{name}\", which is part of the handshake"),
        _ => format!("has an invalid name or value for \"{name}\""),
    };
    let name = "headers";
    Err(Error::InvalidOption { name, reason })
}

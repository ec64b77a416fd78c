//! The path of the WebSocket endpoint, as clients send it in their requests.

use std::borrow::Cow;

use crate::error::{Error, Result};

/// Escapes characters that a URL cannot contain, as clients do: all but visible ASCII, and a few of those. Escapes
/// stay as they are.
pub(crate) fn encode(path: &str) -> Cow<'_, str> {
    if path.bytes().all(is_safe) {
        return Cow::Borrowed(path);
    }
    let mut encoded = String::with_capacity(path.len() + 8);
    for byte in path.bytes() {
        match is_safe(byte) {
            true => encoded.push(byte.into()),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    Cow::Owned(encoded)
}

/// True for the characters that `lib/path.js` does not escape either.
fn is_safe(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte)
}

/// Refuses a path that no request can have.
pub(super) fn validate(path: &str) -> Result<()> {
    match path.contains(['?', '#']) {
        false => Ok(()),
        true => Err(Error::InvalidOption {
            name: "path",
            reason: format!("is {path:?}, expected a path without \"?\" and \"#\""),
        }),
    }
}

/// Refuses a health path that is none, or that of the endpoint.
pub(super) fn validate_health(health: &str, endpoint: &str) -> Result<()> {
    let reason = match health {
        _ if !health.starts_with('/') || health.contains(['?', '#']) => {
            "expected a path such as \"/healthz\""
        }
        _ if health == endpoint => "is the path of the endpoint",
        _ => return Ok(()),
    };
    Err(Error::InvalidOption {
        name: "health",
        reason: format!("is {health:?}: {reason}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_outside_of_urls_are_escaped_once() {
        for (path, encoded) in [
            ("/", "/"),
            ("/a-b_c.d~e/!$&'()*+,;=:@[]", "/a-b_c.d~e/!$&'()*+,;=:@[]"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/a b", "/a%20b"),
            ("/caf%c3%a9%", "/caf%c3%a9%"),
            ("/\"<>\\^`{|}\n\u{7f}", "/%22%3C%3E%5C%5E%60%7B%7C%7D%0A%7F"),
        ] {
            assert_eq!(encode(path), encoded);
            assert_eq!(encode(&encode(path)), encoded);
        }
    }

    #[test]
    fn a_path_that_no_request_can_have_is_refused() {
        validate("/a%3Fb").unwrap();
        for path in ["/?", "/a?b=c", "#", "/a#b"] {
            let error = validate(path).unwrap_err();
            assert!(matches!(error, Error::InvalidOption { name: "path", .. }));
        }
    }
}

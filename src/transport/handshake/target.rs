//! The target of a request and its `Host` header (RFC 9112, 3.2).

use super::Refusal;

/// The path and the host that a request is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestTarget<'a> {
    /// Without the query.
    pub(super) path: &'a str,
    /// Host and port.
    pub(super) host: &'a str,
}

/// Parses the target of a request, whose header `Host` has the value `host`.
///
/// A target may be a full URL, as sent to a proxy: then the URL determines the host.
///
/// Errors: the target is neither a path nor a URL, or the host is invalid.
pub(super) fn read<'a>(target: &'a str, host: &'a str) -> Result<RequestTarget<'a>, Refusal> {
    if !is_host(host) {
        return Err(Refusal::BadRequest);
    }
    let without_query = target.split('?').next().unwrap_or_default();
    if without_query.starts_with('/') {
        let path = without_query;
        return Ok(RequestTarget { path, host });
    }
    let (scheme, rest) = without_query.split_once("://").ok_or(Refusal::BadRequest)?;
    let is_ours = |known: &&str| scheme.eq_ignore_ascii_case(known);
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let is_meant = ["http", "https", "ws", "wss"].iter().any(is_ours);
    match is_meant && !host.is_empty() && is_host(host) {
        true => Ok(RequestTarget { path, host }),
        false => Err(Refusal::BadRequest),
    }
}

/// True for a host with or without a port, as allowed in a URL (RFC 3986, 3.2.2), and for an empty one. A
/// comma is excluded: it would separate two hosts.
fn is_host(text: &str) -> bool {
    let is_of_host =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(&byte);
    text.bytes().all(is_of_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_path_or_a_url_that_determines_the_host() {
        for (target, path, host) in [
            ("/", "/", "a:1"),
            ("/foo?x=/y?z", "/foo", "a:1"),
            ("/x://b/foo", "/x://b/foo", "a:1"),
            ("http://b/foo?x", "/foo", "b"),
            ("WSS://[::1]:80/", "/", "[::1]:80"),
            ("ws://b", "/", "b"),
            ("ws://b?x", "/", "b"),
        ] {
            assert_eq!(read(target, "a:1"), Ok(RequestTarget { path, host }));
        }
        for target in [
            "",
            "*",
            "foo",
            "?x",
            "a:1",
            "ftp://a/",
            "http:///",
            "http://",
            "http://u@a/",
            "http:/a",
        ] {
            assert_eq!(read(target, "a"), Err(Refusal::BadRequest), "{target}");
        }
    }

    #[test]
    fn a_host_has_only_characters_that_a_url_allows() {
        for host in ["", "a", "a.example:9042", "[::1]:80", "a_b", "xn--a~%20"] {
            assert!(read("/", host).is_ok(), "{host}");
        }
        for host in [
            "a b", "a,b", "a/b", "u@a", "a?", "a#", "\u{e9}", "a\\b", "\"a\"",
        ] {
            assert_eq!(read("/", host), Err(Refusal::BadRequest), "{host}");
        }
    }
}

//! Checks the `Origin` header: which web pages may connect.
//!
//! Browsers send the origin of the page that opens a WebSocket, but do not restrict it: the server must
//! decide. Other programs can send any origin, so this check protects the users of browsers, not the broker.

use crate::error::{Error, Result};

/// The origin of a page: scheme, host and port. Compared case-insensitively.
struct Origin<'a> {
    scheme: &'a str,
    host: &'a str,
    port: Option<u16>,
}

/// True if a page of this origin may connect.
///
/// With a list, the origin must equal one of its entries (`https://a` equals `https://a:443`), or the list
/// must contain `*`, which allows all. `https://*.example.org` allows all subdomains of `example.org`, at any
/// depth, but not `example.org`. `null`, the origin of a page without one, must be listed.
///
/// Without a list, the page must come from the host and port in the `Host` header of the request. If a proxy
/// terminates TLS, the request arrives as plain HTTP, so the scheme of the page is accepted as it is; if this
/// server terminates TLS (`secure`), a page loaded without TLS is refused. A host name that resolves to a
/// private address equals itself, so a broker in a private network should list its origins.
pub(crate) fn is_allowed(
    origin: &str,
    allowed: Option<&[String]>,
    host: Option<&str>,
    secure: bool,
) -> bool {
    let page = Origin::parse(origin);
    let Some(allowed) = allowed else {
        return page.is_some_and(|page| page.is_of(host, secure));
    };
    allowed.iter().any(|entry| match (&page, entry.as_str()) {
        (_, "*") => true,
        (None, "null") => origin == "null",
        (None, _) => false,
        (Some(page), entry) => match Subdomains::parse(entry) {
            Some(subdomains) => subdomains.contain(page),
            None => Origin::parse(entry).is_some_and(|entry| page.is(&entry)),
        },
    })
}

/// The subdomains of a domain: `https://*.example.org`.
struct Subdomains<'a> {
    scheme: &'a str,
    domain: &'a str,
    port: Option<u16>,
}

impl<'a> Subdomains<'a> {
    /// None if the entry has no wildcard, or not as the whole first label, or if anyone can register a subdomain
    /// of the domain, as of `org`.
    fn parse(entry: &'a str) -> Option<Self> {
        let (scheme, authority) = entry.split_once("://*.")?;
        let (domain, port) = split_authority(authority)?;
        // A scheme is valid whatever the host.
        let is_scheme = is_scheme(scheme);
        let labels: Vec<_> = domain.split('.').collect();
        let is_domain = labels.iter().all(|label| !label.is_empty())
            // The last label of an IPv4 address is a number.
            && !labels.last()?.bytes().all(|byte| byte.is_ascii_digit())
            && !domain.starts_with('[');
        let is_narrow = labels.len() > 1 || domain.eq_ignore_ascii_case("localhost");
        (is_scheme && is_domain && is_narrow).then_some(Self {
            scheme,
            domain,
            port,
        })
    }

    fn contain(&self, page: &Origin<'_>) -> bool {
        let Some(at) = page.host.len().checked_sub(self.domain.len()) else {
            return false;
        };
        // The host is ASCII.
        let (labels, domain) = page.host.split_at(at);
        let is_subdomain = labels
            .strip_suffix('.')
            .is_some_and(|labels| labels.split('.').all(|label| !label.is_empty()));
        let host = Origin {
            scheme: self.scheme,
            host: domain,
            port: self.port,
        };
        let parent = Origin {
            host: domain,
            ..*page
        };
        is_subdomain && domain.eq_ignore_ascii_case(self.domain) && parent.is(&host)
    }
}

/// Refuses entries that match no page.
pub(crate) fn validate(allowed: &[String]) -> Result<()> {
    let is_valid = |entry: &&String| {
        matches!(entry.as_str(), "*" | "null")
            || Origin::parse(entry).is_some()
            || Subdomains::parse(entry).is_some()
    };
    match allowed.iter().find(|entry| !is_valid(entry)) {
        None => Ok(()),
        Some(entry) => Err(Error::InvalidOption {
            name: "allowedOrigins",
            reason: format!(
                "has {entry:?}, expected \"*\", \"null\", an origin like \"https://example.com\" or the \
                 subdomains of one like \"https://*.example.com\""
            ),
        }),
    }
}

impl<'a> Origin<'a> {
    /// Parses an origin as browsers write it: no path, no user, an ASCII host.
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let (host, port) = split_authority(authority)?;
        is_scheme(scheme).then_some(Self { scheme, host, port })
    }

    fn is(&self, other: &Origin<'_>) -> bool {
        self.scheme.eq_ignore_ascii_case(other.scheme)
            && self.host.eq_ignore_ascii_case(other.host)
            && self.port.or(self.default_port()) == other.port.or(other.default_port())
    }

    /// True if the page comes from the host of this request.
    fn is_of(&self, host: Option<&str>, secure: bool) -> bool {
        let Some((host, port)) = host.and_then(split_authority) else {
            return false;
        };
        let default = self.default_port();
        default.is_some()
            && (self.scheme.eq_ignore_ascii_case("https") || !secure)
            && self.host.eq_ignore_ascii_case(host)
            && self.port.or(default) == port.or(default)
    }

    /// The default port of the scheme; none for schemes other than HTTP and HTTPS.
    fn default_port(&self) -> Option<u16> {
        match self.scheme {
            scheme if scheme.eq_ignore_ascii_case("http") => Some(80),
            scheme if scheme.eq_ignore_ascii_case("https") => Some(443),
            _ => None,
        }
    }
}

fn is_scheme(text: &str) -> bool {
    let is_of_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(is_of_scheme)
}

/// Parses `host`, `host:port` or `[IPv6]:port`.
fn split_authority(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        // Colons within brackets belong to the address.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_host = match host.strip_prefix('[') {
        Some(address) => address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        }
    };
    let port = match port {
        None => None,
        // `parse` alone would accept a sign.
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().ok()?),
        Some(_) => return None,
    };
    is_host.then_some((host, port))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn list(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|&entry| entry.into()).collect()
    }

    /// Checks with a list, which needs no `Host`.
    fn listed(origin: &str, entry: &str) -> bool {
        is_allowed(origin, Some(&list(&["https://other", entry])), None, false)
    }

    fn same(origin: &str, host: &str, secure: bool) -> bool {
        is_allowed(origin, None, Some(host), secure)
    }

    #[test]
    fn an_entry_allows_its_origin_whatever_the_case_and_the_default_port() {
        for (origin, entry) in [
            ("https://a.example", "https://a.example"),
            ("https://a.example", "HTTPS://A.example:443"),
            ("https://a.example:443", "https://a.example"),
            ("http://a.example", "http://a.example:80"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("http://[::1]", "http://[::1]:80"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("moz-extension://0a-1b", "moz-extension://0a-1b"),
        ] {
            assert!(listed(origin, entry), "{origin} {entry}");
        }
    }

    #[test]
    fn a_wildcard_allows_subdomains_at_any_depth() {
        for (origin, entry) in [
            ("https://a.example.org", "https://*.example.org"),
            ("https://b.a.example.org", "https://*.example.org"),
            ("https://A.Example.ORG", "HTTPS://*.example.org:443"),
            ("https://a.example.org:443", "https://*.Example.org"),
            ("http://a.localhost:3000", "http://*.localhost:3000"),
            ("https://xn--caf-dma.example.org", "https://*.example.org"),
        ] {
            assert!(listed(origin, entry), "{origin} {entry}");
        }
        for origin in [
            "https://example.org",
            "https://.example.org",
            "https://..example.org",
            "https://a..example.org",
            "https://.a.example.org",
            "https://evilexample.org",
            "https://evil-example.org",
            "https://a.example.org.evil",
            "https://a.example.org.",
            "https://*.example.org",
            "https://a.example.com",
            "http://a.example.org",
            "https://a.example.org:8443",
            "https://a.example.org:80",
            "https://evil/.example.org",
            "https://evil@a.example.org",
            "https://evil#.example.org",
            "wss://a.example.org",
            "a.example.org",
            "null",
            "",
        ] {
            assert!(!listed(origin, "https://*.example.org"), "{origin}");
        }
        assert!(!listed("http://a.localhost", "http://*.localhost:3000"));
    }

    #[test]
    fn an_entry_allows_nothing_else() {
        for (origin, entry) in [
            ("http://a.example", "https://a.example"),
            ("https://a.example:8443", "https://a.example"),
            ("https://a.example:80", "https://a.example"),
            ("https://b.a.example", "https://a.example"),
            ("https://a.example.evil", "https://a.example"),
            ("https://evil-a.example", "https://a.example"),
            ("https://a.example@evil", "https://a.example"),
            ("https://a.example/", "https://a.example"),
            ("https://a.example:443:443", "https://a.example"),
            ("https://a.example:", "https://a.example"),
            ("https://a.example:+443", "https://a.example"),
            ("https://a.example:65979", "https://a.example"),
            (" https://a.example", "https://a.example"),
            ("https://a.example https://evil", "https://a.example"),
            ("a.example", "https://a.example"),
            ("//a.example", "https://a.example"),
            ("", "https://a.example"),
            ("null", "https://a.example"),
            ("https://null", "null"),
            ("NULL", "null"),
            ("", ""),
        ] {
            assert!(!listed(origin, entry), "{origin} {entry}");
        }
        assert!(!is_allowed("https://a", Some(&[]), Some("a"), true));
    }

    #[test]
    fn null_must_be_listed() {
        assert!(listed("null", "null"));
        assert!(!same("null", "null", false));
    }

    #[test]
    fn a_star_allows_all() {
        for origin in ["https://a.example", "null", "", "junk"] {
            assert!(listed(origin, "*"), "{origin}");
        }
    }

    #[test]
    fn without_a_list_the_page_must_come_from_the_host_of_the_request() {
        for (origin, host) in [
            ("http://a.example", "a.example"),
            ("http://a.example", "A.example:80"),
            ("http://a.example:8080", "a.example:8080"),
            ("http://[::1]:8080", "[::1]:8080"),
            // TLS that ends at a proxy.
            ("https://a.example", "a.example"),
            ("https://a.example", "a.example:443"),
            ("https://a.example:8443", "a.example:8443"),
        ] {
            assert!(same(origin, host, false), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://a.example", "b.example"),
            ("http://a.example", "a.example:443"),
            ("http://a.example", "a.example:8080"),
            ("http://a.example:8080", "a.example"),
            ("https://a.example", "a.example:80"),
            ("http://a.example", ""),
            ("http://a.example", "http://a.example"),
            ("http://a.example", "a.example, b.example"),
            ("chrome-extension://a", "a"),
            ("junk", "junk"),
            ("", ""),
        ] {
            assert!(!same(origin, host, false), "{origin} {host}");
        }
        assert!(!is_allowed("http://a", None, None, false));
    }

    #[test]
    fn a_plain_http_page_is_no_same_origin_if_the_server_uses_tls() {
        assert!(same("https://a.example", "a.example", true));
        assert!(!same("http://a.example", "a.example", true));
        assert!(!same("http://a.example:443", "a.example:443", true));
    }

    #[test]
    fn entries_that_could_never_match_are_refused() {
        let ok = list(&[
            "*",
            "null",
            "https://a.example",
            "http://[::1]:80",
            "x://y",
            "https://*.a.example",
            "http://*.localhost:3000",
        ]);
        validate(&ok).unwrap();
        for entry in [
            "",
            "a.example",
            "https://a.example/",
            "https://a.example/path",
            "https://user@a.example",
            "https://*",
            "https://*.",
            "https://*.org",
            "https://*a.example",
            "https://a.*.example",
            "https://*.*.example",
            "https://*.a.*",
            "https://a.*",
            "https://*.a..example",
            "https://*..a.example",
            "https://*.a.example.",
            "https://*.a.example/",
            "https://*.a.example:*",
            "https://*.1.2.3",
            "https://*.[::1]",
            "*://a.example",
            "*://*.a.example",
            "*.a.example",
            "://*.a.example",
            "https://*.user@a.example",
            "https://ä.example",
            "https://",
            "https://a:b",
            "https://[::1",
            "https://[junk]",
            "1://a",
        ] {
            let error = validate(&list(&["https://a", entry])).unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::InvalidOption {
                        name: "allowedOrigins",
                        ..
                    }
                ),
                "{entry}"
            );
        }
    }

    #[test]
    fn no_random_text_is_allowed() {
        let mut random = StdRng::seed_from_u64(1);
        let allowed = list(&["https://b.example", "http://[::1]:8080", "null"]);
        let pieces = [
            "http", "https", "://", ":", "/", "a", ".", "example", "[", "]", "::1", "443", "8080",
            "@", "*", "\0", "ä", " ",
        ];
        let mut same = 0;
        for _ in 0..50_000 {
            let mut text = || -> String {
                let count = random.random_range(0..5);
                let piece = |_| pieces[random.random_range(0..pieces.len())];
                (0..count).map(piece).collect()
            };
            let (origin, host) = (format!("https://{}", text()), text());
            assert!(
                !is_allowed(&origin, Some(&allowed), None, false),
                "{origin}"
            );
            if is_allowed(&origin, None, Some(&host), true) {
                let (_, authority) = origin.split_once("://").unwrap();
                assert_eq!(authority.replace(":443", ""), host.replace(":443", ""));
                same += 1;
            }
            is_allowed(&text(), Some(&allowed), Some(&text()), false);
        }
        assert!(same > 0, "the texts are too wild to say anything");
    }
}

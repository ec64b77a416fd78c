//! Authentication and authorization: identifies a client, and limits what it may do.
//!
//! A client that registers presents [`Credentials`]; an implementation of [`Authenticate`] returns a
//! [`Grant`] or [`Denied`]. [`Jwt`] is one, built from a key and a few rules. This module owns no task and no
//! socket.
//!
//! | file | contents |
//! | --- | --- |
//! | `auth` | credentials, grants and denials |
//! | `authenticator` | checks registrations by tokens, or by the embedder's hook |
//! | `authorizer` | the embedder's hook for subscriptions beyond a grant |
//! | `jwt`, `key` | tokens, and the keys that verify them |
//! | `verify` | the cryptography of tokens |
//! | `pattern` | globs over ids |
//! | `peer` | data of a peer from its handshake |
//! | `topics` | patterns over topics |
//! | `origin` | checks the origin of web pages |

mod authenticator;
mod authorizer;
mod jwt;
mod key;
pub(crate) mod origin;
mod pattern;
mod peer;
mod topics;
mod verify;

use std::{borrow::Cow, fmt, pin::Pin, sync::Arc, time::SystemTime};

pub use authenticator::Authentication;
pub(crate) use authenticator::{AuthResult, Authenticator};
pub(crate) use authorizer::Authorizer;
pub use authorizer::{Authorization, Authorize, Permission, TopicRequest};
pub use jwt::{Jwt, JwtOptions, Subject};
pub use key::JwtKey;
pub use pattern::Patterns;
pub(crate) use peer::Peer;
pub use topics::TopicPatterns;

/// Bytes of a reason. A close frame has room for 123; some implementations need a spare byte.
const MAX_REASON: usize = 120;

/// The credentials that a client presents when it registers.
#[derive(Clone)]
pub struct Credentials {
    /// The requested id.
    pub id: Arc<str>,
    /// The token of the registration.
    pub token: Option<String>,
    /// The headers of the handshake in order, with lower-case names.
    pub headers: Arc<[(String, String)]>,
    /// The target of the request, as sent: path and query.
    pub url: Arc<str>,
    /// The certificate of the client in DER, if one was requested and verified.
    pub certificate: Option<Arc<[u8]>>,
    /// Facts about the client from the embedder's HTTP server, as JSON text; see
    /// [`Server::adopt`](crate::Server::adopt).
    pub context: Option<Arc<str>>,
    /// The address of the peer of the socket, or with `trust_proxy` that of the client behind the proxy. Empty
    /// if unknown.
    pub remote_address: String,
    /// True if the socket uses TLS, or with `trust_proxy` if the proxy reports so.
    pub secure: bool,
}

impl Credentials {
    /// The first header with this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(found, _)| found == name);
        header.map(|(_, value)| value.as_str())
    }

    /// Bytes of all texts.
    pub(crate) fn size(&self) -> usize {
        let token = self.token.as_ref().map_or(0, String::len);
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len());
        let certificate = self.certificate.as_ref().map_or(0, |der| der.len());
        let context = self.context.as_ref().map_or(0, |text| text.len());
        let others = context + self.id.len() + self.url.len() + self.remote_address.len();
        others + token + certificate + headers.sum::<usize>()
    }
}

/// Omits secrets: the token, the query, and the headers, which may contain cookies.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .field("remote_address", &self.remote_address)
            .field("secure", &self.secure)
            .finish_non_exhaustive()
    }
}

/// The permissions of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The identity of the client. Ids belong to principals: no other principal can take one over. A
    /// principal that begins with NUL is refused.
    pub principal: Arc<str>,
    /// The ids it may send to; `None` is any. Answering a request needs no permission.
    pub send: Option<Patterns>,
    /// The topics it may send to.
    pub publish: TopicPatterns,
    /// The topics it may subscribe to.
    pub subscribe: TopicPatterns,
    /// The topics whose members it may see.
    pub presence: TopicPatterns,
    /// The ids of which it may see whether they are online.
    pub watch: Patterns,
    /// The mailboxes that it may open besides that of its id.
    pub mailboxes: Patterns,
    /// The time at which its connection is closed, unless it has registered again by then.
    pub expires: Option<SystemTime>,
}

impl Grant {
    /// Creates a grant for any id, and for no topic.
    pub fn new(principal: impl Into<Arc<str>>) -> Self {
        Self {
            principal: principal.into(),
            send: None,
            publish: TopicPatterns::default(),
            subscribe: TopicPatterns::default(),
            presence: TopicPatterns::default(),
            watch: Patterns::default(),
            mailboxes: Patterns::default(),
            expires: None,
        }
    }

    /// Checks the principal.
    ///
    /// Errors: `Forbidden` if the principal begins with NUL. No real name does, and some programs treat such
    /// a text as internal, or truncate it there.
    pub(crate) fn checked(self) -> Result<Self, Denied> {
        match self.principal.starts_with('\0') {
            true => Err(Denied::Forbidden("the principal begins with NUL".into())),
            false => Ok(self),
        }
    }

    /// True if the client, which has registered as `id`, may send to this topic.
    pub fn may_publish(&self, topic: &str, id: &str) -> bool {
        self.publish.allows(topic, id)
    }

    /// True if the client, which has registered as `id`, may subscribe to this topic or pattern.
    pub fn may_subscribe(&self, pattern: &str, id: &str) -> bool {
        self.subscribe.allows(pattern, id)
    }

    /// True if the client, which has registered as `id`, may see the members of this topic.
    pub fn may_see(&self, topic: &str, id: &str) -> bool {
        self.presence.allows(topic, id)
    }

    /// True if the client may send to this id.
    pub fn may_send(&self, id: &str) -> bool {
        self.send.as_ref().is_none_or(|send| send.allows(id))
    }
}

/// The reason why a registration is denied. It is sent to the peer, so it must contain no secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denied {
    /// The client could not be authenticated. Another token may be accepted.
    Unauthorized(Cow<'static, str>),
    /// The client is authenticated, but may not have this id.
    Forbidden(Cow<'static, str>),
    /// The id belongs to another principal, which is connected now.
    Conflict,
    /// The owner of the id is unknown now, and may be another principal. The same registration may succeed
    /// later.
    Unavailable,
}

impl Denied {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => "ERR_WSMB_UNAUTHORIZED",
            Self::Forbidden(_) => "ERR_WSMB_FORBIDDEN",
            Self::Conflict => "ERR_WSMB_CONFLICT",
            Self::Unavailable => "ERR_WSMB_UNAVAILABLE",
        }
    }

    /// The code of the close frame: the HTTP status in the range that RFC 6455 leaves to applications, or
    /// 1013 ("try again later") if a retry may help.
    pub fn close_code(&self) -> u16 {
        match self {
            Self::Unauthorized(_) => 4401,
            Self::Forbidden(_) => 4403,
            Self::Conflict => 4409,
            Self::Unavailable => 1013,
        }
    }

    /// The reason, truncated to 120 bytes of UTF-8 to fit into a close frame.
    pub fn reason(&self) -> &str {
        let reason = match self {
            Self::Unauthorized(reason) | Self::Forbidden(reason) => reason,
            Self::Conflict => "the id belongs to another",
            Self::Unavailable => "the owner of the id cannot be asked now: try again later",
        };
        let end = reason
            .char_indices()
            .map(|(at, c)| at + c.len_utf8())
            .take_while(|&end| end <= MAX_REASON)
            .last();
        &reason[..end.unwrap_or(0)]
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for Denied {}

/// A pending decision about a registration.
pub type Decision = Pin<Box<dyn Future<Output = Result<Grant, Denied>> + Send>>;

/// The hook of an embedder that decides about registrations.
///
/// Any `Fn(Credentials) -> Decision` implements it.
pub trait Authenticate: Send + Sync + 'static {
    /// Decides about one registration. The decision is dropped at its timeout, but not earlier if the client
    /// disconnects.
    fn authenticate(&self, credentials: Credentials) -> Decision;
}

impl<F: Fn(Credentials) -> Decision + Send + Sync + 'static> Authenticate for F {
    fn authenticate(&self, credentials: Credentials) -> Decision {
        self(credentials)
    }
}

/// Decides by [`Jwt::verify`] of the token, at the current time.
impl Authenticate for Jwt {
    fn authenticate(&self, credentials: Credentials) -> Decision {
        let Credentials { id, token, .. } = credentials;
        let decision = self.verify(token.as_deref(), &id, SystemTime::now());
        Box::pin(std::future::ready(decision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_has_a_code_a_close_code_and_a_reason() {
        let denied = Denied::Unauthorized("who?".into());
        let denial = (denied.code(), denied.close_code(), denied.reason());
        assert_eq!(denial, ("ERR_WSMB_UNAUTHORIZED", 4401, "who?"));
        let denied = Denied::Forbidden("no".into());
        let denial = (denied.code(), denied.close_code(), denied.reason());
        assert_eq!(denial, ("ERR_WSMB_FORBIDDEN", 4403, "no"));
        assert_eq!(Denied::Unavailable.close_code(), 1013);
        assert!(Denied::Unavailable.reason().ends_with("later"));
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        for c in ["a", "ß", "€", "😀"] {
            for shift in 0..4 {
                let long = "x".repeat(shift) + &c.repeat(200);
                let denied = Denied::Forbidden(long.clone().into());
                let reason = denied.reason();
                assert!(long.starts_with(reason), "{reason}");
                assert!((117..=MAX_REASON).contains(&reason.len()), "{reason}");
            }
        }
        assert_eq!(Denied::Forbidden("".into()).reason(), "");
    }

    #[test]
    fn debug_output_of_credentials_has_no_secrets() {
        let credentials = Credentials {
            id: "a".into(),
            token: Some("hunter2".into()),
            headers: [("cookie".to_owned(), "hunter2".to_owned())].into(),
            url: "/?password=hunter2".into(),
            certificate: None,
            context: None,
            remote_address: "127.0.0.1".into(),
            secure: true,
        };
        assert_eq!(credentials.header("cookie"), Some("hunter2"));
        assert_eq!(credentials.header("origin"), None);
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }

    #[test]
    fn a_grant_limits_the_ids_that_its_client_may_send_to() {
        let mut grant = Grant::new("a");
        assert!(grant.may_send("b"));
        grant.send = Some(Patterns::from_iter(["b-*"]));
        assert!(grant.may_send("b-1") && !grant.may_send("b"));
    }
}

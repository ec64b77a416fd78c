//! Who a client is, and what it may do.
//!
//! A client that registers shows [`Credentials`]; something that can [`Authenticate`] answers with
//! a [`Grant`] or with [`Denied`]. [`Jwt`] is such a thing, made of a key and a few rules. Nothing
//! here owns a task or a socket.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `auth` | what is shown, granted and denied |
//! | `gate` | how a server finds out: by tokens, or by asking its embedder |
//! | `jwt`, `key` | tokens, and the keys that verify them |
//! | `verify` | the mathematics of that |
//! | `pattern` | globs over ids |
//! | `origin` | from which pages browsers may connect |

mod authenticator;
mod jwt;
mod key;
pub(crate) mod origin;
mod pattern;
mod verify;

use std::{borrow::Cow, fmt, pin::Pin, sync::Arc, time::SystemTime};

pub use authenticator::Authentication;
pub(crate) use authenticator::{AuthResult, Authenticator};
pub use jwt::{Jwt, JwtOptions, Subject};
pub use key::JwtKey;
pub use pattern::Patterns;

/// Bytes of a reason. A close frame has room for 123, and some of its readers want a spare.
const MAX_REASON: usize = 120;

/// What a client shows when it registers.
#[derive(Clone)]
pub struct Credentials {
    /// The id it wants.
    pub id: Arc<str>,
    /// The token it sent along.
    pub token: Option<String>,
    /// The headers of its handshake, in order, with lower-case names.
    pub headers: Arc<[(String, String)]>,
    /// The address at the other end of its socket; that of a proxy, if there is one.
    pub remote_address: String,
    /// True when the socket speaks TLS with us. A proxy may do so in our place.
    pub secure: bool,
}

impl Credentials {
    /// The first header of this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(found, _)| found == name);
        header.map(|(_, value)| value.as_str())
    }
}

/// Leaves out what must not reach a log: the token, and the headers, where cookies are.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .field("remote_address", &self.remote_address)
            .field("secure", &self.secure)
            .finish_non_exhaustive()
    }
}

/// What a client may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Who the client is. Ids belong to principals: no other principal may take one over. One that begins
    /// with NUL is refused.
    pub principal: Arc<str>,
    /// Whom it may address; `None` is anybody. Answering what one was asked needs no permission.
    pub send: Option<Patterns>,
    /// When its connection ends, unless it has registered anew by then.
    pub expires: Option<SystemTime>,
}

impl Grant {
    /// A grant without limits.
    pub fn new(principal: impl Into<Arc<str>>) -> Self {
        Self {
            principal: principal.into(),
            send: None,
            expires: None,
        }
    }

    /// Errors: `Forbidden` if the principal begins with NUL, which no name of a person or a program does:
    /// programs that take such a text for an internal one, or end it there, are not to be misled.
    pub(crate) fn checked(self) -> Result<Self, Denied> {
        match self.principal.starts_with('\0') {
            true => Err(Denied::Forbidden("the principal begins with NUL".into())),
            false => Ok(self),
        }
    }

    /// True when the client may address this id.
    pub fn may_send(&self, id: &str) -> bool {
        self.send.as_ref().is_none_or(|send| send.allows(id))
    }
}

/// Why a client may not register. The peer is told the reason, so it must give nothing away.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denied {
    /// It did not prove who it is. Another token may.
    Unauthorized(Cow<'static, str>),
    /// It proved who it is, and must not have this id.
    Forbidden(Cow<'static, str>),
    /// The id is another principal's, who is connected now.
    Conflict,
    /// It cannot be decided now whether the id is another principal's. The same registration may be granted
    /// a little later.
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

    /// The code of the close frame: the HTTP status, in the range that RFC 6455 leaves to us; "try again
    /// later" if that may help.
    pub fn close_code(&self) -> u16 {
        match self {
            Self::Unauthorized(_) => 4401,
            Self::Forbidden(_) => 4403,
            Self::Conflict => 4409,
            Self::Unavailable => 1013,
        }
    }

    /// The reason, cut to 120 bytes of UTF-8, so that it fits into a close frame.
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

/// A decision that is being made.
pub type Decision = Pin<Box<dyn Future<Output = Result<Grant, Denied>> + Send>>;

/// Decides who may register: the hook an embedder installs.
///
/// Any `Fn(Credentials) -> Decision` is one.
pub trait Authenticate: Send + Sync + 'static {
    /// Judges one registration. The decision is dropped when its time is up; that its client has
    /// left is not noticed before.
    fn authenticate(&self, credentials: Credentials) -> Decision;
}

impl<F: Fn(Credentials) -> Decision + Send + Sync + 'static> Authenticate for F {
    fn authenticate(&self, credentials: Credentials) -> Decision {
        self(credentials)
    }
}

/// [`Jwt::verify`] at this moment, of the token that came with the registration.
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
        let told = (denied.code(), denied.close_code(), denied.reason());
        assert_eq!(told, ("ERR_WSMB_UNAUTHORIZED", 4401, "who?"));
        let denied = Denied::Forbidden("no".into());
        let told = (denied.code(), denied.close_code(), denied.reason());
        assert_eq!(told, ("ERR_WSMB_FORBIDDEN", 4403, "no"));
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
    fn credentials_do_not_show_what_is_secret() {
        let credentials = Credentials {
            id: "a".into(),
            token: Some("hunter2".into()),
            headers: [("cookie".to_owned(), "hunter2".to_owned())].into(),
            remote_address: "127.0.0.1".into(),
            secure: true,
        };
        assert_eq!(credentials.header("cookie"), Some("hunter2"));
        assert_eq!(credentials.header("origin"), None);
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }

    #[test]
    fn a_grant_limits_whom_its_holder_may_address() {
        let mut grant = Grant::new("a");
        assert!(grant.may_send("b"));
        grant.send = Some(Patterns::from_iter(["b-*"]));
        assert!(grant.may_send("b-1") && !grant.may_send("b"));
    }
}

//! Who may register, and what a registration allows.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `auth` | what is shown, granted and denied |
//! | `gate` | how a server finds out |
//! | `origin` | from which pages browsers may connect |

mod gate;
mod origin;

use std::{future::Future, pin::Pin, sync::Arc, time::SystemTime};

pub use gate::Authentication;
pub(crate) use gate::Gate;
pub(crate) use origin::is_allowed_origin;

/// What a client shows when it registers.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The id that it wants.
    pub id: String,
    /// The token in its `register`, if there is one.
    pub token: Option<String>,
    /// The headers of its handshake, names in lower case.
    pub headers: Arc<[(String, String)]>,
    /// Its IP address; empty on a Unix socket.
    pub remote_address: String,
    /// True if the connection is encrypted.
    pub secure: bool,
}

/// What it may do.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Who it is: an id can be taken over only by a connection of the same principal.
    pub principal: Arc<str>,
    /// When the connection ends, unless it has registered anew; none: never.
    pub expires: Option<SystemTime>,
}

/// Why it may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// It has not shown who it is, or not any more (close code 4401).
    Unauthorized(String),
    /// It may not have this id (4403).
    Forbidden(String),
    /// The id belongs to another principal (4409).
    Conflict,
}

impl Denied {
    /// The code with which its connection is closed.
    pub fn close_code(&self) -> u16 {
        match self {
            Self::Unauthorized(_) => 4401,
            Self::Forbidden(_) => 4403,
            Self::Conflict => 4409,
        }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => "ERR_WSMB_UNAUTHORIZED",
            Self::Forbidden(_) => "ERR_WSMB_FORBIDDEN",
            Self::Conflict => "ERR_WSMB_CONFLICT",
        }
    }

    /// The same in words.
    pub fn reason(&self) -> &str {
        match self {
            Self::Unauthorized(reason) | Self::Forbidden(reason) => reason,
            Self::Conflict => "the id belongs to another",
        }
    }
}

/// Decides who may register.
pub trait Authenticate: Send + Sync + 'static {
    /// Grants or denies a registration.
    fn authenticate(
        &self,
        credentials: Credentials,
    ) -> Pin<Box<dyn Future<Output = Result<Grant, Denied>> + Send>>;
}

//! How a server finds out who may register: not at all, by tokens, or by asking its embedder.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::timeout};

use super::{Authenticate, Credentials, Decision, Denied, Jwt, JwtOptions};
use crate::error::Result;

/// Questions to the embedder that are under way at one time; further ones wait for their turn.
const MAX_QUESTIONS: usize = 256;

/// Who may register.
#[derive(Clone, Default)]
pub enum Authentication {
    /// Anybody, as in version 1.
    #[default]
    None,
    /// Whoever shows a JSON Web Token for the id.
    Jwt(JwtOptions),
    /// Whoever this says, within the time given; who is not answered in time is refused.
    Hook(Arc<dyn Authenticate>, Duration),
}

impl Authentication {
    /// How long an embedder may take to decide, where it is asked.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Hook(_, limit) => Some(*limit),
            Self::None | Self::Jwt(_) => None,
        }
    }
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No secrets in a log.
        f.write_str(match self {
            Self::None => "None",
            Self::Jwt(_) => "Jwt",
            Self::Hook(..) => "Hook",
        })
    }
}

/// The same, ready for use.
pub(crate) enum Gate {
    Free,
    Jwt(Jwt),
    Hook(Hook),
}

/// The embedder, to be asked.
pub(crate) struct Hook {
    hook: Arc<dyn Authenticate>,
    timeout: Duration,
    questions: Arc<Semaphore>,
}

impl Gate {
    /// Errors: `InvalidOption` for a key or an algorithm that cannot be used.
    pub(crate) fn new(authentication: &Authentication) -> Result<Self> {
        Ok(match authentication {
            Authentication::None => Self::Free,
            Authentication::Jwt(options) => Self::Jwt(Jwt::new(options.clone())?),
            Authentication::Hook(hook, timeout) => Self::Hook(Hook {
                hook: hook.clone(),
                timeout: *timeout,
                questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            }),
        })
    }

    /// True if anybody is let in.
    pub(crate) fn is_free(&self) -> bool {
        matches!(self, Self::Free)
    }
}

impl Hook {
    /// Asks; refuses if there is no answer in time.
    pub(crate) fn ask(&self, credentials: Credentials) -> Decision {
        let (hook, questions, limit) = (self.hook.clone(), self.questions.clone(), self.timeout);
        Box::pin(async move {
            let answer = async {
                let _turn = questions.acquire().await;
                hook.authenticate(credentials).await
            };
            timeout(limit, answer)
                .await
                .unwrap_or_else(|_| Err(Denied::Unauthorized("not authenticated in time".into())))
        })
    }
}

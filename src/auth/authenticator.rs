//! How a server finds out who may register: not at all, by tokens, or by asking its embedder.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{Authenticate, Credentials, Decision, Denied, Grant, Jwt, JwtOptions};
use crate::error::Result;

/// Questions to the embedder that are under way at one time; further ones wait for their turn.
const MAX_QUESTIONS: usize = 256;
/// A signature may take a millisecond: this part of the processors verifies those of newcomers, and as
/// much those of clients that are there. What is left is for messages.
const VERIFYING_PART: usize = 4;

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
pub(crate) enum Authenticator {
    Free,
    Jwt(Tokens),
    Hook(Hook),
}

/// Tokens, and the turns of those that are slow to verify.
pub(crate) struct Tokens {
    jwt: Arc<Jwt>,
    /// Newcomers do not wait for clients that renew, nor the other way round.
    newcomers: Arc<Semaphore>,
    renewals: Arc<Semaphore>,
}

/// What a token comes to.
pub(crate) enum AuthResult {
    Known(std::result::Result<Grant, Denied>),
    /// It is known later: it is verified on another thread.
    Awaited(Decision),
}

/// The embedder, to be asked.
pub(crate) struct Hook {
    hook: Arc<dyn Authenticate>,
    timeout: Duration,
    /// Newcomers do not wait for clients that renew, nor the other way round.
    newcomers: Arc<Semaphore>,
    renewals: Arc<Semaphore>,
}

impl Authenticator {
    /// Errors: `InvalidOption` for a key or an algorithm that cannot be used.
    pub(crate) fn new(authentication: &Authentication) -> Result<Self> {
        Ok(match authentication {
            Authentication::None => Self::Free,
            Authentication::Jwt(options) => Self::Jwt(Tokens::new(Jwt::new(options.clone())?)),
            Authentication::Hook(hook, timeout) => Self::Hook(Hook {
                hook: hook.clone(),
                timeout: *timeout,
                newcomers: Arc::new(Semaphore::new(MAX_QUESTIONS)),
                renewals: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            }),
        })
    }

    /// True if anybody is let in.
    pub(crate) fn is_free(&self) -> bool {
        matches!(self, Self::Free)
    }
}

impl Tokens {
    fn new(jwt: Jwt) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = || Arc::new(Semaphore::new((processors / VERIFYING_PART).max(1)));
        Self {
            jwt: Arc::new(jwt),
            newcomers: turns(),
            renewals: turns(),
        }
    }

    /// Verifies a token. `renews`: for a client that is there already, which is to pause before, if it
    /// renews too often. `alive` is held as long as another thread is at it.
    pub(crate) fn judge(
        &self,
        id: Arc<str>,
        token: Option<String>,
        renews: Option<Duration>,
        alive: impl Send + 'static,
    ) -> AuthResult {
        if !self.jwt.is_slow(token.as_deref()) {
            return AuthResult::Known(self.jwt.verify(token.as_deref(), &id, SystemTime::now()));
        }
        let jwt = self.jwt.clone();
        let turns = match renews {
            None => self.newcomers.clone(),
            Some(_) => self.renewals.clone(),
        };
        AuthResult::Awaited(Box::pin(async move {
            if let Some(pause) = renews.filter(|pause| !pause.is_zero()) {
                sleep(pause).await;
            }
            let turn = turns.acquire_owned().await;
            let verified = spawn_blocking(move || {
                // Held for as long as a processor is taken, whether somebody still waits or not.
                let _held = (turn, alive);
                jwt.verify(token.as_deref(), &id, SystemTime::now())
            });
            // A runtime that shuts down verifies nothing.
            let denied = |_| Err(Denied::Unauthorized("token: not verified".into()));
            verified.await.unwrap_or_else(denied)
        }))
    }
}

impl Hook {
    /// Asks; refuses if there is no answer in time. `renews`: for a client that is there already.
    pub(crate) fn ask(&self, credentials: Credentials, renews: bool) -> Decision {
        let questions = match renews {
            true => self.renewals.clone(),
            false => self.newcomers.clone(),
        };
        let (hook, limit) = (self.hook.clone(), self.timeout);
        Box::pin(async move {
            let answer = async {
                let _turn = questions.acquire().await;
                hook.authenticate(credentials).await
            };
            timeout(limit, answer)
                .await
                .unwrap_or_else(|_| Err(Denied::Unauthorized("not authenticated in time".into())))
                .and_then(Grant::checked)
        })
    }
}

//! The authenticator of a server: accepts any client, or checks tokens, or asks the embedder's hook.

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

/// Maximum number of concurrent calls of the hook; further ones are queued.
const MAX_QUESTIONS: usize = 256;
/// Verifying a signature may take a millisecond, so only this fraction of the processors verifies those of
/// new clients, and as many those of registered clients. The rest stays free for messages.
const VERIFYING_PART: usize = 4;

/// The authentication of clients that register.
#[derive(Clone, Default)]
pub enum Authentication {
    /// Any client may register, as in version 1.
    #[default]
    None,
    /// A client must present a JSON Web Token for the id.
    Jwt(JwtOptions),
    /// The hook decides, within the given time; a client is denied at the timeout.
    Hook(Arc<dyn Authenticate>, Duration),
}

impl Authentication {
    /// The time limit of the hook, if there is one.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Hook(_, limit) => Some(*limit),
            Self::None | Self::Jwt(_) => None,
        }
    }
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No secrets in logs.
        f.write_str(match self {
            Self::None => "None",
            Self::Jwt(_) => "Jwt",
            Self::Hook(..) => "Hook",
        })
    }
}

/// The authentication in use, with its keys loaded and its limits.
pub(crate) enum Authenticator {
    Free,
    Jwt(Tokens),
    Hook(Hook),
}

/// A token verifier, with limits on concurrent verifications.
pub(crate) struct Tokens {
    jwt: Arc<Jwt>,
    /// Separate, so that new clients do not wait for renewals, nor the reverse.
    newcomers: Arc<Semaphore>,
    renewals: Arc<Semaphore>,
}

/// The result of a token verification.
pub(crate) enum AuthResult {
    Known(std::result::Result<Grant, Denied>),
    /// Pending: it is verified on another thread.
    Awaited(Decision),
}

/// The embedder's hook, with limits on concurrent calls.
pub(crate) struct Hook {
    hook: Arc<dyn Authenticate>,
    timeout: Duration,
    /// Separate, so that new clients do not wait for renewals, nor the reverse.
    newcomers: Arc<Semaphore>,
    renewals: Arc<Semaphore>,
}

impl Authenticator {
    /// Builds the authenticator of a server.
    ///
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

    /// True if any client may register.
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

    /// Verifies a token. `renews`: set if the client is already registered; the pause before verifying slows
    /// down frequent renewals. `alive` is held while another thread verifies.
    pub(crate) fn verify(
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
                // Held while a thread is in use, even if the client has disconnected.
                let _held = (turn, alive);
                jwt.verify(token.as_deref(), &id, SystemTime::now())
            });
            // A runtime that is shutting down runs no blocking tasks.
            let denied = |_| Err(Denied::Unauthorized("token: not verified".into()));
            verified.await.unwrap_or_else(denied)
        }))
    }
}

impl Hook {
    /// Calls the hook; denies at the timeout. `renews`: set if the client is already registered.
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

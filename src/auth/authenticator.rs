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
use crate::{error::Result, sync::RwLock};

/// Maximum number of concurrent calls of the hook; further ones are queued.
const MAX_QUESTIONS: usize = 256;
/// Bytes of credentials that count as one call.
const QUESTION_SIZE: usize = 16 << 10;
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
    /// The hook decides, within the given time; a client is denied at the timeout. A token has at most 64 KiB. At
    /// most 256 calls are in progress, as many of new clients as of registered ones; credentials of more than
    /// 16 KiB count as several.
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
    jwt: RwLock<Arc<Jwt>>,
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
            jwt: RwLock::new(Arc::new(jwt)),
            newcomers: turns(),
            renewals: turns(),
        }
    }

    /// Changes the conditions for tokens that are verified from now on.
    pub(crate) fn set(&self, jwt: Jwt) {
        *self.jwt.write() = Arc::new(jwt);
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
        let jwt = self.jwt.read().clone();
        if !jwt.is_slow(token.as_deref()) {
            return AuthResult::Known(jwt.verify(token.as_deref(), &id, SystemTime::now()));
        }
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
        // Bounds the bytes that the calls in progress hold.
        let count = (1 + credentials.size() / QUESTION_SIZE).min(MAX_QUESTIONS);
        Box::pin(async move {
            let answer = async {
                let _turn = questions.acquire_many(count as u32).await;
                hook.authenticate(credentials).await
            };
            timeout(limit, answer)
                .await
                .unwrap_or_else(|_| Err(Denied::Unauthorized("not authenticated in time".into())))
                .and_then(Grant::checked)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        task::{Context, Waker},
    };

    use super::*;

    /// Counts its calls, and never decides.
    #[derive(Default)]
    struct Undecided(AtomicUsize);

    impl Authenticate for Undecided {
        fn authenticate(&self, _: Credentials) -> Decision {
            self.0.fetch_add(1, Relaxed);
            Box::pin(pending())
        }
    }

    #[test]
    fn calls_in_progress_are_bounded_by_number_and_by_bytes() {
        // Not in a task of the runtime, which has a budget of its own.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        for (bytes, calls) in [(100, 256), (64 << 10, 51), (8 << 20, 1)] {
            let hook = Arc::new(Undecided::default());
            let limit = Duration::from_secs(5);
            let authentication = Authentication::Hook(hook.clone(), limit);
            let Ok(Authenticator::Hook(questions)) = Authenticator::new(&authentication) else {
                panic!("no hook");
            };
            let ask = |renews| {
                let credentials = Credentials {
                    id: "a".into(),
                    token: Some("x".repeat(bytes)),
                    headers: Arc::default(),
                    url: "/".into(),
                    certificate: None,
                    context: None,
                    remote_address: String::new(),
                    secure: false,
                };
                let mut decision = questions.ask(credentials, renews);
                let mut cx = Context::from_waker(Waker::noop());
                assert!(decision.as_mut().poll(&mut cx).is_pending());
                decision
            };
            let newcomers: Vec<_> = (0..300).map(|_| ask(false)).collect();
            assert_eq!(hook.0.load(Relaxed), calls);
            // Those of registered clients do not wait for them.
            let renewals: Vec<_> = (0..300).map(|_| ask(true)).collect();
            assert_eq!(hook.0.load(Relaxed), 2 * calls);
            drop((newcomers, renewals));
        }
    }
}

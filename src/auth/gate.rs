//! How a server finds out who may register: not at all, or by asking its embedder.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::timeout};

use super::{Authenticate, Credentials, Denied, Grant};

/// Questions to the embedder that are under way at one time; further ones wait for their turn.
const MAX_QUESTIONS: usize = 256;

/// Who may register.
#[derive(Clone, Default)]
pub enum Authentication {
    /// Anybody, as in version 1.
    #[default]
    None,
    /// Whoever this says, within the time given; who is not answered in time is refused.
    Hook(Arc<dyn Authenticate>, Duration),
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No secrets in a log.
        f.write_str(match self {
            Self::None => "None",
            Self::Hook(..) => "Hook",
        })
    }
}

/// The same, ready for use.
pub(crate) enum Gate {
    Free,
    Hook(Hook),
}

/// The embedder, to be asked.
pub(crate) struct Hook {
    hook: Arc<dyn Authenticate>,
    timeout: Duration,
    questions: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new(authentication: &Authentication) -> Self {
        match authentication {
            Authentication::None => Self::Free,
            Authentication::Hook(hook, timeout) => Self::Hook(Hook {
                hook: hook.clone(),
                timeout: *timeout,
                questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            }),
        }
    }

    /// True if anybody is let in.
    pub(crate) fn is_free(&self) -> bool {
        matches!(self, Self::Free)
    }
}

impl Hook {
    /// Asks; refuses if there is no answer in time.
    pub(crate) fn ask(
        &self,
        credentials: Credentials,
    ) -> Pin<Box<dyn Future<Output = Result<Grant, Denied>> + Send>> {
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

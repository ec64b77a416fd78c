//! The hook of an embedder that allows subscriptions beyond the grants of clients.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::timeout};

/// Maximum number of concurrent calls of the hook; further ones are queued.
const MAX_QUESTIONS: usize = 256;
/// Bytes of a question that count as one call.
const QUESTION_SIZE: usize = 16 << 10;

/// A subscription that the grant of a client does not cover.
#[derive(Clone)]
pub struct TopicRequest {
    /// The id of the client.
    pub id: Arc<str>,
    /// The principal of its grant.
    pub principal: Arc<str>,
    /// The topic or pattern.
    pub topic: Box<str>,
    /// The token of the subscription.
    pub token: Option<String>,
}

/// Omits the token, which is secret.
impl fmt::Debug for TopicRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicRequest")
            .field("id", &self.id)
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

/// A pending decision about a subscription; true allows it.
pub type Permission = Pin<Box<dyn Future<Output = bool> + Send>>;

/// The hook of an embedder that decides about subscriptions that a grant does not cover.
///
/// Any `Fn(TopicRequest) -> Permission` implements it.
pub trait Authorize: Send + Sync + 'static {
    /// Decides about one subscription. The decision is dropped at its timeout.
    fn authorize(&self, request: TopicRequest) -> Permission;
}

impl<F: Fn(TopicRequest) -> Permission + Send + Sync + 'static> Authorize for F {
    fn authorize(&self, request: TopicRequest) -> Permission {
        self(request)
    }
}

/// The permissions of clients beyond their grants.
#[derive(Clone, Default)]
pub enum Authorization {
    /// None: the grants decide.
    #[default]
    None,
    /// The hook decides about each subscription that a grant does not cover, within the given time; a subscription is
    /// refused at the timeout. A token has at most 64 KiB. At most 256 calls are in progress; those of more than 16 KiB
    /// count as several.
    Hook(Arc<dyn Authorize>, Duration),
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Hook(..) => "Hook",
        })
    }
}

/// The hook, with its timeout and a limit on concurrent calls.
pub(crate) struct Authorizer {
    hook: Arc<dyn Authorize>,
    timeout: Duration,
    questions: Arc<Semaphore>,
}

impl Authorizer {
    /// None without a hook.
    pub(crate) fn new(authorization: &Authorization) -> Option<Self> {
        match authorization {
            Authorization::None => None,
            Authorization::Hook(hook, timeout) => Some(Self {
                hook: hook.clone(),
                timeout: *timeout,
                questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            }),
        }
    }

    /// Calls the hook; refuses at the timeout.
    pub(crate) fn ask(&self, request: TopicRequest) -> Permission {
        let (hook, limit) = (self.hook.clone(), self.timeout);
        let questions = self.questions.clone();
        // Bounds the bytes that the calls in progress hold.
        let token = request.token.as_ref().map_or(0, String::len);
        let size = request.id.len() + request.principal.len() + token;
        let count = (1 + size / QUESTION_SIZE).min(MAX_QUESTIONS);
        Box::pin(async move {
            let answer = async {
                let _turn = questions.acquire_many(count as u32).await;
                hook.authorize(request).await
            };
            timeout(limit, answer).await.unwrap_or(false)
        })
    }
}

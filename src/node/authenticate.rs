//! Asks the JavaScript functions `authenticate` and `authorize` whether a client may register, or may subscribe, and
//! waits for their results.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use data_encoding::BASE64;
use napi_derive::napi;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::sleep};

use super::mailbox::json;
use crate::auth::{
    Authenticate, Authorize, Credentials, Decision, Denied, Grant, Patterns, Permission,
    TopicRequest,
};

/// The result of `authenticate`: a grant, or a denial if it has a `code` (4401 or 4403). That of `authorize` has no other
/// member than a code.
#[napi(object)]
#[derive(Debug)]
pub struct NativeAuthResult {
    pub code: Option<u32>,
    pub reason: Option<String>,
    pub principal: Option<String>,
    /// Patterns of the ids to which the client may send.
    pub send: Option<Vec<String>>,
    /// Patterns of the topics to which it may send, and may subscribe.
    pub publish: Option<Vec<String>>,
    pub subscribe: Option<Vec<String>>,
    /// Patterns of the topics whose members it may see, and of the ids that it may watch.
    pub presence: Option<Vec<String>>,
    pub watch: Option<Vec<String>>,
    /// Patterns of the mailboxes that it may open besides its own.
    pub mailboxes: Option<Vec<String>>,
    pub expires: Option<f64>,
}

/// The questions that JavaScript has not answered yet, by number.
#[derive(Debug, Default)]
pub(super) struct Questions {
    pending: Mutex<HashMap<u32, oneshot::Sender<NativeAuthResult>>>,
    last: AtomicU32,
}

impl Questions {
    fn open(&self) -> (u32, oneshot::Receiver<NativeAuthResult>) {
        let (sender, receiver) = oneshot::channel();
        let number = self.last.fetch_add(1, Relaxed);
        self.pending.lock().insert(number, sender);
        (number, receiver)
    }

    /// Passes an answer to the task that waits for it. An answer after the timeout is dropped.
    pub(super) fn answer(&self, number: u32, result: NativeAuthResult) {
        if let Some(sender) = self.pending.lock().remove(&number) {
            let _ = sender.send(result);
        }
    }
}

/// Removes a pending question when the task that waits for its answer ends.
struct PendingQuestion {
    questions: Arc<Questions>,
    number: u32,
}

impl Drop for PendingQuestion {
    fn drop(&mut self) {
        self.questions.pending.lock().remove(&self.number);
    }
}

/// Interval at which a delayed question checks whether JavaScript has collected its events.
const CHECK_EVERY: Duration = Duration::from_millis(20);

/// The implementation of `Authenticate` and `Authorize` that asks JavaScript.
pub(super) struct Asker<P, B> {
    questions: Arc<Questions>,
    push: Arc<P>,
    is_behind: Arc<B>,
}

impl<P, B> Asker<P, B>
where
    P: Fn(&[&str]) + Send + Sync + 'static,
    B: Fn() -> bool + Send + Sync + 'static,
{
    /// `push` sends a question, as JSON texts. `is_behind` returns true while questions must wait because
    /// JavaScript has too many uncollected events.
    pub(super) fn new(questions: Arc<Questions>, push: P, is_behind: B) -> Self {
        Self {
            questions,
            push: Arc::new(push),
            is_behind: Arc::new(is_behind),
        }
    }
}

impl<P, B> Asker<P, B>
where
    P: Fn(&[&str]) + Send + Sync + 'static,
    B: Fn() -> bool + Send + Sync + 'static,
{
    /// Sends a question with these JSON texts behind its number. None if it is not answered.
    fn ask(
        &self,
        arguments: Vec<String>,
    ) -> impl Future<Output = Option<NativeAuthResult>> + Send + 'static {
        let (questions, push) = (self.questions.clone(), self.push.clone());
        let is_behind = self.is_behind.clone();
        async move {
            // Questions stay in the queue after their timeout: without this limit they would pile up.
            while is_behind() {
                sleep(CHECK_EVERY).await;
            }
            let (number, answer) = questions.open();
            let _pending = PendingQuestion { questions, number };
            let number = number.to_string();
            let arguments = arguments.iter().map(String::as_str);
            let question: Vec<_> = [&*number].into_iter().chain(arguments).collect();
            push(&question);
            answer.await.ok()
        }
    }
}

fn json_or_null(text: Option<&str>) -> String {
    text.map_or_else(|| "null".to_owned(), json)
}

impl<P, B> Authenticate for Asker<P, B>
where
    P: Fn(&[&str]) + Send + Sync + 'static,
    B: Fn() -> bool + Send + Sync + 'static,
{
    fn authenticate(&self, credentials: Credentials) -> Decision {
        let Credentials {
            id,
            token,
            headers,
            url,
            certificate,
            context,
            remote_address,
            secure,
        } = credentials;
        let certificate = certificate.map(|der| BASE64.encode(&der));
        let answer = self.ask(vec![
            json(&id),
            json_or_null(token.as_deref()),
            headers_json(&headers),
            json(&url),
            json_or_null(certificate.as_deref()),
            json(&remote_address),
            secure.to_string(),
            context.map_or_else(|| "null".to_owned(), |context| context.to_string()),
        ]);
        Box::pin(async move {
            match answer.await {
                Some(result) => grant(result, id),
                None => Err(Denied::Unauthorized("not authenticated".into())),
            }
        })
    }
}

impl<P, B> Authorize for Asker<P, B>
where
    P: Fn(&[&str]) + Send + Sync + 'static,
    B: Fn() -> bool + Send + Sync + 'static,
{
    fn authorize(&self, request: TopicRequest) -> Permission {
        let answer = self.ask(vec![
            json(&request.id),
            json(&request.principal),
            json(&request.topic),
            json_or_null(request.token.as_deref()),
        ]);
        Box::pin(async move {
            let answer = answer.await;
            answer.is_some_and(|result| result.code.is_none())
        })
    }
}

/// Headers as a JSON object. The values of a repeated header are joined, as in RFC 9110.
fn headers_json(headers: &[(String, String)]) -> String {
    let mut joined: Vec<(&str, String)> = Vec::new();
    for (name, value) in headers {
        match joined.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => {
                values.push_str(", ");
                values.push_str(value);
            }
            None => joined.push((name, value.clone())),
        }
    }
    let members = joined
        .into_iter()
        .map(|(name, value)| format!("{}:{}", json(name), json(&value)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn grant(result: NativeAuthResult, id: Arc<str>) -> Result<Grant, Denied> {
    let reason = result.reason.unwrap_or_default();
    match result.code {
        None => Ok(Grant {
            principal: result.principal.map_or(id, Into::into),
            send: result.send.map(Patterns::from_iter),
            publish: result.publish.unwrap_or_default().into_iter().collect(),
            subscribe: result.subscribe.unwrap_or_default().into_iter().collect(),
            presence: result.presence.unwrap_or_default().into_iter().collect(),
            watch: Patterns::from_iter(result.watch.unwrap_or_default()),
            mailboxes: Patterns::from_iter(result.mailboxes.unwrap_or_default()),
            expires: result.expires.map(at),
        }),
        Some(4403) => Err(Denied::Forbidden(reason.into())),
        Some(_) => Err(Denied::Unauthorized(reason.into())),
    }
}

/// A JavaScript timestamp (milliseconds since 1970) as a time.
fn at(millis: f64) -> SystemTime {
    /// A hundred years. Later times are limited to twice this value.
    const LATEST: f64 = 100.0 * 365.0 * 86_400_000.0;
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis.clamp(0.0, 2.0 * LATEST) as u64)
}

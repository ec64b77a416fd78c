//! The question whether a client may register, put to JavaScript, and its answer.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use napi_derive::napi;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::sleep};

use super::mailbox::json;
use crate::auth::{Authenticate, Credentials, Decision, Denied, Grant, Patterns};

/// What JavaScript says: a grant, or with `code` (4401 or 4403) a denial.
#[napi(object)]
#[derive(Debug)]
pub struct NativeVerdict {
    pub code: Option<u32>,
    pub reason: Option<String>,
    pub principal: Option<String>,
    /// Patterns of the ids that may be sent to.
    pub send: Option<Vec<String>>,
    pub expires: Option<f64>,
}

/// The questions that JavaScript has not answered, by number.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: Mutex<HashMap<u32, oneshot::Sender<NativeVerdict>>>,
    last: AtomicU32,
}

impl Questions {
    fn open(&self) -> (u32, oneshot::Receiver<NativeVerdict>) {
        let (sender, receiver) = oneshot::channel();
        let number = self.last.fetch_add(1, Relaxed);
        self.open.lock().insert(number, sender);
        (number, receiver)
    }

    /// An answer has come; too late, if nobody waits for it any more.
    pub(super) fn answer(&self, number: u32, verdict: NativeVerdict) {
        if let Some(sender) = self.open.lock().remove(&number) {
            let _ = sender.send(verdict);
        }
    }
}

/// A question that is under way, forgotten when nobody waits for it any more.
struct Open {
    questions: Arc<Questions>,
    number: u32,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.questions.open.lock().remove(&self.number);
    }
}

/// How often it is looked whether JavaScript has caught up.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Asks JavaScript.
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
    /// `push`: takes a question, as JSON texts. `is_behind`: true while it had better not.
    pub(super) fn new(questions: Arc<Questions>, push: P, is_behind: B) -> Self {
        Self {
            questions,
            push: Arc::new(push),
            is_behind: Arc::new(is_behind),
        }
    }
}

impl<P, B> Authenticate for Asker<P, B>
where
    P: Fn(&[&str]) + Send + Sync + 'static,
    B: Fn() -> bool + Send + Sync + 'static,
{
    fn authenticate(&self, credentials: Credentials) -> Decision {
        let (questions, push) = (self.questions.clone(), self.push.clone());
        let is_behind = self.is_behind.clone();
        Box::pin(async move {
            // Questions whose time is up still wait for JavaScript: more of them would pile up.
            while is_behind() {
                sleep(LOOK_EVERY).await;
            }
            let (number, answer) = questions.open();
            let _open = Open { questions, number };
            let Credentials {
                id,
                token,
                headers,
                remote_address,
                secure,
            } = credentials;
            push(&[
                &number.to_string(),
                &json(&id),
                &token.map_or_else(|| "null".to_owned(), |token| json(&token)),
                &headers_json(&headers),
                &json(&remote_address),
                if secure { "true" } else { "false" },
            ]);
            match answer.await {
                Ok(verdict) => grant(verdict, id),
                Err(_) => Err(Denied::Unauthorized("not authenticated".into())),
            }
        })
    }
}

/// An object; of a header that came several times the values are joined, as RFC 9110 has it.
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

fn grant(verdict: NativeVerdict, id: Arc<str>) -> Result<Grant, Denied> {
    let reason = verdict.reason.unwrap_or_default();
    match verdict.code {
        None => Ok(Grant {
            principal: verdict.principal.map_or(id, Into::into),
            send: verdict.send.map(Patterns::from_iter),
            expires: verdict.expires.map(at),
        }),
        Some(4403) => Err(Denied::Forbidden(reason.into())),
        Some(_) => Err(Denied::Unauthorized(reason.into())),
    }
}

/// A time in milliseconds since 1970, as JavaScript has it.
fn at(millis: f64) -> SystemTime {
    /// Later is never: a hundred years.
    const LATEST: f64 = 100.0 * 365.0 * 86_400_000.0;
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis.clamp(0.0, 2.0 * LATEST) as u64)
}

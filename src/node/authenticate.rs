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
use tokio::sync::oneshot;

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

/// Asks JavaScript.
pub(super) struct Asker<F> {
    questions: Arc<Questions>,
    push: F,
}

impl<F: Fn(&[&str]) + Send + Sync + 'static> Asker<F> {
    /// `push`: takes a question, as JSON texts.
    pub(super) fn new(questions: Arc<Questions>, push: F) -> Self {
        Self { questions, push }
    }
}

impl<F: Fn(&[&str]) + Send + Sync + 'static> Authenticate for Asker<F> {
    fn authenticate(&self, credentials: Credentials) -> Decision {
        let (number, answer) = self.questions.open();
        let open = Open {
            questions: self.questions.clone(),
            number,
        };
        let Credentials {
            id,
            token,
            headers,
            remote_address,
            secure,
        } = credentials;
        (self.push)(&[
            &number.to_string(),
            &json(&id),
            &token.map_or_else(|| "null".to_owned(), |token| json(&token)),
            &headers_json(&headers),
            &json(&remote_address),
            if secure { "true" } else { "false" },
        ]);
        Box::pin(async move {
            let _open = open;
            match answer.await {
                Ok(verdict) => grant(verdict, id),
                Err(_) => Err(Denied::Unauthorized("not authenticated".into())),
            }
        })
    }
}

/// An object; of a header that came twice the values are joined, as in Node.
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

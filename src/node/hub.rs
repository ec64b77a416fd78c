//! One per JavaScript environment (the main thread, each worker): collects what its servers and
//! clients have to tell, and wakes its event loop once for all of it.
//!
//! One thread-safe function serves all objects of an environment, because libuv visits every
//! handle of its kind whenever one is woken. It is weak: `lib/hub.js` keeps the process alive
//! while something is open.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use napi::{
    Env, Status,
    bindgen_prelude::{Function, ToNapiValue, sys},
    threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode},
};
use napi_derive::napi;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use super::{
    convert::{self, Result},
    mailbox::Batch,
};

/// One thing that can be heard of: a server or a client.
pub(super) trait Source: Send + Sync {
    /// So many bytes of its events are being handed over; a JSON text of events to add to them.
    /// Called on the JavaScript thread.
    fn collected(&self, bytes: usize) -> Option<String>;
    /// The environment is going: end at once, tell nothing.
    fn destroy(&self);
}

/// Bytes of text that JavaScript is handed at once, and no batch more: it holds all of them as strings,
/// and parses one after the other. More waits here, where its objects are bounded.
const HAND_OVER: usize = 1 << 20;
/// The part of the JavaScript heap that one message may take: a third.
const PARTS: f64 = 3.0;

/// What crosses to JavaScript: the number of an object, then its segments, and so on.
pub enum Item {
    Object(u32),
    Segment(String),
}

impl ToNapiValue for Item {
    unsafe fn to_napi_value(env: sys::napi_env, item: Self) -> napi::Result<sys::napi_value> {
        // SAFETY: `env` is the one we were called with, on its thread.
        unsafe {
            match item {
                Self::Object(number) => u32::to_napi_value(env, number),
                Self::Segment(text) => {
                    let mut value = std::ptr::null_mut();
                    let (pointer, length) = (text.as_ptr().cast(), text.len() as isize);
                    // Node copies bytes it need not decode several times faster.
                    let status = match text.is_ascii() {
                        true => sys::napi_create_string_latin1(env, pointer, length, &mut value),
                        false => sys::napi_create_string_utf8(env, pointer, length, &mut value),
                    };
                    napi::check_status!(status, "cannot create a string of {length} bytes")?;
                    Ok(value)
                }
            }
        }
    }
}

type Wake = ThreadsafeFunction<(), (), Vec<Item>, Status, false, true, 0>;

/// The part of a hub that other threads hold.
pub(super) struct Inbox {
    wake: OnceLock<Wake>,
    /// What waits, in the order in which it happened.
    queue: Mutex<VecDeque<Batch>>,
    /// JavaScript has not ended with what it has.
    paused: AtomicBool,
    sources: Mutex<HashMap<u32, Arc<dyn Source>>>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Inbox {
    /// Appends an event of object `number`, counts its bytes as waiting, and wakes the loop if it
    /// has not been woken for what waits already.
    pub(super) fn push(&self, number: u32, parts: &[&str], waiting: &AtomicUsize) {
        let mut queue = self.queue.lock();
        let first = queue.is_empty();
        waiting.fetch_add(Batch::append(&mut queue, number, parts), SeqCst);
        drop(queue);
        if first {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            // Fails only when the environment is going.
            wake.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }

    fn collect(&self) -> Vec<Item> {
        if self.paused.load(SeqCst) {
            return Vec::new();
        }
        let (batches, is_rest) = take_some(&mut self.queue.lock());
        if is_rest {
            self.wake();
        }
        let mut items = Vec::with_capacity(batches.len() * 2);
        for batch in batches {
            let source = self.sources.lock().get(&batch.number).cloned();
            let more = source.and_then(|source| source.collected(batch.size()));
            items.push(Item::Object(batch.number));
            items.push(Item::Segment(batch.into_text()));
            items.extend(more.map(Item::Segment));
        }
        items
    }

    pub(super) fn add(&self, number: u32, source: Arc<dyn Source>) {
        self.sources.lock().insert(number, source);
    }

    pub(super) fn remove(&self, number: u32) {
        self.sources.lock().remove(&number);
    }

    fn close(&self) {
        let sources = std::mem::take(&mut *self.sources.lock());
        for source in sources.into_values() {
            source.destroy();
        }
    }
}

/// The oldest batches, as many as are handed over at once; true if others are left.
fn take_some(queue: &mut VecDeque<Batch>) -> (VecDeque<Batch>, bool) {
    let mut bytes = 0;
    let count = queue
        .iter()
        .take_while(|batch| {
            let fits = bytes < HAND_OVER;
            bytes += batch.size();
            fits
        })
        .count();
    let rest = queue.split_off(count);
    let is_rest = !rest.is_empty();
    (std::mem::replace(queue, rest), is_rest)
}

/// The hub of this environment.
#[napi]
pub struct Hub {
    inbox: Arc<Inbox>,
    heap_for_one: usize,
}

#[napi]
impl Hub {
    /// `dispatch` gets an array: the number of an object, its segments, the next number, ...
    /// `heap_limit`: bytes that the JavaScript heap may have.
    #[napi(constructor)]
    pub fn new(
        env: Env,
        dispatch: Function<'_, Vec<Item>, ()>,
        heap_limit: f64,
    ) -> napi::Result<Self> {
        let inbox = Arc::new(Inbox {
            wake: OnceLock::new(),
            queue: Mutex::default(),
            paused: AtomicBool::new(false),
            sources: Mutex::default(),
        });
        let collector = Arc::downgrade(&inbox);
        let wake = dispatch
            .build_threadsafe_function()
            .weak::<true>()
            .build_callback(move |_| {
                Ok(collector
                    .upgrade()
                    .map(|inbox| inbox.collect())
                    .unwrap_or_default())
            })?;
        let _ = inbox.wake.set(wake);
        env.add_env_cleanup_hook(inbox.clone(), |inbox| inbox.close())?;
        Ok(Self {
            inbox,
            heap_for_one: (heap_limit / PARTS) as usize,
        })
    }

    /// Hands over nothing until `resume`: a listener threw, and what was handed over is still
    /// being delivered.
    #[napi]
    pub fn pause(&self) {
        self.inbox.paused.store(true, SeqCst);
    }

    /// Goes on.
    #[napi]
    pub fn resume(&self) {
        self.inbox.paused.store(false, SeqCst);
        if !self.inbox.queue.lock().is_empty() {
            self.inbox.wake();
        }
    }

    /// Forgets an object: it has told its last.
    #[napi]
    pub fn remove(&self, number: u32) {
        self.inbox.remove(number);
    }

    /// Bytes of the JavaScript heap that one message may take.
    pub(super) fn heap_for_one(&self) -> usize {
        self.heap_for_one
    }

    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }
}

/// The runtime of all clients of the process: one thread, started with the first.
pub(super) fn client_runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| runtime("wsmsgbroker-cli", 1));
    runtime
        .as_ref()
        .map_err(|error| convert::failure("ERR_WSMB_THREADS", error))
}

/// A runtime with this many threads.
pub(super) fn runtime(name: &str, threads: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
}

//! The hub of a JavaScript environment (the main thread, each worker): queues the events of all its
//! servers and clients, and wakes the event loop once for all queued events.
//!
//! One thread-safe function serves all objects of an environment, because libuv visits every handle of
//! its kind whenever one is woken. It exists only while an object is open, so that nothing is left open
//! afterwards. The function is weak: `lib/eventHub.js` keeps the process alive while a server or client is
//! open.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use napi::{
    Env, Status,
    bindgen_prelude::{Function, ToNapiValue, sys},
    threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode},
};
use napi_derive::napi;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::{Builder, Runtime};

use super::{
    convert::{self, Result},
    mailbox::Batch,
};

/// An object that emits events: a server or a client.
pub(super) trait Source: Send + Sync {
    /// Called on the JavaScript thread when so many bytes of the object's events are handed over. May
    /// return further events, as a JSON array.
    fn collected(&self, bytes: usize) -> Option<String>;
    /// The environment is being torn down: close at once, and emit nothing.
    fn destroy(&self);
}

/// Bytes of text after which no further batch is handed over at once: JavaScript holds all batches as
/// strings, and parses one after the other. The rest stays queued here, where each object has a bound.
const HAND_OVER: usize = 1 << 20;
/// One message may take this fraction of the JavaScript heap: a third.
const PARTS: f64 = 3.0;

/// One element of the array that is handed to JavaScript: the number of an object, then the JSON texts of
/// its events, then the next number.
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

/// The part of a hub that other threads share.
pub(super) struct Inbox {
    /// None while the hub is closed.
    wake: RwLock<Option<Wake>>,
    /// Events that JavaScript has not collected, oldest first.
    queue: Mutex<VecDeque<Batch>>,
    /// JavaScript is still delivering the events of the last collection.
    paused: AtomicBool,
    sources: Mutex<HashMap<u32, Arc<dyn Source>>>,
    /// When JavaScript was asked to respond; none once it has.
    asked: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Inbox {
    /// Appends an event of object `number`, adds its bytes to `waiting`, and wakes the event loop if the
    /// queue was empty.
    pub(super) fn push(&self, number: u32, kind: u8, arguments: &[&str], waiting: &AtomicUsize) {
        let mut queue = self.queue.lock();
        let first = queue.is_empty();
        let size = Batch::append(&mut queue, number, kind, arguments);
        waiting.fetch_add(size, SeqCst);
        drop(queue);
        if first {
            self.wake();
        }
    }

    /// The time for which JavaScript has not collected the oldest event, or has not responded to the last call of
    /// this: a listener may block it with events that it has collected.
    pub(super) fn lag(&self) -> Duration {
        let oldest = self.queue.lock().front().map(Batch::age);
        let mut asked = self.asked.lock();
        let silent = asked.map(|since| since.elapsed());
        if silent.is_none() {
            *asked = Some(Instant::now());
            drop(asked);
            self.wake();
        }
        oldest.max(silent).unwrap_or_default()
    }

    fn wake(&self) {
        if let Some(wake) = &*self.wake.read() {
            // Fails only while the environment is torn down.
            wake.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }

    fn collect(&self) -> Vec<Item> {
        *self.asked.lock() = None;
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

/// Takes the oldest batches, as many as are handed over at once. True if batches are left.
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

/// Queues the events of all servers and clients of a JavaScript environment.
#[napi]
pub struct Hub {
    inbox: Arc<Inbox>,
    heap_for_one: usize,
}

#[napi]
impl Hub {
    /// Creates a closed hub. `heap_limit`: maximum size of the JavaScript heap in bytes.
    #[napi(constructor)]
    pub fn new(env: Env, heap_limit: f64) -> napi::Result<Self> {
        let inbox = Arc::new(Inbox {
            wake: RwLock::default(),
            queue: Mutex::default(),
            paused: AtomicBool::new(false),
            sources: Mutex::default(),
            asked: Mutex::default(),
        });
        env.add_env_cleanup_hook(inbox.clone(), |inbox| inbox.close())?;
        Ok(Self {
            inbox,
            heap_for_one: (heap_limit / PARTS) as usize,
        })
    }

    /// Opens the hub, before its first object is created. `dispatch` is called with an array: the number of an
    /// object, the JSON texts of its events, the next number, and so on.
    #[napi]
    pub fn open(&self, dispatch: Function<'_, Vec<Item>, ()>) -> napi::Result<()> {
        let collector = Arc::downgrade(&self.inbox);
        let wake = dispatch
            .build_threadsafe_function()
            .weak::<true>()
            .build_callback(move |_| {
                Ok(collector
                    .upgrade()
                    .map(|inbox| inbox.collect())
                    .unwrap_or_default())
            })?;
        *self.inbox.wake.write() = Some(wake);
        // Events of removed objects may have arrived meanwhile: only the first event in the queue wakes.
        if !self.inbox.queue.lock().is_empty() {
            self.inbox.wake();
        }
        Ok(())
    }

    /// Closes the hub, once its last object is removed.
    #[napi]
    pub fn close(&self) {
        let wake = self.inbox.wake.write().take();
        // Not under the lock.
        drop(wake);
    }

    /// Stops handing over events until `resume`: a listener threw, and earlier events are still being
    /// delivered.
    #[napi]
    pub fn pause(&self) {
        self.inbox.paused.store(true, SeqCst);
    }

    /// Hands over events again.
    #[napi]
    pub fn resume(&self) {
        self.inbox.paused.store(false, SeqCst);
        if !self.inbox.queue.lock().is_empty() {
            self.inbox.wake();
        }
    }

    /// Removes an object that has emitted its last event.
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

/// The runtime of all clients of the process: one thread, started with the first client.
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

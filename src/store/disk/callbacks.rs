//! Calls the callbacks of stored messages: in a thread of their own while the writer has more to write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc::{self, SyncSender},
    },
    thread::{self, JoinHandle},
};

use crate::store::{OnStored, StoreError, Stored, batch};

/// Callbacks, and the result that they get.
type Ready = (Vec<OnStored>, Result<Stored, StoreError>);

/// Number of batches that wait for the thread. Beyond it the writer waits.
const QUEUED: usize = 4;

/// Calls callbacks in the order in which they are passed.
#[derive(Debug)]
pub(super) struct Callbacks {
    /// None without a thread.
    sender: Option<SyncSender<Ready>>,
    thread: Option<JoinHandle<()>>,
    /// Number of batches that the thread has not finished.
    unfinished: Arc<AtomicUsize>,
}

impl Callbacks {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::sync_channel::<Ready>(QUEUED);
        let unfinished = Arc::<AtomicUsize>::default();
        let counter = unfinished.clone();
        let run = move || {
            for (callbacks, result) in receiver {
                batch::run(callbacks, &result);
                counter.fetch_sub(1, SeqCst);
            }
        };
        let thread = thread::Builder::new().name("wsmsb-stored".to_owned());
        // Without it the writer calls them.
        let thread = thread.spawn(run).ok();
        Self {
            sender: thread.is_some().then_some(sender),
            thread,
            unfinished,
        }
    }

    /// Calls callbacks. `is_busy`: the writer has more to write.
    pub(super) fn call(
        &mut self,
        callbacks: Vec<OnStored>,
        result: Result<Stored, StoreError>,
        is_busy: bool,
    ) {
        if callbacks.is_empty() {
            return;
        }
        let is_ordered = self.unfinished.load(SeqCst) == 0;
        match &self.sender {
            Some(sender) if is_busy || !is_ordered => {
                self.unfinished.fetch_add(1, SeqCst);
                // It fails only if a callback has panicked.
                let _ = sender.send((callbacks, result));
            }
            _ => batch::run(callbacks, &result),
        }
    }

    /// Waits until all have been called.
    pub(super) fn finish(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // It fails only if a callback has panicked.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use super::*;

    #[test]
    fn callbacks_are_called_in_order_in_whichever_thread() {
        let (sender, receiver) = mpsc::channel();
        let (free, blocked) = mpsc::channel();
        let callback = |number: u32, blocked: Option<Receiver<()>>| -> OnStored {
            let sender = sender.clone();
            Box::new(move |_| {
                if let Some(blocked) = blocked {
                    blocked.recv().unwrap();
                }
                sender.send((number, thread::current().id())).unwrap();
            })
        };
        let mut callbacks = Callbacks::new();
        let mut call = |all, is_busy| callbacks.call(all, Ok(Stored::Disk), is_busy);
        call(vec![callback(1, None)], false);
        call(vec![callback(2, Some(blocked)), callback(3, None)], true);
        // The thread is not done with the ones before.
        call(vec![callback(4, None)], false);
        call(Vec::new(), true);
        let here = thread::current().id();
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [(1, here)]);
        free.send(()).unwrap();
        callbacks.finish();
        callbacks.call(vec![callback(5, None)], Ok(Stored::Disk), true);
        let (numbers, threads): (Vec<_>, Vec<_>) = receiver.try_iter().unzip();
        assert_eq!(numbers, [2, 3, 4, 5]);
        assert!(threads[0] != here && threads[2] == threads[0] && threads[3] == here);
    }
}

//! Actions at the end of a batch: a thread that calls many callbacks of stored messages runs, after all of them, what they
//! have left to be done once. So a connection whose messages were stored together gets all receipts with one system call.

use std::cell::RefCell;

use super::{OnStored, StoreError, Stored};

/// An action at the end of a batch.
type Action = Box<dyn FnOnce()>;

thread_local! {
    /// The actions of the batch that this thread runs.
    static ACTIONS: RefCell<Option<Vec<Action>>> = const { RefCell::new(None) };
}

/// Runs an action at the end of the batch, or at once if this thread runs none.
pub(crate) fn at_end(action: impl FnOnce() + 'static) {
    let at_once = ACTIONS.with_borrow_mut(|actions| match actions {
        Some(actions) => {
            actions.push(Box::new(action));
            None
        }
        None => Some(action),
    });
    if let Some(action) = at_once {
        action();
    }
}

/// Calls callbacks with a result, one after the other, and then what they leave for the end.
pub(super) fn run(callbacks: Vec<OnStored>, result: &Result<Stored, StoreError>) {
    ACTIONS.set(Some(Vec::new()));
    // Also if a callback panics.
    let _end = End;
    for done in callbacks {
        done(result.clone());
    }
}

/// Ends the batch of this thread.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        for action in ACTIONS.take().unwrap_or_default() {
            action();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, sync::mpsc};

    use super::*;

    #[test]
    fn an_action_runs_after_all_callbacks_of_a_batch_and_at_once_without_one() {
        let (sender, receiver) = mpsc::channel();
        let callback = |number: u32| -> OnStored {
            let sender = sender.clone();
            Box::new(move |_| {
                sender.send(number).unwrap();
                let sender = sender.clone();
                at_end(move || sender.send(10 * number).unwrap());
            })
        };
        run(vec![callback(1), callback(2)], &Ok(Stored::Disk));
        callback(3)(Ok(Stored::Disk));
        let calls: Vec<u32> = receiver.try_iter().collect();
        assert_eq!(calls, [1, 2, 10, 20, 3, 30]);
        let local = Rc::new(());
        at_end(move || drop(local));
    }
}

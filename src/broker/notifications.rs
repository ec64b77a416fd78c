//! Notifications: sends failures to askers and cancellations to responders.

use std::{sync::Arc, time::Instant};

use super::{
    Broker,
    handle::Handle,
    requests::{Notification, Notifications},
};
use crate::{
    protocol::{self, version_2},
    transport::outbox::Pushed,
};

impl Broker {
    /// Pushes notifications to the connections they concern. Handles that need a flush are added to
    /// `touched`.
    pub(crate) fn notify(&self, notifications: &mut Notifications, touched: &mut Vec<Arc<Handle>>) {
        for notification in notifications.drain(..) {
            let (handle, pushed) = match notification {
                Notification::Failed {
                    asker,
                    ack,
                    dest,
                    error,
                } => {
                    if !asker.speaks_2() || !self.has_room_for_answer(&asker) {
                        continue;
                    }
                    let (ack, dest) = (protocol::json_string(&ack), protocol::json_string(&dest));
                    let frame = version_2::failed(&ack, &dest, error.code());
                    let pushed = asker.outbox.push(&frame);
                    (asker, pushed)
                }
                Notification::Cancelled { responder, ack } => {
                    // A lost cancellation only costs the responder useless work.
                    if !responder.speaks_2() || responder.outbox.waiting() >= self.most_answers() {
                        continue;
                    }
                    let ack = protocol::json_string(&ack);
                    let pushed = responder.outbox.push(&version_2::cancel(&ack));
                    (responder, pushed)
                }
            };
            if pushed == Pushed::NeedsFlush {
                touched.push(handle);
            }
        }
    }

    /// Ends requests on timeout.
    pub(crate) fn expire(&self, now: Instant) {
        let mut touched = Vec::new();
        let requests = &self.registry.requests;
        requests.expire(now, |ended| self.notify(ended, &mut touched));
        for handle in touched {
            handle.flush();
        }
    }

    /// Removes entries of ended requests from the queues of connections.
    pub(crate) fn sweep(&self) {
        if self.registry.requests.sweep() {
            for handle in self.handles() {
                handle.book.lock().sweep();
            }
        }
    }
}

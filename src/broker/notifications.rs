//! Notifications about requests: failures to askers, and cancellations to responders.

use std::{sync::Arc, time::Instant};

use super::{Broker, handle::Handle, requests::DeliveryError};
use crate::{
    protocol::{self, version_2},
    transport::outbox::Pushed,
};

/// Notification about a request.
#[derive(Debug)]
pub(crate) enum Notification {
    /// To the asker: this receiver will not answer.
    Failed {
        asker: Arc<Handle>,
        ack: Arc<str>,
        dest: Arc<str>,
        error: DeliveryError,
    },
    /// To a responder: its answer is no longer awaited.
    Cancelled {
        responder: Arc<Handle>,
        ack: Arc<str>,
    },
}

/// Collected while locks are held, and sent afterwards.
pub(crate) type Notifications = Vec<Notification>;

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
                    // A responder without an id only holds the request open.
                    if dest.is_empty()
                        || !asker.uses_version_2()
                        || !self.has_room_for_answer(&asker)
                    {
                        continue;
                    }
                    let (ack, dest) = (protocol::json_string(&ack), protocol::json_string(&dest));
                    let frame = version_2::failed(&ack, &dest, error.code());
                    let pushed = asker.outbox.push(&frame);
                    (asker, pushed)
                }
                Notification::Cancelled { responder, ack } => {
                    // A lost cancellation only costs the responder useless work.
                    if !responder.uses_version_2()
                        || responder.outbox.waiting() >= self.most_answers()
                    {
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

    /// Removes entries of ended requests from the queues of connections. False if none has ended since the last call.
    pub(crate) fn sweep(&self) -> bool {
        let have_ended = self.registry.requests.sweep();
        if have_ended {
            for handle in self.handles() {
                handle.requests.lock().sweep();
            }
        }
        have_ended
    }
}

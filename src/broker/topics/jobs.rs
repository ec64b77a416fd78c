//! Delivers the messages of groups to members, and reports those that no member is left for.

use std::{
    collections::VecDeque,
    slice,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use super::groups::{Assignment, Dispatched, Group, Job, JobRequest};
use crate::{
    broker::{
        Broker,
        handle::Handle,
        requests::{DeliveryError, Name, Notifications, Opened, Question, Request},
    },
    protocol::{self, version_2},
    transport::outbox::Pushed,
};

/// The outcome of a message for a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivered {
    Yes,
    /// Its asker no longer waits.
    NotWanted,
    /// The connection of the member has closed.
    Closed,
}

impl Broker {
    /// Gives a message to a member of a group, or lets it wait. Handles that need a flush are added to `touched`.
    pub(crate) fn dispatch(
        &self,
        group: &Group,
        job: Job,
        touched: &mut Vec<Arc<Handle>>,
    ) -> Dispatched {
        match group.dispatch(&job) {
            Ok(handle) => {
                self.deliver_jobs(group, vec![(job, handle)], touched);
                Dispatched::Sent
            }
            Err(dispatched) => {
                if let (Dispatched::Queued, Some(peers)) = (dispatched, &self.peers) {
                    peers.note_waiting(group);
                }
                dispatched
            }
        }
    }

    /// Delivers messages to the members that they are assigned to.
    pub(crate) fn deliver_jobs(
        &self,
        group: &Group,
        assigned: Vec<Assignment>,
        touched: &mut Vec<Arc<Handle>>,
    ) {
        let mut notifications = Notifications::new();
        let mut rest: VecDeque<_> = assigned.into();
        let mut orphans = Vec::new();
        while let Some((job, handle)) = rest.pop_front() {
            match self.deliver_job(&job, &handle, touched, &mut notifications) {
                Delivered::Yes => {}
                // Another message may take its place.
                Delivered::NotWanted => rest.extend(group.acknowledge(&handle, 1)),
                Delivered::Closed => match group.take_back(&job, &handle) {
                    Some(assigned) => {
                        rest.extend(assigned);
                        if let Some(peers) = &self.peers {
                            peers.note_waiting(group);
                        }
                    }
                    None => orphans.push(job),
                },
            }
        }
        self.notify(&mut notifications, touched);
        for job in orphans {
            self.dispatch_again(group, job, touched);
        }
    }

    /// Gives a message of a group that has lost its last member to the group that has members by now, if there is one;
    /// otherwise to another broker.
    fn dispatch_again(&self, former: &Group, job: Job, touched: &mut Vec<Arc<Handle>>) {
        let group = self.topics.group(&former.pattern, &former.name);
        let dispatched = group.map(|group| self.dispatch(&group, job.clone(), touched));
        match dispatched {
            Some(Dispatched::Sent | Dispatched::Queued) => {}
            Some(Dispatched::Full | Dispatched::Empty) | None => self.fail_job(former, job),
        }
    }

    /// Delivers a message to a member.
    fn deliver_job(
        &self,
        job: &Job,
        handle: &Arc<Handle>,
        touched: &mut Vec<Arc<Handle>>,
        notifications: &mut Notifications,
    ) -> Delivered {
        let opened = match &job.request {
            None => None,
            Some(request) => match self.open_job(request, handle, notifications) {
                Some(opened) => opened,
                None => return Delivered::NotWanted,
            },
        };
        let pushed = handle.outbox.push_shared(&job.frame);
        if let Some(opened) = opened {
            self.registry.requests.delivered(&opened, notifications);
        }
        // The part of a member that has closed has ended with `GONE`, and its asker decides.
        if pushed == Pushed::Closed && job.request.is_none() {
            return Delivered::Closed;
        }
        if pushed == Pushed::NeedsFlush {
            touched.push(handle.clone());
        }
        if pushed != Pushed::Closed {
            (self.metrics.turns.messages_out).fetch_add(1, Relaxed);
        }
        Delivered::Yes
    }

    /// Opens the request that a message is. None if its asker no longer waits.
    #[allow(clippy::option_option)]
    fn open_job(
        &self,
        request: &JobRequest,
        handle: &Arc<Handle>,
        notifications: &mut Notifications,
    ) -> Option<Option<Arc<Request>>> {
        let now = Instant::now();
        let left = request
            .deadline
            .map(|deadline| deadline.saturating_duration_since(now));
        if !request.is_wanted(now) {
            return None;
        }
        let id = request.asked_as.clone();
        let id = id.or_else(|| handle.last_id.lock().clone());
        let id = id.unwrap_or_default();
        let names = [Name {
            id: &id,
            registration: handle.registration(),
        }];
        let question = Question {
            ack: &request.ack,
            asker: &request.asker,
            receivers: slice::from_ref(handle),
            names: &names,
            answers: request.answers,
            timeout: left,
        };
        let requests = &self.registry.requests;
        loop {
            match requests.open(&question, now, notifications) {
                Ok(Opened::Pending(opened)) => return Some(opened),
                Ok(Opened::Expired) => {}
                Err(_) => return None,
            }
        }
    }

    /// Ends all subscriptions of a connection that has lost or given up its id.
    pub(crate) fn end_subscriptions(&self, handle: &Arc<Handle>) {
        self.end_participation(handle);
        let mailboxes = match &mut *handle.subscriber.lock() {
            Some(state) => std::mem::take(&mut state.mailboxes),
            None => Vec::new(),
        };
        for mailbox in mailboxes {
            self.mailboxes.leave(&mailbox, handle);
        }
        let jobs = self.topics.leave(handle);
        self.fail_jobs(jobs);
    }

    /// Ends the wait of messages for groups whose last members have left: other brokers get them. Requests fail.
    pub(crate) fn fail_jobs(&self, jobs: Vec<(Arc<Group>, Job)>) {
        for (group, job) in jobs {
            self.fail_job(&group, job);
        }
    }

    fn fail_job(&self, group: &Group, job: Job) {
        let Some(JobRequest {
            asker, ack, dest, ..
        }) = job.request
        else {
            let peers = self.peers.as_ref();
            if !peers.is_some_and(|peers| peers.pass_on(group, &job)) {
                self.no_subscriber(1);
            }
            return;
        };
        self.registry.requests.count_failed(DeliveryError::Gone);
        if self.has_room_for_answer(&asker) {
            let ack = protocol::json_string(&ack);
            let frame = version_2::failed(&ack, &dest, DeliveryError::Gone.code());
            asker.write(|outbox| outbox.push(&frame));
        }
    }
}

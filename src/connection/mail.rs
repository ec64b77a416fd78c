//! Mailboxes of this connection: opens them, and delivers their messages to the peer (rules 46 and 47).
//!
//! A page is read from a mailbox when the outbox is nearly empty, so that little is queued for a slow peer.

use std::{
    mem,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use super::{Connection, Turn};
use crate::{
    broker::{
        mailboxes::mailbox::{self, Mailbox, Plan, Taken},
        topics::subscriber::SubscriberState,
    },
    error::ActionError,
    protocol::{
        self, MailboxCommand, RawSubscription, ServerAction, SubscriptionCommand, version_2,
    },
    store::Reading,
    transport::{framing, outbox::SHARE_FROM},
};

/// Bytes that may be queued when a page is read: a few responses.
const NEARLY_EMPTY: usize = 4 << 10;
/// Pages after which other tasks get their turn.
const PAGES: usize = 4;
/// Bytes charged for a mailbox of which a connection is a consumer.
const CONSUMER: usize = 256;
/// The page of a mailbox that is being read.
pub(super) struct ReadingMail {
    mailbox: Arc<Mailbox>,
    plan: Plan,
    reading: Reading,
}

impl Connection {
    /// Executes an action about a mailbox.
    pub(super) fn mailbox(
        &mut self,
        raw: &RawSubscription<'_>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let command = raw.check_mailbox(self.broker.options.max_id_length)?;
        match raw.command {
            SubscriptionCommand::Subscribe => self.open_mailbox(&command, turn),
            SubscriptionCommand::Unsubscribe => {
                self.close_mailbox(&command, turn);
                Ok(())
            }
            _ => {
                self.acknowledge_mail(&command);
                Ok(())
            }
        }
    }

    /// Makes this connection a consumer of a mailbox, or changes its window.
    fn open_mailbox(
        &self,
        command: &MailboxCommand<'_>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let name = &*command.name;
        let Self { broker, handle, .. } = self;
        let Some(rule) = broker.mailboxes.rule_of(name) else {
            return Err(ActionError::NoMailbox(name.to_owned()));
        };
        if !self.access.may_open(name, self.id.as_deref()) {
            return Err(ActionError::MailboxForbidden(name.to_owned()));
        }
        let mut state = handle.subscriber.lock();
        // Under the lock of the state, which is taken after the connection has lost its id.
        if !handle.owns_its_id() {
            return Err(ActionError::NotRegistered);
        }
        let state = state.get_or_insert_with(|| SubscriberState::new(&broker.memory));
        let is_known = state.mailboxes.iter().any(|one| *one.name == *name);
        let count = state.count();
        if !is_known && count >= broker.options.max_subscriptions {
            return Err(ActionError::TooManySubscriptions(count));
        }
        // Before its messages.
        let waiting = broker
            .mailboxes
            .usage(name)
            .map_or(0, |usage| usage.messages);
        let text = protocol::json_string(name);
        let epoch = rule.log.epoch();
        let frame = version_2::mailbox_opened(&text, command.reference, epoch, waiting);
        turn.pushed(handle, handle.outbox.push(&[&frame]));
        if let Some(mailbox) = broker.mailboxes.open(name, handle, command.window)
            && !is_known
        {
            state.add_mailbox(mailbox, CONSUMER + name.len());
        }
        Ok(())
    }

    fn close_mailbox(&self, command: &MailboxCommand<'_>, turn: &mut Turn) {
        let handle = &self.handle;
        let removed = (handle.subscriber.lock().as_mut())
            .and_then(|state| state.remove_mailbox(&command.name, CONSUMER + command.name.len()));
        if let Some(mailbox) = removed {
            self.broker.mailboxes.leave(&mailbox, handle);
        }
        let text = protocol::json_string(&command.name);
        let frame = version_2::mailbox_closed(&text, command.reference, None);
        turn.pushed(handle, handle.outbox.push(&[&frame]));
    }

    /// Removes a message from a mailbox, or gives it back.
    fn acknowledge_mail(&self, command: &MailboxCommand<'_>) {
        let state = self.handle.subscriber.lock();
        let open = state.iter().flat_map(|state| &state.mailboxes);
        let mailbox = open
            .into_iter()
            .find(|one| *one.name == *command.name)
            .cloned();
        drop(state);
        // It may have closed the mailbox since.
        if let (Some(mailbox), Some(offset)) = (mailbox, command.offset) {
            match command.retry {
                None => mailbox.remove(offset),
                Some(after) => {
                    let after = Duration::from_millis(after.into());
                    mailbox.give_back(self.handle.key, offset, after);
                }
            }
        }
    }

    /// Closes the mailboxes that the current grant does not allow.
    pub(super) fn recheck_mailboxes(&self, turn: &mut Turn) {
        let is_refused = |name: &str| !self.access.may_open(name, self.id.as_deref());
        let mut refused = Vec::new();
        if let Some(state) = &mut *self.handle.subscriber.lock() {
            let names: Vec<_> = state.mailboxes.iter().map(|one| one.name.clone()).collect();
            for name in names.iter().filter(|name| is_refused(name)) {
                refused.extend(state.remove_mailbox(name, CONSUMER + name.len()));
            }
        }
        for mailbox in refused {
            self.broker.mailboxes.leave(&mailbox, &self.handle);
            let text = protocol::json_string(&mailbox.name);
            let frame = version_2::mailbox_closed(&text, None, Some("FORBIDDEN"));
            turn.pushed(&self.handle, self.handle.outbox.push(&[&frame]));
        }
    }

    /// Sends messages of its mailboxes, as long as the peer reads them. Called when a mailbox has something, or its outbox
    /// was filled by another task.
    #[cold]
    pub(super) fn take_mail(&mut self, cx: &mut Context<'_>, turn: &mut Turn) {
        for _ in 0..PAGES {
            self.handle.set_has_mail(false);
            self.handle.flush();
            let outbox = &self.handle.outbox;
            if self.closing || outbox.waiting() > NEARLY_EMPTY && !outbox.await_empty() {
                // Its task is woken once the outbox is empty.
                self.handle.set_has_mail(!self.closing);
                return;
            }
            let Some(mut mail) = self.reading_mail.take().or_else(|| self.read_mail()) else {
                return;
            };
            match mail.reading.as_mut().poll(cx) {
                Poll::Pending => {
                    self.reading_mail = Some(mail);
                    self.handle.set_has_mail(true);
                    return;
                }
                Poll::Ready(page) => {
                    let ReadingMail { mailbox, plan, .. } = *mail;
                    let (key, counters) = (self.handle.key, &self.broker.mailboxes.counters);
                    let batch = mailbox.take(key, &plan.query, page.ok(), counters);
                    self.send_mail(&batch.taken);
                    mailbox.end(key);
                    for dead in &batch.dead {
                        self.send_dead(&mailbox, dead, turn);
                        mailbox.remove(dead.offset);
                    }
                }
            }
        }
        self.handle.set_has_mail(true);
        cx.waker().wake_by_ref();
    }

    /// Begins to read a mailbox that has something. None if no one has.
    fn read_mail(&self) -> Option<Box<ReadingMail>> {
        let open = match &*self.handle.subscriber.lock() {
            Some(state) => state.mailboxes.clone(),
            None => return None,
        };
        open.into_iter().find_map(|mailbox| {
            let plan = mailbox.begin(self.handle.key)?;
            let reading = mailbox.rule.log.read(&plan.query);
            Some(Box::new(ReadingMail {
                mailbox,
                plan,
                reading,
            }))
        })
    }

    fn send_mail(&self, taken: &[Taken]) {
        let outbox = &self.handle.outbox;
        let (mut frames, mut count) = (Vec::new(), 0);
        for one in taken {
            if one.attempt > 1 {
                frames.extend_from_slice(&mailbox::again(&one.frame, one.attempt));
                count += 1;
            } else if one.frame.len() < SHARE_FROM {
                frames.extend_from_slice(&one.frame);
                count += 1;
            } else {
                let _ = outbox.push_frames(&mut frames, mem::take(&mut count));
                let _ = outbox.push_shared(&one.frame);
            }
        }
        let _ = outbox.push_frames(&mut frames, count);
        self.handle.flush();
        let sent = taken.len() as u64;
        (self.broker.metrics.turns.messages_out).fetch_add(sent, Relaxed);
    }

    /// Publishes a message that was delivered too often to the topic for such ones, if its rule names one.
    fn send_dead(&self, mailbox: &Mailbox, dead: &Taken, turn: &mut Turn) {
        let Some(topic) = &mailbox.rule.options.dead_letters else {
            return;
        };
        let text = str::from_utf8(framing::payload_of(&dead.frame)).unwrap_or_default();
        if let Ok(ServerAction::Message { message, from, .. }) =
            protocol::decode_server_action(text, 2)
        {
            self.publish_from(message.unwrap_or("null"), from, topic, turn);
        }
    }
}

//! Sends messages to mailboxes, and the receipts (rule 45).

use std::sync::Arc;

use bytes::Bytes;

use super::{Connection, Turn, publish::Published, send::SendOptions};
use crate::{
    broker::{
        handle::Handle,
        mailboxes::{self, Mail, Outcome, Refusal, Rule},
    },
    error::ActionError,
    protocol::{self, version_2},
    store::{Key, Stored},
    sync::Mutex,
    transport::framing::{self, Mask},
};

/// The outcomes of a message for several mailboxes, and for the topic to which it was sent.
pub(super) struct Outcomes {
    reference: String,
    sender: Arc<Handle>,
    /// The receipt that is built, and the number of outcomes that it lacks.
    receipt: Mutex<(MailboxReceipt, usize)>,
}

/// The lists of a receipt.
#[derive(Default)]
struct MailboxReceipt {
    mailboxes: Vec<String>,
    failed: Vec<String>,
    duplicates: Vec<String>,
    /// The number of subscribers, and of those that have lost the message, if it was sent to a topic.
    published: Option<(usize, usize)>,
    /// The members about its log, if it is kept.
    kept: String,
}

impl MailboxReceipt {
    fn add(&mut self, name: &str, outcome: Outcome) {
        let name = protocol::json_string(name);
        match outcome {
            Ok(placed) => {
                let stored = placed.stored.name();
                self.mailboxes.push(format!("{name}:\"{stored}\""));
                if placed.is_duplicate {
                    self.duplicates.push(name);
                }
            }
            Err(refusal) => {
                let code = refusal.code();
                self.failed.push(format!("{name}:\"{code}\""));
            }
        }
    }
}

impl Outcomes {
    fn new(reference: &str, sender: &Arc<Handle>, count: usize) -> Arc<Self> {
        Arc::new(Self {
            reference: reference.to_owned(),
            sender: sender.clone(),
            receipt: Mutex::new((MailboxReceipt::default(), count)),
        })
    }

    /// Changes the receipt, and sends it if it is complete.
    fn complete(&self, change: impl FnOnce(&mut MailboxReceipt)) {
        let mut receipt = self.receipt.lock();
        change(&mut receipt.0);
        receipt.1 -= 1;
        if receipt.1 > 0 {
            return;
        }
        let [mailboxes, failed, duplicates] = [
            receipt.0.mailboxes.join(","),
            receipt.0.failed.join(","),
            receipt.0.duplicates.join(","),
        ];
        let frame = match receipt.0.published {
            None => version_2::mailbox_receipt(&self.reference, &mailboxes, &failed, &duplicates),
            Some((queued, dropped)) => {
                let (queued, dropped) = (queued.to_string(), dropped.to_string());
                let end = version_2::bound_receipt_end(&receipt.0.kept, &mailboxes, &failed);
                version_2::publish_receipt(&self.reference, &queued, &dropped, &end).concat()
            }
        };
        let _ = self.sender.outbox.push(&[&frame]);
        // Its task writes the receipts of a batch together.
        self.sender.take_mail();
    }

    fn add(&self, name: &str, outcome: Outcome) {
        self.complete(|receipt| receipt.add(name, outcome));
    }

    /// The message was sent to the subscribers of its topic.
    pub(super) fn set_published(self: Arc<Self>, published: Published, turn: &Turn) {
        let numbers = (published.queued, published.dropped);
        let (Some(offset), Some(rule)) = (published.offset, &turn.publication.rule) else {
            return self.complete(|receipt| receipt.published = Some(numbers));
        };
        rule.log.on_stored(
            offset,
            Box::new(move |stored| {
                let kept = version_2::stored_member(offset, stored.ok().map(Stored::name));
                self.complete(|receipt| {
                    (receipt.published, receipt.kept) = (Some(numbers), kept);
                });
            }),
        );
    }
}

impl Connection {
    /// Sends a message to mailboxes.
    ///
    /// Errors: `InvalidMember` if it is a request; `Forbidden`; `NoMailbox`; `FanoutTooLarge`.
    pub(super) fn send_to_mailboxes(
        &self,
        message: &str,
        names: &[impl AsRef<str>],
        options: &SendOptions<'_>,
    ) -> Result<(), ActionError> {
        if options.request().is_some() {
            return Err(ActionError::InvalidMember(
                "\"send\" message (msg.ack: a mailbox does not answer)",
            ));
        }
        let key = options.reply.and_then(|reply| reply.key.as_deref());
        let mailboxes = &self.broker.mailboxes;
        let mut rules = Vec::with_capacity(names.len());
        for name in names {
            let name = name.as_ref();
            self.check_access(name)?;
            let rule = mailboxes.rule_of(name);
            rules.push(rule.ok_or_else(|| ActionError::NoMailbox(name.to_owned()))?);
        }
        let (size, limit) = (message.len(), self.broker.options.max_fanout_bytes);
        if size.saturating_mul(names.len()) > limit {
            return Err(ActionError::FanoutTooLarge(names.len(), size, limit));
        }
        let outcomes = (options.reference())
            .map(|reference| Outcomes::new(reference, &self.handle, names.len()));
        let names = names.iter().map(AsRef::as_ref).zip(rules);
        self.put(message, "", names, key, outcomes.as_ref());
        Ok(())
    }

    /// Puts a message to a topic into the mailboxes that get the messages of the topic. Returns what the receipt waits for,
    /// if one is wanted; it lacks the subscribers.
    #[cold]
    pub(super) fn put_into_bound(
        &self,
        message: &str,
        topic: &str,
        options: &SendOptions<'_>,
        turn: &Turn,
    ) -> Option<Arc<Outcomes>> {
        let bound = &turn.publication.bound;
        let outcomes = (options.reference())
            .map(|reference| Outcomes::new(reference, &self.handle, bound.len() + 1));
        let topic = [",\"topic\":", &protocol::json_string(topic)].concat();
        let names = bound.iter().map(|rule| (&*rule.options.mailbox, rule));
        self.put(message, &topic, names, None, outcomes.as_ref());
        outcomes
    }

    /// Puts a message into mailboxes. `topic`: the member with the topic to which it was sent, if it was.
    fn put<'a>(
        &self,
        message: &str,
        topic: &str,
        mailboxes: impl Iterator<Item = (&'a str, &'a Arc<Rule>)>,
        key: Option<&str>,
        outcomes: Option<&Arc<Outcomes>>,
    ) {
        let is_short = self.broker.memory.is_short();
        for (name, rule) in mailboxes {
            let (outcomes, owned) = (outcomes.cloned(), Arc::<str>::from(name));
            let done = move |outcome| {
                if let Some(outcomes) = outcomes {
                    outcomes.add(&owned, outcome);
                }
            };
            if is_short {
                done(Err(Refusal::Full));
                continue;
            }
            let from = self.from();
            let text = protocol::json_string(name);
            let end = version_2::mail_end(topic, &text, key);
            let encode = |offset: u64| {
                let end = end(offset);
                let mut frame = Vec::new();
                framing::append_text(
                    &protocol::publication(message, None, from, &end),
                    &mut frame,
                );
                Bytes::from(frame)
            };
            let longest = end(u64::MAX);
            let pieces = protocol::publication(message, None, from, &longest);
            let length = pieces.iter().map(|piece| piece.len()).sum();
            let mail = Mail {
                name,
                key: key.map(|key| self.key_of(name, key)),
            };
            let frame = (framing::frame_size(length, Mask::None), encode);
            self.broker.mailboxes.put(rule, &mail, frame, done);
        }
    }

    /// The hash of a key: that of a sender for a mailbox.
    fn key_of(&self, name: &str, key: &str) -> Key {
        let principal = self.handle.principal.lock().clone();
        let sender = principal.as_deref().or(self.id.as_deref());
        mailboxes::key_of(&[sender.unwrap_or_default(), name, key])
    }
}

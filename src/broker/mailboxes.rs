//! Mailboxes: messages that wait for a receiver, until it has acknowledged them (rules 45 to 47).
//!
//! A mailbox is a topic in the log of its rule. Each message goes to one of the mailbox's consumers: at once when it is
//! stored, or when the task of a consumer reads it from the log. It stays in the log until it is acknowledged, and is
//! delivered again if its consumer gives it back or is lost.
//!
//! | file | contents |
//! | --- | --- |
//! | `mailboxes` | the rules, and sending |
//! | `mailbox` | one mailbox: its consumers, and what each of them has |
//!
//! Locks: `Rule::order`, then the open mailboxes, then a mailbox, then an outbox.

pub(crate) mod mailbox;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use ring::digest;

use super::{handle::Handle, kept::now};
use crate::{
    options::MailboxRule,
    store::{Key, Log, LogStats, Place, Record, StoreError, Stored},
    sync::Mutex,
    topic,
};
use mailbox::Mailbox;

/// All mailboxes of a broker.
pub(crate) struct Mailboxes {
    rules: Box<[Arc<Rule>]>,
    /// Those with consumers, or with messages that a former consumer has not acknowledged.
    open: Mutex<HashMap<Arc<str>, Arc<Mailbox>, RandomState>>,
    pub(crate) counters: Counters,
}

/// Numbers of events so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Messages refused because a mailbox was full.
    pub(crate) full: AtomicU64,
    /// Messages delivered again.
    pub(crate) redelivered: AtomicU64,
    /// Messages removed because they were delivered too often.
    pub(crate) dead: AtomicU64,
}

/// A rule, and the log of the messages of its mailboxes.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) options: MailboxRule,
    pub(crate) log: Box<dyn Log>,
    /// Locked while a message is appended.
    order: Mutex<()>,
    /// All messages up to this offset are as safe as the log makes them, or were refused.
    stored_to: AtomicU64,
    /// Messages up to this offset may have been delivered by an earlier process.
    former_to: u64,
}

/// A message for a mailbox.
pub(crate) struct Mail<'a> {
    /// The name of the mailbox.
    pub(crate) name: &'a str,
    pub(crate) key: Option<Key>,
}

/// The outcome of a message for a mailbox.
pub(crate) type Outcome = Result<Placed, Refusal>;

/// A message that is in a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) stored: Stored,
    /// True if it had been stored before, under the same key.
    pub(crate) is_duplicate: bool,
}

/// The reason why a mailbox did not take a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It has no room.
    Full,
    /// The store has failed, or its queue is full.
    NotStored,
}

impl Refusal {
    /// The code in the receipt.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::NotStored => "NOT_STORED",
        }
    }
}

impl Rule {
    pub(crate) fn new(options: &MailboxRule, log: Box<dyn Log>) -> Arc<Self> {
        let last = log.last();
        Arc::new(Self {
            options: options.clone(),
            log,
            order: Mutex::new(()),
            stored_to: AtomicU64::new(last),
            former_to: last,
        })
    }

    fn stored_to(&self) -> u64 {
        self.stored_to.load(Relaxed)
    }
}

fn outcome(stored: Result<Stored, StoreError>, is_duplicate: bool) -> Outcome {
    let placed = |stored| Placed {
        stored,
        is_duplicate,
    };
    stored.map(placed).map_err(|_| Refusal::NotStored)
}

/// The name of a mailbox in the log of its rule: without the wildcards that a name may have.
fn topic_of(name: &str) -> String {
    BASE64URL_NOPAD.encode(name.as_bytes())
}

/// The hash of an idempotency key, with what it is of.
pub(crate) fn key_of(parts: &[&str]) -> Key {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part.as_bytes());
    }
    let mut key = [0; 16];
    key.copy_from_slice(&context.finish().as_ref()[..16]);
    Key(key)
}

impl Mailboxes {
    pub(crate) fn new(rules: Vec<Arc<Rule>>) -> Arc<Self> {
        Arc::new(Self {
            rules: rules.into(),
            open: Mutex::default(),
            counters: Counters::default(),
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rule of the mailbox with this name, if there is one.
    pub(crate) fn rule_of(&self, name: &str) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| rule.options.matches(name))
    }

    /// The rules of the mailboxes that get the messages of a topic.
    pub(crate) fn bound_to(&self, topic: &str) -> Vec<Arc<Rule>> {
        let is_bound = |rule: &&Arc<Rule>| {
            let pattern = rule.options.topic.as_deref();
            pattern.is_some_and(|pattern| topic::covers(pattern, topic))
        };
        self.rules.iter().filter(is_bound).cloned().collect()
    }

    /// Puts a message into a mailbox. `encode` gets its offset, and returns its frame. `done` is called once, perhaps
    /// before this returns.
    pub(crate) fn put(
        self: &Arc<Self>,
        rule: &Arc<Rule>,
        mail: &Mail<'_>,
        (size, encode): (usize, impl FnOnce(u64) -> Bytes),
        done: impl FnOnce(Outcome) + Send + 'static,
    ) {
        let (name, log) = (topic_of(mail.name), &rule.log);
        let order = rule.order.lock();
        let former = mail.key.as_ref().and_then(|key| log.duplicate_of(key));
        if let Some(offset) = former {
            drop(order);
            return log.on_stored(offset, Box::new(|stored| done(outcome(stored, true))));
        }
        if !log.has_room(&name, size) {
            drop(order);
            self.counters.full.fetch_add(1, Relaxed);
            return done(Err(Refusal::Full));
        }
        let place = log.next(&name);
        let frame = encode(place.offset);
        log.append(Record {
            topic: &name,
            place,
            frame: frame.clone(),
            time: now(),
            key: mail.key,
        });
        drop(order);
        let (mailboxes, rule, name) = (self.clone(), rule.clone(), Arc::<str>::from(mail.name));
        log.on_stored(
            place.offset,
            Box::new(move |stored: Result<Stored, StoreError>| {
                rule.stored_to.fetch_max(place.offset, Relaxed);
                if stored.is_ok() {
                    mailboxes.offer(&name, place, &frame);
                }
                done(outcome(stored, false));
            }),
        );
    }

    /// A message of a mailbox was stored: gives it to a consumer, if there is one.
    fn offer(&self, name: &str, place: Place, frame: &Bytes) {
        let mailbox = self.open.lock().get(name).cloned();
        if let Some(mailbox) = mailbox {
            mailbox.offer(place, frame);
        }
    }

    /// Adds a consumer to a mailbox, or changes its window. None if the mailbox has no rule.
    pub(crate) fn open(
        &self,
        name: &str,
        handle: &Arc<Handle>,
        window: u32,
    ) -> Option<Arc<Mailbox>> {
        let rule = self.rule_of(name)?;
        let mut open = self.open.lock();
        let mailbox = match open.get(name) {
            Some(mailbox) => mailbox.clone(),
            None => {
                let name: Arc<str> = name.into();
                let mailbox = Mailbox::new(&name, &topic_of(&name), rule);
                open.insert(name, mailbox.clone());
                mailbox
            }
        };
        // Under the lock: the mailbox must not be forgotten meanwhile.
        mailbox.join(handle, window);
        Some(mailbox)
    }

    /// Removes a consumer from its mailbox. Others get what it has not acknowledged.
    pub(crate) fn leave(&self, mailbox: &Arc<Mailbox>, handle: &Handle) {
        let mut open = self.open.lock();
        if mailbox.leave(handle.key) && mailbox.is_idle() {
            open.remove(&*mailbox.name);
        }
    }

    /// Numbers of messages and bytes of a mailbox; none if it has no rule.
    pub(crate) fn usage(&self, name: &str) -> Option<crate::store::Usage> {
        let rule = self.rule_of(name)?;
        Some(rule.log.usage(&topic_of(name)))
    }

    /// True if a rule limits the age of messages.
    pub(crate) fn expires(&self) -> bool {
        self.rules.iter().any(|rule| rule.options.age.is_some())
    }

    /// Removes messages that are too old.
    pub(crate) fn expire(&self) {
        let now = now();
        self.rules.iter().for_each(|rule| rule.log.expire(now));
        let mut open = self.open.lock();
        open.retain(|_, mailbox| !mailbox.is_abandoned());
    }

    /// Numbers of all logs together.
    pub(crate) fn stats(&self) -> LogStats {
        let each = self.rules.iter().map(|rule| rule.log.stats());
        each.fold(LogStats::default(), LogStats::plus)
    }
}

impl fmt::Debug for Mailboxes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Mailboxes");
        debug.field("rules", &self.rules).finish_non_exhaustive()
    }
}

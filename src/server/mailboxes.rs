//! The contents of a server's mailboxes.

use super::Server;

/// The contents of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxUsage {
    /// The number of its messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Server {
    /// The contents of a mailbox; none if no rule has a mailbox of this name.
    pub fn mailbox(&self, name: &str) -> Option<MailboxUsage> {
        let usage = self.broker.mailboxes.usage(name)?;
        Some(MailboxUsage {
            messages: usage.messages,
            bytes: usage.bytes,
        })
    }
}

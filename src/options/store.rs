//! The option `store`: where messages are kept on the disk, and when they are written.

use std::{path::PathBuf, time::Duration};

use super::Number;
use crate::error::{Error, Result};

/// Maximum delay of [`StoreSync::Every`].
const MAX_DELAY: Duration = Duration::from_secs(60);

/// The store of the rules with `disk`: a file that survives the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// The folder of the store; it is created if it does not exist. Used by one server at a time.
    pub path: PathBuf,
    /// When messages are written. Default: at once, together with those that came meanwhile.
    pub sync: StoreSync,
    /// Maximum bytes of the messages of all rules. Beyond it each message trims the oldest ones of its rule. The file may be
    /// twice as large. Default 4 GiB.
    pub max_bytes: usize,
}

/// When a store writes messages to the disk, and whether receipts wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreSync {
    /// At once, together with the messages that came during the last write. Receipts wait for the disk.
    #[default]
    Batch,
    /// In this interval. Receipts wait for the disk.
    Every(Duration),
    /// Once a second. Receipts do not wait, and say that the message is in memory.
    Never,
}

impl StoreOptions {
    /// A store with the default limits.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            sync: StoreSync::Batch,
            max_bytes: 4 << 30,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.path.as_os_str().is_empty() {
            return Err(Error::InvalidOption {
                name: "store.path",
                reason: "is empty, expected the path of a folder".to_owned(),
            });
        }
        if let StoreSync::Every(delay) = self.sync {
            delay.check("store.sync", Duration::from_millis(1)..=MAX_DELAY)?;
        }
        self.max_bytes
            .check("store.maxBytes", 64 << 10..=usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_needs_a_path_and_limits_in_range() {
        let name_of = |change: fn(&mut StoreOptions)| {
            let mut options = StoreOptions::new("data");
            change(&mut options);
            match options.validate() {
                Err(Error::InvalidOption { name, .. }) => Some(name),
                _ => None,
            }
        };
        assert_eq!(name_of(|_| ()), None);
        assert_eq!(
            name_of(|store| store.path = PathBuf::new()),
            Some("store.path")
        );
        assert_eq!(name_of(|store| store.max_bytes = 1), Some("store.maxBytes"));
        let every = |store: &mut StoreOptions| store.sync = StoreSync::Every(Duration::ZERO);
        assert_eq!(name_of(every), Some("store.sync"));
        assert_eq!(name_of(|store| store.sync = StoreSync::Never), None);
    }
}

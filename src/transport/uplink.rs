//! The trait of a write half that leads to another broker in place of a socket.

use std::{
    any::Any,
    fmt,
    io::{self, IoSlice},
    sync::Arc,
    task::Waker,
};

/// The way of an outbox to another broker. The cluster implements it; the transport only writes to it.
pub(crate) trait Uplink: Any + fmt::Debug + Send + Sync {
    /// Takes whole frames; `WouldBlock` if it has no room. Only one thread writes at a time.
    fn try_write(self: Arc<Self>, frames: &[IoSlice<'_>]) -> io::Result<usize>;

    /// True if it may take something now.
    fn has_room(&self) -> bool;

    /// Announces that the next frames ask for a report of their delivery.
    fn expect_report(&self);

    /// Announces that the connection with this key is about to write to it.
    fn set_writer(self: Arc<Self>, key: u64);

    /// True if frames of the connection with this key wait for the same broker: the waker is called once they
    /// have gone out.
    fn holds(&self, key: u64, waker: &Waker) -> bool;

    /// True if it is not known yet which broker it leads to.
    fn is_unresolved(&self) -> bool;

    /// Asks which broker it leads to, unless something that was written does so.
    fn look_up(self: Arc<Self>);

    /// Ends it: nothing is taken from here on.
    fn close(&self);
}

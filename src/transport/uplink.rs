//! A write half that leads to another broker instead of a socket.

use std::{
    any::Any,
    fmt,
    io::{self, IoSlice},
    sync::Arc,
    task::Waker,
};

/// The write half of an outbox whose peer is another broker. The cluster implements it; the transport only
/// writes to it.
pub(crate) trait Uplink: Any + fmt::Debug + Send + Sync {
    /// Writes whole frames; `WouldBlock` if it has no room. Only one thread writes at a time.
    fn try_write(self: Arc<Self>, frames: &[IoSlice<'_>]) -> io::Result<usize>;

    /// True if it may accept frames now.
    fn has_room(&self) -> bool;

    /// Marks the next frames as ones that expect a delivery report.
    fn expect_report(&self);

    /// Sets the connection, by its key, whose frames are written next.
    fn set_writer(self: Arc<Self>, key: u64);

    /// True if frames of the connection with this key are still queued for the other broker. The waker is
    /// called once they are sent.
    fn holds(&self, key: u64, waker: &Waker) -> bool;

    /// True while the broker at the other end is not yet known.
    fn is_unresolved(&self) -> bool;

    /// Looks up the broker at the other end, unless a frame already written does so.
    fn look_up(self: Arc<Self>);

    /// Closes it: later writes are not accepted.
    fn close(&self);
}

/// An uplink that leads nowhere.
#[derive(Debug)]
pub(crate) struct Nowhere;

impl Uplink for Nowhere {
    fn try_write(self: Arc<Self>, _: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn has_room(&self) -> bool {
        true
    }

    fn expect_report(&self) {}

    fn set_writer(self: Arc<Self>, _: u64) {}

    fn holds(&self, _: u64, _: &Waker) -> bool {
        false
    }

    fn is_unresolved(&self) -> bool {
        false
    }

    fn look_up(self: Arc<Self>) {}

    fn close(&self) {}
}

//! What others hold of a connection: a way to send to it, and to ask it to close.

use std::{
    net::Shutdown,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::{
    framing::Mask,
    outbox::{Flushed, Outbox},
    requests::Book,
    socket::WriteHalf,
};

/// Why a connection is to be closed by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    /// The server closes.
    GoingAway,
    /// It does not read what is sent to it.
    Slow,
    /// It broke the WebSocket protocol, with the close code that says how.
    Violation(u16),
}

impl Close {
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::Slow => 1013,
            Self::Violation(code) => code,
        }
    }

    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::GoingAway => "server is closing",
            Self::Slow => "too slow",
            Self::Violation(1009) => "message too big",
            Self::Violation(1007) => "invalid UTF-8",
            Self::Violation(_) => "protocol violation",
        }
    }
}

/// One connection, as seen from outside its task.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Tells it from all other connections of the server, for ever.
    pub(crate) key: u64,
    pub(crate) outbox: Outbox,
    /// True while the id it registered is its own: another connection may take it over.
    pub(crate) owner: AtomicBool,
    /// The requests it asked and those it may answer.
    pub(crate) book: Mutex<Book>,
    /// Wakes its task.
    pub(crate) waker: AtomicWaker,
    close: Mutex<Option<Close>>,
    socket: WriteHalf,
}

impl Handle {
    /// `mark`: bytes from which its outbox counts as full.
    pub(crate) fn new(key: u64, socket: WriteHalf, mark: usize) -> Self {
        Self {
            key,
            outbox: Outbox::new(mark, Mask::None),
            owner: AtomicBool::new(false),
            book: Mutex::default(),
            waker: AtomicWaker::new(),
            close: Mutex::new(None),
            socket,
        }
    }

    /// Writes what waits for it; its task does the rest where the socket refuses.
    pub(crate) fn flush(&self) {
        match self.outbox.flush(&self.socket) {
            Flushed::Done => {}
            Flushed::Blocked | Flushed::Failed => self.waker.wake(),
        }
    }

    /// Asks its task to close it. The first reason counts.
    pub(crate) fn request_close(&self, close: Close) {
        self.close.lock().get_or_insert(close);
        self.waker.wake();
    }

    pub(crate) fn requested_close(&self) -> Option<Close> {
        *self.close.lock()
    }

    pub(crate) fn socket(&self) -> &WriteHalf {
        &self.socket
    }

    /// Ends the socket, so that no handle held elsewhere keeps it open.
    pub(crate) fn destroy(&self) {
        self.owner.store(false, Relaxed);
        self.outbox.close();
        self.socket.shutdown(Shutdown::Both);
    }
}

//! The write half of a session: its socket can be taken away, and replaced by another.
//!
//! Not inlined, so that the paths of other sockets stay short.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    task::{Context, Poll},
};

use super::WriteHalf;
use crate::sync::RwLock;

/// A write half whose socket may be missing: then it accepts no bytes.
#[derive(Debug)]
pub(crate) struct Replaceable(RwLock<Option<WriteHalf>>);

impl Replaceable {
    pub(super) fn new(socket: WriteHalf) -> Box<Self> {
        Box::new(Self(RwLock::new(Some(socket))))
    }

    /// Replaces the socket. Waits for a write in progress, which never blocks.
    pub(super) fn replace(&self, socket: Option<WriteHalf>) -> Option<WriteHalf> {
        std::mem::replace(&mut self.0.write(), socket)
    }

    #[inline(never)]
    pub(super) fn try_write(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match &*self.0.read() {
            Some(socket) => socket.try_write_vectored(bytes),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    #[inline(never)]
    pub(super) fn try_flush(&self) -> io::Result<()> {
        self.0.read().as_ref().map_or(Ok(()), WriteHalf::try_flush)
    }

    #[inline(never)]
    pub(super) fn buffered_ciphertext(&self) -> usize {
        let socket = self.0.read();
        socket.as_ref().map_or(0, WriteHalf::buffered_ciphertext)
    }

    #[inline(never)]
    pub(super) fn memory(&self) -> usize {
        self.0.read().as_ref().map_or(0, WriteHalf::memory)
    }

    #[inline(never)]
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &*self.0.read() {
            Some(socket) => socket.poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Pending while there is no socket.
    #[inline(never)]
    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &*self.0.read() {
            Some(socket) => socket.poll_writable(cx),
            None => Poll::Pending,
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) {
        if let Some(socket) = &*self.0.read() {
            socket.shutdown(how);
        }
    }
}

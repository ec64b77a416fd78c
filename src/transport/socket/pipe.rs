//! An in-memory pipe that stands for a socket in tests and benchmarks. It refuses writes while it is full.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::io::ReadBuf;

#[cfg(test)]
use super::WriteHalf;
use crate::sync::Mutex;

/// A bounded buffer with one writer and one reader.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Maximum bytes it holds.
    capacity: usize,
    state: Mutex<PipeState>,
}

#[derive(Debug, Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    /// The writer has shut it down.
    ended: bool,
    writer: Option<Waker>,
    reader: Option<Waker>,
}

impl Pipe {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            state: Mutex::default(),
        })
    }

    /// The write half of a pipe that accepts no bytes.
    #[cfg(test)]
    pub(crate) fn full() -> WriteHalf {
        WriteHalf::Pipe(Self::new(0))
    }

    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let before = state.bytes.len();
        if before == self.capacity {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for slice in slices {
            let room = self.capacity - state.bytes.len();
            state.bytes.extend(&slice[..slice.len().min(room)]);
        }
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Ok(state.bytes.len() - before)
    }

    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock();
        if state.ended || state.bytes.len() < self.capacity {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn shutdown(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        for waker in [state.reader.take(), state.writer.take()] {
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
impl Pipe {
    /// Reads at most `most` bytes. Ready with none at the end of the stream.
    pub(crate) fn poll_read(&self, most: usize, cx: &mut Context<'_>) -> Poll<Vec<u8>> {
        let mut state = self.state.lock();
        if state.bytes.is_empty() && !state.ended {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = most.min(state.bytes.len());
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
        Poll::Ready(state.bytes.drain(..length).collect())
    }
}

impl Pipe {
    /// Reads into a buffer, as a socket does. Ready with none at the end of the stream.
    pub(super) fn poll_fill(&self, buf: &mut ReadBuf<'_>, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.bytes.is_empty() && !state.ended {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (front, _) = state.bytes.as_slices();
        let length = front.len().min(buf.remaining());
        buf.put_slice(&front[..length]);
        state.bytes.drain(..length);
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
        Poll::Ready(())
    }

    /// Discards the buffered bytes; returns how many.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn clear(&self) -> usize {
        let mut state = self.state.lock();
        let length = state.bytes.len();
        state.bytes.clear();
        length
    }
}

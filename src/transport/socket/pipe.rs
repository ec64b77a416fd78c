//! A socket in memory, for tests and benchmarks: takes so many bytes, and no more until they are
//! read.

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

#[derive(Debug)]
pub(crate) struct Pipe {
    /// Bytes it holds at most.
    capacity: usize,
    state: Mutex<PipeState>,
}

#[derive(Debug, Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    /// Nothing more will come.
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

    /// The writing half of one that takes nothing.
    #[cfg(test)]
    pub(crate) fn deaf() -> WriteHalf {
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

#[cfg(feature = "shuttle")]
impl Pipe {
    /// Takes at most `most` bytes out of it. Ready with none when no more will come.
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
    /// Moves bytes out of it, as a socket does. Ready with none when no more will come.
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

    /// Throws away what is in it; how many bytes.
    #[cfg(feature = "bench")]
    pub(crate) fn clear(&self) -> usize {
        let mut state = self.state.lock();
        let length = state.bytes.len();
        state.bytes.clear();
        length
    }
}

//! A socket in memory, for tests: takes so many bytes, and no more until they are read.

use std::{
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::WriteHalf;
use crate::sync::Mutex;

#[derive(Debug)]
pub(crate) struct Pipe {
    /// Bytes it holds at most.
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
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
    pub(crate) fn deaf() -> WriteHalf {
        WriteHalf::Pipe(Self::new(0))
    }

    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = self.capacity - state.bytes.len();
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = state.bytes.len();
        let bytes = slices.iter().flat_map(|slice| slice.iter()).take(room);
        state.bytes.extend(bytes);
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

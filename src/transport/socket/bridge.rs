//! A socket that the embedder reads and writes for the broker: two bounded buffers in memory.
//!
//! The embedder pushes the bytes that it receives, takes those to send, and confirms them when they are
//! written. It is notified when there is something to do.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::io::ReadBuf;

use crate::{
    memory::{Charge, Memory},
    sync::Mutex,
};

/// Bytes in one direction above which its source must wait.
const CAPACITY: usize = 64 << 10;

/// Something for the embedder to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeEvent {
    /// Take bytes to send, or find that there will be no more.
    Output,
    /// Continue to read.
    Resume,
    /// Close: the broker has dropped the socket, and neither reads nor writes.
    Closed,
}

/// The bytes to send.
#[derive(Debug, PartialEq, Eq)]
pub enum BridgeOutput {
    /// Send these, and confirm them.
    Bytes(Vec<u8>),
    /// Nothing for now.
    Nothing,
    /// No more bytes will follow.
    End,
}

/// A socket in memory.
pub struct Bridge {
    state: Mutex<BridgeState>,
    notify: Box<dyn Fn(BridgeEvent) + Send + Sync>,
}

struct BridgeState {
    /// Received, and not yet read.
    input: VecDeque<u8>,
    /// The peer sends no more.
    is_input_ended: bool,
    /// The embedder was told to stop reading.
    is_paused: bool,
    reader: Option<Waker>,
    /// To be sent, and not yet taken.
    output: Vec<u8>,
    /// Bytes taken, and not yet confirmed.
    in_flight: usize,
    /// The broker sends no more.
    is_output_ended: bool,
    /// The embedder was notified of output, and has not come yet.
    is_notified: bool,
    writer: Option<Waker>,
    /// The embedder has lost the socket.
    is_lost: bool,
    charge: Charge,
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge").finish_non_exhaustive()
    }
}

impl BridgeState {
    fn update_charge(&mut self) {
        let held = self.input.len() + self.output.len() + self.in_flight;
        self.charge.set(held);
    }

    fn has_room(&self) -> bool {
        self.output.len() + self.in_flight < CAPACITY
    }

    /// True if the embedder must be notified of output.
    fn must_notify(&mut self) -> bool {
        !std::mem::replace(&mut self.is_notified, true)
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Bridge {
    pub(crate) fn new(
        memory: &Arc<Memory>,
        notify: impl Fn(BridgeEvent) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let state = BridgeState {
            input: VecDeque::new(),
            is_input_ended: false,
            is_paused: false,
            reader: None,
            output: Vec::new(),
            in_flight: 0,
            is_output_ended: false,
            is_notified: false,
            writer: None,
            is_lost: false,
            charge: Charge::new(memory, 0),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            notify: Box::new(notify),
        })
    }

    // For the embedder.

    /// Adds received bytes. False if the embedder must stop reading until [`BridgeEvent::Resume`].
    pub fn push(&self, bytes: &[u8]) -> bool {
        let mut state = self.state.lock();
        state.input.extend(bytes);
        state.is_paused = state.input.len() >= CAPACITY;
        state.update_charge();
        wake(&mut state.reader);
        !state.is_paused
    }

    /// The peer sends no more.
    pub fn end(&self) {
        let mut state = self.state.lock();
        state.is_input_ended = true;
        wake(&mut state.reader);
    }

    /// The socket is lost.
    pub fn lose(&self) {
        let mut state = self.state.lock();
        state.is_input_ended = true;
        state.is_lost = true;
        (state.output, state.in_flight) = (Vec::new(), 0);
        state.update_charge();
        wake(&mut state.reader);
        wake(&mut state.writer);
    }

    /// Takes the bytes to send.
    pub fn take(&self) -> BridgeOutput {
        let mut state = self.state.lock();
        state.is_notified = false;
        let output = std::mem::take(&mut state.output);
        state.in_flight += output.len();
        match output.is_empty() {
            false => BridgeOutput::Bytes(output),
            true if state.is_output_ended => BridgeOutput::End,
            true => BridgeOutput::Nothing,
        }
    }

    /// Confirms that bytes were written.
    pub fn written(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.in_flight = state.in_flight.saturating_sub(bytes);
        state.update_charge();
        if state.has_room() {
            wake(&mut state.writer);
        }
    }

    // For the broker.

    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state.lock();
        if state.is_lost || state.is_output_ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if !state.has_room() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = state.output.len();
        for slice in slices {
            let room = CAPACITY.saturating_sub(state.output.len() + state.in_flight);
            state
                .output
                .extend_from_slice(&slice[..slice.len().min(room)]);
        }
        let written = state.output.len() - before;
        state.update_charge();
        let must_notify = state.must_notify();
        drop(state);
        if must_notify {
            (self.notify)(BridgeEvent::Output);
        }
        Ok(written)
    }

    pub(super) fn poll_writable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock();
        if state.is_lost || state.is_output_ended || state.has_room() {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if !state.input.is_empty() || state.is_input_ended {
            return Poll::Ready(());
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Reads into a buffer. Ready with none at the end of the stream.
    pub(super) fn poll_fill(&self, buf: &mut ReadBuf<'_>, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.input.is_empty() && !state.is_input_ended {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (front, _) = state.input.as_slices();
        let length = front.len().min(buf.remaining());
        buf.put_slice(&front[..length]);
        state.input.drain(..length);
        if state.input.is_empty() {
            // An idle connection holds no buffer.
            state.input = VecDeque::new();
        }
        state.update_charge();
        let resumes = state.is_paused && state.input.len() <= CAPACITY / 2;
        if resumes {
            state.is_paused = false;
        }
        drop(state);
        if resumes {
            (self.notify)(BridgeEvent::Resume);
        }
        Poll::Ready(())
    }

    /// Sends no more.
    pub(super) fn shutdown(&self) {
        let mut state = self.state.lock();
        state.is_output_ended = true;
        wake(&mut state.writer);
        let must_notify = state.must_notify();
        drop(state);
        if must_notify {
            (self.notify)(BridgeEvent::Output);
        }
    }

    /// The broker has dropped the socket.
    fn close(&self) {
        let mut state = self.state.lock();
        state.is_output_ended = true;
        state.input = VecDeque::new();
        state.update_charge();
        drop(state);
        (self.notify)(BridgeEvent::Closed);
    }
}

/// The broker's hold on a bridge, which is closed when both halves are dropped.
#[derive(Debug)]
pub(crate) struct BridgeHalf(Arc<BridgeHold>);

#[derive(Debug)]
struct BridgeHold(Arc<Bridge>);

impl Drop for BridgeHold {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl BridgeHalf {
    pub(super) fn pair(bridge: Arc<Bridge>) -> (Self, Self) {
        let hold = Arc::new(BridgeHold(bridge));
        (Self(hold.clone()), Self(hold))
    }
}

impl std::ops::Deref for BridgeHalf {
    type Target = Bridge;

    fn deref(&self) -> &Bridge {
        &self.0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Events = Arc<parking_lot::Mutex<Vec<BridgeEvent>>>;

    fn bridge() -> (Arc<Bridge>, Events, Arc<Memory>) {
        let memory = Arc::new(Memory::new(usize::MAX));
        let events = Events::default();
        let seen = events.clone();
        let bridge = Bridge::new(&memory, move |event| seen.lock().push(event));
        (bridge, events, memory)
    }

    fn read(half: &BridgeHalf, length: usize) -> Poll<usize> {
        let mut bytes = vec![0; length];
        let mut buf = ReadBuf::new(&mut bytes);
        let cx = Context::from_waker(Waker::noop());
        half.poll_fill(&mut buf, &cx).map(|()| buf.filled().len())
    }

    #[test]
    fn output_is_bounded_until_it_is_confirmed() {
        let (bridge, events, memory) = bridge();
        let (_read, write) = BridgeHalf::pair(bridge.clone());
        let large = vec![7; 2 * CAPACITY];
        assert_eq!(write.try_write(&[IoSlice::new(&large)]).unwrap(), CAPACITY);
        assert!(write.try_write(&[IoSlice::new(&large)]).is_err());
        assert_eq!(*events.lock(), [BridgeEvent::Output]);
        assert_eq!(bridge.take(), BridgeOutput::Bytes(vec![7; CAPACITY]));
        assert_eq!(bridge.take(), BridgeOutput::Nothing);
        assert_eq!(memory.used(), CAPACITY);
        // Taken is not sent.
        assert!(write.try_write(&[IoSlice::new(&large)]).is_err());
        bridge.written(CAPACITY);
        assert_eq!(memory.used(), 0);
        assert_eq!(write.try_write(&[IoSlice::new(b"ab")]).unwrap(), 2);
        write.shutdown();
        assert_eq!(events.lock().len(), 2, "notified once for both");
        assert_eq!(bridge.take(), BridgeOutput::Bytes(b"ab".to_vec()));
        assert_eq!(bridge.take(), BridgeOutput::End);
    }

    #[test]
    fn input_beyond_the_capacity_stops_the_embedder_until_it_is_read() {
        let (bridge, events, memory) = bridge();
        let (half, write) = BridgeHalf::pair(bridge.clone());
        assert!(read(&half, 10).is_pending());
        assert!(bridge.push(b"abc"));
        assert_eq!(read(&half, 2), Poll::Ready(2));
        assert!(!bridge.push(&vec![1; CAPACITY]));
        assert_eq!(memory.used(), CAPACITY + 1);
        while !events.lock().contains(&BridgeEvent::Resume) {
            assert!(read(&half, 10_000).is_ready());
        }
        assert!(memory.used() <= CAPACITY / 2);
        bridge.end();
        while read(&half, 10_000) != Poll::Ready(0) {}
        drop((half, write));
        assert_eq!(events.lock().last(), Some(&BridgeEvent::Closed));
    }

    #[test]
    fn a_lost_socket_ends_both_directions() {
        let (bridge, _, memory) = bridge();
        let (half, write) = BridgeHalf::pair(bridge.clone());
        write.try_write(&[IoSlice::new(b"unsent")]).unwrap();
        bridge.lose();
        assert_eq!(read(&half, 1), Poll::Ready(0));
        assert!(write.try_write(&[IoSlice::new(b"x")]).is_err());
        let cx = Context::from_waker(Waker::noop());
        assert!(write.poll_writable(&cx).is_ready());
        assert_eq!(memory.used(), 0);
    }
}

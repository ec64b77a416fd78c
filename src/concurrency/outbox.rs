//! Concurrency tests of an outbox with several senders.

use std::{net::Shutdown, sync::Arc, task::Poll};

use bytes::Bytes;

use super::{below, explore, handle, memory, together, wait};
use crate::{
    broker::handle::{Close, Handle},
    memory::Memory,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    transport::{
        framing::{self, Mask},
        outbox::{Pushed, SHARE_FROM},
        socket::{WriteHalf, pipe::Pipe},
    },
};

const SENDERS: usize = 2;
const MESSAGES: usize = 4;
/// Bytes that exceed all messages of a test.
const ENOUGH: usize = 1 << 20;
/// Bytes of messages: a shared one, the longest copied one, and a short one.
const LARGE: usize = SHARE_FROM;
const COPIED: usize = LARGE - 1;
const SMALL: usize = 40;

/// The body of a thread. The peer's returns the received frames.
type Task = Box<dyn FnOnce() -> Option<ReceivedFrames> + Send>;

/// One connection: its handle, and the peer's end of its socket.
struct World {
    memory: Arc<Memory>,
    pipe: Arc<Pipe>,
    handle: Arc<Handle>,
}

/// The frames received by a peer: messages as `(sender, number)`, and whether the last frame was a close
/// frame.
#[derive(Debug, Default, PartialEq, Eq)]
struct ReceivedFrames {
    messages: Vec<(usize, usize)>,
    closed: bool,
}

impl World {
    /// Creates a connection. `capacity` of the socket and `mark` of the outbox are in bytes.
    fn new(capacity: usize, mark: usize) -> Self {
        let (memory, pipe) = (memory(), Pipe::new(capacity));
        let handle = handle(1, WriteHalf::Pipe(pipe.clone()), mark, &memory);
        Self {
            memory,
            pipe,
            handle,
        }
    }

    /// The connection's task as far as it writes, like `Connection::poll`.
    fn task(&self) -> Task {
        let handle = self.handle.clone();
        Box::new(move || {
            let mut closing = false;
            wait(|cx| {
                handle.waker.register(cx.waker());
                if handle.poll_writable(cx).is_ready() {
                    return Poll::Ready(());
                }
                if !closing && let Some(close) = handle.requested_close() {
                    closing = true;
                    if close == Close::Slow {
                        handle.outbox.discard();
                    }
                    handle.outbox.start_closing();
                    let frame = framing::close_frame(Some(close.code()), "", Mask::None);
                    handle.outbox.push_control(&frame);
                    handle.flush();
                    if handle.poll_writable(cx).is_ready() {
                        return Poll::Ready(());
                    }
                }
                if closing && handle.outbox.await_empty() {
                    handle.socket().shutdown(Shutdown::Write);
                    return Poll::Ready(());
                }
                Poll::Pending
            });
            handle.destroy();
            None
        })
    }

    /// The peer: reads random portions up to the end of the stream.
    fn peer(&self) -> Task {
        let pipe = self.pipe.clone();
        Box::new(move || {
            let mut bytes = Vec::new();
            loop {
                let most = 1 + below(2 * LARGE);
                let more = wait(|cx| pipe.poll_read(most, cx));
                if more.is_empty() {
                    return Some(received(&bytes));
                }
                bytes.extend(more);
            }
        })
    }

    /// A sender: pushes messages in batches of random length, and flushes after each if needed. Waits for
    /// room before each message, as connections do.
    fn sender(&self, sender: usize, size: usize) -> Task {
        let handle = self.handle.clone();
        Box::new(move || {
            let mut flush_due = false;
            for number in 0..MESSAGES {
                if !has_room(&handle, sender as u64) {
                    break;
                }
                let text = format!("{sender} {number} {}", "x".repeat(size));
                let pushed = match size < LARGE {
                    true => handle.outbox.push(&[&text]),
                    false => {
                        let mut frame = Vec::new();
                        framing::encode_text(&[&text], text.len(), Mask::None, &mut frame);
                        let shares = frame.len() >= SHARE_FROM;
                        handle.outbox.push_encoded(&Bytes::from(frame), shares)
                    }
                };
                flush_due |= pushed == Pushed::NeedsFlush;
                if pushed == Pushed::Closed {
                    break;
                }
                if flush_due && below(2) == 0 {
                    handle.flush();
                    flush_due = false;
                }
            }
            if flush_due {
                handle.flush();
            }
            None
        })
    }

    /// Requests the close, after the senders or at any time.
    fn closer(&self, close: Close) -> Task {
        let handle = self.handle.clone();
        Box::new(move || {
            handle.request_close(close);
            None
        })
    }

    /// Runs all tasks and returns the frames received by the peer. Checks that no bytes are left.
    fn run(self, tasks: Vec<Task>) -> ReceivedFrames {
        let received = together(tasks).into_iter().flatten().next();
        self.has_nothing_left();
        received.expect("what the peer has received")
    }

    fn has_nothing_left(&self) {
        assert_eq!(self.handle.outbox.waiting(), 0);
        assert_eq!(self.memory.used(), 0);
    }
}

/// Waits for room; false if there will never be any.
fn has_room(handle: &Handle, key: u64) -> bool {
    wait(|cx| {
        if handle.outbox.is_full() {
            handle.flush();
            if handle.outbox.add_waiter(key, cx.waker(), key == 1) {
                handle.waker.wake();
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    });
    handle.requested_close().is_none()
}

/// Parses frames as a client does. Panics if one is incomplete or invalid.
fn received(mut bytes: &[u8]) -> ReceivedFrames {
    let mut received = ReceivedFrames::default();
    while let [first, second, ..] = *bytes {
        let (start, length) = match second {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            length => (2, usize::from(length)),
        };
        let payload = &bytes[start..start + length];
        assert!(!received.closed, "nothing follows a close frame");
        match first {
            0x81 => {
                let text = str::from_utf8(payload).unwrap();
                let mut words = text.split(' ');
                let mut next = || words.next().unwrap().parse().unwrap();
                received.messages.push((next(), next()));
                assert!(words.next().unwrap().bytes().all(|byte| byte == b'x'));
            }
            0x88 => received.closed = true,
            other => panic!("opcode {other:#x}"),
        }
        bytes = &bytes[start + length..];
    }
    assert!(bytes.is_empty(), "half a frame");
    received
}

/// Checks that the numbers of a sender start with 0 and are consecutive; returns how many there are.
fn count(received: &ReceivedFrames, sender: usize) -> usize {
    let numbers = received.messages.iter().filter(|(by, _)| *by == sender);
    let mut count = 0;
    for (_, number) in numbers {
        assert_eq!(*number, count, "sender {sender}");
        count += 1;
    }
    count
}

/// Checks that all messages arrive, with the given sizes of socket, outbox and messages.
fn all_of_it_arrives(capacity: usize, mark: usize, sizes: [usize; SENDERS]) {
    explore(move || {
        let world = World::new(capacity, mark);
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| world.sender(sender, sizes[sender]))
            .collect();
        let close = world.closer(Close::GoingAway);
        let sending: Task = Box::new(move || {
            together(senders);
            close()
        });
        let tasks = vec![world.task(), world.peer(), sending];
        let received = world.run(tasks);
        for sender in 0..SENDERS {
            assert_eq!(count(&received, sender), MESSAGES);
        }
        assert!(received.closed);
    });
}

#[test]
fn messages_arrive_in_order_through_a_socket_with_room() {
    all_of_it_arrives(ENOUGH, ENOUGH, [SMALL, LARGE]);
}

#[test]
fn messages_arrive_in_order_through_a_full_socket() {
    all_of_it_arrives(100, ENOUGH, [COPIED, LARGE]);
}

#[test]
fn senders_waiting_for_a_full_outbox_are_woken() {
    all_of_it_arrives(60, 100, [SMALL, SMALL]);
}

#[test]
fn messages_to_a_closing_connection_arrive_without_gaps() {
    explore(|| {
        let world = World::new(100, 200);
        let mut tasks = vec![world.task(), world.peer(), world.closer(Close::GoingAway)];
        tasks.extend((0..SENDERS).map(|sender| world.sender(sender, SMALL)));
        let received = world.run(tasks);
        for sender in 0..SENDERS {
            count(&received, sender);
        }
        assert!(received.closed);
    });
}

#[test]
fn dropped_messages_end_at_a_frame_boundary() {
    explore(|| {
        let world = World::new(100, ENOUGH);
        let mut tasks = vec![world.task(), world.peer(), world.closer(Close::Slow)];
        tasks.extend((0..SENDERS).map(|sender| world.sender(sender, [SMALL, LARGE][sender])));
        let received = world.run(tasks);
        // Messages may be dropped before the close frame, but only whole ones.
        for sender in 0..SENDERS {
            count(&received, sender);
        }
        assert!(received.closed);
    });
}

#[test]
fn a_destroyed_connection_wakes_its_senders_and_frees_its_memory() {
    explore(|| {
        let world = World::new(60, 100);
        let handle = world.handle.clone();
        let end: Task = Box::new(move || {
            handle.request_close(Close::Slow);
            handle.destroy();
            None
        });
        let mut tasks = vec![end];
        tasks.extend((0..SENDERS).map(|sender| world.sender(sender, [COPIED, LARGE][sender])));
        together(tasks);
        world.has_nothing_left();
    });
}

#[test]
fn a_closing_connection_wakes_its_senders() {
    explore(|| {
        let world = World::new(60, 100);
        let handle = world.handle.clone();
        let close: Task = Box::new(move || {
            handle.outbox.start_closing();
            None
        });
        // No task reads from the socket.
        let mut tasks = vec![close];
        tasks.extend((0..SENDERS).map(|sender| world.sender(sender, SMALL)));
        together(tasks);
    });
}

#[test]
fn a_task_waiting_for_an_empty_outbox_is_woken() {
    explore(|| {
        let world = World::new(10, ENOUGH);
        let asked = Arc::new(AtomicUsize::new(0));
        // Threads of a client: each requests the `drain` event before its last flush.
        let sender = |_| -> Task {
            let (handle, asked) = (world.handle.clone(), asked.clone());
            Box::new(move || {
                for _ in 0..MESSAGES {
                    let _ = handle.outbox.push(&["x"]);
                    if below(2) == 0 {
                        handle.flush();
                    }
                }
                asked.fetch_add(1, SeqCst);
                handle.waker.wake();
                handle.flush();
                None
            })
        };
        let mut tasks: Vec<_> = (0..SENDERS).map(sender).collect();
        // The client's task, which emits `drain`.
        let (handle, socket) = (world.handle.clone(), WriteHalf::Pipe(world.pipe.clone()));
        tasks.push(Box::new(move || {
            wait(|cx| {
                handle.waker.register(cx.waker());
                assert!(handle.poll_writable(cx).is_pending());
                match asked.load(SeqCst) == SENDERS && handle.outbox.await_empty() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            });
            socket.shutdown(Shutdown::Write);
            None
        }));
        let pipe = world.pipe.clone();
        tasks.push(Box::new(move || {
            while !wait(|cx| pipe.poll_read(1 + below(8), cx)).is_empty() {}
            None
        }));
        together(tasks);
        assert_eq!(world.handle.outbox.waiting(), 0);
    });
}

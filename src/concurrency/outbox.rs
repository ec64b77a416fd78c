//! Many senders, one socket.

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
/// Far more than all that is sent.
const ENOUGH: usize = 1 << 20;
/// A message that is shared, the longest that is copied, and a short one.
const LARGE: usize = SHARE_FROM;
const COPIED: usize = LARGE - 1;
const SMALL: usize = 40;

/// What one thread does. The peer's says what it has received.
type Task = Box<dyn FnOnce() -> Option<ReceivedFrames> + Send>;

/// One connection: its handle, and the peer's end of its socket.
struct World {
    memory: Arc<Memory>,
    pipe: Arc<Pipe>,
    handle: Arc<Handle>,
}

/// What a peer has received: messages as `(sender, number)`, and whether a close frame was last.
#[derive(Debug, Default, PartialEq, Eq)]
struct ReceivedFrames {
    messages: Vec<(usize, usize)>,
    closed: bool,
}

impl World {
    /// `capacity` of the socket, `mark` of the outbox, in bytes.
    fn new(capacity: usize, mark: usize) -> Self {
        let (memory, pipe) = (memory(), Pipe::new(capacity));
        let handle = handle(1, WriteHalf::Pipe(pipe.clone()), mark, &memory);
        Self {
            memory,
            pipe,
            handle,
        }
    }

    /// What the connection's task does with its writing half: the way of `Connection::poll`.
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

    /// The peer: reads in portions of any size until nothing more comes.
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

    /// A sender: messages in turns of any length, each turn ended by a flush if one is owed. Each
    /// waits for room first, as `Connection::room` does.
    fn sender(&self, sender: usize, size: usize) -> Task {
        let handle = self.handle.clone();
        Box::new(move || {
            let mut owed = false;
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
                owed |= pushed == Pushed::NeedsFlush;
                if pushed == Pushed::Closed {
                    break;
                }
                if owed && below(2) == 0 {
                    handle.flush();
                    owed = false;
                }
            }
            if owed {
                handle.flush();
            }
            None
        })
    }

    /// Asks the task to close once the senders are done, or at any moment.
    fn closer(&self, close: Close) -> Task {
        let handle = self.handle.clone();
        Box::new(move || {
            handle.request_close(close);
            None
        })
    }

    /// Runs all of it, and returns what the peer has received. Nothing may be left.
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

/// Waits for room; false if there never will be any.
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

/// Reads frames as a client does. Panics on anything but whole ones.
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

/// The numbers of one sender, which must begin with 0 and go up by one.
fn count(received: &ReceivedFrames, sender: usize) -> usize {
    let numbers = received.messages.iter().filter(|(by, _)| *by == sender);
    let mut count = 0;
    for (_, number) in numbers {
        assert_eq!(*number, count, "sender {sender}");
        count += 1;
    }
    count
}

/// All that was sent arrives, whatever the size of messages, socket and outbox.
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
fn all_arrives_whole_and_in_order_through_a_socket_that_takes_it() {
    all_of_it_arrives(ENOUGH, ENOUGH, [SMALL, LARGE]);
}

#[test]
fn all_arrives_whole_and_in_order_through_a_socket_that_is_full() {
    all_of_it_arrives(100, ENOUGH, [COPIED, LARGE]);
}

#[test]
fn senders_held_by_a_full_outbox_are_let_go() {
    all_of_it_arrives(60, 100, [SMALL, SMALL]);
}

#[test]
fn what_is_sent_to_one_that_closes_arrives_up_to_some_message() {
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
fn what_is_thrown_away_ends_with_a_whole_message() {
    explore(|| {
        let world = World::new(100, ENOUGH);
        let mut tasks = vec![world.task(), world.peer(), world.closer(Close::Slow)];
        tasks.extend((0..SENDERS).map(|sender| world.sender(sender, [SMALL, LARGE][sender])));
        let received = world.run(tasks);
        // Some may have been thrown away before the close, never one in the midst.
        for sender in 0..SENDERS {
            count(&received, sender);
        }
        assert!(received.closed);
    });
}

#[test]
fn a_connection_that_ends_lets_go_of_its_senders_and_its_memory() {
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
fn a_connection_that_starts_to_close_lets_go_of_its_senders() {
    explore(|| {
        let world = World::new(60, 100);
        let handle = world.handle.clone();
        let close: Task = Box::new(move || {
            handle.outbox.start_closing();
            None
        });
        // Nobody reads.
        let mut tasks = vec![close];
        tasks.extend((0..SENDERS).map(|sender| world.sender(sender, SMALL)));
        together(tasks);
    });
}

#[test]
fn who_waits_until_all_is_written_is_woken() {
    explore(|| {
        let world = World::new(10, ENOUGH);
        let asked = Arc::new(AtomicUsize::new(0));
        // A client's threads: each asks to be told before its last flush.
        let sender = |_| -> Task {
            let (handle, asked) = (world.handle.clone(), asked.clone());
            Box::new(move || {
                for _ in 0..MESSAGES {
                    handle.outbox.push(&["x"]);
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
        // Its task, which tells of `drain`.
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

//! What is measured, whether by the clock or in instructions: each benchmark is a [`Run`], made
//! ready beforehand. Its inputs are the same every time.

mod inputs;

use wsmsgbroker::bench::{self, Queue, Switch, Wire, decode, id};

use inputs::{answer, escaped_message, frames, message, register, request, send, send_to_many};

/// Does the work once; what came of it, so that nobody can leave it out.
pub type Run = Box<dyn FnMut() -> usize>;

/// Messages in one run of what works on many.
pub const BATCH: usize = 64;
/// Bytes of a message where their number is not what is varied.
const SHORT: usize = 100;
/// Receivers of a message to many.
const MANY: usize = 100;

/// Runs it until it has the buffers that it keeps; it must do what is expected of it.
fn ready(expected: usize, mut run: impl FnMut() -> usize + 'static) -> Run {
    for _ in 0..3 {
        assert_eq!(run(), expected);
    }
    Box::new(run)
}

fn decoding(text: String) -> Run {
    ready(1, move || decode(&text).into())
}

/// Decodes a `send` of a message of so many bytes.
pub fn decode_send(bytes: usize) -> Run {
    decoding(send(&message(bytes), &id(0)))
}

/// Decodes a `send` of a message of so many bytes, with escapes and letters beyond ASCII.
pub fn decode_escaped(bytes: usize) -> Run {
    decoding(send(&escaped_message(bytes), &id(0)))
}

/// Decodes a `send` to so many receivers.
pub fn decode_dest(receivers: usize) -> Run {
    let ids: Vec<_> = (0..receivers).map(id).collect();
    decoding(send_to_many(&message(SHORT), &ids))
}

/// Decodes an `answer`.
pub fn decode_answer() -> Run {
    decoding(answer(0, &message(SHORT)))
}

/// Decodes a `register`.
pub fn decode_register() -> Run {
    decoding(register(&id(0)))
}

/// Takes messages of so many bytes out of the frames of a client.
pub fn read(bytes: usize) -> Run {
    let text = message(bytes);
    let frames = frames([&text; BATCH]);
    let mut wire = Wire::new();
    ready(BATCH, move || wire.feed(&frames))
}

/// Finds ids among so many.
pub fn find(ids: usize) -> Run {
    let switch = switch(ids);
    let wanted: Vec<_> = numbers(ids).map(id).collect();
    ready(BATCH, move || {
        wanted.iter().filter(|id| switch.find(id)).count()
    })
}

/// Makes the frame of a message of so many bytes.
pub fn encode(bytes: usize) -> Run {
    let message = message(bytes);
    let mut out = Vec::new();
    let expected = bench::encode(&message, &mut out);
    ready(expected, move || {
        out.clear();
        bench::encode(&message, &mut out)
    })
}

/// Queues messages of so many bytes, and writes them at once.
pub fn queue(bytes: usize) -> Run {
    let message = message(bytes);
    let expected = BATCH * bench::encode(&message, &mut Vec::new());
    let queue = Queue::new();
    ready(expected, move || {
        for _ in 0..BATCH {
            queue.push(&message);
        }
        queue.flush()
    })
}

/// The whole way of messages of so many bytes, each to one receiver among ten.
pub fn route(bytes: usize) -> Run {
    routing(bytes, 1, 10)
}

/// The same of 100 bytes, each to one receiver among so many ids.
pub fn route_among(ids: usize) -> Run {
    routing(SHORT, 1, ids)
}

/// The same, each to a hundred receivers among so many ids.
pub fn route_to_many(ids: usize) -> Run {
    routing(SHORT, MANY, ids)
}

fn routing(bytes: usize, receivers: usize, ids: usize) -> Run {
    let message = message(bytes);
    let frames = frames(numbers(ids).map(|first| match receivers {
        1 => send(&message, &id(first)),
        _ => {
            let ids = (first..first + receivers).map(|number| id(number % ids));
            send_to_many(&message, &ids.collect::<Vec<_>>())
        }
    }));
    let expected = BATCH * receivers * bench::encode(&message, &mut Vec::new());
    let mut switch = switch(ids);
    ready(expected, move || switch.feed(Switch::SENDER, &frames))
}

/// The whole way of requests, and of an answer to each.
pub fn ask() -> Run {
    let message = message(SHORT);
    let requests = frames((0..BATCH).map(|number| request(number, &message, &id(0))));
    let answers = frames((0..BATCH).map(|number| answer(number, &message)));
    let mut switch = switch(1);
    let mut run = move || {
        let asked = switch.feed(Switch::SENDER, &requests);
        let answered = switch.feed(Switch::RECEIVER, &answers);
        assert!(asked.min(answered) > BATCH * SHORT);
        asked + answered
    };
    let expected = run();
    ready(expected, run)
}

/// One in which both lines have their id.
fn switch(ids: usize) -> Switch {
    let mut switch = Switch::with_ids(ids);
    for (line, id) in [(Switch::SENDER, "sender"), (Switch::RECEIVER, &id(0))] {
        assert!(switch.feed(line, &frames([&*register(id)])) > 0);
    }
    switch
}

/// Numbers below `ids`, far from each other.
fn numbers(ids: usize) -> impl Iterator<Item = usize> {
    /// Prime, so that none comes twice before all have come.
    const STEP: usize = 7_919;
    (0..BATCH).map(move |n| n * STEP % ids)
}

//! The micro benchmarks, measured in time or in instructions. Each is a [`Run`], prepared
//! beforehand, with equal inputs every time.

mod inputs;

use wsmsgbroker::bench::{self, Queue, Switch, Wire, decode, id};

use inputs::{answer, escaped_message, frames, message, register, request, send, send_to_many};

/// Runs the benchmark once. The result depends on the work, so that the compiler cannot omit it.
pub type Run = Box<dyn FnMut() -> usize>;

/// Messages in one run of benchmarks that process several.
pub const BATCH: usize = 64;
/// Bytes of a message where its size is not varied.
const SHORT: usize = 100;
/// Receivers of a message to many receivers.
const MANY: usize = 100;

/// Runs it until its buffers have their final size, and checks its result.
fn ready(expected: usize, mut run: impl FnMut() -> usize + 'static) -> Run {
    for _ in 0..3 {
        assert_eq!(run(), expected);
    }
    Box::new(run)
}

fn decoding(text: String) -> Run {
    ready(1, move || decode(&text).into())
}

/// Decodes a `send` with a message of `bytes` bytes.
pub fn decode_send(bytes: usize) -> Run {
    decoding(send(&message(bytes), &id(0)))
}

/// Decodes a `send` with a message of `bytes` bytes, with escapes and letters beyond ASCII.
pub fn decode_escaped(bytes: usize) -> Run {
    decoding(send(&escaped_message(bytes), &id(0)))
}

/// Decodes a `send` to `receivers` receivers.
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

/// Extracts messages of `bytes` bytes from the frames of a client.
pub fn read(bytes: usize) -> Run {
    let text = message(bytes);
    let frames = frames([&text; BATCH]);
    let mut wire = Wire::new();
    ready(BATCH, move || wire.feed(&frames))
}

/// Finds ids among `ids` registered ones.
pub fn find(ids: usize) -> Run {
    let switch = switch(ids);
    let wanted: Vec<_> = numbers(ids).map(id).collect();
    ready(BATCH, move || {
        wanted.iter().filter(|id| switch.find(id)).count()
    })
}

/// Encodes the frame of a message of `bytes` bytes.
pub fn encode(bytes: usize) -> Run {
    let message = message(bytes);
    let mut out = Vec::new();
    let expected = bench::encode(&message, &mut out);
    ready(expected, move || {
        out.clear();
        bench::encode(&message, &mut out)
    })
}

/// Queues messages of `bytes` bytes and writes them at once.
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

/// Routes messages of `bytes` bytes over the whole path, each to one receiver among ten.
pub fn route(bytes: usize) -> Run {
    routing(bytes, 1, 10)
}

/// Routes messages of 100 bytes over the whole path, each to one receiver among `ids` ids.
pub fn route_among(ids: usize) -> Run {
    routing(SHORT, 1, ids)
}

/// Routes messages of 100 bytes over the whole path, each to a hundred receivers among `ids` ids.
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

/// Routes requests, and an answer to each, over the whole path.
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

/// A broker in which both connections are registered.
fn switch(ids: usize) -> Switch {
    let mut switch = Switch::with_ids(ids);
    for (line, id) in [(Switch::SENDER, "sender"), (Switch::RECEIVER, &id(0))] {
        assert!(switch.feed(line, &frames([&*register(id)])) > 0);
    }
    switch
}

/// Numbers below `ids`, far apart.
fn numbers(ids: usize) -> impl Iterator<Item = usize> {
    /// Prime, so that no number repeats before all were used.
    const STEP: usize = 7_919;
    (0..BATCH).map(move |n| n * STEP % ids)
}

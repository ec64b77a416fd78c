'use strict';

// Scenarios of two clients with a duration in seconds. Each ends when all sent messages have arrived,
// resolves with its figures, and rejects at the first unexpected message.

const SIZE = 100;
const FIRST = 1_000_000_000; // numbers of equal length, so that all messages have the same length
const TEXT = 'x'.repeat(SIZE - JSON.stringify({ n: FIRST, text: '' }).length);
/** Messages in flight in one direction: enough for batches to form. */
const WINDOW = 512;
/** Requests in flight. */
const ASKS = 64;

const now = () => performance.now();

/** Throws unless `message` is the message with number `n`. */
function verify(message, n) {
  if (message?.n === n && message.text === TEXT) return;
  throw new Error(`message ${n - FIRST} came as ${JSON.stringify(message)}`);
}

/** Runs `begin(resolve, guard)`. An exception of a guarded listener ends the scenario. */
function guarded(begin) {
  return new Promise((resolve, reject) => {
    const guard =
      (listener) =>
      (...values) => {
        try {
          listener(...values);
        } catch (error) {
          reject(error);
        }
      };
    guard(begin)(resolve, guard);
  });
}

/** One direction, pipelined: the sender continues once a quarter of the window has arrived. */
function oneway(sender, receiver, seconds) {
  return guarded((resolve, guard) => {
    const start = now();
    let sent = FIRST;
    let expected = FIRST;
    let over = false;
    const fill = () => {
      while (sent < expected + WINDOW) {
        sender.send({ n: sent, text: TEXT }, receiver.id);
        sent += 1;
      }
    };
    const arrived = (message, _response, from) => {
      verify(message, expected);
      // Version 1 does not name the sender.
      if (from !== undefined && from !== sender.id) throw new Error(`it came from ${from}`);
      expected += 1;
      if (sent - expected > (3 * WINDOW) / 4) return;
      over ||= now() - start >= seconds * 1000;
      if (!over) fill();
      else if (expected === sent) {
        receiver.removeListener('message', listener);
        const messages = sent - FIRST;
        resolve({ messages, messages_per_second: (messages / (now() - start)) * 1000 });
      }
    };
    const listener = guard(arrived);
    receiver.on('message', listener);
    fill();
  });
}

/**
 * Requests, `underWay` of them in flight. Each answer triggers the next request. Latencies are added to
 * `latencies`, if given.
 */
function requests(asker, responder, seconds, underWay, latencies) {
  return guarded((resolve, guard) => {
    const start = now();
    let sent = FIRST;
    let expected = FIRST;
    let answered = 0;
    const answer = guard((message, response) => {
      verify(message, expected);
      expected += 1;
      response.send(message);
    });
    const ask = () => {
      const n = sent;
      let pending = true;
      sent += 1;
      const asked = latencies && now();
      const callback = (from, message) => {
        if (latencies && answered < latencies.length) latencies[answered] = now() - asked;
        if (!pending) throw new Error(`request ${n - FIRST} was answered twice`);
        if (from !== responder.id) throw new Error(`${from} answered`);
        pending = false;
        verify(message, n);
        answered += 1;
        const milliseconds = now() - start;
        if (milliseconds < seconds * 1000) return ask();
        if (answered < sent - FIRST) return;
        responder.removeListener('message', answer);
        resolve({ messages: answered, messages_per_second: (answered / milliseconds) * 1000 });
      };
      asker.send({ n, text: TEXT }, responder.id, guard(callback));
    };
    responder.on('message', answer);
    for (let n = 0; n < underWay; n += 1) ask();
  });
}

const asks = (asker, responder, seconds) => requests(asker, responder, seconds, ASKS);

/** One request in flight: measures the round trip. */
async function ping(asker, responder, seconds) {
  const latencies = new Float64Array(1e6);
  const result = await requests(asker, responder, seconds, 1, latencies);
  const sorted = latencies.subarray(0, result.messages).sort();
  const at = (share) => sorted[Math.ceil(sorted.length * share) - 1] * 1000;
  return { ...result, p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999) };
}

module.exports = { oneway, asks, ping };

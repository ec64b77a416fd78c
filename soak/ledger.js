'use strict';

// Sent and received messages: numbered, each expected once, in order, unaltered and in time. Violations are
// reported at once.

const { DEADLINE } = require('./limits');
const Random = require('../testkit/random');

/** Characters of one, two, three and four bytes, and characters that JSON escapes. */
const ALPHABET = [...'abcdefghijklmnopqrstuvwxyz0123456789 \t\n"\\/<>äöüßλЖ中文€😀𝄞'];
const PERIOD = 16_384;
/** The longest text in characters, about a megabyte as JSON. */
const LONGEST = 600_000;

const random = new Random(0, 'text');
const period = Array.from({ length: PERIOD }, () => random.pick(ALPHABET)).join('');
const TEXT = period.repeat(Math.ceil(LONGEST / PERIOD) + 1);

/** The text for a number: both sides can compute it, and it differs from that of the next number. */
function textOf(n, length) {
  const start = (n * 7919) % PERIOD;
  return TEXT.slice(start, start + length);
}

class Ledger {
  #streams = new Set();
  #broken;
  #closed = 0;

  /** `broken` is called with each violation. */
  constructor(broken) {
    this.#broken = broken;
  }

  /** The messages of one sender to one receiver. */
  stream(name) {
    const stream = new Stream((what) => this.#broken(`${name}: ${what}`));
    this.#streams.add(stream);
    return stream;
  }

  /** Removes a stream whose messages have all arrived. */
  close(stream) {
    this.#streams.delete(stream);
    this.#closed += stream.arrived;
  }

  /** The number of messages that arrived correctly. */
  get arrived() {
    return [...this.#streams].reduce((sum, { arrived }) => sum + arrived, this.#closed);
  }

  /** Reports late messages. */
  check(now = Date.now()) {
    for (const stream of this.#streams) stream.check(now);
  }
}

class Stream {
  #broken;
  #sent = 0;
  #arrived = 0;
  /** The time since which a message is pending without any arrival. */
  #since = 0;
  #settled = null;

  constructor(broken) {
    this.#broken = broken;
  }

  get arrived() {
    return this.#arrived;
  }

  /** The next message, with a text of this length. */
  next(length = 0) {
    if (this.#sent === this.#arrived) this.#since = Date.now();
    this.#sent += 1;
    return { n: this.#sent, length, text: textOf(this.#sent, length) };
  }

  arrive(message) {
    const expected = this.#arrived + 1;
    const n = message?.n;
    if (n !== expected || n > this.#sent) {
      const which = n < expected ? 'twice or too late' : 'too early';
      this.#broken(`${n} came ${which}, ${expected} was expected`);
      return;
    }
    if (message.text !== textOf(n, message.length)) {
      this.#broken(`${n} was altered`);
    }
    this.#arrived = n;
    this.#since = Date.now();
    if (this.#sent === n) this.#settled?.();
  }

  check(now) {
    if (this.#arrived < this.#sent && now - this.#since > DEADLINE) {
      this.#broken(`${this.#sent - this.#arrived} did not come, the first is ${this.#arrived + 1}`);
      this.#since = now;
    }
  }

  /** Resolves when all sent messages have arrived. The check reports missing ones. */
  async settled() {
    if (this.#arrived < this.#sent) {
      await new Promise((resolve) => {
        this.#settled = resolve;
      });
    }
  }
}

module.exports = { Ledger, LONGEST };

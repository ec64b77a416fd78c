'use strict';

/**
 * What was sent from one id to another, what has arrived, and what became of each promise. `faults` are what
 * may not be.
 *
 * Each message from one id to another has two numbers: `n`, of all messages; `once`, of those only that must
 * never be sent a second time. On one connection of the receiver there is one connection of the sender at
 * most, as both end with their broker. So there, what arrives has ever larger `n`, also if it was sent again;
 * and its `once` has no gap: only what came last may be lost with the broker. From one connection of the
 * receiver to the next `once` grows, or something came twice.
 */
class Ledger {
  faults = [];
  arrived = 0;
  /** Requests that were heard once more. */
  repeated = 0;
  /** How many promises of a kind came to which end: `{ 'request: fine': 3 }`. */
  outcomes = {};
  /** Promises that have not settled. */
  open = new Set();
  #pairs = new Map();

  #pair(from, to) {
    const name = `${from} to ${to}`;
    const none = { n: 0, once: 0, heard: new Set(), delivered: new Map() };
    const last = { connection: 0, n: 0, once: 0, ever: 0 };
    if (!this.#pairs.has(name)) this.#pairs.set(name, { name, ...none, last });
    return this.#pairs.get(name);
  }

  /** The numbers of the next message; `isRepeatable`: it may be sent again. */
  number(from, to, isRepeatable) {
    const pair = this.#pair(from, to);
    pair.n += 1;
    if (isRepeatable) return { n: pair.n };
    pair.once += 1;
    return { n: pair.n, once: pair.once };
  }

  /** A message has arrived, on the receiver's connection with this number. */
  arrive(from, to, connection, { n, once }) {
    const pair = this.#pair(from, to);
    const { name, last, heard } = pair;
    const wrong = (what) => this.faults.push({ pair: name, what, connection, n, once, ...last });
    this.arrived += 1;
    if (connection !== last.connection) Object.assign(last, { connection, n: 0, once: 0 });
    if (n <= last.n) wrong('out of order');
    last.n = n;
    if (once === undefined) {
      if (heard.has(`n ${n}`)) this.repeated += 1;
      heard.add(`n ${n}`);
      return;
    }
    if (once <= last.ever) wrong('twice, or out of order');
    if (last.once > 0 && once !== last.once + 1) wrong('a gap');
    if (pair.refused?.has(once)) wrong('told to be undeliverable');
    last.once = last.ever = once;
    heard.add(once);
  }

  /** How many have arrived from one id to another on this connection of the receiver, or after it. */
  hasHeard(from, to, connection) {
    return this.#pair(from, to).last.connection >= connection;
  }

  /** The broker has told what became of a message, on this connection of the sender. */
  told(from, to, once, isDelivered, connection) {
    const pair = this.#pair(from, to);
    if (isDelivered) {
      pair.delivered.set(once, connection);
    } else {
      pair.refused ??= new Set();
      pair.refused.add(once);
      if (pair.heard.has(once)) {
        this.faults.push({ pair: pair.name, what: 'delivered, but not told so', once });
      }
    }
  }

  /** What was delivered on this connection of the sender and has not arrived. */
  missing(from, to, connection) {
    const { name, delivered, heard } = this.#pair(from, to);
    return [...delivered]
      .filter(([once, on]) => (connection ?? on) === on && !heard.has(once))
      .map(([once]) => ({ pair: name, what: 'delivered, but lost', once }));
  }

  /** Waits for a promise, and notes its end by what `describe` makes of its value. */
  async settle(what, promise, describe) {
    const entry = { what };
    this.open.add(entry);
    let end;
    try {
      end = describe(await promise);
    } catch (error) {
      end = error.code ?? error.stack;
    }
    this.open.delete(entry);
    const name = `${what}: ${end}`;
    this.outcomes[name] = (this.outcomes[name] ?? 0) + 1;
  }
}

module.exports = Ledger;

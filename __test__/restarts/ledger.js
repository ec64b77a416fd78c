'use strict';

/**
 * Messages sent from one id to another, received messages, and the outcome of each promise. `faults` lists
 * violations.
 *
 * Each message from one id to another has two numbers: `n` counts all messages, `once` only those that must
 * never be sent a second time. As both ends lose their connections with their broker, each connection of the
 * receiver has at most one connection of the sender. On it, `n` always grows, even if a message was resent,
 * and `once` has no gap: only the last messages may be lost with the broker. From one connection of the
 * receiver to the next `once` grows; otherwise a message arrived twice.
 */
class Ledger {
  faults = [];
  arrived = 0;
  /** Requests that arrived again. */
  repeated = 0;
  /** Number of promises by kind and outcome: `{ 'request: fine': 3 }`. */
  outcomes = {};
  /** Pending promises. */
  open = new Set();
  #pairs = new Map();

  #pair(from, to) {
    const name = `${from} to ${to}`;
    const none = { n: 0, once: 0, heard: new Set(), delivered: new Map() };
    const last = { connection: 0, n: 0, once: 0, ever: 0 };
    if (!this.#pairs.has(name)) this.#pairs.set(name, { name, ...none, last });
    return this.#pairs.get(name);
  }

  /** The numbers of the next message. `isRepeatable`: it may be sent again. */
  number(from, to, isRepeatable) {
    const pair = this.#pair(from, to);
    pair.n += 1;
    if (isRepeatable) return { n: pair.n };
    pair.once += 1;
    return { n: pair.n, once: pair.once };
  }

  /** Records a message on the receiver's connection with this number. */
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
    if (pair.refused?.has(once)) wrong('has a receipt of failure');
    last.once = last.ever = once;
    heard.add(once);
  }

  /** Whether a message has arrived from one id at another on this connection of the receiver, or after it. */
  hasHeard(from, to, connection) {
    return this.#pair(from, to).last.connection >= connection;
  }

  /** Records the receipt for a message on this connection of the sender. */
  told(from, to, once, isDelivered, connection) {
    const pair = this.#pair(from, to);
    if (isDelivered) {
      pair.delivered.set(once, connection);
    } else {
      pair.refused ??= new Set();
      pair.refused.add(once);
      if (pair.heard.has(once)) {
        this.faults.push({
          pair: pair.name,
          what: 'delivered, but has a receipt of failure',
          once,
        });
      }
    }
  }

  /** Delivered messages on this connection of the sender that have not arrived. */
  missing(from, to, connection) {
    const { name, delivered, heard } = this.#pair(from, to);
    return [...delivered]
      .filter(([once, on]) => (connection ?? on) === on && !heard.has(once))
      .map(([once]) => ({ pair: name, what: 'delivered, but lost', once }));
  }

  /** Waits for a promise and counts its outcome, as described by `describe`. */
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

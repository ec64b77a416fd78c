'use strict';

// Sent messages, their receipts and received messages, recorded separately and compared at the end.
//
// Messages are ordered between two connections. A client that reconnects to another broker may overtake its
// earlier messages.

/** Checks the guarantees of each message. */
class Ledger {
  /** All messages per pair of ids, with outcome and time. */
  #pairs = new Map();
  /** The times at which connections of a receiver ended. */
  #ends = new Map();
  /** Messages that arrived after a later one. */
  #reordered = [];
  arrived = 0;
  faults = [];

  #pair(from, to) {
    const name = `${from} ${to}`;
    let pair = this.#pairs.get(name);
    if (!pair) {
      pair = { from, to, sent: [], last: new Map() };
      this.#pairs.set(name, pair);
    }
    return pair;
  }

  /** The number of the next message, and a function to record its receipt. */
  send(from, to) {
    const pair = this.#pair(from, to);
    const entry = { at: Date.now(), receipt: null, got: 0, settled: 0 };
    const number = pair.sent.push(entry) - 1;
    const settle = (code) => {
      if (entry.receipt !== null) this.faults.push(`${from} to ${to}: ${number} has two receipts`);
      entry.receipt = code;
      entry.settled = Date.now();
    };
    return { number, settle };
  }

  /** Records a received message. `line`: the connections of its sender and of its receiver. */
  got(to, { from, number }, line = '') {
    const pair = this.#pair(from, to);
    const entry = pair.sent[number];
    this.arrived += 1;
    if (!entry) this.faults.push(`${from} to ${to}: ${number} was never sent`);
    else if (++entry.got > 1) this.faults.push(`${from} to ${to}: ${number} arrived twice`);
    const last = pair.last.get(line) ?? -1;
    if (number < last) this.#reordered.push({ from, to, number, last, at: entry?.at });
    pair.last.set(line, Math.max(last, number));
  }

  /** Records that the connection of an id has ended or lost its id. */
  ended(id) {
    const ends = this.#ends.get(id) ?? [];
    ends.push(Date.now());
    this.#ends.set(id, ends);
  }

  /** Counts messages by receipt and arrival, and adds violations to `faults`. */
  close(window) {
    const counts = {};
    const isNear = (id, from, to) =>
      (this.#ends.get(id) ?? []).some((end) => end >= from - window && end <= to + window);
    for (const { from, to, number, last, at } of this.#reordered) {
      // A sender that is about to change connections has sent these two on different ones.
      if (!isNear(from, at, at))
        this.faults.push(`${from} to ${to}: ${number} arrived after ${last}`);
    }
    const note = (what) => {
      counts[what] = (counts[what] ?? 0) + 1;
    };
    for (const { from, to, sent } of this.#pairs.values()) {
      for (const [number, entry] of sent.entries()) {
        const { at, receipt, got, settled } = entry;
        const name = `${from} to ${to}: ${number}`;
        note(`${receipt ?? 'nothing'}${got > 0 ? ', arrived' : ', lost'}`);
        if (receipt === null) this.faults.push(`${name} has no receipt`);
        if (['UNKNOWN_ID', 'SLOW'].includes(receipt) && got > 0) {
          this.faults.push(`${name} has the receipt ${receipt}, but arrived`);
        }
        if (receipt === 'delivered' && got === 0) {
          if (!isNear(to, at, settled))
            this.faults.push(`${name} has the receipt delivered, but is lost`);
        }
      }
    }
    return counts;
  }
}

module.exports = Ledger;

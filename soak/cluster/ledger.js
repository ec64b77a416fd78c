'use strict';

// What was sent, what its sender was told of it, and what arrived: kept apart, and compared at the end.
//
// Order holds between two connections: who comes back to another broker may overtake what he sent before.

/** What must hold of each message, whatever broke. */
class Ledger {
  /** Of each pair, all that was sent: what became of it, and when. */
  #pairs = new Map();
  /** When connections of a receiver ended. */
  #ends = new Map();
  /** What came behind something that was sent later. */
  #behind = [];
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

  /** The number of the next message; what is told of it goes to what is returned. */
  send(from, to) {
    const pair = this.#pair(from, to);
    const entry = { at: Date.now(), told: null, got: 0, settled: 0 };
    const number = pair.sent.push(entry) - 1;
    const tell = (code) => {
      if (entry.told !== null) this.faults.push(`${from} to ${to}: ${number} was told twice`);
      entry.told = code;
      entry.settled = Date.now();
    };
    return { number, tell };
  }

  /** `line`: the connections it came by, of its sender and of its receiver. */
  got(to, { from, number }, line = '') {
    const pair = this.#pair(from, to);
    const entry = pair.sent[number];
    this.arrived += 1;
    if (!entry) this.faults.push(`${from} to ${to}: ${number} was never sent`);
    else if (++entry.got > 1) this.faults.push(`${from} to ${to}: ${number} came twice`);
    const last = pair.last.get(line) ?? -1;
    if (number < last) this.#behind.push({ from, to, number, last, at: entry?.at });
    pair.last.set(line, Math.max(last, number));
  }

  /** The connection of this one has ended, or lost its id. */
  ended(id) {
    const ends = this.#ends.get(id) ?? [];
    ends.push(Date.now());
    this.#ends.set(id, ends);
  }

  /** Counts by what was told and whether it arrived; what must not be is a fault. */
  close(window) {
    const counts = {};
    const isNear = (id, from, to) =>
      (this.#ends.get(id) ?? []).some((end) => end >= from - window && end <= to + window);
    for (const { from, to, number, last, at } of this.#behind) {
      // Who was about to leave his connection has sent the one by it, and the other by the next.
      if (!isNear(from, at, at))
        this.faults.push(`${from} to ${to}: ${number} came behind ${last}`);
    }
    const note = (what) => {
      counts[what] = (counts[what] ?? 0) + 1;
    };
    for (const { from, to, sent } of this.#pairs.values()) {
      for (const [number, entry] of sent.entries()) {
        const { at, told, got, settled } = entry;
        const name = `${from} to ${to}: ${number}`;
        note(`${told ?? 'nothing'}${got > 0 ? ', arrived' : ', lost'}`);
        if (told === null) this.faults.push(`${name} was told nothing`);
        if (['UNKNOWN_ID', 'SLOW'].includes(told) && got > 0) {
          this.faults.push(`${name} was told ${told}, and arrived`);
        }
        if (told === 'delivered' && got === 0) {
          if (!isNear(to, at, settled)) this.faults.push(`${name} was told delivered, and is lost`);
        }
      }
    }
    return counts;
  }
}

module.exports = Ledger;

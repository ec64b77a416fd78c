'use strict';

/**
 * What has arrived, by the connections it went between. Its `faults` are what may not be: a message
 * that comes twice, out of order, or with a gap before it.
 */
class Ledger {
  faults = [];
  /** The last number from one connection to another, by both their names. */
  #between = new Map();
  /** The last number from one connection to an id, whatever connection had it. */
  #toId = new Map();

  /** Messages `[from, n, to]`: from which connection, its how manieth to this id, to which one. */
  arrive(id, messages) {
    for (const [from, n, to] of messages) {
      const last = this.last(from, to);
      // The first to a connection follows those that went to an earlier one, or were lost with it.
      const inOrder = last > 0 ? n === last + 1 : n > (this.#toId.get(`${from} ${id}`) ?? 0);
      if (!inOrder) this.faults.push({ id, from, to, n, last });
      this.#between.set(`${from} ${to}`, n);
      this.#toId.set(`${from} ${id}`, n);
    }
  }

  /** The number of the last message from one connection to another; 0 if there was none. */
  last(from, to) {
    return this.#between.get(`${from} ${to}`) ?? 0;
  }
}

module.exports = Ledger;

'use strict';

/**
 * Received messages by the pair of connections. `faults` lists violations: a message that arrives twice, out
 * of order or after a gap.
 */
class Ledger {
  faults = [];
  /** The last number from one connection to another, by both names. */
  #between = new Map();
  /** The last number from one connection to an id, whichever connection owned it. */
  #toId = new Map();

  /**
   * Records messages `[from, n, to]`: sending connection, number of the message to this id, receiving
   * connection.
   */
  arrive(id, messages) {
    for (const [from, n, to] of messages) {
      const last = this.last(from, to);
      // The first message to a connection follows those to its predecessor, or those lost with it.
      const inOrder = last > 0 ? n === last + 1 : n > (this.#toId.get(`${from} ${id}`) ?? 0);
      if (!inOrder) this.faults.push({ id, from, to, n, last });
      this.#between.set(`${from} ${to}`, n);
      this.#toId.set(`${from} ${id}`, n);
    }
  }

  /** The number of the last message from one connection to another, or 0. */
  last(from, to) {
    return this.#between.get(`${from} ${to}`) ?? 0;
  }
}

module.exports = Ledger;

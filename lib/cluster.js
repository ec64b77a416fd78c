'use strict';

const { checkArgument } = require('./options');

/** How long all brokers are given to say which ids they have, ms. */
const SEARCH = 1000;

/** All brokers of a cluster, as one of them sees them. */
class Cluster {
  #broker;

  /** `broker`: tells the `brokers` that are known, and looks for ids at all (`find`). */
  constructor(broker) {
    this.#broker = broker;
  }

  /** The names of the brokers known now, this one among them. */
  brokers() {
    return this.#broker.brokers() ?? [];
  }

  /** The ids at all brokers; those that did not answer in time are named in `silent`. */
  async ids({ timeout = SEARCH } = {}) {
    const { ids, silent } = await this.#broker.find(undefined, checkArgument('timeout', timeout));
    return { ids: ids.map(([id]) => id), silent };
  }

  /** Whether somebody has registered this id anywhere, and at which broker. */
  async has(id, { timeout = SEARCH } = {}) {
    checkArgument('id', id);
    const { ids, silent } = await this.#broker.find(id, checkArgument('timeout', timeout));
    return { has: ids.length > 0, broker: ids[0]?.[1] ?? null, silent };
  }
}

module.exports = Cluster;

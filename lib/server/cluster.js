'use strict';

const { checkArgument } = require('../options');

/** Default time within which brokers must answer a search, in milliseconds. */
const SEARCH_TIMEOUT = 1000;

/** The cluster of a server, as `server.cluster`: the known brokers, and the ids that are registered at them. */
class Cluster {
  #broker;

  /** `broker` has the methods `brokers()` and `find(id, timeout)`. */
  constructor(broker) {
    this.#broker = broker;
  }

  /** The names of the known brokers, including this one. */
  brokers() {
    return this.#broker.brokers() ?? [];
  }

  /** The ids registered at all brokers. `silent` are the names of the brokers that have not answered in time. */
  async ids({ timeout = SEARCH_TIMEOUT } = {}) {
    const { ids, silent } = await this.#broker.find(undefined, checkArgument('timeout', timeout));
    return { ids: ids.map(([id]) => id), silent };
  }

  /** Whether this id is registered at any broker, and at which one. */
  async has(id, { timeout = SEARCH_TIMEOUT } = {}) {
    checkArgument('id', id);
    const { ids, silent } = await this.#broker.find(id, checkArgument('timeout', timeout));
    return { has: ids.length > 0, broker: ids[0]?.[1] ?? null, silent };
  }
}

module.exports = Cluster;

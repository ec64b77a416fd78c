'use strict';

// Brokers and the hub between them, with the interface of one broker.

const { Broker } = require('../driver/processes');

/** The roles of processes. */
const ROLES = ['sender', 'receiver', 'idle', 'hub'];

class System {
  #all = [];

  /**
   * Starts the `brokers` of the rival and the `hub` (of `brokers/`) between them, if any. With `ends`
   * `apart`, senders connect to the first broker and receivers to the others; otherwise all connect to the
   * first.
   */
  static async start(rival, cpus) {
    const system = new System();
    Object.assign(system, { name: rival.name, cpus });
    try {
      await system.#start(rival);
      return system;
    } catch (error) {
      system.kill();
      throw error;
    }
  }

  async #start(rival) {
    const args = [...rival.args];
    if (rival.hub) {
      const hub = await Broker.start({ name: rival.hub, script: `${rival.hub}.js` }, this.cpus);
      this.#all.push({ broker: hub, role: 'hub' });
      args.push(`--${rival.hub}`, hub.hub);
    }
    const isApart = rival.ends === 'apart';
    for (let n = 0; n < rival.brokers; n += 1) {
      const broker = await Broker.start({ ...rival, args }, this.cpus);
      const behind = isApart ? 'receiver' : 'idle';
      this.#all.unshift({ broker, role: n === 0 ? 'sender' : behind });
    }
    const [sender] = this.#of('sender');
    this.address = { ...sender.address };
    if (isApart) {
      const urls = this.#of('receiver').map(({ address }) => address.url);
      this.address.to = urls.join(',');
    }
  }

  #of(role) {
    return this.#all.filter((one) => one.role === role).map(({ broker }) => broker);
  }

  get parts() {
    return this.#all.map(({ broker }) => broker);
  }

  /**
   * Processor time by role, from that of all processes: a message passes one broker of its sender, one of its
   * receiver if that is another one, and the hub.
   */
  costs(parts) {
    const costs = {};
    for (const role of ROLES) {
      const those = parts.filter((_, n) => this.#all[n].role === role);
      if (those.length > 0) costs[`${role}_us`] = those.reduce((sum, cost) => sum + cost);
    }
    return costs;
  }

  /** Stops the hub last, because brokers report its loss as an error. */
  async stop() {
    for (const broker of this.parts) await broker.stop();
  }

  kill() {
    for (const broker of this.parts) broker.kill();
  }
}

module.exports = { COSTS: ROLES.map((role) => `${role}_us`), System };

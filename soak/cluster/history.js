'use strict';

// When each client was connected to which broker, and when faults could disturb brokers and clients.

/** Messages sent so shortly before or after a change of a connection are not compared, in milliseconds. */
const WINDOW = 3000;
/** Time that a broker takes to subscribe again after a fault, in milliseconds. */
const RECOVERY = 2000;

class History {
  /** Connections by id: `{ id, broker, from, until }`, `until` is infinite while it is open. */
  #connections = new Map();
  /** Disturbances by broker or id: `{ from, until }`. */
  #disturbances = new Map();

  /** Records a new connection, and returns it. */
  opened(id, broker) {
    const connection = { id, broker, from: Date.now(), until: Number.POSITIVE_INFINITY };
    const all = this.#connections.get(id) ?? [];
    this.#connections.set(id, all);
    all.push(connection);
    return connection;
  }

  /** Records the end of a connection. */
  ended(connection) {
    if (connection) connection.until = Math.min(connection.until, Date.now());
  }

  /** Records a disturbance of these brokers or ids that began `ago` milliseconds ago. Returns a function that ends it. */
  disturb(names, ago = 0) {
    const disturbance = { from: Date.now() - ago, until: Number.POSITIVE_INFINITY };
    for (const name of names) {
      const all = this.#disturbances.get(name) ?? [];
      this.#disturbances.set(name, all);
      all.push(disturbance);
    }
    return () => {
      disturbance.until = Math.min(disturbance.until, Date.now() + RECOVERY);
    };
  }

  /** Whether one of these brokers or ids was disturbed at some time in between. */
  isDisturbed(names, from, until) {
    return names.some((name) =>
      (this.#disturbances.get(name) ?? []).some((one) => one.from <= until && one.until >= from),
    );
  }

  /** Whether one connection of the id was open all the time, from some time before to some time after. */
  isSteady(id, from, until) {
    return (this.#connections.get(id) ?? []).some(
      (one) => one.from <= from - WINDOW && one.until >= until + WINDOW,
    );
  }
}

module.exports = { History, RECOVERY, WINDOW };

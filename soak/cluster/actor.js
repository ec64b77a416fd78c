'use strict';

// A client that publishes, subscribes, works in groups, and is a member of a topic. Its id has one connection at a time,
// to a broker of its choice, by a relay that can be cut.

const WSMsgBroker = require('../..');
const Line = require('./line');

const RECONNECT = { minDelay: 20, maxDelay: 200, jitter: 1 };

class Actor {
  #history;
  #choose;
  #setUp;
  #lines = new Set();
  /** The last one of the operations that exclude each other. */
  #turn = Promise.resolve();
  client;
  isDead = false;

  /** `choose()`: a broker that runs; `setUp(actor, client)`: adds the subscriptions of a new client. */
  constructor(id, { history, choose, setUp }) {
    this.id = id;
    this.#history = history;
    this.#choose = choose;
    this.#setUp = setUp;
  }

  /** The connection in the history, while the client is registered. */
  get connection() {
    return this.client?.state === 'registered' ? this.client.connection : undefined;
  }

  /** Opens a client, which takes over the id if there is one. */
  async open() {
    let broker;
    const line = new Line(() => {
      broker = this.#choose();
      return broker?.port;
    });
    await line.open();
    this.#lines.add(line);
    const client = new WSMsgBroker(this.id, `ws://127.0.0.1:${line.port}/`, {
      protocol: 2,
      reconnect: RECONNECT,
      requestTimeout: 15_000,
    });
    client.line = line;
    client.on('error', () => {});
    client.on('registered', () => {
      client.connection = this.#history.opened(this.id, broker.name);
    });
    for (const event of ['reconnecting', 'close', 'replaced']) {
      client.on(event, () => this.#history.ended(client.connection));
    }
    client.once('close', () => {
      line.close();
      this.#lines.delete(line);
    });
    this.client = client;
    await client.connected();
    await this.#setUp(this, client);
  }

  /** Runs a function when no other one runs. */
  exclusive(run) {
    const result = this.#turn.then(run);
    this.#turn = result.catch(() => {});
    return result;
  }

  /** Opens another client with the same id, and then closes the former one. */
  takeOver() {
    return this.exclusive(async () => {
      const former = this.client;
      await this.open();
      await former.close();
    });
  }

  /** Ends the connection without a close frame, for good. */
  kill() {
    return this.exclusive(async () => {
      this.isDead = true;
      this.client.line.cut(true);
      await this.client.close();
    });
  }

  revive() {
    return this.exclusive(async () => {
      this.isDead = false;
      await this.open();
    });
  }

  cut() {
    for (const line of this.#lines) line.cut();
  }

  async freeze(wait) {
    const lines = [...this.#lines];
    for (const line of lines) line.freeze();
    await wait;
    for (const line of lines) line.thaw();
  }

  close() {
    return this.exclusive(() => this.client.close());
  }
}

module.exports = Actor;

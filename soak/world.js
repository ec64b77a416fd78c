'use strict';

// What an act has at hand: a way to the broker, time, chance, and whom to tell what is wrong.

const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const WSMsgBroker = require('..');
const { DEADLINE } = require('./limits');
const Plain = require('./plain');
const Random = require('./random');
const { Wire, request } = require('./wire');

class World {
  #stopped;
  #ids = 0;

  /** `stopped`: an AbortSignal for the end of the run; `broken` is told what is wrong. */
  constructor({ name, port, seed, ledger, stopped, broken }) {
    this.name = name;
    this.port = port;
    this.random = new Random(seed, name);
    this.ledger = ledger;
    this.broken = broken;
    this.#stopped = stopped;
  }

  get stopping() {
    return this.#stopped.aborted;
  }

  /** Waits, but for no longer than the run lasts. */
  async sleep(millis) {
    try {
      await sleep(millis, undefined, { signal: this.#stopped });
    } catch {
      // The run is over.
    }
  }

  /** An id that nobody has. */
  id() {
    this.#ids += 1;
    return `${this.name}-${process.pid}-${this.#ids}`;
  }

  /** A registered client: ours, or one over a plain socket. */
  async client(plain, id = this.id()) {
    const client = plain ? new Plain(id, this.port) : new WSMsgBroker(id, '127.0.0.1', this.port);
    client.on('error', (error) => this.broken(`${id}: ${error.code} ${error.message}`));
    await once(client, 'registered', { signal: AbortSignal.timeout(DEADLINE) });
    return client;
  }

  /** A socket whose handshake is done; registered, if there is an id. */
  async dial(id) {
    const wire = new Wire(this.port);
    wire.write(request());
    this.expect(await wire.status, 101, 'the handshake');
    if (id !== undefined) {
      wire.tell({ action: 'register', id });
      await wire.action('registered');
    }
    return wire;
  }

  expect(found, expected, what) {
    if (found !== expected) throw new Error(`${what}: ${found} instead of ${expected}`);
  }

  /** The promise, or an error if it takes too long. */
  async within(promise, what) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${what}: not within ${DEADLINE} ms`)), DEADLINE);
    });
    try {
      return await Promise.race([promise, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

module.exports = World;

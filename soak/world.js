'use strict';

// The environment of an act: connections to one of the servers, time, random numbers, and functions to report
// violations.

const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const WSMsgBroker = require('..');
const { DEADLINE } = require('./limits');
const Plain = require('./plain');
const Random = require('../testkit/random');
const { ISSUER, inSeconds, sign } = require('./token');
const { Wire, request } = require('./wire');

/** Longer than any run, in seconds. */
const MONTH = 30 * 86_400;

class World {
  #stopped;
  #ids = 0;

  /**
   * `place`: the address of the server: its `port`, its `ca` if it speaks TLS, and the `secret` of its tokens
   * if it requires them. `stopped`: an AbortSignal for the end of the run. `broken` is called with each
   * violation, `met` with the name of a counter that the server must have incremented.
   */
  constructor({ name, place, seed, ledger, stopped, broken, met }) {
    this.name = name;
    this.place = place;
    this.random = new Random(seed, name);
    this.ledger = ledger;
    this.broken = broken;
    this.met = met;
    this.#stopped = stopped;
  }

  get stopping() {
    return this.#stopped.aborted;
  }

  /** Waits, at most until the end of the run. */
  async sleep(millis) {
    try {
      await sleep(millis, undefined, { signal: this.#stopped });
    } catch {
      // The run has ended.
    }
  }

  /** A new, unknown id. */
  id() {
    this.#ids += 1;
    return `${this.name}-${process.pid}-${this.#ids}`;
  }

  /** A token for an id, if the server requires one. `claims` override those of a valid token. */
  token(id, claims) {
    const { secret } = this.place;
    const valid = { iss: ISSUER, sub: id, exp: inSeconds(MONTH) };
    return secret && sign({ ...valid, ...claims }, secret);
  }

  /** The action that registers an id. */
  registration(id, claims) {
    return { action: 'register', id, token: this.token(id, claims) };
  }

  /** A client that is about to register: ours, or one over a Wire. */
  connect(plain, id, token) {
    const { port, ca } = this.place;
    if (plain) return new Plain(id, this.place, token);
    return new WSMsgBroker(id, '127.0.0.1', port, '/', { token, tls: ca && { ca } });
  }

  /** A registered client. */
  async client(plain, id = this.id(), claims = {}) {
    const client = this.connect(plain, id, this.token(id, claims));
    client.on('error', (error) => this.broken(`${id}: ${error.code} ${error.message}`));
    await once(client, 'registered', { signal: AbortSignal.timeout(DEADLINE) });
    return client;
  }

  /** A Wire after its handshake, registered if an id is given. */
  async dial(id, claims = {}) {
    const wire = new Wire(this.place);
    wire.write(request());
    this.expect(await this.within(wire.status, 'the handshake'), 101, 'the handshake');
    if (id !== undefined) {
      wire.send(this.registration(id, claims));
      await wire.action('registered');
    }
    return wire;
  }

  expect(found, expected, what) {
    if (found !== expected) throw new Error(`${what}: ${found} instead of ${expected}`);
  }

  /** The promise, or an error after a timeout. */
  async within(promise, what, millis = DEADLINE) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${what}: timeout after ${millis} ms`)), millis);
    });
    try {
      return await Promise.race([promise, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

module.exports = World;

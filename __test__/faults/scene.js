'use strict';

const { setTimeout: pause } = require('node:timers/promises');
const Ledger = require('./ledger');
const Program = require('./program');

const LATE_MS = 60_000;
const POLL_MS = 5;

/** A broker and peers that exchange messages, each in a process of its own, with their ledger. */
class Scene {
  ledger = new Ledger();
  port = 0;
  broker;
  /** By id: the program, and the name of its open connection. */
  peers = new Map();
  /** The close codes of connections that were open. */
  codes = [];
  #options;

  constructor(options) {
    this.#options = options;
  }

  /** Starts a broker on the port of its predecessor. */
  async startBroker() {
    this.broker = new Program('broker.js', JSON.stringify({ ...this.#options, port: this.port }));
    ({ port: this.port } = await this.broker.hear('port'));
  }

  /** Starts a peer in place of its predecessor. */
  startPeer(id, others) {
    const peer = { program: new Program('peer.js', this.port, id, ...others), name: null };
    peer.program.on(({ up, down, code, arrived }) => {
      if (up) peer.name = up;
      if (down) {
        peer.name = null;
        this.codes.push(code);
      }
      if (arrived) this.ledger.arrive(id, arrived);
    });
    this.peers.set(id, peer);
  }

  /** Waits until all of these are connected and each has received a new message from each other. */
  async talking(ids = [...this.peers.keys()]) {
    const names = () => ids.map((id) => this.peers.get(id).name);
    const heard = new Map();
    await this.until('all are up', () => names().every((name) => name !== null));
    for (const [from, to] of pairs(names())) heard.set(`${from} ${to}`, this.ledger.last(from, to));
    await this.until('all talk', () =>
      pairs(names()).every(
        // A different name means a new connection.
        ([from, to]) => this.ledger.last(from, to) > (heard.get(`${from} ${to}`) ?? 0),
      ),
    );
  }

  /** Stops the peers and waits until all messages in flight have arrived. */
  async silence() {
    const told = [];
    for (const { program } of this.peers.values()) {
      told.push(await program.hear('sent', { silence: true }));
    }
    await this.until('all has arrived', () =>
      told.every(({ from, sent }) =>
        Object.entries(sent).every(
          ([id, n]) => this.ledger.last(from, this.peers.get(id).name) === n,
        ),
      ),
    );
  }

  /** Counters and events of the broker. */
  ask() {
    return this.broker.hear('stats', { ask: true });
  }

  async until(what, isTrue) {
    const deadline = Date.now() + LATE_MS;
    while (!(await isTrue())) {
      if (Date.now() > deadline) throw new Error(`timeout: ${what}`);
      await pause(POLL_MS);
    }
  }

  /** Ends all remaining processes. */
  async end() {
    const programs = [this.broker, ...[...this.peers.values()].map(({ program }) => program)];
    await Promise.all(programs.map((program) => program.kill()));
  }
}

function pairs(names) {
  return names.flatMap((from) => names.filter((to) => to !== from).map((to) => [from, to]));
}

module.exports = Scene;

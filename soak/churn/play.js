'use strict';

// Many ids on a few brokers during an outage of NATS: measures when each id is reachable again, and the cost.

const { setTimeout: sleep } = require('node:timers/promises');
const WSMsgBroker = require('../..');
const { startNats } = require('../../testkit/nats');
const proc = require('../../testkit/proc');
const Child = require('../processes');
const { idOf } = require('./ids');

/** Duration of the outage, ms. */
const DOWN_MS = 1000;
/** Pause before memory is read, ms. */
const REST_MS = 3000;
/** Timeout of every step, ms. */
const DEADLINE_MS = 300_000;
const POLL_MS = 20;
const END_MS = 10_000;
const SAMPLE = 1000;

/** At most `most` numbers below `count`, spread evenly. */
function spread(count, most) {
  const size = Math.min(count, most);
  return Array.from({ length: size }, (_, n) => Math.floor((n * count) / size));
}

/** Repeats until the condition holds. Returns the number of failed attempts. */
async function until(what, isSo) {
  const deadline = Date.now() + DEADLINE_MS;
  for (let vain = 0; ; vain += 1) {
    if (await isSo()) return vain;
    if (Date.now() > deadline) throw new Error(`timeout: ${what}`);
    await sleep(POLL_MS);
  }
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/**
 * Brokers with ids, the processes of their clients and, in a cluster, one more broker for the asking client.
 */
class World {
  #ends = [];
  #rest;
  holders = [];
  clients = [];
  round = 0;

  constructor(count, rest) {
    this.count = count;
    this.#rest = rest;
  }

  #start(name, script, args) {
    const child = new Child(name, script, args.map(String), (what) => {
      throw new Error(what);
    });
    this.#ends.unshift(() => child.end('close', END_MS));
    return child;
  }

  async #startBroker(name) {
    const args = this.nats ? [name, this.nats.url] : [name];
    const child = this.#start(name, 'churn/broker.js', args);
    const { port } = await child.message('port');
    return { child, port };
  }

  async start(holders, isClustered) {
    if (isClustered) {
      this.nats = await startNats({ teardown: (end) => this.#ends.unshift(end) });
      this.asker = await this.#startBroker('asker');
      const url = `ws://127.0.0.1:${this.asker.port}/`;
      this.client = new WSMsgBroker('asker', url, { protocol: 2 });
      this.#ends.unshift(() => this.client.close());
      await this.client.connected();
    }
    for (let n = 0; n < holders; n += 1) this.holders.push(await this.#startBroker(`b${n}`));
    const [share, first] = [this.count / holders, (n) => Math.round(n * share)];
    for (const [n, { port }] of this.holders.entries()) {
      const args = [port, first(n + 1) - first(n), first(n), n];
      const child = this.#start(`clients ${n}`, 'churn/clients.js', args);
      await child.message('ready');
      this.clients.push(child);
    }
  }

  /** Registers all clients at the same time. */
  async register() {
    const begun = Date.now();
    const times = this.clients.map((child) => child.ask('register', 'registered', DEADLINE_MS));
    const last = Math.max(...(await Promise.all(times)).map(({ registered }) => registered));
    return (last - begun) / 1000;
  }

  /** Memory, counters and processor time of all processes at rest. */
  async measure() {
    await sleep(this.#rest);
    const brokers = this.asker ? [...this.holders, this.asker] : this.holders;
    const stats = [];
    for (const { child } of brokers) stats.push((await child.ask('stats', 'stats')).stats);
    const held = stats.slice(0, this.holders.length);
    return {
      brokers: this.holders.map(({ child }) => child.resident()),
      nats: this.nats && proc.memory(this.nats.pid).rss,
      work: {
        holders: sum(this.holders.map(({ child }) => child.processorTime())),
        asker: this.asker?.child.processorTime(),
        nats: this.nats && Child.processorTimeOf(this.nats.pid),
      },
      registered: sum(held.map(({ registered }) => registered)),
      lagged: sum(stats.map(({ cluster }) => cluster?.lagged ?? 0)),
    };
  }

  /**
   * Sends to a sample from a broker that owns none of the ids, until all messages arrived. Returns the
   * failures by code.
   */
  async #reachAll() {
    const ids = spread(this.count, SAMPLE).map(idOf);
    const failed = {};
    const note = (code) => {
      failed[code] = (failed[code] ?? 0) + 1;
    };
    await until('reached', async () => {
      this.round += 1;
      try {
        const told = await this.client.deliver(this.round, ids);
        for (const { code } of told.failed.values()) note(code);
        return told.delivered.length === ids.length;
      } catch ({ code }) {
        note(code);
        return false;
      }
    });
    return failed;
  }

  /** Repeats until all brokers have listed all ids. Returns the number of failed attempts. */
  async #nameAll() {
    return until('named', async () => {
      const { found, silent } = await this.asker.child.ask('find', 'found');
      return found === this.count && silent === 0;
    });
  }

  /** Resolves with the times once everything works again. */
  async reach() {
    const failed = await this.#reachAll();
    const reached = Date.now();
    const vain = await this.#nameAll();
    return { reached, failed, named: Date.now(), vain };
  }

  /** How many messages of the last sample arrived. */
  async arrived() {
    const counts = () => Promise.all(this.clients.map((child) => child.ask('arrived', 'arrived')));
    let came;
    await until('arrived', async () => {
      came = sum((await counts()).map(({ arrived }) => arrived[this.round] ?? 0));
      return came >= Math.min(this.count, SAMPLE);
    });
    return came;
  }

  /** Kills and restarts NATS. Returns the seconds until each state was reached again. */
  async breakNats() {
    const brokers = [...this.holders, this.asker];
    const back = brokers.map(({ child }) => child.message('connected', DEADLINE_MS));
    await this.nats.kill();
    await sleep(DOWN_MS);
    await this.nats.start();
    const listening = Date.now();
    const connected = Math.max(...(await Promise.all(back)).map((told) => told.connected));
    const { reached, failed, named, vain } = await this.reach();
    const since = (at) => (at - listening) / 1000;
    const seconds = { connected: since(connected), reached: since(reached), named: since(named) };
    return { seconds, failed, vain };
  }

  async end() {
    for (const end of this.#ends) await end();
  }
}

/** Plays `ids` on this many `brokers`, which are a cluster or independent. */
async function play({ ids, brokers, isClustered = true, rest = REST_MS }) {
  const world = new World(ids, rest);
  try {
    await world.start(brokers, isClustered);
    const empty = await world.measure();
    const register = await world.register();
    const full = await world.measure();
    const result = { ids, brokers, isClustered, register, empty, full };
    if (!isClustered) return result;
    await world.reach();
    const before = await world.measure();
    const broken = await world.breakNats();
    const arrived = await world.arrived();
    const { in_bytes: heard, out_bytes: told } = await world.nats.monitor('varz');
    const after = await world.measure();
    const work = {};
    for (const who of ['holders', 'asker']) work[who] = after.work[who] - before.work[who];
    // NATS is a new process.
    work.nats = after.work.nats;
    return { ...result, ...broken, after, arrived, work, traffic: { heard, told } };
  } finally {
    await world.end();
  }
}

module.exports = { play, SAMPLE, DOWN_MS };

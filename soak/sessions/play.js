'use strict';

// Plays clients whose connections break: numbered messages and requests in both directions, and what became of them.

const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const { WebSocket } = require('ws');
const WSMsgBroker = require('../..');
const Browser = require('../../lib/browser');
const BreakableLine = require('./line');

/** Delays of the clients between attempts to connect, in milliseconds. */
const RECONNECT = { minDelay: 1, maxDelay: 20 };
/** Messages in each direction before and after a connection breaks. */
const BURST = 20;
/** Time in which all that was sent must have arrived, in milliseconds. */
const END = 30_000;

/** Counts the numbered messages of one direction. */
class Ledger {
  #next = 0;
  sent = 0;
  #violations;
  #name;

  constructor(name, violations) {
    this.#name = name;
    this.#violations = violations;
  }

  arrived(number) {
    if (number !== this.#next) {
      this.#violations.push(`${this.#name}: message ${number} in place of ${this.#next}`);
    }
    this.#next = number + 1;
  }

  get isComplete() {
    return this.#next === this.sent;
  }
}

/** A client with a breakable connection, and the peer to which it sends. */
class Pair {
  #client;
  #peer;
  #line;
  #ledgers;
  #result;
  /** Requests that were handled: how often, by text. */
  #handled = new Map();
  /** Functions that answer the requests that have arrived. */
  #answers = [];

  static async start(index, url, server, result) {
    const pair = new Pair();
    pair.#result = result;
    const names = [`client-${index}`, `peer-${index}`];
    pair.#ledgers = names.map((name) => new Ledger(name, result.violations));
    pair.#line = await BreakableLine.start(server.address().port);
    const options = { protocol: 2, reconnect: RECONNECT };
    pair.#client =
      index % 2 === 0
        ? new WSMsgBroker(names[0], pair.#line.url, options)
        : new Browser(names[0], pair.#line.url, { ...options, WebSocket });
    pair.#peer = new WSMsgBroker(names[1], url, { protocol: 2 });
    await Promise.all([pair.#client.connected(), pair.#peer.connected()]);
    pair.#listen(pair.#client, pair.#ledgers[1]);
    pair.#listen(pair.#peer, pair.#ledgers[0]);
    return pair;
  }

  #listen(client, ledger) {
    client.on('message', (message, response) => {
      if (typeof message === 'number') {
        ledger.arrived(message);
      } else {
        this.#handled.set(message, (this.#handled.get(message) ?? 0) + 1);
        this.#answers.push(() => response.send(message));
      }
    });
  }

  #burst() {
    const [client, peer] = [this.#client, this.#peer];
    const [ours, theirs] = this.#ledgers;
    for (let n = 0; n < BURST; n += 1) {
      client.send(ours.sent, peer.id);
      peer.send(theirs.sent, client.id);
      ours.sent += 1;
      theirs.sent += 1;
    }
    this.#result.messages += 2 * BURST;
  }

  /** Breaks the connection in the middle of messages and requests. */
  async breakOnce(round) {
    const [client, peer, result] = [this.#client, this.#peer, this.#result];
    const texts = [`${client.id} asks ${round}`, `${peer.id} asks ${round}`];
    this.#burst();
    const asked = [client.request(texts[0], peer.id), peer.request(texts[1], client.id)];
    this.#burst();
    // At any moment: before, while or after the frames pass.
    await sleep(Math.random() * 3);
    let opened;
    const onOpen = () => {
      opened = performance.now();
    };
    client.on('open', onOpen);
    const waits = new AbortController();
    const ends = Promise.race(['resumed', 'registered'].map((name) => once(client, name, waits)));
    this.#line.break(round % 2 === 0);
    this.#burst();
    await ends;
    waits.abort();
    result.times.push(performance.now() - opened);
    client.off('open', onOpen);
    while (!texts.every((text) => this.#handled.has(text))) await sleep(1);
    for (const answer of this.#answers.splice(0)) answer();
    const answers = await Promise.allSettled(asked);
    answers.forEach(({ value, reason }, index) => {
      if (value?.message !== texts[index]) {
        result.violations.push(`${texts[index]}: ${reason?.message ?? value?.message}`);
      }
    });
    for (const text of texts) {
      if (this.#handled.get(text) !== 1) {
        result.violations.push(`${text}: handled ${this.#handled.get(text)} times`);
      }
      this.#handled.delete(text);
    }
    result.requests += 2;
    result.breaks += 1;
  }

  /** Measures a round trip through the broker. */
  async trip() {
    const start = performance.now();
    await this.#client.deliver(null, 'nobody');
    this.#result.trips.push(performance.now() - start);
  }

  /** Waits until all messages have arrived. */
  async end() {
    const deadline = performance.now() + END;
    while (!this.#ledgers.every((ledger) => ledger.isComplete) && performance.now() < deadline) {
      await sleep(10);
    }
    if (!this.#ledgers.every((ledger) => ledger.isComplete)) {
      this.#result.violations.push(`${this.#client.id}: messages are missing`);
    }
    await Promise.all([this.#client.close(), this.#peer.close()]);
    this.#line.close();
  }
}

/** Breaks so many connections of so many clients. */
async function play({ breaks, clients }) {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', sessionTimeout: END });
  await server.ready;
  const url = `ws://127.0.0.1:${server.address().port}/`;
  const result = { breaks: 0, messages: 0, requests: 0, violations: [], times: [], trips: [] };
  const pairs = await Promise.all(
    Array.from({ length: clients }, (_, index) => Pair.start(index, url, server, result)),
  );
  await Promise.all(
    pairs.map(async (pair) => {
      for (let round = 0; round < breaks / clients; round += 1) {
        await pair.breakOnce(round);
        await pair.trip();
      }
      await pair.end();
    }),
  );
  const { sessionsEnded, sessions } = server.stats();
  await server.close();
  return { ...result, ended: sessionsEnded + sessions };
}

module.exports = play;

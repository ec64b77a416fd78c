'use strict';

// Topics, groups and presence in a cluster whose brokers, NATS and connections fail.

const { setTimeout: sleep } = require('node:timers/promises');
const WSMsgBroker = require('../..');
const Actor = require('./actor');
const { RECOVERY } = require('./history');
const Jobs = require('./jobs');
const Publications = require('./publications');
const Rooms = require('./rooms');

const ACTORS = 9;
const TOPICS = ['news.0', 'news.1', 'news.2', 'other'];
/** Subscriptions of the actors in turn. Two of one client match the same topics. */
const PATTERNS = [['news.*'], ['news.0', 'other'], ['news.*', 'news.1'], ['news.>', 'bulk.*']];
/** Patterns that come and go at each broker, and match topics of others. */
const OVERLAPS = ['*.0', '*.1', 'news.>'];
const BULK = 'bulk.data';
const BULK_SIZE = 32 * 1024;
const ROOMS = ['room.0', 'room.1'];
/** All members are at the brokers of these actors: actor n is mostly at broker n modulo 3. */
const GROUPS = [
  { name: 'all', topic: 'work.all', members: [0, 1, 2, 3, 4, 5, 6, 7, 8] },
  { name: 'two', topic: 'work.two', members: [0, 1] },
  { name: 'busy', topic: 'work.busy', members: [1, 2, 3], window: 1, work: 20 },
  { name: 'pattern', topic: 'both.*', members: [0, 2, 4, 6] },
  { name: 'exact', topic: 'both.one', members: [5, 7, 8] },
];
/** The topics of jobs, and the groups that match. A request is cancelled at the second of two groups. */
const JOBS = [
  { topic: 'work.all', groups: ['all'] },
  { topic: 'work.two', groups: ['two'] },
  { topic: 'work.busy', groups: ['busy'] },
  { topic: 'both.one', groups: ['pattern', 'exact'], isPublished: true },
];

const idOf = (n) => `actor.${n}`;

class Pubsub {
  #brokers;
  #random;
  #history;
  #actors = [];
  #slow = [];
  #watchers = [];
  #isOver = false;
  #isResting = false;
  #running = [];
  #pending = new Set();
  publications;
  jobs;
  rooms = new Rooms(ROOMS);

  constructor({ brokers, random, history }) {
    this.#brokers = brokers;
    this.#random = random;
    this.#history = history;
    this.publications = new Publications(history);
    this.jobs = new Jobs(
      history,
      brokers.map(({ name }) => name),
    );
  }

  /** The broker of this number or, if it does not run and now and then, any other one. */
  #choose(n) {
    const home = this.#brokers[n % this.#brokers.length];
    if (home.port !== undefined && this.#random(5) > 0) return home;
    const live = this.#brokers.filter(({ port }) => port !== undefined);
    return live[this.#random(Math.max(live.length, 1))];
  }

  async start() {
    for (let n = 0; n < ACTORS; n += 1) {
      const actor = new Actor(idOf(n), {
        history: this.#history,
        choose: () => this.#choose(n),
        setUp: (...args) => this.#setUp(...args),
      });
      actor.number = n;
      // Three actors are no members.
      actor.room = n < 6 ? ROOMS[n % ROOMS.length] : undefined;
      actor.receivers = PATTERNS[n % PATTERNS.length].map((pattern) =>
        this.publications.receiver(actor.id, pattern),
      );
      this.#actors.push(actor);
    }
    await Promise.all(this.#actors.map((actor) => actor.open()));
    const ids = this.#actors.map(({ id }) => id);
    for (const n of this.#brokers.keys()) {
      await this.#startSlow(n, n % 2 === 0 ? 'drop' : 'latest');
      const client = await this.#client(`watcher.${n}`, n);
      this.#watchers.push(client);
      await this.rooms.watch(client, ids);
    }
    for (const actor of this.#actors) {
      this.#running.push(this.#publish(actor), this.#work(actor));
      if (actor.number < this.#brokers.length)
        this.#running.push(this.#publishBulk(actor), this.#overlap(actor));
      if (actor.room) this.#running.push(this.#move(actor));
    }
  }

  /** A client without a relay, with its connection in the history. */
  async #client(id, n) {
    let broker;
    const address = () => {
      broker = this.#choose(n);
      return `ws://127.0.0.1:${broker?.port ?? 1}/`;
    };
    const client = new WSMsgBroker(id, address, {
      protocol: 2,
      reconnect: { minDelay: 20, maxDelay: 200 },
    });
    client.on('error', () => {});
    client.on('registered', () => {
      client.connection = this.#history.opened(id, broker.name);
    });
    for (const event of ['reconnecting', 'close']) {
      client.on(event, () => this.#history.ended(client.connection));
    }
    return client.connected();
  }

  /** A subscriber that reads more slowly than is published. */
  async #startSlow(n, slow) {
    const client = await this.#client(`slow.${n}`, n);
    const receiver = this.publications.receiver(client.id, BULK, true);
    client.on('registered', () => this.publications.begun(receiver, client.connection));
    const subscription = await client.subscribe(BULK, { slow });
    this.publications.begun(receiver, client.connection);
    subscription.on('gap', (gap) => this.publications.gap(receiver, client.connection, gap));
    this.#slow.push(client);
    subscription.on('message', (message, _response, from, topic) => {
      this.publications.got(receiver, client.connection, message, from, topic);
    });
    // The iterator stops the client from reading its socket.
    const read = async () => {
      for await (const _message of subscription.messages({ highWaterMark: 1 })) {
        if (!this.#isOver) await sleep(100);
      }
    };
    read();
  }

  async #setUp(actor, client) {
    const { number } = actor;
    for (const receiver of actor.receivers) {
      const subscription = await client.subscribe(receiver.pattern);
      subscription.on('message', (message, _response, from, topic) => {
        this.publications.got(receiver, client.connection, message, from, topic);
      });
      subscription.on('gap', (gap) => this.publications.gap(receiver, client.connection, gap));
      this.publications.begun(receiver, client.connection);
      client.on('registered', () => this.publications.begun(receiver, client.connection));
    }
    for (const { name, topic, members, window = 8, work = 5 } of GROUPS) {
      if (!members.includes(number)) continue;
      const subscription = await client.subscribe(topic, { group: name, window });
      subscription.handle(async ({ job }, { attempt }) => {
        this.jobs.handled(job, name, actor.id, attempt);
        await sleep(this.#random(work));
        return { job };
      });
      client.groups = [...(client.groups ?? []), subscription];
    }
    await this.rooms.setUp(actor, client);
  }

  /** Publishes numbered messages in bursts. */
  async #publish(actor) {
    while (!this.#isOver) {
      const { client, connection } = actor;
      for (let n = 0; connection && n < 4; n += 1) {
        const topic = TOPICS[this.#random(TOPICS.length)];
        const message = this.publications.send(connection, topic, 20 + this.#random(300));
        if (this.#random(4) === 0) this.#track(client.deliver(message, { topic }));
        else client.publish(message, topic);
      }
      await sleep(100 + this.#random(200));
    }
  }

  async #publishBulk(actor) {
    while (!this.#isOver) {
      const { client, connection } = actor;
      if (connection) client.publish(this.publications.send(connection, BULK, BULK_SIZE), BULK);
      await sleep(100);
    }
  }

  /** Subscribes to further patterns for a moment: its broker gets messages by several, and must keep their order. */
  async #overlap(actor) {
    while (!this.#isOver) {
      const pattern = OVERLAPS[this.#random(OVERLAPS.length)];
      // The client may be closed by a takeover, and subscribing may take until it has connected again.
      const leave = async (subscription) => {
        await sleep(50 + this.#random(200));
        await subscription.unsubscribe();
      };
      this.#track(actor.client.subscribe(pattern).then(leave));
      await sleep(100 + this.#random(300));
    }
  }

  /** Sends jobs, and now and then pauses as a worker. */
  async #work(actor) {
    while (!this.#isOver) {
      const { client, connection } = actor;
      if (connection) this.#sendJob(client, connection);
      if (this.#random(20) === 0) {
        for (const group of client.groups ?? []) group.pause();
        await sleep(this.#random(600));
        for (const group of client.groups ?? []) group.resume();
      }
      await sleep(20 + this.#random(60));
    }
  }

  #sendJob(client, connection) {
    const { topic, groups: names, isPublished } = JOBS[this.#random(JOBS.length)];
    const groups = new Map(
      names.map((name) => [name, GROUPS.find((group) => group.name === name).members.map(idOf)]),
    );
    const kind = isPublished ? 'published' : ['published', 'request', 'retried'][this.#random(3)];
    const job = this.jobs.send(connection, kind, groups);
    if (kind === 'published') {
      if (this.#random(2) === 0) {
        const receipt = client.deliver({ job }, { topic });
        this.#track(receipt, (value) => this.jobs.receipt(job, value.code ?? value));
      } else {
        client.publish({ job }, topic);
      }
      return;
    }
    const retry = kind === 'retried' ? 3 : 0;
    const promise = client.request({ job }, { topic }, { timeout: 8000, retry });
    this.#track(promise, (answer) => {
      if (answer instanceof Error) this.jobs.settle(job, answer.code ?? answer.message);
      else if (answer.message.job === job) this.jobs.settle(job, 'answered');
      else this.jobs.settle(job, `answered with that of ${answer.message.job}`);
    });
  }

  /** Changes the membership of an actor from time to time. */
  async #move(actor) {
    while (!this.#isOver) {
      // The client may be closed by a takeover.
      if (!this.#isResting) await this.rooms.step(actor, this.#random).catch(() => {});
      await sleep(200 + this.#random(500));
    }
  }

  #track(promise, onSettled = () => {}) {
    this.#pending.add(promise);
    promise.then(onSettled, onSettled).finally(() => this.#pending.delete(promise));
  }

  /** Kills a client for good. Another one that was killed before comes back. */
  async kill() {
    await this.revive();
    const actor = this.#actors[this.#random(this.#actors.length)];
    await actor.kill();
    this.rooms.died(actor);
  }

  async revive() {
    await Promise.all(this.#actors.filter(({ isDead }) => isDead).map((actor) => actor.revive()));
  }

  #live() {
    return this.#actors.filter(({ isDead }) => !isDead);
  }

  /** Cuts the connections of about a third of the clients. */
  cut() {
    for (const actor of this.#live()) if (this.#random(3) === 0) actor.cut();
  }

  async takeOver() {
    const live = this.#live();
    await live[this.#random(live.length)].takeOver();
  }

  /** Forwards nothing from and to some subscribers for a moment. */
  async freeze(ms) {
    const some = this.#live().filter(() => this.#random(3) === 0);
    const wait = sleep(ms);
    // Messages from and to them are delayed.
    const end = this.#history.disturb(some.map(({ id }) => id));
    await Promise.all(some.map((actor) => actor.freeze(wait)));
    end();
  }

  /** There is no fault since `calm`. All watches must be right `limit` milliseconds later, and for `ms` after that. */
  async rest(calm, limit, ms) {
    this.#isResting = true;
    await Promise.all(this.#actors.map((actor) => actor.exclusive(() => {})));
    await this.rooms.compare(calm, limit);
    await sleep(ms);
    this.rooms.compareNow('while nothing changed');
    this.#isResting = false;
  }

  /** Ends the traffic, and waits until all is received. Returns the counts and the violations. */
  async finish() {
    this.#isOver = true;
    await Promise.all(this.#running);
    const deadline = Date.now() + 40_000;
    let arrived = -1;
    while (
      Date.now() < deadline &&
      (this.#pending.size > 0 || arrived < this.publications.arrived)
    ) {
      arrived = this.publications.arrived;
      await sleep(RECOVERY);
    }
    const faults = [];
    if (this.#pending.size > 0) faults.push(`${this.#pending.size} promises are still pending`);
    const { publications, jobs, rooms } = this;
    const topics = publications.close();
    const groups = jobs.close();
    const presence = { comparisons: rooms.comparisons, longest: rooms.longest };
    faults.push(...publications.faults, ...jobs.faults, ...rooms.faults);
    return { topics, groups, presence, faults };
  }

  async close() {
    await Promise.all([...this.#slow, ...this.#watchers].map((client) => client.close()));
    await Promise.all(this.#actors.map((actor) => actor.close()));
  }
}

module.exports = Pubsub;

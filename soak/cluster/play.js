'use strict';

// Clients that send to each other, and to topics and groups, through brokers, while NATS, brokers and connections fail.

const { setTimeout: sleep } = require('node:timers/promises');
const WSMsgBroker = require('../..');
const { startNats } = require('../../testkit/nats');
const Child = require('../processes');
const { History } = require('./history');
const Ledger = require('./ledger');
const Line = require('./line');
const Pubsub = require('./pubsub');

/** Less than the default, so that slow subscribers reach it. */
const BROKER_OPTIONS = JSON.stringify({ maxBackpressure: 256 * 1024 });
/** Number of faults between two rests, and the duration of a rest after all watches are right, in milliseconds. */
const FAULTS_PER_ROUND = 8;
const REST_MS = 8000;
/** Watchers have the present state so many milliseconds after the last fault (rule 39.9). */
const SETTLED_MS = 10_000;
/** A broker detects a fault of NATS so late, in milliseconds. */
const DETECTED_MS = 4000;
/** A longer pause of this process counts as a fault, in milliseconds. */
const MAX_PAUSE_MS = 500;

const RECONNECT = { minDelay: 20, maxDelay: 200, jitter: 1 };

/** A broker behind a relay to NATS. */
class Broker {
  port;

  /** The end of the disturbance of which the broker has reported the begin. */
  #recovered = () => {};

  constructor(name, natsPort, history) {
    this.name = name;
    this.history = history;
    this.line = new Line(() => natsPort);
  }

  async start() {
    if (this.line.port === undefined) await this.line.open();
    const args = [this.name, `nats://127.0.0.1:${this.line.port}`, BROKER_OPTIONS];
    this.child = new Child(this.name, 'cluster/broker.js', args, (what) => {
      throw new Error(what);
    });
    this.child.child.on('message', (message) => this.#onState(message));
    const { port } = await this.child.message('port');
    this.port = port;
  }

  #onState({ port, state }) {
    if (!state && port === undefined) return;
    this.#recovered();
    // `lagged` has no end of its own.
    if (state) this.#recovered = this.history.disturb([this.name], DETECTED_MS);
    if (state === 'lagged') this.#recovered();
  }

  async kill() {
    this.port = undefined;
    this.child.ending = true;
    const ended = new Promise((resolve) => this.child.child.once('exit', resolve));
    this.child.child.kill('SIGKILL');
    await ended;
  }

  async drain(ms) {
    this.port = undefined;
    this.child.ending = true;
    const ended = new Promise((resolve) => this.child.child.once('exit', resolve));
    this.child.child.send({ drain: ms });
    await ended;
  }
}

/** Answers, unless the connection has just ended. */
function answer(response, message) {
  try {
    response.send(message);
  } catch (error) {
    if (error.code !== 'ERR_WSMB_NOT_OPEN') throw error;
  }
}

/** Faults by name. Each is repaired before its function ends. */
const FAULTS = {
  async 'NATS killed'({ nats, random }) {
    await nats.kill();
    await sleep(random(1500));
    await nats.start();
  },
  async 'NATS paused'({ nats, random }) {
    await nats.pause();
    await sleep(200 + random(4000));
    nats.resume();
  },
  async 'broker killed'({ any }) {
    const broker = any();
    await broker.kill();
    await sleep(200);
    await broker.start();
  },
  async 'broker drained'({ any }) {
    const broker = any();
    await broker.drain(1000);
    await broker.start();
  },
  async 'broker cut off from NATS'({ any, random }) {
    const { line } = any();
    line.cut(true);
    await sleep(random(3000));
    line.mend();
  },
  async 'line to NATS cut'({ any }) {
    any().line.cut();
  },
  async 'line to NATS frozen'({ any, random }) {
    const { line } = any();
    line.freeze();
    await sleep(random(2500));
    line.thaw();
  },
  async 'clients cut off'({ front, pubsub }) {
    front.cut();
    pubsub?.cut();
  },
  async 'clients take over their ids'({ clients, again, random, pubsub }) {
    const id = clients[random(clients.length)];
    await Promise.all([again(id), pubsub?.takeOver()]);
  },
};

/** Faults of the clients that use topics. */
const PUBSUB_FAULTS = {
  async 'client killed'({ pubsub }) {
    await pubsub.kill();
  },
  async 'subscribers frozen'({ pubsub, random }) {
    await pubsub.freeze(random(2000));
  },
};

/** Records a pause of this process, or of the machine, as a disturbance of all brokers. Returns a function to stop. */
function watchPauses(history, names) {
  let last = Date.now();
  const timer = setInterval(() => {
    const pause = Date.now() - last;
    last = Date.now();
    if (pause > MAX_PAUSE_MS) history.disturb(names, pause + DETECTED_MS)();
  }, 50);
  return () => clearInterval(timer);
}

/**
 * Plays for `ms` milliseconds, with a fault every `every` ms. `seed` determines the order of faults. Resolves with the
 * counts and the violations. With `topics` also topics, groups and presence:
 *
 *     settled   watches must be right so many milliseconds after the last fault
 *     rest      duration of the time without faults that follows
 *     only      names of the faults, instead of all
 */
async function play({
  brokers: count = 3,
  clients: people = 12,
  ms,
  every,
  seed = 1,
  topics = false,
  only,
  settled = SETTLED_MS,
  rest = REST_MS,
  log = () => {},
}) {
  const cleanup = [];
  const t = { teardown: (end) => cleanup.unshift(end) };
  let state = seed;
  const random = (most) => {
    // A linear congruential generator, so that a seed determines the order of faults.
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state % most;
  };
  const ledger = new Ledger();
  const happened = {};
  try {
    const nats = await startNats(t);
    const history = new History();
    const brokers = Array.from(
      { length: count },
      (_, n) => new Broker(`b${n}`, nats.port, history),
    );
    const brokerNames = brokers.map(({ name }) => name);
    cleanup.push(watchPauses(history, brokerNames));
    await Promise.all(brokers.map((broker) => broker.start()));
    for (const broker of brokers) {
      cleanup.push(() => broker.line.close());
      cleanup.push(() => broker.kill());
    }
    const live = () => brokers.map(({ port }) => port).filter((port) => port !== undefined);
    const front = new Line(() => live()[random(Math.max(live().length, 1))]);
    await front.open();
    cleanup.unshift(() => front.close());

    const ids = Array.from({ length: people }, (_, n) => `client.${n}`);
    const clients = new Map();
    let connections = 0;
    const open = (id) => {
      const url = `ws://127.0.0.1:${front.port}/`;
      const client = new WSMsgBroker(id, url, {
        protocol: 2,
        reconnect: RECONNECT,
        requestTimeout: 15_000,
      });
      client.on('error', () => {});
      connections += 1;
      client.line = connections;
      client.on('reconnecting', () => {
        connections += 1;
        client.line = connections;
      });
      for (const event of ['reconnecting', 'close', 'replaced'])
        client.on(event, () => ledger.ended(id));
      client.on('message', (message, response) => {
        if (response) answer(response, message);
        else ledger.got(id, message, `${message.line} ${client.line}`);
      });
      clients.set(id, client);
      return client;
    };
    ids.forEach(open);
    cleanup.unshift(() => Promise.all([...clients.values()].map((client) => client.close())));
    await Promise.all([...clients.values()].map((client) => client.connected()));

    const requests = {};
    let isOver = false;
    let open_ = 0;
    const track = (promise, onSettled) => {
      open_ += 1;
      promise
        .then(onSettled, (error) => onSettled(error))
        .finally(() => {
          open_ -= 1;
        });
    };
    const traffic = async (id) => {
      while (!isOver) {
        const client = clients.get(id);
        for (let n = 0; n < 5; n += 1) {
          const to = ids[random(ids.length)];
          if (to === id) continue;
          const { number, settle } = ledger.send(id, to);
          track(client.deliver({ from: id, number, line: client.line }, to), (receipt) => {
            if (receipt instanceof Error) settle(receipt.code);
            else settle(receipt.failed.get(to)?.code ?? 'delivered');
          });
        }
        const to = ids[random(ids.length)];
        track(client.request(id, to, { timeout: 8000 }), (answer) => {
          const what = answer instanceof Error ? answer.code : 'answered';
          requests[what] = (requests[what] ?? 0) + 1;
          if (!(answer instanceof Error) && answer.message !== id) {
            ledger.faults.push(`${id} got ${answer.message} as the answer of ${to}`);
          }
        });
        await sleep(10 + random(20));
      }
    };
    const running = ids.map(traffic);

    const again = async (id) => {
      const old = clients.get(id);
      const next = open(id);
      await next.connected();
      await old.close();
    };
    let pubsub;
    if (topics) {
      pubsub = new Pubsub({ brokers, random, history });
      cleanup.unshift(() => pubsub.close());
      await pubsub.start();
    }
    /** The ends of the disturbances of the present fault. */
    let ends = [];
    const world = {
      nats,
      front,
      random,
      clients: ids,
      again,
      pubsub,
      any: () => {
        const broker = brokers[random(brokers.length)];
        ends.push(history.disturb([broker.name]));
        return broker;
      },
    };
    const possible = topics ? { ...FAULTS, ...PUBSUB_FAULTS } : FAULTS;
    const end = Date.now() + ms;
    const names = only ?? Object.keys(possible);
    let played = 0;
    /** When the last fault was repaired. */
    let calm = Date.now();
    while (Date.now() < end) {
      const next = sleep(every);
      const name = names[random(names.length)];
      happened[name] = (happened[name] ?? 0) + 1;
      log(name);
      if (name.startsWith('NATS')) ends.push(history.disturb(brokerNames));
      await possible[name](world);
      for (const over of ends) over();
      ends = [];
      played += 1;
      calm = Date.now();
      if (played % FAULTS_PER_ROUND === 0 && calm < end) await pubsub?.rest(calm, settled, rest);
      await next;
    }
    await pubsub?.rest(calm, settled, rest);
    isOver = true;
    const finished = await pubsub?.finish();
    await Promise.all(running);
    // Every promise must settle.
    const late = Date.now() + 40_000;
    while (open_ > 0 && Date.now() < late) await sleep(50);
    if (open_ > 0) ledger.faults.push(`${open_} promises are still pending`);

    // Every id is registered on one broker, and all brokers agree.
    await Promise.all([...clients.values()].map((client) => client.connected()));
    await sleep(1000);
    // A killed broker is listed as silent until it is missed.
    const missed = Date.now() + 15_000;
    let found = await brokers[0].child.ask('found', 'found');
    while (found.found.silent.length > 0 && Date.now() < missed) {
      found = await brokers[0].child.ask('found', 'found');
    }
    const isClient = (id) => ids.includes(id);
    const everywhere = (await Promise.all(brokers.map(({ child }) => child.ask('ids', 'ids'))))
      .flatMap((answer) => answer.ids)
      .filter(isClient);
    const ghosts = everywhere.length - ids.length;
    if (ghosts !== 0) ledger.faults.push(`${everywhere.length} registrations of ${ids.length} ids`);
    if (found.found.ids.filter(isClient).length !== ids.length || found.found.silent.length > 0) {
      ledger.faults.push(`found ${JSON.stringify(found.found)}`);
    }
    const counts = ledger.close(3000);
    const faults = [...ledger.faults, ...(finished?.faults ?? [])];
    return { counts, requests, happened, arrived: ledger.arrived, ...finished, faults };
  } finally {
    for (const end of cleanup) await end();
  }
}

module.exports = play;

'use strict';

// The soak test: `npm run soak -- --minutes 60`. See README.md beside this file.

const { setTimeout: sleep } = require('node:timers/promises');
const { origin } = require('../testkit/report');
const { RESULTS, parse, publish, requireLinux, run } = require('./command');
const { DEADLINE, LIMITS } = require('./limits');
const Child = require('./processes');
const { HELD, judge, markdown, picture, total } = require('./report');
const World = require('./world');

const USAGE = `usage: node soak/run.js [options]
  --minutes N   duration of the load (default 10)
  --seed TEXT   seed of the random numbers (default: the time)
  --out FOLDER  where soak.md and soak.svg are written (default soak/results)
`;

/** The interval between two samples, ms. */
const SAMPLE_EVERY = 5000;
/**
 * Maximum number of reported violations. The first one ends the run; the others occurred at the same time.
 */
const MOST_FAILURES = 20;
/** Time for the broker to release everything after the load has ended, ms. */
const COOL_DOWN = LIMITS.ackTimeout + DEADLINE;
/** Pause before memory is read for the last time, ms. */
const REST = 10_000;

/** The processes that play acts, with the files of their acts. */
const ACTORS = {
  traffic: ['traffic', 'secure'],
  faults: ['faults', 'silence', 'intruders', 'records'],
};

class Soak {
  samples = [];
  failures = [];
  #stop = new AbortController();
  #actors = [];

  constructor({ minutes, seed }) {
    this.minutes = minutes;
    this.seed = seed;
  }

  async run() {
    await this.#start();
    await this.#soak();
    // Less than requested if the run was ended early.
    const lasted = Math.min(this.minutes, (Date.now() - this.begun) / 60_000);
    const played = await this.#end();
    // The end of the broker has been reported already.
    const after = await this.#coolDown().catch(() => this.samples.at(-1) ?? this.before);
    const broker = await this.broker.end('close', DEADLINE);
    if (broker !== 0) this.broken(`the broker ended with ${broker}`);
    const { samples, failures, before } = this;
    return { minutes: lasted, samples, failures, before, after, ...played };
  }

  /** Ends the run early: on a violation, or on request. */
  broken(what) {
    if (this.failures.length < MOST_FAILURES) {
      console.error(`broken: ${what}`);
      this.failures.push(what);
    }
    this.stop();
  }

  stop() {
    this.#stop.abort();
  }

  async #start() {
    const broken = (what) => this.broken(what);
    this.broker = new Child('the broker', 'broker.js', [], broken);
    const { places } = await this.broker.message('places');
    // Permanent resources that the first connection creates are not a leak.
    for (const place of Object.values(places)) {
      const wire = await new World({ name: 'first', place, seed: this.seed }).dial('first');
      await wire.close();
    }
    await sleep(1000);
    this.before = await this.#state();
    this.begun = Date.now();
    this.#actors = Object.entries(ACTORS).map(([name, files]) => {
      const args = [files.join(), JSON.stringify(places), this.seed];
      return new Child(name, 'actor.js', args, broken);
    });
  }

  async #soak() {
    const end = this.begun + this.minutes * 60_000;
    const { signal } = this.#stop;
    for (let next = this.begun + SAMPLE_EVERY; next <= end; next += SAMPLE_EVERY) {
      await sleep(Math.max(0, next - Date.now()), undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      try {
        await this.#sample();
      } catch (error) {
        this.broken(`no sample: ${error.message}`);
      }
    }
  }

  async #sample() {
    const state = await this.#state();
    const minute = (Date.now() - this.begun) / 60_000;
    const load = this.#actors.map((actor) => actor.processorTime());
    this.samples.push({ minute, load, ...state });
    if (this.samples.length % 12 === 0) {
      const { resident, descriptors, stats } = state;
      console.error(
        `minute ${minute.toFixed(0)}: ${(resident / 2 ** 20).toFixed(1)} MiB, ` +
          `${descriptors.length} descriptors, ${total(stats, 'connections')} connections, ` +
          `${total(stats, 'messagesOut')} messages`,
      );
    }
  }

  /** The state of the broker, measured from outside and from its counters. */
  async #state() {
    const { heap, stats } = await this.broker.ask('sample', 'stats');
    return {
      heap,
      stats,
      resident: this.broker.resident(),
      descriptors: this.broker.descriptors(),
      threads: this.broker.threads(),
      processor: this.broker.processorTime(),
    };
  }

  /**
   * Ends the load. Returns how often each act was played, the number of messages in the ledgers, and the
   * expected counts by server.
   */
  async #end() {
    const counts = {};
    const met = {};
    let arrived = 0;
    await Promise.all(
      this.#actors.map(async (actor) => {
        actor.child.on('message', (message) => {
          Object.assign(counts, message.counts);
          for (const [name, counted] of Object.entries(message.met ?? {})) {
            met[name] ??= {};
            for (const [counter, n] of Object.entries(counted)) {
              met[name][counter] = (met[name][counter] ?? 0) + n;
            }
          }
          arrived += message.arrived ?? 0;
        });
        const code = await actor.end('stop', 2 * DEADLINE);
        if (code !== 0) this.broken(`${actor.name} ended with ${code}`);
      }),
    );
    return { counts, met, arrived };
  }

  /** Waits until the broker holds no more than before, with a timeout, and then for a pause. */
  async #coolDown() {
    const deadline = Date.now() + COOL_DOWN;
    let state;
    do {
      await sleep(500);
      state = await this.#state();
    } while (!isEqual(state, this.before) && Date.now() < deadline);
    await sleep(REST);
    return this.#state();
  }
}

function isEqual(state, before) {
  const held = ({ stats, descriptors }) =>
    [...HELD.map((n) => total(stats, n)), ...descriptors].join();
  return held(state) === held(before);
}

async function main() {
  const options = parse(USAGE, { minutes: 10, seed: String(Date.now()), out: RESULTS });
  requireLinux();
  const soak = new Soak(options);
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => soak.stop());
  const results = {
    origin: origin(
      `npm run soak -- --minutes ${options.minutes} --seed ${options.seed}`,
      `limits other than the defaults: ${JSON.stringify(LIMITS)}`,
    ),
    ...(await soak.run()),
  };
  const verdict = judge(results);
  const report = markdown(results, verdict);
  publish(options.out, { 'soak.md': report, 'soak.svg': picture(results, verdict) });
  if (verdict.checks.some(({ passed }) => passed === false)) process.exitCode = 1;
}

run(main);

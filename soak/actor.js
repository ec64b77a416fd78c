'use strict';

// A process that plays the acts of traffic.js or faults.js until it is told to stop: each over and over,
// beside the others, so many times a minute, or as often as it ends where that is 0.
//
//     node actor.js FILE PORT SEED

const { setMaxListeners } = require('node:events');
const { Ledger } = require('./ledger');
const World = require('./world');

/** How often the ledger is looked through, in milliseconds. */
const CHECK_EVERY = 1000;

const [file, port, seed] = process.argv.slice(2);
const stop = new AbortController();
const counts = {};
setMaxListeners(0, stop.signal);

function broken(what) {
  process.send({ broken: what });
}

async function play(act, perMinute, ledger) {
  const { name } = act;
  const tell = (what) => broken(`${name}: ${what}`);
  const world = new World({
    name,
    port: Number(port),
    seed,
    ledger,
    stopped: stop.signal,
    broken: tell,
  });
  counts[name] = 0;
  while (!world.stopping) {
    if (perMinute > 0) await world.sleep(world.random.interval(60_000 / perMinute));
    if (world.stopping) return;
    try {
      await act(world);
      counts[name] += 1;
    } catch (error) {
      tell(error.stack);
      return;
    }
  }
}

async function main() {
  const ledger = new Ledger(broken);
  const timer = setInterval(() => ledger.check(), CHECK_EVERY);
  const acts = require(`./${file}`);
  await Promise.all(acts.map(([act, perMinute]) => play(act, perMinute, ledger)));
  clearInterval(timer);
  process.send({ counts, arrived: ledger.arrived }, () => process.disconnect());
}

process.on('message', (message) => {
  if (message === 'stop') stop.abort();
});
// The driver is gone.
process.on('disconnect', () => process.exit());
main();

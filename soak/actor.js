'use strict';

// A process that plays the acts of some files until it is stopped. Each act is repeated the given number of
// times per minute, or without a pause for 0; all acts run concurrently. A file exports `on`, the server of
// its acts. PLACES has the addresses of the servers as JSON (see World).
//
// node actor.js FILE,FILE PLACES SEED

const { setMaxListeners } = require('node:events');
const { Ledger } = require('./ledger');
const World = require('./world');

/** The interval between two checks of the ledger, ms. */
const CHECK_EVERY = 1000;

const [files, places, seed] = process.argv.slice(2);
const stop = new AbortController();
const counts = {};
/** Expected counts by server and counter. */
const met = {};
setMaxListeners(0, stop.signal);

function broken(what) {
  process.send({ broken: what });
}

async function play(act, perMinute, { on, place, ledger }) {
  const name = on === 'plain' ? act.name : `${on}.${act.name}`;
  const report = (what) => broken(`${name}: ${what}`);
  const world = new World({
    name,
    place,
    seed,
    ledger,
    stopped: stop.signal,
    broken: report,
    met(counter) {
      met[on] ??= {};
      met[on][counter] = (met[on][counter] ?? 0) + 1;
    },
  });
  counts[name] = 0;
  while (!world.stopping) {
    if (perMinute > 0) await world.sleep(world.random.interval(60_000 / perMinute));
    if (world.stopping) return;
    try {
      await act(world);
      counts[name] += 1;
    } catch (error) {
      report(error.stack);
      return;
    }
  }
}

async function main() {
  const ledger = new Ledger(broken);
  const timer = setInterval(() => ledger.check(), CHECK_EVERY);
  const played = files.split(',').flatMap((file) => {
    const { on, acts } = require(`./${file}`);
    const setting = { on, place: JSON.parse(places)[on], ledger };
    return acts.map(([act, perMinute]) => play(act, perMinute, setting));
  });
  await Promise.all(played);
  clearInterval(timer);
  process.send({ counts, met, arrived: ledger.arrived }, () => process.disconnect());
}

process.on('message', (message) => {
  if (message === 'stop') stop.abort();
});
// The driver has ended.
process.on('disconnect', () => process.exit());
main();

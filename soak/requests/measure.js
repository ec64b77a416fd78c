'use strict';

// Many requests of a pair of clients, and what they, and the broker, still hold then.

const { setTimeout: sleep } = require('node:timers/promises');
const Child = require('../processes');
const { line } = require('../statistics');
const actors = require('./actors');

/** How many at a time, and after how many ms one is given up. */
const IN_FLIGHT = 300;
const TIMEOUT = 3;
const CLOSE_MS = 10_000;

/**
 * Makes `count` requests in so many `parts`, between which all is measured; before that, one part that does
 * not count.
 */
async function measure(kind, { count, parts }) {
  const broken = (what) => {
    throw new Error(`${what}`);
  };
  const broker = new Child('the broker', 'requests/broker.js', [], broken);
  const { port } = await broker.message('port');
  const actor = await actors[kind](kind, `ws://127.0.0.1:${port}/`, broken);

  const sample = async (asked) => {
    // Let timers and sockets come to rest.
    await sleep(50);
    const clients = await actor.sample();
    const { heap, stats } = await broker.ask('sample', 'stats');
    return { asked, clients, server: { heap, resident: broker.resident(), ...stats } };
  };
  try {
    const part = { count: Math.ceil(count / parts), inFlight: IN_FLIGHT, timeout: TIMEOUT };
    await actor.ask(part);
    const samples = [await sample(0)];
    const ends = {};
    let seconds = 0;
    for (let n = 1; n <= parts; n += 1) {
      const begun = performance.now();
      const found = await actor.ask(part);
      seconds += (performance.now() - begun) / 1000;
      for (const [end, times] of Object.entries(found)) ends[end] = (ends[end] ?? 0) + times;
      samples.push(await sample(n * part.count));
    }
    return { kind, count: part.count * parts, ends, seconds, samples };
  } finally {
    await actor.end();
    await broker.end('close', CLOSE_MS);
  }
}

/** What is left, and how memory went: lines through the samples, in bytes a request. */
function summary({ samples }) {
  const [before, after] = [samples[0], samples.at(-1)];
  const growth = (of) => line(samples.map((sample) => [sample.asked, of(sample)]));
  const side = (name) => ({
    heap: [before[name].heap, after[name].heap],
    resident: [before[name].resident, after[name].resident],
    heapGrowth: growth((sample) => sample[name].heap),
    residentGrowth: growth((sample) => sample[name].resident),
  });
  return { before, after, clients: side('clients'), server: side('server') };
}

module.exports = { measure, summary };

'use strict';

// Sends many requests between two clients and measures what they and the broker still hold.

const { setTimeout: sleep } = require('node:timers/promises');
const Child = require('../processes');
const { line } = require('../statistics');
const actors = require('./actors');

/** Requests in flight, and their timeout in ms. */
const IN_FLIGHT = 300;
const TIMEOUT = 3;
const CLOSE_MS = 10_000;

/**
 * Sends `count` requests in `parts` equal parts and measures after each. One part before them does not count.
 */
async function measure(kind, { count, parts }) {
  const broken = (what) => {
    throw new Error(`${what}`);
  };
  const broker = new Child('the broker', 'requests/broker.js', [], broken);
  const { port } = await broker.message('port');
  const actor = await actors[kind](kind, `ws://127.0.0.1:${port}/`, broken);

  const sample = async (asked) => {
    // Lets timers and sockets come to rest.
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

/** Allowed growth of a heap in bytes, which varies. A leaked request would take hundreds of bytes. */
const most = (count) => Math.max(512 * 1024, count);
/** Allowed growth of resident memory, larger because allocators keep freed memory. */
const mostResident = (count) => 32 * 1024 ** 2 + count;

/** Violations, one line each. */
function judge({ count, ends, samples }) {
  const [before, after] = [samples[0], samples.at(-1)];
  const wrong = [];
  const check = (what, value, isRight) => {
    if (!isRight) wrong.push(`${what}: ${value}`);
  };
  const sum = ['answered', 'TIMEOUT', 'ABORT_ERR'].reduce((total, end) => total + ends[end], 0);
  check('ends', JSON.stringify(ends), sum === count && Object.keys(ends).length === 3);
  for (const name of ['requests', 'cancels', 'waiting']) {
    check(name, after.clients[name], after.clients[name] === 0);
  }
  const { pending, memory, connections } = after.server;
  check('pending', pending, pending === 0);
  check('memory', memory, memory === before.server.memory);
  check('connections', connections, connections === 2);
  for (const side of ['clients', 'server']) {
    const heap = after[side].heap - before[side].heap;
    const resident = after[side].resident - before[side].resident;
    check(`heap of the ${side}`, heap, heap <= most(count));
    check(`resident memory of the ${side}`, resident, resident <= mostResident(count));
  }
  return wrong;
}

/** The line through the samples of a value, per request. */
const growth = (samples, of) => line(samples.map((sample) => [sample.asked, of(sample)]));

module.exports = { measure, judge, growth };

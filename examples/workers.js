'use strict';

// A pool of worker processes. A request goes to all of them, and each searches a factor of a large number among
// other candidates. The first one that finds it answers, and the broker cancels the others.

const { fork } = require('node:child_process');
const { on } = require('node:events');
const { setImmediate: turn } = require('node:timers/promises');
const WSMsgBroker = require('wsmsgbroker');

const WORKERS = ['worker-0', 'worker-1', 'worker-2', 'worker-3'];

/** The smallest odd factor among the candidates of this worker, or undefined if the signal aborts. */
async function search(product, share, signal) {
  const step = BigInt(2 * WORKERS.length);
  for (let factor = 3n + 2n * BigInt(share); !signal.aborted; factor += step) {
    if (product % factor === 0n) {
      return factor;
    }
    if (factor % 10_000n < step) {
      // Yield to the event loop, so that the signal can abort.
      await turn();
    }
  }
}

/** A worker: handles one message after the other, and ends when the broker does. */
async function work(id, port) {
  const client = new WSMsgBroker(id, '127.0.0.1', port, '/', { protocol: 2 });
  const done = { found: 0, stopped: 0 };
  for await (const { message, response } of client.messages()) {
    if (message === 'report') {
      response?.send(done);
      continue;
    }
    // JSON has no large integers: send them as strings.
    const factor = await search(BigInt(message.product), WORKERS.indexOf(id), response.signal);
    if (factor) {
      done.found += 1;
      response?.send(String(factor));
    } else {
      done.stopped += 1;
    }
  }
}

async function main() {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
  await server.ready;
  const { port } = server.address();
  for (const id of WORKERS) {
    fork(__filename, [id, port]);
  }
  const missing = new Set(WORKERS);
  for await (const [id] of on(server, 'registered')) {
    if (missing.delete(id) && missing.size === 0) break;
  }

  for (const prime of [1_000_003n, 1_000_037n, 1_000_039n]) {
    const product = String(prime * (2n ** 127n - 1n));
    const { from, message } = await server.request({ product }, WORKERS);
    console.log(`${from} has found that ${message} divides ${product}`);
  }
  // An answer proves that the worker has stopped its search.
  const { answers } = await server.requestAll('report', WORKERS);
  for (const id of WORKERS) {
    const { found, stopped } = answers.get(id);
    console.log(`${id}: ${found} found, ${stopped} stopped`);
  }
  await server.close();
}

const [id, port] = process.argv.slice(2);
if (id) {
  work(id, port);
} else {
  main();
}

'use strict';

// The bounded queue of authentication calls for a program whose event loop is blocked.

const path = require('node:path');
const { once } = require('node:events');
const { Worker } = require('node:worker_threads');
const test = require('ava');
const WebSocket = require('ws');

/** Far more than fit into the queue, which the tokens fill. */
const REFUSALS = 1500;
const AT_ONCE = 300;
const MOST_QUESTIONS = 256;
const TOKEN = 't'.repeat(60_000);

test('calls to authenticate are bounded while JavaScript is blocked, and work again afterwards', async (t) => {
  const blocked = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(path.join(__dirname, 'support', 'blocked.js'), {
    workerData: { blocked, authenticateTimeout: 100 },
  });
  t.teardown(() => worker.terminate());
  const [port] = await once(worker, 'message');

  /** The close code and reason with which the server refuses a client. */
  async function refusal() {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`);
    socket.on('open', () => {
      socket.send(JSON.stringify({ action: 'register', id: 'a', token: TOKEN }));
    });
    const [code, reason] = await once(socket, 'close');
    return `${code} ${reason}`;
  }

  worker.postMessage('block');
  await once(worker, 'message');
  let refused = 0;
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      while (refused < REFUSALS) {
        t.is(await refusal(), '4401 not authenticated in time');
        refused += 1;
      }
    }),
  );
  Atomics.store(blocked, 0, 1);
  Atomics.notify(blocked, 0);
  // Its call is queued behind all others and may time out until they are done.
  while ((await refusal()) !== '4401 not authenticated');
  worker.postMessage('count');
  const [asked] = await once(worker, 'message');
  t.true(asked > 0 && asked < MOST_QUESTIONS, `${asked} questions`);
});

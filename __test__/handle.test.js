'use strict';

// `client.handle()`: answers, refusals and limits of a handler.

const { once } = require('node:events');
const test = require('ava');
const { startServer } = require('./support/start');
const { kinds, join, failure } = require('./support/clients');

for (const kind of kinds) {
  test(`${kind}: the result of a handler is the answer, and an error refuses the request`, async (t) => {
    const server = await startServer(t);
    const worker = await join(t, kind, server, 'worker');
    const client = await join(t, kind, server, 'client');
    const seen = [];
    worker.handle(async function work(message, { from, signal }) {
      seen.push([from, signal.aborted]);
      if (message === 'coded') throw Object.assign(new Error('no'), { code: 'E_NO' });
      if (message === 'circular') {
        const value = {};
        value.self = value;
        return value;
      }
      return message === 'nothing' ? undefined : message;
    });
    t.is((await client.request(7, 'worker')).message, 7);
    t.is((await client.request('nothing', 'worker')).message, null);
    const { code, message, error } = await failure(client.request('coded', 'worker'));
    t.deepEqual([code, message, /at (async )?work\b/.test(error.stack)], ['E_NO', 'no', false]);
    t.is((await failure(client.request('circular', 'worker'))).code, 'ERR_WSMB_MESSAGE');
    t.deepEqual(seen, Array(4).fill(['client', false]));
    t.is(worker.peerErrors, 0);
  });

  test(`${kind}: an error of a handler ends no process, and is reported unless the sender gets it`, async (t) => {
    const server = await startServer(t);
    const worker = await join(t, kind, server, 'worker');
    const client = await join(t, kind, server, 'client');
    worker.handle(() => {
      throw new TypeError('a mistake');
    });
    // Without a sender that waits, and without a listener.
    client.send(1, 'worker');
    const errors = [];
    worker.on('error', (error) => errors.push(error.message));
    t.is((await failure(client.request(1, 'worker'))).message, 'a mistake');
    client.send(1, 'worker');
    while (errors.length < 2) await new Promise(setImmediate);
    t.deepEqual(errors.slice(-2), ['a mistake', 'a mistake']);
  });

  test(`${kind}: a handler runs at most so many times at once, and loses nothing`, async (t) => {
    const server = await startServer(t);
    const worker = await join(t, kind, server, 'worker');
    const client = await join(t, kind, server, 'client');
    let running = 0;
    let most = 0;
    const work = async (message) => {
      running += 1;
      most = Math.max(most, running);
      await new Promise(setImmediate);
      running -= 1;
      return message;
    };
    const stop = worker.handle(work, { concurrency: 3 });
    t.throws(() => worker.handle(work), { code: 'ERR_WSMB_HANDLER' });
    const answers = Array.from({ length: 100 }, (_, n) => client.request(n, 'worker'));
    t.deepEqual(
      (await Promise.all(answers)).map(({ message }) => message),
      Array.from({ length: 100 }, (_, n) => n),
    );
    t.is(most, 3);
    stop();
    worker.handle(() => 'next');
    t.is((await client.request(1, 'worker')).message, 'next');
  });

  test(`${kind}: a handler that ends after its client emits nothing, and stopping twice stops once`, async (t) => {
    const server = await startServer(t);
    const worker = await join(t, kind, server, 'worker');
    const client = await join(t, kind, server, 'client');
    const errors = [];
    worker.on('error', (error) => errors.push(error));
    const stop = worker.handle(() => 'first');
    stop();
    let finish;
    worker.handle(() => new Promise((done) => (finish = done)));
    stop();
    t.throws(() => worker.handle(() => {}), { code: 'ERR_WSMB_HANDLER' });
    const lost = failure(client.request(1, 'worker'));
    while (!finish) await new Promise(setImmediate);
    await worker.close();
    finish('late');
    t.is((await lost).code, 'GONE');
    await new Promise(setImmediate);
    t.deepEqual(errors, []);
  });

  test(`${kind}: the signal of a handler is aborted when the request is cancelled`, async (t) => {
    const server = await startServer(t);
    const worker = await join(t, kind, server, 'worker');
    const client = await join(t, kind, server, 'client');
    const cancelled = new Promise((resolve) => {
      worker.handle(async (_message, { signal }) => {
        await once(signal, 'abort');
        resolve();
      });
    });
    t.is((await failure(client.request(1, 'worker', { timeout: 30 }))).code, 'TIMEOUT');
    await cancelled;
    t.pass();
  });

  test(`${kind}: arguments of handle are checked at the call`, async (t) => {
    const server = await startServer(t);
    const worker = await join(t, kind, server, 'worker');
    for (const args of [[], [1], [() => {}, { concurrency: 0 }], [() => {}, { limit: 1 }]]) {
      t.throws(() => worker.handle(...args), { code: 'ERR_WSMB_OPTION' });
    }
    await worker.close();
    t.throws(() => worker.handle(() => {}), { code: 'ERR_WSMB_NOT_OPEN' });
  });
}

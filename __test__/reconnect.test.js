'use strict';

// Automatic reconnection of a client.

const { once } = require('node:events');
const test = require('ava');
const { WebSocketServer } = require('ws');
const { WSMsgBroker, startLasting, startServer } = require('./support/start');
const { startRelay } = require('./support/relay');
const { kinds, urlOf, open, join, failure, awaited, aborted } = require('./support/clients');

const QUICK = { minDelay: 5, maxDelay: 20 };

/** Starts a server on the port of its predecessor. */
async function restart(t, server, options) {
  const { port } = server.address();
  await server.close();
  return () => startServer(t, { port, ...options });
}

/** The names of a client's events in the order of their emission. */
function record(client) {
  const names = [
    ...['open', 'registered', 'unregistered', 'replaced', 'goaway'],
    ...['reconnecting', 'reconnected', 'error', 'close'],
  ];
  const seen = [];
  for (const name of names) client.on(name, () => seen.push(name));
  return seen;
}

for (const kind of kinds) {
  test(`${kind}: reconnects under its id and sends the queued messages`, async (t) => {
    const first = await startLasting(t);
    const client = await join(t, kind, first, 'client', { reconnect: QUICK });
    const seen = record(client);
    const messages = client.messages();
    const lost = once(client, 'reconnecting');
    const again = await restart(t, first);
    const [attempt, delay, reason] = await lost;
    t.is(attempt, 1);
    t.true(delay >= 0 && delay <= 5);
    t.is(reason.code, 'ERR_WSMB_CONNECTION_LOST');
    for (let n = 0; n < 100; n += 1) client.send(n, 'client');
    const asked = client.request('?', 'client');
    const delivered = client.deliver(100, 'client');
    t.true(client.bufferedAmount > 0);
    await again();
    await client.connected();
    const heard = [];
    for await (const { message, answer } of messages) {
      if (answer) answer('!');
      else heard.push(message);
      if (heard.length === 101) break;
    }
    t.deepEqual(heard, [...Array(101).keys()]);
    t.deepEqual(await asked, { from: 'client', message: '!' });
    t.deepEqual(await delivered, { delivered: ['client'], failed: new Map() });
    const others = seen.filter((name) => name !== 'reconnecting');
    t.deepEqual(others, ['open', 'registered', 'reconnected']);
    await client.close();
    t.is(seen.at(-1), 'close');
  });

  test(`${kind}: retries with growing delays until the broker is reachable`, async (t) => {
    const server = await startLasting(t);
    const url = urlOf(server);
    const again = await restart(t, server);
    const reconnect = { minDelay: 10, maxDelay: 40, factor: 2, jitter: 0 };
    const client = open(t, kind, 'client', url, { reconnect });
    const delays = [];
    let [waits, starting] = [4, null];
    client.on('reconnecting', (attempt, delay, reason) => {
      t.is(reason.code, kind === 'addon' ? 'ECONNREFUSED' : 'ERR_WSMB_CONNECT');
      if (attempt <= 4) delays.push(delay);
      waits -= 1;
      if (waits === 0) starting = again();
    });
    await client.connected();
    await starting;
    t.deepEqual(delays, [10, 20, 40, 40]);
    await client.close();
  });

  test(`${kind}: the error of a request without a connection has the connection error as its cause`, async (t) => {
    const server = await startLasting(t);
    const url = urlOf(server);
    await server.close();
    const client = open(t, kind, 'client', url, { reconnect: QUICK });
    await once(client, 'reconnecting');
    const { code, error } = await failure(client.request(1, 'a', { timeout: 20 }));
    t.is(code, 'TIMEOUT');
    t.is(error.cause.code, kind === 'addon' ? 'ECONNREFUSED' : 'ERR_WSMB_CONNECT');
  });

  test(`${kind}: closes after maxAttempts`, async (t) => {
    const server = await startLasting(t);
    const url = urlOf(server);
    await server.close();
    const client = open(t, kind, 'client', url, { reconnect: { ...QUICK, maxAttempts: 2 } });
    const seen = record(client);
    const asked = failure(client.request(1, 'a'));
    const closed = new Promise((resolve) => client.on('close', resolve));
    const code = kind === 'addon' ? 'ECONNREFUSED' : 'ERR_WSMB_CONNECT';
    t.is((await failure(client.connected())).code, code);
    t.is((await asked).code, code);
    t.is(await closed, 1006);
    t.deepEqual(seen, ['reconnecting', 'reconnecting', 'error', 'close']);
    t.is(awaited(client), 0);
  });

  test(`${kind}: requests in flight fail when the connection is lost, unless they are resent`, async (t) => {
    for (const resend of ['never', 'requests']) {
      const server = await startServer(t);
      const line = await startRelay(t, server);
      const asker = await join(t, kind, line, 'asker', { reconnect: QUICK, resend });
      const answerer = await join(t, kind, server, 'answerer');
      let asked = 0;
      const cancelled = [];
      const arrived = new Promise((resolve) => {
        answerer.on('message', (message, response) => {
          asked += 1;
          if (asked > 3) response?.send(message + 1);
          else if (response) cancelled.push(aborted(response.signal));
          if (asked === 3) resolve();
        });
      });
      const called = [];
      const settled = Promise.allSettled([
        asker.request(1, 'answerer'),
        asker.requestAll(2, ['answerer']),
      ]);
      asker.send(3, 'answerer', (_from, answer) => called.push(answer));
      await arrived;
      const lost = once(asker, 'reconnecting');
      line.cut();
      await lost;
      // The server has detected the loss, too.
      await Promise.all(cancelled);
      line.mend();
      await asker.connected();
      const [one, all] = await settled;
      // All earlier requests were answered before this one.
      await asker.request('last', 'answerer');
      if (resend === 'never') {
        t.is(one.reason.code, 'ERR_WSMB_CONNECTION_LOST');
        t.is(all.value.failed.get('answerer').code, 'ERR_WSMB_CONNECTION_LOST');
        t.deepEqual(called, []);
        t.is(asked, 4);
      } else {
        t.deepEqual(one.value, { from: 'answerer', message: 2 });
        t.is(all.value.answers.get('answerer'), 3);
        t.deepEqual(called, [4]);
        t.is(asked, 7);
      }
      t.is(awaited(asker), 0);
    }
  });

  test(`${kind}: a resent request goes only to responders that have not answered yet`, async (t) => {
    const server = await startServer(t);
    const line = await startRelay(t, server);
    const reconnect = QUICK;
    const asker = await join(t, kind, line, 'asker', { reconnect, resend: 'requests' });
    const [quick, slow] = [
      await join(t, kind, server, 'quick'),
      await join(t, kind, server, 'slow'),
    ];
    quick.on('message', (message, response) => response.send(message));
    const responses = [];
    slow.on('message', (_message, response) => {
      responses.push(response);
      slow.emit(`heard ${responses.length}`);
    });
    const all = asker.requestAll('all', ['quick', 'slow', 'nobody']);
    const one = asker.request('one', ['nobody', 'slow']);
    const both = once(slow, 'heard 2');
    // After the answer of `quick` and the failure for `nobody`.
    await asker.request('last', 'quick');
    await both;
    const lost = once(asker, 'reconnecting');
    line.cut();
    await lost;
    await Promise.all(responses.map(({ signal }) => aborted(signal)));
    const again = once(slow, 'heard 4');
    line.mend();
    await again;
    await asker.request('last', 'quick');
    for (const response of responses.slice(2)) response.send('late');
    const { answers, failed } = await all;
    t.deepEqual(Object.fromEntries(answers), { quick: 'all', slow: 'late' });
    t.deepEqual([...failed.keys()], ['nobody']);
    t.deepEqual(await one, { from: 'slow', message: 'late' });
    t.is(awaited(asker), 0);
  });

  test(`${kind}: does not reconnect once it is replaced, refused or closed`, async (t) => {
    const server = await startServer(t);
    const first = await join(t, kind, server, 'taken', { reconnect: QUICK });
    const seen = record(first);
    const replaced = once(first, 'replaced');
    await join(t, kind, server, 'taken');
    t.deepEqual((await replaced).slice(0, 1), ['taken']);
    const closed = once(first, 'close');
    const other = await join(t, kind, server, 'other', { reconnect: { minDelay: 60_000 } });
    const waits = once(other, 'reconnecting');
    await server.close();
    await closed;
    t.deepEqual(seen, ['replaced', 'close']);
    await waits;
    const ended = once(other, 'close');
    const asked = failure(other.request(1, 'a'));
    await other.close();
    t.is((await ended)[0], 1001);
    t.is((await asked).code, 'ERR_WSMB_CLOSED');

    const strict = await startServer(t, { authenticate: () => false });
    const refused = open(t, kind, 'refused', urlOf(strict), { reconnect: QUICK });
    const events = record(refused);
    t.is((await failure(refused.connected())).code, 'ERR_WSMB_UNAUTHORIZED');
    t.false(events.includes('reconnecting'));
    t.is(strict.stats().accepted, 1);
  });

  test(`${kind}: gets a token for each connection`, async (t) => {
    const shown = [];
    const options = {
      authenticate: ({ token }) => {
        shown.push(token);
        return true;
      },
    };
    const first = await startLasting(t, options);
    let asked = 0;
    const token = async () => {
      asked += 1;
      return `token ${asked}`;
    };
    const client = await join(t, kind, first, 'client', { reconnect: QUICK, token });
    const back = once(client, 'reconnected');
    const again = await restart(t, first, options);
    await again();
    await back;
    t.is(shown[0], 'token 1');
    t.is(shown.length, 2);
    t.is(shown[1], `token ${asked}`);
    const expiring = await startServer(t, {
      authenticate: () => ({ expires: Date.now() + 100 }),
    });
    let given = 0;
    const renewed = await join(t, kind, expiring, 'renewed', {
      reconnect: QUICK,
      token: () => {
        given += 1;
        return String(given);
      },
    });
    await once(renewed, 'reconnected');
    t.true(given > 1);
    await renewed.close();

    const failing = open(t, kind, 'failing', client.url ?? 'ws://127.0.0.1:1/', {
      token: () => Promise.reject(new Error('no token today')),
    });
    t.is((await failure(failing.connected())).message, 'no token today');
  });

  test.serial(`${kind}: leaves a draining broker once its requests are answered`, async (t) => {
    // Without a random delay before it leaves.
    const { random } = Math;
    t.teardown(() => Object.assign(Math, { random }));
    Math.random = () => 0;
    const first = await startLasting(t);
    const { port } = first.address();
    const client = await join(t, kind, first, 'client', { reconnect: QUICK });
    const responder = await join(t, kind, first, 'responder');
    const responses = [];
    const arrived = new Promise((resolve) => {
      responder.on('message', (_message, response) => {
        responses.push(response);
        resolve();
      });
    });
    const asked = client.request(1, 'responder');
    await arrived;
    const told = once(client, 'goaway');
    const lost = once(client, 'reconnecting');
    const closed = first.close({ drain: 60_000 });
    const [within] = await told;
    t.true(within > 0 && within <= 60_000);
    const second = await startServer(t, { port });
    const back = once(client, 'reconnected');
    responses[0].send('late');
    t.deepEqual(await asked, { from: 'responder', message: 'late' });
    await lost;
    await back;
    // The broker waits for all clients that got goaway.
    await responder.close();
    await closed;
    t.is(second.stats().registered, 1);
  });

  test.serial(
    `${kind}: leaves a draining broker once it has answered all requests to it`,
    async (t) => {
      // Without a random delay before it leaves.
      const { random } = Math;
      t.teardown(() => Object.assign(Math, { random }));
      Math.random = () => 0;
      const first = await startLasting(t);
      const { port } = first.address();
      const asker = await join(t, kind, first, 'asker');
      const client = await join(t, kind, first, 'client', { reconnect: QUICK });
      const responses = [];
      const arrived = new Promise((resolve) => {
        client.on('message', (_message, response) => {
          if (responses.push(response) === 2) resolve();
        });
      });
      const control = new AbortController();
      const asked = asker.request(1, 'client');
      const aborting = failure(asker.request(2, 'client', control));
      await arrived;
      const told = once(client, 'goaway');
      const closed = first.close({ drain: 60_000 });
      await told;
      await new Promise((resolve) => setTimeout(resolve, 1));
      const lost = once(client, 'reconnecting');
      responses[0].send('late');
      t.deepEqual(await asked, { from: 'client', message: 'late' });
      control.abort();
      t.is((await aborting).code, 'ABORT_ERR');
      await lost;
      await asker.close();
      await closed;
      const second = await startServer(t, { port });
      await client.connected();
      t.is(second.stats().registered, 1);
    },
  );

  test(`${kind}: queues at most maxQueued`, async (t) => {
    const server = await startLasting(t);
    const url = urlOf(server);
    const again = await restart(t, server);
    const options = { reconnect: QUICK, highWaterMark: 1000, maxQueued: 2000 };
    const client = open(t, kind, 'client', url, options);
    t.true(client.send('x'.repeat(500), 'client'));
    t.false(client.send('x'.repeat(500), 'client'));
    t.throws(() => client.send('x'.repeat(1000), 'client'), { code: 'ERR_WSMB_MAX_QUEUED' });
    const tooMuch = failure(client.request('x'.repeat(1000), 'client'));
    t.is((await tooMuch).code, 'ERR_WSMB_MAX_QUEUED');
    t.throws(() => client.send('x'.repeat(1000), 'client', () => {}), {
      code: 'ERR_WSMB_MAX_QUEUED',
    });
    t.is(awaited(client), 0);
    const drained = once(client, 'drain');
    await again();
    await drained;
    t.is(client.bufferedAmount, 0);
  });

  test(`${kind}: a request that ends before it is sent is not sent`, async (t) => {
    const server = await startLasting(t);
    const url = urlOf(server);
    const again = await restart(t, server);
    const client = open(t, kind, 'client', url, { reconnect: QUICK });
    const heard = [];
    client.on('message', (message) => heard.push(message));
    const control = new AbortController();
    const asked = failure(client.request('given up', 'client', control));
    client.send('sent', 'client');
    // While the client connects, its registration is queued as well.
    const comesTo = async (isRight) => {
      while (!isRight(client.bufferedAmount)) await new Promise(setImmediate);
    };
    const waits = client.bufferedAmount;
    t.is((await failure(client.request('too late', 'client', { timeout: 1 }))).code, 'TIMEOUT');
    await comesTo((bytes) => bytes === waits);
    control.abort();
    t.is((await asked).code, 'ABORT_ERR');
    await comesTo((bytes) => bytes < waits);
    await again();
    await client.connected();
    await client.deliver('last', 'client');
    while (!heard.includes('last')) await once(client, 'message');
    t.deepEqual(heard, ['sent', 'last']);
  });
}

test('browser: a connected server that never responds times out', async (t) => {
  const silent = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  t.teardown(() => silent.close());
  await once(silent, 'listening');
  const options = { reconnect: { maxAttempts: 1, minDelay: 0 }, connectTimeout: 50 };
  const client = open(t, 'browser', 'client', urlOf(silent), options);
  t.is((await failure(client.connected())).code, 'ETIMEDOUT');
});

test('reconnect options are validated', (t) => {
  for (const reconnect of [
    null,
    1,
    'yes',
    [],
    { minDelay: -1 },
    { jitter: 2 },
    { factor: 0 },
    { other: 1 },
  ]) {
    const make = () => new WSMsgBroker('a', 'ws://127.0.0.1:1/', { reconnect });
    t.throws(make, { code: 'ERR_WSMB_OPTION' }, JSON.stringify(reconnect));
  }
  for (const options of [
    { resend: 'all' },
    { protocol: 3 },
    { signal: {} },
    { requestTimeout: 0 },
    { token: 1 },
  ]) {
    const make = () => new WSMsgBroker('a', 'ws://127.0.0.1:1/', options);
    t.throws(make, { code: 'ERR_WSMB_OPTION' }, JSON.stringify(options));
  }
});

'use strict';

// Clients with several addresses, and with an address, a token or headers that are functions.

const { once } = require('node:events');
const test = require('ava');
const { WSMsgBroker, startServer } = require('./support/start');
const { kinds, urlOf, open, failure } = require('./support/clients');

/** An address at which nothing listens. */
const CLOSED = 'ws://127.0.0.1:1/';

const attempts = (client) => {
  const delays = [];
  client.on('reconnecting', (_, delay) => delays.push(delay));
  return delays;
};

for (const kind of kinds) {
  test(`${kind}: addresses are tried in turn, without a delay until all have failed`, async (t) => {
    const reconnect = { minDelay: 10, maxDelay: 1000, jitter: 0, maxAttempts: 6 };
    const client = open(t, kind, 'a', [CLOSED, CLOSED], { reconnect });
    client.on('error', () => {});
    const delays = attempts(client);
    await failure(client.connected());
    t.deepEqual(delays, [0, 10, 0, 20, 0, 40]);
  });

  test(`${kind}: the next address is taken when a connection is lost`, async (t) => {
    const [first, second] = [await startServer(t), await startServer(t)];
    const urls = [urlOf(first), urlOf(second)];
    const client = open(t, kind, 'a', urls, { reconnect: { minDelay: 1, jitter: 0 } });
    await client.connected();
    const delays = attempts(client);
    t.deepEqual([first.has('a'), second.has('a')], [true, false]);
    first.disconnect('a');
    await once(client, 'reconnected');
    t.deepEqual([first.has('a'), second.has('a')], [false, true]);
    t.deepEqual(delays, [1]);
    second.disconnect('a');
    await once(client, 'reconnected');
    t.true(first.has('a'));
  });

  test(`${kind}: without reconnect each address is tried once, and early messages are kept`, async (t) => {
    const server = await startServer(t);
    const received = once(server.client, 'message');
    await server.client.connected();
    const client = open(t, kind, 'a', [CLOSED, CLOSED, urlOf(server)]);
    client.on('error', (error) => t.fail(error.message));
    client.send('early', 'server');
    await client.connected();
    t.is((await received)[0], 'early');
    const closed = once(client, 'close');
    const delays = attempts(client);
    server.disconnect('a', 4000);
    t.is((await closed)[0], 4000);
    t.deepEqual(delays, []);

    const lost = open(t, kind, 'b', [CLOSED, CLOSED]);
    const errors = [];
    lost.on('error', (error) => errors.push(error.code));
    await new Promise((resolve) => lost.on('close', resolve));
    t.is(errors.length, 1);
  });

  test(`${kind}: an address may be a function, called for each attempt`, async (t) => {
    const server = await startServer(t);
    let calls = 0;
    const address = async () => {
      calls += 1;
      if (calls === 1) throw new Error('no address yet');
      return calls === 2 ? CLOSED : urlOf(server);
    };
    const client = open(t, kind, 'a', address, { reconnect: { minDelay: 1, maxDelay: 5 } });
    const reasons = [];
    client.on('reconnecting', (_, __, { message }) => reasons.push(message));
    client.send('early', 'nobody');
    await client.connected();
    t.is(calls, 3);
    t.is(reasons[0], 'no address yet');
    await client.close();

    const invalid = open(t, kind, 'b', () => 'localhost');
    invalid.on('error', () => {});
    t.is((await failure(invalid.connected())).code, 'ERR_WSMB_ADDRESS');
    const silent = open(t, kind, 'c', () => new Promise(() => {}), { connectTimeout: 20 });
    silent.on('error', () => {});
    t.is((await failure(silent.connected())).code, 'ETIMEDOUT');
    const closing = open(t, kind, 'd', () => new Promise(() => {}));
    await closing.close();
    t.is(closing.state, 'closed');
  });
}

test('headers may be a function, called for each attempt', async (t) => {
  const seen = [];
  const server = await startServer(t, {
    authenticate: ({ headers, url }) => {
      seen.push([headers['x-key'], url]);
      return true;
    },
  });
  let calls = 0;
  const client = new WSMsgBroker('a', () => `${urlOf(server)}?n=${calls}`, {
    headers: async () => {
      calls += 1;
      return { 'x-key': `key ${calls}` };
    },
    reconnect: { minDelay: 1 },
  });
  t.teardown(() => client.close());
  await client.connected();
  server.disconnect('a');
  await once(client, 'reconnected');
  t.deepEqual(seen, [
    ['key 1', '/?n=0'],
    ['key 2', '/?n=1'],
  ]);

  const host = new WSMsgBroker('b', '127.0.0.1', server.address().port, '/', {
    headers: () => ({ 'x-key': 'b' }),
  });
  t.teardown(() => host.close());
  await host.connected();
  t.deepEqual(seen.at(-1), ['b', '/']);

  for (const headers of [
    () => 5,
    () => ({ 'x-key': 5 }),
    () => Promise.reject(new Error('none')),
  ]) {
    const failing = new WSMsgBroker('c', urlOf(server), { headers });
    failing.on('error', () => {});
    t.truthy(await failure(failing.connected()));
    t.is(failing.state, 'closed');
  }
});

test('mistakes in addresses are errors of the constructor', (t) => {
  for (const address of [[], ['localhost'], [CLOSED, 'http//x'], [CLOSED, 5], [null]]) {
    const error = t.throws(() => new WSMsgBroker('a', address), { instanceOf: TypeError });
    t.is(error.code, 'ERR_WSMB_ADDRESS');
  }
  for (const options of [{ headers: 5 }, { maxQueued: -1 }, { nothing: 1 }]) {
    const error = t.throws(() => new WSMsgBroker('a', () => CLOSED, options));
    t.is(error.code, 'ERR_WSMB_OPTION');
  }
});

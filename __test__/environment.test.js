'use strict';

// The environment of clients: asynchronous contexts in Node.js; in browsers the events of the network and the page, and
// a JavaScript engine without `crypto`.

const { AsyncLocalStorage } = require('node:async_hooks');
const { once } = require('node:events');
const test = require('ava');
const { WSMsgBroker, startServer } = require('./support/start');
const { urlOf, open } = require('./support/clients');

test('callbacks see the store of their send, and listeners that of the construction', async (t) => {
  const storage = new AsyncLocalStorage();
  const seen = {};
  const note = (name) => () => {
    seen[name] = storage.getStore();
  };
  const server = storage.run(
    'server',
    () => new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' }),
  );
  t.teardown(() => server.close());
  server.on('registered', note('server registered'));
  await server.ready;
  const client = storage.run('client', () => new WSMsgBroker('a', urlOf(server)));
  for (const name of ['open', 'registered', 'unregistered', 'close']) {
    client.on(name, note(name));
  }
  client.on('message', (message, response) => {
    note('message')();
    response?.send(message);
  });
  await client.connected();
  const answered = [1, 2].map(
    (n) =>
      new Promise((resolve) => {
        const callback = (_, message) => resolve([n, message, storage.getStore()]);
        storage.run(`send ${n}`, () => client.send(n, 'a', callback));
      }),
  );
  t.deepEqual(await Promise.all(answered), [
    [1, 1, 'send 1'],
    [2, 2, 'send 2'],
  ]);
  storage.run('other', () => client.unregister());
  await once(client, 'unregistered');
  await storage.run('other', () => client.close());
  t.deepEqual(seen, {
    'server registered': 'server',
    open: 'client',
    registered: 'client',
    message: 'client',
    unregistered: 'client',
    close: 'client',
  });
});

test('a client in its server, and a reconnected one, keep their store', async (t) => {
  const storage = new AsyncLocalStorage();
  const server = await startServer(t);
  const own = storage.run('own', () => server.client);
  const options = { reconnect: { minDelay: 3_600_000, maxDelay: 3_600_000, jitter: 0 } };
  const client = storage.run('client', () => new WSMsgBroker('a', urlOf(server), options));
  t.teardown(() => client.close());
  await Promise.all([own.connected(), client.connected()]);
  const lost = once(client, 'reconnecting');
  server.disconnect('a');
  await lost;
  const store = new Promise((resolve) => {
    client.on('message', () => resolve(storage.getStore()));
  });
  storage.run('other', () => client.reconnectNow());
  await once(client, 'reconnected');
  const ownStore = new Promise((resolve) => {
    own.on('message', () => resolve(storage.getStore()));
  });
  server.send(1, 'a');
  client.send(1, 'server');
  t.deepEqual([await store, await ownStore], ['client', 'own']);
});

/** Sets a global for the rest of a test. */
function setGlobal(t, name, value) {
  const before = Object.getOwnPropertyDescriptor(globalThis, name);
  Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  t.teardown(() => {
    if (before) Object.defineProperty(globalThis, name, before);
    else delete globalThis[name];
  });
}

test.serial('a browser client works without crypto', async (t) => {
  const server = await startServer(t);
  setGlobal(t, 'crypto', undefined);
  const client = open(t, 'browser', 'a', urlOf(server));
  client.handle((message) => message);
  await client.connected();
  const numbers = Array.from({ length: 100 }, (_, n) => n);
  const answers = await Promise.all(numbers.map((n) => client.request(n, 'a')));
  t.deepEqual(
    answers.map(({ message }) => message),
    numbers,
  );
});

test.serial(
  'a browser client connects at once when the network or the page comes back',
  async (t) => {
    const server = await startServer(t);
    const page = new EventTarget();
    for (const name of ['addEventListener', 'removeEventListener']) {
      setGlobal(t, name, page[name].bind(page));
    }
    const reconnect = { minDelay: 3_600_000, maxDelay: 3_600_000, jitter: 0 };
    const client = open(t, 'browser', 'a', urlOf(server), { reconnect });
    await client.connected();
    for (const event of ['online', 'visibilitychange']) {
      const lost = once(client, 'reconnecting');
      server.disconnect('a');
      await lost;
      page.dispatchEvent(new Event(event));
      await once(client, 'reconnected');
    }
    await client.close();
    page.dispatchEvent(new Event('online'));
    t.is(client.state, 'closed');
  },
);

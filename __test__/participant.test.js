'use strict';

// The server's own client (`server.client`).

const { once } = require('node:events');
const test = require('ava');
const { WSMsgBroker, startServer } = require('./support/start');
const { kinds, urlOf, open, join, failure, receiptCodes, awaited } = require('./support/clients');

for (const kind of kinds) {
  test(`${kind}: a server sends, requests and responds`, async (t) => {
    const server = await startServer(t);
    t.deepEqual(server.ids(), []);
    const client = await join(t, kind, server, 'client');
    client.on('message', (message, response, from) => response?.send([message, from]));
    const heard = once(client, 'message');
    t.true(server.send('hello', 'client'));
    const [message, response, from] = await heard;
    t.deepEqual([message, response, from], ['hello', null, 'server']);
    t.deepEqual(server.ids().sort(), ['client', 'server']);
    t.deepEqual(await server.request(1, 'client'), { from: 'client', message: [1, 'server'] });
    const called = new Promise((resolve) => server.send(2, 'client', (...args) => resolve(args)));
    t.deepEqual(await called, ['client', [2, 'server']]);
    const { answers, failed } = await server.requestAll(3, ['client', 'nobody']);
    t.deepEqual([answers.get('client'), failed.get('nobody').code], [[3, 'server'], 'UNKNOWN_ID']);
    t.deepEqual(await receiptCodes(server.deliver(4, ['client', 'nobody'])), {
      delivered: ['client'],
      failed: { nobody: 'UNKNOWN_ID' },
    });

    const messages = server.messages();
    const asked = client.request('?', 'server');
    const { value } = await messages.next();
    t.deepEqual([value.message, value.from], ['?', 'client']);
    value.answer('!');
    t.deepEqual(await asked, { from: 'server', message: '!' });
    server.client.on('message', (_message, other) => other.reject('busy'));
    t.is((await failure(client.request('?', 'server'))).message, 'busy');
    t.is(awaited(server.client), 0);
    t.is(server.stats().pending, 0);
  });

  test(`${kind}: no other client can own the id of a server's own client`, async (t) => {
    const server = await startServer(t);
    const before = await join(t, kind, server, 'server');
    const replaced = once(before, 'replaced');
    await server.client.connected();
    await replaced;
    const late = open(t, kind, 'server', urlOf(server));
    t.is((await failure(late.connected())).code, 'ERR_WSMB_CONFLICT');
    t.true(server.has('server'));
    t.is((await server.request(1, 'server', { timeout: 20 }).catch((e) => e)).code, 'TIMEOUT');
  });
}

test("a server's own client does not count as a connection", async (t) => {
  const server = await startServer(t, { id: 'hub', authenticate: () => false });
  server.on('connection', () => t.fail('its own client emitted connection'));
  await server.client.connected();
  t.deepEqual(server.ids(), ['hub']);
  t.like(server.stats(), { connections: 0, accepted: 0, registered: 1 });
});

test("a server's own client can request at once, without authentication", async (t) => {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', authenticate: () => false });
  t.teardown(() => server.close());
  t.is((await failure(server.request(1, 'nobody'))).code, 'UNKNOWN_ID');
  t.is(server.stats().denied, 0);
});

test('a server with the option id owns it from the start', async (t) => {
  const server = await startServer(t, { id: 'hub' });
  const thief = open(t, 'browser', 'hub', urlOf(server));
  t.is((await failure(thief.connected())).code, 'ERR_WSMB_CONFLICT');
});

test('a server that is closed at once sends nothing, and no error is unhandled', async (t) => {
  const server = await startServer(t);
  server.send(1, 'a');
  const closed = new Promise((resolve) => server.client.on('close', resolve));
  server.close();
  t.is(await closed, undefined);
  t.throws(() => server.send(1, 'a'), { code: 'ERR_WSMB_NOT_OPEN' });
  const other = await startServer(t);
  other.close();
  t.throws(() => other.send(1, 'a'), { code: 'ERR_WSMB_NOT_OPEN' });
  t.is((await failure(other.request(1, 'a'))).code, 'ERR_WSMB_NOT_OPEN');
  t.throws(() => other.client, { code: 'ERR_WSMB_NOT_OPEN' });
});

test('requests of a closed server are rejected', async (t) => {
  const server = await startServer(t);
  await server.client.connected();
  const asked = failure(server.request(1, 'server'));
  const closed = once(server.client, 'close');
  await server.close();
  t.is((await closed)[0], 1001);
  t.is((await asked).code, 'ERR_WSMB_CONNECTION_LOST');
  t.throws(() => server.send(1, 'a'), { code: 'ERR_WSMB_NOT_OPEN' });
  t.is((await failure(server.deliver(1, 'a'))).code, 'ERR_WSMB_NOT_OPEN');
});

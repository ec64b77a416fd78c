'use strict';

// Ids in a cluster: who owns an id, and which ids exist.

const { once } = require('node:events');
const test = require('ava');
const { failure, join, open, refused, receiptCodes, urlOf } = require('./support/clients');
const { startBroker, startCluster } = require('./support/cluster');
const { startNats } = require('../testkit/nats');
const { natsTalk } = require('./support/natstalk');
const { startServer } = require('./support/start');

test('the newest registration owns the id on any broker, and the former owner emits replaced', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  const old = await join(t, 'addon', brokers[0], 'x');
  let answerLate;
  const asked = new Promise((resolve) => {
    old.on('message', (_message, response) => {
      answerLate = () => response.send('late');
      resolve();
    });
  });
  const lost = failure(asker.request(1, 'x'));
  await asked;
  const replaced = once(old, 'replaced');
  const next = await join(t, 'addon', brokers[1], 'x');
  await replaced;
  t.is((await lost).code, 'REPLACED');
  answerLate();
  next.on('message', (_message, response) => response?.send('new'));
  t.deepEqual(await asker.request(2, 'x'), { from: 'x', message: 'new' });
  t.deepEqual(
    brokers.map((broker) => broker.has('x')),
    [false, true],
  );
  // And back, possibly before the other registration was answered.
  const again = once(next, 'replaced');
  await join(t, 'addon', brokers[0], 'x');
  await again;
  t.deepEqual(
    brokers.map((broker) => broker.has('x')),
    [true, false],
  );
});

test('each broker lists its ids, and a broker that does not answer is named', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const ids = ['a', 'b', 'c', 'd.*', 'e >'];
  await Promise.all(ids.map((id, n) => join(t, 'addon', brokers[n % 3], id)));
  const found = await brokers[1].cluster.ids();
  t.deepEqual([...found.ids].sort(), ids);
  t.deepEqual(found.silent, []);
  t.deepEqual(await brokers[0].cluster.has('b'), { has: true, broker: 'b1', silent: [] });
  t.deepEqual(await brokers[0].cluster.has('z'), { has: false, broker: null, silent: [] });
  t.deepEqual(brokers[2].cluster.brokers(), ['b0', 'b1', 'b2']);
  t.is((await startServer(t)).cluster, null);
});

test('any id works across brokers, and NATS subjects contain it only in encoded form', async (t) => {
  const { nats, brokers } = await startCluster(t, 2);
  const spy = await natsTalk(t, nats);
  await spy.sub('>');
  const sender = await join(t, 'addon', brokers[0], 'sender');
  const ids = [
    'a.b',
    '*',
    '>',
    'wsmb.default.>',
    ' ',
    'a b',
    '\u0000\u0001\r\n',
    '\t',
    '😀',
    'é',
    'x'.repeat(8192),
    `y${'.'.repeat(8000)}`,
    '_INBOX.1',
    '$SYS.>',
    '"',
    '\\',
    'ünïcödé ✓',
  ];
  await Promise.all(ids.map((id) => join(t, 'addon', brokers[1], id)));
  for (const id of ids) {
    const receipt = await receiptCodes(sender.deliver(1, id));
    t.deepEqual(receipt, { delivered: [id], failed: {} });
  }
  const { ids: found } = await brokers[0].cluster.ids();
  t.deepEqual([...found].sort(), ['sender', ...ids].sort());
  await spy.flush();
  t.true(spy.messages.length > ids.length);
  for (const { subject } of spy.messages) t.regex(subject, /^wsmb\.default\.[\w.-]+$/);
});

test('an id belongs to its principal on every broker', async (t) => {
  const authenticate = ({ token }) => ({ principal: token });
  const { brokers } = await startCluster(t, 2, { authenticate });
  await join(t, 'addon', brokers[0], 'x', { token: 'alice' });
  const denied = await failure(join(t, 'addon', brokers[1], 'x', { token: 'mallory' }));
  t.is(denied.code, 'ERR_WSMB_CONFLICT');
  t.deepEqual(
    brokers.map((broker) => broker.has('x')),
    [true, false],
  );
  await join(t, 'addon', brokers[1], 'x', { token: 'alice' });
  t.true(brokers[1].has('x'));
});

test('the client of each server has an id of its own', async (t) => {
  const { brokers } = await startCluster(t, 2);
  t.deepEqual(
    brokers.map(({ id }) => id),
    ['server-b0', 'server-b1'],
  );
  const client = await join(t, 'addon', brokers[1], 'c');
  client.on('message', (message, response) => response.send(message + 1));
  t.deepEqual(await brokers[0].request(1, 'c'), { from: 'c', message: 2 });
});

test("no client can take over the id of a server's own client on any broker", async (t) => {
  const { brokers } = await startCluster(t, 2);
  await brokers[0].client.connected();
  const thief = open(t, 'addon', brokers[0].id, urlOf(brokers[1]));
  const denied = new Promise((resolve) => {
    thief.on('error', resolve);
  });
  t.is((await denied).code, 'ERR_WSMB_CONFLICT');
  t.deepEqual(
    brokers.map((broker) => broker.has(brokers[0].id)),
    [true, false],
  );
  const client = await join(t, 'addon', brokers[1], 'c');
  brokers[0].client.on('message', (message, response) => response.send(message));
  t.is((await client.request(1, brokers[0].id)).message, 1);
});

test("a server's own client takes over its id from a client of another broker", async (t) => {
  const { brokers } = await startCluster(t, 2);
  const peer = await join(t, 'addon', brokers[1], brokers[0].id);
  const lost = refused(peer);
  await brokers[0].client.connected();
  t.deepEqual(await lost, ['ERR_WSMB_CONFLICT', 4409]);
  t.deepEqual(
    brokers.map((broker) => broker.has(brokers[0].id)),
    [true, false],
  );
});

test('of two brokers with the same name, the first keeps the id of its own client', async (t) => {
  const nats = await startNats(t);
  const [one, two] = [
    await startBroker(t, nats, { nats: { name: 'twin' } }),
    await startBroker(t, nats, { nats: { name: 'twin' } }),
  ];
  await one.client.connected();
  // Possibly after it was registered.
  t.deepEqual(await refused(two.client), ['ERR_WSMB_CONFLICT', 4409]);
  const client = await join(t, 'addon', two, 'c');
  one.client.on('message', (message, response) => response.send(message));
  t.is((await client.request(1, 'server-twin')).message, 1);
});

test('brokers of another namespace are not visible', async (t) => {
  const { nats, brokers } = await startCluster(t, 1);
  const other = await startBroker(t, nats, { nats: { namespace: 'other' } });
  await join(t, 'addon', other, 'x');
  const a = await join(t, 'addon', brokers[0], 'a');
  t.is((await failure(a.request(1, 'x'))).code, 'UNKNOWN_ID');
});

'use strict';

// Claims: each id has one owner in the end, whatever NATS does.

const { fork } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const test = require('ava');
const { join, open, refused, urlOf } = require('./support/clients');
const { acquainted, startBroker, startCluster } = require('./support/cluster');
const { startNats, startNatsCluster } = require('../testkit/nats');

const IDS = 20;
const AGREED_MS = 10_000;

/** Resolves with true as soon as the condition holds, and with false if it does not hold in time. */
async function comesTrue(isTrue, ms = AGREED_MS) {
  const deadline = Date.now() + ms;
  while (!isTrue()) {
    if (Date.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return true;
}

test('ids that move during a rolling restart of NATS have one owner afterwards', async (t) => {
  t.timeout(120_000);
  const servers = await startNatsCluster(t, 3);
  const order = (n) => [servers[n], ...servers.filter((_, other) => other !== n)];
  const brokers = await Promise.all(
    [0, 1, 2].map((n) => startBroker(t, order(n), { nats: { name: `b${n}` } })),
  );
  await acquainted(brokers);
  let isOver = false;
  let moves = 0;
  const newest = new Map();
  const move = async (id, first) => {
    for (let n = first; !isOver; n += 1) {
      newest.set(id, brokers[n % 3]);
      await join(t, 'addon', brokers[n % 3], id);
      moves += 1;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
  const moving = Array.from({ length: IDS }, (_, n) => move(`id${n}`, n));
  for (const server of servers) {
    const before = moves;
    t.true(await comesTrue(() => moves > before + 3 * IDS));
    await server.restart();
  }
  isOver = true;
  await Promise.all(moving);
  const owners = (id) => brokers.filter((broker) => broker.has(id));
  const isSettled = ([id, broker]) => owners(id).length === 1 && owners(id)[0] === broker;
  const areSettled = await comesTrue(() => [...newest].every(isSettled));
  const names = [...newest].map(([id]) => [id, owners(id).map(({ id: name }) => name)]);
  t.true(areSettled, JSON.stringify(names));
});

const authenticate = ({ token }) => ({ principal: token });
const RECONNECT = { minDelay: 50, maxDelay: 200 };

/** A client that reconnects until it is registered, with its events and a promise of its registration. */
function returning(t, broker, id, token) {
  const seen = { reconnecting: 0, ends: [] };
  const client = open(t, 'addon', id, urlOf(broker), { token, reconnect: RECONNECT });
  client.on('reconnecting', () => {
    seen.reconnecting += 1;
  });
  client.on('error', ({ code }) => seen.ends.push(code));
  return { client, seen, registered: client.connected() };
}

/**
 * NATS, a broker with authentication in this process, and another one with clients in a process of its own.
 */
async function scene(t, count) {
  const nats = await startNats(t);
  const near = await startBroker(t, nats, { authenticate, nats: { name: 'near' } });
  const child = fork(path.join(__dirname, 'support', 'guarded.js'), ['far', nats.url]);
  t.teardown(() => child.kill('SIGKILL'));
  const [{ port }] = await once(child, 'message');
  const far = { address: () => ({ port }) };
  while (near.cluster.brokers().length < 2) await new Promise((resolve) => setTimeout(resolve, 10));
  const ids = Array.from({ length: count }, (_, n) => `id${n}`);
  const former = await Promise.all(
    ids.map((id) => join(t, 'addon', far, id, { token: `of ${id}` })),
  );
  return { nats, near, far, child, ids, former };
}

if (process.platform !== 'win32') {
  test('while a broker hangs, its clients are refused temporarily, and register elsewhere once it is missed', async (t) => {
    t.timeout(60_000);
    const { near, child, ids, former } = await scene(t, 5);
    const denied = new Set();
    near.on('denied', (_id, { code }) => denied.add(code));
    const replaced = former.slice(1).map((one) => once(one, 'replaced'));
    child.kill('SIGSTOP');
    const clients = ids.slice(1).map((id) => returning(t, near, id, `of ${id}`));
    const stranger = returning(t, near, ids[0], 'stranger');
    await Promise.all([...clients, stranger].map(({ registered }) => registered));
    for (const { seen } of [...clients, stranger]) {
      t.true(seen.reconnecting > 0);
      t.deepEqual(seen.ends, []);
    }
    t.deepEqual([...denied], ['ERR_WSMB_UNAVAILABLE']);
    // The client of the resumed broker had the id first.
    const closed = refused(stranger.client);
    child.kill('SIGCONT');
    t.deepEqual(await closed, ['ERR_WSMB_CONFLICT', 4409]);
    await Promise.all(replaced);
  });

  test('clients of a broker that hangs for a moment reconnect and keep their ids', async (t) => {
    t.timeout(60_000);
    const { near, child, ids, former } = await scene(t, 5);
    child.kill('SIGSTOP');
    const [first] = ids;
    const client = returning(t, near, first, `of ${first}`);
    const stranger = open(t, 'addon', first, urlOf(near), { token: 'stranger' });
    const [code] = await once(stranger, 'close');
    t.is(code, 1013);
    const replaced = former.map((one) => once(one, 'replaced'));
    child.kill('SIGCONT');
    await client.registered;
    await replaced[0];
    t.deepEqual(client.seen.ends, []);
    const conflict = open(t, 'addon', ids[1], urlOf(near), { token: 'stranger' });
    t.deepEqual(await refused(conflict), ['ERR_WSMB_CONFLICT', 4409]);
  });

  test('while NATS hangs, no client is refused permanently', async (t) => {
    t.timeout(60_000);
    const { nats, brokers } = await startCluster(t, 2, { authenticate });
    const ids = Array.from({ length: 10 }, (_, n) => `id${n}`);
    await Promise.all(ids.map((id) => join(t, 'addon', brokers[0], id, { token: `of ${id}` })));
    await nats.pause();
    const clients = [];
    for (const id of ids) {
      clients.push(returning(t, brokers[1], id, `of ${id}`));
      await new Promise((resolve) => setTimeout(resolve, 400));
    }
    await nats.resume();
    await Promise.all(clients.map(({ registered }) => registered));
    for (const { seen } of clients) t.deepEqual(seen.ends, []);
    const isSettled = (id) => !brokers[0].has(id) && brokers[1].has(id);
    t.true(await comesTrue(() => ids.every(isSettled)));
  });
}

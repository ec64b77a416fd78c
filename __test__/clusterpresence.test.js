'use strict';

// Presence across brokers.

const { fork } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const { setTimeout } = require('node:timers/promises');
const test = require('ava');
const { startNats } = require('../testkit/nats');
const { join } = require('./support/clients');
const { startBroker, startCluster, state } = require('./support/cluster');

const BROKER = path.join(__dirname, '..', 'soak', 'cluster', 'broker.js');

/** Resolves once `condition` is true of a watch. */
async function until(watch, condition) {
  while (!condition(watch)) {
    await once(watch, 'change');
  }
}

const members = (watch) => Object.fromEntries([...watch.members].sort());
const ids = (watch) => [...watch.members.keys()].sort();

// Rule 39.9.
test('members at all brokers are seen, and one that moves does not leave', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const [here, there] = brokers;
  const watcher = await join(t, 'addon', here, 'w');
  const watch = await watcher.presence('room');
  const online = await watcher.watch(['far', 'near', 'moving']);
  const far = await join(t, 'addon', there, 'far');
  await far.subscribe('room', { info: 'far' });
  const near = await join(t, 'addon', here, 'near');
  await near.subscribe('room', { info: 'near' });
  await until(watch, ({ count }) => count === 2);
  await until(online, ({ online: known }) => known.size === 2);
  t.deepEqual(members(watch), { far: 'far', near: 'near' });
  // A second watcher, at the other broker, gets what is there already.
  const second = await (await join(t, 'addon', there, 'w2')).presence('room');
  await until(second, ({ count }) => count === 2);
  // An id that moves to the other broker is not seen to leave.
  const log = [];
  online.on('change', (change) => log.push(change));
  const moving = await join(t, 'addon', there, 'moving');
  await moving.subscribe('room', { info: 1 });
  await until(watch, ({ count }) => count === 3);
  const moved = await join(t, 'addon', here, 'moving');
  await moved.subscribe('room', { info: 2 });
  await until(watch, ({ members: known }) => known.get('moving') === 2);
  t.is(watch.count, 3);
  t.deepEqual(log, [{ online: ['moving'], offline: [] }]);
  // A broker that closes: its clients may come back elsewhere within `presenceTimeout`.
  await there.close();
  await until(watch, ({ count }) => count === 2);
  t.deepEqual(ids(watch), ['moving', 'near']);
  await until(online, ({ online: known }) => !known.has('far'));
});

// Rule 39.9.
test('members at a killed broker have left, unless they are at another one', async (t) => {
  const nats = await startNats(t);
  const near = await startBroker(t, nats, { nats: { namespace: 'soak', name: 'near' } });
  const child = fork(BROKER, ['far', nats.url]);
  t.teardown(() => child.kill('SIGKILL'));
  const [{ port }] = await once(child, 'message');
  const far = { address: () => ({ port }) };
  while (near.cluster.brokers().length < 2) await setTimeout(10);
  const watch = await (await join(t, 'addon', near, 'w')).presence('room');
  for (const id of ['stays', 'goes']) {
    await (await join(t, 'addon', far, id)).subscribe('room', { info: 'far' });
  }
  await until(watch, ({ count }) => count === 2);
  child.kill('SIGKILL');
  await (await join(t, 'addon', near, 'stays')).subscribe('room', { info: 'near' });
  const seen = [];
  watch.on('change', ({ left }) => seen.push(...left));
  await until(watch, ({ count }) => count === 1);
  t.deepEqual(members(watch), { stays: 'near' });
  t.deepEqual(seen, ['goes']);
});

// Rule 39.9.
test('members that change while NATS is gone are right soon after it is back', async (t) => {
  const { brokers, nats } = await startCluster(t, 2, { presenceTimeout: 0 });
  const [here, there] = brokers;
  const watcher = await join(t, 'addon', here, 'w');
  const watch = await watcher.presence('room');
  const online = await watcher.watch(['x', 'y']);
  const x = await join(t, 'addon', there, 'x');
  await x.subscribe('room', { info: 1 });
  await until(watch, ({ count }) => count === 1);
  await until(online, ({ online: known }) => known.has('x'));
  const down = brokers.map((broker) => state(broker, 'disconnected'));
  await nats.kill();
  await Promise.all(down);
  await x.close();
  const y = await join(t, 'addon', there, 'y');
  await y.subscribe('room', { info: 2 });
  // Watched while the other broker is unreachable.
  const late = await watcher.presence('late');
  await y.subscribe('late', { info: 3 });
  t.deepEqual(ids(watch), ['x']);
  await nats.restart();
  await until(watch, ({ members: known }) => known.has('y') && !known.has('x'));
  await until(online, ({ online: known }) => known.has('y') && !known.has('x'));
  await until(late, ({ count }) => count === 1);
  t.deepEqual(members(late), { y: 3 });
});

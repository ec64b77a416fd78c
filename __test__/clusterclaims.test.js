'use strict';

// Many brokers as one: each id has one owner in the end, whatever becomes of NATS.

const test = require('ava');
const { join } = require('./support/clients');
const { acquainted, startBroker } = require('./support/cluster');
const { startNatsCluster } = require('./support/nats');

const IDS = 20;
const AGREED_MS = 10_000;

/** Resolves when it is true; false if it is not in time. */
async function comesTrue(isTrue, ms = AGREED_MS) {
  const deadline = Date.now() + ms;
  while (!isTrue()) {
    if (Date.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return true;
}

test('ids that move while NATS servers are restarted one after the other have one owner after it', async (t) => {
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

'use strict';

// Programs that throw, hang or are killed: other connections continue, or get a close event. WSMB_FAULTS=full
// uses the long times and the large counts.

const test = require('ava');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const WSMsgBroker = require('..');
const Ledger = require('./faults/ledger');
const Scene = require('./faults/scene');

const full = process.env.WSMB_FAULTS === 'full';
/** The minimum time for which an event loop is blocked, ms. */
const BLOCK_MS = full ? 30_000 : 3_000;
const CYCLES = full ? 200 : 20;
const TIMEOUT_MS = full ? 1_200_000 : 240_000;
const IDS = ['a', 'b', 'c', 'd'];
/** Far fewer than are answered while a program is blocked. */
const REQUESTS = 500;

test('a ledger reports only repeated, early and late messages', (t) => {
  const faults = (...numbers) => {
    const ledger = new Ledger();
    for (const [n, to] of numbers) ledger.arrive('id', [['from', n, to]]);
    return ledger.faults.length;
  };
  t.is(faults([1, 'x'], [2, 'x'], [3, 'x']), 0);
  // The messages in between were lost with the connection.
  t.is(faults([1, 'x'], [2, 'x'], [5, 'y'], [6, 'y']), 0);
  t.is(faults([1, 'x'], [1, 'x']), 1);
  t.is(faults([1, 'x'], [3, 'x']), 1);
  t.is(faults([2, 'x'], [1, 'x']), 1);
  t.is(faults([1, 'x'], [1, 'y']), 1);
});

// A broker and peers that exchange messages continuously. At the end every message must have arrived once and
// in order, and the broker must close normally.
function faults(title, options, body) {
  test.serial(title, async (t) => {
    t.timeout(TIMEOUT_MS);
    const scene = new Scene(options);
    t.teardown(() => scene.end());
    await scene.startBroker();
    for (const id of IDS) startPeer(scene, id);
    await scene.talking();

    await body(t, scene);

    await scene.talking();
    await scene.silence();
    t.deepEqual(scene.ledger.faults, []);
    await scene.until('only the peers are left', async () => {
      const { stats } = await scene.ask();
      return stats.connections === IDS.length && stats.pending === 0;
    });
    const { stats } = await scene.ask();
    t.like(stats, { registered: IDS.length, slow: 0, dead: 0, violations: 0 });
    scene.broker.tell({ close: true });
    t.deepEqual(await scene.broker.ended, [0, null]);
  });
}

function startPeer(scene, id) {
  scene.startPeer(
    id,
    IDS.filter((other) => other !== id),
  );
}

/** Blocks a program for a minimum time. The returned function unblocks it. */
async function block(program) {
  await program.hear('blocked', { block: true });
  const enough = sleep(BLOCK_MS);
  return async () => {
    await enough;
    const awake = program.hear('awake');
    program.wake();
    await awake;
  };
}

async function connect(t, scene, id) {
  const client = new WSMsgBroker(id, '127.0.0.1', scene.port);
  t.teardown(() => client.close());
  await once(client, 'registered');
  return client;
}

for (const throws of [false, true]) {
  const who = throws ? 'a broker whose listeners throw' : 'a broker';
  faults(`${who} routes messages and emits every event`, { throws }, async (t, scene) => {
    const before = (await scene.ask()).heard;
    const client = await connect(t, scene, 'e');
    const echoed = once(client, 'message');
    client.send('to nobody', 'nobody');
    client.send('to itself', 'e');
    await echoed;
    await client.close();
    await scene.until('its end is emitted', async () => (await scene.ask()).heard.unregistered > 0);
    const { heard, caught } = await scene.ask();
    const since = Object.keys(heard).map((event) => [event, heard[event] - before[event]]);
    const expected = { connection: 1, registered: 1, unregistered: 1, warn: 1, slow: 0 };
    t.deepEqual(Object.fromEntries(since), expected);
    const all = Object.values(heard).reduce((sum, count) => sum + count);
    t.is(caught, throws ? all : 0);
  });
}

// Shorter than the block: the heartbeat does not depend on JavaScript.
const HEARTBEAT = { pingInterval: 1000, pingTimeout: 1000 };

faults('a broker with a blocked event loop routes messages', HEARTBEAT, async (t, scene) => {
  const wake = await block(scene.broker);
  const [asker, responder] = [await connect(t, scene, 'e'), await connect(t, scene, 'f')];
  responder.on('message', (message, response) => response.send(message));
  for (let n = 0; n < REQUESTS; n += 1) {
    const answer = await new Promise((resolve) => asker.send(n, 'f', (_, text) => resolve(text)));
    t.is(answer, n);
  }
  await scene.talking();
  await wake();
  await Promise.all([asker.close(), responder.close()]);
  await scene.until(
    'both ends are emitted',
    async () => (await scene.ask()).heard.unregistered === 2,
  );
  t.like((await scene.ask()).heard, { connection: 6, registered: 6 });
});

faults('a client with a blocked event loop loses no messages', {}, async (t, scene) => {
  const { program, name } = scene.peers.get('a');
  const wake = await block(program);
  for (let n = 0; n < 5; n += 1) await scene.talking(['b', 'c', 'd']);
  await wake();
  await scene.talking();
  t.is(scene.peers.get('a').name, name, 'it is still connected');
});

faults('the id of a killed client is free, and others are not affected', {}, async (t, scene) => {
  for (const id of IDS) {
    const told = (await scene.ask()).heard.unregistered;
    await scene.peers.get(id).program.kill();
    await scene.until(
      'its end is emitted',
      async () => (await scene.ask()).heard.unregistered > told,
    );
    t.is((await scene.ask()).stats.registered, IDS.length - 1);
    await scene.talking(IDS.filter((other) => other !== id));
    startPeer(scene, id);
    await scene.talking();
  }
  t.deepEqual(scene.codes, []);
});

faults(
  `${CYCLES} kills of brokers and clients under traffic lose no messages of the others`,
  {},
  async (t, scene) => {
    for (let cycle = 0; cycle < CYCLES; cycle += 1) {
      const victim = ['broker', ...IDS][cycle % (IDS.length + 1)];
      if (victim === 'broker') {
        await scene.broker.kill();
        await scene.startBroker();
      } else {
        await scene.peers.get(victim).program.kill();
        startPeer(scene, victim);
      }
      await scene.talking();
      t.deepEqual(scene.ledger.faults, []);
    }
    // Every peer gets 1006 for each death of a broker.
    const deaths = Math.ceil(CYCLES / (IDS.length + 1));
    t.deepEqual(scene.codes, Array(deaths * IDS.length).fill(1006));
  },
);

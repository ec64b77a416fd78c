'use strict';

// Programs that throw, stop or are killed, and what others notice of it: nothing, or a close.
// WSMB_FAULTS=full takes the long times and the large counts.

const test = require('ava');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const WSMsgBroker = require('..');
const Ledger = require('./faults/ledger');
const Scene = require('./faults/scene');

const full = process.env.WSMB_FAULTS === 'full';
/** The least time for which an event loop is blocked. */
const BLOCK_MS = full ? 30_000 : 3_000;
const CYCLES = full ? 200 : 20;
const TIMEOUT_MS = full ? 1_200_000 : 240_000;
const IDS = ['a', 'b', 'c', 'd'];
/** Far fewer than are answered in the time for which a program is blocked. */
const REQUESTS = 500;

test('a ledger is silent about what is in order, and tells what comes twice, too early or late', (t) => {
  const faults = (...numbers) => {
    const ledger = new Ledger();
    for (const [n, to] of numbers) ledger.arrive('id', [['from', n, to]]);
    return ledger.faults.length;
  };
  t.is(faults([1, 'x'], [2, 'x'], [3, 'x']), 0);
  // Those in between were lost with the connection.
  t.is(faults([1, 'x'], [2, 'x'], [5, 'y'], [6, 'y']), 0);
  t.is(faults([1, 'x'], [1, 'x']), 1);
  t.is(faults([1, 'x'], [3, 'x']), 1);
  t.is(faults([2, 'x'], [1, 'x']), 1);
  t.is(faults([1, 'x'], [1, 'y']), 1);
});

// A broker and peers that talk to each other throughout; in the end all that was sent has arrived,
// once and in order, and the broker closes as it should.
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

/** Blocks a program; returns what ends that, once it has lasted long enough. */
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
  faults(`${who} routes on, and is told everything`, { throws }, async (t, scene) => {
    const before = (await scene.ask()).heard;
    const client = await connect(t, scene, 'e');
    const echoed = once(client, 'message');
    client.send('to nobody', 'nobody');
    client.send('to itself', 'e');
    await echoed;
    await client.close();
    await scene.until('all is told', async () => (await scene.ask()).heard.unregistered > 0);
    const { heard, caught } = await scene.ask();
    const since = Object.keys(heard).map((event) => [event, heard[event] - before[event]]);
    const expected = { connection: 1, registered: 1, unregistered: 1, warn: 1, slow: 0 };
    t.deepEqual(Object.fromEntries(since), expected);
    const all = Object.values(heard).reduce((sum, count) => sum + count);
    t.is(caught, throws ? all : 0);
  });
}

// Shorter than the block: it is not JavaScript that pings, nor listens.
const HEARTBEAT = { pingInterval: 1000, pingTimeout: 1000 };

faults('a broker whose event loop is blocked routes on', HEARTBEAT, async (t, scene) => {
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
  await scene.until('all is told', async () => (await scene.ask()).heard.unregistered === 2);
  t.like((await scene.ask()).heard, { connection: 6, registered: 6 });
});

faults('a client whose event loop is blocked misses nothing', {}, async (t, scene) => {
  const { program, name } = scene.peers.get('a');
  const wake = await block(program);
  for (let n = 0; n < 5; n += 1) await scene.talking(['b', 'c', 'd']);
  await wake();
  await scene.talking();
  t.is(scene.peers.get('a').name, name, 'it is still connected');
});

faults(
  'the id of a client that is killed is free, and others notice nothing',
  {},
  async (t, scene) => {
    for (const id of IDS) {
      const told = (await scene.ask()).heard.unregistered;
      await scene.peers.get(id).program.kill();
      await scene.until('it is told', async () => (await scene.ask()).heard.unregistered > told);
      t.is((await scene.ask()).stats.registered, IDS.length - 1);
      await scene.talking(IDS.filter((other) => other !== id));
      startPeer(scene, id);
      await scene.talking();
    }
    t.deepEqual(scene.codes, []);
  },
);

faults(`${CYCLES} times a broker or a client is killed under traffic`, {}, async (t, scene) => {
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
  // Those who lived through the death of a broker know of it, each time and in the same way.
  const deaths = Math.ceil(CYCLES / (IDS.length + 1));
  t.deepEqual(scene.codes, Array(deaths * IDS.length).fill(1006));
});

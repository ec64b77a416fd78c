'use strict';

// What a broker makes of others that end, or go on, between two steps: the others are the test's.

const test = require('ava');
const { WebSocket } = require('ws');
const { answering, failure, join, settled, told, urlOf } = require('./support/clients');
const { once, startBroker } = require('./support/cluster');
const { startNats } = require('../testkit/nats');
const { startPeers } = require('./support/peer');

const LONG = { timeout: 60_000 };

/** A broker, somebody there who asks, and so many peers of the broker. */
async function scene(t, count = 1) {
  const nats = await startNats(t);
  const broker = await startBroker(t, nats, { nats: { name: 'here' } });
  const asker = await join(t, 'addon', broker, 'asker');
  const peers = await startPeers(t, nats, count);
  return { nats, broker, asker, peers };
}

/** Resolves when a broker knows so many, itself among them. */
async function knows(broker, count) {
  while (broker.stats().cluster.brokers !== count) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** The ack that is in a packet, and under which action. */
function ackOf({ frames }, action) {
  return frames.find((frame) => frame.action === action)?.ack;
}

for (const [says, where] of [
  ['taken', 'nowhere'],
  ['taken', 'here'],
  ['taken', 'elsewhere'],
  ['nothing', 'elsewhere'],
]) {
  test(`what a broker loses that says ${says} of it ends when its id is ${where}`, async (t) => {
    const { nats, broker, asker, peers } = await scene(t);
    const [peer] = peers;
    const elsewhere = await startBroker(t, nats, { nats: { name: 'elsewhere' } });
    const end = await peer.takes('x');
    const lost = failure(asker.request('lost', 'x', LONG));
    const packet = await peer.next();
    if (says === 'taken') await peer.tellsTaken(packet);
    await end();
    const server = { here: broker, elsewhere }[where];
    if (server) {
      await answering(t, 'addon', server, 'x', (response) => response.send('found'));
      t.is((await asker.request('asked', 'x')).message, 'found');
    }
    t.is((await lost).code, 'GONE');
  });
}

test('of two that take, the one that began last has the id, whatever the other tells later', async (t) => {
  const { broker, asker, peers } = await scene(t, 2);
  const [former, now] = peers;
  await former.takes('x');
  const answered = asker.request('asked', 'x', LONG);
  const packet = await former.next();
  await former.says({ is: 'beat', name: 'former', epoch: 1 });
  await knows(broker, 2);
  await former.tellsTaken(packet);
  await now.tellsTaken(packet);
  await former.tellsTaken(packet, 1);
  // What is told on the same way is heard in its order: when this is answered, all of that was.
  const other = asker.request('other', 'x', LONG);
  const ack = ackOf(await former.next(), 'asks');
  await now.tells(packet, { action: 'answer', dest: 'x', ack, from: 'x', message: 2 });
  t.is((await other).message, 2);
  await former.says({ is: 'bye' });
  await knows(broker, 2);
  const first = ackOf(packet, 'asks');
  await now.tells(packet, { action: 'answer', dest: 'x', ack: first, from: 'x', message: 1 });
  t.is((await answered).message, 1);
});

test('what was asked of an id that moved is asked for, and ends where nobody knows of it', async (t) => {
  const { asker, peers } = await scene(t, 2);
  const [former, now] = peers;
  await former.takes('x');
  const kept = asker.request('kept', 'x', LONG);
  const packet = await former.next();
  const lost = failure(asker.request('lost', 'x', LONG));
  const acks = [packet, await former.next()].map((one) => ackOf(one, 'asks'));
  await former.tellsTaken(packet);
  await now.says({ is: 'claims', claims: [['x', 1, null]] });
  const { frames } = await now.next();
  const [, { ref }] = frames;
  t.deepEqual(frames, [
    { action: 'awaits', ack: acks[0], ref: ref - 1 },
    { action: 'awaits', ack: acks[1], ref },
  ]);
  // Numbers that nobody has asked with mean nothing.
  for (const number of [ref, ref + 1, ref + 1000]) {
    await now.tells(packet, { action: 'lost', ref: number });
  }
  t.is((await lost).code, 'GONE');
  await now.tells(packet, { action: 'answer', dest: 'x', ack: acks[0], from: 'x', message: 1 });
  t.is((await kept).message, 1);
});

test('an id that moves again and again is asked in time for what its owners have lost', async (t) => {
  const { asker, peers } = await scene(t, 2);
  const [peer] = peers;
  await peer.takes('x');
  const begun = Date.now();
  const lost = failure(asker.request('lost', 'x', LONG));
  const packet = await peer.next();
  await peer.tellsTaken(packet);
  const receipt = told(asker.deliver('lost', 'x'));
  await peer.next();
  let moves = 0;
  const moving = setInterval(() => {
    moves += 1;
    peers[moves % 2].says({ is: 'claims', claims: [['x', moves, null]] });
  }, 200);
  t.teardown(() => clearInterval(moving));
  // Whoever has the id now knows of nothing.
  const answers = {
    awaits: ({ ref }) => ({ action: 'lost', ref }),
    settle: ({ ref }) => ({ action: 'settled', ref, dest: 'x' }),
  };
  const wait = async () => {
    for (;;) {
      const { frames } = await peer.next();
      for (const frame of frames) await peer.tells(packet, answers[frame.action](frame));
    }
  };
  wait().catch(() => {});
  t.is((await lost).code, 'GONE');
  t.deepEqual(await receipt, { delivered: [], failed: { x: 'TIMEOUT' } });
  const took = Date.now() - begun;
  t.true(took < 4000, `${took} ms, ${moves} moves`);
});

test('an id is unknown to all who asked it only if nobody has heard any of it', async (t) => {
  const { asker, peers } = await scene(t);
  const [peer] = peers;
  for (const [id, unheard, code] of [
    ['all', [0, 1], 'UNKNOWN_ID'],
    ['first', [0], 'GONE'],
    ['second', [1], 'GONE'],
  ]) {
    await peer.takes(id);
    const asked = [];
    const packets = [];
    for (let n = 0; n < 2; n += 1) {
      asked.push(failure(asker.request(n, id, LONG)));
      packets.push(await peer.next());
    }
    for (const n of unheard) await peer.tellsUnheard(packets[n]);
    const codes = (await Promise.all(asked)).map((one) => one.code);
    t.deepEqual(codes, [code, code], id);
  }
});

test('many that ask an id that nobody has hear that it is unknown', async (t) => {
  const { asker } = await scene(t);
  const asked = [];
  for (let n = 0; n < 50; n += 1) {
    asked.push(failure(asker.request(n, 'nobody')));
    await new Promise(setImmediate);
  }
  const codes = (await Promise.all(asked)).map(({ code }) => code);
  t.deepEqual([...new Set(codes)], ['UNKNOWN_ID']);
});

test('who gives up an id is told that nobody awaits what it was asked by that from elsewhere', async (t) => {
  const { nats, broker, asker } = await scene(t);
  const elsewhere = await startBroker(t, nats, { nats: { name: 'elsewhere' } });
  const socket = new WebSocket(urlOf(elsewhere));
  t.teardown(() => socket.terminate());
  const heard = [];
  let wake;
  socket.on('message', (data) => {
    heard.push(JSON.parse(data));
    wake?.();
  });
  const hears = async (action) => {
    while (!heard.some((one) => one.action === action)) {
      await new Promise((resolve) => {
        wake = resolve;
      });
    }
    return heard.find((one) => one.action === action);
  };
  await once(socket, 'open');
  socket.send(JSON.stringify({ action: 'register', id: 'worker', protocol: 2 }));
  await hears('registered');
  const lost = failure(asker.request('work', 'worker', LONG));
  const { ack } = await hears('message');
  socket.send(JSON.stringify({ action: 'unregister' }));
  t.is((await lost).code, 'GONE');
  t.deepEqual(await hears('cancel'), { action: 'cancel', ack });
  await Promise.all([settled(broker), settled(elsewhere)]);
});

test('a way on which all was lost opens again', async (t) => {
  const { asker, peers } = await scene(t);
  const [peer] = peers;
  await peer.takes('x');
  // Two of them are as much as may be under way, and nobody says that they were taken.
  const large = 'x'.repeat(300_000);
  for (let n = 0; n < 3; n += 1) asker.send({ n, large }, 'x');
  await peer.tellsTaken(await peer.next());
  await peer.next();
  await peer.next();
  // Nor is anybody else held up by that.
  t.is((await failure(asker.request(1, 'nobody'))).code, 'UNKNOWN_ID');
});

test('what was under way to an id that has come here is not delivered behind what was sent here', async (t) => {
  const { broker, asker, peers } = await scene(t);
  const [peer] = peers;
  await peer.takes('elsewhere');
  asker.send(1, 'elsewhere');
  const [, , , own] = (await peer.next()).reply.split('.');
  const receiver = await join(t, 'addon', broker, 'x');
  const heard = once(receiver, 'message');
  await peer.sends('x', 'under way', own);
  await peer.sends('x', 'from elsewhere');
  t.is((await heard)[0], 'from elsewhere');
});

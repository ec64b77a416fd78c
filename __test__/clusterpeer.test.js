'use strict';

// A broker and its peers, which stop or continue between two steps. The tests play the peers.

const test = require('ava');
const { WebSocket } = require('ws');
const { answering, failure, join, settled, receiptCodes, urlOf } = require('./support/clients');
const { once, startBroker } = require('./support/cluster');
const { startNats } = require('../testkit/nats');
const { startPeers } = require('./support/peer');

const LONG = { timeout: 60_000 };

/** A broker, an asker connected to it, and `count` played peers. */
async function scene(t, count = 1) {
  const nats = await startNats(t);
  const broker = await startBroker(t, nats, { nats: { name: 'here' } });
  const asker = await join(t, 'addon', broker, 'asker');
  const peers = await startPeers(t, nats, count);
  return { nats, broker, asker, peers };
}

/** Resolves when a broker knows this many brokers, including itself. */
async function knows(broker, count) {
  while (broker.stats().cluster.brokers !== count) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** The ack of this action in a packet. */
function ackOf({ frames }, action) {
  return frames.find((frame) => frame.action === action)?.ack;
}

for (const [confirmed, where] of [
  ['taken', 'nowhere'],
  ['taken', 'here'],
  ['taken', 'elsewhere'],
  ['nothing', 'elsewhere'],
]) {
  test(`a pending request fails when its peer unsubscribes (confirmed: ${confirmed}, new owner: ${where})`, async (t) => {
    const { nats, broker, asker, peers } = await scene(t);
    const [peer] = peers;
    const elsewhere = await startBroker(t, nats, { nats: { name: 'elsewhere' } });
    const end = await peer.subscribe('x');
    const lost = failure(asker.request('lost', 'x', LONG));
    const packet = await peer.next();
    if (confirmed === 'taken') await peer.confirm(packet);
    await end();
    const server = { here: broker, elsewhere }[where];
    if (server) {
      await answering(t, 'addon', server, 'x', (response) => response.send('found'));
      t.is((await asker.request('asked', 'x')).message, 'found');
    }
    t.is((await lost).code, 'GONE');
  });
}

test('of two peers that subscribe, the newer owns the id, whatever the older confirms later', async (t) => {
  const { broker, asker, peers } = await scene(t, 2);
  const [former, now] = peers;
  await former.subscribe('x');
  const answered = asker.request('asked', 'x', LONG);
  const packet = await former.next();
  await former.sendHeartbeat();
  await knows(broker, 2);
  await former.confirm(packet);
  const other = asker.request('other', 'x', LONG);
  const later = await former.next();
  await now.confirm(later);
  await former.returnCredit(packet);
  // Packets of one peer are read in order: when this request is answered, all earlier packets were read.
  const ack = ackOf(later, 'asks');
  await now.sendFrame(packet, { action: 'answer', dest: 'x', ack, from: 'x', message: 2 });
  t.is((await other).message, 2);
  await former.leave();
  await knows(broker, 2);
  const first = ackOf(packet, 'asks');
  await now.sendFrame(packet, { action: 'answer', dest: 'x', ack: first, from: 'x', message: 1 });
  t.is((await answered).message, 1);
});

test('requests to an id that moved are probed, and fail if the new owner does not know them', async (t) => {
  const { asker, peers } = await scene(t, 2);
  const [former, now] = peers;
  await former.subscribe('x');
  const kept = asker.request('kept', 'x', LONG);
  const packet = await former.next();
  const lost = failure(asker.request('lost', 'x', LONG));
  const acks = [packet, await former.next()].map((one) => ackOf(one, 'asks'));
  await former.confirm(packet);
  await now.claim('x', 1);
  const { frames } = await now.next();
  const [, { ref }] = frames;
  t.deepEqual(frames, [
    { action: 'awaits', ack: acks[0], ref: ref - 1 },
    { action: 'awaits', ack: acks[1], ref },
  ]);
  // Unused request numbers have no effect.
  for (const number of [ref, ref + 1, ref + 1000]) {
    await now.sendFrame(packet, { action: 'lost', ref: number });
  }
  t.is((await lost).code, 'GONE');
  await now.sendFrame(packet, { action: 'answer', dest: 'x', ack: acks[0], from: 'x', message: 1 });
  t.is((await kept).message, 1);
});

test('requests lost by former owners fail in time, even if the id keeps moving', async (t) => {
  const { asker, peers } = await scene(t, 2);
  const [peer] = peers;
  await peer.subscribe('x');
  const begun = Date.now();
  const lost = failure(asker.request('lost', 'x', LONG));
  const packet = await peer.next();
  await peer.confirm(packet);
  const receipt = receiptCodes(asker.deliver('lost', 'x'));
  await peer.next();
  let moves = 0;
  const moving = setInterval(() => {
    moves += 1;
    peers[moves % 2].claim('x', moves);
  }, 200);
  t.teardown(() => clearInterval(moving));
  // The current owner knows neither the request nor the message.
  const answers = {
    awaits: ({ ref }) => ({ action: 'lost', ref }),
    settle: ({ ref }) => ({ action: 'settled', ref, dest: 'x' }),
  };
  const wait = async () => {
    for (;;) {
      const { frames } = await peer.next();
      for (const frame of frames) await peer.sendFrame(packet, answers[frame.action](frame));
    }
  };
  wait().catch(() => {});
  t.is((await lost).code, 'GONE');
  t.deepEqual(await receipt, { delivered: [], failed: { x: 'TIMEOUT' } });
  const took = Date.now() - begun;
  t.true(took < 4000, `${took} ms, ${moves} moves`);
});

test('an id is unknown only if none of its requests had a responder', async (t) => {
  const { asker, peers } = await scene(t);
  const [peer] = peers;
  for (const [id, unheard, code] of [
    ['all', [0, 1], 'UNKNOWN_ID'],
    ['first', [0], 'GONE'],
    ['second', [1], 'GONE'],
  ]) {
    await peer.subscribe(id);
    const asked = [];
    const packets = [];
    for (let n = 0; n < 2; n += 1) {
      asked.push(failure(asker.request(n, id, LONG)));
      packets.push(await peer.next());
    }
    for (const n of unheard) await peer.reportNoResponders(packets[n]);
    const codes = (await Promise.all(asked)).map((one) => one.code);
    t.deepEqual(codes, [code, code], id);
  }
});

test('concurrent requests to an unknown id all fail with UNKNOWN_ID', async (t) => {
  const { asker } = await scene(t);
  const asked = [];
  for (let n = 0; n < 50; n += 1) {
    asked.push(failure(asker.request(n, 'nobody')));
    await new Promise(setImmediate);
  }
  const codes = (await Promise.all(asked)).map(({ code }) => code);
  t.deepEqual([...new Set(codes)], ['UNKNOWN_ID']);
});

test('a responder that unregisters gets a cancellation for each remote request', async (t) => {
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
  const nextFrame = async (action) => {
    while (!heard.some((one) => one.action === action)) {
      await new Promise((resolve) => {
        wake = resolve;
      });
    }
    return heard.find((one) => one.action === action);
  };
  await once(socket, 'open');
  socket.send(JSON.stringify({ action: 'register', id: 'worker', protocol: 2 }));
  await nextFrame('registered');
  const lost = failure(asker.request('work', 'worker', LONG));
  const { ack } = await nextFrame('message');
  socket.send(JSON.stringify({ action: 'unregister' }));
  t.is((await lost).code, 'GONE');
  t.deepEqual(await nextFrame('cancel'), { action: 'cancel', ack });
  await Promise.all([settled(broker), settled(elsewhere)]);
});

test('a link that lost its whole window opens again', async (t) => {
  const { asker, peers } = await scene(t);
  const [peer] = peers;
  await peer.subscribe('x');
  // Two of these messages fill the window, and no credit is returned.
  const large = 'x'.repeat(300_000);
  for (let n = 0; n < 3; n += 1) asker.send({ n, large }, 'x');
  await peer.confirm(await peer.next());
  await peer.next();
  await peer.next();
  // Other requests are not delayed.
  t.is((await failure(asker.request(1, 'nobody'))).code, 'UNKNOWN_ID');
});

test('late messages to an id that moved here are not delivered after newer local ones', async (t) => {
  const { broker, asker, peers } = await scene(t);
  const [peer] = peers;
  await peer.subscribe('elsewhere');
  asker.send(1, 'elsewhere');
  const [, , , own] = (await peer.next()).reply.split('.');
  const receiver = await join(t, 'addon', broker, 'x');
  const heard = once(receiver, 'message');
  await peer.sendMessage('x', 'under way', own);
  await peer.sendMessage('x', 'from elsewhere');
  t.is((await heard)[0], 'from elsewhere');
});

test('a broker of another format version is reported by its name, and not a part of the cluster', async (t) => {
  const { broker, peers } = await scene(t, 2);
  const [other, peer] = peers;
  const events = [];
  broker.on('cluster', (...event) => events.push(event));
  const reported = once(broker, 'cluster');
  for (let n = 0; n < 3; n += 1) await other.sendHeartbeat(2);
  const [state, reason] = await reported;
  await peer.sendHeartbeat();
  await knows(broker, 2);
  t.is(events.length, 1);
  t.is(state, 'failed');
  t.regex(reason, /"0000000000000007" have format version 2, expected version 1/);
  t.false(broker.cluster.brokers().includes(other.node));
});

'use strict';

// A draining broker of a cluster: its clients move to other brokers, and messages to them wait meanwhile.

const net = require('node:net');
const { once } = require('node:events');
const test = require('ava');
const { WebSocket } = require('ws');
const { join, kinds, open, receiptCodes, urlOf } = require('./support/clients');
const { startCluster } = require('./support/cluster');

/** Resolves after a moment. */
function tick() {
  return new Promise((resolve) => setTimeout(resolve, 1));
}

/** A registered version 2 connection that reads nothing from then on. */
async function deaf(t, broker, id) {
  const socket = new WebSocket(urlOf(broker));
  t.teardown(() => socket.terminate());
  await once(socket, 'open');
  socket.send(JSON.stringify({ action: 'register', id, protocol: 2 }));
  await once(socket, 'message');
  socket.pause();
  return socket;
}

/** A load balancer: connections wait in it while it has no target. */
async function startFront(t, broker) {
  const sockets = new Set();
  const waiting = [];
  let target = broker;
  const pass = (near) => {
    const far = net.connect(target.address().port, '127.0.0.1');
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ]) {
      sockets.add(socket);
      socket.pipe(other);
      socket.on('error', () => {});
      socket.on('close', () => other.destroy());
    }
  };
  const front = net.createServer((near) => (target ? pass(near) : waiting.push(near)));
  front.listen(0, '127.0.0.1');
  await once(front, 'listening');
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    front.close();
  });
  const set = (next) => {
    target = next;
    if (next) for (const near of waiting.splice(0)) pass(near);
  };
  return { url: `ws://127.0.0.1:${front.address().port}/`, set };
}

for (const kind of kinds) {
  for (const [asks, where] of [
    ['from another broker', 1],
    ['from the draining broker', 0],
    ['from its next broker', 2],
  ]) {
    test(`${kind}: a request waits while its responder moves to another broker (sent ${asks})`, async (t) => {
      const { brokers } = await startCluster(t, 3);
      const front = await startFront(t, brokers[0]);
      const x = open(t, kind, 'x', front.url, { reconnect: true });
      let asked;
      const isAsked = new Promise((resolve) => {
        asked = resolve;
      });
      const finish = new Promise((resolve) => {
        x.on('message', (message, response) => {
          if (message === 'slow') {
            asked();
            resolve(() => response.send('before'));
          } else {
            response?.send('after');
          }
        });
      });
      await x.connected();
      const asker = await join(t, 'addon', brokers[where], 'asker');
      const slow = asker.request('slow', 'x');
      await isAsked;
      front.set(undefined);
      const delays = [];
      x.on('reconnecting', (_attempt, delay) => delays.push(delay));
      const events = [];
      for (const name of ['unregistered', 'replaced', 'error']) {
        x.on(name, () => events.push(name));
      }
      const leaving = once(x, 'goaway');
      const closed = brokers[0].close({ drain: 5000 });
      await leaving;
      // The client leaves once it has answered its pending request.
      (await finish)();
      t.is((await slow).message, 'before');
      while (brokers[0].has('x')) await new Promise(setImmediate);
      const waits = asker.request('fast', 'x');
      const receipt = receiptCodes(asker.deliver('sent', 'x'));
      if (delays.length === 0) await once(x, 'reconnecting');
      front.set(brokers[2]);
      t.is((await waits).message, 'after');
      t.deepEqual(await receipt, { delivered: ['x'], failed: {} });
      t.deepEqual(delays, [0]);
      t.deepEqual(events, []);
      t.true(brokers[2].has('x'));
      await asker.close();
      await closed;
    });
  }
}

test('messages queued for a slow client on a draining broker are handed over in order, without delay for the sender', async (t) => {
  const { brokers } = await startCluster(t, 3, {
    maxBackpressure: 64 << 10,
    slowConsumerTimeout: 60_000,
  });
  const [former, here, there] = brokers;
  const slow = await deaf(t, former, 'x');
  const sender = await join(t, 'addon', here, 'sender');
  const { memory } = former.stats();
  const body = 'x'.repeat(50_000);
  const send = (from, to) => {
    for (let n = from; n < to; n += 1) sender.send([n, body], 'x');
  };
  // The window of a link is 512 KiB: a full window is queued there, and the rest on the sender's broker.
  send(0, 400);
  while (former.stats().memory - memory < 400_000) await tick();
  const closed = former.close({ drain: 5000 });
  slow.terminate();
  while (former.has('x')) await tick();
  const x = await join(t, 'addon', there, 'x');
  const numbers = [];
  x.on('message', ([n]) => numbers.push(n));
  await closed;
  // Again more than the window.
  send(400, 800);
  while (numbers.at(-1) !== 799) await tick();
  t.deepEqual(
    numbers,
    [...new Set(numbers)].sort((a, b) => a - b),
  );
  // All messages sent after the new registration have arrived.
  t.deepEqual(
    numbers.slice(-400),
    Array.from({ length: 400 }, (_, n) => 400 + n),
  );
});

test('messages to a client that does not return from a drain fail', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const x = await join(t, 'addon', brokers[0], 'x');
  const asker = await join(t, 'addon', brokers[1], 'asker');
  const leaving = once(x, 'goaway');
  const closed = brokers[0].close({ drain: 5000 });
  await leaving;
  await x.close();
  const { code } = await asker.request(1, 'x').then(t.fail, (error) => error);
  t.true(['UNKNOWN_ID', 'GONE'].includes(code), code);
  await closed;
});

'use strict';

// Many brokers as one: what works at one works across them.

const { once } = require('node:events');
const test = require('ava');
const { WebSocket } = require('ws');
const { answering, aborted, failure, join, settled, told, urlOf } = require('./support/clients');
const { startBroker, startCluster } = require('./support/cluster');
const { startNats } = require('../testkit/nats');
const { WSMsgBroker } = require('./support/start');

/** The next message of a client, and who sent it. */
async function heard(client) {
  const [message, , from] = await once(client, 'message');
  return [message, from];
}

/** A registered connection that says what it likes. */
async function raw(t, broker, id) {
  const socket = new WebSocket(urlOf(broker));
  t.teardown(() => socket.terminate());
  await once(socket, 'open');
  const registered = once(socket, 'message');
  socket.send(JSON.stringify({ action: 'register', id, protocol: 2 }));
  await registered;
  return socket;
}

test('a message reaches an id at another broker, with its sender', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const a = await join(t, 'addon', brokers[0], 'a');
  const b = await join(t, 'addon', brokers[1], 'b');
  const got = heard(b);
  a.send({ n: 1 }, 'b');
  t.deepEqual(await got, [{ n: 1 }, 'a']);
  const back = heard(a);
  b.send('x', 'a');
  t.deepEqual(await back, ['x', 'b']);
  // Each has passed on what came from its client, and what was for it, from elsewhere.
  for (const { messagesOut, cluster } of brokers.map((broker) => broker.stats())) {
    t.deepEqual([messagesOut, cluster.received], [2, 1]);
  }
});

// Rule 33.2.
test('many messages come in order, and none is lost or doubled', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const a = await join(t, 'addon', brokers[0], 'a');
  const b = await join(t, 'addon', brokers[1], 'b');
  const count = 50_000;
  const got = [];
  const all = new Promise((resolve) => {
    b.on('message', (n) => got.push(n) === count && resolve());
  });
  for (let n = 0; n < count; n += 1) a.send(n, 'b');
  await all;
  t.true(got.every((value, n) => value === n));
});

test('large messages fill the way, and go on', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const a = await join(t, 'addon', brokers[0], 'a');
  const b = await join(t, 'addon', brokers[1], 'b');
  const body = 'x'.repeat(500_000);
  const lengths = [];
  const all = new Promise((resolve) => {
    b.on('message', ([n, text]) => {
      lengths.push(n);
      t.is(text.length, body.length);
      if (lengths.length === 40) resolve();
    });
  });
  for (let n = 0; n < 40; n += 1) a.send([n, body], 'b');
  await all;
  t.deepEqual(lengths, [...Array(40).keys()]);
});

test('a multicast reaches all its receivers, wherever they are, each once', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const sender = await join(t, 'addon', brokers[0], 's');
  const ids = ['a', 'b', 'c', 'd', 'e', 'f'];
  const joined = await Promise.all(ids.map((id, n) => join(t, 'addon', brokers[n % 3], id)));
  const all = Promise.all(joined.map(heard));
  sender.send('all', ids);
  t.deepEqual(await all, Array(6).fill(['all', 's']));
  const receipt = await told(sender.deliver(1, [...ids, 'nobody']));
  t.deepEqual([...receipt.delivered].sort(), ids);
  t.deepEqual(receipt.failed, { nobody: 'UNKNOWN_ID' });
});

test('requests are answered, refused and gathered across brokers', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  await answering(t, 'addon', brokers[1], 'one', (response, n, from) => response.send([n, from]));
  await answering(t, 'browser', brokers[2], 'two', (response) =>
    response.reject({ code: 'NO', message: 'not me' }),
  );
  await answering(t, 'addon', brokers[0], 'three', (response) => response.send(3));
  // Two at the same broker: both may answer.
  await answering(t, 'addon', brokers[1], 'four', (response) => response.send(4));
  const asked = [...Array(200).keys()].map((n) => asker.request(n, 'one'));
  const expected = (n) => ({ from: 'one', message: [n, 'asker'] });
  t.deepEqual(await Promise.all(asked), [...Array(200).keys()].map(expected));
  const refused = await failure(asker.request(1, 'two'));
  t.is(refused.code, 'NO');
  t.is(refused.from, 'two');
  const { answers, failed } = await asker.requestAll(7, ['one', 'two', 'three', 'four', 'nobody']);
  t.deepEqual([...answers].sort(), [
    ['four', 4],
    ['one', [7, 'asker']],
    ['three', 3],
  ]);
  t.deepEqual([...failed].map(([id, { code }]) => [id, code]).sort(), [
    ['nobody', 'UNKNOWN_ID'],
    ['two', 'NO'],
  ]);
  await Promise.all(brokers.map(settled));
  t.pass();
});

test('the fastest wins, and the others hear that it is over', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  const slow = await join(t, 'addon', brokers[1], 'slow');
  const asked = once(slow, 'message');
  await answering(t, 'addon', brokers[2], 'fast', (response) => asked.then(() => response.send(1)));
  t.deepEqual(await asker.request('x', ['slow', 'fast']), { from: 'fast', message: 1 });
  const [, { signal }] = await asked;
  t.is(await aborted(signal), 'ERR_WSMB_CANCELLED');
  await Promise.all(brokers.map(settled));
});

test('who has answered hears of no end, and the others at his broker go on', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  await answering(t, 'addon', brokers[1], 'one', (response) => response.send(1));
  const two = await join(t, 'addon', brokers[1], 'two');
  const asked = once(two, 'message');
  const all = asker.requestAll('x', ['one', 'two']);
  const [, response] = await asked;
  t.deepEqual(await asker.request('y', 'one'), { from: 'one', message: 1 });
  t.false(response.signal.aborted);
  response.send(2);
  t.deepEqual([...(await all).answers].sort(), [
    ['one', 1],
    ['two', 2],
  ]);
});

// At first two share what NATS allows but for a little; then each is as large as that, and larger.
test('what is nearly too large is asked and settled all the same', async (t) => {
  const nats = await startNats(t, { maxPayload: 2000 });
  const options = (name) => ({ nats: { name } });
  const brokers = await Promise.all(
    ['b0', 'b1'].map((name) => startBroker(t, nats, options(name))),
  );
  const a = await join(t, 'addon', brokers[0], 'a');
  await answering(t, 'addon', brokers[1], 'b', (response, message) =>
    response?.send(message.length),
  );
  let [served, refused] = [0, 0];
  for (let length = 700; length < 2000; length += length < 1000 ? 1 : 7) {
    const text = 'x'.repeat(length);
    const [receipt, answer] = await Promise.all([
      told(a.deliver(text, 'b')).catch(({ code }) => ({ failed: { b: code } })),
      a.request(text, 'b').catch(({ code }) => ({ message: code })),
    ]);
    if (answer.message === length) served += 1;
    else t.is(answer.message, 'ERR_WSMB_CLUSTER_PAYLOAD');
    if (receipt.failed.b === undefined) t.deepEqual(receipt.delivered, ['b']);
    else {
      refused += 1;
      t.is(receipt.failed.b, 'ERR_WSMB_CLUSTER_PAYLOAD');
    }
  }
  t.true(served > 300 && refused > 10, `${served} served, ${refused} refused`);
});

test('a request fails when nobody is there, or whoever was asked leaves', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  t.is((await failure(asker.request(1, 'nobody'))).code, 'UNKNOWN_ID');
  const [warning] = await Promise.all([once(brokers[0], 'warn'), asker.send(1, 'nobody')]);
  t.is(warning[0].code, 'ERR_WSMB_UNKNOWN_ID');
  await answering(t, 'addon', brokers[1], 'leaver', (_response, _message, from) => {
    t.is(from, 'asker');
    brokers[1].disconnect('leaver');
  });
  t.is((await failure(asker.request(1, 'leaver'))).code, 'GONE');
  t.deepEqual(await told(asker.deliver(1, 'leaver')), {
    delivered: [],
    failed: { leaver: 'UNKNOWN_ID' },
  });
});

test('what is aborted is cancelled at the other broker, and what is late is given up', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  const signals = [];
  let both;
  const two = new Promise((resolve) => {
    both = resolve;
  });
  await answering(t, 'addon', brokers[1], 'idle', (response) => {
    signals.push(aborted(response.signal));
    if (signals.length === 2) both();
  });
  const controller = new AbortController();
  const first = failure(asker.request(1, 'idle', { signal: controller.signal }));
  const second = failure(asker.request(2, 'idle', { timeout: 500 }));
  await two;
  controller.abort();
  t.is((await first).error.name, 'AbortError');
  t.is((await second).code, 'TIMEOUT');
  t.deepEqual(await Promise.all(signals), ['ERR_WSMB_CANCELLED', 'ERR_WSMB_CANCELLED']);
  await Promise.all(brokers.map(settled));
});

// Rule 33.1.
// Rule 33.5.
test('what is larger than NATS allows is refused with a code, and the connection goes on', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const a = await join(t, 'addon', brokers[0], 'a');
  const big = 'x'.repeat(1_100_000);
  const b = await answering(t, 'addon', brokers[1], 'b', (response, message) =>
    response.send(message === 'big' ? big : message),
  );
  const refused = once(b, 'error');
  t.is((await failure(a.request(big, 'b'))).code, 'ERR_WSMB_CLUSTER_PAYLOAD');
  t.is((await failure(a.deliver(big, 'b'))).code, 'ERR_WSMB_CLUSTER_PAYLOAD');
  t.is((await failure(a.request('big', 'b'))).code, 'ERR_WSMB_CLUSTER_PAYLOAD');
  t.is((await refused)[0].code, 'ERR_WSMB_CLUSTER_PAYLOAD');
  t.deepEqual(await a.request('small', 'b'), { from: 'b', message: 'small' });
  t.deepEqual(await told(a.deliver(big, 'a')), { delivered: ['a'], failed: {} });
});

// Rule 33.6.
test('an ack that is pending at the broker of the receiver is taken', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const [one, other, receiver] = await Promise.all(
    ['one', 'other', 'x'].map((id, n) => raw(t, brokers[n], id)),
  );
  const asked = once(receiver, 'message');
  one.send(JSON.stringify({ action: 'send', message: 1, dest: 'x', ack: 'k' }));
  await asked;
  const told = [];
  const all = new Promise((resolve) => {
    other.on('message', (data) => told.push(JSON.parse(data)) === 2 && resolve());
  });
  other.send(JSON.stringify({ action: 'send', message: 2, dest: 'x', ack: 'k', ref: 1 }));
  await all;
  t.deepEqual(told, [
    { action: 'receipt', ref: 1, delivered: [], failed: { x: 'UNKNOWN_ID' } },
    { action: 'failed', ack: 'k', dest: 'x', code: 'ERR_WSMB_ACK_TAKEN' },
  ]);
});

test('clients of version 1 talk across brokers as they do at one', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const open = async (broker, id) => {
    const client = new WSMsgBroker(id, '127.0.0.1', broker.address().port, '/');
    t.teardown(() => client.close());
    await once(client, 'registered');
    return client;
  };
  const a = await open(brokers[0], 'a');
  const b = await open(brokers[1], 'b');
  b.on('message', (message, response) => response.send([message, 'back']));
  const answer = await new Promise((resolve) => {
    a.send('there', 'b', (...args) => resolve(args));
  });
  t.deepEqual(answer.slice(0, 2).flat().includes('back'), true);
});

test('a slow receiver holds who sends to it from another broker, and loses nothing', async (t) => {
  const { brokers } = await startCluster(t, 2, { maxBackpressure: 1 << 20 });
  const a = await join(t, 'addon', brokers[0], 'a', { highWaterMark: 1 << 20 });
  const b = await join(t, 'addon', brokers[1], 'b');
  const other = await join(t, 'addon', brokers[1], 'other');
  const body = 'x'.repeat(100_000);
  const messages = b.messages();
  const count = 300;
  for (let n = 0; n < count; n += 1) a.send([n, body], 'b');
  // While nobody reads, bystanders are served.
  const c = await join(t, 'addon', brokers[0], 'c');
  const got = heard(other);
  c.send('hello', 'other');
  t.deepEqual(await got, ['hello', 'c']);
  let expected = 0;
  for await (const { message } of messages) {
    t.is(message[0], expected);
    expected += 1;
    if (expected === count) break;
  }
  t.is(expected, count);
});

// Rules 25.9 and 33.3.
